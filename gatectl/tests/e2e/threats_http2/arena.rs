//! Where attacks take place: a proxy in a process of its own, with one worker that has to serve everybody; an upstream
//! that answers some and keeps others waiting; and a bystander.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use crate::harness::{Child, Client, Gateway, answer, free_port, within};

/// How much more memory the process may have in an attack.
const GROWTH_KIB: u64 = 64 << 10;

/// How much later a bystander may be answered: so many times what was usual, and so much.
const SLOWER: u32 = 20;
const LATER: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5_000 } else { 500 });

/// How long an attack goes on, and how often it is begun.
const ATTACK_TIME: Duration = Duration::from_millis(500);
const ROUNDS_MAX: usize = 100;

/// How many answers tell what is usual.
const QUIET: usize = 200;

/// See the module documentation.
pub struct Arena {
    /// Runs for as long as this.
    _gateway: Gateway,
    pub child: Child,
    pub addr: SocketAddr,
    /// Of a listener with TLS, if the manifest has one there.
    pub tls: SocketAddr,
    admin: SocketAddr,
    pub upstream: Upstream,
}

/// Where something is, for a manifest.
#[derive(Clone, Debug)]
pub struct Places {
    /// The proxy, in the clear.
    pub listen: SocketAddr,
    /// A free one, for a listener with TLS.
    pub tls: SocketAddr,
    /// The upstream's URL.
    pub upstream: String,
}

impl Arena {
    /// Everything goes to the upstream.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, |places| {
            format!(
                "routes: [{{name: all, path: /, backend: \"{}\", timeouts: {{total: 30s, idle: 30s}}}}]",
                places.upstream
            )
        })
        .await
    }

    /// With that manifest.
    pub async fn start_with(flags: &[&str], manifest: impl FnOnce(&Places) -> String) -> Self {
        let upstream = Upstream::start().await;
        let [listen, tls, admin] = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let manifest = manifest(&Places { listen, tls, upstream: upstream.url() });
        let gateway = Gateway::builder().proxies(0).manifest(&manifest).start().await;
        let (own, url, other) = (listen.to_string(), gateway.control_plane_url(), admin.to_string());
        let own = ["--control-plane", &url, "--listen", &own, "--admin-listen", &other, "--workers", "1"];
        let flags = [&own[..], &["--node-id", "proxy", "--access-log", "off"], flags].concat();
        let child = Child::data_plane(gateway.folder(), "proxy", &flags);
        within("an admin port", async { while TcpStream::connect(admin).await.is_err() {} }).await;
        within("readiness", async { while Client::connect(admin).await.get("/readyz").await.status != 200 {} }).await;
        Self { _gateway: gateway, child, addr: listen, tls, admin, upstream }
    }

    /// Runs an attack again and again beside a bystander, and sees that neither the bystander nor the memory feels it.
    /// Returns how often it ran.
    pub async fn survives(&mut self, attack: impl AsyncFn()) -> usize {
        let (over, is_over) = watch::channel(false);
        let mut usual = bystand(self.addr, QUIET, is_over.clone()).await;
        let before = self.child.resident_kib();
        let bystander = tokio::spawn(bystand(self.addr, usize::MAX, is_over.clone()));
        let attack = async {
            let begun = Instant::now();
            for rounds in 1.. {
                attack().await;
                if begun.elapsed() >= ATTACK_TIME || rounds == ROUNDS_MAX {
                    let _ = over.send(true);
                    return rounds;
                }
            }
            0
        };
        let child = &self.child;
        let memory = async {
            let mut most = before;
            while !*is_over.borrow() {
                most = most.max(child.resident_kib());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            most
        };
        let (rounds, most) = tokio::join!(attack, memory);
        let mut served = bystander.await.expect("the bystander gets every answer");
        assert!(self.child.runs(), "the proxy runs on");
        let grown = most.saturating_sub(before);
        let (usual, late) = (p99(&mut usual), p99(&mut served));
        println!("{rounds} rounds, memory +{grown} KiB, p99 {usual:?} -> {late:?} of {}", served.len());
        assert!(grown < GROWTH_KIB, "memory grew by {grown} KiB from {before} KiB");
        assert!(late <= usual * SLOWER + LATER, "the bystander's p99 went from {usual:?} to {late:?}");
        rounds
    }

    /// How often a bound was met.
    pub async fn hits(&self, limit: &str) -> u64 {
        let begin = format!("rustygate_limit_hits_total{{limit=\"{limit}\"}} ");
        let metrics = Client::connect(self.admin).await.get("/metrics").await.text();
        metrics.lines().find_map(|line| line.strip_prefix(&begin)).expect("a counter").parse().expect("a number")
    }

    /// Returns when there are so many connections of clients.
    pub async fn connections(&self, number: usize) {
        let line = format!("\nrustygate_client_connections {number}\n");
        let count = async { while !Client::connect(self.admin).await.get("/metrics").await.text().contains(&line) {} };
        within(&format!("{number} connections"), count).await;
    }
}

