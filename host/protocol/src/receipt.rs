//! Receipts: who computed what.
//!
//! # How
//!
//! 1. Texts were split into [batches](Batch); each went through the blocks in order.
//! 2. The blocks that one node ran one after another are a [leg](Leg). For each block the leg says which
//!    component ran, and the digests of what went in and what came out. The node signs the leg together
//!    with the request, the package, the profile and its place in the run: it can be held to that, and to
//!    nothing else.
//! 3. Whoever put the answer together signs the whole.
//!
//! The request itself may travel with the receipt or be kept apart: the receipt names its digest.

use crate::digest::{Context, Digest};
use crate::encoding::{Document, content};
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
use crate::request::Request;
use minicbor::{Decode, Encode};

/// A block that was run on a batch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Step {
    /// The block's name.
    #[n(0)]
    pub block: String,
    /// The component that ran it.
    #[n(1)]
    pub component: Digest,
    /// Of the tensor that went in.
    #[n(2)]
    pub input: Digest,
    /// Of the tensor that came out.
    #[n(3)]
    pub output: Digest,
    /// What it cost, in units of the profile.
    #[n(4)]
    pub fuel: u64,
}

/// Blocks that one node ran one after another.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Leg {
    /// Who ran them.
    #[n(0)]
    pub node: PublicKey,
    /// What did the integer products: `cpu`, `openvino`. It cannot change a byte.
    #[n(1)]
    pub backend: String,
    /// The blocks, in order.
    #[n(2)]
    pub steps: Vec<Step>,
    /// The node's, over all of this and its place in the run.
    #[n(3)]
    pub signature: Signature,
}

/// Texts that went through the blocks together.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Batch {
    /// How many texts.
    #[n(0)]
    pub texts: u32,
    /// Of the tensor that says how many rows each text has.
    #[n(1)]
    pub lengths: Digest,
    /// From the first block to the last.
    #[n(2)]
    pub legs: Vec<Leg>,
}

/// What a run leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Receipt {
    /// Of the request.
    #[n(0)]
    pub request: Digest,
    /// The package that ran.
    #[n(1)]
    pub package: Digest,
    /// The determinism profile under which it ran.
    #[n(2)]
    pub profile: Digest,
    /// All batches, in the order of the texts.
    #[n(3)]
    pub batches: Vec<Batch>,
    /// Of the output for each text.
    #[n(4)]
    pub outputs: Vec<Digest>,
    /// Of all outputs together.
    #[n(5)]
    pub answer: Digest,
    /// How a swarm came to it. `None`: one machine ran it.
    #[n(6)]
    pub swarm: Option<Swarm>,
}

/// What a receipt of a swarm says beside what was run.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Swarm {
    /// The job.
    #[n(0)]
    pub job: Digest,
    /// Of the plans, in the order in which they were made.
    #[n(1)]
    pub plans: Vec<Digest>,
    /// Nodes that ran the same leg with the same result.
    #[n(2)]
    pub witnesses: Vec<Witness>,
}

/// A node that signs the very steps of somebody else's leg as its own.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Witness {
    /// Which batch, counted from 0.
    #[n(0)]
    pub batch: u32,
    /// Which leg of it, counted from 0.
    #[n(1)]
    pub leg: u32,
    /// Who.
    #[n(2)]
    pub node: PublicKey,
    /// What did its integer products.
    #[n(3)]
    pub backend: String,
    /// The node's, over these steps as a leg of its own.
    #[n(4)]
    pub signature: Signature,
}

/// What a node signs: its leg and everything that leads to it.
#[derive(Encode)]
struct SignedLeg<'a> {
    #[n(0)]
    request: &'a Digest,
    #[n(1)]
    package: &'a Digest,
    #[n(2)]
    profile: &'a Digest,
    #[n(3)]
    batch: u32,
    #[n(4)]
    lengths: &'a Digest,
    #[n(5)]
    node: &'a PublicKey,
    #[n(6)]
    backend: &'a str,
    #[n(7)]
    steps: &'a [Step],
}

/// Where in which run a leg was: what its signature covers beside its own content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of the request.
    pub request: Digest,
    /// The package.
    pub package: Digest,
    /// The profile.
    pub profile: Digest,
    /// Which batch, counted from 0.
    pub batch: u32,
    /// Of the batch's lengths.
    pub lengths: Digest,
}

impl Leg {
    /// Sign blocks that were run here.
    pub fn sign(key: &SigningKey, place: &Place, backend: &str, steps: Vec<Step>) -> Self {
        let digest = Self::signed(place, &key.public(), backend, &steps);
        let signature = key.sign(Purpose::LEG, &digest);
        Self { node: key.public(), backend: backend.to_owned(), steps, signature }
    }

    /// Whether the node that the leg names signed it for this place.
    #[must_use]
    pub fn is_signed(&self, place: &Place) -> bool {
        let digest = Self::signed(place, &self.node, &self.backend, &self.steps);
        self.node.signed(Purpose::LEG, &digest, &self.signature)
    }

