//! A hash map that shares what did not change with its clones.
//!
//! Entries are spread over shards, each behind an `Arc`. A clone copies the list of shards; a
//! change copies the one shard that it touches, and only if a clone still shares it. So a batch of changes to one
//! clone costs the shards that it touches, once each, whatever the size of the map. The number of shards follows the
//! number of entries: when shards get too full or too empty on average, all are rebuilt, which the changes that led
//! there have paid for.
//!
//! A shard is one flat array with open addressing and each slot begins a cache line: in a large map every step to
//! other memory is a cache miss, and this way a lookup takes one if the slot fits the line and the key points nowhere.
//!
//! The hash has a fixed seed, so that building is pure: keys come from the configuration, and what a client asks
//! for is always compared in full.

use std::{
    hash::{BuildHasher as _, Hash},
    sync::Arc,
};

use foldhash::quality::FixedState;
use hashbrown::Equivalent;

/// Shards are rebuilt when they have more entries than this on average ...
const ENTRIES_PER_SHARD_MAX: usize = 64;

/// ... or fewer than this ...
const ENTRIES_PER_SHARD_MIN: usize = 4;

/// ... to have about this many.
const ENTRIES_PER_SHARD: usize = 16;

const SLOTS_MIN: usize = 8;

const HASHER: FixedState = FixedState::with_seed(0x5275_7374_7947_6174);

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct CowMap<K, V> {
    /// A power of two of them, or none.
    shards: Vec<Shard<K, V>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Shard<K, V> {
    /// A power of two of them, a quarter of them empty. An entry is in the first slot that was free from the one on
    /// that its hash names, so a search may end at an empty slot.
    slots: Arc<[Option<Slot<K, V>>]>,
    len: usize,
}

#[derive(Clone, Debug)]
#[repr(align(64))]
struct Slot<K, V> {
    key: K,
    value: V,
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self { shards: Vec::new(), len: 0 }
    }
}

impl<K, V> CowMap<K, V> {
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
        self.get_hashed(hash_of(key), key)
    }

    /// The value of a key whose [`hash_of`] is known.
    #[inline]
    pub(crate) fn get_hashed<Q: Equivalent<K> + ?Sized>(&self, hash: u64, key: &Q) -> Option<&V> {
        if self.len == 0 {
            return None;
        }
        let shard = &self.shards[shard_of(hash, self.shards.len())];
        shard.slots[shard.find(hash, key)?].as_ref().map(|slot| &slot.value)
    }

    /// Whether there is such a key.
    #[must_use]
    pub fn contains<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> bool {
        self.place(key).is_some()
    }

    /// Every entry, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.slots.iter().flatten()).map(|slot| (&slot.key, &slot.value))
    }

    /// Every value, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    fn place<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<Place> {
        if self.len == 0 {
            return None;
        }
        let hash = hash_of(key);
        let shard = shard_of(hash, self.shards.len());
        let slot = self.shards[shard].find(hash, key)?;
        Some(Place { shard, slot })
    }
}

/// Where an entry is.
struct Place {
    shard: usize,
    slot: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> CowMap<K, V> {
    /// The value of a key, to be changed.
    pub fn get_mut<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<&mut V> {
        // Only then is the shard made ours, so that a miss copies nothing.
        let place = self.place(key)?;
        let slots = Arc::make_mut(&mut self.shards[place.shard].slots);
        slots[place.slot].as_mut().map(|slot| &mut slot.value)
    }

    /// The value of a key, to be changed; `make` makes it if there is none.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if self.len >= self.shards.len() * ENTRIES_PER_SHARD_MAX {
            self.rebuild();
        }
        let hash = hash_of(&key);
        let shard = shard_of(hash, self.shards.len());
        let shard = &mut self.shards[shard];
        let index = match shard.find(hash, &key) {
            Some(index) => index,
            None => {
                self.len += 1;
                shard.make_room();
                shard.free(hash)
            }
        };
        let slot = &mut Arc::make_mut(&mut shard.slots)[index];
        if slot.is_none() {
            shard.len += 1;
        }
        &mut slot.get_or_insert_with(|| Slot { key, value: make() }).value
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
        let place = self.place(key)?;
        let value = self.shards[place.shard].remove(place.slot)?;
        self.len -= 1;
        if self.shards.len() > 1 && self.len < self.shards.len() * ENTRIES_PER_SHARD_MIN {
            self.rebuild();
        }
        Some(value)
    }

    fn rebuild(&mut self) {
        let count = self.len.div_ceil(ENTRIES_PER_SHARD).max(1).next_power_of_two();
        let mut entries: Vec<Vec<Slot<K, V>>> = (0..count).map(|_| Vec::new()).collect();
        for shard in std::mem::take(&mut self.shards) {
            shard.into_entries().for_each(|slot| entries[shard_of(hash_of(&slot.key), count)].push(slot));
        }
        self.shards = entries
            .into_iter()
            .map(|entries| {
                let count = (entries.len() + 1) * 4 / 3 + 1;
                Shard::with_slots(count.next_power_of_two().max(SLOTS_MIN), entries.into_iter())
            })
            .collect();
    }
}

