//! What each command does, one file each; this one hands out the work.

mod apply;
mod change;
pub(crate) mod dev;
mod explain;
mod get;
mod history;
mod status;
mod token;
mod validate;
mod version;

use std::fs;

use clap::CommandFactory as _;

use crate::{
    cli::{Cli, Command, Global},
    client::{Client, Connection},
    failure::{Exit, Failure},
    output::Screen,
};

/// Runs a command to its end.
pub(crate) async fn run(screen: Screen, cli: Cli) -> Result<Exit, Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Apply(args) => apply::apply(screen, &connect(screen, global).await?, args).await,
        Command::Diff(args) => apply::diff(screen, &connect(screen, global).await?, args).await,
        Command::Delete(args) => apply::delete(screen, &connect(screen, global).await?, args).await,
        Command::Rollback(args) => apply::rollback(screen, &connect(screen, global).await?, args).await,
        Command::Validate(args) => validate::run(screen, &args),
        Command::Get(args) => get::run(screen, &connect(screen, global).await?, args).await,
        Command::History(args) => history::history(screen, &connect(screen, global).await?, &args).await,
        Command::Watch(args) => history::watch(screen, &connect(screen, global).await?, &args).await,
        Command::Status(args) => status::run(screen, &connect(screen, global).await?, &args).await,
        Command::Explain(args) if args.paths.is_empty() => {
            explain::ask(screen, &connect(screen, global).await?, args).await
        }
        Command::Explain(args) => explain::offline(screen, &args),
        Command::Token { command } => token::run(screen, &connect(screen, global).await?, command).await,
        Command::Dev(args) => dev::run(screen, args).await,
        Command::Version => version::run(screen, &global.control_plane, connect(screen, global)).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "gatectl", &mut script);
            screen.data(&String::from_utf8_lossy(&script)).map(|()| Exit::Success)
        }
    }
}

async fn connect(screen: Screen, global: &Global) -> Result<Client, Failure> {
    let connection = Connection { url: global.control_plane.clone(), token: token(global)?, ca: global.ca.clone() };
    if connection.token.is_some() && goes_in_the_clear(&connection.url) {
        screen.warn("the token travels without TLS; whoever can read the network can use it");
    }
    Client::connect(&connection).await
}

/// A file named by hand goes before the variable.
fn token(global: &Global) -> Result<Option<String>, Failure> {
    let Some(file) = &global.token_file else {
        return Ok(std::env::var("RUSTYGATE_TOKEN").ok().filter(|token| !token.is_empty()));
    };
    let token = fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("cannot read the token file {}: {error}", file.display())))?;
    match token.trim() {
        "" => Err(Failure::new(format!("the token file {} is empty", file.display()))),
        token => Ok(Some(token.to_owned())),
    }
}

pub(crate) fn goes_in_the_clear(url: &str) -> bool {
    let Some(authority) = url.strip_prefix("http://") else { return false };
    let host = authority.split('/').next().unwrap_or_default();
    !(host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_clear_is_told_beyond_loopback() {
        for safe in ["https://gate.example.com", "http://127.0.0.1:8082", "http://localhost:8082", "http://[::1]:8082"]
        {
            assert!(!goes_in_the_clear(safe), "{safe}");
        }
        assert!(goes_in_the_clear("http://10.0.0.1:8082"));
    }
}
