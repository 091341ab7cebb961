//! Which requests a route is for: hosts, paths, and the conditions beyond them.

use std::{collections::BTreeSet, fmt, sync::Arc};

use rustygate_proto::v1 as wire;

use super::rule::bounded;
use crate::{
    canonical,
    fields::{is_field_value, is_token},
    route::{Conditions, Host, Match, PathTest, Pattern, ValueCondition, ValueTest},
    snapshot::{
        fault,
        fault::{Faults, shown},
    },
};

const HOSTS_MAX: usize = 100;
const MATCHES_MAX: usize = 64;
const METHODS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 32;
const PATH_BYTES_MAX: usize = 2048;
const VALUE_BYTES_MAX: usize = 4096;

pub(super) fn hosts(texts: &[String], faults: &mut Faults) -> Box<[Host]> {
    if texts.is_empty() {
        return [Host::Any].into();
    }
    let mut hosts = Vec::new();
    for (index, text) in bounded(texts, HOSTS_MAX, format_args!("hosts"), faults) {
        let field = format_args!("hosts[{index}]");
        match parse_host(text) {
            Ok(host) if hosts.contains(&host) => {
                faults.add(fault::BAD_HOST, field, format_args!("{} is there twice", shown(text)));
            }
            Ok(host) => hosts.push(host),
            Err((message, hint)) => {
                faults.add_with_hint(fault::BAD_HOST, field, format_args!("{}: {message}", shown(text)), hint);
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

pub(super) fn matches(
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
        Some(Kind::Regex(text)) => pattern(text, format_args!("{at}.path.regex"), faults).map(PathTest::Regex),
        None => {
            let message = "the path has no condition that this version knows";
            let hint = "conditions are prefix, exact and regex";
            faults.add_with_hint(fault::UNREADABLE, format_args!("{at}.path"), message, hint);
            None
        }
    }
}

/// A regex, unless it or many before it do not compile: the largest that are refused take the longest.
fn pattern(text: &str, field: fmt::Arguments<'_>, faults: &mut Faults) -> Option<Arc<Pattern>> {
    if faults.regexes_are_given_up() {
        return None;
    }
    match Pattern::new(text) {
        Ok(pattern) => Some(Arc::new(pattern)),
        Err(error) => {
            faults.add_bad_regex(field, format_args!("{}: {error}", shown(text)));
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
        Ok(canonical) if canonical == path && path.contains(';') => {
            let message =
                format_args!("{path:?} has a parameter; paths are matched without theirs, so no request has it");
            let hint = format_args!("write {:?}", canonical::without_parameters(path));
            faults.add_with_hint(fault::BAD_PATH, field, message, hint);
        }
        Ok(canonical) if canonical == path => return Some(path),
        Ok(canonical) => {
            let message = format_args!("{} is not in its canonical form, so no request has it", shown(path));
            faults.add_with_hint(fault::BAD_PATH, field, message, format_args!("write {}", shown(&canonical)));
        }
        Err(canonical::Refused::PathNotAbsolute) => {
            let hint = format_args!("write {}", shown(&format!("/{path}")));
            faults.add_with_hint(
                fault::BAD_PATH,
                field,
                format_args!("{} does not begin with a slash", shown(path)),
                hint,
            );
        }
        Err(refused) => faults.add(fault::BAD_PATH, field, format_args!("{}: {refused}", shown(path))),
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
            faults.add(fault::BAD_CONDITION, field, format_args!("{} is no method", shown(name)));
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
            let message = format_args!("{} is no value that a header can have", shown(text));
            faults.add(fault::BAD_CONDITION, format_args!("{at}.exact"), message);
            None
        }
        Some(Kind::Exact(text)) => Some(ValueTest::Exact(text.as_str().into())),
        Some(Kind::Regex(text)) => pattern(text, format_args!("{at}.regex"), faults).map(ValueTest::Regex),
        None => {
            let message = "the value has no condition that this version knows";
            faults.add_with_hint(fault::UNREADABLE, at, message, "conditions are exact and regex");
            None
        }
    }
}
