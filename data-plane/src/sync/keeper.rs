//! Keeps the last good snapshot on disk: at most one write a second, or fewer if the set is so large that this would be
//! much work; the latest wins, and there is a last write at the end.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{self, Instant},
};

use super::{lock, metrics::Metrics, stopping};
use crate::{disk::Folder, held::Held};

/// The shortest time between two writes.
pub const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The pause after a write is at least so many times as long as the write was: a write is of the whole set, and what the
/// disk lacks meanwhile is only asked of the control plane again.
pub const PAUSE_PER_WRITE: u32 = 10;

/// But no longer than this, however slow the disk is.
pub const PAUSE_MAX: Duration = Duration::from_secs(5);

/// After a failed write, without a change in between.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(30);

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
        loop {
            let told = match failing {
                true => time::timeout(RETRY_INTERVAL, changed.changed()).await.unwrap_or(Ok(())),
                false => changed.changed().await,
            };
            if told.is_err() {
                return;
            }
            let begun = Instant::now();
            failing = !self.write(failing).await;
            let pause = (begun.elapsed() * PAUSE_PER_WRITE).clamp(WRITE_INTERVAL, PAUSE_MAX);
            tokio::select! {
                () = time::sleep(pause) => {}
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prometheus_client::registry::Registry;
    use tokio::{task::JoinHandle, time::sleep};

    use super::*;
    use crate::held::tests::{held, route};

    struct Kept {
        held: Arc<Mutex<Held>>,
        metrics: Metrics,
        changed: watch::Sender<()>,
        /// A keeper whose process is told to stop does not pause between writes.
        _run_on: watch::Sender<bool>,
        task: JoinHandle<()>,
    }

    fn keep(path: &Path) -> Kept {
        let metrics = Metrics::register(&mut Registry::default(), &Arc::default());
        let held = Arc::new(Mutex::new(Held::default()));
        let folder = Arc::new(Mutex::new(Folder::open(path).expect("opens")));
        let keeper = Keeper { folder, held: Arc::clone(&held), metrics: metrics.clone() };
        let (changed, changes) = watch::channel(());
        let (run_on, shutdown) = watch::channel(false);
        let task = tokio::spawn(keeper.run(changes, shutdown));
        Kept { held, metrics, changed, _run_on: run_on, task }
    }

    impl Kept {
        fn change(&self, revision: u64) {
            *lock(&self.held) = held(revision, &[route("a", 1)]);
            self.changed.send_replace(());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_changes_one_a_second_is_written_and_the_last_at_the_end() {
        let dir = tempfile::tempdir().expect("dir");
        let kept = keep(dir.path());
        for revision in 1..=300 {
            kept.change(revision);
            sleep(Duration::from_millis(10)).await;
        }
        let Kept { metrics, changed, task, .. } = kept;
        drop(changed);
        task.await.expect("no panic");
        let writes = metrics.disk_writes.get();
        assert!((3..=5).contains(&writes), "{writes} writes in three seconds");
        let restored = Folder::open(dir.path()).expect("opens").load().expect("is there");
        assert_eq!(restored.held.revision(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_counted_and_tried_again() {
        let outer = tempfile::tempdir().expect("dir");
        let (dir, aside) = (outer.path().join("data"), outer.path().join("aside"));
        let kept = keep(&dir);
        std::fs::rename(&dir, &aside).expect("renames");
        kept.change(1);
        sleep(WRITE_INTERVAL * 2).await;
        assert_eq!((kept.metrics.disk_writes.get(), kept.metrics.disk_failures.get()), (0, 1));
        std::fs::rename(&aside, &dir).expect("renames");
        sleep(RETRY_INTERVAL).await;
        assert_eq!((kept.metrics.disk_writes.get(), kept.metrics.disk_failures.get()), (1, 1));
        drop(kept.changed);
        kept.task.await.expect("no panic");
    }
}
