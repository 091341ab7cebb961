//! Reads the configuration of a plugin by the table of its type, and says for each mistake where it is.
//!
//! [`check`] walks the whole configuration first, so what is read afterwards has the right shape or was reported; a
//! plugin's own code adds only what concerns several keys.

use std::{net::IpAddr, time::Duration};

use rustygate_proto::v1 as wire;
use serde_json::{Map, Value};

use super::spec::{Key, Kind, Shape};
use crate::{
    duration,
    fields::{is_field_value, is_token},
    forward::TrustedProxies,
    snapshot::{compile::NAME_BYTES_MAX, fault, fault::Faults},
};

/// The most fields that one plugin sets, adds or removes in one list.
pub(super) const FIELDS_MAX: usize = 100;

/// The most bytes that a value of a field has.
const VALUE_BYTES_MAX: usize = 8192;

/// The most bytes of a regex.
const REGEX_BYTES_MAX: usize = 4096;

/// The most memory that a compiled regex takes.
const REGEX_SIZE_MAX: usize = 1 << 20;

/// The key that stands in a configuration for one of the plugin's secrets, with its number.
pub const SECRET: &str = "$secret";

/// A mapping of the configuration that was checked: where it is, and what its keys are.
#[derive(Clone, Debug)]
pub(super) struct Config<'a> {
    map: &'a Map<String, Value>,
    keys: &'static [Key],
    path: String,
    secrets: &'a [wire::Secret],
}

/// A field as a plugin sets or adds it, checked.
pub(super) type Field = (Box<str>, Box<[u8]>);

