//! How the configuration path fares: written by sync, read by `/readyz` and the metrics.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::gauge::ConstGauge,
    registry::Unit,
};
use rustygate_proto::v1 as wire;
use tokio::{sync::watch, time::Instant};

/// What is known now.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Whether the stream to the control plane is open.
    pub connected: bool,
    /// Where the snapshot that is served came from; `None` as long as there is none.
    pub source: Option<Source>,
    /// Revision of the snapshot that is served; 0 if none.
    pub revision: u64,
    /// Which store the revision is of; empty if none is served.
    pub store_id: String,
    /// The last revision that was refused, until another is served.
    pub refused: Option<Refused>,
    /// When the control plane was last heard of, if ever.
    pub last_contact: Option<Instant>,
}

/// Where a snapshot came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The last good one of an earlier run.
    Disk,
    /// The control plane sent it.
    ControlPlane,
}

/// A revision that is not served.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Which one.
    pub revision: u64,
    /// Why not.
    pub faults: Vec<wire::Fault>,
}

/// Gives the present [`State`] and wakes who waits for a change.
#[derive(Debug, Default)]
pub struct SyncStatus(watch::Sender<State>);

impl SyncStatus {
    /// The present state.
    #[must_use]
    pub fn get(&self) -> State {
        self.0.borrow().clone()
    }

    /// Sees each change, but for mere contact.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    pub(crate) fn connected(&self, connected: bool) {
        self.0.send_if_modified(|state| std::mem::replace(&mut state.connected, connected) != connected);
        if connected {
            self.contact();
        }
    }

    pub(crate) fn contact(&self) {
        self.0.send_if_modified(|state| {
            state.last_contact = Some(Instant::now());
            false
        });
    }

    pub(crate) fn serving(&self, source: Source, store_id: &str, revision: u64) {
        self.0.send_modify(|state| {
            state.source = Some(source);
            state.revision = revision;
            store_id.clone_into(&mut state.store_id);
            state.refused = None;
        });
    }

    pub(crate) fn refused(&self, revision: u64, faults: Vec<wire::Fault>) {
        self.0.send_modify(|state| state.refused = Some(Refused { revision, faults }));
    }
}

impl Source {
    /// As `/readyz` shows it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::ControlPlane => "control_plane",
        }
    }
}

/// Reads the gauges off the status at each scrape, so that they cannot disagree with it.
#[derive(Debug)]
pub(crate) struct StatusCollector(pub(crate) std::sync::Arc<SyncStatus>);

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let state = self.0.get();
        let mut gauge = |name, help, unit, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        #[allow(clippy::cast_precision_loss, reason = "revisions do not come near 2^52")]
        gauge("rustygate_config_revision", "Revision that is served; 0 if none", None, state.revision as f64)?;
        let connected = if state.connected { 1.0 } else { 0.0 };
        gauge("rustygate_config_connected", "Whether the stream to the control plane is open", None, connected)?;
        let refused = if state.refused.is_some() { 1.0 } else { 0.0 };
        gauge("rustygate_config_refused", "Whether the newest revision was refused", None, refused)?;
        if let Some(contact) = state.last_contact {
            let help = "Time since the control plane was last heard of";
            gauge("rustygate_config_contact_age", help, Some(&Unit::Seconds), contact.elapsed().as_secs_f64())?;
        }
        Ok(())
    }
}
