//! TLS, all that is decided before a byte moves: certificates as handshakes need them ([`certificate`]), which of them
//! a client gets and on what terms ([`server`]), how endpoints are spoken to ([`client`]), how sessions are taken up
//! again ([`tickets`]), and what an upstream is told of a client's certificate ([`identity`](mod@identity)).
//!
//! Everything here is made when a snapshot is compiled; a connection takes it as it is. The one source of cryptography
//! is *ring*, given to every configuration by hand: the process has no default.

pub mod certificate;
pub mod client;
pub mod identity;
pub mod server;
pub mod session;
pub mod tickets;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use self::{
    certificate::Certificate,
    client::Client,
    identity::identity,
    server::{Accepted, Server},
    tickets::Tickets,
};
use crate::snapshot::Id;

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// 1.2 and 1.3.
    #[default]
    Tls12,
    /// 1.3 alone.
    Tls13,
}

impl MinVersion {
    fn versions(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        match self {
            Self::Tls12 => &BOTH,
            Self::Tls13 => &BOTH[..1],
        }
    }
}

static BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The id of a thing of that kind which is told apart by these parts.
fn digest<'a>(kind: &str, parts: impl IntoIterator<Item = &'a [u8]>) -> Id {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    Id::of(kind, hasher.finalize().to_hex().as_str())
}

#[cfg(test)]
mod tests;
