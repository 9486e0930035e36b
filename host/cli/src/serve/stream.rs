//! Server-sent events, as clients of OpenAI read them.
//!
//! # How
//!
//! 1. A task waits for the answers and writes events into a short channel: whoever reads slowly makes it wait, and no one else.
//! 2. When the client leaves, the body is dropped, with it the channel's end, and the task with everything that it waits for.
//! 3. While nothing comes, a comment says that somebody is there.

use super::error::ApiError;
use super::limits::QUIET;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use std::convert::Infallible;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Events that wait for the reader.
const WAITING: usize = 16;

/// Where events go.
#[derive(Clone)]
pub(super) struct Events(Sender<Bytes>);

/// The client has left.
#[derive(Debug)]
pub(super) struct Left;

impl Events {
    /// Send an event.
    pub(super) async fn send(&self, event: &impl Serialize) -> Result<(), Left> {
        let mut bytes = b"data: ".to_vec();
        // JSON on one line; what is sent are structs with names as keys.
        if let Err(error) = serde_json::to_writer(&mut bytes, event) {
            tracing::error!(%error, "an event cannot be written");
            return Err(Left);
        }
        bytes.extend_from_slice(b"\n\n");
        self.0.send(bytes.into()).await.map_err(|_| Left)
    }

    /// Say that this was all.
    pub(super) async fn done(&self) {
        let _ = self.0.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
    }

    /// Until the client leaves.
    async fn left(&self) {
        self.0.closed().await;
    }
}

/// Why a stream broke off.
pub(super) enum Broken {
    /// Nobody reads it.
    Left,
    /// There is nothing more to read.
    Failed(ApiError),
}

impl Broken {
    /// Tell the client, if it is there. Nothing follows.
    pub(super) async fn tell(self, events: &Events) {
        if let Self::Failed(error) = self {
            let _ = events.send(&error.body()).await;
        }
    }
}

impl From<Left> for Broken {
    fn from(_: Left) -> Self {
        Self::Left
    }
}

impl From<ApiError> for Broken {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// A response with the events that `write` sends. What `write` waits for is dropped when the client leaves.
pub(super) fn response<W>(write: impl FnOnce(Events) -> W) -> Response
where
    W: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING);
    let events = Events(sender);
    let writing = write(events.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = writing => {}
            () = events.left() => {}
        }
    });
    let body = futures::stream::unfold(receiver, |receiver| async {
        let (bytes, receiver) = next(receiver).await?;
        Some((Ok::<_, Infallible>(bytes), receiver))
    });
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

async fn next(mut receiver: Receiver<Bytes>) -> Option<(Bytes, Receiver<Bytes>)> {
    match tokio::time::timeout(QUIET, receiver.recv()).await {
        Ok(bytes) => bytes.map(|bytes| (bytes, receiver)),
        Err(_) => Some((Bytes::from_static(b": still here\n\n"), receiver)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use serde_json::json;
    use std::time::Duration;

    #[tokio::test]
    async fn events_are_lines_of_json() {
        let response = response(|events| async move {
            events.send(&json!({"text": "a\nb\r\n"})).await.unwrap();
            events.done().await;
        });
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream; charset=utf-8");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "data: {\"text\":\"a\\nb\\r\\n\"}\n\ndata: [DONE]\n\n");
    }

    #[tokio::test]
    async fn work_ends_when_the_client_leaves() {
        let (held, mut dropped) = mpsc::channel::<()>(1);
        let response = response(|events| async move {
            let _held = held;
            events.send(&json!({})).await.unwrap();
            std::future::pending::<()>().await;
        });
        let mut body = response.into_body();
        assert!(body.frame().await.is_some());
        drop(body);
        let ended = tokio::time::timeout(Duration::from_secs(10), dropped.recv()).await;
        assert_eq!(ended, Ok(None));
    }

    #[tokio::test]
    async fn a_slow_reader_makes_the_writer_wait() {
        let (sent, mut count) = mpsc::unbounded_channel();
        let response = response(|events| async move {
            for at in 0..1000 {
                events.send(&json!(at)).await.unwrap();
                sent.send(at).unwrap();
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut written = 0;
        while count.try_recv().is_ok() {
            written += 1;
        }
        assert!(written <= WAITING, "{written}");
        let all = response.into_body().collect().await.unwrap().to_bytes();
        assert!(all.ends_with(b"data: 999\n\n"));
    }
}
