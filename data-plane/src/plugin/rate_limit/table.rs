//! What a proxy knows of the keys of one plugin, for all its workers.
//!
//! The table is in shards, each behind a lock that is held for one look-up and a few sums; when a shard is full, one in a
//! while, for a pass over the few thousand keys that it has at most.

use std::{
    hash::BuildHasherDefault,
    sync::{Mutex, PoisonError},
};

use hashbrown::HashMap;
use tokio::time::Instant;

use super::{Verdict, WINDOWS_MAX, Window};
use crate::{
    live::IdHasher,
    plugin::count_key::{Digest, Hashers},
};

/// So many that two workers seldom want the same one, and that none is large.
const SHARDS: usize = 256;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    hashers: Hashers,
    /// Time 0.
    epoch: Instant,
}

/// For each window, when the key has its whole burst again, in nanoseconds from the epoch.
type Tats = [u64; WINDOWS_MAX];

type Shard = HashMap<Digest, Tats, BuildHasherDefault<IdHasher>>;

impl Default for Table {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hashers: Hashers::default(),
            epoch: Instant::now(),
        }
    }
}

impl Table {
    /// Of the key that `feed` writes.
    pub fn key(&self, feed: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Digest {
        self.hashers.digest(feed)
    }

    /// Takes one request from each window of a key, if every one has it. Also how many other keys had to make room for it
    /// that were in use.
    pub fn take(&self, key: Digest, windows: &[Window], now: Instant, keys_max: usize) -> (Verdict, u64) {
        let now = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX / 2);
        #[allow(clippy::cast_possible_truncation, reason = "the low bits of a hash are as good as any")]
        let shard = &self.shards[key.0 as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tats) = shard.get_mut(&key) {
            return (decide(tats, windows, now), 0);
        }
        let most = keys_max.div_ceil(SHARDS);
        let evicted = if shard.len() < most { 0 } else { make_room(&mut shard, now, most) };
        let mut tats = Tats::default();
        let verdict = decide(&mut tats, windows, now);
        shard.insert(key, tats);
        (verdict, evicted)
    }

    /// How many keys it has.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("no panic").len()).sum()
    }
}

/// Takes one request, if every window has it.
fn decide(tats: &mut Tats, windows: &[Window], now: u64) -> Verdict {
    let mut used = [0; WINDOWS_MAX];
    for ((used, tat), window) in used.iter_mut().zip(*tats).zip(windows) {
        // What is left of a larger limit is no more than all of this one.
        *used = tat.saturating_sub(now).min(window.span);
    }
    let allowed = used.iter().zip(windows).all(|(used, window)| used + window.interval <= window.span);
    for ((used, tat), window) in used.iter_mut().zip(tats).zip(windows) {
        if allowed {
            *used += window.interval;
        }
        *tat = now + *used;
    }
    Verdict { allowed, used }
}

/// Forgets the keys that have nothing to wait for; if those are few, also some of the others, those with the shortest
/// wait. How many of those.
fn make_room(shard: &mut Shard, now: u64, most: usize) -> u64 {
    let until = |tats: &Tats| tats.iter().copied().max().unwrap_or_default();
    shard.retain(|_, tats| until(tats) > now);
    let goal = most - most.div_ceil(8);
    let Some(mut surplus) = shard.len().checked_sub(goal).filter(|surplus| *surplus > 0) else { return 0 };
    let evicted = surplus as u64;
    let mut all: Vec<u64> = shard.values().map(until).collect();
    let (_, threshold, _) = all.select_nth_unstable(surplus - 1);
    let threshold = *threshold;
    shard.retain(|_, tats| {
        let goes = surplus > 0 && until(tats) <= threshold;
        surplus -= usize::from(goes);
        !goes
    });
    evicted
}
