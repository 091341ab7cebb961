//! The data plane's process: arguments in, everything else in the library.

use clap::Parser;
use rustygate_data_plane::{app, settings::Settings, telemetry::log::Log};

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
    app::run(cli.settings, Some(&log)).await?;
    Ok(())
}
