//! The load generator of HTTP/1.1: a closed loop over a fixed number of requests.
//!
//! Each connection sends its next request when it has the whole answer to the last. The number of requests is fixed, not the time,
//! so that CPU per request is exact. It runs as a process of its own, pinned away from the proxy, and prints one
//! line of JSON.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::Instant,
};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{
    load::{Client, Load, Spec},
    process,
    tls::Handshaker,
};

/// How large a head may be, and how much is read at once.
const BUFFER_BYTES: usize = 128 << 10;

/// Idle connections come from as many addresses, so that the ports of one need not do.
const SOURCES: u8 = 8;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The proxy's listener.
    pub target: SocketAddr,
    /// The certificate that it has for TLS.
    pub certificate: PathBuf,
    /// What to ask.
    pub load: Load,
    /// How often, over all connections.
    pub requests: u64,
    /// How many at once.
    pub connections: usize,
    /// After which whatever is unanswered is an error.
    pub time_max: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Right answers.
    pub completed: u64,
    /// Everything else: other statuses, wrong lengths, closed connections, requests unanswered in time.
    pub errors: u64,
    /// What the first of them was.
    pub first_error: Option<String>,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Half of the answers took no longer; 0 without answers.
    pub p50_us: f64,
    /// 99 of 100 answers took no longer; 0 without answers.
    pub p99_us: f64,
    /// CPU time of the generator.
    pub cpu_seconds: f64,
}

/// Runs the plan.
///
/// # Errors
/// Only if the generator itself fails: what the proxy does wrong is in the outcome.
pub async fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    Ok(ask(plan).await?.0)
}

/// Runs the plan of an idle load: says `open` when every connection has had its answer, and waits with all of them open
/// until `told`. One that the proxy closed meanwhile, or said anything on, is an error.
///
/// # Errors
/// Only if the generator itself fails: what the proxy does wrong is in the outcome.
pub async fn hold(plan: &Plan, told: impl Future<Output = ()>) -> anyhow::Result<Outcome> {
    let (mut outcome, held) = ask(plan).await?;
    println!("open");
    told.await;
    for mut stream in held {
        // Sessions of TLS may still have tickets to read; those are no bytes.
        if let Ok(read) = tokio::time::timeout(Duration::ZERO, stream.read(&mut [0])).await {
            outcome.errors += 1;
            outcome.first_error.get_or_insert_with(|| format!("an idle connection did not stay so: {read:?}"));
        }
    }
    Ok(outcome)
}

async fn ask(plan: &Plan) -> anyhow::Result<(Outcome, Vec<Stream>)> {
    let spec = plan.load.spec();
    let request: Arc<[u8]> = spec.request().into();
    let remaining = Arc::new(AtomicU64::new(plan.requests));
    let started = Instant::now();
    let deadline = started + plan.time_max;
    let workers = (0..plan.connections).map(|number| {
        let tls = spec.listener.is_tls();
        let handshaker = tls.then(|| Handshaker::new(&plan.certificate, spec.client == Client::Resume));
        let worker = Worker {
            number,
            target: plan.target,
            handshaker: handshaker.transpose()?,
            spec,
            request: Arc::clone(&request),
            remaining: Arc::clone(&remaining),
            buffer: vec![0; BUFFER_BYTES],
            tally: Tally::default(),
        };
        Ok(tokio::spawn(worker.run(deadline)))
    });
    let mut tally = Tally::default();
    for worker in workers.collect::<anyhow::Result<Vec<_>>>()? {
        tally.merge(worker.await.context("a worker of the load generator failed")?);
    }
    let seconds = started.elapsed().as_secs_f64();
    tally.latencies_ns.sort_unstable();
    // What was never taken up because time ran out is an error too.
    let completed = tally.latencies_ns.len() as u64;
    let outcome = Outcome {
        completed,
        errors: plan.requests.saturating_sub(completed).max(tally.errors),
        first_error: tally.first_error,
        seconds,
        p50_us: quantile_us(&tally.latencies_ns, 0.50),
        p99_us: quantile_us(&tally.latencies_ns, 0.99),
        cpu_seconds: process::own_cpu()?.as_secs_f64(),
    };
    Ok((outcome, tally.held))
}

