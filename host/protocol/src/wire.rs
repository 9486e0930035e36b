//! What nodes and clients send to each other.
//!
//! # How
//!
//! 1. *Control*: an [`Ask`] and its [`Reply`], each one document of at most a mebibyte or so. Anything larger goes over a
//!    stream.
//! 2. *Sessions*: two-phase commit ([`Ask::Prepare`], [`Ask::Commit`], [`Ask::Abort`]) reserves blocks on a node for one
//!    job. Then a stream carries [`ToNode`] and [`FromNode`] frames: one forward call after the other through the same
//!    blocks, with whatever state the blocks keep between them.
//! 3. *Frames*: four bytes little-endian for the length of the header, the header, and, where the header says so, that many
//!    bytes of a tensor. Lengths are compared with the limits here before anything is read.

use crate::digest::{Context, Digest};
use crate::encoding::{Document, content};
use crate::job::{Attestation, SignedJob};
use crate::key::PublicKey;
use crate::quorum;
use crate::receipt::Leg;
use crate::status::SignedStatus;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// Most bytes of a control message.
pub const MAX_CONTROL_BYTES: usize = 1 << 20;
/// Most bytes of a reply: a fleet is long.
pub const MAX_REPLY_BYTES: usize = 8 << 20;
/// Most bytes of a frame's header.
pub const MAX_HEADER_BYTES: usize = 256 << 10;
/// Most bytes of a tensor in a frame.
pub const MAX_TENSOR_BYTES: u64 = 256 << 20;
/// Most statuses in one reply.
pub const MAX_FLEET: usize = 512;

/// Blocks of a package, reserved for a job.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Prepare {
    /// The job.
    #[n(0)]
    pub job: Digest,
    /// Of the plan that names this node for these blocks.
    #[n(1)]
    pub plan: Digest,
    /// Of the request, as receipts name it.
    #[n(2)]
    pub request: Digest,
    /// The package.
    #[n(3)]
    pub package: Digest,
    /// The first block.
    #[n(4)]
    pub from: u32,
    /// One after the last.
    #[n(5)]
    pub to: u32,
    /// Most rows of a batch.
    #[n(6)]
    pub rows: u32,
    /// Milliseconds for which the reservation is kept without a commit, and without use after it.
    #[n(7)]
    pub hold: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Ask {
    /// Which nodes are there? In order of their keys, those after this one.
    #[n(0)]
    Fleet {
        /// Where to go on.
        #[n(0)]
        after: Option<PublicKey>,
    },
    /// Take this job. Asked again, it is the same job.
    #[n(1)]
    Submit {
        /// The job. One that is too large for a control message goes over a stream: [`FileAsk::Submit`].
        #[n(0)]
        job: Box<SignedJob>,
    },
    /// How is this job?
    #[n(2)]
    Job {
        /// Its id.
        #[n(0)]
        job: Digest,
    },
    /// Reserve.
    #[n(3)]
    Prepare(#[n(0)] Prepare),
    /// Go ahead with a reservation.
    #[n(4)]
    Commit {
        /// The reservation.
        #[n(0)]
        session: Digest,
    },
    /// Forget a reservation or a session.
    #[n(5)]
    Abort {
        /// The reservation.
        #[n(0)]
        session: Digest,
    },
    /// The manifest and the signature of a package.
    #[n(6)]
    Manifest {
        /// The package.
        #[n(0)]
        package: Digest,
    },
    /// Who is the package of this name?
    #[n(7)]
    Named {
        /// The name.
        #[n(0)]
        name: String,
    },
    /// Audit a receipt.
    #[n(8)]
    Audit {
        /// The encoded signed receipt, with its request.
        #[n(0)]
        receipt: ByteVec,
        /// Each step with this probability in thousandths.
        #[n(1)]
        per_mille: u32,
    },
    /// The latest receipts.
    #[n(9)]
    Receipts,
}

/// Where a job is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum JobState {
    /// Not known here.
    #[n(0)]
    Unknown,
    /// It waits or runs.
    #[n(1)]
    Running {
        /// submit, schedule, execute, verify, return; after `: `, what it waits for there.
        #[n(0)]
        phase: String,
        /// Batches that are through.
        #[n(1)]
        done: u32,
        /// All batches.
        #[n(2)]
        of: u32,
    },
    /// It is done: the answer can be fetched over a stream.
    #[n(2)]
    Done {
        /// Of the receipt.
        #[n(0)]
        receipt: Digest,
    },
    /// It could not be done.
    #[n(3)]
    Failed {
        /// Why, in words.
        #[n(0)]
        reason: String,
    },
}

