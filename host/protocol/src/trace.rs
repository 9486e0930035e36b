//! Traces: the digests of a block's operations, for a referee.
//!
//! # How
//!
//! A node that is asked to defend a block runs it again and notes every operation that the block asked of
//! its host: what it was, the digests of its inputs and of its output. After `n` operations the
//! [prefix](Trace::prefix) digest stands for all that happened so far, so two nodes agree on a prefix
//! exactly if they agree on every operation in it.

use crate::digest::{Context, Digest};
use crate::encoding::{Document, content};
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
use minicbor::{Decode, Encode};

/// Something that a block asked of its host.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Operation {
    /// What: `layer blocks.0.attention.qkv`, `attention 12`, `gelu`.
    #[n(0)]
    pub name: String,
    /// Of the tensors that went in, by the names of the inputs.
    #[n(1)]
    pub inputs: Vec<(String, Digest)>,
    /// Of the tensor that came out.
    #[n(2)]
    pub output: Digest,
}

/// The operations of one block on one batch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Trace {
    /// Of the receipt that is being defended.
    #[n(0)]
    pub receipt: Digest,
    /// Which batch, counted from 0.
    #[n(1)]
    pub batch: u32,
    /// The block's name.
    #[n(2)]
    pub block: String,
    /// The operations, in order.
    #[n(3)]
    pub operations: Vec<Operation>,
}

/// A trace with the signature of the node that ran the block.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedTrace {
    /// Who signed.
    #[n(0)]
    pub node: PublicKey,
    /// Over the trace.
    #[n(1)]
    pub signature: Signature,
    /// The trace.
    #[n(2)]
    pub trace: Trace,
}

impl Document for SignedTrace {
    const KIND: &'static str = "ostrakon trace";
    const VERSION: u32 = 1;
    const LIMIT: usize = 16 << 20;
}

impl Trace {
    /// What stands for the trace.
    pub fn digest(&self) -> Digest {
        Digest::of(Context::TRACE, &content(self))
    }

    /// What stands for the first `count` operations, or for all if there are fewer.
    pub fn prefix(&self, count: usize) -> Digest {
        self.operations.iter().take(count).fold(self.start(), |before, operation| after(&before, operation))
    }

    /// What stands for no operation at all: the block in question.
    fn start(&self) -> Digest {
        Digest::of(Context::PREFIX, &content(&(&self.batch, &self.block)))
    }
}

/// The prefix that follows `before` by one operation.
pub fn after(before: &Digest, operation: &Operation) -> Digest {
    Digest::of(Context::PREFIX, &[before.as_bytes().as_slice(), &content(operation)].concat())
}

impl SignedTrace {
    /// Sign a trace.
    pub fn sign(key: &SigningKey, trace: Trace) -> Self {
        let signature = key.sign(Purpose::TRACE, &trace.digest());
        Self { node: key.public(), signature, trace }
    }

    /// Whether the node that it names signed it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.node.signed(Purpose::TRACE, &self.trace.digest(), &self.signature)
    }
}
