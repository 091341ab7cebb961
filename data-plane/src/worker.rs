//! One worker: a thread with its own runtime, listener sockets, upstream pools and counters. Nothing that a request
//! touches is shared with another worker but what is read-only.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::Instant;

use crate::{
    consumer::Verifier,
    crew::Crew,
    date::DateCache,
    encoding::Encoders,
    forward::{Forwarded, TrustedProxies},
    health::Health,
    http1::head::{RequestHead, ResponseHead},
    http2,
    limit::{Limit, PerKey},
    listener::ListenerState,
    live::{IdMap, Own, States},
    plugin::{Plugin, Reason, mirror::copies::Copies},
    resolve::Names,
    snapshot::{Backend, Id, Rule, SnapshotCell},
    spare,
    target::Target,
    telemetry::{
        access_log::AccessLog,
        metrics::{Answers, OVERFLOW, RequestMetrics, Series},
    },
    timer::Timer,
    tls,
    upstream::Upstreams,
};

/// How often a worker looks after its log, its pools and its counters.
const TICK: Duration = Duration::from_millis(100);

/// Ticks between two sweeps of what lies idle.
const TICKS_PER_SWEEP: u32 = 20;

/// The most scratch spaces a worker keeps for the next requests.
const SCRATCH_KEPT_MAX: usize = 256;

/// Fields that grew beyond this are not kept.
const FIELDS_KEPT_BYTES: usize = 16 << 10;

/// A buffer that grew beyond this is not kept.
const BUFFER_KEPT_BYTES: usize = 256 << 10;

/// Bounds of the request path, and how it behaves; fixed for the process's life.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The most client connections of the process. Default 20,000.
    pub connections_max: u64,
    /// The most of them from one address, or one /64 of IPv6; trusted proxies have no such bound, and 0 means that
    /// nobody has. Default 16,000.
    pub connections_per_ip_max: u32,
    /// From the first byte of a TLS handshake to its last. Default 10 s.
    pub tls_handshake_timeout: Duration,
    /// The most bytes of a request's head. Default and most [`crate::http1::head::HEAD_BYTES_MAX`].
    pub head_bytes_max: usize,
    /// The most field lines of a request's head. Default and most [`crate::http1::head::FIELDS_MAX`].
    pub head_fields_max: usize,
    /// The most bytes of a request's body. Default 10 GiB.
    pub body_bytes_max: u64,
    /// From a head's first byte to its last. Default 10 s.
    pub head_timeout: Duration,
    /// Between two pieces of a request's body. Default 60 s.
    pub body_timeout: Duration,
    /// Bytes of a request's body with which a client earns a second of `body_timeout`; 0 means that any byte earns all of it.
    /// Default 100.
    pub body_rate_min: u32,
    /// How long a client may take nothing of an answer that is there. Default 60 s.
    pub write_timeout: Duration,
    /// Bytes of an answer with which a client earns a second of `write_timeout`; 0 means that any byte earns all of it.
    /// Default 100.
    pub write_rate_min: u32,
    /// How long a connection may lie idle between requests. Default 75 s.
    pub keep_alive_timeout: Duration,
    /// The most requests of a connection. Default no bound.
    pub requests_per_connection_max: Option<u64>,
    /// The age at which a connection gets no more requests; less up to a tenth, by chance. Default no bound.
    pub connection_age_max: Option<Duration>,
    /// Whose word on clients is believed. Default nobody's.
    pub trusted_proxies: TrustedProxies,
    /// Whether responses carry `X-RustyGate-Backend` and `X-RustyGate-Duration-ms`. Default yes.
    pub debug_headers: bool,
}

/// What all workers read.
#[derive(Debug)]
pub struct Shared {
    /// The present configuration.
    pub snapshot: Arc<SnapshotCell>,
    /// Where counts are scraped from.
    pub metrics: Arc<RequestMetrics>,
    /// What the workers share of upstreams.
    pub health: Arc<Health>,
    /// How many connections each client address has.
    pub clients: PerKey<IpAddr>,
    /// Where endpoints with names are.
    pub names: Arc<Names>,
    /// Checks passwords.
    pub verifier: Arc<Verifier>,
    /// What plugins keep over snapshots.
    pub states: Arc<States>,
    /// See there.
    pub policy: Policy,
}

