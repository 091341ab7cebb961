//! Wiring and life cycle of a data plane: what is started, in which order, and how it ends.

use std::{
    fs::OpenOptions,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use prometheus_client::registry::Registry;
use rustygate_proto::v1 as wire;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    admin::Admin,
    consumer::Verifier,
    crew::{Crew, CrewCollector},
    disk::OpenError,
    forward::TrustedProxies,
    health::{self, Health, HealthCollector},
    limit::PerKey,
    live::States,
    plugin::jwt::keeper::{Keeper, KeyCollector},
    publish::Publisher,
    resolve::{Lookup, NameCollector, Names, Resolver},
    settings::{AccessLogTarget, Settings},
    snapshot::{Snapshot, SnapshotCell},
    sync::{Config, ConfigError, Sync, SyncStatus},
    telemetry::{
        access_log::Sink,
        certificates::CertificateCollector,
        log::Log,
        metrics::{RequestCollector, RequestMetrics},
    },
    threads::Threads,
    worker::{Policy, Shared},
};

/// How much lower than the workers' the priority of everything beside them is. On a core that both want, the workers
/// then need not wait for the end of a time slice that goes to compiling or saving a large snapshot.
const BACKGROUND_NICENESS: i32 = 5;

/// How long the last write of the snapshot to disk may take on shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what the background is in the middle of may take when a data plane is dropped.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a shutdown looks whether the connections have ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Why a data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings that make no sense.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] OpenError),
    /// The admin port is taken, mostly.
    #[error("cannot listen on --admin-listen {address}: {source}")]
    Admin {
        /// As set.
        address: SocketAddr,
        /// The system's.
        source: io::Error,
    },
    /// The port for clients is taken, mostly.
    #[error("--listen: {0}")]
    Listen(String),
    /// The access log cannot be written.
    #[error("cannot open --access-log {file}: {source}")]
    AccessLog {
        /// As set.
        file: String,
        /// The system's.
        source: io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start threads: {0}")]
    Threads(#[from] io::Error),
    /// The system delivers no signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// A running data plane. Dropping it ends it at once; [`Running::shutdown`] lets it drain.
#[derive(Debug)]
pub struct Running {
    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub admin: SocketAddr,
    publisher: Arc<Publisher>,
    threads: Arc<Threads>,
    status: Arc<SyncStatus>,
    draining: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    syncing: Option<JoinHandle<()>>,
    log_writer: Option<thread::JoinHandle<()>>,
    /// Runs sync, health checks and the admin port: nothing that a request waits for.
    background: Option<Runtime>,
    drain_delay: Duration,
    drain_timeout: Duration,
}

/// Runs a data plane until SIGTERM or SIGINT, then lets it drain. Another of these signals ends the drain at once; the
/// snapshot is written to disk all the same.
///
/// # Errors
/// [`StartError`], each with the setting that is at fault.
pub async fn run(settings: Settings, log: Option<&Log>) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let running = start_with_log(settings, log).await?;
    tracing::info!(admin = %running.admin, "started");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining");
    let hurry = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    running.shutdown_or(hurry).await;
    Ok(())
}

/// Starts a data plane. It serves as soon as it has a snapshot, from disk or from the control plane; see
/// [`Running::ready`]. Until then it answers 503 on `--listen`.
///
/// # Errors
/// [`StartError`], each with the setting that is at fault.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    start_with_log(settings, None).await
}

