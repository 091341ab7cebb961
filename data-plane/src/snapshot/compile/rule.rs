//! Routes: what their rules do with the requests that they match.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use rustygate_proto::v1 as wire;

use super::{
    backend::{Written, duration, weight},
    balancing::hash_on,
    links::{self, Links, Places},
    matches::{hosts, matches},
};
use crate::{
    plugin::Plugin,
    route::{Route, RouteRule},
    snapshot::{Id, Retry, Rule, Timeouts, WeightedBackend, fault, fault::Faults},
};

const LISTENERS_MAX: usize = 64;
const RULES_MAX: usize = 64;
const BACKENDS_MAX: usize = 64;
const STATUSES_MAX: usize = 64;
/// The most tries beyond the first.
pub const ATTEMPTS_MAX: u32 = 10;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;

/// The route of a message. After a fault something may be missing from it.
pub(super) fn compile_route(message: &wire::Route, links: &mut Links<'_, '_>) -> Route {
    let name: Arc<str> = message.name.as_str().into();
    let hosts = hosts(&message.hosts, links.faults);
    let listeners = listeners(&message.listeners, links);
    if message.rules.is_empty() {
        links.faults.add(fault::MISSING, "rules", "a route needs a rule");
    }
    let id = Id::of("route", &name);
    let mut inline = Vec::new();
    let mut rules = Vec::new();
    for (index, rule) in bounded(&message.rules, RULES_MAX, format_args!("rules"), links.faults) {
        let at = format_args!("rules[{index}]");
        let matches = matches(&rule.matches, &listeners, at, links.faults);
        rules.push(RouteRule {
            matches: links.share(matches),
            rule: Arc::new(Rule {
                id,
                route: Arc::clone(&name),
                index,
                listeners: listeners.clone(),
                ..compile_rule(rule, &listeners, at, links, &mut inline)
            }),
        });
    }
    Route { name, hosts, listeners, rules: rules.into(), inline: inline.into() }
}

/// The items with their numbers; a fault if there are too many.
#[allow(clippy::cast_possible_truncation, reason = "the bounds are small")]
pub(super) fn bounded<'a, T>(
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

fn listeners(names: &[String], links: &mut Links<'_, '_>) -> BTreeSet<Arc<str>> {
    let bounded = bounded(names, LISTENERS_MAX, format_args!("listeners"), links.faults);
    bounded.filter_map(|(index, name)| links.listener(name, format_args!("listeners[{index}]"))).collect()
}

/// A rule without what it has from its route.
fn compile_rule(
    message: &wire::Rule,
    listeners: &BTreeSet<Arc<str>>,
    at: fmt::Arguments<'_>,
    links: &mut Links<'_, '_>,
    inline: &mut Vec<Arc<str>>,
) -> Rule {
    let plugins = links.plugins(&message.plugins, format_args!("{at}.plugins"));
    let backends = backends(&message.backends, (&plugins, listeners), at, links, inline);
    Rule {
        id: Id(0),
        route: "".into(),
        index: 0,
        listeners: BTreeSet::new(),
        weight_total: backends.iter().map(|backend| backend.weight).sum(),
        backends,
        sticky_split: message
            .sticky_split
            .as_ref()
            .and_then(|on| hash_on(on, format_args!("{at}.sticky_split"), links.faults)),
        strip_prefix: message.strip_prefix.unwrap_or(true),
        timeouts: message
            .timeouts
            .as_ref()
            .map_or(Timeouts::default(), |timeouts| compile_timeouts(timeouts, at, links.faults)),
        retry: message.retry.as_ref().map_or_else(Retry::default, |retry| compile_retry(retry, at, links.faults)),
        plugins,
    }
}

fn backends(
    messages: &[wire::BackendRef],
    (of_rule, listeners): (&[Arc<Plugin>], &BTreeSet<Arc<str>>),
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
        let plugins = links.plugins(&message.plugins, format_args!("{at}.plugins"));
        let Some(backend) = backend else { continue };
        let places = Places { listeners: links.listeners, defaults: &links.compiled.defaults };
        let (chain, listener_chains) = links::chains([&plugins, of_rule], &backend, &places, listeners, links.chains);
        backends.push(WeightedBackend { backend, weight, plugins, chain, listener_chains });
    }
    backends.into()
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
        let written = |time: Duration| Written(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let (per_try, total) = (written(per_try), written(timeouts.total));
        let message = format_args!("a try may take {per_try}, but all of them together only {total}");
        faults.add_with_hint(fault::OUT_OF_BOUNDS, field, message, "raise the total timeout (5 s by default)");
    }
    timeouts
}

fn compile_retry(message: &wire::Retry, at: fmt::Arguments<'_>, faults: &mut Faults) -> Retry {
    let default = Retry::default();
    let attempts = message.attempts.unwrap_or(default.attempts);
    if attempts > ATTEMPTS_MAX {
        let text = format_args!("{attempts} retries are over {ATTEMPTS_MAX}");
        faults.add(fault::OUT_OF_BOUNDS, format_args!("{at}.retry.attempts"), text);
    }
    let statuses = retry_statuses(&message.on_statuses, at, faults);
    let mut span = |millis: Option<u64>, default: Duration, least, name: &str| {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        duration(millis, default, least..=MINUTE_MS, format_args!("{at}.retry.{name}"), faults)
    };
    let backoff_base = span(message.backoff_base_ms, default.backoff_base, 1, "backoff_base_ms");
    let backoff_max = span(message.backoff_max_ms, default.backoff_max, 1, "backoff_max_ms");
    let usual = !message.on_connect && !message.on_reset && !message.on_timeout && message.on_statuses.is_empty();
    Retry {
        attempts: attempts.min(ATTEMPTS_MAX),
        on_connect: usual || message.on_connect,
        on_reset: usual || message.on_reset,
        on_timeout: usual || message.on_timeout,
        on_statuses: if usual { default.on_statuses } else { statuses.into() },
        backoff_base,
        backoff_max: backoff_max.max(backoff_base),
        retry_after_max: span(message.retry_after_max_ms, default.retry_after_max, 0, "retry_after_max_ms"),
    }
}

fn retry_statuses(wanted: &[u32], at: fmt::Arguments<'_>, faults: &mut Faults) -> Vec<u16> {
    let mut statuses = Vec::new();
    for (index, &status) in bounded(wanted, STATUSES_MAX, format_args!("{at}.retry.on_statuses"), faults) {
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
    statuses
}
