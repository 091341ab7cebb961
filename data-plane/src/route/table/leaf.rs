//! The matches of one path on one host, sorted by precedence.

use std::{
    cmp::{Ordering, Reverse},
    sync::Arc,
};

use super::{ConflictKind, conditions_of};
use crate::{
    route::{Conditions, Match, RequestView},
    snapshot::Rule,
};

/// One match there.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    rule: Arc<Rule>,
    conditions: Option<Arc<Conditions>>,
    match_index: u32,
}

/// All of them. Most often there is one, which then needs no list. Any other number is `Many`, none included; a slice
/// and not a `Vec`, since that keeps a leaf at three words.
#[derive(Clone, Debug)]
pub(super) enum Leaf {
    One(Entry),
    Many(Box<[Entry]>),
}

impl Default for Leaf {
    fn default() -> Self {
        Self::Many(Box::default())
    }
}

impl Entry {
    pub fn new(rule: &Arc<Rule>, path_match: &Match) -> Self {
        Self { rule: Arc::clone(rule), conditions: path_match.conditions.clone(), match_index: path_match.index }
    }

    /// The rule, if all conditions hold.
    #[inline]
    pub fn holds(&self, request: &RequestView<'_>) -> Option<&Arc<Rule>> {
        match &self.conditions {
            Some(conditions) if !conditions.hold(request) => None,
            _ => Some(&self.rule),
        }
    }

    fn precedence(&self, other: &Self) -> Ordering {
        let key = |entry: &Self| {
            let conditions = conditions_of(entry.conditions.as_ref());
            Reverse((!conditions.methods.is_empty(), conditions.headers.len(), conditions.query.len()))
        };
        key(self).cmp(&key(other)).then_with(|| self.place().cmp(&other.place()))
    }

    /// Unique among the entries of a leaf.
    fn place(&self) -> (&str, u32, u32) {
        (&self.rule.route, self.rule.index, self.match_index)
    }

    fn clash(&self, other: &Self) -> bool {
        match (&self.conditions, &other.conditions) {
            (None, None) => true,
            (left, right) => conditions_of(left.as_ref()).clash(conditions_of(right.as_ref())),
        }
    }
}

impl Leaf {
    /// The rule of the first whose conditions hold.
    #[inline]
    pub fn first(&self, request: &RequestView<'_>) -> Option<&Arc<Rule>> {
        match self {
            Self::One(entry) => entry.holds(request),
            Self::Many(entries) => entries.iter().find_map(|entry| entry.holds(request)),
        }
    }

    pub fn get(&self, index: usize) -> Option<&Entry> {
        self.entries().get(index)
    }

    pub fn len(&self) -> usize {
        self.entries().len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// Names of the routes that they are of, without repetition.
    pub fn routes(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.entries().iter().map(|entry| Arc::clone(&entry.rule.route)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A match that asks for the same as the new one.
    pub fn clash(&self, new: &Entry) -> Option<ConflictKind> {
        self.clash_where(new, |_| true)
    }

    /// The same, among those at the places for which `counts` holds.
    pub fn clash_where(&self, new: &Entry, counts: impl Fn(usize) -> bool) -> Option<ConflictKind> {
        let entries = self.entries().iter().enumerate();
        let (_, other) = entries.filter(|(index, _)| counts(*index)).find(|(_, entry)| entry.clash(new))?;
        let (route, rule, match_index) = (Arc::clone(&other.rule.route), other.rule.index, other.match_index);
        Some(ConflictKind::Same { route, rule, match_index })
    }

    /// Returns where it is now.
    pub fn insert(&mut self, entry: Entry) -> usize {
        let index = match self.position(&entry) {
            Ok(index) | Err(index) => index,
        };
        let mut entries = self.take();
        entries.insert(index, entry);
        *self = entries.into();
        index
    }

    /// Returns where it was.
    pub fn remove(&mut self, entry: &Entry) -> Option<usize> {
        let index = self.position(entry).ok()?;
        let mut entries = self.take();
        entries.remove(index);
        *self = entries.into();
        Some(index)
    }

    /// Puts an entry in the place of the one of the same match.
    pub fn replace(&mut self, entry: &Entry) {
        let Ok(index) = self.position(entry) else { return };
        match self {
            Self::One(old) => *old = entry.clone(),
            Self::Many(entries) => entries[index] = entry.clone(),
        }
    }

    fn take(&mut self) -> Vec<Entry> {
        match std::mem::take(self) {
            Self::One(entry) => vec![entry],
            Self::Many(entries) => entries.into_vec(),
        }
    }

    fn entries(&self) -> &[Entry] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    fn position(&self, entry: &Entry) -> Result<usize, usize> {
        self.entries().binary_search_by(|other| other.precedence(entry))
    }
}

impl From<Vec<Entry>> for Leaf {
    fn from(entries: Vec<Entry>) -> Self {
        match <[Entry; 1]>::try_from(entries) {
            Ok([entry]) => Self::One(entry),
            Err(entries) => Self::Many(entries.into()),
        }
    }
}
