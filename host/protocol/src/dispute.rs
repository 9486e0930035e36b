//! Disputes: two nodes that disagree are led to the first operation on which they do.
//!
//! # How
//!
//! 1. The receipts name the first block on whose output the two differ although its input was the same:
//!    [`first_difference`].
//! 2. Of that block's operations, [`Bisection`] finds the first that differs. It asks both sides for prefix
//!    digests only, as many as the logarithm of the number of operations. Both agree on the empty prefix;
//!    each step halves the range in which they part.
//! 3. The referee runs that one operation on inputs that both agree on, and signs what it found
//!    ([`SignedDispute`]). If one side is honest it is never the one found wrong.

use crate::digest::{Context, Digest};
use crate::encoding::{Document, content};
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
use crate::receipt::{Receipt, Step};
use minicbor::{Decode, Encode};

/// Where two receipts part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which batch, counted from 0.
    pub batch: u32,
    /// The block.
    pub block: String,
    /// Each side's node and what it claims.
    pub sides: [(PublicKey, Step); 2],
}

/// Receipts that cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incomparable {
    /// Another request.
    #[error("the receipts are for different requests")]
    Request,
    /// Another package.
    #[error("the receipts are for different packages")]
    Package,
    /// Texts in other batches or blocks in another order.
    #[error("the receipts split the request into different batches or blocks: run it again with the same batch size")]
    Split,
    /// The input of the first block or the lengths of the texts differ, so one was made for another request.
    #[error("the receipts start batch {batch} from different inputs: audit each of them against the request")]
    Input {
        /// Which batch.
        batch: u32,
    },
    /// A block's input is not the output of the block before.
    #[error("a receipt is broken in batch {batch}: the input of block {block:?} is not what the block before gave")]
    Broken {
        /// Which batch.
        batch: u32,
        /// The block.
        block: String,
    },
}

/// The first block on whose output or component the two differ. `None` if there is none; what the receipts say of
/// the outputs may then still differ. Fuel is left out: see [`other_fuel`].
///
/// # Errors
/// Receipts that cannot be compared.
pub fn first_difference(a: &Receipt, b: &Receipt) -> Result<Option<Difference>, Incomparable> {
    if a.request != b.request {
        return Err(Incomparable::Request);
    }
    if a.package != b.package {
        return Err(Incomparable::Package);
    }
    if a.batches.len() != b.batches.len() {
        return Err(Incomparable::Split);
    }
    let texts = |of: &Receipt, batch: u32| Some(of.batches.get(usize::try_from(batch).ok()?)?.texts);
    let mut before: Option<(u32, [Digest; 2])> = None;
    let (mut left, mut right) = (a.steps(), b.steps());
    loop {
        let ((batch, node_a, step_a), (batch_b, node_b, step_b)) = match (left.next(), right.next()) {
            (None, None) => return Ok(None),
            (Some(a), Some(b)) => (a, b),
            _ => return Err(Incomparable::Split),
        };
        if batch != batch_b || step_a.block != step_b.block {
            return Err(Incomparable::Split);
        }
        if texts(a, batch) != texts(b, batch) {
            return Err(Incomparable::Split);
        }
        if a.place(batch).map(|place| place.lengths) != b.place(batch).map(|place| place.lengths) {
            return Err(Incomparable::Input { batch });
        }
        match before.filter(|(of, _)| *of == batch) {
            Some((_, outputs)) if outputs != [step_a.input, step_b.input] => {
                return Err(Incomparable::Broken { batch, block: step_a.block.clone() });
            }
            None if step_a.input != step_b.input => return Err(Incomparable::Input { batch }),
            _ => {}
        }
        if (step_a.output, step_a.component) != (step_b.output, step_b.component) {
            let sides = [(node_a, step_a.clone()), (node_b, step_b.clone())];
            return Ok(Some(Difference { batch, block: step_a.block.clone(), sides }));
        }
        before = Some((batch, [step_a.output, step_b.output]));
    }
}

/// The first block that cost the two different fuel, with what it cost each, where the receipts can be compared.
///
/// It accuses nobody: fuel depends on the profile too, and here nothing is run.
pub fn other_fuel(a: &Receipt, b: &Receipt) -> Option<(u32, String, [u64; 2])> {
    let mut steps = a.steps().zip(b.steps());
    steps.find_map(|((batch, _, a), (_, _, b))| (a.fuel != b.fuel).then(|| (batch, a.block.clone(), [a.fuel, b.fuel])))
}

/// What both sides answered for a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Answered {
    /// How many operations.
    #[n(0)]
    pub count: u32,
    /// The first side's digest of them.
    #[n(1)]
    pub a: Digest,
    /// The second side's.
    #[n(2)]
    pub b: Digest,
}

