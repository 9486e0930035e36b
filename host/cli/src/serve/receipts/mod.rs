//! `/v1/receipts`: who computed an answer, signed, and whether it is right.
//!
//! # Why
//!
//! An answer that can be checked needs a receipt, but a receipt costs a run of its own, and few are asked for. So an answer carries the
//! name of its receipt, and the receipt is made when somebody asks for it.
//!
//! # How
//!
//! 1. Of every answer, what it follows from is [`kept`]: the last so many, within a number of bytes.
//! 2. The first who asks for a receipt has the model run the answer once more, in one piece, between the tokens of others; whoever asks
//!    meanwhile waits for the same run. It is signed with this machine's key and kept beside the answer.
//! 3. [`summary`] tells what it says. [`audit`] audits it here, as `ostrakon audit` does anywhere.
//!
//! A receipt has the texts in it: it is for who asked, known by the API key. Without keys it is for whoever knows its name, which
//! cannot be guessed.

mod audit;
mod kept;
mod summary;

use self::audit::{Audit, AuditRequest, Auditor};
use self::kept::{Answer, Kept};
use self::summary::Summary;
use super::admission::Admission;
use super::error::{ApiError, Refusals, refused};
use super::{Server, json};
use crate::problem::Problem;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ostrakon_node::{Home, NodeError, RunOptions, SignedReceipt, TrustPolicy, load_or_create_key};
use ostrakon_protocol::{Generated, SigningKey, decode, encode};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// What Ostrakon adds to an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Ostrakon)]
pub(super) struct More {
    /// The name of the receipt: `/v1/receipts/{receipt}` has it.
    receipt: String,
}

/// Answers that can have a receipt, and what makes it.
pub(super) struct Receipts {
    kept: Kept,
    key: SigningKey,
    auditor: Auditor,
}

impl Receipts {
    /// For so many answers.
    pub(super) fn new(most: usize, home: Home, policy: TrustPolicy, options: RunOptions) -> Result<Self, Problem> {
        let key = load_or_create_key(&home)?;
        Ok(Self { kept: Kept::new(most), key, auditor: Auditor::new(home, policy, options) })
    }

    /// Keep what an answer follows from. None if it is too large to be kept.
    pub(super) fn keep(&self, owner: Option<u64>, model: &str, generated: Generated) -> Option<More> {
        let receipt = self.kept.put(Answer::new(owner, model, generated))?;
        Some(More { receipt })
    }

    /// The receipt of an answer. Whoever asks while it is being made waits for the same one; should the one who began leave, the
    /// next one begins anew.
    async fn made(&self, server: &Server, id: &str, answer: &Answer) -> Result<Bytes, ApiError> {
        let made = answer.receipt.get_or_try_init(|| async {
            let (_, generator) = server.models.generator(&answer.model)?;
            let making = generator.receipt(answer.generated.clone()).map_err(|refusal| refused(refusal, "receipt"))?;
            let signed = making.signed(&self.key).await.map_err(|error| unmade("the receipt", &error))?;
            let bytes = Bytes::from(encode(&signed));
            server.counters.receipt();
            self.kept.grew(id, bytes.len());
            Ok(bytes)
        });
        made.await.cloned()
    }
}

/// Why there is no receipt of an answer that is kept, or no verdict on it.
fn unmade(what: &str, error: &NodeError) -> ApiError {
    let why = error.in_full();
    tracing::error!(why, "{what} cannot be made");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{what} cannot be made: {why}")).code("not_made")
}

/// An answer that somebody asks for by its receipt's name.
struct Asked<'a> {
    receipts: &'a Receipts,
    id: String,
    answer: Arc<Answer>,
    admission: Admission,
}

