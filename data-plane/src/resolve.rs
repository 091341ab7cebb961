//! Names of endpoints into addresses, beside the requests: a request uses what is known and asks nobody.
//!
//! A name has one entry and one refresher in the process ([`Resolver`]), however many backends and workers use it. The
//! refresher asks for A and AAAA, keeps what it learns in the entry ([`Name`]), sleeps for as long as the answer may be
//! kept, and asks again. Workers read the entry without a lock ([`Addresses`]). Names come in before the snapshot that
//! has them is served, so that the first request already finds addresses, and go when the snapshot that had them is
//! long gone.
//!
//! What counts as knowledge is decided in one place ([`Progress::learn`]): addresses replace addresses; a failure
//! (no answer, SERVFAIL, REFUSED) changes nothing, for ever; an answer that there is nothing (NXDOMAIN, no records)
//! takes the addresses away, but only when it was the only answer for [`NOTHING_HOLD`].

mod addresses;
mod lookup;
mod metrics;
mod refresh;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{net::TcpStream, sync::watch, time::Instant};

pub use self::{
    addresses::{Addresses, ConnectError},
    lookup::Lookup,
    metrics::NameCollector,
    refresh::Resolver,
};

/// The most addresses of a name that are used: of a longer answer the numerically first of each family.
pub const ADDRESSES_MAX: usize = 64;

/// The least time that addresses are kept before the name is asked for again, whatever their TTL.
pub const TTL_MIN: Duration = Duration::from_secs(1);

/// The longest time that addresses are kept before the name is asked for again, whatever their TTL.
pub const TTL_MAX: Duration = Duration::from_secs(3600);

/// The longest time until a name is asked for again of which there is nothing, or whose servers failed.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// How long answers must say that there is nothing before addresses known from before are given up.
pub const NOTHING_HOLD: Duration = Duration::from_secs(30);

/// How long a request may wait for the first answer of a name, from when the name came up.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Every name that endpoints have, as the workers see them.
#[derive(Debug, Default)]
pub struct Names {
    table: ArcSwap<HashMap<Box<str>, Arc<Name>>>,
    /// How many of them have no address now.
    empty: AtomicUsize,
}

