//! The last good snapshot on disk, so that a proxy starts and serves without its control plane.
//!
//! A folder holds two generations, `snapshot` and `snapshot.previous`. A new one is written beside them, synced,
//! and renamed into place, so that at any moment at least one of the two is whole; one that was not proven good
//! never takes the place of one that was. A generation is used only if every byte of it is proven (BLAKE3 of the
//! file, checksum of the set) and it compiles. A lock keeps two proxies from sharing a folder.
//!
//! Layout of a file, integers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic |
//! | 4 | format version |
//! | 4 | length of the store id |
//! | 8 | revision |
//! | 32 | checksum of the set |
//! | 8 | number of resources |
//! | 8 | length of the body |
//! | - | store id, UTF-8 |
//! | - | body: chunks as on the wire, each with its length (4) before it |
//! | 32 | BLAKE3 of everything before |

pub(crate) mod format;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustygate_proto::v1 as wire;

use self::format::FormatError;
use crate::{
    held::{Held, Image},
    snapshot::Snapshot,
};

/// The most bytes that a generation may have.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

const CURRENT: &str = "snapshot";
const PREVIOUS: &str = "snapshot.previous";
const NEW: &str = "snapshot.new";
const LOCK: &str = "lock";

/// A locked folder for the last good snapshot.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Whether `snapshot` is proven good, so that it may take the place of `snapshot.previous`.
    current_is_good: bool,
    /// Locked as long as it is open.
    _lock: File,
}

/// What the folder gave back.
#[derive(Debug)]
pub struct Restored {
    /// The set.
    pub held: Held,
    /// The same, compiled.
    pub snapshot: Snapshot,
}

/// How long a proxy waits for one that is just ending, or for a child that it was about to become, to let go.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data folder {} is in use by another proxy: give each its own --data-dir", .0.display())]
    InUse(PathBuf),
    /// It cannot be made, or not written to.
    #[error("cannot use the data folder {}: {source} (check --data-dir and its permissions)", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a generation is not used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is none.
    #[error("there is none")]
    Missing,
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// Its bytes are not what was written.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// It is whole, but this version of the proxy cannot serve it.
    #[error("does not compile: {}", first(.0))]
    Compile(Vec<wire::Fault>),
}

/// Why a generation was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system refused.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not fit the format.
    #[error("{0}")]
    Format(#[from] FormatError),
}

impl Folder {
    /// Opens a folder, making it if need be, and locks it until the value is dropped.
    ///
    /// # Errors
    /// [`OpenError`] if another process uses it, or if it cannot be used.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
        let lock_path = path.join(LOCK);
        let lock = private().truncate(false).open(&lock_path).map_err(failed(&lock_path))?;
        let mut patience = LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path: path.to_owned(), current_is_good: false, _lock: lock }),
                Err(TryLockError::WouldBlock) if !patience.is_zero() => {
                    std::thread::sleep(LOCK_PAUSE);
                    patience = patience.saturating_sub(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.to_owned())),
                Err(TryLockError::Error(source)) => return Err(failed(&lock_path)(source)),
            }
        }
    }

    /// The newest generation that is whole and compiles; says in the log what it skipped and why.
    pub fn load(&mut self) -> Option<Restored> {
        self.current_is_good = false;
        for name in [CURRENT, PREVIOUS] {
            let path = self.path.join(name);
            match load(&path) {
                Ok(restored) => {
                    self.current_is_good = name == CURRENT;
                    let (revision, resources) = (restored.held.revision(), restored.held.len());
                    tracing::info!(file = %path.display(), revision, resources, "loaded the last good snapshot");
                    return Some(restored);
                }
                Err(LoadError::Missing) => {}
                Err(error) => tracing::error!(file = %path.display(), %error, "the snapshot on disk is not usable"),
            }
        }
        tracing::warn!(
            folder = %self.path.display(),
            "no usable snapshot on disk; nothing is served until the control plane sends one"
        );
        None
    }

    /// Makes the image the newest generation and the one before it the previous.
    ///
    /// # Errors
    /// [`WriteError`]; the generations on disk are as they were.
    pub fn write(&mut self, image: &Image) -> Result<(), WriteError> {
        let (new, current) = (self.path.join(NEW), self.path.join(CURRENT));
        let bytes = format::encode(image)?;
        write_synced(&new, &bytes).map_err(|source| WriteError::Io { path: new.clone(), source })?;
        let moved = |source| WriteError::Io { path: current.clone(), source };
        if self.current_is_good {
            // Between these renames there is no `snapshot`; a crash here leaves the previous one.
            fs::rename(&current, self.path.join(PREVIOUS)).map_err(moved)?;
            self.current_is_good = false;
        }
        fs::rename(&new, &current).map_err(moved)?;
        self.current_is_good = true;
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(moved)
    }
}

/// Reads, proves and compiles one generation.
fn load(path: &Path) -> Result<Restored, LoadError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::Missing,
        _ => LoadError::Io(error),
    })?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(LoadError::Io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FormatError::TooLarge.into());
    }
    let transaction = format::decode(&bytes)?;
    drop(bytes);
    let mut held = Held::default();
    let stage = held.stage(transaction).map_err(FormatError::Set)?;
    let snapshot = Snapshot::default().compile(stage.revision(), stage.changes()).map_err(LoadError::Compile)?;
    held.apply(stage);
    Ok(Restored { held, snapshot })
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = private().truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Options for a file that only this user may read: the configuration may hold secrets.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

fn first(faults: &[wire::Fault]) -> String {
    faults.first().map_or_else(String::new, |fault| {
        let kind = fault.kind().noun();
        format!("{kind} {:?}: {} [{}] ({} faults in all)", fault.name, fault.message, fault.code, faults.len())
    })
}

#[cfg(test)]
mod tests;