/// Checks a value and everything in it.
pub(super) fn check(value: &Value, kind: &Kind, path: &str, secrets: &[wire::Secret], faults: &mut Faults) {
    match kind {
        Kind::Bool => drop(expect(value.as_bool(), value, path, "true or false", faults)),
        Kind::Integer { min, max } => match value.as_u64().filter(|number| (min..=max).contains(&number)) {
            Some(_) => {}
            None if value.is_number() => {
                let message = format_args!("{value} is not within {min} to {max}");
                faults.add(fault::BAD_PLUGIN_CONFIG, path, message);
            }
            None => drop(expect(None::<()>, value, path, "a whole number", faults)),
        },
        Kind::Percent => match value.as_f64() {
            Some(percent) if (0.0..=100.0).contains(&percent) => {}
            Some(_) => faults.add(fault::BAD_PLUGIN_CONFIG, path, format_args!("{value} is not within 0 to 100")),
            None => drop(expect(None::<()>, value, path, "a number from 0 to 100", faults)),
        },
        Kind::Duration { min, max } => {
            let Some(text) = expect(value.as_str(), value, path, "a duration, as in 5s", faults) else { return };
            match duration::parse(text) {
                Some(millis) if (min..=max).contains(&&millis) => {}
                Some(_) => {
                    let (min, max) = (duration::write(*min), duration::write(*max));
                    let message = format_args!("{text} is not within {min} to {max}");
                    faults.add(fault::BAD_PLUGIN_CONFIG, path, message);
                }
                None => {
                    let message = format_args!("bad duration {}", fault::shown(text));
                    let hint = "write it like 250ms, 5s, 1m30s or 1h";
                    faults.add_with_hint(fault::BAD_PLUGIN_CONFIG, path, message, hint);
                }
            }
        }
        Kind::Text { max } => check_text(value, *max, path, faults),
        Kind::Backend => check_text(value, NAME_BYTES_MAX, path, faults),
        Kind::Outside => check_text(value, 1 << 20, path, faults),
        Kind::Word(words) => {
            let Some(text) = expect(value.as_str(), value, path, "a word", faults) else { return };
            if !words.contains(&text) {
                let hint = match fault::closest(text, words.iter().copied()) {
                    Some(close) => format!("did you mean {close:?}?"),
                    None => format!("known words: {}", words.join(", ")),
                };
                let message = format_args!("unknown word {}", fault::shown(text));
                faults.add_with_hint(fault::BAD_PLUGIN_CONFIG, path, message, hint);
            }
        }
        Kind::FieldName => {
            if let Some(name) = expect(value.as_str(), value, path, "a text", faults) {
                check_name(name, path, faults);
            }
        }
        Kind::AnyFieldName => {
            let Some(name) = expect(value.as_str(), value, path, "a text", faults) else { return };
            if !is_token(name.as_bytes()) {
                faults.add(fault::BAD_PLUGIN_CONFIG, path, format_args!("{name:?} is no name of a header"));
            }
        }
        Kind::FieldValue => {
            if let Some(text) = expect(value.as_str(), value, path, "a text", faults) {
                check_value(text, path, faults);
            }
        }
        Kind::Fields => {
            let Some(map) = expect(value.as_object(), value, path, "a mapping", faults) else { return };
            check_count(map.len(), FIELDS_MAX, path, faults);
            for (name, value) in map.iter().take(FIELDS_MAX) {
                let path = format!("{path}.{name}");
                check_name(name, &path, faults);
                if value.is_object() {
                    let Some(bytes) = check_secret(value, &path, secrets, faults) else { continue };
                    if std::str::from_utf8(bytes).is_ok_and(|text| is_value(text.trim_end())) {
                        continue;
                    }
                    faults.add(fault::BAD_PLUGIN_CONFIG, &path, "the secret is no value that a header can have");
                    continue;
                }
                let wanted = "a text (put quotes around a number)";
                let Some(text) = expect(value.as_str(), value, &path, wanted, faults) else { continue };
                check_value(text, &path, faults);
            }
        }
        Kind::Cidr => {
            let Some(text) = expect(value.as_str(), value, path, "an address or a CIDR block", faults) else { return };
            if let Err(problem) = TrustedProxies::parse_one(text) {
                faults.add(fault::BAD_PLUGIN_CONFIG, path, problem);
            }
        }
        Kind::Regex => {
            let Some(text) = expect(value.as_str(), value, path, "a regex", faults) else { return };
            if !faults.regexes_are_given_up() && regex(text).is_none() {
                let message = format_args!("{} is no regex, or too large a one", fault::shown(text));
                faults.add_bad_regex(path, message);
            }
        }
        Kind::Secret => {
            check_secret(value, path, secrets, faults);
        }
        Kind::List(kind, max) => {
            let Some(list) = expect(value.as_array(), value, path, "a list", faults) else { return };
            check_count(list.len(), *max, path, faults);
            for (index, value) in list.iter().take(*max).enumerate() {
                check(value, kind, &format!("{path}[{index}]"), secrets, faults);
            }
        }
        Kind::Map(kind, max) => {
            let Some(map) = expect(value.as_object(), value, path, "a mapping", faults) else { return };
            check_count(map.len(), *max, path, faults);
            for (key, value) in map.iter().take(*max) {
                check(value, kind, &format!("{path}.{key}"), secrets, faults);
            }
        }
        Kind::Object(keys) => {
            if let Some(map) = expect(value.as_object(), value, path, "a mapping", faults) {
                check_keys(map, keys, path, secrets, faults);
            }
        }
        Kind::Either(_) => {
            let kind = kind.of_shape(shape(value));
            if !matches!(kind, Kind::Either(_)) {
                check(value, kind, path, secrets, faults);
            }
        }
    }
}

