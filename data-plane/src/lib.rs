//! RustyGate's data plane: a stateless proxy that serves traffic from the snapshots it is sent.
//!
//! Request path: `listener` -> `proxy` -> `route` -> `plugin` (request) -> `upstream` -> `plugin` (response) ->
//! `telemetry::access_log`. Configuration path: `sync` -> `snapshot::compile` -> `publish` -> ACK.

pub mod app;
pub mod canonical;
pub mod fields;
pub mod plugin;
pub mod publish;
pub mod route;
pub mod settings;
pub mod snapshot;
pub mod sync;
