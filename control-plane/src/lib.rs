//! RustyGate's control plane: manifest (YAML) -> validate -> store -> snapshot -> stream.

pub mod app;
pub mod auth;
pub mod manifest;
pub mod report;
pub mod settings;
