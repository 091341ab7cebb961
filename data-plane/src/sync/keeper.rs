//! Keeps the last good snapshot on disk: at most one write a second, the latest wins, and a last one at the end.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking, time};

use super::{lock, metrics::Metrics, stopping};
use crate::{disk::Folder, held::Held};

/// The shortest time between two writes.
pub const WRITE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) folder: Arc<Mutex<Folder>>,
    pub(crate) held: Arc<Mutex<Held>>,
    pub(crate) metrics: Metrics,
}

impl Keeper {
    /// Writes until the sender of `changed` is gone and what it told of last is written.
    pub(crate) async fn run(self, mut changed: watch::Receiver<()>, mut shutdown: watch::Receiver<bool>) {
        let mut failing = false;
        while changed.changed().await.is_ok() {
            failing = !self.write(failing).await;
            tokio::select! {
                () = time::sleep(WRITE_INTERVAL) => {}
                () = stopping(&mut shutdown) => {}
            }
        }
    }

    /// Whether the write worked. Failures in a row are logged once.
    async fn write(&self, failing: bool) -> bool {
        let (folder, held) = (Arc::clone(&self.folder), Arc::clone(&self.held));
        let written = spawn_blocking(move || {
            let image = lock(&held).image();
            lock(&folder).write(&image).map_err(|error| error.to_string())
        });
        match written.await.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(()) => {
                self.metrics.disk_writes.inc();
                if failing {
                    tracing::info!("the snapshot is kept on disk again");
                }
                true
            }
            Err(error) => {
                self.metrics.disk_failures.inc();
                if !failing {
                    tracing::error!(%error, "cannot keep the snapshot on disk; a restart would serve an older one");
                }
                false
            }
        }
    }
}
