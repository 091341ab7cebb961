//! Logs and metrics. The registry is made here and passed down; there is no global one.

use std::{fmt::Write as _, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// How a push ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApplyOutcome {
    /// A new revision.
    Changed,
    /// Nothing differed.
    Unchanged,
    /// It would have been one.
    DryRun,
    /// Faults.
    Refused,
    /// Someone was faster.
    Conflict,
    /// The control plane could not do it.
    Failed,
}

impl EncodeLabelValue for ApplyOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::DryRun => "dry_run",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApplyLabels {
    outcome: ApplyOutcome,
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Number of the head revision.
    pub head_revision: Gauge,
    /// Resources that are live.
    pub resources: Gauge,
    /// Revisions that are kept.
    pub history_revisions: Gauge,
    /// Streams that are open.
    pub proxies_connected: Gauge,
    /// Transactions sent to proxies.
    pub pushes: Counter,
    /// Bytes of them.
    pub push_bytes: Counter,
    /// Refusals by proxies.
    pub nacks: Counter,
    /// Full snapshots sent.
    pub full_pushes: Counter,
    /// Streams cut because nothing was heard or nothing was read.
    pub streams_cut: Counter,
    /// Calls refused at the door.
    pub denied: Counter,
    /// Connections open on the gRPC port.
    pub connections: Gauge,
    /// Connections refused because too many were open.
    pub connections_refused: Counter,
    /// From the arrival of a push to its answer.
    pub apply_seconds: Histogram,
    /// From the commit of a revision to a proxy's Ack.
    pub ack_seconds: Histogram,
    applies: Family<ApplyLabels, Counter>,
}

impl Metrics {
    /// With a registry of their own.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("rustygate_control_plane"),
            head_revision: Gauge::default(),
            resources: Gauge::default(),
            history_revisions: Gauge::default(),
            proxies_connected: Gauge::default(),
            pushes: Counter::default(),
            push_bytes: Counter::default(),
            nacks: Counter::default(),
            full_pushes: Counter::default(),
            streams_cut: Counter::default(),
            denied: Counter::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            apply_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            ack_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            applies: Family::default(),
        };
        metrics.register();
        Arc::new(metrics)
    }

    /// Counts a push.
    pub fn applied(&self, outcome: ApplyOutcome) {
        self.applies.get_or_create(&ApplyLabels { outcome }).inc();
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("head_revision", "Number of the head revision", self.head_revision.clone());
        registry.register("resources", "Resources that are live", self.resources.clone());
        registry.register("history_revisions", "Revisions that are kept", self.history_revisions.clone());
        registry.register("proxies_connected", "Proxies with an open stream", self.proxies_connected.clone());
        registry.register("pushes", "Transactions sent to proxies", self.pushes.clone());
        registry.register("push_bytes", "Bytes of transactions sent to proxies", self.push_bytes.clone());
        registry.register("full_pushes", "Full snapshots sent to proxies", self.full_pushes.clone());
        registry.register("nacks", "Transactions that a proxy refused", self.nacks.clone());
        registry.register("streams_cut", "Streams cut because the proxy stalled", self.streams_cut.clone());
        registry.register("denied", "Calls refused for want of a right token", self.denied.clone());
        registry.register("connections", "Connections open on the gRPC port", self.connections.clone());
        registry.register(
            "connections_refused",
            "Connections closed because too many were open",
            self.connections_refused.clone(),
        );
        registry.register("applies", "Changes asked for, by outcome", self.applies.clone());
        registry.register("apply_seconds", "From the arrival of a change to its answer", self.apply_seconds.clone());
        registry.register("ack_seconds", "From the commit of a revision to a proxy's Ack", self.ack_seconds.clone());
    }
}

/// The filter of the log is not one.
#[derive(Debug, thiserror::Error)]
#[error("{filter:?} is not a log filter: {source} (for example \"info\" or \"rustygate_control_plane=debug\")")]
pub struct BadFilter {
    filter: String,
    source: ParseError,
}

/// Sends events that pass the filter ("info") to standard output, as JSON lines.
///
/// # Errors
/// [`BadFilter`]
pub fn log_json(filter: &str) -> Result<(), BadFilter> {
    let parsed = EnvFilter::try_new(filter);
    let parsed = parsed.map_err(|source| BadFilter { filter: filter.to_owned(), source })?;
    tracing_subscriber::fmt().json().with_env_filter(parsed).with_target(false).init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_an_error_that_shows_a_good_one() {
        let error = log_json("a=b=c=,,").expect_err("is no filter");
        assert!(error.to_string().contains("for example"), "{error}");
    }
}
