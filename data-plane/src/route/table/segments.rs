//! Where the segments of a path end, and how many segments the prefixes of a host have.

/// How many ends are kept; further ones are counted out when a prefix of that many segments exists.
const ENDS: usize = 32;

/// A canonical path, split.
#[derive(Debug)]
pub(super) struct Segments<'a> {
    path: &'a str,
    /// `ends[n]` is the length of the prefix of n segments.
    ends: [u32; ENDS],
    depth: usize,
}

/// How many segments a prefix without a slash at its end has.
pub(super) fn depth_of(prefix: &str) -> usize {
    prefix.bytes().filter(|&byte| byte == b'/').count()
}

impl<'a> Segments<'a> {
    #[allow(clippy::cast_possible_truncation, reason = "a path is bounded far below 4 GiB")]
    pub fn new(path: &'a str) -> Self {
        let mut ends = [0; ENDS];
        let mut depth = 0;
        for end in ends_of(path) {
            depth += 1;
            if depth < ENDS {
                ends[depth] = end as u32;
            }
        }
        Self { path, ends, depth }
    }

    /// How many segments there are.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The first `depth` segments, without a slash at the end.
    pub fn prefix(&self, depth: usize) -> &'a str {
        let end = match self.ends.get(depth) {
            Some(&end) => end as usize,
            None => ends_of(self.path).nth(depth - 1).unwrap_or(self.path.len()),
        };
        &self.path[..end]
    }
}

/// Where each segment ends; a slash at the very end begins none.
fn ends_of(path: &str) -> impl Iterator<Item = usize> {
    let whole = path.strip_suffix('/').unwrap_or(path);
    let inner = memchr::memchr_iter(b'/', whole.as_bytes()).skip(1);
    inner.chain((!whole.is_empty()).then_some(whole.len()))
}

/// A multiset of small numbers that is asked far more often than it is changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Depths {
    /// Bit n for the number n; the last bit for all from there on.
    mask: u64,
    /// Boxed to keep the entry of a host small.
    counts: Box<Counts>,
}

/// (number, how often), sorted.
#[derive(Clone, Debug, Default)]
struct Counts(Vec<(usize, usize)>);

const LAST_BIT: usize = 63;

impl Depths {
    pub fn is_empty(&self) -> bool {
        self.mask == 0
    }

    pub fn has(&self, depth: usize) -> bool {
        self.highest_below(depth + 1) == Some(depth)
    }

    /// The highest number there below `bound`.
    #[inline]
    pub fn highest_below(&self, bound: usize) -> Option<usize> {
        if bound > LAST_BIT && self.mask >> LAST_BIT != 0 {
            let counts = &self.counts.0;
            return counts[..counts.partition_point(|(depth, _)| *depth < bound)].last().map(|(depth, _)| *depth);
        }
        // Bit by bit: the processor guesses a branch before the mask has come from memory, but waits to count zeros.
        (0..bound.min(LAST_BIT)).rev().find(|depth| self.mask >> depth & 1 == 1)
    }

    pub fn add(&mut self, depth: usize) {
        let counts = &mut self.counts.0;
        match counts.binary_search_by_key(&depth, |(depth, _)| *depth) {
            Ok(index) => counts[index].1 += 1,
            Err(index) => counts.insert(index, (depth, 1)),
        }
        self.mask |= 1 << depth.min(LAST_BIT);
    }

    pub fn remove(&mut self, depth: usize) {
        let counts = &mut self.counts.0;
        let Ok(index) = counts.binary_search_by_key(&depth, |(depth, _)| *depth) else { return };
        counts[index].1 -= 1;
        if counts[index].1 == 0 {
            counts.remove(index);
            self.mask = counts.iter().fold(0, |mask, (depth, _)| mask | 1 << (*depth).min(LAST_BIT));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_splits_into_its_prefixes() {
        let segments = Segments::new("/a/bc/d");
        let prefixes: Vec<_> = (0..=segments.depth()).map(|depth| segments.prefix(depth)).collect();
        assert_eq!(prefixes, ["", "/a", "/a/bc", "/a/bc/d"]);
        assert_eq!(Segments::new("/").depth(), 0);
        assert_eq!(Segments::new("/a/").depth(), 1);
        assert_eq!(Segments::new("/a/").prefix(1), "/a");
    }

    #[test]
    fn very_deep_prefixes_are_found_too() {
        let path = "/a".repeat(100);
        let segments = Segments::new(&path);
        assert_eq!(segments.depth(), 100);
        for depth in 0..=100 {
            assert_eq!(segments.prefix(depth), "/a".repeat(depth));
        }
    }

    #[test]
    fn depths_are_counted_and_found_from_the_highest() {
        let mut depths = Depths::default();
        assert!(depths.is_empty());
        for depth in [0, 3, 3, 62, 63, 64, 200] {
            depths.add(depth);
        }
        let mut found = Vec::new();
        let mut below = 1000;
        while let Some(depth) = depths.highest_below(below) {
            found.push(depth);
            below = depth;
        }
        assert_eq!(found, [200, 64, 63, 62, 3, 0]);
        depths.remove(3);
        assert!(depths.has(3));
        depths.remove(3);
        assert!(!depths.has(3) && depths.has(62) && !depths.has(100));
        for depth in [200, 64, 63] {
            depths.remove(depth);
        }
        assert_eq!(depths.highest_below(1000), Some(62));
    }
}
