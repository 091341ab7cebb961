//! Rate limits that proxies share, with a real Redis that dies, hangs and comes back.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{ask, storm};
use crate::harness::{Authority, Client, Gateway, Witness, free_port, within};

const PASSWORD: &str = "password-that-nobody-may-see";

/// How much longer than before a request may take while Redis dies. A test build on a busy machine is slow by itself.
const SLOWER_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 400 } else { 50 });

/// Set where these tests must not be left out.
const NEEDED: &str = "RUSTYGATE_TESTS_NEED_REDIS";

/// A redis-server that remembers nothing; killed when it is dropped.
struct Redis {
    port: u16,
    process: Child,
    folder: TempDir,
    /// More for its command line.
    flags: Vec<String>,
}

impl Redis {
    /// `None` where there is no redis-server: whoever tests with nothing but a Rust toolchain tests all the rest. CI says that
    /// there must be one.
    async fn start() -> Option<Self> {
        Self::start_with(tempfile::tempdir().expect("a folder"), &[]).await
    }

    async fn start_with(folder: TempDir, flags: &[&str]) -> Option<Self> {
        let is_there = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !is_there && std::env::var_os(NEEDED).is_none() {
            eprintln!("not tested: there is no redis-server (`apt-get install redis-server`)");
            return None;
        }
        let (port, flags) = (free_port(), flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>());
        let mut redis = Self { port, process: Self::spawn(port, &folder, &flags), folder, flags };
        redis.answers().await;
        Some(redis)
    }

