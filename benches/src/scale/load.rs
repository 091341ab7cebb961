//! The load: requests to routes chosen at random, at a steady rate, each one's time kept.
//!
//! It runs on a thread of its own. A connection sends its next request at the next beat of its own clock, or at once
//! if the answer to the last came later; so a stall shows in every request that it catches.

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context, anyhow, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{Plan, place};
use crate::peers::{
    client::body_bytes,
    load::{Answer, Load as Shape},
};

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Every so many connections there is one past the proxy.
const THROUGH_PER_PAST: u16 = 4;

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was sent, since the epoch.
    pub sent: Duration,
    /// Until the whole answer was there.
    pub took: Duration,
    /// Whether it went through the proxy, not past it.
    pub through: bool,
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    /// What times count from.
    pub epoch: Instant,
    stop: watch::Sender<bool>,
    thread: thread::JoinHandle<anyhow::Result<Vec<Sample>>>,
}

impl Load {
    /// Starts asking.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(plan: &Plan, proxy: SocketAddr, backend: SocketAddr) -> anyhow::Result<Self> {
        let epoch = Instant::now();
        let (stop, stopped) = watch::channel(false);
        let beat = Duration::from_secs(1) * u32::from(plan.connections) / plan.rate;
        let (routes, connections) = (plan.routes, plan.connections);
        let ask = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for number in 0..connections {
                    let first = epoch + beat * u32::from(number) / u32::from(connections);
                    let through = Connection { target: proxy, routes: Some(routes), epoch, first, beat };
                    tasks.spawn(through.ask(stopped.clone()));
                    if number % THROUGH_PER_PAST == 0 {
                        tasks.spawn(Connection { target: backend, routes: None, ..through }.ask(stopped.clone()));
                    }
                }
                let mut samples = Vec::new();
                while let Some(asked) = tasks.join_next().await {
                    samples.append(&mut asked.context("a client failed")??);
                }
                Ok(samples)
            })
        };
        let thread = thread::Builder::new().name("load".to_owned()).spawn(ask)?;
        Ok(Self { epoch, stop, thread })
    }

    /// Stops asking; what was seen.
    ///
    /// # Errors
    /// If any request had no right answer.
    pub async fn finish(self) -> anyhow::Result<Vec<Sample>> {
        self.stop.send_replace(true);
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await?;
        joined.map_err(|_| anyhow!("the load panicked"))?
    }
}

#[derive(Clone, Copy)]
struct Connection {
    target: SocketAddr,
    /// Of the proxy; the backend has none.
    routes: Option<usize>,
    epoch: Instant,
    first: Instant,
    beat: Duration,
}

impl Connection {
    async fn ask(self, stopped: watch::Receiver<bool>) -> anyhow::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let mut stream = TcpStream::connect(self.target).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let mut beats = interval_at(self.first, self.beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut random = fastrand::Rng::new();
        let mut buffer = vec![0; 4 << 10];
        while !*stopped.borrow() {
            beats.tick().await;
            let request = match self.routes {
                Some(routes) => request(random.usize(..routes)),
                None => Shape::Small.spec().request(),
            };
            let begun = Instant::now();
            tokio::time::timeout(ANSWER_MAX, exchange(&mut stream, &request, &mut buffer)).await??;
            let took = begun.elapsed();
            samples.push(Sample { sent: begun - self.epoch, took, through: self.routes.is_some() });
        }
        Ok(samples)
    }
}

/// The request of the small load, to a route; what the route leaves of its path is what the backend answers.
#[must_use]
pub fn request(route: usize) -> Vec<u8> {
    let (host, path) = place(route);
    let path = format!("{path}{}", Answer::Small.path());
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench-scale\r\nAccept: application/json\r\n\r\n").into()
}

/// One request and its whole answer; returns the head of it.
///
/// # Errors
/// If it is not the small answer.
pub async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> anyhow::Result<Arc<str>> {
    stream.write_all(request).await.context("cannot send")?;
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await.context("cannot read")? {
            0 => anyhow::bail!("closed after {filled} bytes of an answer"),
            read => filled += read,
        }
        let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let (head, body) = buffer[..filled].split_at(end + 4);
        let announced = body_bytes(head)?;
        ensure!(announced == Answer::Small.bytes(), "a body of {announced} bytes");
        ensure!(body.len() <= announced, "bytes after the answer");
        if body.len() == announced {
            return Ok(std::str::from_utf8(head)?.into());
        }
    }
}
