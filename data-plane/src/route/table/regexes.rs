//! The regex paths of one host, all tried at once.

use std::sync::Arc;

use regex::{RegexSet, RegexSetBuilder};

use super::{
    ConflictKind, Matched, REGEXES_PER_HOST_MAX,
    leaf::{Entry, Leaf},
};
use crate::route::{Pattern, RequestView, condition};

/// The most bytes that the regexes of a host may take together once compiled.
const MEMORY_MAX: usize = 8 << 20;

/// The set follows the entries only when [`Regexes::build`] is called: it is built whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Regexes {
    /// The regexes of `entries`, in the same order.
    set: RegexSet,
    /// Sorted by precedence.
    entries: Leaf,
    /// In the same order.
    patterns: Vec<Arc<Pattern>>,
}

impl Regexes {
    /// The first that matches the path and whose conditions hold.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Matched<'_>> {
        let matches = self.set.matches(request.path);
        let rule = matches.iter().find_map(|index| self.entries.get(index)?.holds(request))?;
        Some(Matched { rule, prefix_len: 0 })
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    pub fn insert(&mut self, entry: Entry, pattern: &Arc<Pattern>) -> Result<(), ConflictKind> {
        let same = |index: usize| self.patterns[index] == *pattern;
        if let Some(other) = self.entries.clash_where(&entry, same) {
            return Err(other);
        }
        if self.patterns.len() >= REGEXES_PER_HOST_MAX {
            return Err(ConflictKind::TooMany);
        }
        let index = self.entries.insert(entry);
        self.patterns.insert(index, Arc::clone(pattern));
        Ok(())
    }

    /// Builds the set anew. If it gets too large, returns the names of the routes in it.
    pub fn build(&mut self) -> Result<(), Vec<Arc<str>>> {
        let texts = self.patterns.iter().map(|pattern| condition::whole(pattern.text()));
        self.set = RegexSetBuilder::new(texts).size_limit(MEMORY_MAX).build().map_err(|_| self.entries.routes())?;
        Ok(())
    }

    pub fn replace(&mut self, entry: &Entry) {
        self.entries.replace(entry);
    }

    pub fn remove(&mut self, entry: &Entry) {
        if let Some(index) = self.entries.remove(entry) {
            self.patterns.remove(index);
        }
    }
}
