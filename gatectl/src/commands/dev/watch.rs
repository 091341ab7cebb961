//! Tells when watched files were saved.
//!
//! Folders are watched, not files: many editors write a new file and rename it over the old one, and a watch on the
//! old one would then see nothing ever again.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{sync::mpsc, time::timeout};

use crate::{failure::Failure, input};

/// A save is several events; it is over when none came for this long.
const QUIET_TIME: Duration = Duration::from_millis(50);

/// A file that never rests is looked at this often.
const NOISY_TIME_MAX: Duration = Duration::from_millis(500);

/// A running watch.
#[derive(Debug)]
pub(super) struct Saves {
    /// One place: that something happened is all that counts.
    bell: mpsc::Receiver<()>,
    paths: Vec<PathBuf>,
    _watcher: RecommendedWatcher,
}

impl Saves {
    /// Watches files and the YAML files of folders. A folder that is not there is not watched. The first save comes by
    /// itself: what was saved since the files were read and before they were watched shows in no event.
    pub(super) fn of(paths: &[PathBuf]) -> Result<Self, Failure> {
        let watched = Watched::of(paths);
        let folders = watched.folders();
        let (ring, bell) = mpsc::channel(1);
        let _ = ring.try_send(());
        let cannot = |error: notify::Error| Failure::new(format!("cannot watch for saves: {error}"));
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error says that events may be lost, so look.
            if event.map_or(true, |event| watched.concerns(&event)) {
                let _ = ring.try_send(());
            }
        })
        .map_err(cannot)?;
        for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
            watcher.watch(&folder, RecursiveMode::NonRecursive).map_err(cannot)?;
        }
        Ok(Self { bell, paths: paths.to_vec(), _watcher: watcher })
    }

    /// Watches these instead, if they are others.
    pub(super) fn watch(&mut self, paths: &[PathBuf]) -> Result<(), Failure> {
        if self.paths != paths {
            *self = Self::of(paths)?;
        }
        Ok(())
    }

    /// Returns when something was saved, or may have been, and the files have come to rest.
    pub(super) async fn next(&mut self) {
        if self.bell.recv().await.is_none() {
            // The watcher lives as long as this, so its end never rings.
            std::future::pending::<()>().await;
        }
        let _ =
            timeout(NOISY_TIME_MAX, async { while let Ok(Some(())) = timeout(QUIET_TIME, self.bell.recv()).await {} })
                .await;
    }
}

/// Which files count.
#[derive(Debug)]
struct Watched {
    files: BTreeSet<(PathBuf, OsString)>,
    folders: BTreeSet<PathBuf>,
}

impl Watched {
    fn of(paths: &[PathBuf]) -> Self {
        let mut watched = Self { files: BTreeSet::new(), folders: BTreeSet::new() };
        for path in paths {
            match path.file_name() {
                Some(name) if !path.is_dir() => {
                    let folder =
                        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                    watched.files.insert((canonical(folder), name.to_owned()));
                }
                _ => {
                    watched.folders.insert(canonical(path));
                }
            }
        }
        watched
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        self.files.iter().map(|(folder, _)| folder).chain(&self.folders).cloned().collect()
    }

    /// Whether an event may have changed what the files hold. Our own reading is an event too, which does not.
    fn concerns(&self, event: &Event) -> bool {
        let read_only = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => true,
            _ => false,
        };
        !read_only && (event.paths.is_empty() || event.paths.iter().any(|path| self.has(path)))
    }

    fn has(&self, path: &Path) -> bool {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return false };
        self.files.contains(&(folder.to_owned(), name.to_owned()))
            || (self.folders.contains(folder) && input::is_yaml(path))
    }
}

fn canonical(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_write_a_rename_and_a_second_rename_are_each_a_save() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("gate.yaml");
        fs::write(&file, "a").expect("writes");
        let mut saves = Saves::of(std::slice::from_ref(&file)).expect("watches");
        timeout(LONG, saves.next()).await.expect("what was saved before may not have been read");
        assert!(timeout(QUIET_TIME, saves.next()).await.is_err(), "nothing was saved since");
        fs::write(&file, "b").expect("writes");
        timeout(LONG, saves.next()).await.expect("a write is seen");
        for text in ["c", "d"] {
            let new = folder.path().join(".gate.yaml.swp");
            fs::write(&new, text).expect("writes");
            fs::rename(&new, &file).expect("renames");
            timeout(LONG, saves.next()).await.expect("a rename is seen");
        }
    }

    #[tokio::test]
    async fn what_is_saved_before_other_files_are_watched_is_looked_at() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let paths = ["gate.yaml", "web.pem"].map(|name| folder.path().join(name));
        fs::write(&paths[0], "a").expect("writes");
        let mut saves = Saves::of(&paths[..1]).expect("watches");
        timeout(LONG, saves.next()).await.expect("a first look");
        saves.watch(&paths[..1]).expect("watches");
        assert!(timeout(QUIET_TIME, saves.next()).await.is_err(), "nothing was saved, and the watch is the same");
        // After the reading that told of this file, before the watch.
        fs::write(&paths[1], "b").expect("writes");
        saves.watch(&paths).expect("watches");
        timeout(LONG, saves.next()).await.expect("a look at what it has by now");
    }

    #[test]
    fn other_files_and_reading_are_no_saves() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let root = folder.path().canonicalize().expect("a folder");
        let watched = Watched::of(&[root.join("gate.yaml"), root.clone()]);
        let event = |kind, name: &str| Event::new(kind).add_path(root.join(name));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let read = EventKind::Access(AccessKind::Close(AccessMode::Read));
        assert!(watched.concerns(&event(written, "gate.yaml")));
        assert!(watched.concerns(&event(written, "new.yml")));
        assert!(!watched.concerns(&event(read, "gate.yaml")));
        assert!(!watched.concerns(&event(written, "notes.txt")));
        assert!(!Watched::of(&[root.join("gate.yaml")]).concerns(&event(written, "new.yml")));
    }
}
