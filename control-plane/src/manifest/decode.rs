//! One item of a section -> its wire resource, in normal form: what may be written in two ways comes out in one.
//!
//! Shape and single values are checked here. Whatever takes more than the value itself (paths, hosts, URLs,
//! addresses, regexes, plugin configurations, references) is the data plane's to judge, which compiles them; so are
//! durations. Bounds that are checked here are its own.

mod backend;
mod plugin;
mod route;

use rustygate_data_plane::snapshot::compile::WEIGHT_MAX;
use rustygate_proto::v1 as wire;

use super::duration;
use super::faults::{BAD_VALUE, Faults, WRONG_TYPE, closest};
use super::name;
use super::node::{Node, Scalar};
use crate::report::shown;

/// A decoded item, as far as its faults let it be.
pub(super) struct Item {
    pub resource: wire::Resource,
    /// The user wrote the name.
    pub named: bool,
}

pub(super) fn item(faults: &mut Faults, kind: wire::Kind, node: &Node<'_>) -> Option<Item> {
    use wire::resource::Kind;
    let (kind, named) = match kind {
        wire::Kind::Listener => (Kind::Listener(listener(faults, node)?), true),
        wire::Kind::Backend => (Kind::Backend(backend::backend(faults, node)?), true),
        wire::Kind::Plugin => (Kind::Plugin(plugin::plugin(faults, node)?), true),
        wire::Kind::Route => {
            let (route, named) = route::route(faults, node)?;
            (Kind::Route(route), named)
        }
        wire::Kind::Unspecified => return None,
    };
    Some(Item { resource: wire::Resource { kind: Some(kind) }, named })
}

fn listener(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Listener> {
    let fields = faults.fields(node, "a listener", ["name", "address"])?;
    let name = faults.required(&fields, "name").and_then(|node| name(faults, node));
    let address = faults.required(&fields, "address").and_then(|node| text(faults, node));
    Some(wire::Listener { name: name.unwrap_or_default(), address: address.unwrap_or_default() })
}

fn text(faults: &mut Faults, node: &Node<'_>) -> Option<String> {
    faults.text(node).map(str::to_owned)
}

/// A name, of the item itself or of what it refers to.
fn name(faults: &mut Faults, node: &Node<'_>) -> Option<String> {
    let text = faults.text(node)?;
    match name::check(text) {
        Ok(()) => Some(text.to_owned()),
        Err(problem) => {
            let hint = "names are made of 1 to 253 ASCII letters, digits and - _ . : / @ + * ~";
            faults.add(BAD_VALUE, node.span, problem, hint);
            None
        }
    }
}

fn names(faults: &mut Faults, node: &Node<'_>) -> Vec<String> {
    let nodes = faults.list(node).unwrap_or_default();
    faults.distinct(nodes, name)
}

/// One of a few words.
fn word<T: Copy>(
    faults: &mut Faults,
    node: &Node<'_>,
    what: &str,
    several: &str,
    words: &[(&'static str, T)],
) -> Option<T> {
    let text = faults.text(node)?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let names: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
    let guess = closest(text, &names).map(|guess| format!("did you mean {guess:?}? "));
    let hint = format!("{}{several} are: {}", guess.unwrap_or_default(), names.join(", "));
    faults.add(BAD_VALUE, node.span, format!("unknown {what} {}", shown(text)), hint);
    None
}

/// What is hashed: `client_ip`, `path`, `{header: NAME}` or `{cookie: NAME}`.
fn hash_on(faults: &mut Faults, node: &Node<'_>) -> Option<wire::HashOn> {
    use wire::hash_on::Kind;
    let kind = match node.scalar() {
        Some(Scalar::Text(_)) => {
            let words = [("client_ip", true), ("path", false)];
            let client_ip = word(faults, node, "part of a request", "parts", &words)?;
            if client_ip { Kind::ClientIp(wire::Unit {}) } else { Kind::Path(wire::Unit {}) }
        }
        Some(_) => {
            faults.mismatch(node, "client_ip, path (a string), or one of header, cookie");
            return None;
        }
        None => {
            let fields = faults.fields(node, "what is hashed", ["header", "cookie"])?;
            match fields.found {
                [Some(header), Some(cookie)] => {
                    faults.conflict(header, cookie, "keep one of them");
                    return None;
                }
                [Some(header), None] => Kind::Header(text(faults, &header.value)?.to_ascii_lowercase()),
                [None, Some(cookie)] => Kind::Cookie(text(faults, &cookie.value)?),
                [None, None] => {
                    if fields.is_whole() {
                        faults.add(BAD_VALUE, node.span, "hash one of: header, cookie, client_ip, path", "");
                    }
                    return None;
                }
            }
        }
    };
    Some(wire::HashOn { kind: Some(kind) })
}

fn weight(faults: &mut Faults, node: &Node<'_>) -> Option<u32> {
    faults.integer(node, 0, WEIGHT_MAX)
}

fn milliseconds(faults: &mut Faults, node: &Node<'_>) -> Option<u64> {
    const EXAMPLES: &str = "write it like 250ms, 5s, 1m30s or 1h";
    match node.scalar() {
        Some(Scalar::Text(text)) => match duration::parse(text) {
            Some(value) => Some(value),
            None => {
                faults.add(BAD_VALUE, node.span, format!("bad duration {}", shown(text)), EXAMPLES);
                None
            }
        },
        Some(Scalar::Integer(number)) => {
            let hint = format!("say the unit: {number}s or {number}ms");
            faults.add(WRONG_TYPE, node.span, "expected a duration, found an integer", hint);
            None
        }
        _ => {
            faults.mismatch(node, "a duration");
            None
        }
    }
}
