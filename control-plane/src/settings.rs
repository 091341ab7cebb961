//! Settings of the process: flags and `RUSTYGATE_*` environment; fixed for its life.

use std::{net::SocketAddr, path::PathBuf};

/// Settings of a control plane.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// The SQLite file
    #[arg(long, default_value = "rustygate.db")]
    pub database: PathBuf,
    /// Where to serve gRPC
    #[arg(long, default_value = "127.0.0.1:8082")]
    pub grpc_listen: SocketAddr,
    /// Where to serve HTTP
    #[arg(long, default_value = "127.0.0.1:8083")]
    pub http_listen: SocketAddr,
    /// Certificate
    #[arg(long)]
    pub tls_cert: Option<PathBuf>,
    /// Key
    #[arg(long)]
    pub tls_key: Option<PathBuf>,
    /// Tokens even on loopback
    #[arg(long)]
    pub require_tokens: bool,
    /// No TLS and no tokens beyond loopback
    #[arg(long)]
    pub insecure: bool,
}
