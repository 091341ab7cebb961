//! The HTTP port: /metrics and /healthz.

use std::sync::Arc;

use axum::{
    Router,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{publish::Publisher, telemetry::Metrics};

/// What Prometheus asks for by default.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn serve(
    listener: TcpListener,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let healthz = async move || format!("ok, at revision {}\n", publisher.revision());
    let metrics = async move || -> Response { ([(CONTENT_TYPE, OPENMETRICS)], metrics.encode()).into_response() };
    let router = Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics));
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the HTTP server ended");
    }
}
