//! The set of resources that this proxy holds, as encoded on the wire, and the proof of it: the checksum.
//!
//! A transaction is first *staged*: compared with what is held, reduced to what really differs, and its checksum
//! proven. Staging changes nothing. Only when the stage was compiled and published is it *applied*, in one step
//! that cannot fail. So what is held is always what is served, and a refused transaction leaves no trace.
//!
//! Staging and applying cost as much as the transaction has changes, whatever the size of the set; a full
//! replacement costs as much as both sets.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use rustygate_proto::{
    checksum::{Checksum, ContentHash},
    v1::{self as wire, Change, Kind},
};

use crate::snapshot::fault;

/// The kinds that a set may hold, in the order of [`Held::image`].
const KINDS: [Kind; 7] =
    [Kind::Listener, Kind::Backend, Kind::Plugin, Kind::Route, Kind::Certificate, Kind::Defaults, Kind::Consumer];

/// One resource as it was sent.
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// Unique within its kind.
    pub name: Arc<str>,
    /// The encoded `Resource`; a copy of its own, so that it does not keep the chunk that it came in.
    pub bytes: Bytes,
    hash: ContentHash,
}

/// Without the bytes: there may be a secret in them.
impl fmt::Debug for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Resource").field("kind", &self.kind).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A whole set of resources at one revision of one store.
#[derive(Debug, Default)]
pub struct Held {
    store_id: String,
    revision: u64,
    checksum: Checksum,
    /// By kind (as in [`KINDS`]), then by name.
    resources: [HashMap<Arc<str>, Arc<Resource>>; KINDS.len()],
}

/// A cheap copy of the set, for the disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// Which store the revision is of.
    pub store_id: String,
    /// The revision.
    pub revision: u64,
    /// Of the whole set.
    pub checksum: Checksum,
    /// The whole set, in no order.
    pub resources: Vec<Arc<Resource>>,
}

/// A whole transaction, as received.
#[derive(Debug)]
pub struct Transaction {
    /// Which store its revisions are of.
    pub store_id: String,
    /// The revision that the changes start from; 0 means that they replace everything.
    pub from_revision: u64,
    /// The revision that they lead to.
    pub to_revision: u64,
    /// In the order they were sent.
    pub changes: Vec<Change>,
    /// Of the whole set at `to_revision`.
    pub checksum: Vec<u8>,
}

/// A transaction that is proven to lead from what is held to what was meant.
#[derive(Debug)]
pub struct Stage {
    store_id: String,
    revision: u64,
    checksum: Checksum,
    changes: Vec<Change>,
    /// Of each change, what it brings; `None` where it removes.
    hashes: Vec<Option<ContentHash>>,
}

/// Why a transaction was not staged.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It starts from something else than what is held.
    #[error(
        "the transaction starts from revision {from} of store {from_store:?}, but revision {held} of store {held_store:?} is held"
    )]
    Base {
        /// Where it starts.
        from: u64,
        /// In which store.
        from_store: String,
        /// What is held.
        held: u64,
        /// Of which store.
        held_store: String,
    },
    /// It leads to another set than the sender's.
    #[error("the set at revision {revision} does not have the checksum that was sent")]
    Checksum {
        /// The revision it was to lead to.
        revision: u64,
    },
    /// Some of its changes make no sense.
    #[error("{} of the changes cannot be read", .0.len())]
    Faults(Vec<wire::Fault>),
}

impl Held {
    /// Which store the revision is of; empty if nothing is held.
    #[must_use]
    pub fn store_id(&self) -> &str {
        &self.store_id
    }

