//! Why a request goes where it goes: a second, slow implementation of matching that looks at every match of
//! every route, one condition after the other.
//!
//! It shares nothing with the tables but the routes themselves, so that the two can be tested against each other.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use rustygate_proto::v1 as wire;

use super::{Conditions, Host, Match, PathTest, RequestView, Route, ValueCondition, ValueTest};
use crate::snapshot::{Rule, WeightedBackend};

/// The most hosts of a route that a candidate names.
const HOSTS_NAMED_MAX: usize = 3;

/// A match and how far it came.
struct Considered<'a> {
    rule: &'a Arc<Rule>,
    path_match: &'a Match,
    hosts: &'a [Host],
    /// The most specific of the hosts that holds; else the most specific.
    host: &'a Host,
    failed: Option<Failed>,
}

/// The first condition that does not hold.
struct Failed {
    step: Step,
    why: String,
}

/// The conditions in the order in which they are looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Host,
    Path,
    Listener,
    Method,
    Header,
    Query,
}

/// What [`super::Router::explain`] answers.
#[derive(Clone, Debug)]
pub struct Explained {
    /// In order of precedence.
    pub candidates: Vec<wire::Candidate>,
    /// How many more there are.
    pub omitted: u64,
}

/// See [`super::Router::explain`].
pub(super) fn explain<'a>(
    routes: impl Iterator<Item = &'a Arc<Route>>,
    request: &RequestView<'_>,
    candidates_max: usize,
) -> Explained {
    let mut considered: Vec<_> = routes.flat_map(|route| consider(route, request)).collect();
    considered.sort_by(|left, right| precedence(left).cmp(&precedence(right)));
    let all = considered.len();
    keep_nearest(&mut considered, candidates_max.max(1));
    let omitted = all - considered.len();
    let winner = considered.iter().position(|considered| considered.failed.is_none());
    let candidates = considered.iter().enumerate();
    let candidates =
        candidates.map(|(index, considered)| candidate(considered, request, winner == Some(index))).collect();
    Explained { candidates, omitted: omitted as u64 }
}

/// Where the winner's rule and match are: what the tables must find.
#[cfg(test)]
pub(super) fn winner<'a>(
    routes: impl Iterator<Item = &'a Arc<Route>>,
    request: &RequestView<'_>,
) -> Option<(&'a Arc<Rule>, u32)> {
    let all = routes.flat_map(|route| consider(route, request));
    let holding = all.filter(|considered| considered.failed.is_none());
    let best = holding.min_by(|left, right| precedence(left).cmp(&precedence(right)))?;
    Some((best.rule, best.path_match.index))
}

fn consider<'a>(route: &'a Route, request: &RequestView<'_>) -> Vec<Considered<'a>> {
    let mut considered = Vec::new();
    for rule in &route.rules {
        for path_match in &rule.matches {
            let holding = route.hosts.iter().filter(|host| host_holds(host, request.host)).min_by_key(specificity);
            let Some(host) = holding.or_else(|| route.hosts.iter().min_by_key(specificity)) else { continue };
            let failed = first_failed(&route.hosts, holding.is_some(), path_match, &route.listeners, request);
            considered.push(Considered { rule: &rule.rule, path_match, hosts: &route.hosts, host, failed });
        }
    }
    considered
}

/// Smaller is more specific.
fn specificity(host: &&Host) -> (u8, Reverse<usize>) {
    match host {
        Host::Exact(_) => (0, Reverse(0)),
        Host::Wildcard(suffix) => (1, Reverse(suffix.len())),
        Host::Any => (2, Reverse(0)),
    }
}

fn host_holds(host: &Host, requested: &str) -> bool {
    match host {
        Host::Exact(name) => **name == *requested,
        Host::Wildcard(suffix) => requested.len() > suffix.len() + 1 && requested.ends_with(&format!(".{suffix}")),
        Host::Any => true,
    }
}

/// Smaller goes first.
fn precedence<'a>(considered: &Considered<'a>) -> impl Ord + use<'a> {
    let path = match &considered.path_match.path {
        PathTest::Exact(_) => (0, Reverse(0)),
        PathTest::Prefix(prefix) => (1, Reverse(prefix.matches('/').count())),
        PathTest::Regex(_) => (2, Reverse(0)),
    };
    let conditions = considered.path_match.conditions.as_deref();
    let count = |of: fn(&Conditions) -> usize| Reverse(conditions.map_or(0, of));
    (
        specificity(&considered.host),
        path,
        count(|conditions| usize::from(!conditions.methods.is_empty())),
        count(|conditions| conditions.headers.len()),
        count(|conditions| conditions.query.len()),
        (&*considered.rule.route, considered.rule.index, considered.path_match.index),
    )
}

