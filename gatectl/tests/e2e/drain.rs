//! SIGTERM and Ctrl-C: who has a request in flight gets the answer, everyone else is told to go elsewhere, and the
//! process ends with 0.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::harness::{Child, Client, Dev, Gateway, HANDSHAKE, Reply, Witness, answer, free_port, within};

/// A proxy in a process, behind it a gateway's control plane and an upstream that answers "/slow" when it is told to.
struct Proxy {
    gateway: Gateway,
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    slow: Option<oneshot::Sender<()>>,
    _witness: Witness,
}

impl Proxy {
    async fn start(flags: &[&str]) -> Self {
        let witness = Witness::start(|seen| match seen.header("upgrade") {
            Some(_) => Reply::Upgrade(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
            ),
            None => Reply::Send(answer("quick")),
        })
        .await;
        let (slow_addr, slow) = slow_upstream().await;
        let yaml = format!(
            "routes:\n- {{name: all, path: /, backend: \"{}\"}}\n- {{name: slow, path: /slow, backend: \"http://{slow_addr}\"}}\n",
            witness.url()
        );
        let gateway = Gateway::builder().proxies(0).manifest(&yaml).start().await;
        let (listen, admin) = (local(), local());
        let (listen_text, admin_text, url) = (listen.to_string(), admin.to_string(), gateway.control_plane_url());
        let ports = ["--control-plane", &url, "--listen", &listen_text, "--admin-listen", &admin_text];
        let all = [&ports[..], &["--workers", "2", "--data-dir", "data"], flags].concat();
        let child = Child::data_plane(gateway.folder(), "data-plane", &all);
        let proxy = Self { gateway, child, listen, admin, slow: Some(slow), _witness: witness };
        within("an admin port", async { while TcpStream::connect(admin).await.is_err() {} }).await;
        within("readiness", async { while proxy.ready().await != Some(200) {} }).await;
        proxy
    }

    /// The status of /readyz, or `None` when the port is closed.
    async fn ready(&self) -> Option<u16> {
        let mut stream = TcpStream::connect(self.admin).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await.ok()?;
        Client::over(stream).try_response(false).await.map(|answer| answer.status)
    }

    async fn client(&self) -> Client {
        let mut client = Client::connect(self.listen).await;
        assert_eq!(client.get("/").await.text(), "quick");
        client
    }

    /// A client whose request has reached the upstream.
    async fn slow_client(&self) -> Client {
        let mut client = Client::connect(self.listen).await;
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client
    }

    async fn socket(&self) -> Client {
        let mut client = Client::connect(self.listen).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}\r\n").as_bytes()).await;
        assert_eq!(client.response(false).await.status, 101);
        client
    }

    /// Returns when it accepts no more.
    async fn accepts_no_more(&self) {
        within("a closed door", async { while TcpStream::connect(self.listen).await.is_ok() {} }).await;
    }
}

/// Takes one request, and answers it when the sender says so.
async fn slow_upstream() -> (SocketAddr, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    let (go, told) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let _ = stream.read(&mut [0; 4096]).await;
        if told.await.is_ok() {
            let _ = stream.write_all(&answer("slow")).await;
            // Until the proxy lets go.
            let _ = stream.read(&mut [0]).await;
        }
    });
    (addr, go)
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

#[tokio::test]
async fn sigterm_answers_what_is_in_flight_closes_what_is_idle_and_ends_with_0() {
    let mut proxy = Proxy::start(&[]).await;
    let mut idle = proxy.client().await;
    let mut busy = proxy.slow_client().await;
    within("the request at the proxy", async {
        while !metrics(&proxy).await.contains("rustygate_active_connections{route=\"slow\"") {}
    })
    .await;
    proxy.child.terminate();

    assert!(idle.closes().await, "an idle connection is closed in order");
    proxy.accepts_no_more().await;
    assert_eq!(proxy.ready().await, Some(503), "it tells that it is not to be sent requests");
    assert!(proxy.child.runs(), "a request is in flight");
    proxy.slow.take().expect("once").send(()).expect("the upstream waits");
    let answer = busy.response(false).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "slow"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(busy.closes().await);
    assert_eq!(proxy.child.ended().await.code(), Some(0));
    proxy.gateway.shutdown().await;
}

#[tokio::test]
async fn within_the_drain_delay_it_is_not_ready_and_serves_as_before() {
    let mut proxy = Proxy::start(&["--drain-delay", "1"]).await;
    let mut client = proxy.client().await;
    proxy.child.terminate();
    within("not being ready", async { while proxy.ready().await == Some(200) {} }).await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.header("connection")), (200, None), "balancers may not know yet");
    let mut newcomer = Client::connect(proxy.listen).await;
    assert_eq!(newcomer.get("/").await.status, 200);
    assert!(client.closes().await && newcomer.closes().await);
    assert_eq!(proxy.child.ended().await.code(), Some(0));
    proxy.gateway.shutdown().await;
}

