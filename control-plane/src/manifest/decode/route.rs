//! `routes:`. A route is one rule written flat, or a list of rules; a rule has one match written flat, or a list.

use rustygate_data_plane::snapshot::compile::ATTEMPTS_MAX;
use rustygate_proto::v1 as wire;

use super::{hash_on, milliseconds, name, names, text, weight};
use crate::manifest::faults::{BAD_VALUE, DUPLICATE_KEY, Faults};
use crate::manifest::name::from_match;
use crate::manifest::node::{Entry, Node, Scalar, Value};
use crate::report::shown;

type Field<'n, 't> = Option<&'n Entry<'t>>;

/// The fields of one rule, wherever they were written.
struct RuleFields<'n, 't> {
    path: Field<'n, 't>,
    method: Field<'n, 't>,
    headers: Field<'n, 't>,
    query: Field<'n, 't>,
    matches: Field<'n, 't>,
    backend: Option<&'n Node<'t>>,
    strip_prefix: Field<'n, 't>,
    timeout: Field<'n, 't>,
    timeouts: Field<'n, 't>,
    retry: Field<'n, 't>,
    plugins: Field<'n, 't>,
    sticky_split: Field<'n, 't>,
}

/// The route, and whether it was given its name.
pub(super) fn route(faults: &mut Faults, node: &Node<'_>) -> Option<(wire::Route, bool)> {
    let known = [
        "name",
        "listeners",
        "host",
        "hosts",
        "rules",
        "path",
        "method",
        "headers",
        "query",
        "matches",
        "backend",
        "strip_prefix",
        "timeout",
        "timeouts",
        "retry",
        "plugins",
        "sticky_split",
    ];
    let fields = faults.fields(node, "a route", known)?;
    let [given, listeners, host, hosts, rules, flat @ ..] = fields.found;
    let [path, method, headers, query, matches, _, strip_prefix, timeout, timeouts, retry, plugins, sticky_split] =
        flat;
    if let (Some(one), Some(other)) = (host, hosts) {
        faults.conflict(one, other, "put all hosts into \"hosts\"");
    }
    let hosts = one_or_list(faults, hosts.or(host), "leave it out to match any host", text);
    let rules = match rules {
        Some(rules) => {
            for entry in flat.into_iter().flatten() {
                faults.conflict(entry, rules, "with \"rules\", put it into one of them");
            }
            let nodes = faults.filled_list(&rules.value, "a route needs at least one rule").unwrap_or_default();
            nodes.iter().filter_map(|node| listed_rule(faults, node)).collect()
        }
        None => {
            let backend = faults.required(&fields, "backend");
            let fields = RuleFields {
                path,
                method,
                headers,
                query,
                matches,
                backend,
                strip_prefix,
                timeout,
                timeouts,
                retry,
                plugins,
                sticky_split,
            };
            vec![rule(faults, &fields)]
        }
    };
    let mut route = wire::Route {
        name: given.and_then(|entry| name(faults, &entry.value)).unwrap_or_default(),
        listeners: listeners.map(|entry| names(faults, &entry.value)).unwrap_or_default(),
        hosts,
        rules,
    };
    if given.is_none() {
        route.name = from_match(&route);
    }
    Some((route, given.is_some()))
}