impl Names {
    /// What is known of a name; `None` if no snapshot has it.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<Arc<Name>> {
        self.table.load().get(host).cloned()
    }

    /// Whether there is an address to connect to: true of whatever is not a name known to have none.
    #[must_use]
    pub fn usable(&self, host: &str) -> bool {
        // Nearly always every name has addresses, and then nothing is looked up.
        self.empty.load(Relaxed) == 0
            || self.table.load().get(host).is_none_or(|name| !name.known.load().list.is_empty())
    }

    /// Makes a connection beside the requests, which have [`Addresses`] for that: to the first address that takes one.
    /// Nothing here asks a server for addresses, but if there was no answer yet at all, it waits a moment for the first
    /// one. The caller bounds the time.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let name = self.find(host).ok_or(ConnectError::NoAddress)?;
                if name.known.load().list.is_empty() {
                    name.first_answer().await;
                }
                name.known.load().list.to_vec()
            }
        };
        let order = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        addresses::race(order, |_| {}).await.map(|(stream, _)| stream)
    }

    /// Puts names in.
    fn insert(&self, names: &[Arc<Name>]) {
        self.empty.fetch_add(names.len(), Relaxed);
        self.table.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.extend(names.iter().map(|name| (name.host.clone(), Arc::clone(name))));
            table
        });
    }

    /// Takes names out. Whoever holds one sees that it is retired.
    fn remove(&self, names: &[Arc<Name>]) {
        self.table.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.retain(|_, name| !names.iter().any(|gone| Arc::ptr_eq(gone, name)));
            table
        });
        for name in names {
            let progress = name.progress.lock().unwrap_or_else(PoisonError::into_inner);
            name.retired.store(true, Release);
            if progress.known.list.is_empty() {
                self.empty.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Takes an answer over; returns how long to wait before the next question.
    fn learn(&self, name: &Name, answer: Answer) -> Duration {
        let mut progress = name.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if name.retired.load(Acquire) {
            return RETRY_MAX;
        }
        let (before, failed_before) = (Arc::clone(&progress.known), progress.stale());
        name.count(&answer);
        let trouble = answer.trouble();
        let wait = progress.learn(answer, Instant::now());
        let addresses = progress.known.list.len();
        match (before.list.is_empty(), addresses == 0) {
            (true, false) => drop(self.empty.fetch_sub(1, Relaxed)),
            (false, true) => drop(self.empty.fetch_add(1, Relaxed)),
            _ => {}
        }
        if !Arc::ptr_eq(&before, &progress.known) {
            name.known.store(Arc::clone(&progress.known));
            tracing::info!(host = %name.host, addresses, "the name has other addresses");
        }
        name.stale.store(progress.stale(), Relaxed);
        match trouble {
            Some(error) if !failed_before => {
                tracing::warn!(
                    host = %name.host, %error, addresses,
                    "cannot resolve; the addresses known last stay in use; asking again until it succeeds"
                );
            }
            Some(error) => tracing::debug!(host = %name.host, %error, "still cannot resolve"),
            None if failed_before => tracing::info!(host = %name.host, addresses, "resolves again"),
            None => {}
        }
        name.answered.send_replace(true);
        wait
    }
}

/// One name: what is known of it, and what the counters say.
#[derive(Debug)]
pub struct Name {
    host: Box<str>,
    known: ArcSwap<Known>,
    /// When it came up.
    since: Instant,
    /// Whether there was a first answer, of whatever kind.
    answered: watch::Sender<bool>,
    /// It is refreshed no more: whoever needs it looks for its successor.
    retired: AtomicBool,
    /// Locked by its refresher and by its removal, never by a request.
    progress: Mutex<Progress>,
    /// The newest answer was none, or said that there is nothing.
    stale: AtomicBool,
    /// How many answers had addresses, said that there are none, or did not come.
    lookups: [AtomicU64; 3],
}

impl Name {
    /// A name that nothing is known of yet.
    fn new(host: &str) -> Self {
        Self {
            host: host.into(),
            known: ArcSwap::default(),
            since: Instant::now(),
            answered: watch::Sender::new(false),
            retired: AtomicBool::new(false),
            progress: Mutex::default(),
            stale: AtomicBool::new(false),
            lookups: Default::default(),
        }
    }

    /// Returns at the first answer, or when so much time has gone by since the name came up that there is no sense in
    /// waiting for it.
    async fn first_answer(&self) {
        let mut answered = self.answered.subscribe();
        // The sender is ours, so there always is one.
        let _ = tokio::time::timeout_at(self.since + FIRST_ANSWER_MAX, answered.wait_for(|answered| *answered)).await;
    }

    fn count(&self, answer: &Answer) {
        let outcome = match (answer.is_found(), answer.trouble()) {
            (true, _) => 0,
            (false, None) => 1,
            (false, Some(_)) => 2,
        };
        self.lookups[outcome].fetch_add(1, Relaxed);
    }
}

/// Addresses of a name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    /// Both, families in turn, so that whoever goes on to the next address also tries the other family.
    list: Box<[IpAddr]>,
}

impl Known {
    fn new(v4: Vec<IpAddr>, v6: Vec<IpAddr>) -> Self {
        let mut list = Vec::with_capacity(v4.len() + v6.len());
        for index in 0..v4.len().max(v6.len()) {
            list.extend(v6.get(index).into_iter().chain(v4.get(index)));
        }
        list.truncate(ADDRESSES_MAX);
        Self { v4, v6, list: list.into() }
    }
}

/// What the servers said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    v4: Family,
    v6: Family,
}

/// The same of one kind of address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Family {
    /// There are these, for so long.
    Found { addresses: Vec<IpAddr>, ttl: Duration },
    /// There is none, for so long.
    Nothing { ttl: Duration },
    /// There was no answer, or none that can be used.
    Failed { error: String },
}

