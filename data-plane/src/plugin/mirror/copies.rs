//! Copies of requests: their bodies as they pass, and what sends them.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    fields::Fields,
    snapshot::Backend,
    subrequest::{Subrequest, Terms, ask},
    telemetry::metrics::{MirrorDrop, RequestMetrics},
    upstream::Asker,
    worker::Worker,
};

/// The most bytes of an answer that are read to keep its connection.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How many copies of one plugin a worker has.
pub type InFlight = Rc<Cell<usize>>;

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Place(InFlight);

impl Place {
    /// One more, if there are fewer than `most`.
    pub fn enter(in_flight: &InFlight, most: usize) -> Option<Self> {
        if in_flight.get() >= most {
            return None;
        }
        in_flight.set(in_flight.get() + 1);
        Some(Self(Rc::clone(in_flight)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What is sent to a mirror.
#[derive(Debug)]
pub struct RequestCopy {
    /// Where to.
    pub backend: Arc<Backend>,
    /// A token.
    pub method: Box<str>,
    /// Behind the endpoint's own; may be empty.
    pub path: Box<str>,
    /// Without its question mark.
    pub query: Option<Box<str>>,
    /// For the Host field; the endpoint's authority without it.
    pub host: Option<Box<str>>,
    /// End-to-end fields, and who asks.
    pub fields: Fields,
    /// The canonical path that the client asked for, for balancing.
    pub asked_path: Box<str>,
    /// Whom the request comes from, for balancing.
    pub client: IpAddr,
    /// What has passed of it.
    pub body: Vec<u8>,
    /// The most bytes of it.
    pub body_bytes_max: usize,
    /// For the answer.
    pub timeout: Duration,
    /// Among the copies of its plugin.
    pub place: Place,
}

impl RequestCopy {
    /// Takes one more piece of the body, if there is room.
    fn keep(&mut self, piece: &[u8]) -> bool {
        let bytes = self.body.len() + piece.len();
        if bytes > self.body_bytes_max {
            return false;
        }
        if bytes > self.body.capacity() {
            // The bound is one of memory, too.
            let room = bytes.max(self.body.capacity() * 2).min(self.body_bytes_max);
            self.body.reserve_exact(room - self.body.len());
        }
        self.body.extend_from_slice(piece);
        true
    }

    async fn send(self, worker: Rc<Worker>) {
        let asker = Asker { fields: &self.fields, path: &self.asked_path, client: self.client };
        let request = Subrequest {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            host: self.host.as_deref(),
            fields: &self.fields,
            body: &self.body,
        };
        let terms = Terms { time: self.timeout, retries: 0, body_bytes_max: ANSWER_BYTES_MAX, keeps_body: false };
        let answer = ask(&worker, &self.backend, asker, &request, terms).await;
        let gauges = &worker.shared.metrics.gauges;
        match answer {
            Ok(answer) if answer.body.is_some() => drop(gauges.mirrored.fetch_add(1, Relaxed)),
            _ => gauges.mirror_drops.count(MirrorDrop::Failed),
        }
    }
}

/// The copies of one request while its body passes.
#[derive(Debug, Default)]
pub struct Copying(Option<Box<Passing>>);

#[derive(Debug)]
struct Passing {
    copies: Vec<RequestCopy>,
    to: Rc<Copies>,
    metrics: Arc<RequestMetrics>,
}

impl Copying {
    /// Of a request that goes upstream now.
    pub fn begin(copies: Vec<RequestCopy>, worker: &Worker) -> Self {
        if copies.is_empty() {
            return Self(None);
        }
        let (to, metrics) = (Rc::clone(&worker.copies), Arc::clone(&worker.shared.metrics));
        Self(Some(Box::new(Passing { copies, to, metrics })))
    }

    /// This piece of the body is on its way.
    pub fn keep(&mut self, piece: &[u8]) {
        let Some(passing) = &mut self.0 else { return };
        let drops = &passing.metrics.gauges.mirror_drops;
        passing.copies.retain_mut(|copy| {
            let fits = copy.keep(piece);
            if !fits {
                drops.count(MirrorDrop::TooLarge);
            }
            fits
        });
    }

    /// All of it has gone. Further tries of the request are no further copies.
    pub fn finish(&mut self) {
        if let Some(mut passing) = self.0.take() {
            let copies = std::mem::take(&mut passing.copies);
            passing.to.add(copies);
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.copies.iter().for_each(|_| self.metrics.gauges.mirror_drops.count(MirrorDrop::Unfinished));
    }
}

/// A worker's copies that are to be sent. As many as their plugins let there be.
#[derive(Debug, Default)]
pub struct Copies {
    queue: RefCell<VecDeque<RequestCopy>>,
    added: Notify,
}

impl Copies {
    fn add(&self, copies: Vec<RequestCopy>) {
        self.queue.borrow_mut().extend(copies);
        self.added.notify_one();
    }

    /// The one that has waited longest.
    pub fn next(&self) -> Option<RequestCopy> {
        self.queue.borrow_mut().pop_front()
    }
}

/// Sends copies, each in a task of its own, for as long as the worker lives.
pub async fn send_all(worker: Rc<Worker>) {
    loop {
        while let Some(copy) = worker.copies.next() {
            tokio::task::spawn_local(copy.send(Rc::clone(&worker)));
        }
        worker.copies.added.notified().await;
    }
}
