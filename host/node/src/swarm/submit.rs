//! The submit phase: is this a job that we take, and what is to be run for it?
//!
//! # How
//!
//! 1. What can be seen without work is looked at first: whose the job is, whether its client signed it, whether its
//!    numbers make sense and its texts are within bounds ([`admit`]).
//! 2. Then texts become tokens and batches ([`Work::new`]), and what a receipt of that would need is counted, so that no
//!    job is run whose answer could not be sent.

use super::known::{BatchInput, KnownPackage};
use crate::replay::expect_texts;
use ostrakon_protocol::wire::{MAX_CONTROL_BYTES, MAX_TENSOR_BYTES, Refusal, Reply};
use ostrakon_protocol::{Digest, Place, PlanRequest, PublicKey, SignedJob, Verify, encode};
use std::sync::Arc;

/// Most texts of a job.
pub const MAX_TEXTS: usize = 16_384;
/// Most steps (blocks on batches, by all replicas) of a job: its receipt must fit into a message.
pub const MAX_STEPS: u64 = 100_000;
/// Bytes of a step on a receipt, about: two digests, a component, a name.
const STEP_BYTES: u64 = 220;
/// What an audit's question takes beside the receipt.
const AUDIT_MARGIN: u64 = 64 << 10;

/// A job is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotTaken {
    /// What kind of refusal.
    pub why: Refusal,
    /// In words.
    pub reason: String,
}

impl NotTaken {
    pub(super) fn new(why: Refusal, reason: impl Into<String>) -> Self {
        Self { why, reason: reason.into() }
    }

    pub(super) fn bad(reason: impl Into<String>) -> Self {
        Self::new(Refusal::Bad, reason)
    }
}

impl From<NotTaken> for Reply {
    fn from(NotTaken { why, reason }: NotTaken) -> Self {
        Self::Refused { why, reason }
    }
}

/// Whether a job is one that may be asked for, as far as can be seen without work.
///
/// # Errors
/// What is wrong with it.
pub fn admit(from: &PublicKey, signed: &SignedJob) -> Result<(), NotTaken> {
    let job = &signed.job;
    if job.client != *from {
        return Err(NotTaken::new(Refusal::Forbidden, "only the client that a job names may submit it"));
    }
    if !signed.is_signed() {
        return Err(NotTaken::bad("the job is not signed by its client"));
    }
    job.verify.check().map_err(NotTaken::bad)?;
    let texts = &job.request.texts;
    if texts.is_empty() || texts.len() > MAX_TEXTS {
        return Err(NotTaken::bad(format!("a job has 1 to {MAX_TEXTS} texts, not {}", texts.len())));
    }
    if job.request.generation.is_some() {
        return Err(NotTaken::bad("a job is for texts: the answer in its request was generated elsewhere"));
    }
    expect_texts(&job.request).map_err(|error| NotTaken::bad(error.to_string()))
}

/// What is to be run for a job.
#[derive(Debug)]
pub struct Work {
    /// The job's id.
    pub id: Digest,
    /// The job.
    pub signed: SignedJob,
    /// Of its request, as receipts name it.
    pub request: Digest,
    /// Its package.
    pub package: Arc<KnownPackage>,
    /// Its texts, as they are run.
    pub batches: Vec<BatchInput>,
}

impl Work {
    /// Make tokens and batches. This computes.
    ///
    /// # Errors
    /// A text cannot be tokenised, or what would come back is too large.
    pub fn new(signed: SignedJob, package: Arc<KnownPackage>) -> Result<Self, NotTaken> {
        let job = &signed.job;
        let batches =
            package.batches(&job.request.texts, job.batch).map_err(|error| NotTaken::bad(error.to_string()))?;
        let work = Self { id: job.id(), request: job.request.digest(), package, batches, signed };
        work.bounds()?;
        Ok(work)
    }

    fn bounds(&self) -> Result<(), NotTaken> {
        let steps = (self.batches.len() as u64).saturating_mul(self.block_count().into());
        let verify = self.signed.job.verify;
        let all = steps.saturating_mul(verify.replicas().into());
        if all > MAX_STEPS {
            return Err(NotTaken::bad(format!(
                "the job has {} batches through {} blocks on {} nodes each, {all} steps: at most {MAX_STEPS} are taken; \
                 allow more texts in a batch or split the job",
                self.batches.len(),
                self.block_count(),
                verify.replicas()
            )));
        }
        if matches!(verify, Verify::Audit { .. } | Verify::Full) {
            let asked = (encode(&self.signed).len() as u64).saturating_add(steps.saturating_mul(STEP_BYTES));
            let most = (MAX_CONTROL_BYTES as u64).saturating_sub(AUDIT_MARGIN);
            if asked > most {
                return Err(NotTaken::bad(format!(
                    "an auditor gets the texts and the receipt in one message of at most {most} bytes; of this job it \
                     would have about {asked}: allow more texts in a batch or split the job"
                )));
            }
        }
        Ok(())
    }

    /// Blocks of the package.
    pub fn block_count(&self) -> u32 {
        u32::try_from(self.package.blocks().len()).unwrap_or(u32::MAX)
    }

    /// Name and component of some blocks.
    pub fn blocks(&self, from: u32, to: u32) -> &[(String, Digest)] {
        self.package.blocks().get(from as usize..to as usize).unwrap_or_default()
    }

    /// Where the legs of a batch belong.
    pub fn place(&self, batch: u32, texts: &BatchInput) -> Place {
        Place {
            request: self.request,
            package: self.package.digest(),
            profile: self.package.profile(),
            batch,
            lengths: texts.lengths,
        }
    }

    /// Most rows of a batch.
    pub fn most_rows(&self) -> u32 {
        u32::try_from(self.batches.iter().map(|batch| batch.rows).max().unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Most bytes that are taken as the output of blocks on a batch: generously more than the widest block gives.
    pub fn most_bytes(&self, texts: &BatchInput) -> u64 {
        let widest = self.package.needs().iter().map(|needs| needs.row_bytes).max().unwrap_or(0);
        texts.rows.saturating_mul(widest).saturating_mul(4).clamp(1 << 20, MAX_TENSOR_BYTES)
    }

    /// What the scheduler is asked.
    pub fn plan_request(&self, attempt: u32, excluded: Vec<PublicKey>) -> PlanRequest {
        PlanRequest {
            job: self.id,
            attempt,
            package: self.package.digest(),
            blocks: self.package.needs().to_vec(),
            rows: self.batches.iter().map(|batch| batch.rows).sum(),
            batches: u32::try_from(self.batches.len()).unwrap_or(u32::MAX),
            verify: self.signed.job.verify,
            excluded,
        }
    }
}
