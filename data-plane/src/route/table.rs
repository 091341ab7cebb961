//! The tables that a request is looked up in.
//!
//! One map goes from host to what the host has; one map goes from (host, kind of path, path) to the list
//! of matches there, sorted by precedence. A host knows how many segments its prefixes have, so a lookup probes
//! once for the exact path and once for each length of prefix that exists, from the longest. None of
//! this depends on the number of routes. What does is how much of the tables the processor's caches hold, so
//! the two maps of a lookup have entries of one cache line each, key included, and where a path is looked up does not
//! depend on what was found for its host: the processor fetches both at once. Regex paths are the exception: a
//! host's are one set, tried after all else.

mod leaf;
mod regexes;
mod segments;
mod text;

use std::{hash::Hash, sync::Arc};

use hashbrown::{Equivalent, HashMap};

use self::{
    leaf::{Entry, Leaf},
    regexes::Regexes,
    segments::{Depths, Segments},
    text::{Text, TextQuery},
};
use super::{Conditions, Host, Match, Matched, PathTest, RequestView, Route};
use crate::snapshot::{CowMap, Rule, cow_map};

/// The most matches that may differ only in their conditions: they are tried one after the other.
pub(crate) const MATCHES_PER_PATH_MAX: usize = 1000;

/// The most regex paths that a host may have.
pub(crate) const REGEXES_PER_HOST_MAX: usize = 1000;

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    routes: CowMap<Arc<str>, Arc<Route>>,
    exact: CowMap<Text, HostEntry>,
    /// By what comes after the "*.".
    wildcard: CowMap<Text, HostEntry>,
    /// How many labels the keys of `wildcard` have.
    wildcard_depths: Depths,
    any: HostEntry,
    paths: CowMap<PathKey, Leaf>,
    regexes: CowMap<HostId, Arc<Regexes>>,
    /// Hosts get numbers, so that a path's key is small.
    last_host: u32,
    /// Hosts whose regexes changed since [`Tables::finish`].
    dirty: HashMap<HostId, Host>,
}

#[derive(Clone, Debug, Default)]
struct HostEntry {
    id: HostId,
    /// Matches on this host, of any kind; the host is dropped with its last.
    matches: u32,
    exact_paths: u32,
    prefix_depths: Depths,
}

/// With its key, each is one cache line.
const _: () = assert!(size_of::<(Text, HostEntry)>() == 64 && size_of::<(PathKey, Leaf)>() == 64);

#[derive(Clone, Debug, PartialEq, Eq)]
struct PathKey {
    place: Place,
    path: Text,
}

#[derive(Clone, Copy)]
struct PathQuery<'a> {
    place: Place,
    path: &'a str,
}

/// Tells hosts apart. Only `hash` decides where the paths of a host are, and that is known without looking it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct HostId {
    /// Not used again before four thousand million other hosts were added.
    number: u32,
    /// Half of the hash of its text, without the lowest bit.
    hash: u32,
}

/// A host, and in the lowest bit of its hash whether the path is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(HostId);

impl HostId {
    fn exact(self) -> Place {
        Place(Self { hash: self.hash | 1, ..self })
    }

    fn prefix(self) -> Place {
        Place(self)
    }
}

fn hash_of(host: &str) -> u64 {
    cow_map::hash_of(&TextQuery(host))
}

/// The part of a host's hash that its id has.
#[allow(clippy::cast_possible_truncation, reason = "half of it is enough to spread by")]
fn half(hash: u64) -> u32 {
    hash as u32 & !1
}

impl Hash for PathKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.path.hash(state);
        state.write_u32(self.place.0.hash);
    }
}

impl Hash for PathQuery<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        TextQuery(self.path).hash(state);
        state.write_u32(self.place.0.hash);
    }
}

impl Equivalent<PathKey> for PathQuery<'_> {
    fn equivalent(&self, key: &PathKey) -> bool {
        self.place == key.place && TextQuery(self.path).equivalent(&key.path)
    }
}

/// Why a match cannot be added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Which rule of the new route ...
    pub rule: u32,
    /// ... and which match of it.
    pub match_index: u32,
    pub kind: ConflictKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConflictKind {
    /// Another match asks for the same.
    Same { route: Arc<str>, rule: u32, match_index: u32 },
    /// Over [`MATCHES_PER_PATH_MAX`] or [`REGEXES_PER_HOST_MAX`].
    TooMany,
}

