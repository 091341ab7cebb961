//! Routes: hosts, rules, matches.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use rustygate_proto::v1 as wire;

use super::{
    backend::{duration, weight},
    links::Links,
};
use crate::{
    canonical,
    fields::{is_field_value, is_token},
    plugin::Plugin,
    route::{Conditions, Host, Match, PathTest, Pattern, Route, RouteRule, ValueCondition, ValueTest},
    snapshot::{Retry, Rule, Timeouts, WeightedBackend, fault, fault::Faults},
};

const HOSTS_MAX: usize = 100;
const LISTENERS_MAX: usize = 64;
const RULES_MAX: usize = 64;
const MATCHES_MAX: usize = 64;
const METHODS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 32;
const BACKENDS_MAX: usize = 64;
const PLUGINS_MAX: usize = 64;
const STATUSES_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 2048;
const VALUE_BYTES_MAX: usize = 4096;
const ATTEMPTS_MAX: u32 = 10;
const HOUR_MS: u64 = 3_600_000;

/// The route of a message. After a fault something may be missing from it.
pub(super) fn compile_route(message: &wire::Route, links: &mut Links<'_, '_>) -> Route {
    let name: Arc<str> = message.name.as_str().into();
    let hosts = hosts(&message.hosts, links.faults);
    let listeners = listeners(&message.listeners, links);
    if message.rules.is_empty() {
        links.faults.add(fault::MISSING, "rules", "a route needs a rule");
    }
    let mut inline = Vec::new();
    let mut rules = Vec::new();
    for (index, rule) in bounded(&message.rules, RULES_MAX, format_args!("rules"), links.faults) {
        let at = format_args!("rules[{index}]");
        rules.push(RouteRule {
            matches: matches(&rule.matches, &listeners, at, links.faults),
            rule: Arc::new(Rule {
                route: Arc::clone(&name),
                index,
                listeners: listeners.clone(),
                ..compile_rule(rule, at, links, &mut inline)
            }),
        });
    }
    Route { name, hosts, listeners, rules: rules.into(), inline: inline.into() }
}

/// The items with their numbers; a fault if there are too many.
#[allow(clippy::cast_possible_truncation, reason = "the bounds are small")]
fn bounded<'a, T>(
    items: &'a [T],
    max: usize,
    field: fmt::Arguments<'_>,
    faults: &mut Faults,
) -> impl Iterator<Item = (u32, &'a T)> + use<'a, T> {
    if items.len() > max {
        let message = format_args!("there are {} of these; at most {max} are allowed", items.len());
        faults.add(fault::OUT_OF_BOUNDS, field, message);
    }
    items.iter().take(max).enumerate().map(|(index, item)| (index as u32, item))
}

fn hosts(texts: &[String], faults: &mut Faults) -> Box<[Host]> {
    if texts.is_empty() {
        return [Host::Any].into();
    }
    let mut hosts = Vec::new();
    for (index, text) in bounded(texts, HOSTS_MAX, format_args!("hosts"), faults) {
        let field = format_args!("hosts[{index}]");
        match parse_host(text) {
            Ok(host) if hosts.contains(&host) => {
                faults.add(fault::BAD_HOST, field, format_args!("{text:?} is there twice"));
            }
            Ok(host) => hosts.push(host),
            Err((message, hint)) => {
                faults.add_with_hint(fault::BAD_HOST, field, format_args!("{text:?}: {message}"), hint);
            }
        }
    }
    hosts.into()
}

fn parse_host(text: &str) -> Result<Host, (String, String)> {
    if text == "*" {
        return Err(("a lone star is no host".to_owned(), "leave out the hosts to match any".to_owned()));
    }
    let (star, name) = match text.strip_prefix("*.") {
        Some(suffix) => ("*.", suffix),
        None => ("", text),
    };
    let host = canonical::host(name.as_bytes()).map_err(|refused| {
        let hint = if text.contains('*') { "a star may only stand first, as in \"*.example.com\"" } else { "" };
        (refused.to_string(), hint.to_owned())
    })?;
    if host.port.is_some() {
        return Err(("a host has no port here".to_owned(), format!("write \"{star}{}\"", host.name)));
    }
    if host.name != name {
        return Err(("the host is not in its canonical form".to_owned(), format!("write \"{star}{}\"", host.name)));
    }
    if star.is_empty() {
        return Ok(Host::Exact(name.into()));
    }
    let last_label = name.rsplit('.').next().unwrap_or_default();
    if name.starts_with('[') || last_label.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(("an address has no wildcard".to_owned(), String::new()));
    }
    Ok(Host::Wildcard(name.into()))
}

