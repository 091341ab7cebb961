//! The gRPC client of the configuration path: connect, back off, receive, compile, publish, ACK or NACK.
//!
//! One task, on the background runtime. It starts from the last good snapshot on disk, if there is one, and then
//! follows the control plane for as long as the process lives:
//!
//! [`link`] opens the stream and says Hello -> `session` follows it -> [`receive`] puts a transaction together ->
//! `apply` proves, compiles and publishes it -> Ack, or Nack with every fault -> [`keeper`] writes it to disk.
//!
//! Whatever goes wrong, the snapshot that is served stays, and the control plane is tried again.

mod apply;
pub mod backoff;
pub mod keeper;
pub mod link;
mod metrics;
pub mod receive;
mod session;
mod status;

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::registry::Registry;
use rustygate_proto::v1::{HealthReport, Hello};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tonic::transport::Endpoint;

#[cfg(test)]
pub(crate) use self::status::StatusCollector;
pub use self::status::{Refused, Source, State, SyncStatus};
use self::{
    apply::Applier,
    backoff::Backoff,
    keeper::Keeper,
    link::{Link, LinkError},
    metrics::Metrics,
};
use crate::{
    disk::{Folder, OpenError, Restored},
    held::Held,
    publish::Publisher,
    settings::Settings,
};

/// How often each side says that it is there.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// After so many intervals without a word, the stream is given up.
pub const SILENT_INTERVALS_MAX: u32 = 3;

/// What sync needs to know of the process.
#[derive(Clone, Debug)]
pub struct Config {
    endpoint: Endpoint,
    tls: bool,
    token_file: Option<PathBuf>,
    control_plane_ca: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    node_id: String,
    labels: HashMap<String, String>,
    /// [`HEARTBEAT`] unless changed; must be what the control plane uses.
    pub heartbeat: Duration,
}

/// Why the settings make no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a URL, or of another scheme.
    #[error("--control-plane {0:?} is not of the form http://host:port or https://host:port")]
    Url(String),
    /// TLS needs something to check the certificate against.
    #[error("--control-plane {0:?} uses TLS: pass the CA that signed its certificate with --control-plane-ca")]
    NoCa(String),
    /// A CA without TLS would never be used.
    #[error("--control-plane-ca is set, but --control-plane {0:?} does not begin with https://")]
    CaWithoutTls(String),
}

/// The configuration path of one proxy, ready to run.
#[derive(Debug)]
pub struct Sync {
    config: Config,
    folder: Option<Folder>,
    restored: Option<Restored>,
    status: Arc<SyncStatus>,
    metrics: Metrics,
    reports: Option<Reports>,
}

/// What the control plane is told of unhealthy endpoints.
pub(crate) type Reports = watch::Receiver<Arc<HealthReport>>;

impl Config {
    /// Checks what can be checked without the network.
    ///
    /// # Errors
    /// [`ConfigError`] if the settings contradict each other.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let url = &settings.control_plane;
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| ConfigError::Url(url.clone()))?;
        let tls = match endpoint.uri().scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(ConfigError::Url(url.clone())),
        };
        match settings.control_plane_ca {
            None if tls => return Err(ConfigError::NoCa(url.clone())),
            Some(_) if !tls => return Err(ConfigError::CaWithoutTls(url.clone())),
            _ => {}
        }
        Ok(Self {
            endpoint,
            tls,
            token_file: settings.token_file.clone(),
            control_plane_ca: settings.control_plane_ca.clone(),
            data_dir: settings.data_dir.clone(),
            node_id: settings.node_id.clone().unwrap_or_else(|| default_node_id(settings.listen.port())),
            labels: settings.label_map().into_iter().collect(),
            heartbeat: HEARTBEAT,
        })
    }

    fn warn_of_token_in_the_clear(&self) {
        let host = self.endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']);
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if self.token_file.is_some() && !self.tls && !loopback {
            let control_plane = self.endpoint.uri();
            tracing::warn!(%control_plane, "the token goes over the network in the clear; use https:// and --control-plane-ca");
        }
    }

    fn silence(&self) -> Duration {
        self.heartbeat * SILENT_INTERVALS_MAX
    }
}

impl Sync {
    /// Locks the data folder and loads and compiles the last good snapshot in it. Reads files and takes its time:
    /// call it before serving. The metrics go into the registry.
    ///
    /// # Errors
    /// [`OpenError`] if the folder cannot be used. A damaged or missing snapshot is no error.
    pub fn open(config: Config, registry: &mut Registry) -> Result<Self, OpenError> {
        let mut folder = config.data_dir.as_deref().map(Folder::open).transpose()?;
        let restored = folder.as_mut().and_then(Folder::load);
        let status = Arc::new(SyncStatus::default());
        let metrics = Metrics::register(registry, &status);
        Ok(Self { config, folder, restored, status, metrics, reports: None })
    }

    /// Tells the control plane what is found of unhealthy endpoints.
    #[must_use]
    pub fn reporting(self, reports: watch::Receiver<Arc<HealthReport>>) -> Self {
        Self { reports: Some(reports), ..self }
    }