impl<'a> Asked<'a> {
    fn of(server: &'a Server, parts: &Parts, id: Result<Path<String>, PathRejection>) -> Result<Self, ApiError> {
        let admission = Admission::of(parts)?;
        let Path(id) = id.map_err(|error| ApiError::field("receipt", error.body_text()))?;
        let gone =
            |why: String| ApiError::new(StatusCode::NOT_FOUND, why).of_field("receipt").code("receipt_not_found");
        let Some(receipts) = &server.receipts else {
            return Err(gone("this server keeps no receipts: start it with --receipts N".into()));
        };
        let most = receipts.kept.most();
        let answer = receipts.kept.find(&id, server.owner(&admission)).ok_or_else(|| {
            let id: String = id.chars().take(60).collect();
            gone(format!(
                "there is no receipt `{id}` here, or not any more: those of the last {most} answers can be had, by who asked \
                 for the answer; --receipts N keeps more"
            ))
        })?;
        Ok(Self { receipts, id, answer, admission })
    }

    async fn bytes(&self, server: &Server) -> Result<Bytes, ApiError> {
        self.receipts.made(server, &self.id, &self.answer).await
    }

    async fn signed(&self, server: &Server) -> Result<(SignedReceipt, usize), ApiError> {
        let bytes = self.bytes(server).await?;
        let signed = decode(&bytes).map_err(|error| ApiError::internal(&error.to_string()))?;
        Ok((signed, bytes.len()))
    }
}

/// A receipt, as `ostrakon audit` and `ostrakon inspect` read it.
///
/// The first time it is made: the model runs the answer once more.
#[utoipa::path(
    get, path = "/v1/receipts/{receipt}", tag = "receipts", security((), ("key" = [])),
    params(("receipt" = String, Path, description = "Its name, as the answer has it")),
    responses(
        (status = 200, description = "The bytes of the file", content_type = "application/cbor", body = Vec<u8>),
        Refusals,
    )
)]
pub(super) async fn receipt(
    State(server): State<Arc<Server>>,
    id: Result<Path<String>, PathRejection>,
    parts: Parts,
) -> Result<Response, ApiError> {
    let asked = Asked::of(&server, &parts, id)?;
    let bytes = asked.bytes(&server).await?;
    let mut response = Body::from(bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/cbor"));
    if let Ok(name) = HeaderValue::try_from(format!("attachment; filename=\"{}.receipt\"", asked.id)) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// What a receipt says.
#[utoipa::path(
    get, path = "/v1/receipts/{receipt}/summary", tag = "receipts", security((), ("key" = [])),
    params(("receipt" = String, Path, description = "Its name, as the answer has it")),
    responses(
        (status = 200, description = "Who computed what", body = Summary),
        Refusals,
    )
)]
pub(super) async fn summary(
    State(server): State<Arc<Server>>,
    id: Result<Path<String>, PathRejection>,
    parts: Parts,
) -> Result<Response, ApiError> {
    let asked = Asked::of(&server, &parts, id)?;
    let (_, generator) = server.models.generator(&asked.answer.model)?;
    let (signed, bytes) = asked.signed(&server).await?;
    Ok(json(&Summary::new(&asked.id, bytes, &signed, generator.manifest())))
}

/// Audit a receipt on this server, which computed the answer.
///
/// It shows what an audit does; to trust nobody, run `ostrakon audit` on a machine of your own.
#[utoipa::path(
    post, path = "/v1/receipts/{receipt}/audit", tag = "receipts", request_body = AuditRequest, security((), ("key" = [])),
    params(("receipt" = String, Path, description = "Its name, as the answer has it")),
    responses(
        (status = 200, description = "The verdict, and what it cost", body = Audit),
        Refusals,
    )
)]
pub(super) async fn audit(
    State(server): State<Arc<Server>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&server, &parts, id)?;
    let request: AuditRequest = server.bodies.read(&parts.headers, body).await?;
    let (served, _) = server.models.generator(&asked.answer.model)?;
    let (signed, _) = asked.signed(&server).await?;
    let report = asked.receipts.auditor.audit(&asked.admission, &served.directory, signed, &request).await?;
    Ok(json(&Audit::new(&asked.id, &report)))
}