#[tokio::test]
async fn a_stream_goes_on_until_the_drain_timeout_and_is_cut_then() {
    let mut proxy = Proxy::start(&["--drain-timeout", "1"]).await;
    let mut socket = proxy.socket().await;
    proxy.child.terminate();
    proxy.accepts_no_more().await;
    socket.send(b"HTTP/1.1 204 still here\r\n\r\n").await;
    assert_eq!(socket.response(false).await.status, 204, "the echo of what was sent");
    assert!(socket.closes().await);
    assert_eq!(proxy.child.ended().await.code(), Some(0));
    assert!(proxy.child.log().contains("the drain timeout is over"), "{}", proxy.child.log());
    proxy.gateway.shutdown().await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_holds_nothing_up() {
    let mut proxy = Proxy::start(&["--drain-timeout", "3600", "--head-timeout", "3600"]).await;
    let mut silent = Client::connect(proxy.listen).await;
    within("the connection at the proxy", async {
        while !metrics(&proxy).await.contains("\nrustygate_client_connections 1\n") {}
    })
    .await;
    proxy.child.terminate();
    assert!(silent.closes().await);
    assert_eq!(proxy.child.ended().await.code(), Some(0));
    proxy.gateway.shutdown().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_what_it_serves_is_on_disk() {
    // Longer than any test waits.
    let mut proxy = Proxy::start(&["--drain-timeout", "3600"]).await;
    let mut socket = proxy.socket().await;
    proxy.child.terminate();
    proxy.accepts_no_more().await;
    assert!(proxy.child.runs());
    proxy.child.terminate();
    assert!(socket.closes().await);
    assert_eq!(proxy.child.ended().await.code(), Some(0));
    assert!(proxy.gateway.folder().join("data/snapshot").is_file());
    proxy.gateway.shutdown().await;
}

#[tokio::test]
async fn a_push_during_the_drain_opens_no_door_again() {
    let mut proxy = Proxy::start(&["--drain-timeout", "3600"]).await;
    let mut socket = proxy.socket().await;
    proxy.child.terminate();
    proxy.accepts_no_more().await;
    let late = local();
    let yaml = format!("listeners:\n- {{name: late, address: \"{late}\"}}\n");
    let revision = proxy.gateway.try_apply(&yaml).await.expect("valid");
    proxy.gateway.served(revision).await;
    assert!(TcpStream::connect(late).await.is_err(), "it is going down");
    socket.send(b"HTTP/1.1 204 still here\r\n\r\n").await;
    assert_eq!(socket.response(false).await.status, 204);
    proxy.child.terminate();
    assert_eq!(proxy.child.ended().await.code(), Some(0));
    proxy.gateway.shutdown().await;
}

#[tokio::test]
async fn a_control_plane_with_open_streams_ends_at_sigterm_and_its_proxy_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (grpc, listen, admin) = (local().to_string(), local(), local());
    let flags = ["--grpc-listen", &grpc, "--http-listen", "127.0.0.1:0"];
    let mut control_plane = Child::control_plane(folder.path(), "control-plane", &flags);
    let (url, listen_text, admin_text) = (format!("http://{grpc}"), listen.to_string(), admin.to_string());
    let flags = ["--control-plane", &url, "--listen", &listen_text, "--admin-listen", &admin_text, "--workers", "1"];
    let mut data_plane = Child::data_plane(folder.path(), "data-plane", &flags);
    let connected = async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(admin).await
                && stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await.is_ok()
                && let Some(answer) = Client::over(stream).try_response(false).await
                && answer.text().contains("\"connected\":true")
            {
                return;
            }
        }
    };
    within("a stream between the planes", connected).await;
    control_plane.terminate();
    assert_eq!(control_plane.ended().await.code(), Some(0));
    assert!(data_plane.runs());
    data_plane.terminate();
    assert_eq!(data_plane.ended().await.code(), Some(0));
}

#[tokio::test]
async fn ctrl_c_ends_dev_when_the_answer_in_flight_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (slow_addr, slow) = slow_upstream().await;
    let yaml = format!("routes: [{{name: slow, path: /, backend: \"http://{slow_addr}\"}}]\n");
    std::fs::write(folder.path().join("gate.yaml"), yaml).expect("writes");
    let dev = Dev::start(folder.path(), &["-f", "gate.yaml"]).await;
    let (proxy, admin) = (dev.addr("proxy"), dev.addr("proxy's metrics"));
    let mut busy = Client::connect(proxy).await;
    busy.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    within("the request at the proxy", async {
        while !Client::connect(admin).await.get("/metrics").await.text().contains("route=\"slow\"") {}
    })
    .await;
    let ended = tokio::spawn(async move { dev.interrupt().await });
    within("a closed door", async { while TcpStream::connect(proxy).await.is_ok() {} }).await;
    slow.send(()).expect("the upstream waits");
    assert_eq!(busy.response(false).await.text(), "slow");
    assert_eq!(ended.await.expect("a task"), Some(0));
}

async fn metrics(proxy: &Proxy) -> String {
    Client::connect(proxy.admin).await.get("/metrics").await.text()
}
