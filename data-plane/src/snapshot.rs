//! The configuration as the request path sees it: one immutable value, compiled whole from the wire
//! ([`compile`]) and replaced in one store ([`SnapshotCell`]).
//!
//! A snapshot shares with its predecessor everything that a push did not change. A request loads it
//! once, matches, and keeps only the [`Rule`] that it matched; so a stream of a week pins one rule and
//! its backends, never a whole old configuration.

pub mod compile;
pub(crate) mod cow_map;
pub mod fault;

use std::{borrow::Cow, collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

pub use self::cow_map::CowMap;
use crate::{
    consumer::Consumers,
    plugin::{Chain, Plugin},
    route::Router,
    tls,
};

/// The listener that is used when the configuration has none.
pub const DEFAULT_LISTENER: &str = "default";

/// Identifies live state over pushes: the same thing has the same id in every snapshot and every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u64);

impl Id {
    /// The id of the thing that `identity` tells apart from others of its `kind`.
    #[must_use]
    pub fn of(kind: &str, identity: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(kind.as_bytes()).update(&[0]).update(identity.as_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        Self(u64::from_le_bytes(bytes))
    }
}

/// One whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Which one.
    pub revision: u64,
    /// Sorted by name. Empty means that the process's default listener is used.
    pub listeners: Vec<Arc<Listener>>,
    /// The names of the listeners, sorted by their addresses: each request asks for that of the one it came in by.
    names: Arc<[(SocketAddr, Arc<str>)]>,
    /// Every route, ready to be matched.
    pub router: Router,
    /// Who may call with a key or a password.
    pub consumers: Arc<Consumers>,
    pub(crate) compiled: compile::Compiled,
}

impl Snapshot {
    /// The name of the listener with that address.
    #[must_use]
    pub fn listener_at(&self, address: SocketAddr) -> Option<&str> {
        let found = self.names.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        Some(&self.names[found].1)
    }

    /// The listener of that name.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        let found = self.listeners.binary_search_by(|listener| (*listener.name).cmp(name)).ok()?;
        Some(&self.listeners[found])
    }

    /// Whether there is a route of that name.
    #[must_use]
    pub fn has_route(&self, name: &str) -> bool {
        self.router.has_route(name)
    }

    /// Every backend that a request may go to: the named ones and those written in place, in no particular order.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.compiled.backends()
    }

    /// The backend of that name.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.compiled.backends.get(name)
    }

    /// Every certificate, by name.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<tls::Certificate>> {
        self.compiled.certificates.values()
    }

    /// The host names, not addresses, of the backends and published keys that this snapshot's own changes brought; some may be known from
    /// before.
    #[must_use]
    pub fn new_names(&self) -> &[Box<str>] {
        &self.compiled.new_names
    }

    /// Every plugin, by name.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.compiled.plugins.values()
    }

    /// How many routes there are.
    #[must_use]
    pub fn route_count(&self) -> usize {
        self.router.route_count()
    }
}

/// A socket that accepts clients.
#[derive(Clone, Debug)]
pub struct Listener {
    /// As routes name it.
    pub name: Arc<str>,
    /// Where it is bound.
    pub address: SocketAddr,
    /// TLS to its clients; `None` if they speak in the clear.
    pub tls: Option<Arc<tls::Server>>,
    /// For every request that comes in here, where nothing more specific has one of the type.
    pub plugins: Box<[Arc<Plugin>]>,
}

/// What to do with the requests that one rule of a route matches.
#[derive(Debug)]
pub struct Rule {
    /// Of the route: its counters go by it.
    pub id: Id,
    /// The route's name.
    pub route: Arc<str>,
    /// Which of the route's rules, from 0.
    pub index: u32,
    /// Names of the listeners it is for; empty means all.
    pub listeners: BTreeSet<Arc<str>>,
    /// Never empty. The weights may sum to 0: then there is nowhere to go (503).
    pub backends: Box<[WeightedBackend]>,
    /// Sum of their weights.
    pub weight_total: u32,
    /// What keeps a client with one of them; at random by weight without it.
    pub sticky_split: Option<HashOn>,
    /// Whether the matched prefix is removed before forwarding.
    pub strip_prefix: bool,
    /// The route's timeouts, defaults filled in.
    pub timeouts: Timeouts,
    /// Tries beyond the first, and on what.
    pub retry: Retry,
    /// Its own, as the manifest lists them. What runs is in [`WeightedBackend::chain`].
    pub plugins: Box<[Arc<Plugin>]>,
}

/// One of the places a rule sends its requests.
#[derive(Clone, Debug)]
pub struct WeightedBackend {
    /// Where to.
    pub backend: Arc<Backend>,
    /// Share of the traffic.
    pub weight: u32,
    /// Its own, as the manifest lists them.
    pub plugins: Box<[Arc<Plugin>]>,
    /// Everything that runs, from all places.
    pub chain: Chain,
    /// The same for listeners that have plugins of their own, by name; sorted.
    pub listener_chains: ListenerChains,
}

