//! Where in the documents a fault lies that was found later, in a resource's wire form.
//!
//! Spans are not kept: the documents are read once more. A wire path is walked through what the user wrote, which
//! may be shorter (`rules[0].matches[0].path.prefix` is just `path`): a step that the text does not have is passed
//! over where a short form explains it, and ends the walk otherwise, at the closest place.

use rustygate_proto::v1 as wire;

use super::faults::{Faults, is_secret};
use super::node::{Entry, Node, Span, Value};
use super::place::Lines;
use super::{Parsed, read, slot};

pub(super) fn fill(parsed: &Parsed, faults: &mut [wire::Fault]) {
    // Document, item and resource of each fault whose resource came from the documents.
    let mut wanted: Vec<(usize, usize, usize, &mut wire::Fault)> = Vec::new();
    for fault in faults {
        let Some(index) = parsed.by_name[slot(fault.kind())].get(&fault.name) else { continue };
        let origin = parsed.origins[*index];
        let Some(resource) = origin.resource else { continue };
        wanted.push((origin.document, origin.item, resource, fault));
    }
    wanted.sort_by_key(|(document, item, ..)| (*document, *item));
    let mut rest = wanted.into_iter().peekable();
    while let Some((document, ..)) = rest.peek() {
        let (index, document) = (*document, &parsed.documents[*document]);
        let mut found = Vec::new();
        let mut item = 0;
        read::items(document, &mut Faults::default(), |_, _, node, _| {
            while let Some((_, _, resource, fault)) = rest.next_if(|next| (next.0, next.1) == (index, item)) {
                let span = find(node, &parsed.resources[resource], &fault.field);
                let hidden = is_secret(fault.kind(), node, &fault.field, span);
                found.push((span, hidden, fault));
            }
            item += 1;
        });
        found.sort_by_key(|(span, ..)| (span.line, span.column));
        let mut lines = Lines::new(document);
        for (span, hidden, fault) in found {
            let hidden = hidden || parsed.hidden.contains(&(index, span.line));
            fault.location = Some(if hidden { lines.hidden(span) } else { lines.location(span) });
        }
        // Nothing should be left of this document; if it is, it goes without a place.
        while rest.next_if(|next| next.0 == index).is_some() {}
    }
}

/// The closest place to a wire path in an item.
fn find(item: &Node<'_>, resource: &wire::Resource, field: &str) -> Span {
    let mut at = item;
    let mut span = item.entry("name").map_or(item.span, |entry| entry.value.span);
    let mut walked = String::new();
    for step in steps(field) {
        if !walked.is_empty() && !matches!(step, Step::Index(_)) {
            walked.push('.');
        }
        walked.push_str(&step.to_string());
        let entry = match step {
            Step::Index(index) => match condition(resource, &walked).map(|name| (name, &at.value)) {
                Some((name, Value::Map(entries))) => entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(name)),
                _ => {
                    if let Value::List(items) = &at.value {
                        let Some(item) = items.get(index) else { break };
                        (at, span) = (item, item.span);
                    }
                    continue;
                }
            },
            Step::Key(key) => match written(at, key) {
                Some(entry) => Some(entry),
                None if is_implied(at, key) => continue,
                None => break,
            },
        };
        let Some(entry) = entry else { break };
        at = &entry.value;
        // A list or mapping is shown by its key, and so is nothing.
        span = if at.scalar().is_some() { at.span } else { entry.key_span };
    }
    span
}

/// The entry that a wire field was written as.
fn written<'n, 't>(at: &'n Node<'t>, key: &str) -> Option<&'n Entry<'t>> {
    let short = key.strip_suffix("_ms").unwrap_or(key);
    let also: &[&str] = match short {
        "hosts" => &["host"],
        "methods" => &["method"],
        "backends" => &["backend"],
        "timeouts" => &["timeout"],
        "on_connect" | "on_statuses" => &["on"],
        "backoff_base" | "backoff_max" => &["backoff"],
        "config_json" => &["config"],
        "chain" => &["certificate"],
        "api_keys_sha256" => &["api_keys"],
        _ => &[],
    };
    at.entry(short).or_else(|| also.iter().find_map(|key| at.entry(key)))
}

/// Whether a short form leaves this step out, so that the walk goes on where it is.
fn is_implied(at: &Node<'_>, key: &str) -> bool {
    matches!(at.value, Value::Map(_)) && matches!(key, "rules" | "matches") || at.scalar().is_some()
}

/// The name of the header or query parameter that a path such as `rules[0].matches[1].headers[2]` ends at.
fn condition<'r>(resource: &'r wire::Resource, path: &str) -> Option<&'r str> {
    let mut steps = steps(path);
    let route = match &resource.kind {
        Some(wire::resource::Kind::Route(route)) => route,
        Some(wire::resource::Kind::Backend(backend)) => {
            let (Step::Key("health_check"), Step::Key("headers"), Step::Index(index)) =
                (steps.next()?, steps.next()?, steps.next()?)
            else {
                return None;
            };
            return backend.health_check.as_ref()?.headers.get(index).map(|header| header.name.as_str());
        }
        _ => return None,
    };
    let mut pair = || match (steps.next(), steps.next()) {
        (Some(Step::Key(key)), Some(Step::Index(index))) => Some((key, index)),
        _ => None,
    };
    let (("rules", rule), ("matches", condition), (list, index)) = (pair()?, pair()?, pair()?) else { return None };
    let condition = route.rules.get(rule)?.matches.get(condition)?;
    let list = match list {
        "headers" => &condition.headers,
        "query" => &condition.query,
        _ => return None,
    };
    list.get(index).map(|value| value.name.as_str())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step<'p> {
    Key(&'p str),
    Index(usize),
}

impl std::fmt::Display for Step<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Key(key) => formatter.write_str(key),
            Step::Index(index) => write!(formatter, "[{index}]"),
        }
    }
}

/// `a.b[0]` as a, b, 0.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split(['.', '[']).map(|part| part.trim_end_matches(']')).filter(|part| !part.is_empty()).map(|part| match part
        .parse()
    {
        Ok(index) => Step::Index(index),
        Err(_) => Step::Key(part),
    })
}
