//! Which endpoints are down, by active checks. Kept by endpoint id over pushes; written by the checkers on the
//! background runtime, read by every worker without a lock.
//!
//! An endpoint has one checker, however many backends and routes use it. It is up until checks say otherwise, so a
//! new backend serves at once.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    http1::head::ResponseHead,
    live::IdMap,
    snapshot::{Endpoint, HealthCheck, Id, SnapshotCell},
    sync::State,
};

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Health {
    down: ArcSwap<IdMap<()>>,
}

impl Health {
    /// Whether an endpoint may get requests; one that nobody checks may.
    #[must_use]
    pub fn usable(&self, endpoint: Id) -> bool {
        let down = self.down.load();
        down.is_empty() || !down.contains_key(&endpoint)
    }

    fn set(&self, endpoint: Id, up: bool) {
        self.down.rcu(|down| {
            let mut down = IdMap::clone(down);
            if up {
                down.remove(&endpoint);
            } else {
                down.insert(endpoint, ());
            }
            Arc::new(down)
        });
    }
}

/// A checker at work, and its terms.
struct Checker {
    check: HealthCheck,
    task: JoinHandle<()>,
}

/// Keeps one checker per endpoint that the present snapshot wants checked, for as long as snapshots may come.
pub async fn check_all(health: Arc<Health>, cell: Arc<SnapshotCell>, mut changes: watch::Receiver<State>) {
    let mut checkers = HashMap::<Id, Checker>::new();
    let mut revision = 0;
    loop {
        let snapshot = cell.load();
        if snapshot.revision != revision {
            revision = snapshot.revision;
            let mut wanted = HashMap::<Id, (Arc<Endpoint>, HealthCheck)>::new();
            for backend in snapshot.backends() {
                let Some(check) = &backend.health_check else { continue };
                for endpoint in &backend.endpoints {
                    wanted.entry(endpoint.id).or_insert_with(|| (Arc::clone(endpoint), check.clone()));
                }
            }
            drop(snapshot);
            // A checker whose target and terms are the same goes on, with all that it knows.
            checkers.retain(|id, checker| {
                let same = wanted.get(id).is_some_and(|(_, check)| *check == checker.check);
                if !same {
                    checker.task.abort();
                }
                if !wanted.contains_key(id) {
                    health.set(*id, true);
                }
                same
            });
            for (id, (endpoint, check)) in wanted {
                checkers.entry(id).or_insert_with(|| {
                    let task = tokio::spawn(run(Arc::clone(&health), endpoint, check.clone()));
                    Checker { check, task }
                });
            }
        } else {
            drop(snapshot);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Checks one endpoint for ever.
async fn run(health: Arc<Health>, endpoint: Arc<Endpoint>, check: HealthCheck) {
    let mut up = health.usable(endpoint.id);
    let mut against = 0;
    // The first check comes at a random moment of the interval, so that checkers do not march in step.
    sleep(check.interval.mul_f64(fastrand::f64()).min(check.interval / 2)).await;
    loop {
        let good = matches!(timeout(check.timeout, probe(&endpoint, &check)).await, Ok(Ok(200..=399)));
        if good == up {
            against = 0;
        } else {
            against += 1;
            let threshold = if up { check.unhealthy_threshold } else { check.healthy_threshold };
            if against >= threshold {
                up = good;
                against = 0;
                health.set(endpoint.id, up);
                tracing::warn!(endpoint = %endpoint.authority, up, "health changed");
            }
        }
        sleep(check.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// The status that a check is answered with.
async fn probe(endpoint: &Endpoint, check: &HealthCheck) -> std::io::Result<u16> {
    /// The most bytes of an answer that are looked at.
    const ANSWER_BYTES_MAX: usize = 16 << 10;
    let mut stream = TcpStream::connect((&*endpoint.host, endpoint.port)).await?;
    let request = format!(
        "GET {}{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: RustyGate-HealthCheck\r\nConnection: close\r\n\r\n",
        endpoint.base_path, check.path, endpoint.authority
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = BytesMut::new();
    let mut head = ResponseHead::default();
    while answer.len() < ANSWER_BYTES_MAX && stream.read_buf(&mut answer).await? > 0 {
        match head.parse(&answer, "GET") {
            Ok(Some(bytes)) if head.status < 200 => drop(answer.split_to(bytes)),
            Ok(Some(_)) => return Ok(head.status),
            Ok(None) => {}
            Err(error) => return Err(std::io::Error::other(error)),
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}
