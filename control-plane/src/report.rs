//! Faults as a person reads them.

use std::fmt::Write as _;

use rustygate_proto::v1 as wire;

/// The report.
#[must_use]
pub fn render(faults: &[wire::Fault], colour: bool) -> String {
    let _ = colour;
    let mut text = String::new();
    for fault in faults {
        let _ = writeln!(text, "error[{}]: {}", fault.code, fault.message);
    }
    text
}