impl Tables {
    /// See [`super::Router::find`].
    pub fn find(&self, request: &RequestView<'_>) -> Option<Matched<'_>> {
        let segments = Segments::new(request.path);
        let (host, hash) = (TextQuery(request.host), hash_of(request.host));
        if let Some(host) = self.exact.get_hashed(hash, &host)
            && let Some(matched) = self.find_on(host, half(hash), &segments, request)
        {
            return Some(matched);
        }
        if !self.wildcard_depths.is_empty() {
            let mut labels = request.host.bytes().filter(|&byte| byte == b'.').count();
            let mut rest = request.host;
            while let Some((_, suffix)) = rest.split_once('.') {
                rest = suffix;
                if self.wildcard_depths.has(labels)
                    && let Some(host) = self.wildcard.get(&TextQuery(suffix))
                    && let Some(matched) = self.find_on(host, half(hash_of(suffix)), &segments, request)
                {
                    return Some(matched);
                }
                labels -= 1;
            }
        }
        self.find_on(&self.any, self.any.id.hash, &segments, request)
    }

    /// `hash` is what the host's id has too, but known before its entry has come from memory.
    fn find_on<'s>(
        &'s self,
        host: &'s HostEntry,
        hash: u32,
        segments: &Segments<'_>,
        request: &RequestView<'_>,
    ) -> Option<Matched<'s>> {
        let id = HostId { hash, ..host.id };
        let probe =
            |place, path| -> Option<&'s Arc<Rule>> { self.paths.get(&PathQuery { place, path })?.first(request) };
        if host.exact_paths > 0
            && let Some(rule) = probe(id.exact(), request.path)
        {
            return Some(Matched { rule, prefix_len: 0 });
        }
        let mut below = segments.depth() + 1;
        while let Some(depth) = host.prefix_depths.highest_below(below) {
            let prefix = segments.prefix(depth);
            if let Some(rule) = probe(id.prefix(), prefix) {
                return Some(Matched { rule, prefix_len: prefix.len() });
            }
            below = depth;
        }
        self.regexes.get(&id)?.find(request)
    }

    /// Every route, in no particular order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    /// Whether nothing is left of any route.
    #[cfg(test)]
    pub fn is_clean(&self) -> bool {
        let any = &self.any;
        self.routes.is_empty()
            && self.exact.is_empty()
            && self.wildcard.is_empty()
            && self.wildcard_depths.is_empty()
            && self.paths.is_empty()
            && any.matches == 0
            && any.exact_paths == 0
            && any.prefix_depths.is_empty()
            && self.regexes.is_empty()
    }

    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is a route of that name.
    pub fn has_route(&self, name: &str) -> bool {
        self.routes.get(name).is_some()
    }

    /// Adds a route that is not there yet. After a conflict the tables are good for nothing but finding more of them.
    pub fn insert(&mut self, route: &Arc<Route>) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for rule in &route.rules {
            for path_match in &rule.matches {
                // A conflict on each of a hundred hosts is one mistake.
                let first = route.hosts.iter().find_map(|host| self.insert_match(host, &rule.rule, path_match).err());
                conflicts.extend(first.map(|kind| Conflict {
                    rule: rule.rule.index,
                    match_index: path_match.index,
                    kind,
                }));
            }
        }
        self.routes.insert(Arc::clone(&route.name), Arc::clone(route));
        conflicts
    }

    fn insert_match(&mut self, host: &Host, rule: &Arc<Rule>, path_match: &Match) -> Result<(), ConflictKind> {
        let entry = Entry::new(rule, path_match);
        let host_entry = self.host_mut(host);
        host_entry.matches += 1;
        let (place, path) = match &path_match.path {
            PathTest::Exact(path) => {
                host_entry.exact_paths += 1;
                (host_entry.id.exact(), path)
            }
            PathTest::Prefix(path) => {
                host_entry.prefix_depths.add(segments::depth_of(path));
                (host_entry.id.prefix(), path)
            }
            PathTest::Regex(pattern) => {
                let id = host_entry.id;
                let regexes = self.regexes.get_or_insert_with(id, Arc::default);
                Arc::make_mut(regexes).insert(entry, pattern)?;
                self.dirty.insert(id, host.clone());
                return Ok(());
            }
        };
        let key = PathKey { place, path: path.into() };
        let leaf = self.paths.get_or_insert_with(key, Leaf::default);
        if let Some(other) = leaf.clash(&entry) {
            return Err(other);
        }
        if leaf.len() >= MATCHES_PER_PATH_MAX {
            return Err(ConflictKind::TooMany);
        }
        leaf.insert(entry);
        Ok(())
    }

    /// Removes a route.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Route>> {
        let route = self.routes.remove(name)?;
        for host in &route.hosts {
            for rule in &route.rules {
                for path_match in &rule.matches {
                    self.remove_match(host, &Entry::new(&rule.rule, path_match), &path_match.path);
                }
            }
        }
        Some(route)
    }

    fn remove_match(&mut self, host: &Host, entry: &Entry, path: &PathTest) {
        let host_entry = self.host_mut(host);
        host_entry.matches -= 1;
        let emptied = host_entry.matches == 0;
        let query = match path {
            PathTest::Exact(path) => {
                host_entry.exact_paths -= 1;
                Some(PathQuery { place: host_entry.id.exact(), path })
            }
            PathTest::Prefix(path) => {
                host_entry.prefix_depths.remove(segments::depth_of(path));
                Some(PathQuery { place: host_entry.id.prefix(), path })
            }
            PathTest::Regex(_) => {
                let id = host_entry.id;
                if let Some(regexes) = self.regexes.get_mut(&id) {
                    Arc::make_mut(regexes).remove(entry);
                }
                self.dirty.insert(id, host.clone());
                None
            }
        };
        if let Some(query) = query
            && let Some(leaf) = self.paths.get_mut(&query)
        {
            leaf.remove(entry);
            if leaf.is_empty() {
                self.paths.remove(&query);
            }
        }
        if emptied {
            self.drop_host(host);
        }
    }

    /// Puts a route in the place of the one of its name that has the same hosts and matches but other rules.
    pub fn replace_rules(&mut self, route: &Arc<Route>) {
        for host in &route.hosts {
            for rule in &route.rules {
                for path_match in &rule.matches {
                    self.replace_rule(host, &Entry::new(&rule.rule, path_match), &path_match.path);
                }
            }
        }
        self.routes.insert(Arc::clone(&route.name), Arc::clone(route));
    }

    fn replace_rule(&mut self, host: &Host, entry: &Entry, path: &PathTest) {
        let host_entry = self.host_mut(host);
        let (place, path) = match path {
            PathTest::Exact(path) => (host_entry.id.exact(), path),
            PathTest::Prefix(path) => (host_entry.id.prefix(), path),
            PathTest::Regex(_) => {
                let id = host_entry.id;
                if let Some(regexes) = self.regexes.get_mut(&id) {
                    Arc::make_mut(regexes).replace(entry);
                }
                return;
            }
        };
        let query = PathQuery { place, path };
        if let Some(leaf) = self.paths.get_mut(&query) {
            leaf.replace(entry);
        }
    }

    /// Builds anew the regex sets of the hosts whose regexes changed. Must be called before the tables are used.
    /// Returns the names of the routes on each host whose set gets too large.
    pub fn finish(&mut self) -> Vec<(Host, Vec<Arc<str>>)> {
        let mut too_large = Vec::new();
        for (id, host) in std::mem::take(&mut self.dirty) {
            let Some(regexes) = self.regexes.get_mut(&id) else { continue };
            if regexes.is_empty() {
                self.regexes.remove(&id);
            } else if let Err(routes) = Arc::make_mut(regexes).build() {
                too_large.push((host, routes));
            }
        }
        too_large
    }

    fn host_mut(&mut self, host: &Host) -> &mut HostEntry {
        let (map, name) = match host {
            Host::Exact(name) => (&mut self.exact, name),
            Host::Wildcard(suffix) => (&mut self.wildcard, suffix),
            Host::Any => return &mut self.any,
        };
        let depths = matches!(host, Host::Wildcard(_)).then_some(&mut self.wildcard_depths);
        let last_host = &mut self.last_host;
        map.get_or_insert_with(name.into(), || {
            *last_host = last_host.wrapping_add(1);
            if let Some(depths) = depths {
                depths.add(labels_of(name));
            }
            HostEntry { id: HostId { number: *last_host, hash: half(hash_of(name)) }, ..HostEntry::default() }
        })
    }

    fn drop_host(&mut self, host: &Host) {
        match host {
            Host::Exact(name) => drop(self.exact.remove(&TextQuery(name))),
            Host::Wildcard(suffix) => {
                self.wildcard.remove(&TextQuery(suffix));
                self.wildcard_depths.remove(labels_of(suffix));
            }
            Host::Any => self.any = HostEntry::default(),
        }
    }
}

fn labels_of(host: &str) -> usize {
    host.split('.').count()
}

/// What the conditions of a match without any are.
fn conditions_of(conditions: Option<&Arc<Conditions>>) -> &Conditions {
    static NONE: Conditions = Conditions {
        listeners: std::collections::BTreeSet::new(),
        methods: Vec::new(),
        headers: Vec::new(),
        query: Vec::new(),
    };
    conditions.map_or(&NONE, |conditions| conditions)
}