fn listeners(names: &[String], links: &mut Links<'_, '_>) -> BTreeSet<Arc<str>> {
    let bounded = bounded(names, LISTENERS_MAX, format_args!("listeners"), links.faults);
    bounded.filter_map(|(index, name)| links.listener(name, format_args!("listeners[{index}]"))).collect()
}

fn matches(
    messages: &[wire::Match],
    listeners: &BTreeSet<Arc<str>>,
    at: fmt::Arguments<'_>,
    faults: &mut Faults,
) -> Box<[Match]> {
    if messages.is_empty() {
        let conditions = Conditions { listeners: listeners.clone(), ..Conditions::default() };
        return [Match { index: 0, path: PathTest::Prefix("".into()), conditions: some_unless_empty(conditions) }]
            .into();
    }
    let mut matches = Vec::new();
    for (index, message) in bounded(messages, MATCHES_MAX, format_args!("{at}.matches"), faults) {
        let at = format_args!("{at}.matches[{index}]");
        let path = path_test(message.path.as_ref(), at, faults);
        let conditions = Conditions {
            listeners: listeners.clone(),
            methods: methods(&message.methods, at, faults),
            headers: values(&message.headers, ValueKind::Header, at, faults),
            query: values(&message.query, ValueKind::Query, at, faults),
        };
        matches.extend(path.map(|path| Match { index, path, conditions: some_unless_empty(conditions) }));
    }
    matches.into()
}

fn some_unless_empty(conditions: Conditions) -> Option<Arc<Conditions>> {
    let empty = conditions.listeners.is_empty()
        && conditions.methods.is_empty()
        && conditions.headers.is_empty()
        && conditions.query.is_empty();
    (!empty).then(|| Arc::new(conditions))
}

fn path_test(message: Option<&wire::PathMatch>, at: fmt::Arguments<'_>, faults: &mut Faults) -> Option<PathTest> {
    use wire::path_match::Kind;
    let Some(message) = message else { return Some(PathTest::Prefix("".into())) };
    match &message.kind {
        Some(Kind::Prefix(prefix)) => {
            let prefix = check_path(prefix, format_args!("{at}.path.prefix"), faults)?;
            Some(PathTest::Prefix(prefix.strip_suffix('/').unwrap_or(prefix).into()))
        }
        Some(Kind::Exact(path)) => {
            Some(PathTest::Exact(check_path(path, format_args!("{at}.path.exact"), faults)?.into()))
        }
        Some(Kind::Regex(text)) => match Pattern::new(text) {
            Ok(pattern) => Some(PathTest::Regex(Arc::new(pattern))),
            Err(error) => {
                faults.add(fault::BAD_REGEX, format_args!("{at}.path.regex"), format_args!("{text:?}: {error}"));
                None
            }
        },
        None => {
            let message = "the path has no condition that this version knows";
            let hint = "conditions are prefix, exact and regex";
            faults.add_with_hint(fault::UNREADABLE, format_args!("{at}.path"), message, hint);
            None
        }
    }
}

