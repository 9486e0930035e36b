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
        self.operations
            .iter()
            .take(count)
            .fold(start(self.batch, &self.block), |before, operation| after(&before, operation))
    }

    /// What stands for each number of operations, from none to all.
    pub fn prefixes(&self) -> Vec<Digest> {
        let mut last = start(self.batch, &self.block);
        let next = self.operations.iter().map(|operation| {
            last = after(&last, operation);
            last
        });
        let next: Vec<Digest> = next.collect();
        [vec![start(self.batch, &self.block)], next].concat()
    }
}

/// What stands for no operation at all: the block in question.
pub fn start(batch: u32, block: &str) -> Digest {
    Digest::of(Context::PREFIX, &content(&(batch, block)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(name: &str, output: u8) -> Operation {
        let digest = Digest::from_bytes([output; 32]);
        Operation { name: name.to_owned(), inputs: vec![("x".to_owned(), digest)], output: digest }
    }

    fn trace(operations: Vec<Operation>) -> Trace {
        Trace { receipt: Digest::from_bytes([9; 32]), batch: 1, block: "blocks.0".to_owned(), operations }
    }

    #[test]
    fn a_prefix_stands_for_everything_in_it_and_nothing_after() {
        let honest = trace((0..5).map(|i| operation("gelu", i)).collect());
        let prefixes = honest.prefixes();
        assert_eq!(prefixes.len(), 6);
        for (count, prefix) in prefixes.iter().enumerate() {
            assert_eq!(honest.prefix(count), *prefix);
        }
        assert_eq!(honest.prefix(100), prefixes[5]);
        let changes: [fn(&mut Operation); 4] = [
            |o| o.name.push('x'),
            |o| o.inputs[0].0.push('x'),
            |o| o.inputs[0].1 = Digest::from_bytes([77; 32]),
            |o| o.output = Digest::from_bytes([77; 32]),
        ];
        for at in 0..5 {
            for change in changes {
                let mut other = honest.clone();
                change(&mut other.operations[at]);
                let equal = other.prefixes().iter().zip(&prefixes).take_while(|(a, b)| a == b).count();
                assert_eq!(equal, at + 1);
                assert!(other.prefixes().iter().zip(&prefixes).skip(at + 1).all(|(a, b)| a != b));
            }
        }
    }

    #[test]
    fn a_prefix_is_of_one_block_on_one_batch() {
        let this = trace(vec![]);
        assert_ne!(this.prefix(0), Trace { batch: 2, ..this.clone() }.prefix(0));
        assert_ne!(this.prefix(0), Trace { block: "blocks.1".to_owned(), ..this }.prefix(0));
    }

    #[test]
    fn a_signature_covers_receipt_place_and_operations() {
        let key = SigningKey::from_seed(&[1; 32]);
        let signed = SignedTrace::sign(&key, trace(vec![operation("gelu", 1)]));
        assert!(signed.is_signed());
        let changes: [fn(&mut SignedTrace); 5] = [
            |s| s.node = SigningKey::from_seed(&[2; 32]).public(),
            |s| s.trace.receipt = Digest::from_bytes([8; 32]),
            |s| s.trace.batch = 0,
            |s| s.trace.block.push('0'),
            |s| s.trace.operations.clear(),
        ];
        for change in changes {
            let mut other = signed.clone();
            change(&mut other);
            assert!(!other.is_signed());
        }
    }
}
