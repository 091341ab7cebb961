//! The rules across objects: does what an input refers to exist, does its result compile. A proxy compiles with the
//! same code, so "valid" means the same everywhere.
//!
//! One report holds every fault of an input: those that parsing found and those that compiling the rest found. What has
//! a fault of its own stands in the compile step as an unreadable resource, so that nothing is blamed for using it.

use bytes::Bytes;
use prost::Message as _;
use rustygate_data_plane::snapshot::{Snapshot, fault};
use rustygate_proto::v1::{self as wire, Kind};

use crate::{
    manifest::{self, Parsed},
    passwords,
};

/// No message has a field 0.
const UNREADABLE: Bytes = Bytes::from_static(&[0]);

/// Documents without a fault.
#[derive(Debug)]
pub struct Valid {
    /// What they hold.
    pub resources: Vec<wire::Resource>,
    /// How a proxy with nothing else would see it.
    pub snapshot: Snapshot,
}

/// Parses and compiles documents as if there were nothing else. `contents` are what their references stand for.
///
/// # Errors
/// Every fault, in the order of the input.
pub fn check(documents: Vec<wire::Document>, contents: Vec<wire::Content>) -> Result<Valid, Vec<wire::Fault>> {
    let mut parsed = manifest::parse_with(documents, contents);
    passwords::stand_in(&mut parsed.resources);
    let mut changes: Vec<wire::Change> = parsed.resources.iter().filter_map(change).collect();
    changes.extend(stand_ins(&parsed.broken));
    let (snapshot, compiled) = match Snapshot::default().compile(1, &changes) {
        Ok(snapshot) => (snapshot, Vec::new()),
        Err(faults) => (Snapshot::default(), faults),
    };
    let faults = merge(&mut parsed, compiled);
    if faults.is_empty() { Ok(Valid { resources: parsed.resources, snapshot }) } else { Err(faults) }
}

/// What the compile step gets for resources that could not be read.
pub fn stand_ins(broken: &[wire::ResourceKey]) -> impl Iterator<Item = wire::Change> {
    broken.iter().map(|key| wire::Change { kind: key.kind, name: key.name.clone(), resource: Some(UNREADABLE) })
}

/// One report of what parsing found and what compiling the rest found, in the order of the input.
pub fn merge(parsed: &mut Parsed, mut compiled: Vec<wire::Fault>) -> Vec<wire::Fault> {
    let broken = |fault: &wire::Fault| parsed.broken.iter().any(|key| key.kind == fault.kind && key.name == fault.name);
    compiled.retain(|fault| !broken(fault) && (parsed.complete || fault.code != fault::DANGLING));
    parsed.locate(&mut compiled);
    let mut faults = std::mem::take(&mut parsed.faults);
    faults.append(&mut compiled);
    faults.sort_by_cached_key(|fault| match &fault.location {
        Some(location) => (parsed.position(&location.file), location.line, location.column),
        // What has no place goes last.
        None => (Some(usize::MAX), 0, 0),
    });
    faults
}

fn change(resource: &wire::Resource) -> Option<wire::Change> {
    let (kind, name): (Kind, &str) = resource.key()?;
    let encoded = resource.encode_to_vec().into();
    Some(wire::Change { kind: kind.into(), name: name.to_owned(), resource: Some(encoded) })
}

#[cfg(test)]
mod tests;
