//! RustyGate's control plane: YAML in, versioned snapshots out.
//!
//! The path of a change, in module names: `api` (transport) -> [`manifest`] (YAML -> resources) -> [`validate`]
//! (rules across objects) -> [`apply`] (merge, prove, commit) -> [`store`] (the only SQL) -> [`publish`] (the present head) -> [`snapshot`] (frames and checksum)
//! -> [`discovery`] (one stream per proxy), with [`fleet`] knowing who serves what. [`app`] wires it; [`auth`] keeps
//! the door.

pub mod api;
pub mod app;
pub mod apply;
pub mod auth;
pub mod codes;
pub mod discovery;
pub mod fleet;
pub mod manifest;
pub mod passwords;
pub mod publish;
pub mod report;
pub mod secrets;
pub mod settings;
pub mod snapshot;
pub mod store;
pub mod telemetry;
pub mod validate;
