//! `validate`: files against the rules, without a control plane. A proxy compiles what it is sent with the same code.

use rustygate_control_plane::validate;
use rustygate_proto::v1::{self as wire, Kind};

use crate::{
    cli::{TextFormat, ValidateArgs},
    expiry,
    failure::{Exit, Failure},
    input,
    output::{Screen, count, faults_json, unix_ms_now},
};

/// Shows every fault, or how much of what there is.
pub(crate) fn run(screen: Screen, args: &ValidateArgs) -> Result<Exit, Failure> {
    let documents = input::read(&args.files.paths)?;
    let references = input::contents(&documents);
    let result = validate::check(documents, references);
    if args.output == TextFormat::Json {
        let faults = result.as_ref().err().map_or(&[][..], Vec::as_slice);
        screen.json(&serde_json::json!({"valid": result.is_ok(), "faults": faults_json(faults)}))?;
    }
    let valid = result.map_err(|faults| refuse(screen, &faults))?;
    for warning in expiry::warnings(valid.resources.iter(), unix_ms_now()) {
        screen.warn(&warning);
    }
    if args.output == TextFormat::Text {
        screen.data(&format!("valid: {}\n", contents(&valid.resources)))?;
    }
    Ok(Exit::Success)
}

/// Shows faults.
pub(crate) fn refuse(screen: Screen, faults: &[wire::Fault]) -> Failure {
    screen.faults(faults);
    Failure::Told
}

/// "2 routes, 1 backend".
pub(crate) fn contents(resources: &[wire::Resource]) -> String {
    let of = |kind| resources.iter().filter(|resource| resource.key().is_some_and(|key| key.0 == kind)).count();
    let mut parts: Vec<String> =
        [Kind::Certificate, Kind::Listener, Kind::Backend, Kind::Consumer, Kind::Plugin, Kind::Route]
            .into_iter()
            .filter(|kind| of(*kind) > 0)
            .map(|kind| count(of(kind), kind.noun()))
            .collect();
    if of(Kind::Defaults) > 0 {
        parts.push("defaults".to_owned());
    }
    if parts.is_empty() { "nothing in it".to_owned() } else { parts.join(", ") }
}