/// Asks again and again, and says how long each answer took.
async fn bystand(addr: SocketAddr, times: usize, over: watch::Receiver<bool>) -> Vec<Duration> {
    let mut client = Client::connect(addr).await;
    let mut took = Vec::new();
    while took.len() < times && !*over.borrow() {
        let begun = Instant::now();
        let response = client.get("/bystander").await;
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
        took.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    took
}

fn p99(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}

/// An upstream. It answers at once, but /hold never, /large with much, /echo with the head that it got, /after when it has read the whole body, and what it
/// is sent of a body to /deaf it does not read.
pub struct Upstream {
    addr: SocketAddr,
    pub held: Arc<Held>,
    accept: JoinHandle<()>,
}

/// Requests that are kept waiting.
#[derive(Default)]
pub struct Held {
    begun: AtomicUsize,
    open: watch::Sender<usize>,
}

impl Held {
    /// How many there ever were.
    pub fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    /// How many wait.
    pub fn now(&self) -> usize {
        *self.open.borrow()
    }

    /// Returns when so many wait.
    pub async fn open(&self, number: usize) {
        let mut open = self.open.subscribe();
        let last = open.clone();
        let reached = async { drop(open.wait_for(|&open| open == number).await) };
        if tokio::time::timeout(crate::harness::DEADLINE, reached).await.is_err() {
            panic!("{} requests wait at the upstream, not {number}", *last.borrow());
        }
    }
}

/// The body of /large.
pub const LARGE: usize = 1 << 20;

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let held = Arc::new(Held::default());
        let accept = tokio::spawn(accept(listener, held.clone()));
        Self { addr, held, accept }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, held: Arc<Held>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        connections.spawn(serve(stream, held.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, held: Arc<Held>) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            match buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => more(&mut stream, &mut buffer).await?,
            }
        };
        let whole = buffer[..end].to_vec();
        let head = String::from_utf8_lossy(&whole).to_ascii_lowercase();
        buffer.drain(..end);
        let path = head.split(' ').nth(1).expect("a path").to_owned();
        if path.starts_with("/hold") || path.starts_with("/deaf") {
            held.begun.fetch_add(1, Relaxed);
            held.open.send_modify(|open| *open += 1);
            if path.starts_with("/hold") {
                while more(&mut stream, &mut buffer).await.is_some() {
                    buffer.clear();
                }
            } else {
                // Not read, but its end is noticed.
                while stream.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            held.open.send_modify(|open| *open -= 1);
            return None;
        }
        if head.contains("transfer-encoding") {
            while !buffer.ends_with(b"0\r\n\r\n") {
                more(&mut stream, &mut buffer).await?;
            }
            buffer.clear();
        } else if let Some((_, length)) = head.split_once("content-length: ") {
            let length = length.split("\r\n").next()?.parse().expect("a length");
            while buffer.len() < length {
                more(&mut stream, &mut buffer).await?;
            }
            buffer.drain(..length);
        }
        let body = match &*path {
            path if path.starts_with("/large") => vec![b'x'; LARGE],
            path if path.starts_with("/echo") => whole,
            _ => b"ok".to_vec(),
        };
        stream.write_all(&answer(body)).await.ok()?;
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    // On the heap: there are thousands of these.
    let bytes = stream.read_buf(buffer).await.ok()?;
    (bytes > 0).then_some(())
}
