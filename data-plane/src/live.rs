//! What outlives a snapshot: maps keyed by stable ids, and the state of plugins in such maps.
//!
//! A plugin's state is under its identity, in [`States`], which all workers share, and in what each worker makes of it for
//! itself ([`Own`]). So neither a push nor a snapshot that is compiled from nothing, as after a loss of the control plane's
//! place in the stream, changes any of it; and a request finds it in one look into a map of its own worker.

use std::{
    any::Any,
    cell::RefCell,
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::snapshot::{Id, Snapshot};

/// How long the state of a plugin is kept that is in no snapshot any more.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// A map by id. The ids are hashes already.
pub type IdMap<V> = std::collections::HashMap<Id, V, BuildHasherDefault<IdHasher>>;

/// Takes an id for its own hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 ^= id;
    }
}

/// A set of ids.
pub type IdSet = HashSet<Id, BuildHasherDefault<IdHasher>>;

/// The state of plugins that all workers share. Its lock is held to look something up, never to use it.
#[derive(Debug, Default)]
pub struct States(Mutex<IdMap<Arc<dyn Any + Send + Sync>>>);

impl States {
    /// The state of that id, made if there is none.
    pub fn get_or<S: Any + Send + Sync>(&self, id: Id, make: impl FnOnce() -> S) -> Arc<S> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&id).and_then(|known| Arc::clone(known).downcast().ok()) {
            return known;
        }
        let new = Arc::new(make());
        all.insert(id, Arc::<S>::clone(&new));
        new
    }

    /// Forgets what is of no plugin of the present snapshot and held by nobody.
    pub fn forget(&self, snapshot: &Snapshot) {
        self.forget_but(&present(snapshot));
    }

    fn forget_but(&self, present: &IdSet) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, state| present.contains(id) || Arc::strong_count(state) > 1);
    }
}

/// What one worker has of the state of plugins.
#[derive(Debug)]
pub struct Own {
    shared: Arc<States>,
    own: RefCell<IdMap<(Rc<dyn Any>, Instant)>>,
}

impl Own {
    /// Nothing yet, beside what is shared.
    #[must_use]
    pub fn new(shared: Arc<States>) -> Self {
        Self { shared, own: RefCell::default() }
    }

    /// This worker's part of the state of that id. `make` may take what is shared, once for all requests to come.
    pub fn own<T: Any>(&self, id: Id, now: Instant, make: impl FnOnce(&States) -> T) -> Rc<T> {
        if let Some((known, used)) = self.own.borrow_mut().get_mut(&id)
            && let Ok(known) = Rc::clone(known).downcast()
        {
            *used = now;
            return known;
        }
        let new = Rc::new(make(&self.shared));
        self.own.borrow_mut().insert(id, (Rc::<T>::clone(&new), now));
        new
    }

    /// Forgets what was not used for long and is of no plugin of the present snapshot.
    pub fn sweep(&self, now: Instant, snapshot: impl FnOnce() -> Arc<Snapshot>) {
        let mut all = self.own.borrow_mut();
        let is_old = |used: Instant| now.saturating_duration_since(used) > FORGET_AFTER;
        if !all.values().any(|(_, used)| is_old(*used)) {
            return;
        }
        let present = present(&snapshot());
        for (_, used) in all.iter_mut().filter(|(id, _)| present.contains(id)).map(|(_, state)| state) {
            *used = now;
        }
        all.retain(|_, (_, used)| !is_old(*used));
        self.shared.forget_but(&present);
    }
}

/// What plugins have state under.
fn present(snapshot: &Snapshot) -> IdSet {
    let identities = snapshot.plugins().map(|plugin| plugin.identity);
    identities.flat_map(|identity| [identity.id, identity.config]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_of_no_plugin_is_forgotten_when_nobody_has_used_it_for_long() {
        let shared = Arc::new(States::default());
        let (one, other) = (Own::new(Arc::clone(&shared)), Own::new(Arc::clone(&shared)));
        let id = Id::of("plugin", "limit");
        let make = |shared: &States| shared.get_or(id, || std::sync::atomic::AtomicU64::new(7));
        let begun = Instant::now();
        one.own(id, begun, make).store(8, std::sync::atomic::Ordering::Relaxed);
        let read = |own: &Own, now| own.own(id, now, make).load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(read(&other, begun), 8, "the workers share it");
        let later = begun + FORGET_AFTER + Duration::from_secs(1);
        one.sweep(later, Arc::default);
        assert_eq!(read(&one, later), 8, "another worker has it");
        other.sweep(later, Arc::default);
        one.sweep(later + FORGET_AFTER + Duration::from_secs(1), Arc::default);
        assert_eq!(read(&one, later), 7, "nobody has it any more");
    }
}