fn check_path<'a>(path: &'a str, field: fmt::Arguments<'_>, faults: &mut Faults) -> Option<&'a str> {
    if path.len() > PATH_BYTES_MAX {
        let message = format_args!("the path is {} bytes long; at most {PATH_BYTES_MAX} are allowed", path.len());
        faults.add(fault::OUT_OF_BOUNDS, field, message);
        return None;
    }
    match canonical::path(path.as_bytes()) {
        Ok(canonical) if canonical == path => return Some(path),
        Ok(canonical) => {
            let message = format_args!("{path:?} is not in its canonical form, so no request has it");
            faults.add_with_hint(fault::BAD_PATH, field, message, format_args!("write {canonical:?}"));
        }
        Err(canonical::Refused::PathNotAbsolute) => {
            let hint = format_args!("write \"/{path}\"");
            faults.add_with_hint(fault::BAD_PATH, field, format_args!("{path:?} does not begin with a slash"), hint);
        }
        Err(refused) => faults.add(fault::BAD_PATH, field, format_args!("{path:?}: {refused}")),
    }
    None
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

fn methods(names: &[String], at: fmt::Arguments<'_>, faults: &mut Faults) -> Vec<Box<str>> {
    let mut methods: Vec<Box<str>> = Vec::new();
    for (index, name) in bounded(names, METHODS_MAX, format_args!("{at}.methods"), faults) {
        let field = format_args!("{at}.methods[{index}]");
        let upper = name.to_ascii_uppercase();
        if !is_token(name.as_bytes()) {
            faults.add(fault::BAD_CONDITION, field, format_args!("{name:?} is no method"));
        } else if *name != upper && METHODS.contains(&upper.as_str()) {
            let message = format_args!("{name:?} is no method that a client sends: case counts");
            faults.add_with_hint(fault::BAD_CONDITION, field, message, format_args!("write {upper:?}"));
        } else {
            methods.push(name.as_str().into());
        }
    }
    methods.sort_unstable();
    methods.dedup();
    methods
}

#[derive(Clone, Copy)]
enum ValueKind {
    Header,
    Query,
}

fn values(
    messages: &[wire::ValueMatch],
    kind: ValueKind,
    at: fmt::Arguments<'_>,
    faults: &mut Faults,
) -> Vec<ValueCondition> {
    let list = match kind {
        ValueKind::Header => "headers",
        ValueKind::Query => "query",
    };
    let mut conditions = Vec::new();
    for (index, message) in bounded(messages, CONDITIONS_MAX, format_args!("{at}.{list}"), faults) {
        let at = format_args!("{at}.{list}[{index}]");
        let name = match kind {
            ValueKind::Header if is_token(message.name.as_bytes()) => message.name.to_ascii_lowercase(),
            ValueKind::Query if !message.name.is_empty() => message.name.clone(),
            ValueKind::Header => {
                faults.add(fault::BAD_CONDITION, format_args!("{at}.name"), "this is no name of a header");
                continue;
            }
            ValueKind::Query => {
                faults.add(fault::BAD_CONDITION, format_args!("{at}.name"), "a query parameter needs a name");
                continue;
            }
        };
        if name.len() > super::NAME_BYTES_MAX {
            faults.add(fault::OUT_OF_BOUNDS, format_args!("{at}.name"), "the name is too long");
        }
        let test = value_test(message, kind, at, faults);
        conditions.extend(test.map(|test| ValueCondition { name: name.into(), test }));
    }
    conditions.sort_unstable();
    conditions
}

fn value_test(
    message: &wire::ValueMatch,
    kind: ValueKind,
    at: fmt::Arguments<'_>,
    faults: &mut Faults,
) -> Option<ValueTest> {
    use wire::value_match::Kind;
    match &message.kind {
        Some(Kind::Exact(text)) if text.len() > VALUE_BYTES_MAX => {
            let message = format_args!("the value is longer than {VALUE_BYTES_MAX} bytes");
            faults.add(fault::OUT_OF_BOUNDS, format_args!("{at}.exact"), message);
            None
        }
        Some(Kind::Exact(text)) if matches!(kind, ValueKind::Header) && !is_field_value(text.as_bytes()) => {
            let message = format_args!("{text:?} is no value that a header can have");
            faults.add(fault::BAD_CONDITION, format_args!("{at}.exact"), message);
            None
        }
        Some(Kind::Exact(text)) => Some(ValueTest::Exact(text.as_str().into())),
        Some(Kind::Regex(text)) => match Pattern::new(text) {
            Ok(pattern) => Some(ValueTest::Regex(Arc::new(pattern))),
            Err(error) => {
                faults.add(fault::BAD_REGEX, format_args!("{at}.regex"), format_args!("{text:?}: {error}"));
                None
            }
        },
        None => {
            let message = "the value has no condition that this version knows";
            faults.add_with_hint(fault::UNREADABLE, at, message, "conditions are exact and regex");
            None
        }
    }
}

/// A rule without what it has from its route.
fn compile_rule(
    message: &wire::Rule,
    at: fmt::Arguments<'_>,
    links: &mut Links<'_, '_>,
    inline: &mut Vec<Arc<str>>,
) -> Rule {
    let backends = backends(&message.backends, at, links, inline);
    Rule {
        route: "".into(),
        index: 0,
        listeners: BTreeSet::new(),
        weight_total: backends.iter().map(|backend| backend.weight).sum(),
        backends,
        strip_prefix: message.strip_prefix.unwrap_or(true),
        timeouts: message
            .timeouts
            .as_ref()
            .map_or(Timeouts::default(), |timeouts| compile_timeouts(timeouts, at, links.faults)),
        retry: message.retry.as_ref().map_or_else(Retry::default, |retry| compile_retry(retry, at, links.faults)),
        plugins: plugins(&message.plugins, at, links),
    }
}

fn backends(
    messages: &[wire::BackendRef],
    at: fmt::Arguments<'_>,
    links: &mut Links<'_, '_>,
    inline: &mut Vec<Arc<str>>,
) -> Box<[WeightedBackend]> {
    use wire::backend_ref::Target;
    if messages.is_empty() {
        let hint = "name one, or write its URL: backend: \"http://localhost:8001\"";
        links.faults.add_with_hint(fault::MISSING, format_args!("{at}.backends"), "a rule needs a backend", hint);
    }
    let mut backends = Vec::new();
    for (index, message) in bounded(messages, BACKENDS_MAX, format_args!("{at}.backends"), links.faults) {
        let at = format_args!("{at}.backends[{index}]");
        let backend = match &message.target {
            Some(Target::Name(name)) => links.backend(name, format_args!("{at}.name")),
            Some(Target::Url(url)) => links.inline(url, format_args!("{at}.url")).map(|(key, backend)| {
                inline.push(key);
                backend
            }),
            None => {
                links.faults.add(fault::UNREADABLE, at, "the backend has neither a name nor a URL");
                None
            }
        };
        let weight = weight(message.weight, format_args!("{at}.weight"), links.faults);
        let plugins = plugins(&message.plugins, at, links);
        backends.extend(backend.map(|backend| WeightedBackend { backend, weight, plugins }));
    }
    backends.into()
}

fn plugins(names: &[String], at: fmt::Arguments<'_>, links: &mut Links<'_, '_>) -> Box<[Arc<Plugin>]> {
    let bounded = bounded(names, PLUGINS_MAX, format_args!("{at}.plugins"), links.faults);
    bounded.filter_map(|(index, name)| links.plugin(name, format_args!("{at}.plugins[{index}]"))).collect()
}

fn compile_timeouts(message: &wire::Timeouts, at: fmt::Arguments<'_>, faults: &mut Faults) -> Timeouts {
    let mut bounded = |millis, default: Duration, max, name: &str| {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        duration(millis, default, 1..=max, format_args!("{at}.timeouts.{name}"), faults)
    };
    let default = Timeouts::default();
    let timeouts = Timeouts {
        connect: bounded(message.connect_ms, default.connect, HOUR_MS, "connect_ms"),
        per_try: message.per_try_ms.map(|millis| bounded(Some(millis), default.total, HOUR_MS, "per_try_ms")),
        total: bounded(message.total_ms, default.total, HOUR_MS, "total_ms"),
        idle: bounded(message.idle_ms, default.idle, 24 * HOUR_MS, "idle_ms"),
    };
    if let Some(per_try) = timeouts.per_try
        && per_try > timeouts.total
    {
        let field = format_args!("{at}.timeouts.per_try_ms");
        let (per_try, total) = (per_try.as_millis(), timeouts.total.as_millis());
        let message = format_args!("a try may take {per_try} ms, but all of them together only {total} ms");
        faults.add_with_hint(fault::OUT_OF_BOUNDS, field, message, "raise the total timeout (5 s by default)");
    }
    timeouts
}

fn compile_retry(message: &wire::Retry, at: fmt::Arguments<'_>, faults: &mut Faults) -> Retry {
    if message.attempts > ATTEMPTS_MAX {
        let text = format_args!("{} retries are over {ATTEMPTS_MAX}", message.attempts);
        faults.add(fault::OUT_OF_BOUNDS, format_args!("{at}.retry.attempts"), text);
    }
    let mut statuses = Vec::new();
    for (index, &status) in bounded(&message.on_statuses, STATUSES_MAX, format_args!("{at}.retry.on_statuses"), faults)
    {
        match u16::try_from(status) {
            Ok(status) if (400..=599).contains(&status) => statuses.push(status),
            _ => {
                let field = format_args!("{at}.retry.on_statuses[{index}]");
                faults.add(fault::OUT_OF_BOUNDS, field, format_args!("{status} is not within 400 to 599"));
            }
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    Retry { attempts: message.attempts.min(ATTEMPTS_MAX), on_connect: message.on_connect, on_statuses: statuses.into() }
}