    fn spawn(port: u16, folder: &TempDir, flags: &[String]) -> Child {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD])
            .args(flags)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs redis-server (`apt-get install redis-server`): {error}"))
    }

    /// Starts it again where it was.
    async fn revive(&mut self) {
        self.process = Self::spawn(self.port, &self.folder, &self.flags);
        self.answers().await;
    }

    async fn answers(&mut self) {
        within("redis-server", async {
            while self.say("PING").await.is_none_or(|answer| !answer.contains("PONG")) {
                let ended = self.process.try_wait().expect("a status");
                assert!(ended.is_none(), "redis-server ended: {ended:?}");
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// What it answers to commands, one a line.
    async fn say(&self, commands: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.ok()?;
        stream.write_all(format!("AUTH {PASSWORD}\r\n{commands}\r\nQUIT\r\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    fn kill(&mut self) {
        self.process.kill().expect("a signal");
        self.process.wait().expect("an end");
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const WAYS: [&str; 3] = ["open", "closed", "local"];

/// A route and a plugin for each `on_error`.
fn manifest(redis: &Redis, requests: u32, timeout: &str, url: &str) -> String {
    let port = redis.port;
    let plugins = WAYS.map(|way| {
        let redis = format!(
            "{{url: \"redis://127.0.0.1:{port}/1\", password: \"{PASSWORD}\", timeout: {timeout}, on_error: {way}}}"
        );
        format!("- {{name: {way}, type: rate_limit, config: {{requests: {requests}, per: 1h, redis: {redis}}}}}\n")
    });
    let routes = WAYS.map(|way| format!("- {{name: {way}, path: /{way}, plugins: [{way}], backend: \"{url}\"}}\n"));
    format!("plugins:\n{}routes:\n{}", plugins.concat(), routes.concat())
}

async fn status(addr: SocketAddr, path: &str) -> u16 {
    Client::connect(addr).await.get(path).await.status
}

/// Returns when every worker asks Redis again.
async fn shared_again(addrs: &[SocketAddr]) {
    within("Redis to be asked again", async {
        let mut in_a_row = 0;
        while in_a_row < 40 {
            let served = status(addrs[in_a_row % addrs.len()], "/closed").await != 503;
            in_a_row = if served { in_a_row + 1 } else { 0 };
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_proxies_share_the_limit_exactly() {
    let upstream = Witness::saying("x").await;
    let Some(redis) = Redis::start().await else { return };
    let mut gateway = Gateway::builder()
        .proxies(2)
        .manifest(&super::manifest("{requests: 1, per: 1h}", &upstream.url()))
        .start()
        .await;
    gateway.write("password.txt", &format!("{PASSWORD}\n"));
    let url = format!("redis://127.0.0.1:{}", redis.port);
    let config = format!(
        "{{windows: [{{requests: 100, per: 1h}}, {{requests: 900, per: 30m}}], redis: {{url: \"{url}\", \
         password: {{file: password.txt}}, timeout: 10s, on_error: closed}}}}"
    );
    gateway.write("gate.yaml", &super::manifest(&config, &upstream.url()));
    gateway.gatectl(&["apply", "--wait", "-f", "gate.yaml"]).await.expect(0);
    let addrs = [gateway.proxy_addr_of(0), gateway.proxy_addr_of(1)];
    let storming = tokio::spawn(async move { storm(&addrs, "/api", 10).await });
    gateway.apply("routes: [{name: other, path: /other, backend: \"http://127.0.0.1:9\"}]\n").await;
    assert_eq!(storming.await.expect("no panic"), (100, 540));
    assert_eq!(upstream.requests().len(), 100);
    let refused = ask(&gateway).await;
    let said = refused.header("ratelimit").expect("the state");
    assert!(said.starts_with("\"limit-30m\";r=800;t=") && said.contains("\"limit-1h\";r=0;t="), "{said}");
    // What is there is a hash with an end, and nothing secret is shown.
    let keys = redis.say("KEYS *").await.expect("an answer");
    let key = keys.lines().find(|line| line.starts_with("rustygate:limit:")).expect("a key");
    assert_eq!((keys.matches("rustygate:").count(), key.len()), (1, "rustygate:limit:".len() + 32), "{keys}");
    let ttl = redis.say(&format!("TTL {key}")).await.expect("an answer");
    let seconds = ttl.lines().find_map(|line| line.strip_prefix(':')?.parse::<i64>().ok()).expect("a number");
    assert!((3500..=3600).contains(&seconds), "{ttl}");
    let yaml = gateway.gatectl(&["get", "-o", "yaml"]).await.expect(0);
    assert!(yaml.contains("password: {sealed: \"sha256:") && !yaml.contains(PASSWORD), "{yaml}");
    // A Redis that has lost counts and script begins anew.
    redis.say("SCRIPT FLUSH\r\nFLUSHALL").await.expect("an answer");
    assert_eq!(storm(&addrs, "/api", 10).await, (100, 540));
    gateway.shutdown().await;
}

#[tokio::test]
async fn over_tls_redis_is_believed_if_the_right_authority_vouches_for_it() {
    let upstream = Witness::saying("x").await;
    let (authority, other, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().expect("a folder"));
    let (pair, tls_port) = (authority.sign(&["localhost"]), free_port().to_string());
    for (name, pem) in [("redis.pem", &pair.chain), ("redis.key", &pair.key), ("authority.pem", &authority.pem)] {
        std::fs::write(folder.path().join(name), pem).expect("a file");
    }
    let files = ["--tls-cert-file", "redis.pem", "--tls-key-file", "redis.key", "--tls-ca-cert-file", "authority.pem"];
    let flags = [&["--tls-port", &tls_port, "--tls-auth-clients", "no"][..], &files[..]].concat();
    let Some(mut redis) = Redis::start_with(folder, &flags).await else { return };
    let plugin = |name: &str, place: &str| {
        let redis = format!(
            "{{url: \"rediss://{place}:{tls_port}\", password: {PASSWORD}, ca: {{file: {name}.pem}}, timeout: 10s, on_error: closed}}"
        );
        format!("{{requests: 5, per: 1h, key: plugin, redis: {redis}}}")
    };
    let first = format!("routes: [{{name: first, path: /first, backend: \"{}\"}}]\n", upstream.url());
    let gateway = Gateway::builder().manifest(&first).start().await;
    gateway.write("right.pem", &authority.pem);
    gateway.write("wrong.pem", &other.pem);
    let asked = async |status: u16| Client::connect(gateway.proxy_addr()).await.get("/api").await.status == status;
    let push = async |config: &str| {
        gateway.write("gate.yaml", &super::manifest(config, &upstream.url()));
        gateway.gatectl(&["apply", "--wait", "-f", "gate.yaml"]).await
    };
    push(&plugin("wrong", "localhost")).await.expect(0);
    assert!(asked(503).await);
    push(&plugin("right", "127.0.0.1")).await.expect(0);
    for _ in 0..5 {
        assert!(asked(200).await);
    }
    push(&plugin("right", "localhost")).await.expect(0);
    assert!(asked(429).await, "the count is that of Redis");
    redis.kill();
    assert!(asked(503).await);
    redis.revive().await;
    within("Redis to be asked again", async {
        while !asked(200).await {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let refused = push("{requests: 5, per: 1h, redis: {url: \"redis://localhost\", ca: {file: right.pem}}}").await;
    let said = refused.expect_stderr(1);
    assert!(said.contains("the URL has no TLS that this is for") && said.contains("rediss://"), "{said}");
    gateway.shutdown().await;
}

/// Asks again and again until it is told to stop: each status, with the time that it took.
fn probe(addr: SocketAddr, path: String, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<(u16, Duration)>> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let mut client = Client::connect(addr).await;
        let mut seen = Vec::new();
        while !stop.load(Relaxed) {
            let begun = Instant::now();
            let status = client.get(&path).await.status;
            seen.push((status, begun.elapsed()));
            sleep(Duration::from_millis(3)).await;
        }
        seen
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_redis_that_dies_and_each_plugin_does_what_it_says() {
    let upstream = Witness::saying("x").await;
    let Some(mut redis) = Redis::start().await else { return };
    let plenty = manifest(&redis, 1_000_000, "25ms", &upstream.url());
    let mut gateway = Gateway::builder().proxies(2).manifest(&plenty).start().await;
    let addrs = [gateway.proxy_addr_of(0), gateway.proxy_addr_of(1)];
    shared_again(&addrs).await;
    let stop = Arc::new(AtomicBool::new(false));
    let probes = addrs.into_iter().flat_map(|addr| WAYS.map(|way| (way, probe(addr, format!("/{way}"), &stop))));
    let probes: Vec<_> = probes.collect();
    sleep(Duration::from_millis(300)).await;
    for _ in 0..2 {
        redis.kill();
        // Long enough for many requests and some vain tries to connect.
        sleep(Duration::from_millis(300)).await;
        redis.revive().await;
        shared_again(&addrs).await;
    }
    stop.store(true, Relaxed);
    for (way, probe) in probes {
        let seen = within("a probe", probe).await.expect("no panic");
        assert!(seen.len() > 50, "{}", seen.len());
        let before = seen.iter().take(30).map(|(_, took)| *took).max().unwrap_or_default();
        let slowest = seen.iter().map(|(_, took)| *took).max().unwrap_or_default();
        println!("{way}: {} requests, the slowest {slowest:?}, before {before:?}", seen.len());
        assert!(slowest <= before + SLOWER_MAX, "{way}: {slowest:?}, before {before:?}");
        let failed = seen.iter().filter(|(status, _)| *status == 503).count();
        assert!(seen.iter().all(|(status, _)| *status == 200 || *status == 503), "{way}: {seen:?}");
        assert_eq!(failed > 0, way == "closed", "{way}: {failed} of {}", seen.len());
    }
    let metrics = gateway.metrics(0).await;
    let errors = metrics.lines().find_map(|line| line.strip_prefix("rustygate_rate_limit_errors_total "));
    assert!(errors.is_some_and(|count| count != "0"), "{errors:?}");

    // Now with a limit that is reached.
    gateway.apply(&manifest(&redis, 100, "10s", &upstream.url())).await;
    redis.say("FLUSHALL").await.expect("an answer");
    assert_eq!(storm(&addrs, "/closed", 5).await, (100, 220));
    redis.kill();
    let refused = Client::connect(addrs[0]).await.get("/closed").await;
    let problem: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!((refused.status, &problem["reason"]), (503, &"rate_limit_unavailable".into()));
    assert_eq!(storm(&addrs, "/open", 5).await, (320, 0));
    assert_eq!(storm(&addrs, "/local", 5).await, (200, 120), "a hundred at each proxy");
    redis.revive().await;
    shared_again(&addrs).await;
    redis.say("FLUSHALL").await.expect("an answer");
    for path in ["/open", "/closed", "/local"] {
        assert_eq!(storm(&addrs, path, 5).await, (100, 220), "{path}");
    }
    gateway.shutdown().await;
}

/// A Redis that takes connections and says nothing: each worker waits for it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_is_waited_for_once() {
    const PATIENCE: Duration = Duration::from_millis(700);
    let upstream = Witness::saying("x").await;
    let Some(redis) = Redis::start().await else { return };
    let gateway = Gateway::builder().manifest(&manifest(&redis, 1000, "700ms", &upstream.url())).start().await;
    let addrs = [gateway.proxy_addr()];
    shared_again(&addrs).await;
    redis.signal("-STOP");
    let begun = Instant::now();
    let mut waited = 0;
    for _ in 0..40 {
        let begun = Instant::now();
        assert_eq!(status(addrs[0], "/closed").await, 503);
        waited += usize::from(begun.elapsed() >= PATIENCE);
    }
    assert!(waited <= 2, "{waited} of 40 waited, with two workers; in all {:?}", begun.elapsed());
    redis.signal("-CONT");
    shared_again(&addrs).await;
    gateway.shutdown().await;
}
