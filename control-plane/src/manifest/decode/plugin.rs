//! `plugins:`, whose configuration becomes canonical JSON: keys sorted, no spaces.

use rustygate_proto::v1 as wire;

use super::name;
use crate::manifest::faults::{BAD_VALUE, Faults};
use crate::manifest::node::{Node, Scalar, Value};

pub(super) fn plugin(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Plugin> {
    let fields = faults.fields(node, "a plugin", ["name", "type", "config"])?;
    let [_, _, config] = fields.found;
    let plugin_name = faults.required(&fields, "name").and_then(|node| name(faults, node)).unwrap_or_default();
    let plugin_type = faults.required(&fields, "type").and_then(|node| name(faults, node)).unwrap_or_default();
    let mut config_json = String::new();
    match config.map(|entry| &entry.value) {
        None => config_json.push_str("{}"),
        Some(node @ Node { value: Value::Map(_), .. }) => json(faults, node, &mut config_json),
        Some(other) => faults.mismatch(other, "a mapping"),
    }
    Some(wire::Plugin { name: plugin_name, r#type: plugin_type, config_json })
}

/// Recurses as deep as the reader let the text nest.
fn json(faults: &mut Faults, node: &Node<'_>, out: &mut String) {
    match &node.value {
        Value::Map(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_unstable_by(|one, other| one.key.cmp(&other.key));
            out.push('{');
            for (index, entry) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json_string(&entry.key, out);
                out.push(':');
                json(faults, &entry.value, out);
            }
            out.push('}');
        }
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json(faults, item, out);
            }
            out.push(']');
        }
        Value::Broken => out.push_str("null"),
        Value::Plain(_) | Value::Text(_) => match node.scalar() {
            Some(Scalar::Text(text)) => json_string(text, out),
            Some(Scalar::Bool(value)) => out.push_str(if value { "true" } else { "false" }),
            Some(Scalar::Integer(value)) if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value) => {
                out.push_str(&value.to_string());
            }
            Some(Scalar::Float(value)) if value.is_finite() => {
                out.push_str(&serde_json::Value::from(value).to_string());
            }
            Some(Scalar::Integer(_) | Scalar::Float(_)) => {
                faults.add(BAD_VALUE, node.span, "this number has no place in JSON", "write it in quotes");
            }
            Some(Scalar::Null) | None => out.push_str("null"),
        },
    }
}

fn json_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}