/// Smallest value that `share` of them do not exceed.
pub(super) fn quantile_us(sorted_ns: &[u64], share: f64) -> f64 {
    let rank = (sorted_ns.len() as f64 * share).ceil() as usize;
    sorted_ns.get(rank.saturating_sub(1)).map_or(0.0, |&ns| ns as f64 / 1000.0)
}

#[derive(Debug, Default)]
struct Tally {
    latencies_ns: Vec<u64>,
    errors: u64,
    first_error: Option<String>,
    /// Idle connections.
    held: Vec<Stream>,
}

impl Tally {
    fn merge(&mut self, mut other: Self) {
        self.latencies_ns.append(&mut other.latencies_ns);
        self.held.append(&mut other.held);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(format!("{error:#}"));
        }
    }
}

type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// One connection at a time.
struct Worker {
    number: usize,
    target: SocketAddr,
    handshaker: Option<Handshaker>,
    spec: Spec,
    request: Arc<[u8]>,
    remaining: Arc<AtomicU64>,
    buffer: Vec<u8>,
    tally: Tally,
}

impl Worker {
    async fn run(mut self, deadline: Instant) -> Tally {
        if tokio::time::timeout_at(deadline, self.take_turns()).await.is_err() {
            self.tally.fail(&anyhow::anyhow!("no answer before the time was up"));
        }
        self.tally
    }

    async fn take_turns(&mut self) {
        let mut open = None;
        while self.take() {
            let started = Instant::now();
            match self.turn(open.take()).await {
                Ok(kept) => {
                    self.tally.latencies_ns.push(started.elapsed().as_nanos() as u64);
                    open = kept;
                    if self.spec.client == Client::Idle {
                        self.tally.held.extend(open.take());
                    }
                }
                Err(error) => self.tally.fail(&error),
            }
        }
    }

