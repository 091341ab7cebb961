//! The present head: what is live, its compiled form, and the announcement that every stream waits for.
//!
//! Transactions are packed here, each at most once for all proxies that need it: the step from the revision before
//! comes with the announcement itself, other steps and the full snapshot are built when the first proxy asks.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use rustygate_data_plane::snapshot::Snapshot;
use rustygate_proto::{checksum::Checksum, frames::ChunkError, v1 as wire};
use tokio::sync::{Mutex, watch};

use crate::{
    snapshot::{Encoded, Set, Stored},
    store::{Store, StoreError},
};

/// How many packed transactions are kept for proxies that are behind, all of them to the head.
const PACKED_MAX: usize = 32;

/// How many bytes they may have together.
const PACKED_BYTES_MAX: usize = 128 << 20;

/// Why a transaction could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The past could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A resource does not fit a chunk.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The process is stopping.
    #[error("packing was interrupted")]
    Interrupted,
}

/// Everything about the newest revision.
#[derive(Debug)]
pub struct Head {
    /// Which one; number 0 if nothing was ever applied.
    pub revision: wire::Revision,
    /// What is live.
    pub set: Set,
    /// Its compiled form; `None` if what was stored by another version does not compile with this one.
    pub snapshot: Option<Arc<Snapshot>>,
}

/// What streams wait for.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The new head.
    pub revision: wire::Revision,
    /// From the revision before; `None` on the first head of a process.
    pub step: Option<Arc<Encoded>>,
}

/// Holds the head.
#[derive(Debug)]
pub struct Publisher {
    store: Arc<Store>,
    head: RwLock<Head>,
    announcement: watch::Sender<Arc<Announcement>>,
    packed: Mutex<VecDeque<Arc<Encoded>>>,
}

impl Publisher {
    /// Holds what a store was loaded with.
    #[must_use]
    pub fn new(store: Arc<Store>, head: Head) -> Self {
        let announcement = Announcement { revision: head.revision.clone(), step: None };
        Self {
            store,
            head: RwLock::new(head),
            announcement: watch::Sender::new(Arc::new(announcement)),
            packed: Mutex::default(),
        }
    }

    /// Which store revisions are of.
    #[must_use]
    pub fn store_id(&self) -> &Arc<str> {
        &self.store.id
    }

    /// The head, for as long as no one publishes: never hold it over an `await`.
    pub fn head(&self) -> RwLockReadGuard<'_, Head> {
        self.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the head.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.head().revision.revision
    }

    /// The announcement of the present head, then of each new one; whoever is slow sees only the latest.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Announcement>> {
        self.announcement.subscribe()
    }

    /// Makes a committed revision the head and wakes every stream.
    pub fn publish(
        &self,
        revision: wire::Revision,
        snapshot: Arc<Snapshot>,
        changed: &[(wire::ResourceKey, Option<Arc<Stored>>)],
        step: Arc<Encoded>,
    ) {
        let mut head = self.head.write().unwrap_or_else(PoisonError::into_inner);
        for (key, after) in changed {
            match after {
                Some(stored) => head.set.insert(stored.clone()),
                None => head.set.remove(key.kind(), &key.name),
            }
        }
        head.revision.clone_from(&revision);
        let old = head.snapshot.replace(snapshot);
        drop(head);
        self.announcement.send_replace(Arc::new(Announcement { revision, step: Some(step) }));
        drop(old);
    }

    /// The transaction from a revision (0: from nothing) to the head, packed once for all who need it.
    ///
    /// # Errors
    /// [`PackError`]
    pub async fn transaction(&self, from: u64) -> Result<Arc<Encoded>, PackError> {
        let announced = self.announcement.borrow().clone();
        if let Some(step) = announced.step.as_ref().filter(|step| step.from == from) {
            return Ok(step.clone());
        }
        // Held while packing, so that the others wait for this result instead of making their own.
        let mut packed = self.packed.lock().await;
        let (to, checksum) = {
            let head = self.head();
            (head.revision.revision, head.set.checksum())
        };
        packed.retain(|encoded| encoded.to == to);
        if let Some(encoded) = packed.iter().find(|encoded| encoded.from == from) {
            return Ok(encoded.clone());
        }
        let encoded = Arc::new(self.pack(from, to, checksum).await?);
        packed.push_back(encoded.clone());
        while packed.len() > PACKED_MAX
            || packed.len() > 1 && packed.iter().map(|encoded| encoded.bytes).sum::<usize>() > PACKED_BYTES_MAX
        {
            packed.pop_front();
        }
        Ok(encoded)
    }

    async fn pack(&self, from: u64, to: u64, checksum: Checksum) -> Result<Encoded, PackError> {
        let step = if from == 0 { None } else { self.store.changes_between(from, to).await? };
        let store_id = self.store.id.clone();
        if let Some(changes) = step {
            return blocking(move || Encoded::pack(&store_id, from, to, checksum, &changes)).await;
        }
        let (to, checksum, resources) = {
            let head = self.head();
            let resources: Vec<_> = head.set.iter().cloned().collect();
            (head.revision.revision, head.set.checksum(), resources)
        };
        blocking(move || {
            let changes: Vec<_> = resources.iter().map(|stored| stored.change()).collect();
            Encoded::pack(&store_id, 0, to, checksum, &changes)
        })
        .await
    }
}

async fn blocking(pack: impl FnOnce() -> Result<Encoded, ChunkError> + Send + 'static) -> Result<Encoded, PackError> {
    Ok(tokio::task::spawn_blocking(pack).await.map_err(|_| PackError::Interrupted)??)
}
