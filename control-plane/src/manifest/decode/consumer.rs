//! `consumers:`
//!
//! A key becomes its hash right here; a password is hashed later (`crate::passwords`), for that takes time and a random
//! salt. No message says what a key or a password is, and a line that has one in it is not shown.

use rustygate_data_plane::consumer::{self, KeyHash, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN};
use rustygate_proto::v1 as wire;

use super::{name, names, reference, text};
use crate::manifest::faults::{BAD_VALUE, Faults, WRONG_TYPE};
use crate::manifest::node::{Node, Scalar, Value};

/// How a key that will do is made.
const MAKE_A_KEY: &str = "`openssl rand -hex 32` makes a good one";

pub(super) fn consumer(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Consumer> {
    hide(faults, node);
    let fields = faults.fields(node, "a consumer", ["name", "groups", "api_keys", "basic_auth"])?;
    let name = faults.required(&fields, "name").and_then(|node| name(faults, node)).unwrap_or_default();
    let [_, groups, keys, credentials] = fields.found;
    let groups = groups.map(|entry| names(faults, &entry.value)).unwrap_or_default();
    let mut api_keys_sha256: Vec<Vec<u8>> = Vec::new();
    for node in keys.and_then(|entry| faults.list(&entry.value)).unwrap_or_default() {
        let Some(KeyHash(hash)) = api_key(faults, node) else { continue };
        if api_keys_sha256.iter().any(|known| *known == hash) {
            faults.add(BAD_VALUE, node.span, "the same key is in the list twice", "remove one");
        } else {
            api_keys_sha256.push(hash.to_vec());
        }
    }
    // One is written without the brackets.
    let nodes = match credentials.map(|entry| &entry.value) {
        Some(Node { value: Value::List(nodes), .. }) => nodes.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    let basic_auth = nodes.iter().filter_map(|node| credential(faults, node)).collect();
    Some(wire::Consumer { name, groups, api_keys_sha256, basic_auth })
}

fn api_key(faults: &mut Faults, node: &Node<'_>) -> Option<KeyHash> {
    let key = match given(faults, node, "an API key that is not written in place", "sha256")? {
        Given::Secret(key) => key,
        Given::Hash(hash) => {
            let found = KeyHash::from_hex(&text(faults, hash)?);
            if found.is_none() {
                let hint = "64 hex digits, as `printf %s \"$KEY\" | sha256sum` prints them";
                faults.add(BAD_VALUE, hash.span, "this is no SHA-256", hint);
            }
            return found;
        }
    };
    match consumer::check_key(&key) {
        Ok(()) => Some(KeyHash::of(&key)),
        Err(problem) => {
            faults.add(BAD_VALUE, node.span, problem, MAKE_A_KEY);
            None
        }
    }
}

fn credential(faults: &mut Faults, node: &Node<'_>) -> Option<wire::BasicCredential> {
    let fields = faults.fields(node, "a user name with its password", ["username", "password"])?;
    let username = faults.required(&fields, "username").and_then(|node| text(faults, node)).unwrap_or_default();
    let password = faults.required(&fields, "password").and_then(|node| password(faults, node));
    Some(wire::BasicCredential { username, password })
}

fn password(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Password> {
    use wire::password::Form;
    let password = match given(faults, node, "a password that is not written in place", "hash")? {
        Given::Secret(password) => password,
        Given::Hash(hash) => return Some(wire::Password { form: Some(Form::Hash(text(faults, hash)?)) }),
    };
    if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()) || password.iter().any(u8::is_ascii_control)
    {
        let message = format!(
            "a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes and no control characters; this one does not"
        );
        faults.add(BAD_VALUE, node.span, message, "");
        return None;
    }
    Some(wire::Password { form: Some(Form::Clear(password)) })
}

/// What is in the place of a secret.
enum Given<'n, 't> {
    /// It itself, written there or read from elsewhere.
    Secret(Vec<u8>),
    /// Its hash.
    Hash(&'n Node<'t>),
}

/// Reads a secret that may be written in place, or else is `what`, whose hash may be under that key. Nothing that is said of a
/// secret repeats it.
fn given<'n, 't>(
    faults: &mut Faults,
    node: &'n Node<'t>,
    what: &'static str,
    hash: &'static str,
) -> Option<Given<'n, 't>> {
    match node.scalar() {
        Some(Scalar::Text(text)) => return Some(Given::Secret(text.as_bytes().to_vec())),
        Some(_) => {
            let message = format!("expected a string, found {}", node.noun());
            faults.add(WRONG_TYPE, node.span, message, "write it in quotes");
            return None;
        }
        None => {}
    }
    let fields = faults.fields(node, what, ["file", "env", hash])?;
    let [file, env, hash] = fields.found;
    match (hash, file.or(env)) {
        (Some(hash), Some(other)) => {
            faults.conflict(hash, other, "keep one");
            None
        }
        (Some(hash), None) => Some(Given::Hash(&hash.value)),
        (None, _) => {
            let whole = fields.is_whole();
            let (file, env) = (file.map(|entry| &entry.value), env.map(|entry| &entry.value));
            reference(faults, node, file, env, whole).map(line).map(Given::Secret)
        }
    }
}

/// Without the end of the line that editors put behind it.
fn line(mut bytes: Vec<u8>) -> Vec<u8> {
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    bytes
}

/// Lines with what may be a secret are not shown, whatever is wrong with them: what stands under a misspelt key may be one
/// as well.
fn hide(faults: &mut Faults, node: &Node<'_>) {
    const SHOWN: [&str; 7] = ["name", "groups", "username", "file", "env", "sha256", "hash"];
    let mut nodes = vec![node];
    while let Some(node) = nodes.pop() {
        match &node.value {
            Value::Map(entries) => {
                let may_hide = entries.iter().filter(|entry| !SHOWN.contains(&&*entry.key));
                nodes.extend(may_hide.map(|entry| &entry.value));
            }
            Value::List(items) => nodes.extend(items),
            Value::Plain(_) | Value::Text(_) => faults.hide(node.span),
            Value::Broken => {}
        }
    }
}
