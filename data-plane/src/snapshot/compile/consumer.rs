//! Consumers from the wire.

use std::{collections::BTreeSet, sync::Arc};

use rustygate_proto::v1 as wire;

use crate::{
    consumer::{CREDENTIALS_MAX, Consumer, GROUPS_MAX, KeyHash, PasswordHash, Taken, USERNAME_BYTES_MAX},
    snapshot::{fault, fault::Faults},
};

use super::NAME_BYTES_MAX;

/// `None` if it is faulty, which is then reported.
pub(super) fn compile(message: &wire::Consumer, faults: &mut Faults) -> Option<Consumer> {
    let before = faults.count();
    for (field, count, most) in [
        ("groups", message.groups.len(), GROUPS_MAX),
        ("api_keys", message.api_keys_sha256.len(), CREDENTIALS_MAX),
        ("basic_auth", message.basic_auth.len(), CREDENTIALS_MAX),
    ] {
        if count > most {
            faults.add(fault::OUT_OF_BOUNDS, field, format_args!("there are {count}; at most {most} are allowed"));
        }
    }
    if faults.count() > before {
        return None;
    }
    for (index, group) in message.groups.iter().enumerate() {
        let good = |byte: u8| byte.is_ascii_graphic() && byte != b',';
        if group.is_empty() || group.len() > NAME_BYTES_MAX || !group.bytes().all(good) {
            let message = format_args!("a group has 1 to {NAME_BYTES_MAX} visible ASCII characters, and no comma");
            faults.add(fault::BAD_VALUE, format_args!("groups[{index}]"), message);
        }
    }
    let mut keys = Vec::with_capacity(message.api_keys_sha256.len());
    for (index, hash) in message.api_keys_sha256.iter().enumerate() {
        let Ok(hash) = <[u8; 32]>::try_from(hash.as_slice()) else {
            faults.add(fault::BAD_VALUE, format_args!("api_keys[{index}]"), "a SHA-256 has 32 bytes");
            continue;
        };
        let hash = KeyHash(hash);
        if keys.contains(&hash) {
            faults.add(fault::BAD_VALUE, format_args!("api_keys[{index}]"), "the same key is in the list twice");
        }
        keys.push(hash);
    }
    let mut usernames = BTreeSet::new();
    let mut passwords = Vec::with_capacity(message.basic_auth.len());
    for (index, credential) in message.basic_auth.iter().enumerate() {
        let username = credential.username.as_str();
        if let Some(problem) = problem_of(username) {
            faults.add(fault::BAD_VALUE, format_args!("basic_auth[{index}].username"), problem);
        } else if !usernames.insert(username) {
            let message = format_args!("the user name {} is in the list twice", fault::shown(username));
            faults.add(fault::BAD_VALUE, format_args!("basic_auth[{index}].username"), message);
        }
        match password(credential.password.as_ref()) {
            Ok(password) => passwords.push((username.into(), Arc::new(password))),
            Err(problem) => {
                let hint =
                    "`htpasswd -nB NAME` makes one; or write the password itself and the control plane makes one";
                faults.add_with_hint(fault::BAD_VALUE, format_args!("basic_auth[{index}].password"), problem, hint);
            }
        }
    }
    (faults.count() == before).then(|| Consumer {
        name: message.name.as_str().into(),
        groups: message.groups.iter().collect(),
        keys: keys.into(),
        passwords: passwords.into(),
    })
}

/// Reports what another consumer has as well.
pub(super) fn report(consumer: &Consumer, taken: &[Taken], faults: &mut Faults) {
    faults.enter(wire::Kind::Consumer, &consumer.name);
    for taken in taken {
        match taken {
            Taken::Key { index, by } => {
                let message = format_args!("consumers {by:?} and {:?} have the same API key", consumer.name);
                let hint = "give one of them another: a key says who calls";
                faults.add_with_hint(fault::SAME_CREDENTIAL, format_args!("api_keys[{index}]"), message, hint);
            }
            Taken::Username { index, by } => {
                let username = consumer.passwords.get(*index).map_or("", |(username, _)| username);
                let username = fault::shown(username);
                let message =
                    format_args!("consumers {by:?} and {:?} have the same user name {username}", consumer.name);
                let field = format_args!("basic_auth[{index}].username");
                faults.add_with_hint(fault::SAME_CREDENTIAL, field, message, "rename one of them");
            }
        }
    }
}

fn problem_of(username: &str) -> Option<String> {
    if username.is_empty() || username.len() > USERNAME_BYTES_MAX {
        return Some(format!("a user name has 1 to {USERNAME_BYTES_MAX} bytes"));
    }
    let bad = username.chars().any(|character| character == ':' || character.is_control());
    bad.then(|| "a user name has no colon and no control characters".to_owned())
}

fn password(password: Option<&wire::Password>) -> Result<PasswordHash, String> {
    use wire::password::Form;
    match password.and_then(|password| password.form.as_ref()) {
        Some(Form::Hash(hash)) => PasswordHash::parse(hash),
        // A mistake of whoever sent it; it goes no further.
        Some(Form::Clear(_)) => Err("the password came without being hashed".to_owned()),
        None => Err("there is no password".to_owned()),
    }
}