/// What runs for the requests of some listeners, by their names; sorted.
pub type ListenerChains = Box<[(Arc<str>, Chain)]>;

impl WeightedBackend {
    /// Where the chain of a listener is; `None` if it has that of all.
    #[must_use]
    pub fn listener_index(&self, listener: &str) -> Option<usize> {
        if self.listener_chains.is_empty() {
            return None;
        }
        self.listener_chains.binary_search_by(|(name, _)| (**name).cmp(listener)).ok()
    }

    /// What runs for a request that came in by the listener with that index.
    #[must_use]
    pub fn chain(&self, listener: Option<usize>) -> &Chain {
        listener.and_then(|index| self.listener_chains.get(index)).map_or(&self.chain, |(_, chain)| chain)
    }
}

/// A set of interchangeable endpoints.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Key of its live state.
    pub id: Id,
    /// As metrics, logs and `X-RustyGate-Backend` show it: the backend's name, or "host:port" of an inline URL.
    pub name: Arc<str>,
    /// May be empty: then there is nowhere to go (503).
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// How one of them is chosen.
    pub policy: Policy,
    /// Indices into `endpoints` in smooth weighted round-robin order, one period; empty if all weights are 0.
    pub schedule: Box<[u16]>,
    /// The cookie that keeps a client with an endpoint, if any.
    pub sticky: Option<Sticky>,
    /// How long the weight of a new or recovered endpoint rises. Default not at all, at most 1 h.
    pub slow_start: Option<Duration>,
    /// Percent of the weights that must be healthy, or else all endpoints are used. Default 25.
    pub panic_threshold: u32,
    /// Active checks, if any.
    pub health_check: Option<HealthCheck>,
    /// TLS to those of its endpoints that have https; `None` if none has.
    pub tls: Option<Arc<tls::Client>>,
    /// What their answers say of endpoints. `None` if nobody is ejected: that is so with one endpoint.
    pub outlier_detection: Option<OutlierDetection>,
    /// What a proxy sends to it at most, if there is a bound.
    pub limits: Option<Limits>,
    /// How much retries may add to its load.
    pub retry_budget: RetryBudget,
    /// For every request that goes there, where nothing more specific has one of the type.
    pub plugins: Box<[Arc<Plugin>]>,
}

/// Where one server of a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Key of its connection pool and health: the same host and port, spoken to in the same way (protocol, and all terms
    /// of TLS), share them, whatever names them.
    pub id: Id,
    /// Lower case; an IPv6 address without brackets.
    pub host: Box<str>,
    /// 80, or 443 with https, unless the URL says otherwise.
    pub port: u16,
    /// "host" or "host:port" as a Host header would have it (brackets around IPv6, no default port).
    pub authority: Box<str>,
    /// Path of the URL without a slash at its end: "" or "/base". Canonical.
    pub base_path: Box<str>,
    /// Share of the traffic.
    pub weight: u32,
    /// What it speaks.
    pub protocol: Protocol,
    /// `None` if it is spoken to in the clear.
    pub tls: Option<tls::client::EndpointTls>,
}

impl Endpoint {
    /// "https" or "http".
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, without asking: in the clear by prior knowledge, over TLS as the one thing offered.
    H2,
    /// Over TLS what it chooses (ALPN) of HTTP/2 and HTTP/1.1; HTTP/1.1 if it chooses nothing.
    Negotiated,
}

impl Protocol {
    /// Whether a connection speaks HTTP/2, on which both sides agreed for it or not.
    #[must_use]
    pub fn is_http2(self, agreed: bool) -> bool {
        match self {
            Self::Http1 => false,
            Self::H2 => true,
            Self::Negotiated => agreed,
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turn, by weight.
    RoundRobin,
    /// Of two different endpoints, the next in turn and one at random, both by weight, the one with fewer requests under
    /// way for its weight.
    #[default]
    LeastRequest,
    /// Of two chosen likewise, the one with the lower peak-sensitive moving average of the latency, times the requests
    /// under way.
    PeakEwma,
    /// By the hash of a part of the request, within a bound on each endpoint's share of the load.
    ConsistentHash(Ring),
}

/// A consistent-hash ring: the same in every process that has the same endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// What is hashed.
    pub on: HashOn,
    /// Percent of its fair share of the load that an endpoint may have; 0 for no bound. Default 125.
    pub balance_factor: u32,
    /// Hashes, ascending, and the index of the endpoint that is at each.
    pub points: Box<[(u64, u16)]>,
}

/// The part of a request that tells clients apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The first value of the header of this name.
    Header(Box<str>),
    /// The first cookie of this name.
    Cookie(Box<str>),
    /// The client's address, as trusted proxies tell it.
    ClientIp,
    /// The canonical path, without the query.
    Path,
}

/// The gateway's own cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// Its name.
    pub cookie: Box<str>,
    /// What follows the value: "; Path=/; ...".
    pub attributes: Box<str>,
    /// The cookie's value for each endpoint: a hash that does not tell its address.
    pub values: Box<[u32]>,
}

