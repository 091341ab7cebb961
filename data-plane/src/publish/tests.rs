use std::{sync::Weak, time::Duration};

use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::{crew::Crew, fields::Fields, route::RequestView, snapshot::Rule, worker::Shared};

/// For what should happen at once.
const DEADLINE: Duration = Duration::from_secs(20);

const BYSTANDERS: u64 = 100;

fn route(name: &str, path: &str, url: &str) -> wire::Change {
    let target = wire::backend_ref::Target::Url(url.to_owned());
    let path = wire::PathMatch { kind: Some(wire::path_match::Kind::Prefix(path.to_owned())) };
    let rule = wire::Rule {
        matches: vec![wire::Match { path: Some(path), ..wire::Match::default() }],
        backends: vec![wire::BackendRef { target: Some(target), ..wire::BackendRef::default() }],
        // The stream is silent meanwhile.
        timeouts: Some(wire::Timeouts { total_ms: Some(600_000), ..wire::Timeouts::default() }),
        ..wire::Rule::default()
    };
    let route = wire::Route { name: name.to_owned(), rules: vec![rule], ..wire::Route::default() };
    let resource = wire::Resource { kind: Some(wire::resource::Kind::Route(route)) };
    wire::Change {
        kind: wire::Kind::Route.into(),
        name: name.to_owned(),
        resource: Some(resource.encode_to_vec().into()),
    }
}

fn bystander(index: u64, port: u64) -> wire::Change {
    route(&format!("bystander-{index}"), &format!("/bystander/{index}"), &format!("http://127.0.0.1:{port}"))
}

/// A publisher with one worker that accepts clients.
fn publisher() -> (Publisher, Arc<Threads>) {
    let cell = Arc::new(SnapshotCell::default());
    let shared = Arc::new(Shared::for_test(Arc::clone(&cell)));
    let threads = Arc::new(Threads::start(&Arc::new(Crew::new(1)), &shared, None).expect("a thread"));
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    (Publisher::new(cell, listen, Arc::clone(&threads), Resolver::for_test()), threads)
}

fn rule(publisher: &Publisher, path: &str) -> Weak<Rule> {
    let fields = Fields::new();
    let request = RequestView { listener: "", method: "GET", host: "a", path, query: None, fields: &fields };
    Arc::downgrade(publisher.cell().load().router.find(&request).expect("a match").rule)
}

async fn publish(publisher: &Publisher, revision: u64, changes: &[wire::Change]) {
    let snapshot = publisher.cell().load().compile(revision, changes).expect("valid");
    publisher.publish(snapshot).await.expect("nothing to bind");
}

/// Reads until these bytes have come.
async fn read_until(stream: &mut TcpStream, end: &str) {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(end.as_bytes()) {
            assert!(stream.read_buf(&mut bytes).await.expect("reads") > 0, "closed");
        }
    };
    timeout(DEADLINE, reading).await.unwrap_or_else(|_| panic!("{end:?} does not come"));
}

async fn until_gone<T>(what: &str, weak: &Weak<T>) {
    let gone = async {
        while weak.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, gone).await.unwrap_or_else(|_| panic!("{what} is still there"));
}

