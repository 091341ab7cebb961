//! The configuration as the request path sees it: one immutable value, compiled whole from the wire
//! ([`compile`]) and replaced in one store ([`SnapshotCell`]).
//!
//! A snapshot shares with its predecessor everything that a push did not change. A request loads it
//! once, matches, and keeps only the [`Rule`] that it matched; so a stream of a week pins one rule and
//! its backends, never a whole old configuration.

pub mod compile;
pub(crate) mod cow_map;
pub mod fault;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

pub use self::cow_map::CowMap;
use crate::{plugin::Plugin, route::Router, tls};

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
    /// Every route, ready to be matched.
    pub router: Router,
    pub(crate) compiled: compile::Compiled,
}

impl Snapshot {
    /// Whether there is a route of that name.
    #[must_use]
    pub fn has_route(&self, name: &str) -> bool {
        self.router.has_route(name)
    }

    /// Every backend that a request may go to: the named ones and those written in place, in no particular order.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.compiled.backends()
    }

    /// Every certificate, by name.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<tls::Certificate>> {
        self.compiled.certificates.values()
    }

    /// The host names, not addresses, of the backends that this snapshot's own changes brought; some may be known from
    /// before.
    #[must_use]
    pub fn new_names(&self) -> &[Box<str>] {
        &self.compiled.new_names
    }

    /// How many routes there are.
    #[must_use]
    pub fn route_count(&self) -> usize {
        self.router.route_count()
    }
}

/// A socket that accepts clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// As routes name it.
    pub name: Arc<str>,
    /// Where it is bound.
    pub address: SocketAddr,
    /// TLS to its clients; `None` if they speak in the clear.
    pub tls: Option<Arc<tls::Server>>,
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
    /// Whether the matched prefix is removed before forwarding.
    pub strip_prefix: bool,
    /// The route's timeouts, defaults filled in.
    pub timeouts: Timeouts,
    /// Tries beyond the first, and on what.
    pub retry: Retry,
    /// In order of execution.
    pub plugins: Box<[Arc<Plugin>]>,
}

/// One of the places a rule sends its requests.
#[derive(Clone, Debug)]
pub struct WeightedBackend {
    /// Where to.
    pub backend: Arc<Backend>,
    /// Share of the traffic.
    pub weight: u32,
    /// Run after the rule's, in order of execution.
    pub plugins: Box<[Arc<Plugin>]>,
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
    /// Active checks, if any.
    pub health_check: Option<HealthCheck>,
    /// TLS to those of its endpoints that have https; `None` if none has.
    pub tls: Option<Arc<tls::Client>>,
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

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The less loaded of two chosen at random.
    LeastRequest,
}

/// See `HealthCheck` on the wire; defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Canonical, with query.
    pub path: Box<str>,
    /// Between the starts of two checks of an endpoint. Default 5 s, 100 ms to 1 h.
    pub interval: Duration,
    /// For a whole check. Default 2 s, 10 ms to 1 min.
    pub timeout: Duration,
    /// Good checks in a row that make an endpoint healthy. Default 2, 1 to 10.
    pub healthy_threshold: u32,
    /// Bad checks in a row that make it unhealthy. Default 3, 1 to 10.
    pub unhealthy_threshold: u32,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Tries beyond the first. Default 0, at most 10.
    pub attempts: u32,
    /// When no connection could be made: any method, since nothing was sent.
    pub on_connect: bool,
    /// When the upstream answers with one of these: idempotent methods only. Sorted.
    pub on_statuses: Box<[u16]>,
}

/// The one place where the present snapshot is: written by the configuration path, read once per request.
#[derive(Debug, Default)]
pub struct SnapshotCell(ArcSwap<Snapshot>);

impl SnapshotCell {
    /// The present snapshot, without a lock or a shared counter. Let go of it before the first `await`.
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// Publishes a new one and returns the old, which the caller frees off the request threads.
    pub fn swap(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.0.swap(snapshot)
    }
}
