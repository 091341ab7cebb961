//! Reads the configuration of a plugin, and says for each mistake where it is.

use serde_json::{Map, Value};

use crate::{
    fields::{is_field_value, is_token},
    snapshot::{fault, fault::Faults},
};

/// The most fields that one plugin sets, adds or removes in one list.
const FIELDS_MAX: usize = 100;

/// The most bytes that a value of a field has.
const VALUE_BYTES_MAX: usize = 8192;

/// An object of the configuration and where it is: "config.request".
pub(super) struct Config<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

/// A field as a plugin sets or adds it, checked.
pub(super) type Field = (Box<str>, Box<[u8]>);

impl<'a> Config<'a> {
    /// The object that a value is, or `None` after a fault.
    pub fn object(value: &'a Value, path: String, faults: &mut Faults) -> Option<Self> {
        let map = expect(value.as_object(), value, &path, "a mapping", faults)?;
        Some(Self { map, path })
    }

    /// Adds a fault for each key but these.
    pub fn only(&self, known: &[&str], faults: &mut Faults) {
        for key in self.map.keys().filter(|key| !known.contains(&key.as_str())) {
            let message = format_args!("unknown key {key:?}");
            let hint = match fault::closest(key, known.iter().copied()) {
                Some(close) => format!("did you mean {close:?}?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            faults.add_with_hint(fault::BAD_PLUGIN_CONFIG, self.path(key), message, hint);
        }
    }

    /// Where a key of it is.
    pub fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    /// The object of a key, or `None` if there is none, or after a fault.
    pub fn child(&self, key: &str, faults: &mut Faults) -> Option<Self> {
        Self::object(self.get(key)?, self.path(key), faults)
    }

    /// The text of a key, or `None` if there is none, or after a fault.
    pub fn text(&self, key: &str, faults: &mut Faults) -> Option<&'a str> {
        let value = self.get(key)?;
        expect(value.as_str(), value, &self.path(key), "a text", faults)
    }

    /// The object of a key as names and values of fields.
    pub fn fields(&self, key: &str, faults: &mut Faults) -> Vec<Field> {
        let Some(child) = self.child(key, faults) else { return Vec::new() };
        child.check_count(child.map.len(), faults);
        let fields = child.map.iter().take(FIELDS_MAX).filter_map(|(name, value)| {
            let path = child.path(name);
            let text = expect(value.as_str(), value, &path, "a text (put quotes around a number)", faults)?;
            let allowed = check_name(name, &path, faults);
            (check_value(text, &path, faults) && allowed).then(|| (name.as_str().into(), text.as_bytes().into()))
        });
        fields.collect()
    }

    /// The list of a key as names of fields.
    pub fn names(&self, key: &str, faults: &mut Faults) -> Vec<Box<str>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let path = self.path(key);
        let Some(list) = expect(value.as_array(), value, &path, "a list", faults) else { return Vec::new() };
        self.check_count(list.len(), faults);
        let names = list.iter().take(FIELDS_MAX).enumerate().filter_map(|(index, value)| {
            let path = format!("{path}[{index}]");
            let name = expect(value.as_str(), value, &path, "a text", faults)?;
            check_name(name, &path, faults).then(|| name.into())
        });
        names.collect()
    }

    fn check_count(&self, count: usize, faults: &mut Faults) {
        if count > FIELDS_MAX {
            let message = format_args!("there are {count} fields; at most {FIELDS_MAX} are allowed");
            faults.add(fault::BAD_PLUGIN_CONFIG, &self.path, message);
        }
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
const OWN_FIELDS: [&str; 16] = [
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

/// Checks the value of a field.
pub(super) fn check_value(value: &str, path: &str, faults: &mut Faults) -> bool {
    let good = is_field_value(value.as_bytes()) && value.len() <= VALUE_BYTES_MAX;
    if !good {
        let message = format_args!(
            "the value has a control character, white space at an end, or more than {VALUE_BYTES_MAX} bytes"
        );
        faults.add(fault::BAD_PLUGIN_CONFIG, path, message);
    }
    good
}
