//! `certificates:`

use rustygate_proto::v1 as wire;

use super::{name, outside_text, secret};
use crate::manifest::faults::Faults;
use crate::manifest::node::Node;

pub(super) fn certificate(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Certificate> {
    let fields = faults.fields(node, "a certificate", ["name", "certificate", "key"])?;
    let name = faults.required(&fields, "name").and_then(|node| name(faults, node)).unwrap_or_default();
    let chain = faults.required(&fields, "certificate").and_then(|node| outside_text(faults, node)).unwrap_or_default();
    let key = faults.required(&fields, "key").and_then(|node| secret(faults, node));
    Some(wire::Certificate { name, chain, key })
}
