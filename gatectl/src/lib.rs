//! RustyGate's command line.
//!
//! `cli` is what can be typed, `commands` what each of it does, `client` the way to the control plane with every
//! error turned into what is wrong and what to do next, `output` how things look. Data goes to stdout, messages go to
//! stderr, and the exit code tells scripts what happened ([`Exit`]).

mod cli;
mod client;
mod commands;
mod diff;
#[cfg(test)]
mod docs;
mod expiry;
mod failure;
mod input;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

pub use crate::failure::Exit;
use crate::{cli::Cli, failure::Failure, output::Screen};

/// Threads for everything but the proxy's workers, which are threads of their own.
const RUNTIME_THREADS: usize = 2;

/// Reads the arguments, does what they say, and reports what went wrong.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let screen = Screen::new(cli.global.no_color);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build()
    {
        Ok(runtime) => runtime,
        Err(error) => return report(screen, &Failure::new(format!("cannot start: {error}"))),
    };
    let result = runtime.block_on(commands::run(screen, cli));
    // A read of stdin or a name look-up may still block; nothing is lost with it.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => report(screen, &failure),
    }
}

fn report(screen: Screen, failure: &Failure) -> ExitCode {
    screen.failure(failure);
    failure.exit().into()
}
