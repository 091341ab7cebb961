//! Starts both planes with what `dev` was told.

use std::{net::TcpListener, path::Path};

use clap::{Args, Parser};
use rustygate_control_plane as control_plane;
use rustygate_data_plane as data_plane;

use super::DevArgs;
use crate::failure::Failure;

/// Starts it.
pub(super) async fn start_control_plane(
    args: &DevArgs,
    database: &Path,
) -> Result<control_plane::app::Running, Failure> {
    let defaults: control_plane::settings::Settings = defaults()?;
    let settings = control_plane::settings::Settings {
        database: database.to_owned(),
        grpc_listen: args.grpc_listen,
        http_listen: args.http_listen,
        // One process needs no door between its halves.
        tls_cert: None,
        tls_key: None,
        require_tokens: false,
        ..defaults
    };
    control_plane::app::start(settings).await.map_err(|error| {
        let error = anyhow::Error::from(error);
        Failure::new(format!("cannot start the control plane: {error:#}"))
            .with_hint(format!("its database is {}; --database FILE names another", database.display()))
    })
}

/// Starts it.
pub(super) async fn start_proxy(args: &DevArgs, control_plane: String) -> Result<data_plane::app::Running, Failure> {
    let defaults: data_plane::settings::Settings = defaults()?;
    let settings = data_plane::settings::Settings {
        control_plane,
        token_file: None,
        control_plane_ca: None,
        // It lives and dies with its control plane, so it needs no memory of its own.
        data_dir: None,
        node_id: Some("dev".to_owned()),
        listen: args.listen,
        admin_listen: args.admin_listen,
        workers: args.workers,
        access_log: args.access_log.clone(),
        ..defaults
    };
    data_plane::app::start(settings).await.map_err(|error| {
        let error = anyhow::Error::from(error);
        Failure::new(format!("cannot start the proxy: {error:#}"))
    })
}

/// What a plane alone would run with, its environment included.
fn defaults<S: Args>() -> Result<S, Failure> {
    #[derive(Parser)]
    struct Flags<S: Args> {
        #[command(flatten)]
        settings: S,
    }
    let flags = Flags::<S>::try_parse_from(["gatectl dev"]);
    flags.map(|flags| flags.settings).map_err(|error| Failure::new(error.to_string()))
}

/// Says which flag moves a port that is taken, before anything starts.
pub(super) fn ports_are_free(args: &DevArgs) -> Result<(), Failure> {
    let ports = [
        ("--listen", "the proxy", args.listen),
        ("--admin-listen", "the proxy's metrics", args.admin_listen),
        ("--grpc-listen", "the control plane's gRPC", args.grpc_listen),
        ("--http-listen", "the control plane's HTTP", args.http_listen),
    ];
    for (flag, what, address) in ports {
        // Dropped at once. The proxy's own sockets share their port, so they would not notice another owner.
        if let Err(error) = TcpListener::bind(address) {
            return Err(Failure::new(format!("cannot listen on {address} for {what}: {error}")).with_hint(format!(
                "another `gatectl dev` may be running; {flag} HOST:PORT names another address (port 0 takes a free one)"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};

    fn dev(args: &[&str]) -> DevArgs {
        let cli = Cli::try_parse_from([&["gatectl", "dev"], args].concat()).expect("parses");
        let Command::Dev(args) = cli.command else { panic!("dev") };
        args
    }

    #[test]
    fn a_taken_port_names_the_flag_that_moves_it() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = taken.local_addr().expect("address").to_string();
        for flag in ["--listen", "--admin-listen", "--grpc-listen", "--http-listen"] {
            let mut args = vec![];
            for other in ["--listen", "--admin-listen", "--grpc-listen", "--http-listen"] {
                args.extend([other, if other == flag { &address } else { "127.0.0.1:0" }]);
            }
            let Err(Failure::Error { message, hint }) = ports_are_free(&dev(&args)) else { panic!("must be refused") };
            assert!(message.contains(&address), "{message}");
            assert!(hint.contains(&format!("{flag} HOST:PORT")), "{hint}");
        }
    }
}
