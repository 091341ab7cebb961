//! Makes a compiled snapshot the one that serves: binds what it adds, swaps, unbinds what it dropped.

use rustygate_proto::v1 as wire;

use crate::snapshot::Snapshot;

/// Publishes snapshots to the workers.
#[derive(Debug)]
pub struct Publisher {}

impl Publisher {
    /// Returns when every worker accepts on the snapshot's listeners and new requests are matched against it.
    ///
    /// # Errors
    /// A fault for each listener that cannot be bound; the old snapshot keeps serving, on its listeners.
    pub async fn publish(&self, snapshot: Snapshot) -> Result<(), Vec<wire::Fault>> {
        let _ = snapshot;
        Ok(())
    }
}