fn check_keys(map: &Map<String, Value>, keys: &[Key], path: &str, secrets: &[wire::Secret], faults: &mut Faults) {
    for name in map.keys().filter(|name| !keys.iter().any(|key| key.name == name.as_str())) {
        let message = format_args!("unknown key {name:?}");
        let hint = match fault::closest(name, keys.iter().map(|key| key.name)) {
            Some(close) => format!("did you mean {close:?}?"),
            None => format!("known keys: {}", keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")),
        };
        faults.add_with_hint(fault::BAD_PLUGIN_CONFIG, format_args!("{path}.{name}"), message, hint);
    }
    for key in keys {
        match map.get(key.name) {
            Some(value) => check(value, &key.kind, &format!("{path}.{}", key.name), secrets, faults),
            None if key.required => {
                faults.add(fault::BAD_PLUGIN_CONFIG, path, format_args!("{:?} is missing", key.name));
            }
            None => {}
        }
    }
}

fn check_count(count: usize, most: usize, path: &str, faults: &mut Faults) {
    if count > most {
        let message = format_args!("there are {count} of these; at most {most} are allowed");
        faults.add(fault::BAD_PLUGIN_CONFIG, path, message);
    }
}

fn check_text(value: &Value, max: usize, path: &str, faults: &mut Faults) {
    let Some(text) = expect(value.as_str(), value, path, "a text", faults) else { return };
    if text.len() > max {
        let message = format_args!("this is {} bytes long; at most {max} are allowed", text.len());
        faults.add(fault::BAD_PLUGIN_CONFIG, path, message);
    }
}

/// The secret that is there, or a fault.
fn check_secret<'a>(
    value: &'a Value,
    path: &str,
    secrets: &'a [wire::Secret],
    faults: &mut Faults,
) -> Option<&'a [u8]> {
    let found = secret(value, secrets);
    if found.is_none() && value.get(SECRET).is_some() {
        let message = "there is only a fingerprint of the secret, and no secret with it is stored under this name";
        let hint = "give the secret itself, as in {file: secret.txt} or {env: SECRET}";
        faults.add_with_hint(fault::BAD_PLUGIN_CONFIG, path, message, hint);
    } else if found.is_none() {
        expect(None::<()>, value, path, "a secret", faults);
    }
    found
}

fn shape(value: &Value) -> Shape {
    match value {
        Value::Null => Shape::Other,
        Value::Bool(_) => Shape::Bool,
        Value::Number(_) => Shape::Number,
        Value::String(_) => Shape::Text,
        Value::Array(_) => Shape::List,
        Value::Object(_) => Shape::Map,
    }
}

fn secret<'a>(value: &'a Value, secrets: &'a [wire::Secret]) -> Option<&'a [u8]> {
    if let Some(text) = value.as_str() {
        return Some(text.as_bytes());
    }
    let index = value.as_object()?.get(SECRET)?.as_u64()?;
    match secrets.get(usize::try_from(index).ok()?)?.form.as_ref()? {
        wire::secret::Form::Clear(bytes) => Some(bytes),
        wire::secret::Form::Sealed(_) | wire::secret::Form::Fingerprint(_) => None,
    }
}

/// Compiles a regex, within bounds.
fn regex(text: &str) -> Option<regex::Regex> {
    let small = text.len() <= REGEX_BYTES_MAX;
    small.then(|| regex::RegexBuilder::new(text).size_limit(REGEX_SIZE_MAX).build().ok()).flatten()
}

impl<'a> Config<'a> {
    /// The mapping that a value is, checked by these keys; `None` after a fault.
    pub fn read(
        value: &'a Value,
        keys: &'static [Key],
        secrets: &'a [wire::Secret],
        faults: &mut Faults,
    ) -> Option<Self> {
        let path = "config".to_owned();
        let map = expect(value.as_object(), value, &path, "a mapping", faults)?;
        check_keys(map, keys, &path, secrets, faults);
        Some(Self { map, keys, path, secrets })
    }

    /// Where a key of it is.
    pub fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// Adds a fault of a key.
    pub fn fault(&self, key: &str, message: impl std::fmt::Display, hint: &str, faults: &mut Faults) {
        faults.add_with_hint(fault::BAD_PLUGIN_CONFIG, self.path(key), message, hint);
    }

