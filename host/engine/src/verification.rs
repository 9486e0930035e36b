//! Typed calls of `ostrakon:plugin/verification`: what follows from the evidence of an audit.
//!
//! # Why
//!
//! A verdict must be the same wherever it is reached, so it is a component that reaches it; the host only
//! gathers evidence. What each field means and which rules are applied is written in `wit/plugin.wit`,
//! interface `verification`; the types here are its records, field by field.
//!
//! # How
//!
//! 1. [`crate::Runtime::admit`] a component to [`crate::World::Verifier`], then [`crate::Plugin::verifier`].
//! 2. Fill in a [`Claim`] from the receipt and an [`Evidence`] with what was found out about it.
//! 3. [`Verifier::verify`] gives a [`Verdict`] and the fuel that it took.
//!
//! A verifier is foreign code too: its texts are cut to a length that can be shown, its lists likewise.

use crate::error::{CallError, bounded};
use crate::guest::{self, Guest};
use crate::limits::{Limiter, Limits};
use std::fmt;
use wasmtime::component::{ComponentExportIndex, ComponentType, Func, Instance, Lift, Lower};

/// Most reasons taken over from a component.
const MAX_REASONS: usize = 1024;

/// 32 bytes of BLAKE3 as four little-endian words: a record costs less to hand over than a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Digest {
    /// Bytes 0 to 7.
    a: u64,
    /// Bytes 8 to 15.
    b: u64,
    /// Bytes 16 to 23.
    c: u64,
    /// Bytes 24 to 31.
    d: u64,
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or_default();
        Self { a: next(), b: next(), c: next(), d: next() }
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self::from(*hash.as_bytes())
    }
}

impl From<Digest> for [u8; 32] {
    fn from(Digest { a, b, c, d }: Digest) -> Self {
        let mut bytes = [0; 32];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (to, word) in words.iter_mut().zip([a, b, c, d]) {
            *to = word.to_le_bytes();
        }
        bytes
    }
}

/// One block on one batch, as the receipt claims it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Step {
    /// Which batch, counted from 0.
    pub batch: u32,
    /// The block's name.
    pub block: String,
    /// The component that ran it.
    pub component: Digest,
    /// Who ran it.
    pub node: String,
    /// Of the tensor that went in.
    pub input: Digest,
    /// Of the tensor that came out.
    pub output: Digest,
    /// What it cost.
    pub fuel: u64,
}

/// What the receipt claims.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Claim {
    /// Who put the receipt together and signed it.
    pub issuer: String,
    /// Batch by batch, and in each batch block by block.
    pub steps: Vec<Step>,
    /// How many texts each batch has.
    pub texts: Vec<u32>,
    /// Of each batch's lengths: the tensor that says how many rows each text has.
    pub lengths: Vec<Digest>,
    /// Of each text's output, in the order of the request.
    pub outputs: Vec<Digest>,
    /// Of all outputs.
    pub answer: Digest,
}

/// A signature of the receipt. Each step must be covered by one of its node, the whole by the issuer's.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Seal {
    /// What is signed, in words.
    pub subject: String,
    /// Who is said to have signed it: an issuer or a node, as the claim calls it.
    pub signer: String,
    /// Whether the signature holds.
    pub valid: bool,
    /// The one batch that it covers; `None`: all.
    pub batch: Option<u32>,
    /// The one block that it covers; `None`: all.
    pub block: Option<String>,
}

/// A block of the package.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Block {
    /// Its name.
    pub name: String,
    /// The component that runs it.
    pub component: Digest,
}

/// What goes into the first block of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Input {
    /// Of the rows.
    pub rows: Digest,
    /// Of the lengths.
    pub lengths: Digest,
}

/// One element of an integer product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Element {
    /// Its row, counted from 0.
    pub row: u32,
    /// Its column, counted from 0.
    pub column: u32,
    /// As the executor's transcript has it.
    pub claimed: i64,
    /// As computed here.
    pub exact: i64,
}

/// Both sides of the check of one integer product, for two secret vectors, modulo 2^64.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Product {
    /// Which operation of the block.
    pub operation: String,
    /// The executor's product times the vectors, two values a row; at least one row.
    pub left: Vec<u64>,
    /// The operands times the vectors, likewise.
    pub right: Vec<u64>,
    /// Where the sides of a row differ: an element of that row that was computed again and is wrong.
    pub wrong: Option<Element>,
}

/// A block that was run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Computed {
    /// Of its output.
    pub output: Digest,
    /// `None` where it cannot be compared, as with another component for the same block.
    pub fuel: Option<u64>,
}

/// A block that was run here, but for the integer products: those are the executor's, checked.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Checked {
    /// In the order in which the block computes them.
    pub products: Vec<Product>,
    /// Unknown only where a product already is wrong.
    pub output: Option<Digest>,
    /// `None` where it cannot be compared.
    pub fuel: Option<u64>,
}

