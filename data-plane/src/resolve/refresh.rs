//! Keeps names fresh, on the background runtime.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{AbortHandle, spawn_blocking},
    time::{Instant, interval, sleep, timeout_at},
};

use super::{Lookup, Name, Names};
use crate::snapshot::{Snapshot, SnapshotCell};

/// How many names are asked for at a time. Each is two queries, and a server gets 32 at most over one socket.
const QUESTIONS_MAX: usize = 16;

/// How long a snapshot that brings new names waits for their first answers before it is served all the same.
const PREPARE_MAX: Duration = Duration::from_millis(500);

/// How often names that no snapshot has are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// How long a name stays that was asked for by a snapshot and is in none that is served: the snapshot may be about to be,
/// and requests of the one before may be under way.
const GRACE: Duration = Duration::from_secs(30);

/// See the module documentation.
#[derive(Debug)]
pub struct Resolver {
    names: Arc<Names>,
    lookup: Arc<Lookup>,
    questions: Arc<Semaphore>,
    runtime: Handle,
    /// Locked by the configuration path only.
    refreshers: Mutex<HashMap<Box<str>, Refresher>>,
}

/// A name's task.
#[derive(Debug)]
struct Refresher {
    name: Arc<Name>,
    task: AbortHandle,
    /// When a snapshot asked for it last.
    wanted: Instant,
}

impl Resolver {
    /// Fills `names` by asking `lookup`, in tasks of that runtime.
    #[must_use]
    pub fn new(names: Arc<Names>, lookup: Lookup, runtime: Handle) -> Self {
        Self {
            names,
            lookup: Arc::new(lookup),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            runtime,
            refreshers: Mutex::default(),
        }
    }

    /// One for names that nobody asks for.
    #[cfg(test)]
    pub fn for_test() -> Arc<Self> {
        Arc::new(Self::new(Arc::default(), Lookup::new(Vec::new()), Handle::current()))
    }

    /// The names of a snapshot that is about to be served. Returns when each had an answer, or after a while.
    pub async fn prepare(&self, hosts: &[Box<str>]) {
        let fresh = self.take_in(hosts);
        let until = Instant::now() + PREPARE_MAX;
        for name in fresh {
            let mut answered = name.answered.subscribe();
            if timeout_at(until, answered.wait_for(|answered| *answered)).await.is_err() {
                tracing::warn!(host = %name.host, "no answer yet for a new name; serving without it");
                return;
            }
        }
    }

    /// Starts what is not known yet, and returns it.
    fn take_in(&self, hosts: &[Box<str>]) -> Vec<Arc<Name>> {
        let now = Instant::now();
        let mut refreshers = self.refreshers();
        let mut fresh = Vec::new();
        for host in hosts {
            if let Some(known) = refreshers.get_mut(host) {
                known.wanted = now;
                continue;
            }
            let name = Arc::new(Name::new(host));
            let (names, lookup) = (Arc::clone(&self.names), Arc::clone(&self.lookup));
            let task = refresh(Arc::clone(&name), names, lookup, Arc::clone(&self.questions));
            let task = self.runtime.spawn(task).abort_handle();
            refreshers.insert(host.clone(), Refresher { name: Arc::clone(&name), task, wanted: now });
            fresh.push(name);
        }
        if !fresh.is_empty() {
            self.names.insert(&fresh);
        }
        fresh
    }

    /// Ends the refreshing of names that no snapshot has any more, for as long as the process lives.
    pub async fn sweep(self: Arc<Self>, cell: Arc<SnapshotCell>) {
        let mut swept = 0;
        let mut ticks = interval(SWEEP);
        loop {
            ticks.tick().await;
            let revision = cell.load().revision;
            if revision == swept || self.refreshers().is_empty() {
                continue;
            }
            let (resolver, cell) = (Arc::clone(&self), Arc::clone(&cell));
            // A large snapshot takes a while to look through.
            let sweeping = spawn_blocking(move || resolver.sweep_once(&cell.load(), Instant::now()));
            if sweeping.await.unwrap_or(false) {
                swept = revision;
            }
        }
    }

    /// Whether nothing is left for later.
    pub(super) fn sweep_once(&self, snapshot: &Snapshot, now: Instant) -> bool {
        let endpoints = snapshot.backends().flat_map(|backend| &backend.endpoints).map(|endpoint| &*endpoint.host);
        let sources = snapshot.plugins().filter_map(|plugin| plugin.key_source()?.host_name());
        let wanted: HashSet<&str> = endpoints.chain(sources).collect();
        let mut gone = Vec::new();
        let mut refreshers = self.refreshers();
        let before = refreshers.len();
        refreshers.retain(|host, refresher| {
            let keep = wanted.contains(&**host) || now.saturating_duration_since(refresher.wanted) < GRACE;
            if !keep {
                refresher.task.abort();
                gone.push(Arc::clone(&refresher.name));
            }
            keep
        });
        debug_assert_eq!(before, refreshers.len() + gone.len());
        let rest = refreshers.keys().filter(|host| !wanted.contains(&***host)).count();
        drop(refreshers);
        if !gone.is_empty() {
            self.names.remove(&gone);
        }
        rest == 0
    }

    fn refreshers(&self) -> MutexGuard<'_, HashMap<Box<str>, Refresher>> {
        self.refreshers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for one name for ever.
async fn refresh(name: Arc<Name>, names: Arc<Names>, lookup: Arc<Lookup>, questions: Arc<Semaphore>) {
    loop {
        let answer = {
            let Ok(_permit) = questions.acquire().await else { return };
            lookup.ask(&name.host).await
        };
        let wait = names.learn(&name, answer);
        sleep(wait).await;
    }
}
