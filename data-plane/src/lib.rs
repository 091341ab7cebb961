//! RustyGate's data plane: a stateless proxy that serves traffic from the snapshots it is sent.
//!
//! Request path: `listener` -> `client` -> `proxy` -> `route` -> `plugin` (request) -> `upstream` -> `plugin` (response)
//! -> `telemetry::access_log`. Configuration path: `sync` -> `snapshot::compile` -> `publish` -> ACK.

pub mod admin;
pub mod app;
mod body;
pub mod canonical;
mod client;
pub mod consumer;
mod crew;
mod date;
pub mod disk;
pub mod duration;
mod encoding;
pub mod error;
pub mod fields;
mod forward;
pub mod grpc;
mod health;
pub mod held;
pub mod http1;
mod http2;
pub mod limit;
mod listener;
mod live;
pub mod plugin;
mod proxy;
pub mod publish;
mod resolve;
pub mod route;
pub mod settings;
pub mod snapshot;
mod spare;
mod stream;
mod subrequest;
pub mod sync;
mod target;
pub mod telemetry;
mod threads;
mod timer;
pub mod tls;
mod upstream;
mod websocket;
mod worker;
