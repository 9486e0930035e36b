//! Requests, receipts, transcripts, traces and disputes: plain data, one encoding, signatures.
//!
//! # Why
//!
//! Machines that do not trust each other need to mean the same by the same bytes. What is signed, hashed
//! or sent is defined here once, apart from the programs that make and judge it.
//!
//! # How
//!
//! 1. [`digest`] and [`key`]: BLAKE3 in contexts, ed25519 for purposes; nothing of one kind passes for
//!    another.
//! 2. [`encoding`]: deterministic CBOR; exactly one encoding for a value, bounded before it is decoded.
//!    [`payload`]: documents that bytes follow.
//! 3. [`request`] and [`receipt`]: what was asked, and what each node answers for. [`generated`]: answers that were
//!    generated. [`float_receipt`]: the same for
//!    packages of the float tier, which cannot be checked to the bit.
//! 4. [`transcript`]: the integer products of blocks, for an audit that checks instead of computing.
//! 5. [`trace`] and [`dispute`]: the digests of a block's operations, and how two nodes that disagree are
//!    led to the first operation that differs; [`trace_file`]: the operands beside the digests.
//! 6. [`quorum`]: commit, then reveal, so that nobody votes by copying.
//! 7. [`status`], [`plan`] and [`vrf`]: what nodes say of themselves, who was chosen, and that lots were drawn
//!    fairly. [`job`] and [`wire`]: what clients and nodes send to each other;
//!    [`share`]: the same where a client shows nobody its text.

pub mod decoding;
pub mod digest;
pub mod dispute;
pub mod encoding;
pub mod float_receipt;
pub mod generated;
pub mod job;
pub mod key;
pub mod payload;
pub mod plan;
pub mod quorum;
pub mod receipt;
pub mod request;
pub mod share;
pub mod status;
pub mod trace;
pub mod trace_file;
pub mod transcript;
pub mod vrf;
pub mod wire;

pub use digest::{Context, Digest};
pub use encoding::{DecodeError, Document, decode, encode};
pub use float_receipt::{FloatReceipt, NamedTensor, SignedFloatReceipt};
pub use generated::{Generated, TokenChoice};
pub use job::{Attestation, Finding, Job, JobAnswer, SignedJob, Verify};
pub use key::{PublicKey, Purpose, Signature, SigningKey};
pub use payload::PayloadError;
pub use plan::{BlockNeeds, Observation, Plan, PlanRecord, PlanRequest, PlannedLeg, SignedPlan, Snapshot};
pub use receipt::{Batch, Leg, Place, Receipt, Seal, SignedReceipt, Step, Swarm, Testimony, Witness};
pub use request::Request;
pub use status::{Hardware, Load, Roles, Served, SignedStatus, Status, UsedPlugin};
pub use trace::{Operation, SignedTrace, Trace};
pub use trace_file::{StoredTensor, TraceFile};
pub use transcript::{BlockContent, BlockRange, BlockTranscript, Transcript};
