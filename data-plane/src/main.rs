//! The data plane's process: arguments in, signals heard, everything else in the library.

use anyhow::Context as _;
use clap::Parser;
use rustygate_data_plane::{app, settings::Settings, telemetry::log::Log};
use tokio::signal::unix::{SignalKind, signal};

/// RustyGate's data plane: serves traffic by the configuration that the control plane sends
#[derive(Debug, Parser)]
#[command(name = "rustygate-data-plane", version)]
struct Cli {
    #[command(flatten)]
    settings: Settings,

    /// What is logged: a tracing filter
    #[arg(long, env = "RUSTYGATE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let log = Log::init(&cli.log)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let running = app::start_with_log(cli.settings, Some(&log)).await?;
    tracing::info!(admin = %running.admin, "started");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining");
    running.shutdown().await;
    Ok(())
}
