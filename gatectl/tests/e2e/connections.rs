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

use crate::harness::{Client, Gateway, Http2, Peer, answer, answered, within};

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
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
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
async fn no_more_connections_are_open_than_a_backend_may_have_idle_ones_included() {
    // Fewer than one for each worker and endpoint.
    crowd(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_used_again_when_more_requests_come_than_there_may_be_connections() {
    let (connections, requests) = crowd(8).await;
    assert!(connections < requests / 5, "{connections} connections for {requests} requests");
}

/// Many clients of a backend that may have so many connections. Returns how many it had in the end, and requests.
async fn crowd(limit: usize) -> (usize, usize) {
    const CLIENTS: usize = 24;
    const REQUESTS: usize = 40;
    let (eye, most) = (Eye::default(), Arc::new(Mutex::new(0)));
    let (one, one_runs) = eye.service(Arc::clone(&most)).await;
    let (other, other_runs) = eye.service(Arc::clone(&most)).await;
    let limits = format!("{{connections: {limit}, pending: 100, pending_timeout: 15s}}");
    let manifest = format!(
        "backends: [{{name: b, endpoints: [\"http://{one}\", \"http://{other}\"], \
         load_balancing: {{policy: round_robin}}, limits: {limits}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 20s}}]\n"
    );
    let builder = Gateway::builder().proxy_settings(|settings| settings.workers = Some(2));
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
    assert!(*most.lock().expect("no panic") <= limit, "{most:?} were open");
    let ever = eye.ever();
    // Now that there is little to do, idle ones still count, and make room for each other.
    let idle = gateway.metrics(0).await;
    let open = eye.open();
    assert!(idle.contains(&format!("\nrustygate_upstream_connections{{backend=\"b\"}} {open}\n")), "{open}: {idle}");
    for _ in 0..20 {
        let response = within("an answer", async { Client::connect(addr).await.get("/").await }).await;
        assert_eq!(response.status, 200);
    }
    assert!(*most.lock().expect("no panic") <= limit, "{most:?} were open");
    gateway.shutdown().await;
    drop((one_runs, other_runs));
    (ever, CLIENTS * REQUESTS)
}

#[tokio::test]
async fn an_idle_connection_makes_way_for_a_request_to_another_endpoint_or_of_another_worker() {
    let (eye, most) = (Eye::default(), Arc::new(Mutex::new(0)));
    let (one, one_runs) = eye.service(Arc::clone(&most)).await;
    let (other, other_runs) = eye.service(Arc::clone(&most)).await;
    let manifest = format!(
        "backends: [{{name: b, endpoints: [\"http://{one}\", \"http://{other}\"], \
         load_balancing: {{policy: round_robin}}, limits: {{connections: 1, pending_timeout: 10s}}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 20s}}]\n"
    );
    let builder = Gateway::builder().proxy_settings(|settings| settings.workers = Some(2));
    let gateway = builder.manifest(&manifest).start().await;
    let begun = tokio::time::Instant::now();
    for _ in 0..40 {
        assert_eq!(Client::connect(gateway.proxy_addr()).await.get("/").await.status, 200);
    }
    assert_eq!(*most.lock().expect("no panic"), 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for a connection to grow old");
    gateway.shutdown().await;
    drop((one_runs, other_runs));
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
