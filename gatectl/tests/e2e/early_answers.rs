//! Upstreams that answer before they have read what they were asked: at once, and whatever else they do then.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::harness::{Client, Gateway, Http2, with_gateway};

/// How much is read of a request before it is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reads {
    Nothing,
    Head,
}

/// What follows the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// The end: with unread bytes, that is a reset.
    Closes,
    /// The end of what it says; it reads on.
    HalfCloses,
    /// Nothing: it says that it is done, keeps the connection, and never reads from it again.
    Keeps,
}

/// Longer than any answer here may take, and less than the time that the route gives.
const SOON: Duration = Duration::from_secs(3);

struct Upstream {
    addr: SocketAddr,
    /// How many there were.
    connections: Arc<AtomicUsize>,
    accept: JoinHandle<()>,
}

impl Upstream {
    async fn start(status: u16, reads: Reads, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let accept = tokio::spawn(async move {
            // Aborted with the set.
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                tasks.spawn(serve(stream, status, reads, then));
            }
        });
        Self { addr, connections, accept }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn serve(mut stream: TcpStream, status: u16, reads: Reads, then: Then) -> Option<()> {
    let mut head = Vec::new();
    while reads == Reads::Head && !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    // A request that was read is no reason to close without a word, nor to keep a connection and not read on.
    let answer = format!("HTTP/1.1 {status} Early\r\nconnection: close\r\ncontent-length: 5\r\n\r\nearly");
    stream.write_all(answer.as_bytes()).await.ok()?;
    match then {
        Then::Closes => {}
        Then::HalfCloses => {
            stream.shutdown().await.ok()?;
            while stream.read(&mut [0; 4096]).await.ok()? > 0 {}
        }
        Then::Keeps => std::future::pending().await,
    }
    Some(())
}

/// By both protocols, with bodies that fit what the system takes for the upstream, and one that does not.
async fn all_are_answered(gateway: &Gateway, status: u16, what: &str) -> usize {
    let mut requests = 0;
    for method in ["PUT", "POST"] {
        for bytes in [0, 10, 60 << 10, 16 << 20] {
            for http2 in [false, true] {
                requests += 1;
                let what = format!("{what}, {method} of {bytes} bytes, HTTP/2: {http2}");
                let begun = Instant::now();
                let body = vec![b'x'; bytes];
                let (answered, text) = if http2 {
                    let mut client = Http2::connect(gateway.proxy_addr()).await;
                    let answer = client.request(method, "/", &[], &body).await;
                    (answer.status, answer.text())
                } else {
                    let tcp = TcpStream::connect(gateway.proxy_addr()).await.expect("connects");
                    let (read, mut write) = tokio::io::split(tcp);
                    let head = format!("{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n");
                    // It may be cut short: the answer is there before the end.
                    let sending = tokio::spawn(async move {
                        if write.write_all(head.as_bytes()).await.is_ok() {
                            let _ = write.write_all(&body).await;
                        }
                        std::future::pending::<()>().await;
                    });
                    let mut client = Client::over(tokio::io::join(read, tokio::io::sink()));
                    let response = client.response(false).await;
                    sending.abort();
                    (response.status, response.text())
                };
                assert_eq!((answered, text.as_str()), (status, "early"), "{what} after {:?}", begun.elapsed());
                assert!(begun.elapsed() < SOON, "{what}: {:?}", begun.elapsed());
            }
        }
    }
    requests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_counts_however_little_was_read_and_whatever_follows_it() {
    for reads in [Reads::Head, Reads::Nothing] {
        for then in [Then::Closes, Then::HalfCloses, Then::Keeps] {
            for status in [200, 413] {
                let upstream = Upstream::start(status, reads, then).await;
                let manifest = format!(
                    "routes: [{{name: all, path: /, backend: \"http://{}\", timeouts: {{total: 10s, idle: 10s}}}}]",
                    upstream.addr
                );
                let what = format!("{status}, reads {reads:?}, then {then:?}");
                with_gateway(&manifest, async |gateway| {
                    let requests = all_are_answered(gateway, status, &what).await;
                    assert_eq!(upstream.connections.load(Relaxed), requests, "{what}: none is asked twice");
                })
                .await;
            }
        }
    }
}
