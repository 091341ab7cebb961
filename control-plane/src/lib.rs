//! RustyGate's control plane: manifest (YAML) -> validate -> store -> snapshot -> stream.

pub mod manifest;
pub mod report;
