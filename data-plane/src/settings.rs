//! Settings of the process: flags and `RUSTYGATE_*` environment; fixed for its life.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::Args;

use crate::{
    forward::TrustedProxies,
    http1::head::{FIELDS_MAX, HEAD_BYTES_MAX},
};

/// Settings of a data plane.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// The control plane's gRPC address
    #[arg(long, env = "RUSTYGATE_CONTROL_PLANE", default_value = "http://127.0.0.1:8082", value_name = "URL")]
    pub control_plane: String,

    /// File with the bearer token that the control plane asks for
    #[arg(long, env = "RUSTYGATE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// File with the CA certificates (PEM) that the control plane's certificate is checked against
    #[arg(long, env = "RUSTYGATE_CONTROL_PLANE_CA", value_name = "FILE")]
    pub control_plane_ca: Option<PathBuf>,

    /// Folder for the last good snapshot; without it a restart needs the control plane
    #[arg(long, env = "RUSTYGATE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// This proxy's name in the fleet, unique and stable [default: hostname and listen port]
    #[arg(long, env = "RUSTYGATE_NODE_ID", value_name = "NAME")]
    pub node_id: Option<String>,

    /// Labels of this proxy: key=value, repeatable
    #[arg(long = "label", env = "RUSTYGATE_LABELS", value_delimiter = ',', value_parser = parse_label, value_name = "KEY=VALUE")]
    pub labels: Vec<(String, String)>,

    /// Where to accept clients when the configuration has no listeners
    #[arg(long, env = "RUSTYGATE_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// Where to serve /metrics, /healthz and /readyz
    #[arg(long, env = "RUSTYGATE_ADMIN_LISTEN", default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// Worker threads [default: one per core]
    #[arg(long, env = "RUSTYGATE_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// Proxies in front of this one whose X-Forwarded-* and Forwarded are believed: CIDR blocks
    #[arg(long, env = "RUSTYGATE_TRUSTED_PROXIES", value_delimiter = ',', value_parser = TrustedProxies::parse_one, value_name = "CIDR")]
    pub trusted_proxies: Vec<(IpAddr, u8)>,

    /// Whether responses carry X-RustyGate-Backend and X-RustyGate-Duration-ms
    #[arg(long, env = "RUSTYGATE_DEBUG_HEADERS", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub debug_headers: bool,

    /// Where the access log goes: "stdout", "off" or a file
    #[arg(long, env = "RUSTYGATE_ACCESS_LOG", default_value = "stdout", value_name = "WHERE")]
    pub access_log: AccessLogTarget,

    /// The most client connections at once; more are answered with 503
    #[arg(long, env = "RUSTYGATE_MAX_CONNECTIONS", default_value_t = 20_000, value_name = "N")]
    pub max_connections: u64,

    /// The most client connections at once from one address (IPv6: from one /64), trusted proxies excepted; more are
    /// answered with 429; 0 means no bound
    #[arg(long, env = "RUSTYGATE_MAX_CONNECTIONS_PER_IP", default_value_t = 16_000, value_name = "N")]
    pub max_connections_per_ip: u32,

    /// The most bytes of a request's head; more are answered with 431
    #[arg(long, env = "RUSTYGATE_MAX_HEAD_BYTES", default_value_t = HEAD_BYTES_MAX as u64, value_parser = clap::value_parser!(u64).range(256..=HEAD_BYTES_MAX as u64), value_name = "BYTES")]
    pub max_head_bytes: u64,

    /// The most field lines of a request's head; more are answered with 431
    #[arg(long, env = "RUSTYGATE_MAX_HEAD_FIELDS", default_value_t = FIELDS_MAX as u64, value_parser = clap::value_parser!(u64).range(1..=FIELDS_MAX as u64), value_name = "N")]
    pub max_head_fields: u64,

    /// The most bytes of a request's body; more are answered with 413
    #[arg(long, env = "RUSTYGATE_MAX_BODY_BYTES", default_value_t = 10 << 30, value_name = "BYTES")]
    pub max_body_bytes: u64,

    /// The most seconds from the first byte of a request's head to its last
    #[arg(long, env = "RUSTYGATE_HEAD_TIMEOUT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub head_timeout: u64,

    /// The most seconds that a TLS handshake may take
    #[arg(long, env = "RUSTYGATE_TLS_HANDSHAKE_TIMEOUT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub tls_handshake_timeout: u64,

    /// Seconds that a client may send nothing more of a request's body
    #[arg(long, env = "RUSTYGATE_BODY_TIMEOUT", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub body_timeout: u64,

    /// The least bytes of a request's body for each second that the gateway waits for them: a client that has made it wait
    /// for --body-timeout in all, less a second for each so many bytes, is answered with 408; 0 means no such bound; calls of
    /// gRPC have none
    #[arg(long, env = "RUSTYGATE_MIN_BODY_RATE", default_value_t = 100, value_name = "BYTES")]
    pub min_body_rate: u32,

    /// Seconds that a client may take nothing of an answer that is there for it
    #[arg(long, env = "RUSTYGATE_WRITE_TIMEOUT", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub write_timeout: u64,

    /// The least bytes of an answer that a client takes for each second that the gateway waits for it: one that has made it
    /// wait for --write-timeout in all, less a second for each so many bytes, is cut off; 0 means no such bound
    #[arg(long, env = "RUSTYGATE_MIN_WRITE_RATE", default_value_t = 100, value_name = "BYTES")]
    pub min_write_rate: u32,

    /// Seconds that a client's connection may lie idle between requests
    #[arg(long, env = "RUSTYGATE_KEEP_ALIVE_TIMEOUT", default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub keep_alive_timeout: u64,

    /// The most requests of a client's connection; 0 means no bound
    #[arg(long, env = "RUSTYGATE_MAX_REQUESTS_PER_CONNECTION", default_value_t = 0, value_name = "N")]
    pub max_requests_per_connection: u64,

    /// Seconds after which a client's connection ends with its next request, less up to a tenth by chance; 0 means no bound
    #[arg(long, env = "RUSTYGATE_MAX_CONNECTION_AGE", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=31_536_000), value_name = "SECONDS")]
    pub max_connection_age: u64,

    /// A DNS server to ask for the names of endpoints, with a port if it is not 53; repeatable [default: those of
    /// /etc/resolv.conf]
    #[arg(long = "dns-server", env = "RUSTYGATE_DNS_SERVERS", value_delimiter = ',', value_parser = parse_dns_server, value_name = "ADDRESS")]
    pub dns_servers: Vec<SocketAddr>,

    /// On shutdown, seconds between "not ready" and the end of accepting, for a load balancer to notice
    #[arg(long, env = "RUSTYGATE_DRAIN_DELAY", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=86_400), value_name = "SECONDS")]
    pub drain_delay: u64,

    /// On shutdown, the most seconds that connections may take to end
    #[arg(long, env = "RUSTYGATE_DRAIN_TIMEOUT", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400), value_name = "SECONDS")]
    pub drain_timeout: u64,

    /// What is logged: a tracing filter
    #[arg(long, env = "RUSTYGATE_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Nowhere.
    Off,
    /// To the standard output.
    Stdout,
    /// To the end of a file.
    File(PathBuf),
}

impl FromStr for AccessLogTarget {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            file => Self::File(file.into()),
        })
    }
}

impl Settings {
    /// The labels as a map; the last of a repeated key wins.
    #[must_use]
    pub fn label_map(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }
}

fn parse_dns_server(text: &str) -> Result<SocketAddr, String> {
    const PORT: u16 = 53;
    let address = text.trim_start_matches('[').trim_end_matches(']').parse().map(|ip| SocketAddr::new(ip, PORT));
    address
        .or_else(|_| text.parse())
        .map_err(|_| format!("{text:?} is not IP or IP:PORT; a name would need another server"))
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    if key.is_empty() {
        return Err(format!("{text:?} has no key"));
    }
    Ok((key.to_owned(), value.to_owned()))
}