    /// Adds a fault of the mapping as a whole.
    pub fn fault_here(&self, message: &str, hint: &str, faults: &mut Faults) {
        faults.add_with_hint(fault::BAD_PLUGIN_CONFIG, &self.path, message, hint);
    }

    /// Whether a key's mapping has a secret under that name.
    pub fn is_secret(&self, key: &str, name: &str) -> bool {
        self.get(key).and_then(|map| map.get(name)).is_some_and(Value::is_object)
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn key(&self, name: &str) -> Option<&'static Key> {
        let found = self.keys.iter().find(|key| key.name == name);
        debug_assert!(found.is_some(), "the table has no key {name:?}");
        found
    }

    /// The value of a key as it is.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        debug_assert!(self.key(key).is_some(), "the table has no key {key:?}");
        self.map.get(key)
    }

    /// False without it, unless the table says otherwise.
    pub fn bool(&self, key: &str) -> bool {
        let default = self.key(key).is_some_and(|key| key.default == "true");
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    /// The number, or the table's default if that is one.
    pub fn integer(&self, key: &str) -> Option<u64> {
        let default = || self.key(key).and_then(|key| key.default.replace(',', "").parse().ok());
        self.get(key).and_then(Value::as_u64).or_else(default)
    }

    /// The percentage, or the table's default if that is one.
    pub fn percent(&self, key: &str) -> Option<f64> {
        let default = || self.key(key).and_then(|key| key.default.parse().ok());
        self.get(key).and_then(Value::as_f64).or_else(default)
    }

    /// The time, or the table's default if that is one.
    pub fn duration(&self, key: &str) -> Option<Duration> {
        let default = || self.key(key).and_then(|key| duration::parse(key.default));
        let millis = self.text(key).and_then(duration::parse).or_else(default);
        millis.map(Duration::from_millis)
    }

    /// The text, if there is one.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    /// The word, or the table's default.
    pub fn word(&self, key: &str) -> &'a str {
        self.text(key).or_else(|| self.key(key).map(|key| key.default)).unwrap_or_default()
    }

    /// The value for a field, or the table's default; nothing that no field can have.
    pub fn value(&self, key: &str) -> &'a str {
        Some(self.word(key)).filter(|text| is_value(text)).unwrap_or_default()
    }

    /// The secret, if there is one.
    pub fn secret(&self, key: &str) -> Option<&'a [u8]> {
        secret(self.get(key)?, self.secrets)
    }

    /// The regex, if there is one.
    pub fn regex(&self, key: &str) -> Option<regex::Regex> {
        regex(self.text(key)?)
    }

    /// The mapping of a key, if there is one.
    pub fn child(&self, key: &str) -> Option<Self> {
        fn keys_of(kind: &'static Kind) -> Option<&'static [Key]> {
            match kind {
                Kind::Object(keys) => Some(keys),
                Kind::Either(kinds) => kinds.iter().find_map(keys_of),
                _ => None,
            }
        }
        let map = self.get(key)?.as_object()?;
        Some(Self { map, keys: keys_of(&self.key(key)?.kind)?, path: self.path(key), secrets: self.secrets })
    }

    /// The mappings of a list, or those of a mapping with their names (else "").
    pub fn children(&self, key: &str) -> Vec<(&'a str, Self)> {
        fn keys_of(kind: &'static Kind) -> &'static [Key] {
            match kind {
                Kind::Object(keys) => keys,
                Kind::List(kind, _) | Kind::Map(kind, _) => keys_of(kind),
                Kind::Either(kinds) => kinds.iter().map(keys_of).find(|keys| !keys.is_empty()).unwrap_or_default(),
                _ => &[],
            }
        }
        let Some(keys) = self.key(key).map(|key| keys_of(&key.kind)) else { return Vec::new() };
        let child =
            |path: String, value: &'a Value| Some(Self { map: value.as_object()?, keys, path, secrets: self.secrets });
        match self.get(key) {
            Some(Value::Array(list)) => {
                let path = self.path(key);
                let items = list.iter().enumerate();
                items.filter_map(|(at, value)| Some(("", child(format!("{path}[{at}]"), value)?))).collect()
            }
            Some(Value::Object(map)) => {
                let path = self.path(key);
                map.iter()
                    .filter_map(|(name, value)| Some((&**name, child(format!("{path}.{name}"), value)?)))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// The texts of a list; of one text, that.
    pub fn texts(&self, key: &str) -> Vec<&'a str> {
        match self.get(key) {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(text)) => vec![text],
            _ => Vec::new(),
        }
    }

    /// The names of a mapping, each with the texts of its list, or its one text.
    pub fn text_lists(&self, key: &str) -> Vec<(&'a str, Vec<&'a str>)> {
        let texts = |value: &'a Value| match value {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect(),
        };
        let map = self.get(key).and_then(Value::as_object);
        map.into_iter().flatten().map(|(name, value)| (&**name, texts(value))).collect()
    }

    /// The blocks of a list.
    pub fn blocks(&self, key: &str) -> Vec<(IpAddr, u8)> {
        self.texts(key).into_iter().filter_map(|text| TrustedProxies::parse_one(text).ok()).collect()
    }

    /// The object of a key as names and values of fields.
    pub fn fields(&self, key: &str) -> Vec<Field> {
        let map = self.get(key).and_then(Value::as_object);
        let field = |(name, value): (&String, &Value)| {
            let text = match value.as_str() {
                Some(text) => text,
                // Files end with a new line.
                None => std::str::from_utf8(secret(value, self.secrets)?).ok()?.trim_end(),
            };
            let text = Some(text).filter(|text| is_value(text))?;
            is_token(name.as_bytes()).then(|| (name.as_str().into(), text.as_bytes().into()))
        };
        map.into_iter().flatten().take(FIELDS_MAX).filter_map(field).collect()
    }

    /// The list of a key as names of fields.
    pub fn names(&self, key: &str) -> Vec<Box<str>> {
        self.texts(key).into_iter().filter(|name| is_token(name.as_bytes())).map(Into::into).collect()
    }
}

/// What the value is read as, or a fault that says what it should be.
fn expect<T>(read: Option<T>, value: &Value, path: &str, wanted: &str, faults: &mut Faults) -> Option<T> {
    if read.is_none() {
        let found = match value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        faults.add(fault::BAD_PLUGIN_CONFIG, path, format_args!("this is {found}; it must be {wanted}"));
    }
    read
}

/// Fields that frame messages or belong to one connection: changing them would break the proxy's own work.
const OWN_FIELDS: [&str; 17] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

fn check_name(name: &str, path: &str, faults: &mut Faults) -> bool {
    if !is_token(name.as_bytes()) {
        faults.add(fault::BAD_PLUGIN_CONFIG, path, format_args!("{name:?} is no name of a header"));
        return false;
    }
    // Many servers read an underscore as a hyphen.
    let canonical = name.to_ascii_lowercase().replace('_', "-");
    if OWN_FIELDS.contains(&canonical.as_str()) || canonical.starts_with("x-rustygate-") {
        let message = format_args!("header {name:?} belongs to the gateway; a plugin may not change it");
        faults.add(fault::BAD_PLUGIN_CONFIG, path, message);
        return false;
    }
    true
}

fn is_value(value: &str) -> bool {
    is_field_value(value.as_bytes()) && value.len() <= VALUE_BYTES_MAX
}

/// Checks the value of a field.
fn check_value(value: &str, path: &str, faults: &mut Faults) -> bool {
    let good = is_value(value);
    if !good {
        let message = format_args!(
            "the value has a control character, white space at an end, or more than {VALUE_BYTES_MAX} bytes"
        );
        faults.add(fault::BAD_PLUGIN_CONFIG, path, message);
    }
    good
}
