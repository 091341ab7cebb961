//! What the process knows of upstreams, over all of its workers and all pushes: which endpoints are up by active
//! checks, which are ejected for what they answered, and how much each has to do.
//!
//! It is kept by id outside the snapshots: an endpoint has one [`Checks`], however many backends use it; a backend has
//! one [`Group`], and in it one [`Member`] for each endpoint. Workers get hold of these once, when they first use a
//! backend; from then on they read and write atomics, so that no request waits for another's worker.
//!
//! An endpoint is well until checks or answers say otherwise, so a new backend serves at once.

mod check;
mod group;
mod probe;
mod report;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustygate_proto::v1 as wire;
use tokio::{sync::watch, time::Instant};

pub(crate) use self::probe::connect;
pub use self::{
    check::check_all,
    group::{Checks, Group, Member, Moment, Outcome},
    report::HealthCollector,
};
use crate::{
    live::IdMap,
    snapshot::{Backend, Endpoint, Id, Snapshot},
};

/// See the module documentation.
#[derive(Debug)]
pub struct Health {
    epoch: Instant,
    /// The same on the wall clock, as it was then.
    epoch_unix_ms: u64,
    known: Mutex<Known>,
    /// Something became unhealthy since the last report.
    stirred: Arc<AtomicBool>,
    report: watch::Sender<Arc<wire::HealthReport>>,
}

#[derive(Debug, Default)]
struct Known {
    checks: IdMap<Arc<Checks>>,
    groups: IdMap<Entry>,
}

#[derive(Debug)]
struct Entry {
    group: Arc<Group>,
    members: IdMap<Arc<Member>>,
}

impl Default for Health {
    fn default() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            epoch: Instant::now(),
            epoch_unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
            known: Mutex::default(),
            stirred: Arc::default(),
            report: watch::Sender::default(),
        }
    }
}

impl Health {
    /// A point in time as endpoints keep it.
    #[must_use]
    pub fn moment(&self, now: Instant) -> Moment {
        // From 1, since 0 is never.
        let since = now.saturating_duration_since(self.epoch) + Duration::from_millis(1);
        Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The same as a point in time of the process.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        self.epoch + Duration::from_millis(moment.0.saturating_sub(1))
    }

    /// The state of a backend and, in their order, of its endpoints. Takes a lock; a worker asks once for each backend
    /// that a push changed.
    #[must_use]
    pub fn group(&self, backend: &Backend) -> (Arc<Group>, Vec<Arc<Member>>) {
        let now = self.moment(Instant::now());
        let mut known = self.known();
        let Known { checks, groups } = &mut *known;
        let mut fresh = false;
        let entry = groups.entry(backend.id).or_insert_with(|| {
            fresh = true;
            Entry { group: Arc::new(Group::new(Arc::clone(&backend.name))), members: IdMap::default() }
        });
        // Who joins a backend that is served already starts slowly, if that is asked for.
        let joined = if fresh { Moment::NEVER } else { now };
        let members = backend.endpoints.iter().map(|endpoint| {
            let member = entry.members.entry(endpoint.id).or_insert_with(|| {
                let checks = checks
                    .entry(endpoint.id)
                    .or_insert_with(|| Arc::new(Checks::new(endpoint, Arc::clone(&self.stirred))));
                Arc::new(Member::new(Arc::clone(checks), joined))
            });
            Arc::clone(member)
        });
        let members = members.collect();
        (Arc::clone(&entry.group), members)
    }

    /// What the process last found of unhealthy endpoints.
    #[must_use]
    pub fn reports(&self) -> watch::Receiver<Arc<wire::HealthReport>> {
        self.report.subscribe()
    }

    fn checks(&self, endpoint: &Endpoint) -> Arc<Checks> {
        Arc::clone(
            self.known()
                .checks
                .entry(endpoint.id)
                .or_insert_with(|| Arc::new(Checks::new(endpoint, Arc::clone(&self.stirred)))),
        )
    }

    /// Forgets what neither the snapshot nor a worker has any more.
    fn forget(&self, snapshot: &Snapshot) {
        let present: IdMap<&Arc<Backend>> = snapshot.backends().map(|backend| (backend.id, backend)).collect();
        let mut known = self.known();
        known.groups.retain(|id, entry| {
            let backend = present.get(id);
            let has = |endpoint: &Id| {
                backend.is_some_and(|backend| backend.endpoints.iter().any(|candidate| candidate.id == *endpoint))
            };
            entry.members.retain(|endpoint, member| Arc::strong_count(member) > 1 || has(endpoint));
            backend.is_some() || !entry.members.is_empty() || Arc::strong_count(&entry.group) > 1
        });
        known.checks.retain(|_, checks| Arc::strong_count(checks) > 1 || checks.checked.load(Relaxed));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
