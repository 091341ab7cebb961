//! One item of a section -> its wire resource, in normal form: what may be written in two ways comes out in one.
//!
//! Shape and single values are checked here. Whatever takes more than the value itself (paths, hosts, URLs,
//! addresses, regexes, plugin configurations, references) is the data plane's to judge, which compiles them; so are
//! durations. Bounds that are checked here are its own.

mod backend;
mod certificate;
mod consumer;
mod listener;
mod plugin;
mod route;

use rustygate_data_plane::{
    duration,
    snapshot::compile::{DEFAULTS, WEIGHT_MAX},
};
use rustygate_proto::v1 as wire;

pub(super) use self::plugin::secrets_in_place;
use super::faults::{BAD_VALUE, CONFLICT, Faults, MISSING_FIELD, TOO_LARGE, UNREADABLE, WRONG_TYPE, closest};
use super::name;
use super::node::{Node, Scalar};
use super::references::{Found, REFERENCES_MAX, Reference};
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
        wire::Kind::Listener => (Kind::Listener(listener::listener(faults, node)?), true),
        wire::Kind::Backend => (Kind::Backend(backend::backend(faults, node)?), true),
        wire::Kind::Plugin => (Kind::Plugin(plugin::plugin(faults, node)?), true),
        wire::Kind::Route => {
            let (route, named) = route::route(faults, node)?;
            (Kind::Route(route), named)
        }
        wire::Kind::Certificate => (Kind::Certificate(certificate::certificate(faults, node)?), true),
        wire::Kind::Consumer => (Kind::Consumer(consumer::consumer(faults, node)?), true),
        wire::Kind::Defaults => (Kind::Defaults(defaults(faults, node)?), true),
        wire::Kind::Unspecified => return None,
    };
    Some(Item { resource: wire::Resource { kind: Some(kind) }, named })
}

/// `defaults:`, a mapping and no list.
fn defaults(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Defaults> {
    let fields = faults.fields(node, "defaults", ["plugins"])?;
    let [plugins] = fields.found;
    let plugins = plugins.map(|entry| names(faults, &entry.value)).unwrap_or_default();
    Some(wire::Defaults { name: DEFAULTS.to_owned(), plugins })
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

/// Text that may be in a file or a variable: PEM.
fn outside_text(faults: &mut Faults, node: &Node<'_>) -> Option<String> {
    if let Some(Scalar::Text(text)) = node.scalar() {
        return Some(text.to_owned());
    }
    let fields = faults.fields(node, "a text that is not written in place", ["file", "env"])?;
    let [file, env] = fields.found;
    let whole = fields.is_whole();
    let bytes = reference(faults, node, file.map(|entry| &entry.value), env.map(|entry| &entry.value), whole)?;
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(_) => {
            let hint = "a PEM file is text; of a DER file `openssl x509 -inform der` makes one";
            faults.add(UNREADABLE, node.span, "what it stands for is no text", hint);
            None
        }
    }
}

/// A secret: in place, in a file or a variable, or the one that is stored, known by its fingerprint.
fn secret(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Secret> {
    use wire::secret::Form;
    if let Some(Scalar::Text(text)) = node.scalar() {
        return Some(wire::Secret { form: Some(Form::Clear(text.as_bytes().to_vec())), salt: Vec::new() });
    }
    let fields = faults.fields(node, "a secret that is not written in place", ["file", "env", "sealed"])?;
    let [file, env, sealed] = fields.found;
    let form = match (sealed, file.or(env)) {
        (Some(sealed), Some(other)) => {
            faults.conflict(sealed, other, "keep `sealed` if the secret stays as it is");
            return None;
        }
        (Some(sealed), None) => Form::Fingerprint(text(faults, &sealed.value)?),
        (None, _) => {
            let whole = fields.is_whole();
            let (file, env) = (file.map(|entry| &entry.value), env.map(|entry| &entry.value));
            Form::Clear(reference(faults, node, file, env, whole)?)
        }
    };
    Some(wire::Secret { form: Some(form), salt: Vec::new() })
}

/// What a reference stands for. `whole` says that nothing in the mapping was misspelt.
fn reference(
    faults: &mut Faults,
    node: &Node<'_>,
    file: Option<&Node<'_>>,
    env: Option<&Node<'_>>,
    whole: bool,
) -> Option<Vec<u8>> {
    let (is_variable, named) = match (file, env) {
        (Some(file), None) => (false, file),
        (None, Some(env)) => (true, env),
        (Some(_), Some(env)) => {
            faults.add(CONFLICT, env.span, "\"file\" and \"env\" exclude each other", "keep one");
            return None;
        }
        (None, None) => {
            if whole {
                let hint = "write it as in {file: web.pem} or {env: WEB_PEM}";
                faults.add(MISSING_FIELD, node.span, "it says neither which file nor which variable", hint);
            }
            return None;
        }
    };
    let name = text(faults, named)?;
    let what = if is_variable { "variable" } else { "file" };
    let document = faults.document;
    let (code, message, hint) = match faults.references.find(&Reference { document, is_variable, name: name.clone() }) {
        Found::Bytes(bytes) => return Some(bytes.to_vec()),
        Found::TooMany => {
            let message = format!("the input refers to more than {REFERENCES_MAX} files and variables");
            (TOO_LARGE, message, "apply it in parts")
        }
        Found::Error(error) => {
            let hint = match is_variable {
                true => "variables are those of gatectl's environment",
                false => "paths are relative to the folder of the manifest, and read where gatectl runs",
            };
            (UNREADABLE, format!("cannot read the {what} {}: {error}", shown(&name)), hint)
        }
    };
    faults.add(code, named.span, message, hint);
    None
}