    /// Whether a witness signed the steps of this leg for this place.
    #[must_use]
    pub fn is_witnessed(&self, place: &Place, witness: &Witness) -> bool {
        let digest = Self::signed(place, &witness.node, &witness.backend, &self.steps);
        witness.node.signed(Purpose::LEG, &digest, &witness.signature)
    }

    fn signed(place: &Place, node: &PublicKey, backend: &str, steps: &[Step]) -> Digest {
        let Place { request, package, profile, batch, lengths } = place;
        let leg = SignedLeg { request, package, profile, batch: *batch, lengths, node, backend, steps };
        Digest::of(Context::LEG, &content(&leg))
    }
}

impl Batch {
    /// All blocks in order, each with the node that ran it.
    pub fn steps(&self) -> impl Iterator<Item = (PublicKey, &Step)> {
        self.legs.iter().flat_map(|leg| leg.steps.iter().map(move |step| (leg.node, step)))
    }
}

impl Receipt {
    /// What stands for the receipt, whoever signed it.
    pub fn digest(&self) -> Digest {
        Digest::of(Context::RECEIPT, &content(self))
    }

    /// A batch, counted from 0.
    pub fn batch(&self, at: u32) -> Option<&Batch> {
        self.batches.get(usize::try_from(at).ok()?)
    }

    /// Where the legs of a batch belong. `None` if there is no such batch.
    pub fn place(&self, batch: u32) -> Option<Place> {
        let lengths = self.batch(batch)?.lengths;
        Some(Place { request: self.request, package: self.package, profile: self.profile, batch, lengths })
    }

    /// All blocks on all batches in order: batch, node, step.
    pub fn steps(&self) -> impl Iterator<Item = (u32, PublicKey, &Step)> {
        (0..).zip(&self.batches).flat_map(|(at, batch)| batch.steps().map(move |(node, step)| (at, node, step)))
    }
}

/// A receipt with the signature of whoever put the answer together.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedReceipt {
    /// Who signed.
    #[n(0)]
    pub issuer: PublicKey,
    /// Over the receipt.
    #[n(1)]
    pub signature: Signature,
    /// The receipt.
    #[n(2)]
    pub receipt: Receipt,
    /// What was asked, unless it is kept apart.
    #[n(3)]
    pub request: Option<Request>,
}

impl Document for SignedReceipt {
    const KIND: &'static str = "ostrakon receipt";
    const VERSION: u32 = 1;
    const LIMIT: usize = 64 << 20;
}

impl SignedReceipt {
    /// Sign a receipt.
    pub fn sign(key: &SigningKey, receipt: Receipt, request: Option<Request>) -> Self {
        let signature = key.sign(Purpose::RECEIPT, &receipt.digest());
        Self { issuer: key.public(), signature, receipt, request }
    }

    /// Whether the issuer that it names signed it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.issuer.signed(Purpose::RECEIPT, &self.receipt.digest(), &self.signature)
    }

    /// All signatures, each verified when it is its turn: that of the whole, then those of the legs.
    pub fn seals(&self) -> impl Iterator<Item = Seal<'_>> {
        let whole = std::iter::once_with(|| Seal { signer: self.issuer, leg: None, valid: self.is_signed() });
        let batches = (0..).zip(&self.receipt.batches);
        let legs = batches.flat_map(|(at, batch)| batch.legs.iter().map(move |leg| (at, leg)));
        whole.chain(legs.map(|(at, leg)| {
            let valid = self.receipt.place(at).is_some_and(|place| leg.is_signed(&place));
            Seal { signer: leg.node, leg: Some((at, leg)), valid }
        }))
    }

    /// What witnesses say, each verified when it is its turn. Without a swarm there are none.
    pub fn testimonies(&self) -> impl Iterator<Item = Testimony<'_>> {
        let receipt = &self.receipt;
        receipt.swarm.iter().flat_map(|swarm| &swarm.witnesses).map(|witness| {
            let at = usize::try_from(witness.leg).unwrap_or(usize::MAX);
            let leg = receipt.batch(witness.batch).and_then(|batch| batch.legs.get(at));
            let place = receipt.place(witness.batch);
            let valid = leg.zip(place).is_some_and(|(leg, place)| leg.is_witnessed(&place, witness));
            Testimony { witness, leg, valid }
        })
    }
}

/// A witness with what it is said to have signed.
#[derive(Debug, Clone, Copy)]
pub struct Testimony<'a> {
    /// The witness.
    pub witness: &'a Witness,
    /// The leg whose steps it signed. `None`: the receipt has no such leg.
    pub leg: Option<&'a Leg>,
    /// Whether its signature holds.
    pub valid: bool,
}

/// A signature on a receipt.
#[derive(Debug, Clone, Copy)]
pub struct Seal<'a> {
    /// Who is said to have signed.
    pub signer: PublicKey,
    /// What is signed, and of which batch. `None`: the whole receipt.
    pub leg: Option<(u32, &'a Leg)>,
    /// Whether the signature holds.
    pub valid: bool,
}
