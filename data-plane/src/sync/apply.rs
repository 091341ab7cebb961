//! One transaction, from its Commit to its being served: stage, prove, compile, publish, hold. All or nothing.

use std::sync::{Arc, Mutex};

use prost::Message as _;
use rustygate_proto::v1 as wire;
use tokio::{sync::watch, task::spawn_blocking, time::Instant};

use super::{
    lock,
    metrics::Metrics,
    receive::Refusal,
    status::{Source, SyncStatus},
};
use crate::{
    held::{Held, Stage, StageError, Transaction},
    publish::Publisher,
    snapshot::{Snapshot, fault},
};

/// The most bytes of faults that one Nack tells of; the rest is counted.
const FAULTS_BYTES_MAX: usize = 256 << 10;

/// Applies transactions, one at a time.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) held: Arc<Mutex<Held>>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) status: Arc<SyncStatus>,
    pub(crate) metrics: Metrics,
    /// Tells the keeper that there is something new to keep.
    pub(crate) changed: watch::Sender<()>,
}

impl Applier {
    /// Returns when the transaction's revision is served and held. Not to be cancelled between the two, so it is
    /// always awaited to its end.
    pub(crate) async fn apply(&self, transaction: Transaction) -> Result<(), Refusal> {
        let begun = Instant::now();
        let (revision, store_id) = (transaction.to_revision, transaction.store_id.clone());
        let refused = |faults| Refusal { revision, faults, resync: false };

        let base = Arc::clone(&self.publisher.cell().load());
        let held = Arc::clone(&self.held);
        let compiled = spawn_blocking(move || compile(&held, &base, transaction)).await;
        let (stage, snapshot) = compiled.unwrap_or_else(|panic| Err(crashed(revision, &panic.to_string())))?;
        self.publisher.publish(snapshot).await.map_err(refused)?;
        // What it replaces is freed over there as well.
        let held = Arc::clone(&self.held);
        if let Err(error) = spawn_blocking(move || lock(&held).apply(stage)).await {
            return Err(crashed(revision, &error.to_string()));
        }

        self.metrics.apply_duration.observe(begun.elapsed().as_secs_f64());
        self.metrics.applied.inc();
        self.status.serving(Source::ControlPlane, &store_id, revision);
        self.changed.send_replace(());
        tracing::info!(
            snapshot = revision,
            duration_ms = begun.elapsed().as_secs_f64() * 1e3,
            "serving a new snapshot"
        );
        Ok(())
    }

    /// Writes down that a revision is refused, and bounds what is sent of it.
    pub(crate) fn refuse(&self, mut refusal: Refusal) -> wire::Nack {
        let counter = if refusal.resync { &self.metrics.resyncs } else { &self.metrics.refused };
        counter.inc();
        bound(&mut refusal.faults);
        let first = refusal.faults.first();
        tracing::error!(
            revision = refusal.revision,
            resync = refusal.resync,
            faults = refusal.faults.len(),
            code = first.map_or("", |fault| &fault.code),
            kind = first.map_or("", |fault| fault.kind().noun()),
            name = first.map_or("", |fault| &fault.name),
            field = first.map_or("", |fault| &fault.field),
            reason = first.map_or("", |fault| &fault.message),
            "refused a revision; the snapshot before it keeps serving"
        );
        self.status.refused(refusal.revision, refusal.faults.clone());
        wire::Nack { revision: refusal.revision, faults: refusal.faults, resync: refusal.resync }
    }
}

/// The blocking half: everything that takes long.
fn compile(held: &Mutex<Held>, base: &Snapshot, transaction: Transaction) -> Result<(Stage, Snapshot), Refusal> {
    let revision = transaction.to_revision;
    let stage = lock(held).stage(transaction).map_err(|error| match error {
        StageError::Faults(faults) => Refusal { revision, faults, resync: false },
        StageError::Base { .. } => Refusal::new(revision, fault::BROKEN_PUSH, &error.to_string(), true),
        StageError::Checksum { .. } => Refusal::new(revision, fault::WRONG_CHECKSUM, &error.to_string(), true),
    })?;
    match base.compile(revision, stage.changes()) {
        Ok(snapshot) => Ok((stage, snapshot)),
        Err(faults) => Err(Refusal { revision, faults, resync: false }),
    }
}

fn crashed(revision: u64, panic: &str) -> Refusal {
    Refusal::new(
        revision,
        fault::FAILED_INSIDE,
        &format!("the proxy failed to apply it, please report this: {panic}"),
        false,
    )
}

/// Keeps as many faults as fit, at least one, and counts the rest.
fn bound(faults: &mut Vec<wire::Fault>) {
    let mut bytes = 0;
    let fits = faults.iter().take_while(|fault| {
        bytes += fault.encoded_len();
        bytes <= FAULTS_BYTES_MAX
    });
    let kept = fits.count().max(1);
    let omitted = faults.len().saturating_sub(kept);
    if omitted > 0 {
        faults.truncate(kept);
        let message = format!("and {omitted} more faults");
        faults.push(wire::Fault { code: fault::FAULTS_OMITTED.to_owned(), message, ..wire::Fault::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_bounded_and_the_rest_is_counted() {
        let fault = wire::Fault { message: "x".repeat(1024), ..wire::Fault::default() };
        let mut few = vec![fault.clone(); 3];
        bound(&mut few);
        assert_eq!(few.len(), 3);
        let mut many = vec![fault; 1000];
        bound(&mut many);
        let omitted = 1000 - (many.len() - 1);
        assert_eq!(many.last().expect("some").message, format!("and {omitted} more faults"));
        assert!(many.iter().map(wire::Fault::encoded_len).sum::<usize>() < FAULTS_BYTES_MAX + 100);
        let mut huge = vec![wire::Fault { message: "x".repeat(FAULTS_BYTES_MAX), ..wire::Fault::default() }; 2];
        bound(&mut huge);
        assert_eq!(huge.len(), 2);
    }
}
