//! How many of something each key has at a time, such as an address connections: exact over all workers, touched when one
//! begins and when it ends.
//!
//! The table is in shards, each behind a lock that is held for one look-up; it has an entry for each key that has any,
//! so the bound on all of them bounds it too.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hash},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// So many that two workers seldom want the same one.
const SHARDS: usize = 64;

/// The part of an IPv6 address that a site has for each of its networks.
const V6_NETWORK: u128 = !(u64::MAX as u128);

/// See the module documentation.
#[derive(Debug)]
pub struct PerKey<K> {
    shards: [Mutex<HashMap<K, u32>>; SHARDS],
    hasher: RandomState,
}

impl<K> Default for PerKey<K> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl<K: Copy + Eq + Hash> PerKey<K> {
    /// One more of a key; false, and not counted, if it has `most` already.
    pub fn enter(&self, key: K, most: u32) -> bool {
        let mut shard = self.shard(key);
        let count = shard.entry(key).or_default();
        if *count >= most {
            return false;
        }
        *count += 1;
        true
    }

    /// One less.
    pub fn leave(&self, key: K) {
        let mut shard = self.shard(key);
        if let Some(count) = shard.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&key);
                // Room that a crowd took is given back.
                if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
                    shard.shrink_to_fit();
                }
            }
        }
    }

    fn shard(&self, key: K) -> MutexGuard<'_, HashMap<K, u32>> {
        #[allow(clippy::cast_possible_truncation, reason = "the low bits of a hash are as good as any")]
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one client. Who has an IPv6 address mostly has 2^64 of them: those are one.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & V6_NETWORK)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    /// What an address counts as.
    fn client(text: &str) -> IpAddr {
        network(text.parse().expect("an address"))
    }

    #[test]
    fn who_has_most_gets_no_more_and_nobody_else_feels_it() {
        let table = PerKey::default();
        let (one, other) = (client("192.0.2.1"), client("192.0.2.2"));
        assert!(table.enter(one, 2) && table.enter(one, 2));
        assert!(!table.enter(one, 2));
        assert!(!table.enter(client("::ffff:192.0.2.1"), 2), "the same in another form");
        assert!(table.enter(other, 2));
        table.leave(one);
        assert!(table.enter(one, 2));
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let table = PerKey::default();
        assert!(table.enter(client("2001:db8::1"), 1));
        assert!(!table.enter(client("2001:db8::ffff:2"), 1));
        assert!(table.enter(client("2001:db8:0:1::1"), 1));
    }

    #[test]
    fn counts_are_exact_over_threads_and_leave_nothing_behind() {
        let table = Arc::new(PerKey::default());
        let threads = [1, 2, 3, 4].map(|_| {
            let table = Arc::clone(&table);
            thread::spawn(move || (0..1000).filter(|_| table.enter(client("192.0.2.1"), 2500)).count())
        });
        let entered: usize = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
        assert_eq!(entered, 2500);
        for _ in 0..entered {
            table.leave(client("192.0.2.1"));
        }
        assert!(table.shards.iter().all(|shard| shard.lock().expect("no panic").is_empty()));
    }
}