/// The same, with the process's log among the metrics.
///
/// # Errors
/// The same.
pub async fn start_with_log(settings: Settings, log: Option<&Log>) -> Result<Running, StartError> {
    let config = Config::new(&settings)?;
    let mut registry = Registry::default();
    if let Some(log) = log {
        log.register(&mut registry);
    }
    let metrics = Arc::new(RequestMetrics::default());
    registry.register_collector(Box::new(RequestCollector(Arc::clone(&metrics))));
    let cell = Arc::new(SnapshotCell::default());
    registry.register_collector(Box::new(CertificateCollector(Arc::clone(&cell))));
    let health = Arc::new(Health::default());
    let names = Arc::new(Names::default());
    registry.register_collector(Box::new(NameCollector(Arc::clone(&names))));
    registry.register_collector(Box::new(HealthCollector(Arc::clone(&health))));
    let states = Arc::<States>::default();
    let keeper = Arc::new(Keeper::new(Arc::clone(&states), Arc::clone(&names)));
    registry.register_collector(Box::new(KeyCollector(Arc::clone(&keeper))));
    let workers = settings.workers.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let crew = Arc::new(Crew::new(workers));
    registry.register_collector(Box::new(CrewCollector(Arc::clone(&crew))));

    let background = Background(Some(background_runtime()?));
    let handle = background.handle();
    let opening = handle.spawn_blocking(move || (Sync::open(config, &mut registry), registry));
    let (sync, registry) = opening.await.map_err(io::Error::other)?;
    let sync = sync?.reporting(health.reports());
    let address = settings.admin_listen;
    let admin_listener = handle.spawn(TcpListener::bind(address)).await.map_err(io::Error::other)?;
    let admin_listener = admin_listener.map_err(|source| StartError::Admin { address, source })?;
    let admin = admin_listener.local_addr()?;

    let (sink, log_writer) = open_access_log(&settings.access_log)?.unzip();
    let shared = Arc::new(Shared {
        snapshot: Arc::clone(&cell),
        metrics,
        health: Arc::clone(&health),
        clients: PerKey::default(),
        names: Arc::clone(&names),
        verifier: Arc::new(Verifier::new(crew.len() / 2)),
        states,
        policy: policy(&settings),
    });
    let threads = Arc::new(Threads::start(&crew, &shared, sink.as_ref())?);
    let resolver = Arc::new(Resolver::new(Arc::clone(&names), Lookup::new(settings.dns_servers), handle.clone()));
    let (cell_of_publisher, resolver_of_publisher) = (Arc::clone(&cell), Arc::clone(&resolver));
    let publisher = Publisher::new(cell_of_publisher, settings.listen, Arc::clone(&threads), resolver_of_publisher);
    let publisher = Arc::new(publisher);
    // Revision 0: whoever comes before the first snapshot is told so.
    publisher.publish(Snapshot::default()).await.map_err(|faults| cannot_listen(&faults))?;

    let (draining, drains) = watch::channel(false);
    let (stopping, stops) = watch::channel(false);
    let status = sync.status();
    let admin_port = Admin { status: Arc::clone(&status), draining: drains, registry: Arc::new(Mutex::new(registry)) };
    handle.spawn(admin_port.serve(admin_listener));
    handle.spawn(resolver.sweep(Arc::clone(&cell)));
    handle.spawn(keeper.run(Arc::clone(&cell), status.subscribe()));
    handle.spawn(health::check_all(health, cell, names, status.subscribe()));
    let syncing = handle.spawn(sync.run(Arc::clone(&publisher), stops));
    Ok(Running {
        admin,
        publisher,
        threads,
        status,
        draining,
        stopping,
        syncing: Some(syncing),
        log_writer,
        background: background.keep(),
        drain_delay: Duration::from_secs(settings.drain_delay),
        drain_timeout: Duration::from_secs(settings.drain_timeout),
    })
}

impl Running {
    /// The listeners that clients are accepted on now, by name.
    #[must_use]
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        self.publisher.listeners()
    }

    /// Returns when a snapshot is served.
    pub async fn ready(&self) {
        let mut status = self.status.subscribe();
        // The sender is ours, so there always is one.
        let _ = status.wait_for(|state| state.revision > 0).await;
    }

    /// Ends it in order: not ready any more; then, after the drain delay, accept no more and let connections end, at
    /// most for the drain timeout; then write the snapshot to disk.
    pub async fn shutdown(self) {
        self.shutdown_or(std::future::pending()).await;
    }

    /// The same, but waits for connections no longer once `hurry` is over.
    pub async fn shutdown_or(mut self, hurry: impl Future<Output = ()>) {
        tokio::select! {
            () = self.drain() => {}
            () = hurry => tracing::warn!("told to hurry; closing what is still open"),
        }
        self.stopping.send_replace(true);
        if let Some(syncing) = self.syncing.take() {
            let _ = timeout(FLUSH_TIMEOUT, syncing).await;
        }
    }

    async fn drain(&self) {
        self.draining.send_replace(true);
        sleep(self.drain_delay).await;
        self.publisher.drain().await;
        let deadline = Instant::now() + self.drain_timeout;
        loop {
            let open = self.threads.connection_count().await;
            if open == 0 {
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!(connections = open, "the drain timeout is over; closing what is still open");
                return;
            }
            sleep(DRAIN_POLL).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.threads.stop();
        if let Some(background) = self.background.take() {
            // In a thread, since a runtime cannot be waited for inside another. A write to disk that is under way ends
            // first: afterwards nobody holds the data folder.
            let _ = thread::spawn(move || background.shutdown_timeout(BACKGROUND_TIMEOUT)).join();
        }
        if let Some(writer) = self.log_writer.take() {
            // The workers are gone, and with them every sender to the writer but for those it has yet to read.
            let _ = writer.join();
        }
    }
}