impl<K, V> Shard<K, V> {
    fn find<Q: Equivalent<K> + ?Sized>(&self, hash: u64, key: &Q) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut index = slot_of(hash, mask);
        loop {
            let slot = self.slots[index].as_ref()?;
            if key.equivalent(&slot.key) {
                return Some(index);
            }
            index = (index + 1) & mask;
        }
    }

    /// The first empty slot for an entry of that hash.
    fn free(&self, hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut index = slot_of(hash, mask);
        while self.slots[index].is_some() {
            index = (index + 1) & mask;
        }
        index
    }
}

impl<K: Hash + Clone, V: Clone> Shard<K, V> {
    fn with_slots(count: usize, entries: impl Iterator<Item = Slot<K, V>>) -> Self {
        let mut slots: Vec<_> = (0..count).map(|_| None).collect();
        let mut len = 0;
        for entry in entries {
            let mut index = slot_of(hash_of(&entry.key), count - 1);
            while slots[index].is_some() {
                index = (index + 1) & (count - 1);
            }
            slots[index] = Some(entry);
            len += 1;
        }
        Self { slots: slots.into(), len }
    }

    fn into_entries(mut self) -> impl Iterator<Item = Slot<K, V>> {
        Arc::make_mut(&mut self.slots).iter_mut().filter_map(Option::take).collect::<Vec<_>>().into_iter()
    }

    /// Makes sure that one more entry leaves enough slots empty.
    fn make_room(&mut self) {
        if (self.len + 1) * 4 <= self.slots.len() * 3 {
            return;
        }
        let empty = Self { slots: Arc::from([]), len: 0 };
        let count = self.slots.len() * 2;
        *self = Self::with_slots(count, std::mem::replace(self, empty).into_entries());
    }

    /// Empties a slot, and moves up those behind it that would not be found any more.
    fn remove(&mut self, index: usize) -> Option<V> {
        let slots = Arc::make_mut(&mut self.slots);
        let removed = slots[index].take()?;
        self.len -= 1;
        let mask = slots.len() - 1;
        let (mut hole, mut next) = (index, (index + 1) & mask);
        while let Some(slot) = &slots[next] {
            let wanted = slot_of(hash_of(&slot.key), mask);
            // It may move to the hole if that lies between where it would be and where it is.
            if (next.wrapping_sub(wanted) & mask) >= (next.wrapping_sub(hole) & mask) {
                slots.swap(hole, next);
                hole = next;
            }
            next = (next + 1) & mask;
        }
        Some(removed.value)
    }
}

/// What a map spreads its keys by.
#[inline]
pub(crate) fn hash_of<Q: Hash + ?Sized>(key: &Q) -> u64 {
    HASHER.hash_one(key)
}

/// From bits that [`slot_of`] does not look at.
#[allow(clippy::cast_possible_truncation, reason = "only the low bits count")]
fn shard_of(hash: u64, count: usize) -> usize {
    (hash >> 32) as usize & (count - 1)
}

#[allow(clippy::cast_possible_truncation, reason = "only the low bits count")]
fn slot_of(hash: u64, mask: usize) -> usize {
    hash as usize & mask
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
        let copied =
            map.shards.iter().zip(&old.shards).filter(|(new, old)| !Arc::ptr_eq(&new.slots, &old.slots)).count();
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
        let fullest = map.shards.iter().map(|shard| shard.len).max();
        assert!(fullest < Some(3 * ENTRIES_PER_SHARD_MAX), "{fullest:?}");
        for key in 0..9_990_u32 {
            map.remove(&key);
        }
        assert!(map.shards.len() <= 4);
        assert_eq!(map.len(), 10);
    }
}
