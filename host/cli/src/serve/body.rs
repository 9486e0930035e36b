//! A request's body, as what it should be.
//!
//! # How
//!
//! 1. It must say that it is JSON: browsers send that to other sites only where they are allowed to.
//! 2. It is read within a bound and a time. All bodies that are being read or understood share a number of bytes.
//! 3. What is wrong is named by its field. A field that nobody knows is refused: its sender expects something of it.

use super::error::ApiError;
use super::limits::{BODIES, BODY_TIME};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Where bodies are read.
pub(super) struct Bodies {
    /// Bytes of one.
    most: usize,
    /// Bytes of all that may still come.
    room: Semaphore,
}

impl Bodies {
    pub(super) fn new(most: usize) -> Self {
        Self { most, room: Semaphore::new(BODIES.max(most)) }
    }

    /// Read one and understand it.
    pub(super) async fn read<T: DeserializeOwned>(&self, headers: &HeaderMap, body: Body) -> Result<T, ApiError> {
        expect_json(headers)?;
        let (bytes, _room) = match tokio::time::timeout(BODY_TIME, self.collect(headers, body)).await {
            Ok(read) => read?,
            Err(_) => {
                let message = format!("the request's body did not come within {} s", BODY_TIME.as_secs());
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message));
            }
        };
        parse(&bytes)
    }

    async fn collect(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<(Vec<u8>, Option<SemaphorePermit<'_>>), ApiError> {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > self.most) {
            return Err(self.too_large());
        }
        let (mut bytes, mut permits): (Vec<u8>, Option<SemaphorePermit<'_>>) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::invalid("the request's body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > self.most {
                return Err(self.too_large());
            }
            let permit = u32::try_from(data.len()).ok().and_then(|count| self.room.try_acquire_many(count).ok());
            let Some(permit) = permit else {
                return Err(ApiError::busy("too much is being sent to this server at once", Duration::from_secs(1)));
            };
            match &mut permits {
                Some(permits) => permits.merge(permit),
                None => permits = Some(permit),
            }
            bytes.extend_from_slice(&data);
        }
        Ok((bytes, permits))
    }

    fn too_large(&self) -> ApiError {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request's body has more than {} bytes", self.most))
    }
}

fn expect_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send JSON, and say so: Content-Type: application/json"))
}

/// What these bytes say.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // An array of a structure's fields in their order would be taken for it.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(ApiError::invalid("the request: an object in braces is wanted, not an array"));
    }
    let mut unknown: Option<String> = None;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let noting = &mut |path: serde_ignored::Path<'_>| {
        unknown.get_or_insert_with(|| named(&path).chars().take(200).collect());
    };
    let value =
        serde_path_to_error::deserialize(serde_ignored::Deserializer::new(&mut json, noting)).map_err(|error| {
            let path: String = error.path().to_string().chars().take(200).collect();
            let inner = error.into_inner();
            match (inner.classify(), path.as_str()) {
                (serde_json::error::Category::Data, ".") => ApiError::invalid(format!("the request: {inner}")),
                (serde_json::error::Category::Data, _) => ApiError::field(path, inner),
                _ => ApiError::invalid(format!("the request's body is not JSON: {inner}")),
            }
        })?;
    json.end().map_err(|error| ApiError::invalid(format!("the request's body is not JSON: {error}")))?;
    match unknown {
        None => Ok(value),
        Some(path) => {
            let message = format!("`{path}` is not known here: leave it out");
            Err(ApiError::invalid(message).of_field(path).code("unknown_parameter"))
        }
    }
}

/// A path as errors of known fields have it: `messages[0].mood`.
fn named(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", named(parent)),
        Path::Map { parent, key } => match named(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => named(parent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Thing {
        #[allow(dead_code)]
        model: String,
        #[allow(dead_code)]
        parts: Vec<Part>,
    }

    #[derive(Debug, Deserialize)]
    struct Part {
        #[allow(dead_code)]
        n: Option<u8>,
    }

    fn wrong(text: &str) -> (Option<String>, String) {
        let error = parse::<Thing>(text.as_bytes()).unwrap_err();
        (error.param().map(str::to_owned), error.message().to_owned())
    }

    #[test]
    fn fields_are_named() {
        assert!(parse::<Thing>(br#"{"model": "a", "parts": [{"n": null}, {}]} "#).is_ok());
        assert_eq!(wrong(r#"{"model": 3, "parts": []}"#).0.as_deref(), Some("model"));
        assert_eq!(wrong(r#"{"model": "a", "parts": [{}, {"n": 300}]}"#).0.as_deref(), Some("parts[1].n"));
        let (param, message) = wrong(r#"{"model": "a", "parts": [], "colour": [1, {"a": 2}]}"#);
        assert!(param.as_deref() == Some("colour") && message.contains("not known"), "{message}");
        assert_eq!(wrong(r#"{"model": "a", "parts": [{"n": 3}, {"m": 3}]}"#).0.as_deref(), Some("parts[1].m"));
        assert!(wrong(r#"{"parts": []}"#).1.contains("model"));
        assert!(wrong(r#"{"model": "a", "model": "b", "parts": []}"#).1.contains("duplicate"));
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        let deep = "[".repeat(100_000);
        let inside = format!(r#"{{"model": "a", "parts": [], "x": {deep}"#);
        for text in ["", "{", "{} {}", "\u{feff}{}", "nonsense", "[1,]", r#"["a", []]"#, deep.as_str(), inside.as_str()]
        {
            let message = wrong(text).1;
            assert!(
                message.contains("not JSON") || message.contains("the request:") || message.contains("recursion"),
                "{message}"
            );
        }
        assert!(parse::<Thing>(b"{\"model\": \"\xff\", \"parts\": []}").is_err());
    }

    #[tokio::test]
    async fn bodies_are_bounded_and_must_say_what_they_are() {
        let bodies = Bodies::new(64);
        let mut headers = HeaderMap::new();
        let status = |result: Result<Thing, ApiError>| {
            axum::response::IntoResponse::into_response(result.unwrap_err()).status().as_u16()
        };
        let good = || Body::from(r#"{"model": "a", "parts": []}"#);
        assert_eq!(status(bodies.read(&headers, good()).await), 415);
        headers.insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(status(bodies.read(&headers, good()).await), 415);
        headers.insert(header::CONTENT_TYPE, "Application/JSON; charset=utf-8".parse().unwrap());
        assert!(bodies.read::<Thing>(&headers, good()).await.is_ok());
        assert_eq!(status(bodies.read(&headers, Body::from(vec![b' '; 65])).await), 413);
        headers.insert(header::CONTENT_LENGTH, "65".parse().unwrap());
        assert_eq!(status(bodies.read(&headers, good()).await), 413);
        assert_eq!(bodies.room.available_permits(), BODIES);
    }
}