/// Drops all but the `max` that came farthest, and keeps the order.
fn keep_nearest(considered: &mut Vec<Considered<'_>>, max: usize) {
    if considered.len() <= max {
        return;
    }
    let distance =
        |considered: &Considered<'_>| Reverse(considered.failed.as_ref().map_or(u8::MAX, |it| it.step as u8));
    let mut ranks: Vec<_> = considered.iter().enumerate().map(|(index, it)| (distance(it), index)).collect();
    ranks.sort_unstable();
    let kept: BTreeSet<_> = ranks.into_iter().take(max).map(|(_, index)| index).collect();
    let mut index = 0;
    considered.retain(|_| {
        index += 1;
        kept.contains(&(index - 1))
    });
}

fn first_failed(
    hosts: &[Host],
    host_holds: bool,
    path_match: &Match,
    listeners: &BTreeSet<Arc<str>>,
    request: &RequestView<'_>,
) -> Option<Failed> {
    let fail = |step, why| Some(Failed { step, why });
    if !host_holds {
        return fail(Step::Host, format!("host is {:?}, not {}", request.host, host_words(hosts)));
    }
    if let Some(why) = path_fails(&path_match.path, request.path) {
        return fail(Step::Path, why);
    }
    if !listeners.is_empty() && !request.listener.is_empty() && !listeners.iter().any(|it| **it == *request.listener) {
        let why = format!("listener is {:?}, not {}", request.listener, any_of(listeners.iter().map(|it| &**it)));
        return fail(Step::Listener, why);
    }
    let conditions = path_match.conditions.as_deref()?;
    if !conditions.methods.is_empty() && !conditions.methods.iter().any(|method| **method == *request.method) {
        let why = format!("method is {}, not {}", request.method, any_of(conditions.methods.iter().map(|it| &**it)));
        return fail(Step::Method, why);
    }
    for header in &conditions.headers {
        let named = request.fields.iter().filter(|(name, _)| name.to_ascii_lowercase() == *header.name);
        let values = named.map(|(_, value)| value.to_vec()).collect();
        if let Some(why) = value_fails("header", header, values) {
            return fail(Step::Header, why);
        }
    }
    let parameters = parameters(request.query.unwrap_or_default());
    for parameter in &conditions.query {
        let named = parameters.iter().filter(|(name, _)| name == parameter.name.as_bytes());
        let values = named.map(|(_, value)| value.clone()).collect();
        if let Some(why) = value_fails("query parameter", parameter, values) {
            return fail(Step::Query, why);
        }
    }
    None
}

fn path_fails(test: &PathTest, path: &str) -> Option<String> {
    let (holds, why) = match test {
        PathTest::Exact(exact) => (**exact == *path, format!("path is {path:?}, not {exact:?}")),
        PathTest::Prefix(prefix) => {
            let wanted: Vec<_> = prefix.split('/').collect();
            let found: Vec<_> = path.split('/').collect();
            (found.starts_with(&wanted), format!("path {path:?} is not at or below \"{prefix}\""))
        }
        PathTest::Regex(pattern) => {
            let text = pattern.text();
            (pattern.is_match(path.as_bytes()), format!("path {path:?} does not match the regex {text:?}"))
        }
    };
    (!holds).then_some(why)
}

fn value_fails(noun: &str, condition: &ValueCondition, values: Vec<Vec<u8>>) -> Option<String> {
    let name = &condition.name;
    if values.is_empty() {
        return Some(format!("{noun} {name} is missing"));
    }
    let failing = values.into_iter().find(|value| match &condition.test {
        ValueTest::Exact(text) => *value != text.as_bytes(),
        ValueTest::Regex(pattern) => !pattern.is_match(value),
    })?;
    let failing = String::from_utf8_lossy(&failing);
    Some(match &condition.test {
        ValueTest::Exact(text) => format!("{noun} {name} is {failing:?}, not {text:?}"),
        ValueTest::Regex(pattern) => format!("{noun} {name} is {failing:?}, which {:?} does not match", pattern.text()),
    })
}

