//! Wiring and lifecycle: opens the store, builds every part, binds the ports, and stops it all again.

mod accept;
mod http;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustygate_proto::v1::{
    self as wire, config_service_server::ConfigServiceServer, fleet_service_server::FleetServiceServer,
    snapshot_service_server::SnapshotServiceServer, token_service_server::TokenServiceServer,
};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, Server, ServerTlsConfig};

pub use self::accept::Peer;
use crate::{
    api::{Config, FleetApi, TokenApi},
    apply::Applier,
    auth::{Gate, Tokens},
    discovery::{Discovery, Timing},
    fleet::Fleet,
    publish::Publisher,
    secrets::{Secrets, SecretsError},
    settings::{OpenDoor, Settings},
    store::{Store, StoreError},
    telemetry::Metrics,
};

/// The most bytes of an apply or of its answer.
const LARGE_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The most bytes of any other message from a client; a proxy's Nack with its faults is the biggest.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const STREAMS_PER_CONNECTION_MAX: u32 = 128;

/// Connections beyond those of proxies: clients, and proxies that reconnect before we saw them go.
const SPARE_CONNECTIONS: usize = 1_000;

/// How long calls may still run when the process stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks at a history that could not be shortened.
const PRUNE_PAUSE: Duration = Duration::from_secs(10);

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It would stand open.
    #[error(transparent)]
    OpenDoor(#[from] OpenDoor),
    /// No store, no control plane.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No key, or one that is none.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// A port is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Certificate or key cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadTls {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Certificate and key are not what they should be.
    #[error("--tls-cert and --tls-key cannot be used: {0}")]
    Tls(String),
    /// Reflection could not be set up.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A bug.
    #[error("the stored configuration could not be loaded: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A control plane that runs.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where /metrics and /healthz are served.
    pub http: SocketAddr,
    applier: Arc<Applier>,
    store: Arc<Store>,
    stop: CancellationToken,
    kill: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// Starts a control plane; it serves when this returns.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    start_with(settings, Timing::default()).await
}

/// Starts a control plane whose streams wait for other times than the usual.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub async fn start_with(settings: Settings, timing: Timing) -> Result<Running, StartError> {
    settings.check_doors()?;
    let tls = tls(&settings).await?;
    let grpc = bind(settings.grpc_listen).await?;
    let http = bind(settings.http_listen).await?;
    let addresses = (local_address(&grpc, settings.grpc_listen)?, local_address(&http, settings.http_listen)?);

    let metrics = Metrics::new();
    let store = Store::open(&settings.database).await?;
    // With the store's lock held, so that of two that start at once one makes the key.
    let source = settings.secrets_key_source();
    let lost = source.would_be_made() && store.has_secrets().await?;
    let secrets = if lost { Secrets::default() } else { Secrets::load(&source)? };
    let store = Arc::new(store.with_secrets(secrets).await?);
    let loaded = store.load().await?;
    let applier = {
        let (store, metrics) = (store.clone(), metrics.clone());
        Arc::new(tokio::task::spawn_blocking(move || Applier::new(store, loaded, metrics)).await?)
    };
    let stop = CancellationToken::new();
    let kill = CancellationToken::new();
    let tokens = Arc::new(Tokens::load(store.clone(), stop.clone()).await?);
    let fleet = Fleet::new(settings.proxies_max, metrics.clone());
    let publisher = applier.publisher().clone();

    let parts = Parts { store: store.clone(), applier: applier.clone(), fleet, metrics: metrics.clone(), timing };
    let gate = Gate::new(settings.require_tokens.then(|| tokens.clone()), stop.clone(), metrics.clone());
    let connections_max = settings.proxies_max.saturating_add(SPARE_CONNECTIONS);
    let incoming = accept::incoming(grpc, connections_max, kill.clone(), metrics.clone());
    let server = server(tls)?.layer(gate).add_routes(parts.routes(tokens)?.prepare());
    let serve_grpc = {
        let stop = stop.clone();
        async move {
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
                tracing::error!(%error, "the gRPC server ended");
            }
        }
    };
    let tasks = vec![
        tokio::spawn(serve_grpc),
        tokio::spawn(http::serve(http, publisher.clone(), metrics.clone(), stop.clone())),
        tokio::spawn(prune(store.clone(), publisher, settings.history_revisions, metrics, stop.clone())),
    ];
    tracing::info!(
        grpc = %addresses.0,
        http = %addresses.1,
        database = %settings.database.display(),
        revision = applier.publisher().revision(),
        tokens = settings.require_tokens,
        "control plane started"
    );
    Ok(Running { grpc: addresses.0, http: addresses.1, applier, store, stop, kill, tasks })
}

