//! The control plane from outside: real SQLite files, real gRPC, fake proxies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod crash;
mod doors;
mod harness;
mod lifecycle;
mod stream;
