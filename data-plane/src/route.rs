//! Pure matching: which rule gets a request. No I/O, no clock, no async, no globals.
//!
//! Precedence is that of HTTPRoute in the Gateway API: the most specific host (exact, then the longest
//! wildcard, then any), and within it the exact path, the longest prefix, a regex; then a condition on the method,
//! more conditions on headers, more on query parameters, and the route's name. A host none of whose
//! matches holds gives way to the next less specific one.
//!
//! `table` finds the rule in a few hash probes, however many routes there are; `explain` is a slow
//! second implementation that says why, and that the first is tested against.

mod condition;
mod explain;
mod table;

use std::{collections::BTreeSet, sync::Arc};

pub use self::explain::Explained;
pub(crate) use self::{
    condition::{Conditions, Pattern, ValueCondition, ValueTest, query_values, query_without},
    table::{Conflict, ConflictKind, MATCHES_PER_PATH_MAX, REGEXES_PER_HOST_MAX},
};
use crate::{fields::Fields, snapshot::Rule};

/// What a route can see of a request: the one canonical view.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Name of the listener that it came in by; "" stands for any of them.
    pub listener: &'a str,
    /// As the client sent it; methods are case-sensitive.
    pub method: &'a str,
    /// Canonical: lower case, no port, no dot at the end; "" if the client sent none (HTTP/1.0).
    pub host: &'a str,
    /// Canonical and without parameters ([`crate::canonical::without_parameters`]), begins with a slash.
    pub path: &'a str,
    /// Without its question mark.
    pub query: Option<&'a str>,
    /// The header section.
    pub fields: &'a Fields,
}

/// The rule that gets a request.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'s> {
    /// What to do.
    pub rule: &'s Arc<Rule>,
    /// How many bytes of the path the matched prefix has, without a slash at its end; 0 unless a prefix matched.
    pub prefix_len: usize,
}

/// Every route, ready to be matched.
#[derive(Clone, Debug, Default)]
pub struct Router {
    tables: table::Tables,
}

/// A route with its matches, as the tables are filled from and emptied by.
#[derive(Debug)]
pub(crate) struct Route {
    pub name: Arc<str>,
    /// Never empty: [`Host::Any`] if the route names none.
    pub hosts: Box<[Host]>,
    /// Names of listeners; empty means all.
    pub listeners: BTreeSet<Arc<str>>,
    pub rules: Box<[RouteRule]>,
    /// Keys of the inline backends that the rules use, once for each use.
    pub inline: Box<[Arc<str>]>,
}

impl Route {
    /// About how many bytes its regexes take.
    pub fn regex_bytes(&self) -> usize {
        let of_match = |one: &Match| {
            let path = match &one.path {
                PathTest::Regex(pattern) => pattern.bytes(),
                PathTest::Exact(_) | PathTest::Prefix(_) => 0,
            };
            path + one.conditions.as_ref().map_or(0, |conditions| conditions.regex_bytes())
        };
        self.rules.iter().flat_map(|rule| &rule.matches).map(of_match).sum()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct RouteRule {
    pub rule: Arc<Rule>,
    /// Never empty.
    pub matches: Box<[Match]>,
}

#[derive(Clone, Debug)]
pub(crate) struct Match {
    /// Its place in the rule, from 0.
    pub index: u32,
    pub path: PathTest,
    /// `None` if there are none beyond host and path.
    pub conditions: Option<Arc<Conditions>>,
}

/// The hosts that a match is for, from the most specific.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Exact(Arc<str>),
    /// What comes after the "*.".
    Wildcard(Arc<str>),
    Any,
}

#[derive(Clone, Debug)]
pub(crate) enum PathTest {
    Exact(Arc<str>),
    /// Without a slash at its end, so "" is the root and holds for every path.
    Prefix(Arc<str>),
    Regex(Arc<Pattern>),
}

impl Router {
    /// The rule for a request, by the precedence of the Gateway API.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>) -> Option<Matched<'_>> {
        self.tables.find(request)
    }

    /// Every match of every route in order of precedence, and the first condition of each that does not hold. Of
    /// more than `candidates_max`, the nearest to holding; the winner, if there is one, is always among them.
    #[must_use]
    pub fn explain(&self, request: &RequestView<'_>, candidates_max: usize) -> Explained {
        explain::explain(self.tables.routes(), request, candidates_max)
    }

    /// How many routes there are.
    #[must_use]
    pub fn route_count(&self) -> usize {
        self.tables.route_count()
    }

    /// Whether there is a route of that name.
    #[must_use]
    pub fn has_route(&self, name: &str) -> bool {
        self.tables.has_route(name)
    }

    /// How many matches there are in all.
    #[must_use]
    pub fn match_count(&self) -> usize {
        self.tables.routes().flat_map(|route| &route.rules).map(|rule| rule.matches.len()).sum()
    }

    pub(crate) fn tables(&self) -> &table::Tables {
        &self.tables
    }

    pub(crate) fn tables_mut(&mut self) -> &mut table::Tables {
        &mut self.tables
    }
}

#[cfg(test)]
mod tests;
