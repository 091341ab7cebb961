//! `validate`: files against the rules, without a control plane. A proxy compiles what it is sent with the same code.

use prost::Message as _;
use rustygate_control_plane::manifest;
use rustygate_data_plane::snapshot::Snapshot;
use rustygate_proto::v1::{self as wire, Kind};

use crate::{
    cli::{TextFormat, ValidateArgs},
    failure::{Exit, Failure},
    input,
    output::{Screen, count, faults_json},
};

/// Files that have no fault.
#[derive(Debug)]
pub(crate) struct Valid {
    /// What they hold.
    pub(crate) resources: Vec<wire::Resource>,
    /// How a proxy with nothing else would see it.
    pub(crate) snapshot: Snapshot,
}

/// Shows every fault, or how much of what there is.
pub(crate) fn run(screen: Screen, args: &ValidateArgs) -> Result<Exit, Failure> {
    let result = check(&input::read(&args.files.paths)?);
    if args.output == TextFormat::Json {
        let faults = result.as_ref().err().map_or(&[][..], Vec::as_slice);
        screen.json(&serde_json::json!({"valid": result.is_ok(), "faults": faults_json(faults)}))?;
    }
    let valid = result.map_err(|faults| refuse(screen, &faults))?;
    if args.output == TextFormat::Text {
        screen.data(&format!("valid: {}\n", contents(&valid.resources)))?;
    }
    Ok(Exit::Success)
}

/// Parses and compiles documents as if there were nothing else.
pub(crate) fn check(documents: &[wire::Document]) -> Result<Valid, Vec<wire::Fault>> {
    let parsed = manifest::parse(documents)?;
    let changes: Vec<wire::Change> = parsed.resources.iter().filter_map(change).collect();
    match Snapshot::default().compile(1, &changes) {
        Ok(snapshot) => Ok(Valid { resources: parsed.resources, snapshot }),
        Err(mut faults) => {
            for fault in &mut faults {
                parsed.locate(fault);
            }
            Err(faults)
        }
    }
}

/// Shows faults.
pub(crate) fn refuse(screen: Screen, faults: &[wire::Fault]) -> Failure {
    screen.faults(faults);
    Failure::Told
}

fn change(resource: &wire::Resource) -> Option<wire::Change> {
    let (kind, name) = resource.key()?;
    let encoded = resource.encode_to_vec().into();
    Some(wire::Change { kind: kind.into(), name: name.to_owned(), resource: Some(encoded) })
}

/// "2 routes, 1 backend".
pub(crate) fn contents(resources: &[wire::Resource]) -> String {
    let of = |kind| resources.iter().filter(|resource| resource.key().is_some_and(|key| key.0 == kind)).count();
    let parts: Vec<String> = [Kind::Listener, Kind::Backend, Kind::Plugin, Kind::Route]
        .into_iter()
        .filter(|kind| of(*kind) > 0)
        .map(|kind| count(of(kind), kind.noun()))
        .collect();
    if parts.is_empty() { "nothing in it".to_owned() } else { parts.join(", ") }
}