/// See `HealthCheck` on the wire; defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked of an endpoint.
    pub probe: Probe,
    /// Between the starts of two checks of an endpoint, give or take a tenth. Default 5 s, 100 ms to 1 h.
    pub interval: Duration,
    /// For a whole check. Default 2 s, 10 ms to 1 min.
    pub timeout: Duration,
    /// Good checks in a row that make an endpoint healthy. Default 2, 1 to 10.
    pub healthy_threshold: u32,
    /// Bad checks in a row that make it unhealthy. Default 3, 1 to 10.
    pub unhealthy_threshold: u32,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A GET.
    Http {
        /// Canonical, with query.
        path: Box<str>,
        /// The Host field; the endpoint's authority if absent.
        host: Option<Box<str>>,
        /// Good answers, sorted; 2xx and 3xx if empty.
        statuses: Box<[u16]>,
        /// Further fields, checked.
        headers: Box<[(Box<str>, Box<str>)]>,
    },
    /// A connection.
    Tcp,
    /// `grpc.health.v1.Health/Check`, in the clear.
    Grpc {
        /// The service that is asked for; empty for the server as a whole.
        service: Box<str>,
    },
}

/// When an endpoint gets no requests for a while because of what it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Answers of 500 to 599 in a row, gateway errors included. Default 0 (never), at most 1,000.
    pub consecutive_5xx: u32,
    /// Answers of 502, 503, 504, failed and cut connections, and timeouts in a row. Default 5; 0 (never) to 1,000.
    pub consecutive_gateway_errors: u32,
    /// How long the first ejection lasts; each further one lasts as much longer. Default 10 s, 100 ms to 1 h.
    pub base_ejection_time: Duration,
    /// The longest. Default 5 min, 100 ms to 24 h.
    pub max_ejection_time: Duration,
    /// Of the endpoints, rounded down but at least one, and never all. Default 50, 1 to 100.
    pub max_ejected_percent: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 0,
            consecutive_gateway_errors: 5,
            base_ejection_time: Duration::from_secs(10),
            max_ejection_time: Duration::from_secs(300),
            max_ejected_percent: 50,
        }
    }
}

/// What one proxy sends to a backend at most, over all of its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open, idle ones included; but a worker without one to an endpoint may always make it. 1 to 1,000,000.
    pub connections: Option<u32>,
    /// Requests under way. 1 to 1,000,000.
    pub requests: Option<u32>,
    /// Requests that wait for their turn, and requests that wait for a connection. Default as many as the smaller of the two
    /// bounds above; 0 to 1,000,000.
    pub pending: u32,
    /// How long one waits. Default 1 s, 1 ms to 1 min.
    pub pending_timeout: Duration,
}

/// How much retries may add to the load of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries for each hundred requests of a worker in the last 10 to 20 s. Default 20, 0 to 100.
    pub percent: u32,
    /// Retries in each second that are free, over all workers; as many at once. Default 10, 0 to 10,000.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10 }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To make a connection. Default 1 s.
    pub connect: Duration,
    /// From the start of a try to the head of its response. Default: no bound but `total`.
    pub per_try: Option<Duration>,
    /// From the head of the request to the head of the response, all tries and pauses included, and, for a response
    /// that makes no progress, to its end. Default 5 s.
    pub total: Duration,
    /// Without a byte either way, once the response has begun or the connection was upgraded. Default 60 s.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            per_try: None,
            total: Duration::from_secs(5),
            idle: Duration::from_secs(60),
        }
    }
}

/// When to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries beyond the first. Default 2, at most 10.
    pub attempts: u32,
    /// When no connection could be made: any method, since nothing was sent.
    pub on_connect: bool,
    /// When the connection was cut before an answer: idempotent methods only.
    pub on_reset: bool,
    /// When a try took longer than it may: idempotent methods only.
    pub on_timeout: bool,
    /// When the upstream answers with one of these: idempotent methods only. Sorted. Default 502, 503, 504.
    pub on_statuses: Cow<'static, [u16]>,
    /// The pause before the first retry is up to this, and doubles. Default 25 ms, 1 ms to 1 min.
    pub backoff_base: Duration,
    /// The longest span of a pause. Default 250 ms, 1 ms to 1 min.
    pub backoff_max: Duration,
    /// The longest `Retry-After` that is waited for. Default 1 s, at most 1 min.
    pub retry_after_max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            on_connect: true,
            on_reset: true,
            on_timeout: true,
            on_statuses: Cow::Borrowed(&[502, 503, 504]),
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            retry_after_max: Duration::from_secs(1),
        }
    }
}

/// The one place where the present snapshot is: written by the configuration path, read once per request.
#[derive(Debug, Default)]
pub struct SnapshotCell(ArcSwap<Snapshot>);

impl SnapshotCell {
    /// The present snapshot, without a lock or a shared counter. Let go of it before the first `await`.
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// The present snapshot, to keep for a while: not for the way of a request.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Publishes a new one and returns the old, which the caller frees off the request threads.
    pub fn swap(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.0.swap(snapshot)
    }
}
