//! The keys that a configuration has itself.

use jsonwebtoken::Algorithm;

use super::keys::{Key, KeySet, SetError, algorithm};
use crate::{plugin::config::Config, snapshot::fault::Faults};

/// All keys that it has.
pub(super) fn keys(config: &Config<'_>, algorithms: &[Algorithm], faults: &mut Faults) -> KeySet {
    let found = config.children("keys");
    if found.is_empty() && config.has("keys") {
        config.fault("keys", "there is no key", "without one no token can be good", faults);
    }
    if !["keys", "jwks", "jwks_url"].into_iter().any(|key| config.has(key)) {
        config.fault_here("there are no keys", "give one of `keys`, `jwks` and `jwks_url`", faults);
    }
    let mut keys = set_of(config, faults);
    for (_, entry) in found {
        let Some(key) = key_of(&entry, faults) else { continue };
        if !key.is_for_any(algorithms) {
            entry.fault_here("the key is for none of `algorithms`", "add its algorithm there, or drop the key", faults);
        }
        keys.push(key);
    }
    KeySet::new(keys)
}

/// The keys of `jwks` that can be used.
fn set_of(config: &Config<'_>, faults: &mut Faults) -> Vec<Key> {
    let Some(text) = config.text("jwks") else { return Vec::new() };
    match KeySet::from_json(text.as_bytes()) {
        Ok(published) => published.keys.into_keys(),
        Err(error) => {
            let hint = match error {
                SetError::Json(_) => "it begins like {\"keys\": [{\"kty\": ...",
                SetError::TooMany(_) => "leave out what is not needed",
                SetError::Empty | SetError::Unusable(_) => "without a key no token can be good",
            };
            config.fault("jwks", error, hint, faults);
            Vec::new()
        }
    }
}

/// One key of the list; `None` after a fault.
fn key_of(config: &Config<'_>, faults: &mut Faults) -> Option<Key> {
    let algorithm = config.text("algorithm").and_then(algorithm);
    let (pem, jwk, secret) = (config.text("pem"), config.text("jwk"), config.secret("secret"));
    let (at, read) = match (pem, jwk, config.has("secret")) {
        (Some(pem), None, false) => ("pem", Key::from_pem(pem.as_bytes())),
        (None, Some(jwk), false) => ("jwk", Key::from_json(jwk)),
        (None, None, true) => {
            // Files end with a new line. What is wrong with a secret that is not there was told.
            let secret = secret?;
            let secret = secret.strip_suffix(b"\n").map_or(secret, |line| line.strip_suffix(b"\r").unwrap_or(line));
            ("secret", Key::from_secret(secret, algorithm.unwrap_or(Algorithm::HS256)))
        }
        _ if config.has("pem") && pem.is_none() || config.has("jwk") && jwk.is_none() => return None,
        _ => {
            config.fault_here(
                "a key is one of `pem`, `jwk` and `secret`",
                "write each key in an item of its own",
                faults,
            );
            return None;
        }
    };
    let fixed = read.map_err(|error| (at, error)).and_then(|key| match algorithm {
        Some(algorithm) => key.fixed_to(algorithm).map_err(|error| ("algorithm", error)),
        None => Ok(key),
    });
    match fixed {
        Ok(mut key) => {
            key.kid = config.text("kid").map(Box::from).or(key.kid);
            Some(key)
        }
        Err((at, error)) => {
            config.fault(at, error, "tokens of this key could not be checked", faults);
            None
        }
    }
}