    fn take(&self) -> bool {
        self.remaining.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// One request, over the given connection or a new one; gives back the connection if it can be used again.
    async fn turn(&mut self, open: Option<Stream>) -> anyhow::Result<Option<Stream>> {
        let mut stream = match open {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        stream.write_all(&self.request).await.context("cannot send")?;
        stream.flush().await.context("cannot send")?;
        self.read_answer(&mut stream).await?;
        if !self.spec.connects_each_time() {
            return Ok(Some(stream));
        }
        match stream.read(&mut self.buffer).await {
            Ok(0) => Ok(None),
            // Without the alert that ends TLS: the answer was whole, since it told its length.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Ok(_) => anyhow::bail!("bytes after the answer"),
            Err(error) => Err(error).context("after the answer"),
        }
    }

    async fn connect(&mut self) -> anyhow::Result<Stream> {
        let socket = TcpSocket::new_v4()?;
        if self.spec.client == Client::Idle {
            let source = Ipv4Addr::new(127, 0, 0, 1 + self.number as u8 % SOURCES);
            socket.bind((source, 0).into()).with_context(|| format!("cannot bind {source}"))?;
        }
        let stream = socket.connect(self.target).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        match &mut self.handshaker {
            None => Ok(Either::Left(stream)),
            Some(handshaker) => Ok(Either::Right(handshaker.shake_hands(stream).await?)),
        }
    }

    async fn read_answer(&mut self, stream: &mut Stream) -> anyhow::Result<()> {
        let mut filled = 0;
        let head_bytes = loop {
            match stream.read(&mut self.buffer[filled..]).await.context("in the head of an answer")? {
                0 => anyhow::bail!("closed after {filled} bytes of a head"),
                read => filled += read,
            }
            if let Some(end) = self.buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let announced = body_bytes(&self.buffer[..head_bytes])?;
        let expected = self.spec.answer.bytes();
        anyhow::ensure!(announced == expected, "a body of {announced} bytes instead of {expected}");
        let mut left = expected.checked_sub(filled - head_bytes).context("bytes after the answer")?;
        while left > 0 {
            match stream.read(&mut self.buffer).await.context("in the body of an answer")? {
                0 => anyhow::bail!("closed {left} bytes before the end of a body"),
                read => left = left.checked_sub(read).context("bytes after the answer")?,
            }
        }
        Ok(())
    }
}

/// What a head announces, if it is the head of a good answer.
pub(crate) fn body_bytes(head: &[u8]) -> anyhow::Result<usize> {
    let text = std::str::from_utf8(head).context("a head that is not text")?;
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    anyhow::ensure!(status_line.starts_with("HTTP/1.1 200"), "answered {status_line:?}");
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("an answer without Content-Length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{backend, load::Listener};

    #[test]
    fn only_a_good_answer_counts() {
        assert_eq!(body_bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n").ok(), Some(12));
        assert!(body_bytes(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 12\r\n\r\n").is_err());
        assert!(body_bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let sorted: Vec<u64> = (1..=100).map(|us| us * 1000).collect();
        assert_eq!(quantile_us(&sorted, 0.5), 50.0);
        assert_eq!(quantile_us(&sorted, 0.99), 99.0);
        assert_eq!(quantile_us(&[7000], 0.99), 7.0);
        assert_eq!(quantile_us(&[], 0.99), 0.0);
    }

    fn plan(target: SocketAddr, load: Load) -> Plan {
        let certificate = PathBuf::from("none");
        Plan { target, certificate, load, requests: 20, connections: 3, time_max: Duration::from_secs(20) }
    }

    /// The backend, while something is done with it.
    async fn with_backend(doing: impl AsyncFnOnce(SocketAddr)) {
        let [target] = process::free_addresses().expect("a free port");
        let serving = async {
            backend::serve(target).await.expect("the backend serves");
        };
        let asking = async {
            process::wait_until_open(target).await.expect("the backend listens");
            doing(target).await;
        };
        tokio::select! {
            () = serving => panic!("the backend stopped"),
            () = asking => {}
        }
    }

    #[tokio::test]
    async fn every_load_gets_exactly_as_many_answers_as_requests() {
        with_backend(async |target| {
            for load in Load::ALL.into_iter().filter(|load| load.spec().listener == Listener::Http1) {
                let outcome = run(&plan(target, load)).await.expect("the generator runs");
                assert_eq!((outcome.completed, outcome.errors), (20, 0), "{load:?}: {:?}", outcome.first_error);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn idle_connections_stay_open_until_told_and_must() {
        with_backend(async |target| {
            let outcome = hold(&plan(target, Load::Idle), async {}).await.expect("the generator runs");
            assert_eq!((outcome.completed, outcome.errors), (20, 0), "{:?}", outcome.first_error);
        })
        .await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let (target, closed) = (listener.local_addr().expect("bound"), tokio::sync::Notify::new());
        let serving = async {
            let mut open = Vec::new();
            for _ in 0..20 {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                assert!(stream.read(&mut [0; 4096]).await.expect("a request") > 0);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{}", "x".repeat(200));
                stream.write_all(answer.as_bytes()).await.expect("sends");
                open.push(stream);
            }
            // The client sees one of them end before it looks.
            drop(open.pop());
            tokio::time::sleep(Duration::from_millis(20)).await;
            closed.notify_one();
            std::future::pending::<()>().await;
        };
        let plan = plan(target, Load::Idle);
        let outcome = tokio::select! {
            () = serving => panic!("served for ever"),
            outcome = hold(&plan, closed.notified()) => outcome.expect("the generator runs"),
        };
        assert_eq!(outcome.errors, 1, "{:?}", outcome.first_error);
    }

    #[tokio::test]
    async fn a_closed_port_is_an_error_for_each_request() {
        let [target] = process::free_addresses().expect("a free port");
        let outcome = run(&plan(target, Load::Small)).await.expect("the generator runs");
        assert_eq!((outcome.completed, outcome.errors), (0, 20));
        assert!(outcome.first_error.expect("an error").contains("cannot connect"));
    }
}
