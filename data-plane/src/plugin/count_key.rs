//! Who is counted: what the plugins that count requests have for a key.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hash, Hasher},
    net::IpAddr,
};

use serde_json::Value;

use super::{
    PluginRequest,
    config::Config,
    spec::{Key, Kind},
};
use crate::{limit::network, snapshot::fault::Faults};

/// The most parts of a key.
const PARTS_MAX: usize = 8;

static NAMED: [Key; 2] = [
    Key::new("header", Kind::AnyFieldName, "", "The value of a header; for those that somebody vouches for"),
    Key::new("claim", Kind::Text { max: 256 }, "", "A claim of the token that an authentication plugin has checked"),
];

const WORDS: Kind = Kind::Word(&["client_ip", "consumer", "route", "plugin"]);

static PART: Kind = Kind::Either(&[WORDS, Kind::Object(&NAMED)]);

const KEY: Kind = Kind::Either(&[WORDS, Kind::Object(&NAMED), Kind::List(&PART, PARTS_MAX)]);

/// What a configuration can say of it, with the word that it is by default.
pub(super) const fn spec(default: &'static str) -> Key {
    Key::new(
        "key",
        KEY,
        default,
        "Who is counted: the client's address (/64 of IPv6, as trusted proxies tell it), the consumer, the route, all \
together (`plugin`), `{header: NAME}`, `{claim: NAME}`, or a list of these; in the place of what a request does not have, \
its client's address counts",
    )
}

/// The parts of a key.
#[derive(Debug)]
pub(super) struct CountKey(Vec<Part>);

#[derive(Debug)]
enum Part {
    ClientIp,
    Consumer,
    Route,
    Plugin,
    Header(Box<str>),
    Claim(Box<str>),
}

/// 128 bits of hashes with secret seeds: neither how long a key is nor who chose it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(pub u64, pub u64);

/// For whoever has chosen a shard by the first hash, the second is enough.
impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.1);
    }
}

/// The seeds.
#[derive(Debug, Default)]
pub(super) struct Hashers([RandomState; 2]);

impl Hashers {
    /// Of what `feed` writes.
    pub fn digest(&self, feed: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Digest {
        let mut hashers = [self.0[0].build_hasher(), self.0[1].build_hasher()];
        feed(&mut |bytes| hashers.iter_mut().for_each(|hasher| hasher.write(bytes)));
        Digest(hashers[0].finish(), hashers[1].finish())
    }
}

/// What the configuration says of [`spec`].
pub(super) fn compile(config: &Config<'_>, default: &'static str, faults: &mut Faults) -> CountKey {
    let default = Value::from(default);
    let value = config.get("key").unwrap_or(&default);
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let parts: Vec<Part> = values.iter().filter_map(part).collect();
    if parts.len() != values.len() || parts.is_empty() {
        let hint = "give a word, {header: NAME}, {claim: NAME}, or a list of these";
        config.fault("key", "this is no key, or one with a part that is none", hint, faults);
    }
    CountKey(parts)
}

fn part(value: &Value) -> Option<Part> {
    if let Some(map) = value.as_object() {
        let mut entries = map.iter();
        let (name, value) = entries.next().filter(|_| map.len() == 1)?;
        let text = value.as_str()?;
        return match name.as_str() {
            "header" => Some(Part::Header(text.to_ascii_lowercase().into())),
            "claim" => Some(Part::Claim(text.into())),
            _ => None,
        };
    }
    Some(match value.as_str()? {
        "client_ip" => Part::ClientIp,
        "consumer" => Part::Consumer,
        "route" => Part::Route,
        "plugin" => Part::Plugin,
        _ => return None,
    })
}

impl CountKey {
    /// Whether all requests are counted together.
    pub fn is_of_all(&self) -> bool {
        matches!(*self.0, [Part::Plugin])
    }

    /// What tells it from others; the same in every version, since proxies of several may share counts.
    pub fn form(&self) -> String {
        format!("{:?}", self.0)
    }

    /// Writes what tells the request's key from all others that have these parts.
    pub fn feed(&self, request: &PluginRequest<'_>, write: &mut dyn FnMut(&[u8])) {
        for part in &self.0 {
            let text;
            let known: Option<&[u8]> = match part {
                Part::ClientIp => None,
                Part::Plugin => Some(b""),
                Part::Route => Some(request.rule.route.as_bytes()),
                Part::Consumer => request.facts.consumer.as_ref().map(|consumer| consumer.name.as_bytes()),
                Part::Header(name) => request.fields.get(name),
                Part::Claim(name) => {
                    let consumer = request.facts.consumer.as_ref();
                    match consumer.and_then(|consumer| consumer.claims.as_ref()?.get(&**name)) {
                        None | Some(Value::Null) => None,
                        Some(Value::String(text)) => Some(text.as_bytes()),
                        Some(value) => {
                            text = value.to_string();
                            Some(text.as_bytes())
                        }
                    }
                }
            };
            // With its kind and length, so that no two lists of parts read alike.
            match (known, network(request.client)) {
                (Some(bytes), _) => {
                    write(&[1]);
                    write(&(bytes.len() as u64).to_le_bytes());
                    write(bytes);
                }
                (None, IpAddr::V4(address)) => {
                    write(&[4]);
                    write(&address.octets());
                }
                (None, IpAddr::V6(address)) => {
                    write(&[6]);
                    write(&address.octets());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_key_is_what_it_always_was() {
        let key = CountKey(vec![Part::ClientIp, Part::Header("x-tenant".into())]);
        assert_eq!(key.form(), "[ClientIp, Header(\"x-tenant\")]");
    }
}