impl Answer {
    /// That there was no answer.
    fn failed(error: &str) -> Self {
        let failed = || Family::Failed { error: error.to_owned() };
        Self { v4: failed(), v6: failed() }
    }

    fn is_found(&self) -> bool {
        [&self.v4, &self.v6].into_iter().any(|family| matches!(family, Family::Found { .. }))
    }

    /// What went wrong, if there are no addresses because of it.
    fn trouble(&self) -> Option<String> {
        if self.is_found() {
            return None;
        }
        let error = |family: &Family| match family {
            Family::Failed { error } => Some(error.clone()),
            _ => None,
        };
        error(&self.v4).or_else(|| error(&self.v6))
    }
}

/// How the knowledge of a name grows: pure but for the jitter.
#[derive(Debug, Default)]
struct Progress {
    known: Arc<Known>,
    /// Since when all answers have said that there is nothing.
    nothing_since: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

impl Progress {
    /// Whether the newest answer did not confirm what is known.
    fn stale(&self) -> bool {
        self.failures > 0 || self.nothing_since.is_some()
    }

    /// Takes an answer over; returns how long to wait before the next question.
    fn learn(&mut self, answer: Answer, now: Instant) -> Duration {
        let wait = match (&answer.v4, &answer.v6) {
            (Family::Nothing { ttl: one }, Family::Nothing { ttl: other }) => {
                self.failures = 0;
                let since = *self.nothing_since.get_or_insert(now);
                let left = (since + NOTHING_HOLD).saturating_duration_since(now);
                if left.is_zero() {
                    self.keep(Vec::new(), Vec::new());
                    (*one).min(*other).clamp(TTL_MIN, RETRY_MAX)
                } else {
                    (*one).min(*other).min(left).clamp(TTL_MIN, RETRY_MAX)
                }
            }
            _ if answer.is_found() => {
                self.failures = 0;
                self.nothing_since = None;
                let wait = kept_for(&answer.v4).min(kept_for(&answer.v6));
                let (old_v4, old_v6) = (self.known.v4.clone(), self.known.v6.clone());
                self.keep(merge(answer.v4, old_v4), merge(answer.v6, old_v6));
                wait
            }
            _ => {
                // Somebody knows no answer, so nobody can say that there is nothing.
                self.nothing_since = None;
                self.failures = self.failures.saturating_add(1);
                let span = TTL_MIN.saturating_mul(1 << self.failures.min(5)).min(RETRY_MAX);
                return span.mul_f64(0.5 + fastrand::f64() / 2.0);
            }
        };
        // Not all names of a snapshot at the same moment for ever.
        wait + wait.mul_f64(fastrand::f64() / 20.0)
    }

    fn keep(&mut self, v4: Vec<IpAddr>, v6: Vec<IpAddr>) {
        let known = Known::new(v4, v6);
        if known != *self.known {
            self.known = Arc::new(known);
        }
    }
}

/// How long the answer of a family, beside one that has addresses, may be kept.
fn kept_for(family: &Family) -> Duration {
    match family {
        Family::Found { ttl, .. } => (*ttl).clamp(TTL_MIN, TTL_MAX),
        Family::Nothing { .. } => TTL_MAX,
        Family::Failed { .. } => RETRY_MAX,
    }
}

/// What is known of a family after an answer that has addresses, of this family or of the other.
fn merge(answer: Family, old: Vec<IpAddr>) -> Vec<IpAddr> {
    match answer {
        Family::Found { mut addresses, .. } => {
            // Servers turn their answers round; that is no change.
            addresses.sort_unstable();
            addresses.dedup();
            addresses.truncate(ADDRESSES_MAX);
            addresses
        }
        Family::Nothing { .. } => Vec::new(),
        Family::Failed { .. } => old,
    }
}

#[cfg(test)]
mod tests;
