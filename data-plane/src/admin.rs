//! The admin port: `/metrics`, `/healthz` and `/readyz`, over HTTP/1 and bounded.
//!
//! One answer per connection, so that no idle client holds one of the few connections for long.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::{encoding::text, registry::Registry};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::sync::{self, SyncStatus};

/// The most connections at a time; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 64;

/// For the head of a request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole connection.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes that are buffered of a request.
const BUFFER_BYTES_MAX: usize = 16 << 10;

/// The most faults that `/readyz` shows.
const FAULTS_SHOWN_MAX: usize = 20;

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// How the configuration path fares.
    pub status: Arc<SyncStatus>,
    /// True from the moment the process drains: it is not ready any more.
    pub draining: watch::Receiver<bool>,
    /// Every metric of the process.
    pub registry: Arc<Mutex<Registry>>,
}

impl Admin {
    /// Serves the port until the future is dropped.
    pub async fn serve(self, listener: TcpListener) -> Infallible {
        let app = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let app = app.clone();
                    tokio::spawn(async move {
                        serve_connection(stream, app).await;
                        drop(permit);
                    });
                }
                // Out of file descriptors, mostly: others will be closed.
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, app: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    // Whatever goes wrong with a connection is the client's concern alone.
    let _ = timeout(CONNECTION_TIMEOUT, connection).await;
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let encoded = spawn_blocking(move || {
        let registry = admin.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut body = String::new();
        text::encode(&mut body, &registry).map(|()| body)
    });
    match encoded.await {
        Ok(Ok(body)) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], body).into_response()
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded\n").into_response(),
    }
}

/// 200 only if this proxy serves a snapshot and is to be sent requests.
async fn ready(State(admin): State<Admin>) -> Response {
    let state = admin.status.get();
    let draining = *admin.draining.borrow();
    let reason = match state.source {
        _ if draining => Some("draining"),
        None => Some("no_snapshot"),
        Some(_) => None,
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ready": reason.is_none(),
        "reason": reason,
        "revision": state.revision,
        "store_id": state.store_id,
        "source": state.source.map(sync::Source::label),
        "control_plane": {
            "connected": state.connected,
            "last_contact_age_ms": state.last_contact.map(|contact| u64::try_from(contact.elapsed().as_millis()).unwrap_or(u64::MAX)),
        },
        "refused": state.refused.as_ref().map(refused),
    });
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn refused(refused: &sync::Refused) -> serde_json::Value {
    let shown = refused.faults.iter().take(FAULTS_SHOWN_MAX).map(|fault| {
        json!({
            "code": fault.code,
            "kind": fault.kind().noun(),
            "name": fault.name,
            "field": fault.field,
            "message": fault.message,
        })
    });
    json!({
        "revision": refused.revision,
        "fault_count": refused.faults.len(),
        "faults": shown.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
