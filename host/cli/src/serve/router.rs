//! Which path is answered by what.

use super::error::{ApiError, ErrorBody};
use super::models::{ModelList, ModelObject};
use super::{Server, admission, chat, completions, embeddings, json, metrics, openapi, page, receipts};
use crate::problem::Problem;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// Paths that say themselves what they are.
pub(super) const PATHS: [&str; 8] = [
    "/",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/healthz",
    "/metrics",
    "/openapi.json",
];

/// The whole of it.
pub(super) fn router(server: Arc<Server>, origins: &[String]) -> Result<Router, Problem> {
    let router = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/receipts/{receipt}", get(receipts::receipt))
        .route("/v1/receipts/{receipt}/summary", get(receipts::summary))
        .route("/v1/receipts/{receipt}/audit", post(receipts::audit))
        .route("/", get(page::page))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::document))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&server), admission::admit));
    let router = match self::origins(origins)? {
        None => router,
        Some(allowed) => router.layer(cors(allowed)),
    };
    Ok(router.with_state(server))
}

/// The origins whose pages may ask; none without any.
pub(super) fn origins(given: &[String]) -> Result<Option<AllowOrigin>, Problem> {
    let one = |origin: &String| {
        let uri: Option<Uri> = origin.parse().ok();
        let whole = uri.is_some_and(|uri| uri.scheme().is_some() && uri.authority().is_some() && uri.path() == "/");
        let value = HeaderValue::from_str(origin).ok().filter(|_| whole && !origin.ends_with('/'));
        value.ok_or_else(|| {
            Problem::usage(format!("--cors {origin:?} is no origin")).hint("for example: https://example.org, or *")
        })
    };
    match given {
        [] => Ok(None),
        [any] if any == "*" => Ok(Some(AllowOrigin::any())),
        _ => Ok(Some(AllowOrigin::list(given.iter().map(one).collect::<Result<Vec<_>, _>>()?))),
    }
}

/// What pages of other sites may do: ask, with a key that they have.
fn cors(origins: AllowOrigin) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        // Clients of OpenAI send headers about themselves.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER, header::HeaderName::from_static("x-request-id")])
        .max_age(Duration::from_secs(600))
}

async fn unknown(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no {method} {path} here: see /openapi.json"))
        .code("unknown_url")
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("{path} is not asked with {method}: see /openapi.json");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).code("method_not_supported")
}

/// The models that are served.
#[utoipa::path(
    get, path = "/v1/models", tag = "models", security((), ("key" = [])),
    responses((status = 200, description = "All of them", body = ModelList), (status = "4XX", description = "No key", body = ErrorBody))
)]
pub(super) async fn models(State(server): State<Arc<Server>>) -> Response {
    json(&server.models.list(server.created))
}

/// One of the models.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "models", security((), ("key" = [])),
    params(("model" = String, Path, description = "Its name")),
    responses((status = 200, description = "It is served", body = ModelObject), (status = "4XX", description = "It is not, or no key", body = ErrorBody))
)]
pub(super) async fn model(
    State(server): State<Arc<Server>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|error| ApiError::field("model", error.body_text()))?;
    Ok(json(&server.models.find(&name)?.object(server.created)))
}

/// Whether the server is well. Ready: 200. Ending: 503, so that whoever spreads load leaves it alone.
#[utoipa::path(
    get, path = "/healthz", tag = "operation",
    responses((status = 200, description = "Ready"), (status = 503, description = "Ending"))
)]
pub(super) async fn health(State(server): State<Arc<Server>>) -> Response {
    let (code, state) = match server.stop.is_cancelled() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "ending"),
        false => (StatusCode::OK, "ready"),
    };
    (code, json(&serde_json::json!({ "state": state }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_origins() {
        let of = |given: &[&str]| origins(&given.iter().map(|&origin| origin.to_owned()).collect::<Vec<_>>());
        assert!(of(&["*"]).is_ok());
        assert!(of(&["https://example.org", "http://localhost:3000"]).is_ok());
        for wrong in ["example.org", "https://example.org/", "https://example.org/page", "", "* ", "a b"] {
            assert!(of(&[wrong]).is_err(), "{wrong}");
        }
        assert!(of(&["*", "https://example.org"]).is_err());
    }
}
