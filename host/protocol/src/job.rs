//! Jobs: a request, how it is to be verified, and whose it is.
//!
//! A job's id is the digest of all of that and of a nonce that its client drew: asking again with the same id never
//! runs it twice for one client, and no one else can take the id first.

use crate::digest::{Context, Digest};
use crate::encoding::{Document, content};
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
use crate::receipt::SignedReceipt;
use crate::request::Request;
use minicbor::{Decode, Encode};

/// Most bytes of a job: texts and all.
pub const MAX_JOB_BYTES: usize = 8 << 20;
/// Most nodes that run the same blocks.
pub const MAX_REPLICAS: u32 = 16;

/// How an answer is verified before it is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Verify {
    /// By nobody: the receipt allows an audit later.
    #[n(0)]
    None,
    /// `needed` of `nodes` nodes of different operators commit to the same output of every leg.
    #[n(1)]
    Quorum {
        /// How many must agree: more than half.
        #[n(0)]
        needed: u32,
        /// How many run it.
        #[n(1)]
        nodes: u32,
    },
    /// A verification node replays a sample of the blocks: each with this probability in thousandths, one at least.
    #[n(2)]
    Audit {
        /// Of 1000.
        #[n(0)]
        per_mille: u32,
        /// Whether the answer waits for the verdict. Without that it comes at once and the verdict later.
        #[n(1)]
        before: bool,
    },
    /// A verification node replays everything, and the answer waits for it.
    #[n(3)]
    Full,
}

impl Verify {
    /// Nodes that run the same blocks.
    pub const fn replicas(&self) -> u32 {
        match self {
            Self::Quorum { nodes, .. } => *nodes,
            _ => 1,
        }
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        match *self {
            Self::Quorum { needed, nodes } if needed > nodes || needed.saturating_mul(2) <= nodes => Err(format!(
                "a quorum of {needed}/{nodes}: more than half of the nodes must be needed, and no more than there are"
            )),
            Self::Quorum { nodes, .. } if nodes > MAX_REPLICAS => {
                Err(format!("a quorum of {nodes} nodes: at most {MAX_REPLICAS} run the same blocks"))
            }
            Self::Audit { per_mille, .. } if per_mille > 1000 => {
                Err(format!("an audit of {per_mille} thousandths of the blocks: there are 1000"))
            }
            _ => Ok(()),
        }
    }
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Job {
    /// The package and the texts.
    #[n(0)]
    pub request: Request,
    /// How the answer is verified.
    #[n(1)]
    pub verify: Verify,
    /// Most texts in a batch; 0: as the node thinks best.
    #[n(2)]
    pub batch: u32,
    /// Whose it is.
    #[n(3)]
    pub client: PublicKey,
    /// Drawn at random for this job.
    #[n(4)]
    pub nonce: Digest,
}

impl Job {
    /// Its id.
    pub fn id(&self) -> Digest {
        Digest::of(Context::JOB, &content(self))
    }
}

/// A job with its client's signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedJob {
    /// The client's, over the id.
    #[n(0)]
    pub signature: Signature,
    /// The job.
    #[n(1)]
    pub job: Job,
}

impl Document for SignedJob {
    const KIND: &'static str = "ostrakon job";
    const VERSION: u32 = 1;
    const LIMIT: usize = MAX_JOB_BYTES;
}

impl SignedJob {
    /// Sign a job that names `key` as its client.
    pub fn sign(key: &SigningKey, job: Job) -> Self {
        Self { signature: key.sign(Purpose::JOB, &job.id()), job }
    }

    /// Whether the client that it names signed it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.job.client.signed(Purpose::JOB, &self.job.id(), &self.signature)
    }
}

/// What an auditor found.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Finding {
    /// What was looked at is right.
    #[n(0)]
    Accept,
    /// Something is wrong.
    #[n(1)]
    Reject {
        /// Who signed it.
        #[n(0)]
        node: PublicKey,
        /// What, in words.
        #[n(1)]
        reason: String,
    },
    /// It cannot be said.
    #[n(2)]
    Indeterminate {
        /// Why, in words.
        #[n(0)]
        reason: String,
    },
}

/// The word of a verification node on a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Attestation {
    /// Whose word.
    #[n(0)]
    pub auditor: PublicKey,
    /// Of the receipt.
    #[n(1)]
    pub receipt: Digest,
    /// The component that judged.
    #[n(2)]
    pub verifier: Digest,
    /// Steps that were looked at.
    #[n(3)]
    pub looked_at: u64,
    /// What was found.
    #[n(4)]
    pub finding: Finding,
    /// The auditor's, over all of that.
    #[n(5)]
    pub signature: Signature,
}

impl Attestation {
    /// Sign a finding.
    pub fn sign(key: &SigningKey, receipt: Digest, verifier: Digest, looked_at: u64, finding: Finding) -> Self {
        let auditor = key.public();
        let digest = Self::signed(&auditor, &receipt, &verifier, looked_at, &finding);
        let signature = key.sign(Purpose::ATTESTATION, &digest);
        Self { auditor, receipt, verifier, looked_at, finding, signature }
    }

    /// Whether the auditor that it names signed it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        let Self { auditor, receipt, verifier, looked_at, finding, signature } = self;
        auditor.signed(Purpose::ATTESTATION, &Self::signed(auditor, receipt, verifier, *looked_at, finding), signature)
    }

    fn signed(auditor: &PublicKey, receipt: &Digest, verifier: &Digest, looked_at: u64, finding: &Finding) -> Digest {
        Digest::of(Context::ATTESTATION, &content(&(auditor, receipt, verifier, looked_at, finding)))
    }
}

/// What comes back: the receipt of the run, its plans and what auditors said. The rows travel beside it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JobAnswer {
    /// Of which job.
    #[n(0)]
    pub job: Digest,
    /// Without the request, which the client has.
    #[n(1)]
    pub receipt: SignedReceipt,
    /// In the order in which they were made. The receipt names their digests.
    #[n(2)]
    pub plans: Vec<crate::plan::SignedPlan>,
    /// What auditors found before the answer was returned.
    #[n(3)]
    pub attestations: Vec<Attestation>,
    /// Tokens of each text, and whether it was cut.
    #[n(4)]
    pub texts: Vec<(u32, bool)>,
    /// Values in a row. The rows are f32, little-endian, one for each text.
    #[n(5)]
    pub width: u32,
}

impl Document for JobAnswer {
    const KIND: &'static str = "ostrakon answer";
    const VERSION: u32 = 1;
    const LIMIT: usize = 64 << 20;
}