fn listed_rule(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Rule> {
    let known = [
        "path",
        "method",
        "headers",
        "query",
        "matches",
        "backend",
        "strip_prefix",
        "timeout",
        "timeouts",
        "retry",
        "plugins",
        "sticky_split",
    ];
    let fields = faults.fields(node, "a rule", known)?;
    let [path, method, headers, query, matches, _, strip_prefix, timeout, timeouts, retry, plugins, sticky_split] =
        fields.found;
    let backend = faults.required(&fields, "backend");
    let fields = RuleFields {
        path,
        method,
        headers,
        query,
        matches,
        backend,
        strip_prefix,
        timeout,
        timeouts,
        retry,
        plugins,
        sticky_split,
    };
    Some(rule(faults, &fields))
}

fn rule(faults: &mut Faults, fields: &RuleFields<'_, '_>) -> wire::Rule {
    wire::Rule {
        matches: matches(faults, fields),
        backends: fields.backend.map(|node| backends(faults, node)).unwrap_or_default(),
        strip_prefix: fields.strip_prefix.and_then(|entry| faults.boolean(&entry.value)),
        timeouts: all_timeouts(faults, fields.timeout, fields.timeouts),
        retry: fields.retry.and_then(|entry| retry(faults, &entry.value)),
        plugins: fields.plugins.map(|entry| names(faults, &entry.value)).unwrap_or_default(),
        sticky_split: fields.sticky_split.and_then(|entry| hash_on(faults, &entry.value)),
    }
}

fn matches(faults: &mut Faults, fields: &RuleFields<'_, '_>) -> Vec<wire::Match> {
    let flat = [fields.path, fields.method, fields.headers, fields.query];
    if let Some(list) = fields.matches {
        for entry in flat.into_iter().flatten() {
            faults.conflict(entry, list, "with \"matches\", put it into one of them");
        }
        let hint = "leave it out to match every request";
        let nodes = faults.filled_list(&list.value, hint).unwrap_or_default();
        return nodes.iter().filter_map(|node| listed_match(faults, node)).collect();
    }
    if flat.iter().all(Option::is_none) {
        return Vec::new();
    }
    vec![conditions(faults, flat)]
}

fn listed_match(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Match> {
    let fields = faults.fields(node, "a match", ["path", "method", "headers", "query"])?;
    Some(conditions(faults, fields.found))
}

fn conditions(faults: &mut Faults, [path, method, headers, query]: [Field<'_, '_>; 4]) -> wire::Match {
    wire::Match {
        path: path.and_then(|entry| path_match(faults, &entry.value)),
        methods: one_or_list(faults, method, "leave it out to match all methods", method_name),
        headers: headers.map(|entry| header_matches(faults, &entry.value)).unwrap_or_default(),
        query: query.map(|entry| query_matches(faults, &entry.value)).unwrap_or_default(),
    }
}

/// A field that is one string or a list of them.
fn one_or_list(
    faults: &mut Faults,
    field: Field<'_, '_>,
    hint: &str,
    one: fn(&mut Faults, &Node<'_>) -> Option<String>,
) -> Vec<String> {
    let Some(entry) = field else { return Vec::new() };
    match &entry.value.value {
        Value::List(_) => {
            let nodes = faults.filled_list(&entry.value, hint).unwrap_or_default();
            faults.distinct(nodes, one)
        }
        _ => one(faults, &entry.value).into_iter().collect(),
    }
}

fn method_name(faults: &mut Faults, node: &Node<'_>) -> Option<String> {
    let method = faults.text(node)?;
    if !is_token(method) || method.len() > 64 {
        let hint = "a method is one word, such as GET";
        faults.add(BAD_VALUE, node.span, format!("bad method {}", shown(method)), hint);
        return None;
    }
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let hint = format!("methods are in capitals: {}", method.to_ascii_uppercase());
        faults.add(BAD_VALUE, node.span, format!("bad method {}", shown(method)), hint);
        return None;
    }
    Some(method.to_owned())
}

/// What HTTP calls a token: a method, the name of a header.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A string is a prefix.
fn path_match(faults: &mut Faults, node: &Node<'_>) -> Option<wire::PathMatch> {
    use wire::path_match::Kind;
    if let Some(Scalar::Text(prefix)) = node.scalar() {
        return Some(wire::PathMatch { kind: Some(Kind::Prefix(prefix.to_owned())) });
    }
    if node.scalar().is_some() {
        faults.mismatch(node, "a string, or one of prefix, exact, regex");
        return None;
    }
    let fields = faults.fields(node, "a path", ["prefix", "exact", "regex"])?;
    let [prefix, exact, regex] = fields.found;
    let needed = "a path needs one of: prefix, exact, regex";
    let choice = choice(faults, node, fields.is_whole().then_some(needed), &[prefix, exact, regex])?;
    let value = text(faults, &choice.value)?;
    let kind = match &*choice.key {
        "exact" => Kind::Exact(value),
        "regex" => Kind::Regex(value),
        _ => Kind::Prefix(value),
    };
    Some(wire::PathMatch { kind: Some(kind) })
}

/// The one field that is there; several are a fault, and none is one if that is `needed`.
fn choice<'n, 't>(
    faults: &mut Faults,
    node: &Node<'_>,
    needed: Option<&str>,
    fields: &[Field<'n, 't>],
) -> Option<&'n Entry<'t>> {
    let mut present = fields.iter().copied().flatten();
    let first = present.next();
    if let (None, Some(needed)) = (first, needed) {
        faults.add(BAD_VALUE, node.span, needed, "");
    }
    for other in present {
        faults.conflict(first?, other, "keep one of them");
    }
    first
}

/// Names are lower case, since HTTP does not tell them apart.
fn header_matches(faults: &mut Faults, node: &Node<'_>) -> Vec<wire::ValueMatch> {
    let Some(entries) = condition_entries(faults, node) else { return Vec::new() };
    let mut conditions: Vec<wire::ValueMatch> = Vec::with_capacity(entries.len());
    let mut seen = std::collections::HashSet::new();
    for entry in entries {
        if !is_token(&entry.key) {
            let hint = "a header's name has letters, digits and !#$%&'*+-.^_`|~";
            faults.add(BAD_VALUE, entry.key_span, format!("bad header name {}", shown(&entry.key)), hint);
            continue;
        }
        let name = entry.key.to_ascii_lowercase();
        if !seen.insert(name.clone()) {
            let message = format!("{} differs from another header in case only", shown(&entry.key));
            faults.add(DUPLICATE_KEY, entry.key_span, message, "keep one of them");
        }
        conditions.extend(value_match(faults, name, &entry.value));
    }
    conditions.sort_by(|one, other| one.name.cmp(&other.name));
    conditions
}

fn query_matches(faults: &mut Faults, node: &Node<'_>) -> Vec<wire::ValueMatch> {
    let entries = condition_entries(faults, node).unwrap_or_default();
    let each = |entry: &Entry<'_>| value_match(faults, entry.key.clone().into_owned(), &entry.value);
    let mut conditions: Vec<_> = entries.iter().filter_map(each).collect();
    conditions.sort_by(|one, other| one.name.cmp(&other.name));
    conditions
}

fn condition_entries<'n, 't>(faults: &mut Faults, node: &'n Node<'t>) -> Option<&'n [Entry<'t>]> {
    let Value::Map(entries) = &node.value else {
        faults.mismatch(node, "a mapping from names to values");
        return None;
    };
    Some(entries)
}

/// A string is an exact value.
fn value_match(faults: &mut Faults, name: String, node: &Node<'_>) -> Option<wire::ValueMatch> {
    use wire::value_match::Kind;
    if !matches!(node.value, Value::Map(_)) {
        let value = text(faults, node)?;
        return Some(wire::ValueMatch { name, kind: Some(Kind::Exact(value)) });
    }
    let fields = faults.fields(node, "a condition", ["exact", "regex"])?;
    let [exact, regex] = fields.found;
    let needed = "a condition needs one of: exact, regex";
    let choice = choice(faults, node, fields.is_whole().then_some(needed), &[exact, regex])?;
    let value = text(faults, &choice.value)?;
    let kind = if choice.key == "regex" { Kind::Regex(value) } else { Kind::Exact(value) };
    Some(wire::ValueMatch { name, kind: Some(kind) })
}

fn backends(faults: &mut Faults, node: &Node<'_>) -> Vec<wire::BackendRef> {
    match &node.value {
        Value::List(_) => {
            let nodes = faults.filled_list(node, "name at least one backend").unwrap_or_default();
            nodes.iter().filter_map(|node| backend_ref(faults, node)).collect()
        }
        _ => backend_ref(faults, node).into_iter().collect(),
    }
}

fn backend_ref(faults: &mut Faults, node: &Node<'_>) -> Option<wire::BackendRef> {
    use wire::backend_ref::Target;
    if let Some(Scalar::Text(target)) = node.scalar() {
        let target =
            if target.contains("://") { Target::Url(target.to_owned()) } else { Target::Name(name(faults, node)?) };
        return Some(wire::BackendRef { target: Some(target), weight: None, plugins: Vec::new() });
    }
    if node.scalar().is_some() {
        faults.mismatch(node, "a backend's name or URL (a string), a mapping, or a list of these");
        return None;
    }
    let fields = faults.fields(node, "a backend of a route", ["name", "url", "weight", "plugins"])?;
    let [by_name, url, weighed, plugins] = fields.found;
    let weight = weighed.and_then(|entry| weight(faults, &entry.value));
    let plugins = plugins.map(|entry| names(faults, &entry.value)).unwrap_or_default();
    if by_name.is_none() && url.is_none() && fields.is_whole() {
        faults.add(BAD_VALUE, node.span, "a backend of a route needs one of: name, url", "");
    }
    if let (Some(one), Some(other)) = (by_name, url) {
        faults.conflict(one, other, "keep one of them");
    }
    let target = match (by_name, url) {
        (Some(entry), _) => Target::Name(name(faults, &entry.value)?),
        (None, Some(entry)) => Target::Url(text(faults, &entry.value)?),
        (None, None) => return None,
    };
    Some(wire::BackendRef { target: Some(target), weight, plugins })
}

/// `timeout: 5s` is the total; no timeouts at all are `None`, however that was written.
fn all_timeouts(faults: &mut Faults, timeout: Field<'_, '_>, timeouts: Field<'_, '_>) -> Option<wire::Timeouts> {
    let mut all = wire::Timeouts::default();
    let fields = timeouts
        .and_then(|entry| faults.fields(&entry.value, "timeouts", ["connect", "per_try", "total", "idle"]))
        .map(|fields| fields.found);
    if let Some([connect, per_try, total, idle]) = fields {
        all.connect_ms = connect.and_then(|entry| milliseconds(faults, &entry.value));
        all.per_try_ms = per_try.and_then(|entry| milliseconds(faults, &entry.value));
        all.total_ms = total.and_then(|entry| milliseconds(faults, &entry.value));
        all.idle_ms = idle.and_then(|entry| milliseconds(faults, &entry.value));
        if let (Some(timeout), Some(total)) = (timeout, total) {
            faults.conflict(timeout, total, "\"timeout\" is short for \"total\" of \"timeouts\"");
        }
    }
    if let Some(entry) = timeout {
        all.total_ms = milliseconds(faults, &entry.value);
    }
    (all != wire::Timeouts::default()).then_some(all)
}

fn retry(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Retry> {
    let fields = faults.fields(node, "a retry", ["attempts", "on", "backoff", "retry_after_max"])?;
    let [attempts, on, backoff, patience] = fields.found;
    let mut retry = wire::Retry {
        attempts: attempts.and_then(|entry| faults.integer(&entry.value, 0, ATTEMPTS_MAX)),
        retry_after_max_ms: patience.and_then(|entry| milliseconds(faults, &entry.value)),
        ..wire::Retry::default()
    };
    if let Some([base, most]) =
        backoff.and_then(|entry| faults.fields(&entry.value, "a backoff", ["base", "max"])).map(|fields| fields.found)
    {
        retry.backoff_base_ms = base.and_then(|entry| milliseconds(faults, &entry.value));
        retry.backoff_max_ms = most.and_then(|entry| milliseconds(faults, &entry.value));
    }
    let hint = "leave it out for the usual causes, or write attempts: 0 for no retries";
    let causes = on.and_then(|entry| faults.filled_list(&entry.value, hint)).unwrap_or_default();
    for cause in causes {
        match cause.scalar() {
            Some(Scalar::Text("connect")) => retry.on_connect = true,
            Some(Scalar::Text("reset")) => retry.on_reset = true,
            Some(Scalar::Text("timeout")) => retry.on_timeout = true,
            Some(Scalar::Integer(status @ 400..=599)) => retry.on_statuses.extend(u32::try_from(status)),
            Some(Scalar::Integer(_)) => {
                faults.add(BAD_VALUE, cause.span, "only statuses from 400 to 599 are retried", "");
            }
            Some(Scalar::Text(other)) => {
                let message = format!("unknown cause of a retry {}", shown(other));
                let hint = "causes are: connect, reset, timeout, and statuses from 400 to 599";
                faults.add(BAD_VALUE, cause.span, message, hint);
            }
            _ => faults.mismatch(cause, "connect, reset, timeout or a status"),
        }
    }
    retry.on_statuses.sort_unstable();
    retry.on_statuses.dedup();
    (retry != wire::Retry::default()).then_some(retry)
}
