//! Settings of the process: flags and `RUSTYGATE_*` environment; fixed for its life.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, builder::BoolishValueParser};

use crate::secrets::{KeyText, Source};

/// Settings of a control plane.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// The SQLite file that keeps the configuration and its history
    #[arg(long, env = "RUSTYGATE_DATABASE", default_value = "rustygate.db", value_name = "FILE", global = true)]
    pub database: PathBuf,

    /// Where to serve gRPC, to proxies and to gatectl
    #[arg(long, env = "RUSTYGATE_GRPC_LISTEN", default_value = "127.0.0.1:8082", value_name = "ADDRESS")]
    pub grpc_listen: SocketAddr,

    /// Where to serve /metrics and /healthz
    #[arg(long, env = "RUSTYGATE_HTTP_LISTEN", default_value = "127.0.0.1:8083", value_name = "ADDRESS")]
    pub http_listen: SocketAddr,

    /// File with the gRPC port's certificate chain (PEM)
    #[arg(long, env = "RUSTYGATE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// File with the private key of that certificate (PEM)
    #[arg(long, env = "RUSTYGATE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Refuse every gRPC call without a valid token
    #[arg(long, env = "RUSTYGATE_REQUIRE_TOKENS", value_parser = BoolishValueParser::new())]
    pub require_tokens: bool,

    /// Serve gRPC beyond loopback even without TLS or tokens: anyone who reaches the port owns the gateway
    #[arg(long, env = "RUSTYGATE_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// File with the key that secrets are sealed with in the database: 32 bytes, as hex or base64 [default on loopback:
    /// one that is made, beside the database, named like it with ".key"]
    #[arg(long, env = "RUSTYGATE_SECRETS_KEY_FILE", value_name = "FILE", conflicts_with = "secrets_key")]
    pub secrets_key_file: Option<PathBuf>,

    /// The key itself; as a flag it is seen in the list of processes, so use the variable
    #[arg(long, env = "RUSTYGATE_SECRETS_KEY", hide_env_values = true, value_name = "KEY")]
    pub secrets_key: Option<KeyText>,

    /// How many revisions are kept
    #[arg(
        long,
        env = "RUSTYGATE_HISTORY_REVISIONS",
        default_value_t = 1_000,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub history_revisions: u64,

    /// How many proxies may be connected at once
    #[arg(long, env = "RUSTYGATE_PROXIES_MAX", default_value_t = 10_000, value_name = "N")]
    pub proxies_max: usize,

    /// What is logged: a tracing filter
    #[arg(long, env = "RUSTYGATE_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Why a control plane with these settings is not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--grpc-listen {address} is reachable from other machines, and {missing}: whoever reaches it could read and change \
     the gateway. Give --tls-cert and --tls-key and --require-tokens (make the first token with `rustygate-control-plane \
     token create --role admin --name NAME`), or listen on 127.0.0.1, or accept the risk with --insecure"
)]
pub struct OpenDoor {
    address: SocketAddr,
    missing: &'static str,
}

impl Settings {
    /// Where the secrets key is. One that nobody asked for is made only where the control plane is for this machine alone:
    /// elsewhere it must not be lost, nor lie beside what it protects.
    #[must_use]
    pub fn secrets_key_source(&self) -> Source {
        match (&self.secrets_key, &self.secrets_key_file) {
            (Some(text), _) => Source::Text(text.clone()),
            (None, Some(file)) => Source::File(file.clone()),
            (None, None) if self.grpc_listen.ip().to_canonical().is_loopback() => {
                let mut path = self.database.clone().into_os_string();
                path.push(".key");
                Source::Own(path.into())
            }
            (None, None) => Source::None,
        }
    }

    /// Refuses to stand open to the world by accident.
    ///
    /// # Errors
    /// [`OpenDoor`], which says what to do.
    pub fn check_doors(&self) -> Result<(), OpenDoor> {
        let missing = match (self.tls_cert.is_some() && self.tls_key.is_some(), self.require_tokens) {
            (true, true) => return Ok(()),
            (false, true) => "tokens would cross the network in the clear, for want of TLS",
            (true, false) => "no tokens are required",
            (false, false) => "it has neither TLS nor tokens",
        };
        if self.insecure || self.grpc_listen.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(OpenDoor { address: self.grpc_listen, missing })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(args: &[&str]) -> Settings {
        Cli::try_parse_from([&["x"], args].concat()).expect("valid arguments").settings
    }

    #[test]
    fn by_default_everything_is_on_loopback_and_needs_nothing() {
        let settings = settings(&[]);
        assert!(settings.grpc_listen.ip().is_loopback() && settings.http_listen.ip().is_loopback());
        assert_eq!(settings.check_doors(), Ok(()));
    }

    #[test]
    fn beyond_loopback_both_tls_and_tokens_are_wanted() {
        let tls = ["--tls-cert", "c", "--tls-key", "k"];
        for address in ["0.0.0.0:8082", "[::]:8082", "192.0.2.1:8082", "[::ffff:192.0.2.1]:8082"] {
            let listen = ["--grpc-listen", address];
            for refused in [&listen[..], &[&listen[..], &tls].concat(), &[&listen[..], &["--require-tokens"]].concat()]
            {
                let error = settings(refused).check_doors().expect_err("an open door").to_string();
                assert!(error.contains("--insecure") && error.contains(address), "{error}");
            }
            assert_eq!(settings(&[&listen[..], &tls, &["--require-tokens"]].concat()).check_doors(), Ok(()));
            assert_eq!(settings(&[&listen[..], &["--insecure"]].concat()).check_doors(), Ok(()));
        }
        assert_eq!(settings(&["--grpc-listen", "[::ffff:127.0.0.1]:1"]).check_doors(), Ok(()));
    }

    #[test]
    fn a_secrets_key_is_made_on_loopback_alone() {
        let source = |args: &[&str]| settings(args).secrets_key_source();
        assert_eq!(source(&["--database", "a/b.db"]), Source::Own("a/b.db.key".into()));
        assert_eq!(source(&["--grpc-listen", "0.0.0.0:8082"]), Source::None);
        assert_eq!(source(&["--secrets-key-file", "f"]), Source::File("f".into()));
        assert!(matches!(source(&["--secrets-key", "k"]), Source::Text(_)));
        assert!(Cli::try_parse_from(["x", "--secrets-key", "k", "--secrets-key-file", "f"]).is_err());
    }

    #[test]
    fn a_certificate_without_its_key_is_an_error() {
        assert!(Cli::try_parse_from(["x", "--tls-cert", "c"]).is_err());
        assert!(Cli::try_parse_from(["x", "--history-revisions", "0"]).is_err());
    }
}