#[cfg(test)]
impl Shared {
    /// With small bounds and nothing else.
    pub fn for_test(snapshot: Arc<SnapshotCell>) -> Self {
        const PATIENCE: Duration = Duration::from_secs(20);
        let policy = Policy {
            connections_max: 100,
            connections_per_ip_max: 0,
            tls_handshake_timeout: PATIENCE,
            head_bytes_max: 1 << 16,
            head_fields_max: 100,
            body_bytes_max: 1 << 20,
            head_timeout: PATIENCE,
            body_timeout: PATIENCE,
            body_rate_min: 0,
            write_timeout: PATIENCE,
            write_rate_min: 0,
            keep_alive_timeout: PATIENCE,
            requests_per_connection_max: None,
            connection_age_max: None,
            trusted_proxies: TrustedProxies::default(),
            debug_headers: false,
        };
        let (metrics, health, names, states) = Default::default();
        let verifier = Arc::new(Verifier::new(1));
        Self { snapshot, metrics, health, clients: PerKey::default(), names, verifier, states, policy }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct Worker {
    /// What all workers read.
    pub shared: Arc<Shared>,
    /// All workers, this one among them.
    pub crew: Arc<Crew>,
    /// Which of them this one is.
    pub index: usize,
    /// Pools and balancing state.
    pub upstreams: Upstreams,
    /// The access log, if it is on.
    pub log: Option<AccessLog>,
    /// The time for answers.
    pub date: DateCache,
    /// What plugins keep in this worker.
    pub states: Own,
    /// What goes to mirrors.
    pub copies: Rc<Copies>,
    /// Bytes of large heads of HTTP/2 requests that are not over.
    pub large_heads: Cell<usize>,
    /// Room for what HTTP/2 connections send and receive.
    pub rooms: Rc<http2::output::Rooms>,
    /// Counts what bodies go through to be in another coding.
    pub encoders: Encoders,
    /// Tasks that wait for an HTTP/2 request.
    pub idle_servers: RefCell<Vec<Rc<http2::server::Server>>>,
    series: RefCell<IdMap<(Arc<Series>, Instant)>>,
    /// Counts what plugins answer.
    answers: RefCell<IdMap<Arc<Answers>>>,
    /// Counts the requests that no route got.
    unrouted: Arc<Series>,
    /// Counts for the routes that came when there were too many series.
    overflow: Arc<Series>,
    #[allow(clippy::vec_box, reason = "it is large, and would be copied at every loan")]
    scratch: RefCell<Vec<Box<Scratch>>>,
    draining: Cell<bool>,
    connections: RefCell<Connections>,
}

/// The connections of a worker, so that a drain can wake them.
#[derive(Debug, Default)]
struct Connections {
    next: u64,
    wakers: std::collections::HashMap<u64, Waker>,
}

/// Counts a connection for as long as it lives.
#[derive(Debug)]
pub struct Registered {
    worker: Rc<Worker>,
    key: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().wakers.remove(&self.key);
    }
}

/// An upgraded connection.
#[derive(Debug)]
pub struct Tunnel<'a>(&'a RequestMetrics);

impl Drop for Tunnel<'_> {
    fn drop(&mut self) {
        self.0.gauges.tunnels.fetch_sub(1, Relaxed);
    }
}

/// The buffers and values that serving a request takes. A connection borrows them while it has a request at hand, so
/// that idle connections cost little and busy ones allocate nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    /// What the client sent and nobody used yet.
    pub client_in: BytesMut,
    /// What goes to the client.
    pub client_out: Vec<u8>,
    /// What the upstream sent and nobody used yet.
    pub upstream_in: BytesMut,
    /// What goes to the upstream.
    pub upstream_out: Vec<u8>,
    /// The request's head.
    pub request: RequestHead,
    /// The response's head.
    pub response: ResponseHead,
    /// What the request asks for.
    pub target: Target,
    /// Whom the request comes from.
    pub forwarded: Forwarded,
    /// For a request that has no connection, and so no timer, of its own.
    pub timer: Timer,
}

impl Worker {
    /// A worker without connections.
    #[must_use]
    pub fn new(shared: Arc<Shared>, log: Option<AccessLog>, crew: Arc<Crew>, index: usize) -> Self {
        let named = |name: &str| {
            let name = name.into();
            shared.metrics.series(&name, &name).expect("workers start before routes have series")
        };
        let (unrouted, overflow) = (named("none"), named(OVERFLOW));
        Self {
            upstreams: Upstreams::new(Arc::clone(&shared.health), Arc::clone(&shared.names)),
            states: Own::new(Arc::clone(&shared.states)),
            shared,
            crew,
            index,
            unrouted,
            overflow,
            log,
            date: DateCache::default(),
            copies: Rc::default(),
            large_heads: Cell::new(0),
            rooms: Rc::default(),
            encoders: Encoders::default(),
            idle_servers: RefCell::default(),
            series: RefCell::default(),
            answers: RefCell::default(),
            scratch: RefCell::default(),
            draining: Cell::new(false),
            connections: RefCell::default(),
        }
    }

