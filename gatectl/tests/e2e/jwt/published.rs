//! Keys that somebody publishes, and all that can be wrong with whoever does.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::{issuer::Issuer, reason};
use crate::harness::{Authority, Client, Gateway, Witness, answer, within};

/// What a publisher does with whoever asks.
#[derive(Clone)]
enum Say {
    Bytes(Vec<u8>),
    /// Nothing, until the other side has enough.
    Nothing,
    Reset,
}

/// A server of keys.
struct Publisher {
    addr: SocketAddr,
    say: Arc<Mutex<Say>>,
    counts: Arc<Counts>,
    accept: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Publisher {
    async fn start(say: Say, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let (say, counts) = (Arc::new(Mutex::new(say)), Arc::<Counts>::default());
        let (said, counting) = (Arc::clone(&say), Arc::clone(&counts));
        let accept = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (say, tls) = (said.lock().expect("no panic").clone(), tls.clone());
                let counts = Arc::clone(&counting);
                counts.all.fetch_add(1, SeqCst);
                counts.most.fetch_max(counts.open.fetch_add(1, SeqCst) + 1, SeqCst);
                connections.spawn(async move {
                    match tls {
                        _ if matches!(say, Say::Reset) => tcp.set_zero_linger().expect("a socket option"),
                        None => serve(tcp, say).await,
                        Some(tls) => {
                            if let Ok(tls) = TlsAcceptor::from(tls).accept(tcp).await {
                                serve(tls, say).await;
                            }
                        }
                    }
                    counts.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { addr, say, counts, accept }
    }

    /// Publishes the issuer's key under these ids.
    async fn of(issuer: &Issuer, kids: &[&str]) -> Self {
        Self::start(Say::Bytes(set(issuer, kids)), None).await
    }

    fn say(&self, say: Say) {
        *self.say.lock().expect("no panic") = say;
    }

    fn url(&self) -> String {
        format!("http://{}/keys.json", self.addr)
    }
}

/// Reads one request, and does what is said.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, say: Say) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    if let Say::Bytes(bytes) = say {
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
    }
    // Returns when the other side has closed.
    while stream.read(&mut [0; 1024]).await.unwrap_or(0) > 0 {}
}

fn set(issuer: &Issuer, kids: &[&str]) -> Vec<u8> {
    let keys: Vec<Value> = kids.iter().map(|kid| issuer.jwk(kid)).collect();
    answer(json!({ "keys": keys }).to_string())
}

/// For each configuration a route under its name, with a plugin of its own.
fn manifest(configs: &[(&str, String)], url: &str) -> String {
    let plugin = |(name, config): &(&str, String)| format!("  - {{name: {name}, type: jwt, config: {config}}}\n");
    let route = |(name, _): &(&str, String)| {
        format!("  - {{name: {name}, path: /{name}, plugins: [{name}], backend: \"{url}\"}}\n")
    };
    let all = |line: &dyn Fn(&(&str, String)) -> String| configs.iter().map(line).collect::<String>();
    format!("plugins:\n{}routes:\n{}", all(&plugin), all(&route))
}

/// Status, and the reason of a refusal.
async fn ask_at(client: &mut Client, path: &str, token: &str) -> (u16, String) {
    let response = client.get_with(path, &[("authorization", &format!("Bearer {token}"))]).await;
    if response.status == 503 {
        assert_eq!(response.header("retry-after"), Some("10"));
        assert_eq!(response.header("www-authenticate"), None);
    }
    (response.status, reason(&response))
}

fn unavailable() -> (u16, String) {
    (503, "jwks_unavailable".to_owned())
}

fn invalid() -> (u16, String) {
    (401, "token_invalid".to_owned())
}

/// The value of a metric.
async fn metric(gateway: &Gateway, line: &str) -> Option<f64> {
    let metrics = gateway.metrics(0).await;
    metrics.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

#[tokio::test]
async fn two_plugins_share_one_fetch_no_push_resets_it_and_a_key_that_goes_takes_its_tokens_along() {
    let upstream = Witness::echo().await;
    let issuer = Issuer::new();
    let publisher = Publisher::of(&issuer, &["old"]).await;
    let url = publisher.url();
    let config = |more: &str| format!("{{jwks_url: \"{url}\", {more}jwks_refresh: 10s}}");
    let plugins = |more: &str| manifest(&[("one", config("")), ("two", config(more))], &upstream.url());
    let mut gateway = Gateway::builder().manifest(&plugins("audience: users, ")).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let (old, new) = (issuer.token("ES256", "old"), issuer.token("ES256", "new"));
    let begun = Instant::now();
    // The very first request waits for the keys, if they are not there yet.
    assert_eq!(ask_at(&mut client, "/one", &old).await.0, 200);
    assert_eq!(ask_at(&mut client, "/two", &old).await, invalid(), "another audience");
    assert_eq!(publisher.counts.all.load(SeqCst), 1);
    // Whoever publishes is gone; pushes of something else, and of another part of a plugin.
    publisher.say(Say::Reset);
    gateway.apply(&format!("routes: [{{name: other, path: /other, backend: \"{}\"}}]\n", upstream.url())).await;
    gateway.apply(&plugins("realm: shop, ")).await;
    for path in ["/one", "/two", "/one", "/two"] {
        assert_eq!(ask_at(&mut client, path, &old).await.0, 200);
    }
    if begun.elapsed() < Duration::from_secs(8) {
        assert_eq!(publisher.counts.all.load(SeqCst), 1);
        assert_eq!(ask_at(&mut client, "/one", &new).await, invalid(), "a fetch was made a moment ago");
    }
    publisher.say(Say::Bytes(set(&issuer, &["new"])));
    let comes = async {
        while ask_at(&mut client, "/one", &new).await.0 != 200 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    within("the new key", comes).await;
    for path in ["/one", "/two"] {
        assert_eq!(ask_at(&mut client, path, &old).await, invalid(), "its key is gone, though it was remembered");
        assert_eq!(ask_at(&mut client, path, &new).await.0, 200);
    }
    assert_eq!(publisher.counts.most.load(SeqCst), 1);
    assert_eq!(metric(&gateway, &format!("rustygate_jwks_keys{{url=\"{url}\"}}")).await, Some(1.0));
    let age = metric(&gateway, &format!("rustygate_jwks_age_seconds{{url=\"{url}\"}}")).await.expect("an age");
    assert!(age < 20.0, "{age}");
    gateway.shutdown().await;
}

/// Envoy CVE-2025-64527 and CVE-2024-45809.
#[tokio::test]
async fn whoever_publishes_no_keys_is_asked_once_at_a_time_whatever_comes_and_removed_in_the_middle() {
    let upstream = Witness::echo().await;
    let issuer = Issuer::new();
    let many = vec![issuer.jwk("a"); 1000];
    let kinds = [
        ("hangs", Say::Nothing),
        ("resets", Say::Reset),
        ("large", Say::Bytes(answer(" ".repeat(10 << 20)))),
        ("garbage", Say::Bytes(answer("{\"keys\":"))),
        ("many", Say::Bytes(answer(json!({ "keys": many }).to_string()))),
        ("half", Say::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec())),
        (
            "elsewhere",
            Say::Bytes(b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ),
    ];
    let mut publishers = Vec::new();
    for (name, say) in kinds {
        publishers.push((name, Publisher::start(say, None).await));
    }
    let configs = publishers.iter().map(|(name, publisher)| (*name, format!("{{jwks_url: \"{}\"}}", publisher.url())));
    let configs: Vec<_> = configs.collect();
    let rest = format!("routes: [{{name: rest, path: /rest, backend: \"{}\"}}]\n", upstream.url());
    let mut gateway = Gateway::builder().manifest(&manifest(&configs, &upstream.url())).start().await;
    let addr = gateway.proxy_addr();
    let mut requests = JoinSet::new();
    for name in publishers.iter().map(|(name, _)| *name) {
        for kid in ["a", "b"] {
            for _ in 0..15 {
                let token = issuer.token("ES256", kid);
                requests.spawn(async move {
                    let (mut client, path) = (Client::connect(addr).await, format!("/{name}"));
                    for _ in 0..3 {
                        assert_eq!(ask_at(&mut client, &path, &token).await, unavailable(), "{name}");
                        // What is no token of a published key needs none.
                        assert_eq!(ask_at(&mut client, &path, "e30.e30.").await, invalid());
                    }
                });
            }
        }
    }
    within("answers", requests.join_all()).await;
    for (name, publisher) in &publishers {
        let url = publisher.url();
        let [good, failed] =
            ["good", "failed"].map(|it| format!("rustygate_jwks_fetches_total{{url=\"{url}\",outcome=\"{it}\"}}"));
        assert_eq!(metric(&gateway, &good).await, Some(0.0), "{name}");
        assert_eq!(metric(&gateway, &format!("rustygate_jwks_age_seconds{{url=\"{url}\"}}")).await, None, "{name}");
        if *name != "hangs" {
            assert!(metric(&gateway, &failed).await.is_some_and(|failed| failed >= 1.0), "{name}");
        }
        // One connection, and one whose end the server has not seen yet.
        let (all, most) = (publisher.counts.all.load(SeqCst), publisher.counts.most.load(SeqCst));
        assert!((1..12).contains(&all) && most <= 2, "{name}: {all}, {most}");
    }
    // The plugins go while the one hangs, and while requests wait for it.
    let hanging = &publishers[0].1;
    within("a fetch", async {
        while hanging.counts.open.load(SeqCst) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut waiting = Client::connect(addr).await;
    let token = issuer.token("ES256", "a");
    let waits = tokio::spawn(async move { ask_at(&mut waiting, "/hangs", &token).await.0 });
    gateway.replace(&rest).await;
    assert!(matches!(within("an answer", waits).await.expect("no panic"), 404 | 503));
    for (name, publisher) in &publishers {
        let ends = async {
            while publisher.counts.open.load(SeqCst) > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        within(name, ends).await;
    }
    assert_eq!(Client::connect(addr).await.get("/rest").await.status, 200);
    let metrics = gateway.metrics(0).await;
    assert!(!metrics.contains("rustygate_jwks_fetches_total{"), "{metrics}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn keys_come_over_tls_from_a_host_by_name_that_the_right_authority_vouches_for() {
    let upstream = Witness::echo().await;
    let (issuer, authority, other) = (Issuer::new(), Authority::new(), Authority::new());
    // For the name alone.
    let pair = authority.sign_with(&["localhost"], |params| params.subject_alt_names.truncate(1));
    let tls = authority.server(&pair, &["http/1.1"], false);
    let publisher = Publisher::start(Say::Bytes(set(&issuer, &["a"])), Some(tls)).await;
    let port = publisher.addr.port();
    let gateway = Gateway::builder()
        .manifest(&format!("routes: [{{name: rest, path: /rest, backend: \"{}\"}}]\n", upstream.url()))
        .start()
        .await;
    gateway.write("right.pem", &authority.pem);
    gateway.write("wrong.pem", &other.pem);
    gateway.write("keys.json", &json!({"keys": [issuer.jwk("a")]}).to_string());
    gateway.write("p384.pem", issuer.pem("p384"));
    let at = |host: &str, more: &str| format!("{{jwks_url: \"https://{host}:{port}/\"{more}}}");
    let configs = [
        ("right", at("localhost", ", jwks_ca: {file: right.pem}")),
        ("wrong", at("localhost", ", jwks_ca: {file: wrong.pem}")),
        ("public", at("localhost", "")),
        ("address", at("127.0.0.1", ", jwks_ca: {file: right.pem}")),
        ("file", "{jwks: {file: keys.json}}".to_owned()),
        ("both", at("localhost", ", jwks_ca: {file: right.pem}, keys: [{kid: b, pem: {file: p384.pem}}]")),
    ];
    gateway.write("jwt.yaml", &manifest(&configs, &upstream.url()));
    gateway.gatectl(&["apply", "--wait", "-f", "jwt.yaml"]).await.expect(0);
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let token = issuer.token("ES256", "a");
    for (path, expected) in
        [("/right", 200), ("/file", 200), ("/both", 200), ("/wrong", 503), ("/public", 503), ("/address", 503)]
    {
        assert_eq!(ask_at(&mut client, path, &token).await.0, expected, "{path}");
    }
    assert_eq!(ask_at(&mut client, "/both", &issuer.token("ES384", "b")).await.0, 200);
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_url_is_checked_offline() {
    let gateway = Gateway::builder().manifest("routes: [{path: /, backend: \"http://127.0.0.1:1\"}]\n").start().await;
    let check = async |config: &str| {
        let yaml = format!("plugins: [{{name: login, type: jwt, config: {config}}}]\n");
        gateway.gatectl_with(&["validate", "-f", "-"], &yaml).await
    };
    // As the design has it; nobody answers there.
    check("{jwks_url: \"https://id.example.com/jwks.json\", audience: users}").await.expect(0);
    for (url, said) in [
        ("id.example.com/jwks.json", "this is no URL"),
        ("ftp://id.example.com/", "begins with neither"),
        ("https:///jwks.json", "host"),
        ("https://user:secret@id.example.com/", "a user or a password"),
        ("https://id.example.com/#keys", "fragment"),
    ] {
        let refused = check(&format!("{{jwks_url: \"{url}\"}}")).await;
        assert!(refused.code == 1 && refused.stderr.contains(said), "{url}: {refused:?}");
        assert!(refused.stderr.contains("<stdin>:1:55") && refused.stderr.contains("= help: "), "{refused:?}");
    }
    gateway.shutdown().await;
}
