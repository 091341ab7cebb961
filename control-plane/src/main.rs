//! The control plane's process: arguments in, signals heard, everything else in the library.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use rustygate_control_plane::{app, auth, settings::Settings, telemetry};
use rustygate_proto::v1::Role;
use tokio::signal::unix::{SignalKind, signal};

/// RustyGate's control plane: keeps the configuration and sends it to the proxies
#[derive(Debug, Parser)]
#[command(name = "rustygate-control-plane", version)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tokens, made in the database file without asking a running control plane
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it; it is shown only this once
    Create {
        /// What it may do
        #[arg(long)]
        role: RoleName,
        /// Who it is for; the author of what is done with it
        #[arg(long)]
        name: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    /// May open a snapshot stream, and nothing else
    Proxy,
    /// May read
    Viewer,
    /// May also change the configuration
    Editor,
    /// May also make and revoke tokens
    Admin,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => serve(cli.settings).await,
        Some(Command::Token(TokenCommand::Create { role, name })) => {
            let role = match role {
                RoleName::Proxy => Role::Proxy,
                RoleName::Viewer => Role::Viewer,
                RoleName::Editor => Role::Editor,
                RoleName::Admin => Role::Admin,
            };
            println!("{}", auth::create_offline(&cli.settings.database, &name, role).await?);
            Ok(())
        }
    }
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    telemetry::log_json(&settings.log)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let running = app::start(settings).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    running.shutdown().await;
    Ok(())
}

/// The error and its causes, for whoever starts the program; a backtrace would not be for them. Many an error names its
/// cause itself.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
