//! A hash map that shares what did not change with its clones.
//!
//! Entries are spread over shards, each behind an `Arc`. A clone copies the list of shards; a
//! change copies the one shard that it touches, and only if a clone still shares it. So a batch of changes to one
//! clone costs the shards that it touches, once each, whatever the size of the map. The number of shards follows the
//! number of entries: when shards get too full or too empty on average, all are rebuilt, which the changes that led
//! there have paid for.
//!
//! The hash has a fixed seed, so that building is pure: keys come from the configuration, and what a client asks
//! for is always compared in full.

use std::{
    hash::{BuildHasher as _, Hash},
    sync::Arc,
};

use foldhash::quality::FixedState;
use hashbrown::{
    Equivalent, HashTable,
    hash_table::Entry::{Occupied, Vacant},
};

/// Shards are rebuilt when they have more entries than this on average ...
const ENTRIES_PER_SHARD_MAX: usize = 64;

/// ... or fewer than this ...
const ENTRIES_PER_SHARD_MIN: usize = 4;

/// ... to have about this many.
const ENTRIES_PER_SHARD: usize = 16;

const HASHER: FixedState = FixedState::with_seed(0x5275_7374_7947_6174);

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct CowMap<K, V> {
    /// A power of two of them, or none.
    shards: Vec<Arc<Shard<K, V>>>,
    len: usize,
}

type Shard<K, V> = HashTable<(K, V)>;

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self { shards: Vec::new(), len: 0 }
    }
}

impl<K: Hash + Eq, V> CowMap<K, V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        if self.len == 0 {
            return None;
        }
        let hash = HASHER.hash_one(key);
        let shard = &self.shards[shard_of(hash, self.shards.len())];
        shard.find(hash, |(candidate, _)| key.equivalent(candidate)).map(|(_, value)| value)
    }

    /// Whether there is such a key.
    #[must_use]
    pub fn contains<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> bool {
        self.get(key).is_some()
    }

    /// Every entry, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }

    /// Every value, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Hash + Eq + Clone, V: Clone> CowMap<K, V> {
    /// The value of a key, to be changed.
    pub fn get_mut<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<&mut V> {
        // Looked up before the shard is made ours, so that a miss copies nothing.
        if !self.contains(key) {
            return None;
        }
        let hash = HASHER.hash_one(key);
        let index = shard_of(hash, self.shards.len());
        let shard = Arc::make_mut(&mut self.shards[index]);
        shard.find_mut(hash, |(candidate, _)| key.equivalent(candidate)).map(|(_, value)| value)
    }

    /// The value of a key, to be changed; `make` makes it if there is none.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if self.len >= self.shards.len() * ENTRIES_PER_SHARD_MAX {
            self.rebuild();
        }
        let hash = HASHER.hash_one(&key);
        let index = shard_of(hash, self.shards.len());
        let shard = Arc::make_mut(&mut self.shards[index]);
        let entry = shard.entry(hash, |(candidate, _)| *candidate == key, |(key, _)| HASHER.hash_one(key));
        let entry = match entry {
            Occupied(entry) => entry,
            Vacant(entry) => {
                self.len += 1;
                entry.insert((key, make()))
            }
        };
        &mut entry.into_mut().1
    }

    /// Sets the value of a key; returns the old one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(old) = self.get_mut(&key) {
            return Some(std::mem::replace(old, value));
        }
        self.get_or_insert_with(key, || value);
        None
    }

    /// Removes a key; returns its value.
    pub fn remove<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        if !self.contains(key) {
            return None;
        }
        let hash = HASHER.hash_one(key);
        let index = shard_of(hash, self.shards.len());
        let shard = Arc::make_mut(&mut self.shards[index]);
        let entry = shard.find_entry(hash, |(candidate, _)| key.equivalent(candidate)).ok()?;
        let ((_, value), _) = entry.remove();
        self.len -= 1;
        if self.shards.len() > 1 && self.len < self.shards.len() * ENTRIES_PER_SHARD_MIN {
            self.rebuild();
        }
        Some(value)
    }

    fn rebuild(&mut self) {
        let count = self.len.div_ceil(ENTRIES_PER_SHARD).max(1).next_power_of_two();
        let mut shards: Vec<Shard<K, V>> = (0..count).map(|_| HashTable::new()).collect();
        for shard in std::mem::take(&mut self.shards) {
            for (key, value) in Arc::unwrap_or_clone(shard) {
                let hash = HASHER.hash_one(&key);
                shards[shard_of(hash, count)].insert_unique(hash, (key, value), |(key, _)| HASHER.hash_one(key));
            }
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }
}

/// From bits that the table within the shard does not look at: it uses the lowest and the highest.
#[allow(clippy::cast_possible_truncation, reason = "only the low bits count")]
fn shard_of(hash: u64, count: usize) -> usize {
    (hash >> 24) as usize & (count - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u8),
        Remove(u16),
        Bump(u16),
        Keep,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..600_u16, any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
            2 => (0..600_u16).prop_map(Step::Remove),
            1 => (0..600_u16).prop_map(Step::Bump),
            1 => Just(Step::Keep),
        ]
    }

    fn contents(map: &CowMap<String, u8>) -> HashMap<String, u8> {
        map.iter().map(|(key, value)| (key.clone(), *value)).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_its_older_clones_do_not_change(steps in prop::collection::vec(step(), 0..1500)) {
            let mut map = CowMap::default();
            let mut model = HashMap::new();
            let mut kept = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        let key = key.to_string();
                        prop_assert_eq!(map.insert(key.clone(), value), model.insert(key, value));
                    }
                    Step::Remove(key) => {
                        let key = key.to_string();
                        prop_assert_eq!(map.remove(key.as_str()), model.remove(&key));
                    }
                    Step::Bump(key) => {
                        let key = key.to_string();
                        let value = map.get_or_insert_with(key.clone(), || 7);
                        *value = value.wrapping_add(1);
                        let value = model.entry(key).or_insert(7);
                        *value = value.wrapping_add(1);
                    }
                    Step::Keep => kept.push((map.clone(), model.clone())),
                }
                prop_assert_eq!(map.len(), model.len());
            }
            kept.push((map, model));
            for (map, model) in &kept {
                prop_assert_eq!(&contents(map), model);
                for (key, value) in model {
                    prop_assert_eq!(map.get(key.as_str()), Some(value));
                }
            }
        }
    }

    #[test]
    fn a_change_copies_one_shard() {
        let mut map = CowMap::default();
        for key in 0..10_000_u32 {
            map.insert(key, key);
        }
        let old = map.clone();
        map.insert(77, 0);
        map.remove(&77);
        assert!(map.get_mut(&1_000_000).is_none());
        let copied = map.shards.iter().zip(&old.shards).filter(|(new, old)| !Arc::ptr_eq(new, old)).count();
        assert_eq!(copied, 1);
        assert_eq!(old.get(&77), Some(&77));
    }

    #[test]
    fn shards_follow_the_size_both_ways() {
        let mut map = CowMap::default();
        for key in 0..10_000_u32 {
            map.insert(key, ());
        }
        assert!(map.len() <= map.shards.len() * ENTRIES_PER_SHARD_MAX);
        let fullest = map.shards.iter().map(|shard| shard.len()).max();
        assert!(fullest < Some(3 * ENTRIES_PER_SHARD_MAX), "{fullest:?}");
        for key in 0..9_990_u32 {
            map.remove(&key);
        }
        assert!(map.shards.len() <= 4);
        assert_eq!(map.len(), 10);
    }
}
