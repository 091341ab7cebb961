//! One push, top to bottom: merge it into what is live, find what differs, prove that the result compiles, commit it
//! as one revision, publish it.
//!
//! Pushes take turns. A push costs what it changes: the live set and its compiled form are at hand, and no step looks
//! at resources that the push does not name, unless it prunes or restores.

mod plan;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustygate_data_plane::snapshot::Snapshot;
use rustygate_proto::{checksum::Checksum, v1 as wire};
use tokio::sync::Mutex;

pub use self::plan::{Content, Difference, Intent, NAME_BYTES_MAX, RESOURCES_MAX, plan};
use crate::{
    manifest, passwords,
    publish::{Head, Publisher},
    snapshot::{Encoded, Stored},
    store::{Commit, Loaded, Store, StoreError},
    telemetry::{ApplyOutcome, Metrics},
    validate,
};

const AUTHOR_BYTES_MAX: usize = 256;
const OWNER_BYTES_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 4_096;
const DOCUMENTS_MAX: usize = 10_000;
const CONTENTS_MAX: usize = manifest::REFERENCES_MAX;
const DELETE_KEYS_MAX: usize = 100_000;

/// Whose resources are, if no one says.
const DEFAULT_OWNER: &str = "default";

/// Why a push was not even tried. What is wrong with resources is a [`wire::Fault`] instead.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Someone was faster.
    #[error("the configuration is at revision {head}, not {wanted}: look at what changed, then try again")]
    Conflict {
        /// The revision that the caller had seen.
        wanted: u64,
        /// The head.
        head: u64,
    },
    /// The past does not reach so far.
    #[error("revision {0} is not kept: see gatectl history for those that are")]
    NoSuchRevision(u64),
    /// The request is not one.
    #[error("{0}")]
    Invalid(String),
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug, or the process is stopping; nothing was changed.
    #[error("the change could not be finished: {0}")]
    Interrupted(String),
}

/// How a change is to be made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Who makes it.
    pub author: String,
    /// Why.
    pub message: String,
    /// Stop before anything is written.
    pub dry_run: bool,
    /// Only if this is the head revision.
    pub if_revision: Option<u64>,
}

impl Options {
    /// From the wire; a token's name goes before what the client calls itself.
    #[must_use]
    pub fn new(options: Option<wire::ChangeOptions>, token_name: Option<&str>) -> Self {
        let options = options.unwrap_or_default();
        let author = token_name.map_or(options.author, str::to_owned);
        Self {
            author: if author.is_empty() { "anonymous".into() } else { author },
            message: options.message,
            dry_run: options.dry_run,
            if_revision: options.if_revision,
        }
    }
}

/// Makes changes, one at a time.
#[derive(Debug)]
pub struct Applier {
    store: Arc<Store>,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    /// The highest id of a resource row; whoever holds it may write.
    last_row: Mutex<i64>,
}

impl Applier {
    /// Goes on where the store was left.
    #[must_use]
    pub fn new(store: Arc<Store>, loaded: Loaded, metrics: Arc<Metrics>) -> Self {
        let changes: Vec<_> = loaded.set.iter().map(|stored| stored.change()).collect();
        let snapshot = match Snapshot::default().compile(loaded.revision.revision, &changes) {
            Ok(snapshot) => Some(Arc::new(snapshot)),
            Err(faults) => {
                // Not a reason to stop: proxies judge for themselves, and the next push can repair it.
                tracing::error!(
                    revision = loaded.revision.revision,
                    faults = ?faults.iter().map(|fault| &fault.message).take(10).collect::<Vec<_>>(),
                    "the stored configuration does not compile with this version; apply a repaired one"
                );
                None
            }
        };
        metrics.head_revision.set(loaded.revision.revision.cast_signed());
        let head = Head { revision: loaded.revision, set: loaded.set, snapshot };
        let publisher = Arc::new(Publisher::new(store.clone(), head));
        Self { store, publisher, metrics, last_row: Mutex::new(loaded.last_row) }
    }

