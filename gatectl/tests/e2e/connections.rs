//! How many connections a backend gets.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use crate::harness::{Client, Dns, Gateway, Http2, Peer, Say, Upstream, Wire, answer, answered, within};

/// A service with an eye on its connections: every one that there ever was.
#[derive(Clone, Default)]
struct Eye(Arc<Mutex<Vec<std::net::TcpStream>>>);

impl Eye {
    /// How many connections are open now, by what the system knows.
    fn open(&self) -> usize {
        let all = self.0.lock().expect("no panic");
        let open = |stream: &&std::net::TcpStream| match stream.peek(&mut [0]) {
            Ok(bytes) => bytes > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        all.iter().filter(open).count()
    }

    fn ever(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    /// Starts a service; `most` hears of how many were open whenever there is one more.
    async fn service(&self, most: Arc<Mutex<usize>>) -> (SocketAddr, JoinHandle<()>) {
        self.service_at("127.0.0.1:0", most).await
    }

    async fn service_at(&self, addr: &str, most: Arc<Mutex<usize>>) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind(addr).await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let eye = self.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let twin = stream.as_fd().try_clone_to_owned().expect("a second handle");
                eye.0.lock().expect("no panic").push(twin.into());
                let mut open = eye.open();
                // The end of one may be on its way on another processor; one too many would stay.
                let before = *most.lock().expect("no panic");
                for _ in 0..20 {
                    if open <= before {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    open = open.min(eye.open());
                }
                let mut most = most.lock().expect("no panic");
                *most = (*most).max(open);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                        if head.ends_with(b"\r\n\r\n") {
                            head.clear();
                            tokio::time::sleep(Duration::from_millis(2)).await;
                            if stream.write_all(&answer("here")).await.is_err() {
                                return;
                            }
                        }
                    }
                    let _ = stream.shutdown().await;
                });
            }
        });
        (addr, task)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_opens_no_more_connections_than_a_backend_may_have_idle_ones_included() {
    let (most, ..) = crowd(1, 1, 3).await;
    assert_eq!(most, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_exceed_the_limit_by_one_connection_for_each_endpoint_at_most() {
    let (most, ..) = crowd(2, 2, 1).await;
    assert!((1..=1 + 2 * 2).contains(&most), "{most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_used_again_when_more_requests_come_than_there_may_be_connections() {
    let (most, ever, requests) = crowd(2, 2, 8).await;
    assert!(most <= 8 + 2 * 2, "{most}");
    assert!(ever < requests / 5, "{ever} connections for {requests} requests");
}

/// Many clients of so many workers, whose backend has so many endpoints and may have so many connections. Returns how many
/// it had at a time, how many in all, and requests.
async fn crowd(workers: u16, endpoints: usize, limit: usize) -> (usize, usize, usize) {
    const CLIENTS: usize = 24;
    const REQUESTS: usize = 40;
    let (eye, most) = (Eye::default(), Arc::new(Mutex::new(0)));
    let (mut urls, mut services) = (Vec::new(), Vec::new());
    for _ in 0..endpoints {
        let (addr, runs) = eye.service(Arc::clone(&most)).await;
        urls.push(format!("\"http://{addr}\""));
        services.push(runs);
    }
    let limits = format!("{{connections: {limit}, pending: 100, pending_timeout: 15s}}");
    let manifest = format!(
        "backends: [{{name: b, endpoints: [{}], load_balancing: {{policy: round_robin}}, limits: {limits}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 20s}}]\n",
        urls.join(", ")
    );
    let builder = Gateway::builder().proxy_settings(move |settings| settings.workers = Some(workers));
    let gateway = builder.manifest(&manifest).start().await;
    let addr = gateway.proxy_addr();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            let mut client = Client::connect(addr).await;
            for _ in 0..REQUESTS {
                let response = client.get("/").await;
                assert_eq!((response.status, response.text().as_str()), (200, "here"));
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every request is answered");
    }
    let ever = eye.ever();
    let idle = gateway.metrics(0).await;
    let open = eye.open();
    assert!(idle.contains(&format!("\nrustygate_upstream_connections{{backend=\"b\"}} {open}\n")), "{open}: {idle}");
    for _ in 0..20 {
        let response = within("an answer", async { Client::connect(addr).await.get("/").await }).await;
        assert_eq!(response.status, 200);
    }
    gateway.shutdown().await;
    drop(services);
    let most = *most.lock().expect("no panic");
    (most, ever, CLIENTS * REQUESTS)
}

#[tokio::test]
async fn what_is_busy_at_one_endpoint_does_not_keep_requests_from_another() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let (eye, most) = (Eye::default(), Arc::new(Mutex::new(0)));
    let (answers, runs) = eye.service(Arc::clone(&most)).await;
    let manifest = format!(
        "backends: [{{name: b, endpoints: [\"http://{}\", \"http://{answers}\"], \
         load_balancing: {{policy: round_robin}}, limits: {{connections: 1}}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 20s}}]\n",
        hangs.local_addr().expect("an address")
    );
    let builder = Gateway::builder().proxy_settings(|settings| settings.workers = Some(1));
    let gateway = builder.manifest(&manifest).start().await;
    let addr = gateway.proxy_addr();
    let mut held = JoinSet::new();
    let mut stream = loop {
        held.spawn(async move { Client::connect(addr).await.get("/").await.status });
        tokio::select! {
            accepted = hangs.accept() => break accepted.expect("accepts").0,
            answered = held.join_next() => assert_eq!(answered.expect("one").expect("no panic"), 200),
        }
    };
    // The next in turn goes to the other, where there is no connection or an idle one.
    assert_eq!(within("an answer", async { Client::connect(addr).await.get("/").await }).await.status, 200);
    stream.write_all(&answer("at last")).await.expect("writes");
    assert_eq!(held.join_next().await.expect("one").expect("no panic"), 200);
    gateway.shutdown().await;
    drop(runs);
}

#[tokio::test]
async fn a_connection_to_any_address_of_a_name_serves_who_may_make_no_other() {
    let (eye, most) = (Eye::default(), Arc::new(Mutex::new(0)));
    let (service, runs) = eye.service_at("0.0.0.0:0", Arc::clone(&most)).await;
    let dns = Dns::start().await;
    dns.say("two.test", Say::local(&[2, 3], 3600));
    let server = dns.addr();
    let manifest = format!(
        "backends: [{{name: b, endpoints: [\"http://two.test:{}\"], limits: {{connections: 1, pending: 20}}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 20s}}]\n",
        service.port()
    );
    let builder = Gateway::builder().proxy_settings(move |settings| {
        settings.workers = Some(1);
        settings.dns_servers = vec![server];
    });
    let gateway = builder.manifest(&manifest).start().await;
    let addr = gateway.proxy_addr();
    for _ in 0..6 {
        assert_eq!(Client::connect(addr).await.get("/").await.status, 200);
    }
    let mut work = JoinSet::new();
    for _ in 0..20 {
        work.spawn(async move { Client::connect(addr).await.get("/").await.status });
    }
    while let Some(status) = work.join_next().await {
        assert_eq!(status.expect("no panic"), 200);
    }
    assert_eq!(*most.lock().expect("no panic"), 1);
    gateway.shutdown().await;
    drop(runs);
}

#[tokio::test]
async fn a_connection_that_is_going_away_keeps_no_request_from_a_new_one() {
    let mut peer = Peer::start().await;
    let manifest = format!(
        "backends: [{{name: b, protocol: h2c, endpoints: [\"{}\"], limits: {{connections: 1}}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 20s}}]\n",
        peer.url()
    );
    let builder = Gateway::builder().proxy_settings(|settings| settings.workers = Some(1));
    let gateway = builder.manifest(&manifest).start().await;
    let addr = gateway.proxy_addr();
    let held = tokio::spawn(async move { Client::connect(addr).await.get("/").await.status });
    let asked = peer.next().await;
    peer.farewell();
    // Some may reach the old one before the upstream's word does.
    within("another connection", async {
        while peer.connections() == 1 {
            let next = tokio::spawn(async move { Client::connect(addr).await.get("/").await.status });
            peer.next().await.say(200, "ok");
            assert_eq!(next.await.expect("no panic"), 200);
        }
    })
    .await;
    assert_eq!(peer.connections(), 2);
    asked.say(200, "at last");
    assert_eq!(held.await.expect("no panic"), 200);
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_upgrade_takes_the_place_of_an_idle_connection_and_waits_for_that_of_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let manifest = format!(
        "backends: [{{name: b, endpoints: [\"http://{}\"], limits: {{connections: 1, pending_timeout: 20s}}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 20s}}]\n",
        listener.local_addr().expect("an address")
    );
    let builder = Gateway::builder().proxy_settings(|settings| settings.workers = Some(1));
    let gateway = builder.manifest(&manifest).start().await;
    let addr = gateway.proxy_addr();
    let get = || tokio::spawn(async move { Client::connect(addr).await.get("/").await.status });
    let first = get();
    let mut idle = listener.accept().await.expect("accepts").0;
    let _ = idle.read(&mut [0; 4096]).await.expect("a request");
    idle.write_all(&answer("here")).await.expect("writes");
    assert_eq!(first.await.expect("no panic"), 200);
    let ask = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let upgrade = || async move {
        let mut client = tokio::net::TcpStream::connect(addr).await.expect("connects");
        client.write_all(ask.as_bytes()).await.expect("writes");
        client
    };
    let one = upgrade().await;
    let tunnel = within("a connection", listener.accept()).await.expect("accepts").0;
    let mut rest = Vec::new();
    within("the idle one's end", idle.read_to_end(&mut rest)).await.expect("an orderly end");
    let two = upgrade().await;
    let waits = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(waits.is_err(), "a second one is too many");
    drop((one, tunnel));
    within("its turn", listener.accept()).await.expect("accepts");
    drop(two);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_request_that_was_answered_holds_no_place_while_the_rest_of_it_is_awaited() {
    let upstream = Upstream::start().await;
    let manifest = format!(
        "backends: [{{name: b, endpoints: [\"{}\"], \
         limits: {{requests: 1, connections: 1, pending_timeout: 300ms}}}}]\n\
         routes: [{{name: all, path: /, backend: b}}]\n",
        upstream.url()
    );
    let builder = Gateway::builder().proxy_settings(|settings| settings.workers = Some(1));
    let gateway = builder.manifest(&manifest).start().await;
    let mut early = Wire::connect(gateway.proxy_addr()).await;
    early.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf").await;
    let mut wire = upstream.accept().await;
    wire.until("half").await;
    wire.send(answer("enough")).await;
    early.until("enough").await;
    let other = async { Client::connect(gateway.proxy_addr()).await.get("/").await.status };
    let serve = async {
        let mut wire = upstream.accept().await;
        wire.until("\r\n\r\n").await;
        wire.send(answer("here")).await;
        wire
    };
    assert_eq!(tokio::join!(other, serve).0, 200);
    gateway.shutdown().await;
}

#[tokio::test]
async fn requests_share_the_connections_that_a_backend_of_http2_may_have() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(4);
    let mut peer = Peer::start_with(builder, None).await;
    // Many more wait for the first connection than may wait in the queue.
    let manifest = format!(
        "backends: [{{name: b, protocol: h2c, endpoints: [\"{}\"], \
         limits: {{connections: 2, pending: 60, pending_timeout: 15s}}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 20s}}]\n",
        peer.url()
    );
    let builder = Gateway::builder().proxy_settings(|settings| settings.workers = Some(1));
    let gateway = builder.manifest(&manifest).start().await;
    let mut client = Http2::connect(gateway.proxy_addr()).await;
    let mut work = JoinSet::new();
    for _ in 0..60 {
        let (response, _) = client.open(client.head("GET", "/", &[]), true).await;
        work.spawn(async move { within("an answer", answered(response)).await.expect("an answer").status });
    }
    // So many at a time, and never more.
    let mut asked = Vec::new();
    for _ in 0..8 {
        asked.push(peer.next().await);
    }
    for _ in 0..52 {
        assert!(peer.is_quiet());
        asked.remove(0).say(200, "ok");
        asked.push(peer.next().await);
    }
    for asked in asked {
        asked.say(200, "ok");
    }
    while let Some(status) = work.join_next().await {
        assert_eq!(status.expect("no panic"), 200);
    }
    assert_eq!(peer.connections(), 2);
    gateway.shutdown().await;
}