/// Finds the first operation on which two sides differ.
#[derive(Debug, Clone)]
pub struct Bisection {
    /// Both agree on this many.
    agreed: u32,
    /// They differ within this many, if they differ in what both have.
    most: u32,
    differ: bool,
    asked: Vec<Answered>,
}

impl Bisection {
    /// Between sides with this many operations.
    pub const fn new(counts: [u32; 2]) -> Self {
        let [a, b] = counts;
        Self { agreed: 0, most: if a < b { a } else { b }, differ: false, asked: Vec::new() }
    }

    /// The prefix to ask both sides for next, or `None` when the operation is found.
    pub const fn question(&self) -> Option<u32> {
        if self.agreed >= self.most {
            None
        } else if self.differ {
            if self.most - self.agreed == 1 { None } else { Some(self.agreed + (self.most - self.agreed) / 2) }
        } else {
            // First of all: do they differ in what both have?
            Some(self.most)
        }
    }

    /// Take the answers to the [question](Self::question).
    pub fn answer(&mut self, a: Digest, b: Digest) {
        let Some(count) = self.question() else { return };
        self.asked.push(Answered { count, a, b });
        if a == b {
            self.agreed = count;
        } else {
            self.most = count;
            self.differ = true;
        }
    }

    /// The first operation that differs, counted from 0: both agree on all before it. If the two agree as far
    /// as the shorter one goes, it is the first that only one of them has.
    pub fn found(&self) -> Option<u32> {
        if self.question().is_some() { None } else { Some(self.agreed) }
    }

    /// All that was asked.
    pub fn asked(&self) -> &[Answered] {
        &self.asked
    }
}

/// What a referee found.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Finding {
    /// The receipts agree.
    #[n(0)]
    NoDifference,
    /// What the referee ran gave what this side claims. It says nothing of what this side did afterwards.
    #[n(1)]
    Right {
        /// Who was right.
        #[n(0)]
        node: PublicKey,
        /// Who was wrong.
        #[n(1)]
        wrong: PublicKey,
        /// Why.
        #[n(2)]
        reason: String,
    },
    /// Neither side was right.
    #[n(2)]
    BothWrong {
        /// Why.
        #[n(0)]
        reason: String,
    },
    /// It cannot be decided.
    #[n(3)]
    Undecided {
        /// What is missing.
        #[n(0)]
        reason: String,
    },
}

/// The operation on which two sides part: both name it and its inputs alike.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Disputed {
    /// Its place in the block, counted from 0.
    #[n(0)]
    pub at: u32,
    /// What it is.
    #[n(1)]
    pub name: String,
    /// Of the tensors that go in.
    #[n(2)]
    pub inputs: Vec<(String, Digest)>,
}

/// All that happened in a dispute.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Dispute {
    /// Of the two receipts.
    #[n(0)]
    pub receipts: [Digest; 2],
    /// Which batch, if they differ.
    #[n(1)]
    pub batch: Option<u32>,
    /// Which block.
    #[n(2)]
    pub block: Option<String>,
    /// What was asked of both.
    #[n(3)]
    pub asked: Vec<Answered>,
    /// The operation on which they part. Without one, the block as a whole was judged.
    #[n(4)]
    pub operation: Option<Disputed>,
    /// The output of that operation, or of the block, as each side claims it.
    #[n(5)]
    pub claimed: Option<[Digest; 2]>,
    /// What the referee got for it.
    #[n(6)]
    pub exact: Option<Digest>,
    /// The decision.
    #[n(7)]
    pub finding: Finding,
}

/// A dispute with the referee's signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedDispute {
    /// Who decided.
    #[n(0)]
    pub referee: PublicKey,
    /// Over the dispute.
    #[n(1)]
    pub signature: Signature,
    /// The dispute.
    #[n(2)]
    pub dispute: Dispute,
}

impl Document for SignedDispute {
    const KIND: &'static str = "ostrakon dispute";
    const VERSION: u32 = 1;
    const LIMIT: usize = 1 << 20;
}

impl Dispute {
    /// What stands for it.
    pub fn digest(&self) -> Digest {
        Digest::of(Context::DISPUTE, &content(self))
    }
}

impl SignedDispute {
    /// Sign a dispute as its referee.
    pub fn sign(key: &SigningKey, dispute: Dispute) -> Self {
        let signature = key.sign(Purpose::DISPUTE, &dispute.digest());
        Self { referee: key.public(), signature, dispute }
    }

    /// Whether the referee that it names signed it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.referee.signed(Purpose::DISPUTE, &self.dispute.digest(), &self.signature)
    }
}
