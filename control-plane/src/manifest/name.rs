//! Names: what they may be made of, and the one that a route gets from its match.

use prost::Message as _;
use rustygate_proto::v1 as wire;

/// The longest name, in characters.
const LENGTH_MAX: usize = 253;

/// The longest readable part of a name that is made here.
const SLUG_MAX: usize = 100;

/// What is wrong with a name, if anything: 1 to 253 letters, digits and `-_.:/@+*~`, all of them ASCII, so that a
/// name looks alike in a log, a header, a metric and a shell. `://` is what tells a URL from a name.
pub(super) fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name must not be empty".into());
    }
    if name.len() > LENGTH_MAX {
        return Err(format!("a name has at most {LENGTH_MAX} characters"));
    }
    if let Some(bad) = name.chars().find(|character| !is_allowed(*character)) {
        return Err(format!("a name must not have {bad:?}"));
    }
    if name.contains("://") {
        return Err("a name must not have \"://\"".into());
    }
    Ok(())
}

fn is_allowed(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_.:/@+*~".contains(character)
}

/// The name of a route without one: `GET:api.example.com/users`, and eight digits of a hash of the whole match
/// if that does not say all of it. Never from its place in the file, so moving a route changes nothing.
pub(super) fn from_match(route: &wire::Route) -> String {
    let mut key = wire::Route {
        name: String::new(),
        listeners: route.listeners.clone(),
        hosts: route.hosts.clone(),
        rules: route
            .rules
            .iter()
            .map(|rule| wire::Rule { matches: rule.matches.clone(), ..wire::Rule::default() })
            .collect(),
    };
    key.listeners.sort_unstable();
    key.hosts.sort_unstable();
    for rule in &mut key.rules {
        rule.matches.iter_mut().for_each(|condition| condition.methods.sort_unstable());
    }
    let first = key.rules.first().and_then(|rule| rule.matches.first());
    let mut slug = String::new();
    if let Some(first) = first {
        slug += &first.methods.join("+");
    }
    if !slug.is_empty() {
        slug.push(':');
    }
    slug += &key.hosts.join("+");
    let path = first.and_then(|first| first.path.as_ref()).and_then(|path| path.kind.as_ref());
    let mut told = key.listeners.is_empty() && key.rules.len() == 1;
    match path {
        Some(wire::path_match::Kind::Prefix(path)) => {
            told &= path.starts_with('/');
            slug += path;
        }
        Some(wire::path_match::Kind::Exact(path) | wire::path_match::Kind::Regex(path)) => {
            told = false;
            slug += path;
        }
        None => {}
    }
    if slug.is_empty() {
        slug.push('*');
    }
    told &= key.rules.iter().all(|rule| rule.matches.len() <= 1);
    told &= first.is_none_or(|first| first.headers.is_empty() && first.query.is_empty());
    // An empty match and no match at all are both "any request".
    if told && check(&slug).is_ok() && slug.len() <= SLUG_MAX {
        return slug;
    }
    let mut name = String::new();
    for character in slug.chars().take(SLUG_MAX) {
        let character = if is_allowed(character) { character } else { '-' };
        if character != '-' || !name.ends_with('-') {
            name.push(character);
        }
    }
    let hash = blake3::hash(&key.encode_to_vec()).to_hex();
    let name = name.replace("://", ":/");
    format!("{}~{}", name.trim_matches('-'), &hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(hosts: &[&str], condition: wire::Match) -> wire::Route {
        wire::Route {
            hosts: hosts.iter().map(|host| (*host).into()).collect(),
            rules: vec![wire::Rule { matches: vec![condition], ..wire::Rule::default() }],
            ..wire::Route::default()
        }
    }

    fn path(kind: wire::path_match::Kind) -> wire::Match {
        wire::Match { path: Some(wire::PathMatch { kind: Some(kind) }), ..wire::Match::default() }
    }

    #[test]
    fn plain_matches_give_plain_names() {
        use wire::path_match::Kind::{Exact, Prefix};
        assert_eq!(from_match(&route(&[], path(Prefix("/api/test".into())))), "/api/test");
        assert_eq!(from_match(&route(&[], wire::Match::default())), "*");
        let mut condition = path(Prefix("/users".into()));
        condition.methods = vec!["POST".into(), "GET".into()];
        assert_eq!(
            from_match(&route(&["b.example.com", "a.example.com"], condition.clone())),
            "GET+POST:a.example.com+b.example.com/users"
        );
        condition.methods.reverse();
        assert_eq!(
            from_match(&route(&["a.example.com", "b.example.com"], condition)),
            "GET+POST:a.example.com+b.example.com/users"
        );
        let exact = from_match(&route(&[], path(Exact("/users".into()))));
        assert!(exact.starts_with("/users~") && exact.len() == 15, "{exact}");
    }

    #[test]
    fn lossy_names_are_told_apart_by_a_hash() {
        use wire::path_match::Kind::{Exact, Prefix, Regex};
        let kinds = ["/é", "/è", "/a b", "/a%20b"].into_iter().map(|text| Prefix(text.into()));
        let others = [Exact("/é".into()), Regex("/é".into()), Regex(format!("/{}", "x".repeat(9_000)))];
        let names: Vec<String> = kinds.chain(others).map(|kind| from_match(&route(&[], path(kind)))).collect();
        for (at, name) in names.iter().enumerate() {
            assert_eq!(check(name), Ok(()), "{name}");
            assert!(!names[..at].contains(name), "{name}");
        }
    }

    #[test]
    fn names_are_ascii_without_spaces() {
        for name in ["a", "users-v2", "/api/test", "*.example.com/x", "GET:a~1"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", "a b", " a", "a\n", "é", "http://x", "a'b", "<script>", "a\u{202e}"] {
            assert!(check(name).is_err(), "{name}");
        }
        assert!(check(&"x".repeat(253)).is_ok() && check(&"x".repeat(254)).is_err());
    }
}
