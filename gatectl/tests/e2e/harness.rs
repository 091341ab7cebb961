//! A whole gateway for a test: one control plane with a temporary SQLite file, any number of proxies, each plane in a
//! thread with a runtime of its own, every port a free one.
//!
//! ```ignore
//! with_gateway(MANIFEST, async |gateway| {
//!     let mut client = Client::connect(gateway.proxy_addr()).await;
//!     assert_eq!(client.get("/api/users").await.status, 200);
//! })
//! .await;
//! ```
//!
//! [`Witness`] is an upstream that remembers every byte, [`Client`] a client that shows every byte.

#![allow(dead_code, unused_imports, reason = "a harness offers more than the tests of the day need")]

mod child;
mod dns;
mod gateway;
mod http;
mod http2;
mod plane;
mod process;
mod tls;
mod wire;
mod witness;

use std::time::Duration;

pub use self::{
    child::{Child, free_port},
    dns::{Dns, Query, Say},
    gateway::{Bearer, Builder, Gateway, hits},
    http::{AGREES, Client, HANDSHAKE, Head, Response, dechunk, header, raw},
    http2::{Answer, Asked, Http2, Peer, answered, body_of, pour, reply},
    process::{Dev, Output, Process, files_with, gatectl, gatectl_with_env, masked},
    tls::{Authority, Pair, Tls},
    wire::{End, Upstream, Wire},
    witness::{Reply, Seen, Witness, answer},
};

/// For anything that should happen at once: no test waits longer for something that never will.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a test with one proxy that serves the manifest.
pub async fn with_gateway(manifest: &str, test: impl AsyncFnOnce(&mut Gateway)) {
    let mut gateway = Gateway::builder().manifest(manifest).start().await;
    test(&mut gateway).await;
    gateway.shutdown().await;
}

/// A manifest with one backend, which speaks that protocol, for everything.
pub fn backend_for_all(protocol: &str, url: &str, timeouts: &str) -> String {
    format!(
        "backends: [{{name: service, protocol: {protocol}, endpoints: [\"{url}\"]}}]\n\
         routes: [{{name: all, path: /, backend: service, timeouts: {timeouts}}}]\n"
    )
}

/// The future's output; a panic that says what did not happen if it takes too long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing after {DEADLINE:?}"),
    }
}
