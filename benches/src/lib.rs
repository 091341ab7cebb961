//! RustyGate benchmarks: criterion benches in `benches/`, load runs in `src/bin/`.

pub mod peers;
pub mod report;
pub mod scale;
pub mod tokens;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// Does the work, unless a signal ends it: dropping it then stops every process that it started.
///
/// # Errors
/// The work's, and which signal it was.
pub async fn until_signal<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("told to stop"),
        _ = hang_up.recv() => bail!("the terminal is gone"),
    }
}