/// A receipt in a list.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptLine {
    /// The job.
    #[n(0)]
    pub job: Digest,
    /// Of the receipt.
    #[n(1)]
    pub receipt: Digest,
    /// The package's name.
    #[n(2)]
    pub package: String,
    /// Texts.
    #[n(3)]
    pub texts: u32,
    /// Microseconds from submit to return.
    #[n(4)]
    pub took: u64,
    /// Milliseconds since 1970.
    #[n(5)]
    pub at: u64,
    /// How it was verified, in words.
    #[n(6)]
    pub verified: String,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// Nodes, at most [`MAX_FLEET`].
    #[n(0)]
    Fleet {
        /// In order of their keys.
        #[n(0)]
        statuses: Vec<SignedStatus>,
        /// Reputation of each, in thousandths, as this node sees it.
        #[n(1)]
        reputation: Vec<u32>,
        /// There are more.
        #[n(2)]
        more: bool,
    },
    /// Where the job is.
    #[n(1)]
    Job(#[n(0)] JobState),
    /// Reserved.
    #[n(2)]
    Prepared {
        /// What the reservation is called.
        #[n(0)]
        session: Digest,
    },
    /// Done, and nothing to say.
    #[n(3)]
    Ok,
    /// A package's manifest and signature, as they are in its directory.
    #[n(4)]
    Manifest {
        /// `package.toml`.
        #[n(0)]
        manifest: ByteVec,
        /// `package.sig`, if it is signed.
        #[n(1)]
        signature: Option<ByteVec>,
    },
    /// Packages of a name that this node has.
    #[n(5)]
    Named {
        /// Their digests, at most 64.
        #[n(0)]
        packages: Vec<Digest>,
    },
    /// An audit's result.
    #[n(6)]
    Audited(#[n(0)] Attestation),
    /// Receipts, at most 64, newest first.
    #[n(7)]
    Receipts {
        /// The receipts.
        #[n(0)]
        receipts: Vec<ReceiptLine>,
    },
    /// Not done, and why.
    #[n(8)]
    Refused {
        /// What kind of refusal.
        #[n(0)]
        why: Refusal,
        /// In words.
        #[n(1)]
        reason: String,
    },
}

/// Kinds of refusals, so that whoever asked knows whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// Later perhaps.
    #[n(0)]
    Busy,
    /// Not here: another node may.
    #[n(1)]
    NotHere,
    /// What was asked is wrong.
    #[n(2)]
    Bad,
    /// Not for you.
    #[n(3)]
    Forbidden,
    /// A fault of the node.
    #[n(4)]
    Fault,
}

impl Document for Ask {
    const KIND: &'static str = "ostrakon question";
    const VERSION: u32 = 1;
    const LIMIT: usize = MAX_CONTROL_BYTES;
}

impl Document for Reply {
    const KIND: &'static str = "ostrakon reply";
    const VERSION: u32 = 1;
    const LIMIT: usize = MAX_REPLY_BYTES;
}

/// The shape of a tensor that follows a header. Its bytes are little-endian.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TensorHeader {
    /// Its element type's number in wasi-nn's enumeration.
    #[n(0)]
    pub element: u8,
    /// Its dimensions, at most eight.
    #[n(1)]
    pub dimensions: Vec<u32>,
    /// How many bytes follow.
    #[n(2)]
    pub bytes: u64,
}

/// Frames to a node that runs blocks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToNode {
    /// First: which session the stream is for.
    #[n(0)]
    Open {
        /// The reservation, committed.
        #[n(0)]
        session: Digest,
    },
    /// Run the blocks. The input's bytes follow.
    #[n(1)]
    Forward {
        /// Larger than that of any call before in the session. Nodes that vote with each other get the same number, whenever
        /// they joined.
        #[n(0)]
        call: u32,
        /// Which batch of the request, counted from 0.
        #[n(1)]
        batch: u32,
        /// How many rows each sequence has.
        #[n(2)]
        lengths: Vec<u32>,
        /// Of the input, which must be what the bytes give.
        #[n(3)]
        input: Digest,
        /// The input.
        #[n(4)]
        tensor: TensorHeader,
        /// Answer with a commitment and show the output only when it is asked for.
        #[n(5)]
        sealed: bool,
    },
    /// All have committed: show the vote.
    #[n(2)]
    Reveal {
        /// Of which call.
        #[n(0)]
        call: u32,
    },
    /// Send the output.
    #[n(3)]
    Fetch {
        /// Of which call.
        #[n(0)]
        call: u32,
    },
    /// The session is over.
    #[n(4)]
    Close,
}