#[tokio::test]
async fn a_stream_over_ten_thousand_pushes_pins_its_own_rule_and_nothing_else() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", upstream.local_addr().expect("an address"));
    let (publisher, threads) = publisher();
    let first: Vec<_> = (0..BYSTANDERS).map(|index| bystander(index, 1)).chain([route("s", "/s", &url)]).collect();
    publish(&publisher, 1, &first).await;
    let (own, other) = (rule(&publisher, "/s"), rule(&publisher, "/bystander/0"));

    let mut client = TcpStream::connect(publisher.listeners()[0].1).await.expect("connects");
    client.write_all(b"GET /s HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("writes");
    let (mut serving, _) = timeout(DEADLINE, upstream.accept()).await.expect("comes").expect("accepts");
    read_until(&mut serving, "\r\n\r\n").await;
    serving.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").await.expect("writes");
    read_until(&mut client, "first").await;

    let mut old = Vec::new();
    for revision in 2..=10_001 {
        old.push(Arc::downgrade(&publisher.cell().load()));
        publish(&publisher, revision, &[bystander(revision % BYSTANDERS, revision % 60_000 + 1)]).await;
    }
    // The stream's own route changes too: what it runs by is not what is served any more.
    publish(&publisher, 10_002, &[route("s", "/s", "http://127.0.0.1:1")]).await;
    for (index, snapshot) in old.iter().enumerate() {
        until_gone(&format!("snapshot {}", index + 1), snapshot).await;
    }
    until_gone("a rule that the stream does not use", &other).await;
    assert_eq!(own.strong_count(), 1, "the stream alone holds its rule");

    serving.write_all(b" last").await.expect("writes");
    read_until(&mut client, " last").await;
    until_gone("the rule of a stream that is over", &own).await;
    tokio::task::spawn_blocking(move || threads.stop()).await.expect("no panic");
}

fn listener(port: u16, tls: bool) -> wire::Change {
    let tls = tls.then(|| wire::ListenerTls { certificates: vec!["web".to_owned()], ..wire::ListenerTls::default() });
    let listener =
        wire::Listener { name: "l".to_owned(), address: format!("127.0.0.1:{port}"), tls, plugins: Vec::new() };
    let resource = wire::Resource { kind: Some(wire::resource::Kind::Listener(listener)) };
    let resource = Some(resource.encode_to_vec().into());
    wire::Change { kind: wire::Kind::Listener.into(), name: "l".to_owned(), resource }
}

/// A new certificate at every call.
fn certificate() -> wire::Change {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
    let chain = params.self_signed(&key).expect("signs").pem();
    let form = Some(wire::secret::Form::Clear(key.serialize_pem().into_bytes()));
    let key = Some(wire::Secret { form, salt: Vec::new() });
    let certificate = wire::Certificate { name: "web".to_owned(), chain, key };
    let resource = wire::Resource { kind: Some(wire::resource::Kind::Certificate(certificate)) };
    let resource = Some(resource.encode_to_vec().into());
    wire::Change { kind: wire::Kind::Certificate.into(), name: "web".to_owned(), resource }
}

/// Whether a request in the clear is answered in the clear.
async fn speaks_in_the_clear(port: u16) -> bool {
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("writes");
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, client.read_to_end(&mut answer)).await.expect("ends");
    answer.starts_with(b"HTTP/1.1 ")
}

#[tokio::test]
async fn a_listener_gets_other_tls_without_being_bound_anew() {
    let (publisher, threads) = publisher();
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        free.local_addr().expect("an address").port()
    };
    let bound = async || {
        let bound = publisher.bound.lock().await;
        let only = bound.values().next().expect("one");
        (only.key, only.terms.tls.as_ref().map(|tls| tls.id))
    };
    publish(&publisher, 1, &[listener(port, false)]).await;
    assert!(speaks_in_the_clear(port).await);
    let (key, none) = bound().await;
    assert_eq!(none, None);
    publish(&publisher, 2, &[listener(port, true), certificate()]).await;
    let (with_tls, first) = bound().await;
    assert!(!speaks_in_the_clear(port).await, "nothing is said in the clear where TLS is due");
    publish(&publisher, 3, &[certificate()]).await;
    let (rotated, second) = bound().await;
    assert!(first.is_some() && second.is_some() && first != second);
    publish(&publisher, 4, &[listener(port, false)]).await;
    assert!(speaks_in_the_clear(port).await);
    assert_eq!([with_tls, rotated, bound().await.0], [key; 3], "it is the same socket all the time");
    tokio::task::spawn_blocking(move || threads.stop()).await.expect("no panic");
}