fn background_runtime() -> io::Result<Runtime> {
    // Of the calling thread; a failure leaves the background as urgent as the workers, which is no harm by itself.
    let niceness = rustix::process::getpriority_process(None).unwrap_or(0).saturating_add(BACKGROUND_NICENESS);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("background")
        .on_thread_start(move || {
            let _ = rustix::process::setpriority_process(None, niceness);
        })
        .enable_all()
        .build()
}

/// A runtime cannot be dropped inside another: if the start fails midway, this one is let go of instead.
struct Background(Option<Runtime>);

impl Background {
    fn handle(&self) -> tokio::runtime::Handle {
        self.0.as_ref().expect("it is there until it is kept").handle().clone()
    }

    fn keep(mut self) -> Option<Runtime> {
        self.0.take()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn open_access_log(target: &AccessLogTarget) -> Result<Option<(Sink, thread::JoinHandle<()>)>, StartError> {
    match target {
        AccessLogTarget::Off => Ok(None),
        AccessLogTarget::Stdout => Ok(Some(Sink::start(io::stdout())?)),
        AccessLogTarget::File(path) => {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            let file = opened.map_err(|source| StartError::AccessLog { file: path.display().to_string(), source })?;
            Ok(Some(Sink::start(file)?))
        }
    }
}

fn cannot_listen(faults: &[wire::Fault]) -> StartError {
    let fault = |fault: &wire::Fault| format!("{} ({})", fault.message, fault.hint);
    StartError::Listen(faults.first().map_or_else(String::new, fault))
}

fn policy(settings: &Settings) -> Policy {
    Policy {
        connections_max: settings.max_connections,
        connections_per_ip_max: settings.max_connections_per_ip,
        tls_handshake_timeout: Duration::from_secs(settings.tls_handshake_timeout),
        head_bytes_max: usize::try_from(settings.max_head_bytes).unwrap_or(usize::MAX),
        head_fields_max: usize::try_from(settings.max_head_fields).unwrap_or(usize::MAX),
        body_bytes_max: settings.max_body_bytes,
        head_timeout: Duration::from_secs(settings.head_timeout),
        body_timeout: Duration::from_secs(settings.body_timeout),
        body_rate_min: settings.min_body_rate,
        write_rate_min: settings.min_write_rate,
        write_timeout: Duration::from_secs(settings.write_timeout),
        keep_alive_timeout: Duration::from_secs(settings.keep_alive_timeout),
        requests_per_connection_max: (settings.max_requests_per_connection > 0)
            .then_some(settings.max_requests_per_connection),
        connection_age_max: (settings.max_connection_age > 0)
            .then_some(Duration::from_secs(settings.max_connection_age)),
        trusted_proxies: TrustedProxies::new(settings.trusted_proxies.clone()),
        debug_headers: settings.debug_headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_worker_yields_to_them() {
        let own = rustix::process::getpriority_process(None).expect("Linux tells");
        let background = background_runtime().expect("threads");
        let of_thread = || rustix::process::getpriority_process(None).expect("Linux tells");
        // A blocking thread is started by another of the background, from which it has its priority already.
        let both = background.block_on(
            background
                .spawn(async move { (of_thread(), tokio::task::spawn_blocking(of_thread).await.expect("no panic")) }),
        );
        let lower = (own + BACKGROUND_NICENESS).min(19);
        assert_eq!(both.expect("no panic"), (lower, lower));
        assert_eq!(rustix::process::getpriority_process(None).expect("Linux tells"), own, "the caller keeps its own");
    }
}