/// Frames from a node that runs blocks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromNode {
    /// The stream is taken for the session.
    #[n(0)]
    Opened,
    /// Sealed calls: it is computed.
    #[n(1)]
    Committed {
        /// Which call.
        #[n(0)]
        call: u32,
        /// The commitment.
        #[n(1)]
        commit: quorum::Commit,
    },
    /// Sealed calls: the vote, and the signed leg.
    #[n(2)]
    Revealed {
        /// Which call.
        #[n(0)]
        call: u32,
        /// The vote.
        #[n(1)]
        reveal: quorum::Reveal,
        /// What the node answers for.
        #[n(2)]
        leg: Leg,
    },
    /// The output; its bytes follow.
    #[n(3)]
    Output {
        /// Which call.
        #[n(0)]
        call: u32,
        /// What the node answers for.
        #[n(1)]
        leg: Leg,
        /// The output.
        #[n(2)]
        tensor: TensorHeader,
        /// Microseconds that the blocks took.
        #[n(3)]
        took: u64,
    },
    /// It could not be done; the session is over.
    #[n(4)]
    Failed {
        /// Which call.
        #[n(0)]
        call: u32,
        /// What kind of refusal.
        #[n(1)]
        why: Refusal,
        /// In words.
        #[n(2)]
        reason: String,
    },
}

impl Document for ToNode {
    const KIND: &'static str = "ostrakon frame to a node";
    const VERSION: u32 = 1;
    const LIMIT: usize = MAX_HEADER_BYTES;
}

impl Document for FromNode {
    const KIND: &'static str = "ostrakon frame from a node";
    const VERSION: u32 = 1;
    const LIMIT: usize = MAX_HEADER_BYTES;
}

impl ToNode {
    /// Bytes of a tensor that follow the header.
    pub const fn follows(&self) -> u64 {
        match self {
            Self::Forward { tensor, .. } => tensor.bytes,
            _ => 0,
        }
    }
}

impl FromNode {
    /// Bytes of a tensor that follow the header.
    pub const fn follows(&self) -> u64 {
        match self {
            Self::Output { tensor, .. } => tensor.bytes,
            _ => 0,
        }
    }
}

/// What a quorum votes on: the output of these blocks on this batch of this job.
pub fn vote_subject(job: &Digest, plan: &Digest, batch: u32, call: u32, from: u32, to: u32) -> Digest {
    Digest::of(Context::LEG_VOTE, &content(&(job, plan, batch, call, from, to)))
}

/// The first frame of a stream on which files are served: a range of one file, answered with a reply frame and, if that says
/// so, the verified stream.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FileAsk {
    /// Bytes of a file.
    #[n(0)]
    File {
        /// BLAKE3 of the whole file.
        #[n(0)]
        digest: Digest,
        /// First byte.
        #[n(1)]
        from: u64,
        /// One after the last; `u64::MAX`: to the end.
        #[n(2)]
        to: u64,
    },
    /// The answer of a job, for its client: an encoded `JobAnswer` and then the rows.
    #[n(1)]
    Answer {
        /// The job.
        #[n(0)]
        job: Digest,
    },
    /// A snapshot, as an encoded document.
    #[n(2)]
    Snapshot {
        /// Its digest.
        #[n(0)]
        digest: Digest,
    },
    /// A job too large for a control message; its encoding follows, and the answer is an encoded reply.
    #[n(3)]
    Submit {
        /// Bytes of the encoded job.
        #[n(0)]
        bytes: u64,
    },
}

/// What is answered before the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FileReply {
    /// It is there.
    #[n(0)]
    Found {
        /// Bytes of the whole file; for answers: of the encoded document.
        #[n(0)]
        bytes: u64,
        /// For answers: bytes of the rows after the document.
        #[n(1)]
        more: u64,
    },
    /// It is not.
    #[n(1)]
    Refused {
        /// What kind of refusal.
        #[n(0)]
        why: Refusal,
        /// In words.
        #[n(1)]
        reason: String,
    },
}

impl Document for FileAsk {
    const KIND: &'static str = "ostrakon file question";
    const VERSION: u32 = 1;
    const LIMIT: usize = 4096;
}

impl Document for FileReply {
    const KIND: &'static str = "ostrakon file reply";
    const VERSION: u32 = 1;
    const LIMIT: usize = 4096;
}