impl Running {
    /// Applies, besides what comes by gRPC.
    #[must_use]
    pub fn applier(&self) -> &Arc<Applier> {
        &self.applier
    }

    /// Stops accepting, ends streams, lets calls finish for some seconds, and returns when nothing runs any more.
    pub async fn shutdown(self) {
        self.stop.cancel();
        let finished = async {
            for task in self.tasks {
                let _ = task.await;
            }
        };
        tokio::pin!(finished);
        if timeout(SHUTDOWN_TIMEOUT, &mut finished).await.is_err() {
            tracing::warn!("calls still run: their connections are closed");
            self.kill.cancel();
            let _ = timeout(SHUTDOWN_TIMEOUT, &mut finished).await;
        }
        self.applier.idle().await;
        self.store.close().await;
        tracing::info!("control plane stopped");
    }
}

struct Parts {
    store: Arc<Store>,
    applier: Arc<Applier>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    timing: Timing,
}

impl Parts {
    fn routes(self, tokens: Arc<Tokens>) -> Result<tonic::service::Routes, tonic_reflection::server::Error> {
        let publisher = self.applier.publisher().clone();
        let discovery = Discovery {
            store: self.store.clone(),
            publisher: publisher.clone(),
            fleet: self.fleet.clone(),
            metrics: self.metrics.clone(),
            timing: self.timing,
        };
        let config = Config { store: self.store, applier: self.applier, metrics: self.metrics };
        let (_, health) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let mut routes = tonic::service::Routes::builder();
        routes
            .add_service(
                ConfigServiceServer::new(config)
                    .max_decoding_message_size(LARGE_MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(LARGE_MESSAGE_BYTES_MAX),
            )
            .add_service(SnapshotServiceServer::new(discovery).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(
                FleetServiceServer::new(FleetApi { fleet: self.fleet, publisher })
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(LARGE_MESSAGE_BYTES_MAX),
            )
            .add_service(TokenServiceServer::new(TokenApi { tokens }).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(health.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(reflection().build_v1()?.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MESSAGE_BYTES_MAX));
        Ok(routes.routes())
    }
}

fn server(tls: Option<ServerTlsConfig>) -> Result<Server, StartError> {
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX);
    match tls {
        Some(tls) => server.tls_config(tls).map_err(|error| StartError::Tls(with_sources(&error))),
        None => Ok(server),
    }
}

/// tonic's own message says only that something failed.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

async fn tls(settings: &Settings) -> Result<Option<ServerTlsConfig>, StartError> {
    let (Some(certificate), Some(key)) = (&settings.tls_cert, &settings.tls_key) else { return Ok(None) };
    let identity = Identity::from_pem(read(certificate).await?, read(key).await?);
    Ok(Some(ServerTlsConfig::new().identity(identity).timeout(TLS_HANDSHAKE_TIMEOUT)))
}

async fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    tokio::fs::read(path).await.map_err(|source| StartError::ReadTls { path: path.to_owned(), source })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, source })
}

fn local_address(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Bind { address, source })
}

/// Keeps the history as long as it should be, a batch at a time, and the gauges of the store right.
async fn prune(
    store: Arc<Store>,
    publisher: Arc<Publisher>,
    keep: u64,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut heads = publisher.subscribe();
    loop {
        let oldest = (heads.borrow_and_update().revision.revision + 1).saturating_sub(keep);
        metrics.resources.set(i64::try_from(publisher.head().set.len()).unwrap_or(i64::MAX));
        let pruned = async {
            while store.prune(oldest).await? {}
            store.history_len().await
        };
        match pruned.await {
            Ok(kept) => {
                metrics.history_revisions.set(kept.cast_signed());
            }
            Err(error) => {
                tracing::error!(%error, "the history could not be shortened");
                sleep(PRUNE_PAUSE).await;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = heads.changed() => if changed.is_err() { return },
        }
    }
}