    /// Space for a request.
    pub fn lend(&self) -> Box<Scratch> {
        self.scratch.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes the space back for the next request.
    pub fn give_back(&self, mut scratch: Box<Scratch>) {
        spare::give_back(&mut scratch.client_in);
        spare::give_back(&mut scratch.upstream_in);
        scratch.client_out.clear();
        scratch.upstream_out.clear();
        let large = [
            scratch.client_in.capacity(),
            scratch.client_out.capacity(),
            scratch.upstream_in.capacity(),
            scratch.upstream_out.capacity(),
        ];
        let fields = [scratch.request.fields.capacity(), scratch.response.fields.capacity()];
        let mut kept = self.scratch.borrow_mut();
        if kept.len() < SCRATCH_KEPT_MAX
            && large.iter().all(|&bytes| bytes <= BUFFER_KEPT_BYTES)
            && fields.iter().all(|&bytes| bytes <= FIELDS_KEPT_BYTES)
        {
            kept.push(scratch);
        }
    }

    /// The counters of a rule's route and a backend.
    pub fn series(&self, rule: &Rule, backend: &Backend, now: Instant) -> Arc<Series> {
        let key = Id(rule.id.0.rotate_left(17) ^ backend.id.0);
        let mut series = self.series.borrow_mut();
        if let Some((series, used)) = series.get_mut(&key) {
            *used = now;
            return Arc::clone(series);
        }
        match self.shared.metrics.series(&rule.route, &backend.name) {
            Some(new) => Arc::clone(&series.entry(key).or_insert((new, now)).0),
            None => Arc::clone(&self.overflow),
        }
    }

    /// Counts a request that no backend was chosen for.
    pub fn count_unrouted(&self, status: u16, duration: Duration) {
        self.unrouted.end(status, duration);
    }

    /// A plugin answered a request: refused it for this reason, or answered by itself.
    pub fn count_answer(&self, plugin: &Plugin, reason: Option<&'static Reason>) {
        let mut answers = self.answers.borrow_mut();
        if let Some(known) = answers.get(&plugin.identity.id) {
            return known.count(reason);
        }
        if let Some(new) = self.shared.metrics.answers(&plugin.name, plugin.spec) {
            new.count(reason);
            answers.insert(plugin.identity.id, new);
        }
    }

    /// A client ran into a bound, or into none.
    pub fn count_limit(&self, limit: Option<Limit>) {
        if let Some(limit) = limit {
            self.shared.metrics.gauges.limits.count(limit);
        }
    }

    /// Counts an upgraded connection for as long as the result lives.
    pub fn tunnel_opened(&self) -> Tunnel<'_> {
        self.shared.metrics.gauges.tunnels.fetch_add(1, Relaxed);
        Tunnel(&self.shared.metrics)
    }

    /// A connection begins; the caller's task is woken when the worker drains.
    pub fn register(self: &Rc<Self>, waker: &Waker) -> Registered {
        let mut connections = self.connections.borrow_mut();
        let key = connections.next;
        connections.next += 1;
        connections.wakers.insert(key, waker.clone());
        Registered { worker: Rc::clone(self), key }
    }

    /// Whether the process is going down: idle connections close, busy ones close after their answer.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.draining.set(true);
        self.wake_connections();
    }

    /// Makes every connection look anew whether it may go on.
    pub fn wake_connections(&self) {
        for waker in self.connections.borrow().wakers.values() {
            waker.wake_by_ref();
        }
    }

    /// How many connections there are.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connections.borrow().wakers.len()
    }

    /// Looks after log, pools and counters for as long as the worker lives.
    pub async fn tick(self: Rc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for tick in 0_u32.. {
            let now = interval.tick().await;
            if let Some(log) = &self.log {
                log.flush();
            }
            if tick % TICKS_PER_SWEEP == 0 {
                self.upstreams.sweep(now);
                self.forget_series(now);
                self.states.sweep(now, || self.shared.snapshot.load_full());
                self.shrink();
            }
        }
    }

    /// Lets go of half of what is kept for more requests at a time than there are now.
    fn shrink(&self) {
        let mut scratch = self.scratch.borrow_mut();
        let half = scratch.len() / 2;
        scratch.truncate(half.max(1));
        let mut servers = self.idle_servers.borrow_mut();
        let half = servers.len() / 2;
        servers.drain(..half).for_each(|server| server.end());
        spare::shrink();
    }

    /// Forgets counters of routes that are gone; those of routes that are there stay, used or not.
    fn forget_series(&self, now: Instant) {
        const FORGET_AFTER: Duration = Duration::from_secs(3600);
        let mut series = self.series.borrow_mut();
        if series.values().any(|(_, used)| now.saturating_duration_since(*used) > FORGET_AFTER) {
            let snapshot = self.shared.snapshot.load();
            series.retain(|_, (series, used)| {
                now.saturating_duration_since(*used) <= FORGET_AFTER || snapshot.has_route(series.route())
            });
        }
    }
}

/// Who is at the other end of a client connection.
#[derive(Debug)]
pub struct Peer {
    /// Its address, IPv4 as IPv4.
    pub address: IpAddr,
    /// The same as text.
    pub text: String,
    /// What its handshake has told; `None` if it speaks in the clear.
    pub tls: Option<tls::Accepted>,
    /// Where it came in.
    pub listener: Rc<ListenerState>,
}

impl Peer {
    /// Of a connection from that address.
    #[must_use]
    pub fn new(address: IpAddr, listener: Rc<ListenerState>, tls: Option<tls::Accepted>) -> Self {
        let address = address.to_canonical();
        Self { address, text: address.to_string(), tls, listener }
    }

    /// Whether its listener asks clients for other certificates by now than it was asked for, so that nobody knows
    /// whether it would still be let in: it is served no more.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.tls.as_ref().is_some_and(|accepted| !self.listener.still_admits(accepted))
    }
}