fn parameters(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    let pairs = pieces.map(|piece| piece.split_once('=').unwrap_or((piece, "")));
    pairs.map(|(name, value)| (unescape(name), unescape(value))).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let text = text.as_bytes();
    let mut out = Vec::with_capacity(text.len());
    let mut index = 0;
    while index < text.len() {
        let digits = text.get(index + 1..index + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let escape = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match (text[index], escape.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                index += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        index += 1;
    }
    out
}

fn candidate(considered: &Considered<'_>, request: &RequestView<'_>, winner: bool) -> wire::Candidate {
    wire::Candidate {
        route: considered.rule.route.to_string(),
        rule: considered.rule.index,
        r#match: considered.path_match.index,
        conditions: conditions_words(considered),
        failed: considered.failed.as_ref().map(|failed| failed.why.clone()).unwrap_or_default(),
        winner,
        action: if winner { action(considered, request) } else { String::new() },
    }
}

fn conditions_words(considered: &Considered<'_>) -> String {
    let mut words = Vec::new();
    if considered.hosts != [Host::Any] {
        words.push(format!("host {}", host_words(considered.hosts)));
    }
    words.push(match &considered.path_match.path {
        PathTest::Exact(path) => format!("path exactly {path}"),
        PathTest::Prefix(prefix) if prefix.is_empty() => "any path".to_owned(),
        PathTest::Prefix(prefix) => format!("path prefix {prefix}"),
        PathTest::Regex(pattern) => format!("path regex {}", pattern.text()),
    });
    if let Some(conditions) = &considered.path_match.conditions {
        if !conditions.listeners.is_empty() {
            words.push(format!("listener {}", any_of(conditions.listeners.iter().map(|it| &**it))));
        }
        if !conditions.methods.is_empty() {
            words.push(format!("method {}", any_of(conditions.methods.iter().map(|it| &**it))));
        }
        words.extend(conditions.headers.iter().map(|header| value_words("header", header)));
        words.extend(conditions.query.iter().map(|parameter| value_words("query", parameter)));
    }
    words.join(", ")
}

fn value_words(noun: &str, condition: &ValueCondition) -> String {
    match &condition.test {
        ValueTest::Exact(text) => format!("{noun} {} = {text:?}", condition.name),
        ValueTest::Regex(pattern) => format!("{noun} {} ~ {:?}", condition.name, pattern.text()),
    }
}

fn host_words(hosts: &[Host]) -> String {
    let named: Vec<_> = hosts
        .iter()
        .take(HOSTS_NAMED_MAX)
        .map(|host| match host {
            Host::Exact(name) => name.to_string(),
            Host::Wildcard(suffix) => format!("*.{suffix}"),
            Host::Any => "any".to_owned(),
        })
        .collect();
    match hosts.len().saturating_sub(HOSTS_NAMED_MAX) {
        0 => any_of(named.iter().map(String::as_str)),
        more => format!("{} or {more} more", named.join(", ")),
    }
}

fn any_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" or ")
}

fn action(considered: &Considered<'_>, request: &RequestView<'_>) -> String {
    let backends: Vec<_> = considered
        .rule
        .backends
        .iter()
        .map(|weighted| {
            let name = &weighted.backend.name;
            if considered.rule.backends.len() == 1 { name.to_string() } else { format!("{name} ({})", weighted.weight) }
        })
        .collect();
    let mut words = format!("forward to {}", backends.join(", "));
    if let PathTest::Prefix(prefix) = &considered.path_match.path
        && considered.rule.strip_prefix
        && !prefix.is_empty()
    {
        let rest = request.path.strip_prefix(&**prefix).filter(|rest| !rest.is_empty()).unwrap_or("/");
        words.push_str(&format!(", path becomes {rest}"));
    }
    words.push_str(&plugins(considered.rule, request.listener));
    if request.listener.is_empty() {
        let all = considered.rule.backends.iter().flat_map(|backend| &backend.listener_chains);
        for listener in all.map(|(listener, _)| listener).collect::<BTreeSet<_>>() {
            let own = plugins(considered.rule, listener);
            let own = if own.is_empty() { ", no plugins" } else { &own };
            words.push_str(&format!("; by listener {listener}{own}"));
        }
    }
    words
}

/// What runs for a request, in order of execution; once for all backends if it is the same for all.
fn plugins(rule: &Rule, listener: &str) -> String {
    let chain = |backend: &WeightedBackend| {
        let chain = backend.chain(backend.listener_index(listener)).iter();
        chain.map(|plugin| format!("{} ({})", plugin.name, plugin.spec.name)).collect::<Vec<_>>().join(", ")
    };
    let chains: Vec<_> = rule.backends.iter().map(|backend| (&backend.backend.name, chain(backend))).collect();
    let Some((_, first)) = chains.first() else { return String::new() };
    if chains.iter().any(|(_, chain)| chain != first) {
        let each = chains.iter().map(|(name, chain)| {
            let chain = if chain.is_empty() { "none" } else { chain };
            format!("for {name}: {chain}")
        });
        return format!(", plugins {}", each.collect::<Vec<_>>().join("; "));
    }
    if first.is_empty() { String::new() } else { format!(", plugins {first}") }
}
