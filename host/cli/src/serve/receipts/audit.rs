//! Audits on the server that computed the answer.
//!
//! # How
//!
//! 1. One audit runs at a time, because it loads the model a second time for as long as it lasts; a few wait.
//! 2. Replay runs every block again. Freivalds has this node write the transcript of its run and checks that, as an auditor elsewhere
//!    would; a transcript is large, so only short answers have one here.
//!
//! A server can say of itself what it likes. This shows what an audit is and what it costs; it proves nothing to who does not trust
//! the server.

use super::unmade;
use crate::commands::audit::Document;
use crate::serve::admission::Admission;
use crate::serve::error::ApiError;
use crate::serve::limits::{AUDITS, FREIVALDS_TOKENS};
use ostrakon_node::audit::{AuditOptions, AuditReport, Auditing, Choice, Evidence, Given, Method};
use ostrakon_node::{Home, NodeError, Rerun, RunOptions, SignedReceipt, TrustPolicy, load_or_create_key, transcript};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

/// How a receipt is to be audited.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct AuditRequest {
    /// `replay` without it.
    method: Option<AuditMethod>,
}

/// How blocks are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum AuditMethod {
    /// Every block is run again.
    Replay,
    /// The integer products of the run are checked, the rest is run again.
    Freivalds,
}

/// What the audit found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Audit {
    /// The receipt's name.
    id: String,
    /// `receipt.audit`.
    object: &'static str,
    /// Who says so.
    checked_by: &'static str,
    #[serde(flatten)]
    report: Document,
}

impl Audit {
    pub(super) fn new(id: &str, report: &AuditReport) -> Self {
        let checked_by =
            "the server that computed the answer: to check for yourself, run `ostrakon audit` on the receipt";
        Self { id: id.to_owned(), object: "receipt.audit", checked_by, report: Document::new(report) }
    }
}

/// What audits.
pub(super) struct Auditor {
    home: Home,
    policy: TrustPolicy,
    options: RunOptions,
    /// Those that run or wait.
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Auditor {
    pub(super) fn new(home: Home, policy: TrustPolicy, options: RunOptions) -> Self {
        let (places, running) = (Arc::new(Semaphore::new(AUDITS)), Arc::new(Semaphore::new(1)));
        Self { home, policy, options, places, running }
    }

    /// Audit a receipt of the package in `directory`. One that runs goes on even if the client leaves: it ends by itself.
    pub(super) async fn audit(
        &self,
        admission: &Admission,
        directory: &Path,
        signed: SignedReceipt,
        request: &AuditRequest,
    ) -> Result<AuditReport, ApiError> {
        let method = match request.method {
            None | Some(AuditMethod::Replay) => Method::Replay,
            Some(AuditMethod::Freivalds) => Method::Freivalds,
        };
        expect_short(method, &signed)?;
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let message = format!("{AUDITS} audits run or wait already: try again in 5 s");
            return Err(ApiError::busy(message, Duration::from_secs(5)));
        };
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| ApiError::ended())?;
        let (home, policy, options) = (self.home.clone(), self.policy.clone(), self.options.clone());
        let directory = directory.to_owned();
        let audited = admission.compute(move || {
            let _held = (place, running);
            let options = AuditOptions { run: options, policy, method };
            audited(&home, &directory, options, signed)
        });
        audited.await?.map_err(|error| unmade("the audit", &error))
    }
}

fn expect_short(method: Method, signed: &SignedReceipt) -> Result<(), ApiError> {
    let generated = signed.request.as_ref().and_then(|request| request.generation.as_ref());
    let tokens = generated.map_or(0, |generated| generated.prompt.len() + generated.answer.len());
    if method == Method::Replay || tokens <= FREIVALDS_TOKENS {
        return Ok(());
    }
    let why = format!(
        "the transcript of {tokens} tokens is too large for this server, which makes those of {FREIVALDS_TOKENS}: \
         take `replay`, or `ostrakon transcript` on its machine"
    );
    Err(ApiError::field("method", why))
}

fn audited(
    home: &Home,
    directory: &Path,
    options: AuditOptions,
    signed: SignedReceipt,
) -> Result<AuditReport, NodeError> {
    if options.method == Method::Replay {
        return Auditing::open(directory, home, &options)?.audit(&signed, &Given::default(), &Choice::All, &|_| {});
    }
    let scratch = tempfile::tempdir()
        .map_err(|error| NodeError::Setting(format!("there is no place for a transcript: {error}")))?;
    let path = scratch.path().join("transcript");
    let rerun = Rerun {
        signed,
        directory: directory.to_owned(),
        policy: options.policy.clone(),
        home: home.clone(),
        options: options.run.clone(),
        key: load_or_create_key(home)?,
    };
    transcript::write(&rerun, &|_| true, &path, &|_| {})?;
    let evidence = Evidence::open(&path, &rerun.signed.receipt)?;
    let given = Given { transcript: Some(&evidence), ..Given::default() };
    Auditing::open(directory, home, &options)?.audit(&rerun.signed, &given, &Choice::All, &|_| {})
}
