//! What the configuration path counts.

use std::sync::Arc;

use prometheus_client::{
    metrics::{
        counter::Counter,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::status::{StatusCollector, SyncStatus};

/// Handles to the counters; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) applied: Counter,
    pub(crate) refused: Counter,
    pub(crate) resyncs: Counter,
    pub(crate) connects: Counter,
    pub(crate) apply_duration: Histogram,
    pub(crate) disk_writes: Counter,
    pub(crate) disk_failures: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry, status: &Arc<SyncStatus>) -> Self {
        registry.register_collector(Box::new(StatusCollector(Arc::clone(status))));
        let mut counter = |name, help| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let metrics = Self {
            applied: counter("rustygate_config_applied", "Revisions that were applied and acknowledged"),
            refused: counter("rustygate_config_refusals", "Revisions that were refused for their content"),
            resyncs: counter("rustygate_config_resyncs", "Revisions that were refused to be sent everything anew"),
            connects: counter("rustygate_config_connects", "Streams that were opened to the control plane"),
            disk_writes: counter("rustygate_config_disk_writes", "Snapshots that were written to disk"),
            disk_failures: counter("rustygate_config_disk_failures", "Snapshots that could not be written to disk"),
            // 100 microseconds to 13 seconds.
            apply_duration: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
        };
        registry.register_with_unit(
            "rustygate_config_apply_duration",
            "From the commit of a revision to its being served",
            Unit::Seconds,
            metrics.apply_duration.clone(),
        );
        metrics
    }
}
