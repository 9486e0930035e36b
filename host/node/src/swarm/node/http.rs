//! `/metrics` and `/healthz`, for those who run the node.

use super::Core;
use crate::error::NodeError;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, body::Body};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listen at this address.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| NodeError::Setting(format!("`http` is \"{address}\", where this node cannot listen: {error}")))
}

/// Answer until the node stops.
pub(super) async fn run(core: Arc<Core>, listener: TcpListener) {
    let stop = core.stop.clone();
    let router: Router =
        Router::new().route("/metrics", get(metrics)).route("/healthz", get(health)).with_state(Arc::clone(&core));
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "metrics are no longer served");
    }
}

async fn metrics(State(core): State<Arc<Core>>) -> impl IntoResponse {
    match super::metrics::text(&core) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, METRICS)], Body::from(text)),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], Body::empty()),
    }
}

/// Ready: 200. Draining: 503, so that whoever spreads load leaves the node alone.
async fn health(State(core): State<Arc<Core>>) -> impl IntoResponse {
    let draining = core.serving.is_draining();
    let (code, state) =
        if draining { (StatusCode::SERVICE_UNAVAILABLE, "draining") } else { (StatusCode::OK, "ready") };
    let body = serde_json::json!({ "state": state, "node": core.key.public().to_string() });
    (code, [(header::CONTENT_TYPE, "application/json")], Body::from(format!("{body}\n")))
}