/// What the host found out about a step.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(variant)]
pub enum Observation {
    /// Outside of what the auditor chose to look at.
    #[component(name = "not-looked-at")]
    NotLookedAt,
    /// The block was run here.
    #[component(name = "computed")]
    Computed(Computed),
    /// The executor's transcript, signed by the step's node, was checked here.
    #[component(name = "checked")]
    Checked(Checked),
    /// Evidence is missing or damaged, or this host failed.
    #[component(name = "unavailable")]
    Unavailable(String),
}

/// What the host found out about the receipt.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Evidence {
    /// What kept the audit from being whole.
    pub missing: Vec<String>,
    /// All signatures of the receipt.
    pub seals: Vec<Seal>,
    /// The package's blocks, in order.
    pub blocks: Vec<Block>,
    /// How many texts the request has. `None`: unknown.
    pub texts: Option<u32>,
    /// For each batch, what the request makes of it here. `None`: unknown.
    pub inputs: Vec<Option<Input>>,
    /// For each step of the claim.
    pub steps: Vec<Observation>,
    /// For each output of the claim, what was computed here. `None`: unknown.
    pub outputs: Vec<Option<Digest>>,
    /// Of the claim's outputs, computed here.
    pub answer: Digest,
}

/// Nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Accepted {
    /// Steps that were looked at.
    #[component(name = "looked-at")]
    pub looked_at: u32,
    /// Steps of the claim.
    pub steps: u32,
}

/// Who is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Accusation {
    /// The node that is accused: a step's, or the issuer.
    pub node: String,
    /// The batch, if one alone is wrong.
    pub batch: Option<u32>,
    /// The block, if one alone is wrong.
    pub block: Option<String>,
    /// The operation, if one alone is wrong.
    pub operation: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// What follows from the evidence. Only `Reject` accuses anyone.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum Verdict {
    /// Nothing wrong, nothing missing.
    #[component(name = "accept")]
    Accept(Accepted),
    /// Somebody is wrong.
    #[component(name = "reject")]
    Reject(Accusation),
    /// What is missing, unknown or unusable.
    #[component(name = "indeterminate")]
    Indeterminate(Vec<String>),
}

impl Verdict {
    /// Cut what a hostile verifier could blow up.
    fn bounded(self) -> Self {
        match self {
            Self::Accept(accepted) => Self::Accept(accepted),
            Self::Reject(Accusation { node, batch, block, operation, reason }) => Self::Reject(Accusation {
                node: bounded(&node),
                batch,
                block: block.as_deref().map(bounded),
                operation: operation.as_deref().map(bounded),
                reason: bounded(&reason),
            }),
            Self::Indeterminate(reasons) => {
                Self::Indeterminate(reasons.iter().take(MAX_REASONS).map(|reason| bounded(reason)).collect())
            }
        }
    }
}

/// What a verifier said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Its verdict.
    pub verdict: Verdict,
    /// What the call cost. The same on every machine.
    pub fuel: u64,
}

/// A verifier's component at work.
pub struct Verifier {
    guest: Guest<Limiter>,
    verify: Func,
}

impl Verifier {
    pub(crate) fn new(
        mut guest: Guest<Limiter>,
        instance: &Instance,
        verify: ComponentExportIndex,
    ) -> Result<Self, CallError> {
        let verify = instance
            .get_func(&mut guest.store, verify)
            .ok_or_else(|| guest::engine(&wasmtime::Error::msg("the function `verify` is gone")))?;
        Ok(Self { guest, verify })
    }

    /// What follows from the evidence.
    ///
    /// # Errors
    /// The component traps or is stopped; claim and evidence do not fit into its memory.
    pub fn verify(&mut self, claim: &Claim, evidence: &Evidence) -> Result<Judged, CallError> {
        self.guest.ready()?;
        let verify = self.verify;
        let (verdict, fuel) = self.guest.call(|mut store| {
            let verify = verify.typed::<(&Claim, &Evidence), (Verdict,)>(&store)?;
            Ok(verify.call(&mut store, (claim, evidence))?.0)
        })?;
        Ok(Judged { verdict: verdict.bounded(), fuel })
    }

    /// Whether a trap or a fault has ended it.
    pub fn is_spent(&self) -> bool {
        self.guest.is_spent()
    }

    /// What it may use.
    pub const fn limits(&self) -> &Limits {
        self.guest.limits()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_spent() { "Verifier(spent)" } else { "Verifier" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_little_endian_words() {
        let bytes: [u8; 32] = std::array::from_fn(|at| at as u8);
        let digest = Digest::from(bytes);
        assert_eq!(digest.a, 0x0706_0504_0302_0100);
        assert_eq!(digest.d, 0x1f1e_1d1c_1b1a_1918);
        assert_eq!(<[u8; 32]>::from(digest), bytes);
        assert_eq!(Digest::from(blake3::Hash::from_bytes(bytes)), digest);
    }
}