    /// Where changes appear.
    #[must_use]
    pub fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    /// Upserts what the documents hold.
    ///
    /// # Errors
    /// [`ApplyError`]
    pub async fn apply(
        &self,
        request: wire::ApplyRequest,
        options: Options,
    ) -> Result<wire::ApplyResponse, ApplyError> {
        check_len("documents", request.documents.len(), DOCUMENTS_MAX)?;
        check_len("contents", request.contents.len(), CONTENTS_MAX)?;
        let wire::ApplyRequest { documents, owner, prune, contents, .. } = request;
        let mut parsed = blocking(move || manifest::parse_with(documents, contents)).await?;
        let mut resources = parsed.resources.clone();
        if parsed.faults.is_empty() {
            let mut response = self.apply_resources(resources, owner, prune, options).await?;
            if !response.faults.is_empty() {
                response.faults = blocking(move || validate::merge(&mut parsed, response.faults)).await?;
            }
            return Ok(response);
        }
        // It is refused already; what else is wrong with it is told at once.
        let owner = owner_of(owner)?;
        passwords::stand_in(&mut resources);
        let intent = Intent::Upsert { resources, owner, prune, kept: parsed.broken.clone() };
        let found = self.prepare(intent, validate::stand_ins(&parsed.broken).collect()).await?.err();
        let faults = blocking(move || validate::merge(&mut parsed, found.unwrap_or_default())).await?;
        self.metrics.applied(ApplyOutcome::Refused);
        Ok(refused(self.publisher.revision(), faults))
    }

    /// Upserts resources.
    ///
    /// # Errors
    /// [`ApplyError`]
    pub async fn apply_resources(
        &self,
        resources: Vec<wire::Resource>,
        owner: String,
        prune: bool,
        options: Options,
    ) -> Result<wire::ApplyResponse, ApplyError> {
        let owner = owner_of(owner)?;
        let revision = wire::Revision { owner: owner.clone(), ..Default::default() };
        let resources = match self.hash_passwords(resources).await? {
            Ok(resources) => resources,
            Err(faults) => {
                self.metrics.applied(ApplyOutcome::Refused);
                return Ok(refused(self.publisher.revision(), faults));
            }
        };
        let turn = self.turn(&options).await?;
        self.push(turn, Intent::Upsert { resources, owner, prune, kept: Vec::new() }, revision, options).await
    }

    /// Before the push takes its turn, since it takes time. If a push in between gave a consumer another password, this
    /// one's is what it has in the end, as with anything else that two pushes change.
    async fn hash_passwords(
        &self,
        mut resources: Vec<wire::Resource>,
    ) -> Result<Result<Vec<wire::Resource>, Vec<wire::Fault>>, ApplyError> {
        if !passwords::any_clear(&resources) {
            return Ok(Ok(resources));
        }
        let stored = passwords::stored(&resources, &self.publisher.head().set);
        blocking(move || passwords::hash(&mut resources, &stored).map(|()| resources)).await
    }

    /// Removes resources.
    ///
    /// # Errors
    /// [`ApplyError`]
    pub async fn delete(
        &self,
        keys: Vec<wire::ResourceKey>,
        options: Options,
    ) -> Result<wire::ApplyResponse, ApplyError> {
        check_len("keys", keys.len(), DELETE_KEYS_MAX)?;
        let turn = self.turn(&options).await?;
        self.push(turn, Intent::Delete(keys), wire::Revision::default(), options).await
    }

    /// Brings an old revision's content back, as a new revision.
    ///
    /// # Errors
    /// [`ApplyError`]
    pub async fn rollback(&self, to: u64, options: Options) -> Result<wire::ApplyResponse, ApplyError> {
        let turn = self.turn(&options).await?;
        let resources = self.store.resources_at(to).await?.ok_or(ApplyError::NoSuchRevision(to))?;
        let revision = wire::Revision { rollback_of: to, ..Default::default() };
        self.push(turn, Intent::Restore(resources), revision, options).await
    }

