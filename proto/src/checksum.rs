//! The checksum of a set of resources.
//!
//! Each resource has a content hash, BLAKE3 over its kind, name and encoded bytes. The checksum of
//! a set is the sum of the hashes of its members, lane by lane (four 64-bit lanes, wrapping). A sum
//! can be kept up to date by adding what came and subtracting what went, whatever the size of the
//! set, and does not depend on order. It finds mistakes, not attackers: those the transport keeps out.

use crate::v1::Kind;

/// BLAKE3 of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of a resource from its kind, its name and its encoded bytes.
    #[must_use]
    pub fn of(kind: Kind, name: &str, resource: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(kind as i32).to_le_bytes());
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(resource);
        Self(*hasher.finalize().as_bytes())
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn lanes(&self) -> [u64; 4] {
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(self.0.chunks_exact(8)) {
            *lane = bytes.iter().rev().fold(0, |acc, byte| acc << 8 | u64::from(*byte));
        }
        lanes
    }
}

/// The checksum of a set; of the empty set by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum([u64; 4]);

impl Checksum {
    /// A member came.
    pub fn add(&mut self, hash: &ContentHash) {
        for (sum, lane) in self.0.iter_mut().zip(hash.lanes()) {
            *sum = sum.wrapping_add(lane);
        }
    }

    /// A member went.
    pub fn subtract(&mut self, hash: &ContentHash) {
        for (sum, lane) in self.0.iter_mut().zip(hash.lanes()) {
            *sum = sum.wrapping_sub(lane);
        }
    }

    /// As sent: the lanes in order, little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (out, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            out.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_does_not_depend_on_order_and_forgets_what_went() {
        let a = ContentHash::of(Kind::Route, "a", b"1");
        let b = ContentHash::of(Kind::Route, "b", b"2");
        let mut left = Checksum::default();
        left.add(&a);
        left.add(&b);
        let mut right = Checksum::default();
        right.add(&b);
        right.add(&a);
        assert_eq!(left, right);
        left.subtract(&a);
        right.subtract(&a);
        right.subtract(&b);
        assert_ne!(left, right);
        assert_eq!(right, Checksum::default());
    }

    #[test]
    fn kind_name_and_content_each_count() {
        let base = ContentHash::of(Kind::Route, "ab", b"c");
        assert_ne!(base, ContentHash::of(Kind::Backend, "ab", b"c"));
        assert_ne!(base, ContentHash::of(Kind::Route, "a", b"bc"));
        assert_ne!(base, ContentHash::of(Kind::Route, "ab", b"d"));
    }
}
