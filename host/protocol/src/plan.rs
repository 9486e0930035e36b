//! Plans: which nodes run which blocks, and from what that follows.
//!
//! # How
//!
//! 1. A scheduling node takes a [`Snapshot`] of the fleet: what nodes say of themselves, signed by them, and what it
//!    has observed of them itself.
//! 2. The [`PlanRequest`] says what is to be run. Randomness comes from the node's key over the job and the snapshot
//!    ([`PlanRecord::randomness_input`], [`crate::vrf`]).
//! 3. The scheduler component makes a [`Plan`] of these three and of nothing else. The [`PlanRecord`] names them all,
//!    and the node signs it: anybody who has the snapshot can make the plan again.
//!
//! When nodes of a plan fail and its shadows are used up, there is another record for the same job, with another
//! attempt number and the failed nodes excluded.

use crate::digest::{Context, Digest};
use crate::encoding::{Document, content};
use crate::job::Verify;
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
use crate::status::SignedStatus;
use crate::vrf::{Output, Proof, VrfError};
use minicbor::{Decode, Encode};

/// Most blocks of a package.
pub const MAX_BLOCKS: u32 = 4096;
/// Most nodes in a snapshot.
pub const MAX_NODES: usize = 16_384;
/// Most nodes that are excluded from a plan.
pub const MAX_EXCLUDED: usize = 1024;

/// What a block needs, for choosing who runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BlockNeeds {
    /// Bytes of its weights.
    #[n(0)]
    pub weight_bytes: u64,
    /// Multiply-adds a row.
    #[n(1)]
    pub work: u64,
    /// Bytes of a row that leaves it.
    #[n(2)]
    pub row_bytes: u64,
}

/// What is to be run, as the scheduler is asked.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PlanRequest {
    /// The job.
    #[n(0)]
    pub job: Digest,
    /// Counted from 0: how many plans of this job were used up before.
    #[n(1)]
    pub attempt: u32,
    /// The package.
    #[n(2)]
    pub package: Digest,
    /// Its blocks, in order.
    #[n(3)]
    pub blocks: Vec<BlockNeeds>,
    /// Rows (tokens) of all batches.
    #[n(4)]
    pub rows: u64,
    /// Batches that go through one after another.
    #[n(5)]
    pub batches: u32,
    /// How the answer is verified.
    #[n(6)]
    pub verify: Verify,
    /// Nodes that must not be used: they failed or lied in this job.
    #[n(7)]
    pub excluded: Vec<PublicKey>,
}

/// What the scheduling node knows of a node by itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Observation {
    /// Of whom.
    #[n(0)]
    pub node: PublicKey,
    /// Round trip in microseconds; `None`: never measured.
    #[n(1)]
    pub round_trip: Option<u64>,
    /// Legs that it did.
    #[n(2)]
    pub done: u64,
    /// Legs that it failed: no answer, refused after a promise.
    #[n(3)]
    pub failed: u64,
    /// Found wrong by a quorum, an audit or its own two tongues.
    #[n(4)]
    pub wrong: u64,
    /// What the scheduler component has learnt of it: opaque, at most 4 KiB.
    #[n(5)]
    pub learned: minicbor::bytes::ByteVec,
}

/// The fleet as a scheduling node saw it at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    /// Who took it.
    #[n(0)]
    pub taken_by: PublicKey,
    /// Milliseconds since 1970 by its clock.
    #[n(1)]
    pub taken: u64,
    /// In order of their nodes' keys, each node once.
    #[n(2)]
    pub statuses: Vec<SignedStatus>,
    /// In order of the nodes' keys, each node once. Not every node has one.
    #[n(3)]
    pub observations: Vec<Observation>,
    /// What the scheduler component has learnt of all nodes together: opaque, at most 64 KiB.
    #[n(4)]
    pub learned: minicbor::bytes::ByteVec,
}

impl Document for Snapshot {
    const KIND: &'static str = "ostrakon fleet snapshot";
    const VERSION: u32 = 1;
    const LIMIT: usize = 64 << 20;
}

impl Snapshot {
    /// What stands for it.
    pub fn digest(&self) -> Digest {
        Digest::of(Context::SNAPSHOT, &content(self))
    }
}

/// Blocks that go to the same nodes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PlannedLeg {
    /// The first block.
    #[n(0)]
    pub from: u32,
    /// One after the last.
    #[n(1)]
    pub to: u32,
    /// Who runs them: one node, or as many as the quorum has, of different operators.
    #[n(2)]
    pub replicas: Vec<PublicKey>,
    /// Who takes the place of one that fails, in this order.
    #[n(3)]
    pub shadows: Vec<PublicKey>,
}

/// Who runs what.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Plan {
    /// Covering all blocks in order, without a gap.
    #[n(0)]
    pub legs: Vec<PlannedLeg>,
    /// Who audits, in the order in which they are asked. Empty where nothing is audited.
    #[n(1)]
    pub auditors: Vec<PublicKey>,
    /// Microseconds that the scheduler thinks it takes.
    #[n(2)]
    pub predicted: u64,
}

/// A plan with everything that it follows from.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PlanRecord {
    /// Who planned.
    #[n(0)]
    pub scheduler: PublicKey,
    /// The component that did.
    #[n(1)]
    pub component: Digest,
    /// What was asked.
    #[n(2)]
    pub request: PlanRequest,
    /// Of the snapshot.
    #[n(3)]
    pub snapshot: Digest,
    /// Of the randomness.
    #[n(4)]
    pub proof: Proof,
    /// What came out.
    #[n(5)]
    pub plan: Plan,
}

impl PlanRecord {
    /// What stands for it: on receipts.
    pub fn digest(&self) -> Digest {
        Digest::of(Context::PLAN, &content(self))
    }

    /// What the randomness is drawn from: job, attempt and snapshot.
    pub fn randomness_input(job: &Digest, attempt: u32, snapshot: &Digest) -> Vec<u8> {
        content(&("ostrakon plan randomness v1", job, attempt, snapshot))
    }

    /// The randomness, if the proof holds.
    ///
    /// # Errors
    /// The proof is not one of this scheduler for this job and snapshot.
    pub fn randomness(&self) -> Result<Output, VrfError> {
        let input = Self::randomness_input(&self.request.job, self.request.attempt, &self.snapshot);
        self.proof.verify(&self.scheduler, &input)
    }
}

/// A plan record with the scheduling node's signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedPlan {
    /// The scheduling node's, over the record.
    #[n(0)]
    pub signature: Signature,
    /// The record.
    #[n(1)]
    pub record: PlanRecord,
}

impl Document for SignedPlan {
    const KIND: &'static str = "ostrakon plan";
    const VERSION: u32 = 1;
    const LIMIT: usize = 1 << 20;
}

impl SignedPlan {
    /// Sign a record that names `key` as its scheduler.
    pub fn sign(key: &SigningKey, record: PlanRecord) -> Self {
        Self { signature: key.sign(Purpose::PLAN, &record.digest()), record }
    }

    /// Whether the scheduler that it names signed it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.record.scheduler.signed(Purpose::PLAN, &self.record.digest(), &self.signature)
    }
}
