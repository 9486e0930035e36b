//! What a client is told when something went wrong, in the shape that clients of OpenAI read.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ostrakon_node::generate::{OutOfRange, Refusal};
use ostrakon_node::{ErrorKind, NodeError};
use serde::Serialize;
use std::time::Duration;
use utoipa::{IntoResponses, ToSchema};

/// An error, as its clients get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorBody {
    error: ErrorObject,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ErrorDetails)]
struct ErrorObject {
    /// For people: what was wrong, and what to do.
    message: String,
    /// Whose fault it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field that was wrong.
    param: Option<String>,
    /// For programs.
    code: Option<&'static str>,
}

/// What is answered instead, to any request for text or receipts.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "for the description")]
pub(super) enum Refusals {
    /// Something is wrong with the request, or there is no room.
    #[response(status = "4XX")]
    Request(ErrorBody),
    /// Something is wrong with the server.
    #[response(status = "5XX")]
    Server(ErrorBody),
}

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    object: ErrorObject,
    after: Option<Duration>,
}

const INVALID: &str = "invalid_request_error";

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            _ if status.is_server_error() => "server_error",
            _ => INVALID,
        };
        Self { status, object: ErrorObject { message: message.into(), kind, param: None, code: None }, after: None }
    }

    /// The request makes no sense.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field of the request makes no sense.
    pub(super) fn field(param: impl Into<String>, why: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self::invalid(format!("`{param}`: {why}")).of_field(param)
    }

    /// The field is one of OpenAI's, and not of this server's.
    pub(super) fn unsupported(param: impl Into<String>, why: &str) -> Self {
        Self::field(param, format!("not supported here: {why}")).code("unsupported_parameter")
    }

    /// Everything is full.
    pub(super) fn busy(message: impl Into<String>, after: Duration) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded");
        Self { after: Some(after), ..error }
    }

    /// Something failed that is not the client's fault. What it was is for the log.
    pub(super) fn internal(why: &str) -> Self {
        tracing::error!(why, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the model failed on this request: the server's log says why")
    }

    /// Nobody runs the model now. Who failed is for the log.
    pub(super) fn unavailable(why: &str) -> Self {
        tracing::error!(why, "nobody runs the model now");
        let message = "no nodes of the swarm run this model now: the server's log says why";
        Self { after: Some(Duration::from_secs(5)), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// Nothing more is answered.
    pub(super) fn ended() -> Self {
        Self {
            after: Some(Duration::from_secs(5)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is ending")
        }
    }

    pub(super) const fn code(mut self, code: &'static str) -> Self {
        self.object.code = Some(code);
        self
    }

    pub(super) fn of_field(mut self, param: impl Into<String>) -> Self {
        self.object.param = Some(param.into());
        self
    }

    /// What the client reads.
    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody { error: self.object.clone() }
    }

    #[cfg(test)]
    pub(super) fn param(&self) -> Option<&str> {
        self.object.param.as_deref()
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.object.message
    }
}

/// What a generator refuses. `prompt` is the field that the prompt came in.
pub(super) fn refused(refusal: Refusal, prompt: &str) -> ApiError {
    match refusal {
        Refusal::Setting(OutOfRange { name, value, range }) => ApiError::field(name, format!("{value}: {range}")),
        Refusal::Busy { after, .. } => ApiError::busy(refusal.to_string(), after),
        Refusal::TooLong { .. } => {
            ApiError::invalid(refusal.to_string()).of_field(prompt).code("context_length_exceeded")
        }
        Refusal::Empty | Refusal::Token { .. } => ApiError::invalid(refusal.to_string()).of_field(prompt),
        Refusal::Top(_) => ApiError::invalid(refusal.to_string()).of_field("logprobs"),
        Refusal::Ended => ApiError::ended(),
    }
}

/// What the tokenizer or the chat template says of a text of the client's.
pub(super) fn unreadable(error: &NodeError, prompt: &str) -> ApiError {
    match error {
        NodeError::Tokens(_) => ApiError::invalid(error.to_string()).of_field(prompt),
        _ if error.kind() == ErrorKind::Usage => ApiError::invalid(error.to_string()).of_field(prompt),
        _ => ApiError::internal(&error.to_string()),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // Strings and nothing else: it can be written.
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_four_keys_are_there() {
        let body = |error: ApiError| serde_json::to_value(error.body()).unwrap();
        assert_eq!(
            body(ApiError::invalid("no")),
            json!({"error": {"message": "no", "type": "invalid_request_error", "param": null, "code": null}})
        );
        let error = ApiError::unsupported("tools", "give none");
        assert_eq!(
            body(error),
            json!({"error": {"message": "`tools`: not supported here: give none", "type": "invalid_request_error",
                   "param": "tools", "code": "unsupported_parameter"}})
        );
    }

    #[test]
    fn whoever_is_refused_for_now_is_told_when_to_come_back() {
        let busy = refused(Refusal::Busy { waiting: 3, after: Duration::from_millis(10) }, "prompt").into_response();
        assert_eq!(busy.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(busy.headers()[header::RETRY_AFTER], "1");
        assert_eq!(refused(Refusal::Ended, "prompt").into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        let long = refused(Refusal::TooLong { tokens: 9, context: 8 }, "messages");
        assert_eq!((long.param(), long.object.code), (Some("messages"), Some("context_length_exceeded")));
    }
}