    /// The revision; 0 if nothing is held.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Of the whole set.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// How many resources are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.resources.iter().map(HashMap::len).sum()
    }

    /// Whether none are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a transaction changes here, proven by its checksum.
    ///
    /// # Errors
    /// [`StageError`]; nothing has changed in any case.
    pub fn stage(&self, transaction: Transaction) -> Result<Stage, StageError> {
        let Transaction { store_id, from_revision, to_revision, changes, checksum } = transaction;
        let full = from_revision == 0;
        if !full && (from_revision != self.revision || store_id != self.store_id) {
            return Err(StageError::Base {
                from: from_revision,
                from_store: store_id,
                held: self.revision,
                held_store: self.store_id.clone(),
            });
        }
        let seen = readable(&changes).map_err(StageError::Faults)?;
        let removals: Vec<Change> = if full { self.missing_from(&seen) } else { Vec::new() };
        drop(seen);

        let mut stage = Stage {
            store_id,
            revision: to_revision,
            checksum: self.checksum,
            changes: Vec::with_capacity(if full { 0 } else { changes.len() }),
            hashes: Vec::new(),
        };
        for change in changes.into_iter().chain(removals) {
            self.stage_change(&mut stage, change);
        }
        if stage.checksum.to_bytes().as_slice() != checksum.as_slice() {
            return Err(StageError::Checksum { revision: to_revision });
        }
        Ok(stage)
    }

    /// Makes the staged set the held one. The stage must be of this set as it is now.
    pub fn apply(&mut self, stage: Stage) {
        self.store_id = stage.store_id;
        self.revision = stage.revision;
        self.checksum = stage.checksum;
        for (change, hash) in stage.changes.into_iter().zip(stage.hashes) {
            let Some(slot) = slot(change.kind()) else { continue };
            match (change.resource.as_ref(), hash) {
                (Some(bytes), Some(hash)) => {
                    let name: Arc<str> = change.name.as_str().into();
                    let bytes = Bytes::copy_from_slice(bytes);
                    let resource = Resource { kind: KINDS[slot], name: Arc::clone(&name), bytes, hash };
                    self.resources[slot].insert(name, Arc::new(resource));
                }
                _ => {
                    self.resources[slot].remove(change.name.as_str());
                }
            }
        }
    }

    /// A copy that shares the resources themselves.
    #[must_use]
    pub fn image(&self) -> Image {
        Image {
            store_id: self.store_id.clone(),
            revision: self.revision,
            checksum: self.checksum,
            resources: self.resources.iter().flat_map(HashMap::values).cloned().collect(),
        }
    }

    /// Adds to the stage what the change really changes: nothing if the resource is held as it is sent, or if
    /// what is to be removed is not held.
    fn stage_change(&self, stage: &mut Stage, change: Change) {
        let kind = change.kind();
        let Some(slot) = slot(kind) else { return };
        let held = self.resources[slot].get(change.name.as_str()).map(|resource| resource.hash);
        let hash = change.resource.as_ref().map(|bytes| ContentHash::of(kind, &change.name, bytes));
        if held == hash {
            return;
        }
        if let Some(held) = held {
            stage.checksum.subtract(&held);
        }
        if let Some(hash) = hash {
            stage.checksum.add(&hash);
        }
        stage.changes.push(change);
        stage.hashes.push(hash);
    }

    fn missing_from(&self, seen: &HashSet<(Kind, &str)>) -> Vec<Change> {
        let all = self.resources.iter().flat_map(HashMap::values);
        all.filter(|resource| !seen.contains(&(resource.kind, &*resource.name)))
            .map(|resource| Change { kind: resource.kind.into(), name: resource.name.to_string(), resource: None })
            .collect()
    }
}

impl Stage {
    /// The revision that it leads to.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What really differs from the held set; each resource at most once.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

impl Resource {
    /// The change that brings this resource.
    #[must_use]
    pub fn to_change(&self) -> Change {
        Change { kind: self.kind.into(), name: self.name.to_string(), resource: Some(self.bytes.clone()) }
    }
}

fn slot(kind: Kind) -> Option<usize> {
    KINDS.iter().position(|known| *known == kind)
}

/// The keys of the changes, or a fault for each one of an unknown kind, without a name, or named twice.
fn readable(changes: &[Change]) -> Result<HashSet<(Kind, &str)>, Vec<wire::Fault>> {
    let mut seen = HashSet::with_capacity(changes.len());
    let mut faults = Vec::new();
    for change in changes {
        let broken = |message: &str, hint: &str| wire::Fault {
            code: fault::BROKEN_PUSH.to_owned(),
            kind: change.kind,
            name: change.name.clone(),
            message: message.to_owned(),
            hint: hint.to_owned(),
            ..wire::Fault::default()
        };
        let kind = change.kind();
        if slot(kind).is_none() {
            faults.push(broken("this proxy does not know resources of this kind", "upgrade the proxy"));
        } else if change.name.is_empty() {
            faults.push(broken("the resource has no name", ""));
        } else if !seen.insert((kind, change.name.as_str())) {
            faults.push(broken("the resource comes twice in one transaction", ""));
        }
    }
    if faults.is_empty() { Ok(seen) } else { Err(faults) }
}

#[cfg(test)]
pub(crate) mod tests;
