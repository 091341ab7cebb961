//! The data plane's process: arguments in, everything else in the library.

use std::process::ExitCode;

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
async fn main() -> ExitCode {
    let Cli { settings } = Cli::parse();
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let log = Log::init(&settings.log)?;
    app::run(settings, Some(&log)).await?;
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
