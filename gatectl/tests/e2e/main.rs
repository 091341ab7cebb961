//! End to end: the real planes and the real `gatectl`, over real sockets, with a real SQLite file.
//!
//! One binary, because it is linked once. Each file is about one thing that a user does; [`harness`] starts the gateway
//! that they do it with.

mod answers;
mod apply;
mod balancing;
mod certificates;
mod compress;
mod connections;
mod consumers;
mod dev;
mod discovery;
mod docs;
mod drain;
mod early_answers;
mod events;
mod examples;
mod forward_auth;
mod forwarding;
mod grpc;
mod harness;
mod health;
mod hostile_yaml;
mod http1;
mod http2;
mod inspect;
mod invariants;
mod jwt;
mod limits;
mod listeners;
mod mirror;
mod plugins;
mod quick_start;
mod rate_limit;
mod refusals;
mod resilience;
mod restart;
mod retries;
mod streams;
mod telemetry;
mod threats_framing;
mod threats_http2;
mod threats_routes;
mod threats_rows;
mod threats_tls;
mod tls;
mod torture;
mod wait;
mod websockets;