    /// How it fares, for `/readyz`.
    #[must_use]
    pub fn status(&self) -> Arc<SyncStatus> {
        Arc::clone(&self.status)
    }

    /// Serves what was restored from disk, then follows the control plane. Returns after `shutdown` became true
    /// (or its sender is gone) and the last snapshot is on disk. Wants a runtime with I/O and time that is not a
    /// worker's; long work goes to its blocking threads.
    pub async fn run(self, publisher: Arc<Publisher>, shutdown: watch::Receiver<bool>) {
        let Self { config, folder, restored, status, metrics, reports } = self;
        config.warn_of_token_in_the_clear();
        let held = Arc::new(Mutex::new(Held::default()));
        let (changed, changes) = watch::channel(());
        let keeper = folder.map(|folder| Keeper {
            folder: Arc::new(Mutex::new(folder)),
            held: Arc::clone(&held),
            metrics: metrics.clone(),
        });
        let follower = Follower {
            config,
            restored,
            applier: Applier { held, publisher, status, metrics, changed },
            reports,
            failing: None,
        };
        let keep = async {
            if let Some(keeper) = keeper {
                keeper.run(changes, shutdown.clone()).await;
            }
        };
        // The follower takes the sender of changes with it when it ends; then the keeper ends as well.
        tokio::join!(follower.run(shutdown.clone()), keep);
    }
}

/// The loop around sessions.
struct Follower {
    config: Config,
    /// Until it is served, or something newer is.
    restored: Option<Restored>,
    applier: Applier,
    reports: Option<Reports>,
    /// The last thing that was logged as wrong, so that it is logged once.
    failing: Option<String>,
}

impl Follower {
    async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(fastrand::Rng::new());
        while !*shutdown.borrow() {
            self.serve_restored().await;
            let begun = Instant::now();
            let outcome = self.connect_and_follow(&mut shutdown).await;
            let lasted = if self.applier.status.get().connected { begun.elapsed() } else { Duration::ZERO };
            self.applier.status.connected(false);
            match outcome {
                Ok(()) => return,
                Err(error) => self.report(&error),
            }
            tokio::select! {
                () = sleep(backoff.pause_after(lasted)) => {}
                () = stopping(&mut shutdown) => return,
            }
        }
    }

    async fn connect_and_follow(&mut self, shutdown: &mut watch::Receiver<bool>) -> Result<(), LinkError> {
        let hello = self.hello();
        let link = tokio::select! {
            opened = Link::open(&self.config, hello) => opened?,
            () = stopping(shutdown) => return Ok(()),
        };
        self.applier.status.connected(true);
        self.applier.metrics.connects.inc();
        self.failing = None;
        tracing::info!(control_plane = %self.config.endpoint.uri(), "connected to the control plane");
        session::follow(link, &self.applier, &self.config, self.reports.clone(), shutdown).await
    }

    fn hello(&self) -> Hello {
        let held = lock(&self.applier.held);
        Hello {
            node_id: self.config.node_id.clone(),
            labels: self.config.labels.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store_id: held.store_id().to_owned(),
            revision: held.revision(),
            checksum: held.checksum().to_bytes().to_vec(),
        }
    }

    /// Publishes the snapshot from disk. If that fails (a listener's port is taken), it is tried again before each
    /// connection, for as long as nothing newer is served.
    async fn serve_restored(&mut self) {
        let Some(restored) = self.restored.take() else { return };
        if lock(&self.applier.held).revision() != 0 {
            return;
        }
        let revision = restored.held.revision();
        match self.applier.publisher.publish(restored.snapshot.clone()).await {
            Ok(()) => {
                self.applier.status.serving(Source::Disk, restored.held.store_id(), revision);
                *lock(&self.applier.held) = restored.held;
                tracing::info!(snapshot = revision, "serving the last good snapshot from disk");
            }
            Err(faults) => {
                let reason = faults.first().map_or("", |fault| fault.message.as_str());
                if self.applier.status.get().refused.is_none() {
                    tracing::error!(revision, faults = faults.len(), reason, "cannot serve the snapshot from disk");
                }
                self.applier.status.refused(revision, faults);
                self.restored = Some(restored);
            }
        }
    }

    /// Logs what is wrong once, not at each try.
    fn report(&mut self, error: &LinkError) {
        let text = error.to_string();
        if self.failing.as_ref() != Some(&text) {
            let control_plane = self.config.endpoint.uri();
            let hint = error.hint(&self.config);
            tracing::warn!(%control_plane, error = text, hint, "no control plane; still trying");
            self.failing = Some(text);
        }
    }
}

/// Returns when the process is to end.
async fn stopping(shutdown: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could say so.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// What the lock guards is whole at any moment, so a panic of another holder does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn default_node_id(port: u16) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}:{port}", if host.is_empty() { "proxy" } else { host })
}

#[cfg(test)]
mod tests;
