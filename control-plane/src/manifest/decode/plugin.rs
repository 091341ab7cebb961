//! `plugins:`, whose configuration becomes canonical JSON: keys sorted, no spaces. The table of the type says where secrets
//! are, and texts that may be in files; everything else of the configuration is the data plane's to judge.

use rustygate_data_plane::plugin::{
    SECRET,
    spec::{Key, Kind, Shape},
    spec_of,
};
use rustygate_proto::v1 as wire;

use super::{name, outside_text, secret};
use crate::manifest::faults::{BAD_VALUE, Faults};
use crate::manifest::node::{Node, Scalar, Value};

pub(super) fn plugin(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Plugin> {
    let fields = faults.fields(node, "a plugin", ["name", "type", "enabled", "config"])?;
    let [_, _, enabled, config] = fields.found;
    let plugin_name = faults.required(&fields, "name").and_then(|node| name(faults, node)).unwrap_or_default();
    let plugin_type = faults.required(&fields, "type").and_then(|node| name(faults, node)).unwrap_or_default();
    // That it does what it is there for need not be said.
    let enabled = enabled.and_then(|entry| faults.boolean(&entry.value)).filter(|enabled| !enabled);
    let mut written = Written::default();
    match config.map(|entry| &entry.value) {
        None => written.json.push_str("{}"),
        Some(node @ Node { value: Value::Map(_), .. }) => {
            let keys = spec_of(&plugin_type).map(|spec| spec.keys);
            written.value(faults, node, keys.map_or(Meant::Unknown, Meant::Keys));
        }
        Some(other) => faults.mismatch(other, "a mapping"),
    }
    let Written { json, secrets } = written;
    Some(wire::Plugin { name: plugin_name, r#type: plugin_type, config_json: json, secrets, enabled })
}

/// What a value is meant to be.
#[derive(Clone, Copy)]
enum Meant {
    Unknown,
    /// The configuration itself.
    Keys(&'static [Key]),
    Kind(&'static Kind),
    /// A value of a header.
    FieldValue,
}

impl Meant {
    fn of(kind: Option<&'static Kind>) -> Self {
        kind.map_or(Self::Unknown, Self::Kind)
    }

    fn shaped(self, node: &Node<'_>) -> Self {
        match self {
            Self::Kind(kind) => Self::Kind(kind.of_shape(shape(node))),
            other => other,
        }
    }

    fn under(self, key: &str) -> Self {
        match self {
            Self::Keys(keys) => Self::of(keys.iter().find(|known| known.name == key).map(|key| &key.kind)),
            Self::Kind(Kind::Fields) => Self::FieldValue,
            Self::Kind(kind) => Self::of(kind.under(key)),
            Self::Unknown | Self::FieldValue => Self::Unknown,
        }
    }

    fn item(self) -> Self {
        match self {
            Self::Kind(kind) => Self::of(kind.item()),
            _ => Self::Unknown,
        }
    }

    fn is_secret(self, node: &Node<'_>) -> bool {
        match self {
            Self::Kind(Kind::Secret) => true,
            Self::FieldValue => matches!(node.value, Value::Map(_)),
            _ => false,
        }
    }
}

fn shape(node: &Node<'_>) -> Shape {
    match (&node.value, node.scalar()) {
        (Value::Map(_), _) => Shape::Map,
        (Value::List(_), _) => Shape::List,
        (_, Some(Scalar::Bool(_))) => Shape::Bool,
        (_, Some(Scalar::Integer(_) | Scalar::Float(_))) => Shape::Number,
        (_, Some(Scalar::Text(_))) => Shape::Text,
        (_, Some(Scalar::Null) | None) => Shape::Other,
    }
}

/// The secrets that are written in place in an item of `plugins:`.
pub(in crate::manifest) fn secrets_in_place<'n, 't>(item: &'n Node<'t>) -> Vec<&'n Node<'t>> {
    let mut found = Vec::new();
    let kind = item.entry("type").and_then(|entry| match entry.value.scalar() {
        Some(Scalar::Text(name)) => spec_of(name),
        _ => None,
    });
    if let (Some(spec), Some(config)) = (kind, item.entry("config")) {
        collect(&config.value, Meant::Keys(spec.keys), &mut found);
    }
    found
}

fn collect<'n, 't>(node: &'n Node<'t>, meant: Meant, found: &mut Vec<&'n Node<'t>>) {
    let meant = meant.shaped(node);
    match &node.value {
        Value::Map(entries) if !meant.is_secret(node) => {
            entries.iter().for_each(|entry| collect(&entry.value, meant.under(&entry.key), found));
        }
        Value::List(items) => items.iter().for_each(|item| collect(item, meant.item(), found)),
        _ if meant.is_secret(node) && node.scalar().is_some() => found.push(node),
        _ => {}
    }
}

/// A configuration in the making.
#[derive(Default)]
struct Written {
    json: String,
    secrets: Vec<wire::Secret>,
}

impl Written {
    /// Recurses as deep as the reader let the text nest.
    fn value(&mut self, faults: &mut Faults, node: &Node<'_>, meant: Meant) {
        let meant = meant.shaped(node);
        if meant.is_secret(node) {
            return match secret(faults, node) {
                Some(secret) => {
                    self.json.push_str(&format!("{{\"{SECRET}\":{}}}", self.secrets.len()));
                    self.secrets.push(secret);
                }
                None => self.json.push_str("null"),
            };
        }
        if matches!(meant, Meant::Kind(Kind::Outside)) {
            return match outside_text(faults, node) {
                Some(text) => json_string(&text, &mut self.json),
                None => self.json.push_str("null"),
            };
        }
        match &node.value {
            Value::Map(entries) => {
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_unstable_by(|one, other| one.key.cmp(&other.key));
                self.json.push('{');
                for (index, entry) in sorted.into_iter().enumerate() {
                    if index > 0 {
                        self.json.push(',');
                    }
                    json_string(&entry.key, &mut self.json);
                    self.json.push(':');
                    self.value(faults, &entry.value, meant.under(&entry.key));
                }
                self.json.push('}');
            }
            Value::List(items) => {
                self.json.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.json.push(',');
                    }
                    self.value(faults, item, meant.item());
                }
                self.json.push(']');
            }
            Value::Broken => self.json.push_str("null"),
            Value::Plain(_) | Value::Text(_) => self.scalar(faults, node),
        }
    }

    fn scalar(&mut self, faults: &mut Faults, node: &Node<'_>) {
        match node.scalar() {
            Some(Scalar::Text(text)) => json_string(text, &mut self.json),
            Some(Scalar::Bool(value)) => self.json.push_str(if value { "true" } else { "false" }),
            Some(Scalar::Integer(value)) if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value) => {
                self.json.push_str(&value.to_string());
            }
            Some(Scalar::Float(value)) if value.is_finite() => {
                self.json.push_str(&serde_json::Value::from(value).to_string());
            }
            Some(Scalar::Integer(_) | Scalar::Float(_)) => {
                faults.add(BAD_VALUE, node.span, "this number has no place in JSON", "write it in quotes");
            }
            Some(Scalar::Null) | None => self.json.push_str("null"),
        }
    }
}

fn json_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}
