//! The data plane's process: arguments in, everything else in the library.

use clap::Parser;
use rustygate_data_plane::{app, settings::Settings, telemetry::log::Log};

/// RustyGate's data plane: serves traffic by the configuration that the control plane sends
#[derive(Debug, Parser)]
#[command(name = "rustygate-data-plane", version)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Cli { settings } = Cli::parse();
    let log = Log::init(&settings.log)?;
    app::run(settings, Some(&log)).await?;
    Ok(())
}
