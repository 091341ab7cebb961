//! Tokens that were proven a moment ago: of one worker, for one configuration.
//!
//! A token is found by all of its bytes, and what was learnt of it holds no longer than its own dates say, and only while
//! the keys are those that it was proven with. Two maps bound the memory: what is used moves to the young one, and when
//! that is full, it becomes the old one and the old one goes.

use std::rc::Rc;

use hashbrown::HashMap;

use super::token::{LastHeader, Verified};

/// The most tokens in each of the two maps.
pub const ENTRIES_MAX: usize = 1_024;

/// The most bytes of tokens and claims in each of the two maps.
pub const BYTES_MAX: usize = 1 << 20;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Cache {
    /// Of the keys that all of these were proven with.
    generation: u64,
    young: Half,
    old: Half,
    /// Of these and of what was not found good.
    pub last_header: LastHeader,
}

#[derive(Debug, Default)]
struct Half {
    tokens: HashMap<Box<[u8]>, Rc<Verified>, foldhash::fast::RandomState>,
    bytes: usize,
}

impl Cache {
    /// What is known of a token, at `now` in seconds since 1970.
    pub fn get(&mut self, token: &[u8], generation: u64, now: f64) -> Option<Rc<Verified>> {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
            return None;
        }
        let good = |verified: &Rc<Verified>| now >= verified.from && now < verified.until;
        if let Some(verified) = self.young.tokens.get(token) {
            return Some(verified).filter(|verified| good(verified)).map(Rc::clone);
        }
        let (token, verified) = self.old.tokens.remove_entry(token)?;
        if !good(&verified) {
            return None;
        }
        self.keep(token, Rc::clone(&verified));
        Some(verified)
    }

    /// Keeps what was proven with the keys of this generation.
    pub fn insert(&mut self, token: &[u8], generation: u64, verified: Rc<Verified>) {
        if self.generation == generation {
            self.keep(token.into(), verified);
        }
    }

    fn keep(&mut self, token: Box<[u8]>, verified: Rc<Verified>) {
        let headers = verified.headers.iter().flatten().map(|value| value.len()).sum::<usize>();
        let bytes = token.len() + verified.claims.bytes() + headers;
        if self.young.tokens.len() >= ENTRIES_MAX || self.young.bytes + bytes > BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        if self.young.tokens.insert(token, verified).is_none() {
            self.young.bytes += bytes;
        }
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.tokens.len() + self.old.tokens.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::Groups;

    fn verified(until: f64) -> Rc<Verified> {
        let claims = Rc::new(crate::plugin::request::Claims::new("{}"));
        let (headers, subject, groups) = (Box::default(), "".into(), Groups::default());
        Rc::new(Verified { from: 10.0, until, headers, subject, groups, claims })
    }

    #[test]
    fn a_token_is_good_within_its_dates_alone() {
        let mut cache = Cache::default();
        cache.insert(b"a", 0, verified(20.0));
        assert!(cache.get(b"a", 0, 9.9).is_none(), "the clock was set back before nbf");
        assert!(cache.get(b"a", 0, 10.0).is_some());
        assert!(cache.get(b"a", 0, 20.0).is_none());
        assert!(cache.get(b"b", 0, 15.0).is_none());
    }

    #[test]
    fn other_keys_forget_all_tokens() {
        let mut cache = Cache::default();
        cache.insert(b"a", 0, verified(20.0));
        assert!(cache.get(b"a", 1, 15.0).is_none());
        assert!(cache.is_empty());
        cache.insert(b"a", 0, verified(20.0));
        assert!(cache.is_empty(), "proven with keys that are gone");
        cache.insert(b"a", 1, verified(20.0));
        assert!(cache.get(b"a", 1, 15.0).is_some());
        assert!(cache.get(b"a", 0, 15.0).is_none(), "a set that comes back proves anew");
    }

    #[test]
    fn it_is_bounded_in_tokens_and_in_bytes_and_keeps_what_is_used() {
        let mut cache = Cache::default();
        cache.insert(b"used", 0, verified(20.0));
        for number in 0..10 * ENTRIES_MAX {
            cache.insert(number.to_string().as_bytes(), 0, verified(20.0));
            assert!(cache.get(b"used", 0, 15.0).is_some());
        }
        assert!(cache.len() <= 2 * ENTRIES_MAX);
        assert!(cache.get(b"1", 0, 15.0).is_none());
        let mut cache = Cache::default();
        for number in 0..10_000 {
            cache.insert(format!("{number:08192}").as_bytes(), 0, verified(20.0));
        }
        assert!(cache.len() * 8192 <= 2 * BYTES_MAX);
    }
}