    /// Returns when no push is on its way.
    pub async fn idle(&self) {
        drop(self.last_row.lock().await);
    }

    async fn turn(&self, options: &Options) -> Result<tokio::sync::MutexGuard<'_, i64>, ApplyError> {
        check_len("author", options.author.len(), AUTHOR_BYTES_MAX)?;
        check_len("message", options.message.len(), MESSAGE_BYTES_MAX)?;
        let turn = self.last_row.lock().await;
        let head = self.publisher.revision();
        match options.if_revision {
            Some(wanted) if wanted != head => {
                self.metrics.applied(ApplyOutcome::Conflict);
                Err(ApplyError::Conflict { wanted, head })
            }
            _ => Ok(turn),
        }
    }

    async fn push(
        &self,
        mut last_row: tokio::sync::MutexGuard<'_, i64>,
        intent: Intent,
        mut revision: wire::Revision,
        options: Options,
    ) -> Result<wire::ApplyResponse, ApplyError> {
        let head = self.publisher.revision();
        let Prepared { differences, checksum, changes, snapshot } = match self.prepare(intent, Vec::new()).await? {
            Ok(prepared) => prepared,
            Err(faults) => {
                self.metrics.applied(ApplyOutcome::Refused);
                return Ok(refused(head, faults));
            }
        };
        if differences.is_empty() {
            self.metrics.applied(ApplyOutcome::Unchanged);
            return Ok(wire::ApplyResponse { revision: head, ..Default::default() });
        }
        let diff = differences.iter().map(Difference::diff).collect();
        if options.dry_run {
            self.metrics.applied(ApplyOutcome::DryRun);
            return Ok(wire::ApplyResponse { revision: head, diff, ..Default::default() });
        }

        count(&mut revision, &differences);
        revision.revision = head + 1;
        revision.created_unix_ms = now_ms();
        revision.author = options.author;
        revision.message = options.message;
        let store_id = self.store.id.clone();
        let step = blocking(move || Encoded::pack(&store_id, head, head + 1, checksum, &changes))
            .await?
            .map_err(|error| ApplyError::Interrupted(error.to_string()))?;
        let (changed, next_row) = rows(&differences, *last_row, revision.revision);
        let added: Vec<_> = changed.iter().filter_map(|(_, after)| after.clone()).collect();
        let closed = differences.iter().filter_map(|difference| Some(difference.before.as_ref()?.row)).collect();
        self.store.commit(&Commit { revision: &revision, checksum, closed, added: &added }).await?;
        *last_row = next_row;

        tracing::info!(
            revision = revision.revision,
            author = revision.author,
            created = revision.created,
            updated = revision.updated,
            deleted = revision.deleted,
            rollback_of = revision.rollback_of,
            "configuration changed"
        );
        self.metrics.applied(ApplyOutcome::Changed);
        self.metrics.head_revision.set(revision.revision.cast_signed());
        let number = revision.revision;
        self.publisher.publish(revision, Arc::new(snapshot), &changed, Arc::new(step));
        Ok(wire::ApplyResponse { revision: number, changed: true, diff, faults: Vec::new() })
    }

    /// Finds what the intent would change, and proves the result. `stand_ins` are compiled besides.
    async fn prepare(
        &self,
        mut intent: Intent,
        stand_ins: Vec<wire::Change>,
    ) -> Result<Result<Prepared, Vec<wire::Fault>>, ApplyError> {
        let (next, planned, checksum) = {
            let head = self.publisher.head();
            if let Intent::Upsert { resources, .. } = &mut intent
                && let Err(faults) = self.store.secrets().prepare(resources, &head.set)
            {
                return Ok(Err(faults));
            }
            let planned = plan(&head.set, intent);
            let checksum = planned.as_ref().map(|differences| plan::checksum_after(&head.set, differences));
            let checksum = checksum.unwrap_or_default();
            (head.revision.revision + 1, planned, checksum)
        };
        let differences = match planned {
            Ok(differences) => differences,
            Err(faults) => return Ok(Err(faults)),
        };
        let changes: Vec<_> = differences.iter().map(Difference::change).chain(stand_ins).collect();
        let changes = Arc::new(changes);
        let proved = self.prove(next, changes.clone()).await?;
        Ok(proved.map(|snapshot| Prepared { differences, checksum, changes, snapshot }))
    }

    /// Compiles the result with the proxies' own code: what they would refuse is refused here.
    async fn prove(
        &self,
        revision: u64,
        changes: Arc<Vec<wire::Change>>,
    ) -> Result<Result<Snapshot, Vec<wire::Fault>>, ApplyError> {
        let (snapshot, whole) = {
            let head = self.publisher.head();
            match &head.snapshot {
                Some(snapshot) => (snapshot.clone(), Vec::new()),
                // The head does not compile with this version, so the whole result is compiled from nothing.
                None => (Arc::default(), head.set.iter().cloned().collect::<Vec<_>>()),
            }
        };
        blocking(move || {
            if whole.is_empty() {
                return snapshot.compile(revision, &changes);
            }
            let mut result: std::collections::BTreeMap<_, _> =
                whole.iter().map(|stored| ((stored.kind as i32, stored.name.to_string()), stored.change())).collect();
            for change in changes.iter() {
                let key = (change.kind, change.name.clone());
                match change.resource {
                    Some(_) => result.insert(key, change.clone()),
                    None => result.remove(&key),
                };
            }
            snapshot.compile(revision, &result.into_values().collect::<Vec<_>>())
        })
        .await
    }
}

/// A change that may be made.
struct Prepared {
    differences: Vec<Difference>,
    checksum: Checksum,
    changes: Arc<Vec<wire::Change>>,
    snapshot: Snapshot,
}

type Changed = Vec<(wire::ResourceKey, Option<Arc<Stored>>)>;

/// The rows that the differences make, numbered after the last one.
fn rows(differences: &[Difference], mut last_row: i64, revision: u64) -> (Changed, i64) {
    let changed = differences.iter().map(|difference| {
        let key = wire::ResourceKey { kind: difference.kind.into(), name: difference.name.to_string() };
        let after = difference.after.as_ref().map(|content| {
            last_row += 1;
            Arc::new(Stored {
                row: last_row,
                kind: difference.kind,
                name: difference.name.clone(),
                owner: content.owner.clone(),
                revision,
                hash: content.hash,
                body: content.body.clone(),
            })
        });
        (key, after)
    });
    (changed.collect(), last_row)
}

fn count(revision: &mut wire::Revision, differences: &[Difference]) {
    for difference in differences {
        match (&difference.before, &difference.after) {
            (None, _) => revision.created += 1,
            (Some(_), Some(_)) => revision.updated += 1,
            (Some(_), None) => revision.deleted += 1,
        }
    }
}

fn refused(revision: u64, faults: Vec<wire::Fault>) -> wire::ApplyResponse {
    wire::ApplyResponse { revision, faults, ..Default::default() }
}

fn owner_of(owner: String) -> Result<String, ApplyError> {
    check_len("owner", owner.len(), OWNER_BYTES_MAX)?;
    Ok(if owner.is_empty() { DEFAULT_OWNER.to_owned() } else { owner })
}

fn check_len(what: &str, len: usize, max: usize) -> Result<(), ApplyError> {
    if len > max {
        return Err(ApplyError::Invalid(format!("{what}: {len} is more than the most, {max}")));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApplyError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApplyError::Interrupted(error.to_string()))
}

/// Now, in Unix milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
