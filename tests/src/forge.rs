//! A run taken apart, to be changed and signed again: what cheaters do.

use crate::tiny::{BLOCKS, ENCODERS, HEADS, WIDE, WIDTH, expect, key};
use ostrakon_node::SignedReceipt;
use ostrakon_package::{Manifest, SigningKey};
use ostrakon_protocol::{
    Batch, BlockContent, Digest, Document, Leg, Place, Receipt, Request, Step, Transcript, encode,
};
use std::ops::Range;

/// Who signs what. Blocks before `border` are those of the first node, the others those of the second.
pub struct Signers {
    /// Who puts the answer together.
    pub issuer: SigningKey,
    /// Who run the blocks.
    pub nodes: [SigningKey; 2],
    /// The first block of the second node.
    pub border: usize,
}

impl Signers {
    /// Three different ones.
    pub fn three(border: usize) -> Self {
        Self { issuer: key(10), nodes: [key(11), key(12)], border }
    }

    /// The one who runs the block at this place.
    pub const fn of(&self, place: usize) -> &SigningKey {
        let [first, second] = &self.nodes;
        if place < self.border { first } else { second }
    }

    /// What verdicts call that one.
    pub fn node(&self, place: usize) -> String {
        self.of(place).public().to_string()
    }

    /// What verdicts call the issuer.
    pub fn issuer_name(&self) -> String {
        self.issuer.public().to_string()
    }
}

/// A batch without signatures.
#[derive(Clone)]
pub struct LooseBatch {
    /// How many texts.
    pub texts: u32,
    /// Of its lengths.
    pub lengths: Digest,
    /// The blocks, in order.
    pub steps: Vec<Step>,
}

/// A block's transcript without its signature.
#[derive(Clone)]
pub struct LoosePart {
    /// Which batch.
    pub batch: u32,
    /// The block's name.
    pub block: String,
    /// The input's element type.
    pub element: u8,
    /// The input's shape.
    pub dimensions: Vec<u32>,
    /// Rows of each text.
    pub lengths: Vec<i32>,
    /// The input's bytes.
    pub input: Vec<u8>,
    /// The products.
    pub products: Vec<u8>,
}

impl LoosePart {
    /// The digest of the input.
    pub fn input_digest(&self) -> Digest {
        Digest::of_tensor(self.element, &self.dimensions, &self.input)
    }
}

/// A receipt and a transcript without signatures.
#[derive(Clone)]
pub struct Loose {
    /// Of the request.
    pub request: Digest,
    /// What was asked, if it travels with the receipt.
    pub asked: Option<Request>,
    /// The package.
    pub package: Digest,
    /// The profile.
    pub profile: Digest,
    /// All batches.
    pub batches: Vec<LooseBatch>,
    /// Of the outputs.
    pub outputs: Vec<Digest>,
    /// Of all outputs.
    pub answer: Digest,
    /// The transcript.
    pub parts: Vec<LoosePart>,
}

/// A receipt and the bytes of its transcript.
#[derive(Clone)]
pub struct Claimed {
    /// The receipt.
    pub signed: SignedReceipt,
    /// The transcript's file.
    pub transcript: Vec<u8>,
}

impl Loose {
    /// Take a run apart of which there is no transcript.
    pub fn of_receipt(signed: &SignedReceipt) -> Self {
        Self::of(signed, &Transcript { receipt: signed.receipt.digest(), blocks: Vec::new() }.head())
    }

    /// Take a run apart.
    pub fn of(signed: &SignedReceipt, transcript: &[u8]) -> Self {
        let receipt = &signed.receipt;
        let batches = receipt.batches.iter().map(|batch| LooseBatch {
            texts: batch.texts,
            lengths: batch.lengths,
            steps: batch.legs.iter().flat_map(|leg| leg.steps.iter().cloned()).collect(),
        });
        let (document, ranges) = expect(Transcript::read(transcript));
        let bytes = |range: Range<usize>| transcript.get(range).unwrap_or_default().to_vec();
        let parts = document.blocks.into_iter().zip(ranges).map(|(block, range)| LoosePart {
            batch: block.batch,
            block: block.block,
            element: block.element,
            dimensions: block.dimensions,
            lengths: block.lengths,
            input: bytes(range.input),
            products: bytes(range.products),
        });
        Self {
            request: receipt.request,
            asked: signed.request.clone(),
            package: receipt.package,
            profile: receipt.profile,
            batches: batches.collect(),
            outputs: receipt.outputs.clone(),
            answer: receipt.answer,
            parts: parts.collect(),
        }
    }

    /// The answer that these outputs make.
    pub fn set_answer(&mut self) {
        self.answer = Digest::of_outputs(&self.outputs);
    }

    /// Say that it was a run of this package.
    pub fn claim_package(&mut self, package: Digest) {
        self.package = package;
        if let Some(asked) = &mut self.asked {
            asked.package = package;
            self.request = asked.digest();
        }
    }

    /// A block on a batch.
    ///
    /// # Panics
    /// When there is none.
    #[allow(clippy::indexing_slicing)]
    pub fn step(&mut self, batch: usize, place: usize) -> &mut Step {
        &mut self.batches[batch].steps[place]
    }

    /// What the transcript has of a block on a batch.
    ///
    /// # Panics
    /// When it has nothing.
    #[allow(clippy::indexing_slicing)]
    pub fn part(&mut self, batch: usize, place: usize) -> &mut LoosePart {
        &mut self.parts[batch * BLOCKS + place]
    }

    /// Everybody signs what is theirs.
    pub fn sign(&self, signers: &Signers) -> Claimed {
        let batches = (0..).zip(&self.batches).map(|(at, batch)| {
            let LooseBatch { texts, lengths, steps } = batch;
            let (request, package, profile) = (self.request, self.package, self.profile);
            let place = Place { request, package, profile, batch: at, lengths: *lengths };
            let (first, second) = steps.split_at(signers.border.min(steps.len()));
            let [a, b] = &signers.nodes;
            let legs = [(a, first), (b, second)].into_iter().filter(|(_, steps)| !steps.is_empty());
            let legs = legs.map(|(key, steps)| Leg::sign(key, &place, "cpu", steps.to_vec()));
            Batch { texts: *texts, lengths: *lengths, legs: legs.collect() }
        });
        let receipt = Receipt {
            request: self.request,
            package: self.package,
            profile: self.profile,
            batches: batches.collect(),
            outputs: self.outputs.clone(),
            answer: self.answer,
            swarm: None,
        };
        let id = receipt.digest();
        let signed = SignedReceipt::sign(&signers.issuer, receipt, self.asked.clone());
        Claimed { signed, transcript: self.sign_transcript(&id, signers) }
    }

    /// Where in its batch the block of this part is.
    fn place(&self, part: &LoosePart) -> usize {
        let batch = usize::try_from(part.batch).ok().and_then(|at| self.batches.get(at));
        batch.and_then(|batch| batch.steps.iter().position(|step| step.block == part.block)).unwrap_or_default()
    }

    /// Everybody signs their part of the transcript of this receipt.
    pub fn sign_transcript(&self, receipt: &Digest, signers: &Signers) -> Vec<u8> {
        let blocks = self.parts.iter().map(|part| {
            let content = BlockContent {
                batch: part.batch,
                block: &part.block,
                element: part.element,
                dimensions: &part.dimensions,
                lengths: &part.lengths,
                input: &part.input,
                products: &part.products,
            };
            content.sign(signers.of(self.place(part)), receipt)
        });
        let mut file = Transcript { receipt: *receipt, blocks: blocks.collect() }.head();
        for part in &self.parts {
            file.extend_from_slice(&part.input);
            file.extend_from_slice(&part.products);
        }
        file
    }
}

/// What the sizes of an encoder's products follow from.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Columns of a hidden state.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Columns inside of the feed-forward network.
    pub wide: usize,
    /// Layers whose activations have 16 bits, and so their totals 64.
    pub u16_layers: Vec<String>,
}

impl Shape {
    /// Of the tiny model.
    pub fn tiny() -> Self {
        let u16_layers = (0..ENCODERS)
            .flat_map(|block| ["attention.qkv", "feed-forward.up"].map(|layer| format!("blocks.{block}.{layer}")));
        Self { width: WIDTH, heads: HEADS, wide: WIDE, u16_layers: u16_layers.collect() }
    }

    /// Of MiniLM.
    pub fn minilm(manifest: &Manifest) -> Self {
        let layers = manifest.blocks.iter().flat_map(|block| {
            let u16_layers = block.layers.iter().filter(|layer| layer.activation == "u16");
            u16_layers.map(|layer| format!("{}.{}", block.name, layer.name))
        });
        Self { width: 384, heads: 12, wide: 1536, u16_layers: layers.collect() }
    }
}

/// The products of an encoder for texts of these lengths: the name of each operation and
/// where its totals are. Written down here once more, so that a test does not ask the auditor where things are.
pub fn operations(shape: &Shape, block: &str, lengths: &[i32]) -> Vec<(String, Range<usize>)> {
    let Shape { width, heads, wide, u16_layers } = shape;
    let mut all: Vec<(String, Range<usize>)> = Vec::new();
    let mut add = |name: String, totals: usize| {
        let start = all.last().map_or(0, |(_, range)| range.end);
        let size = if name.contains(", weighted,") || u16_layers.contains(&name) { 8 } else { 4 };
        all.push((name, start..start + totals * size));
    };
    let lengths: Vec<usize> = lengths.iter().filter_map(|&length| usize::try_from(length).ok()).collect();
    let rows: usize = lengths.iter().sum();
    add(format!("{block}.attention.qkv"), rows * 3 * width);
    for (sequence, &length) in lengths.iter().enumerate() {
        for head in 0..*heads {
            let place =
                |product: &str| format!("attention 1 of the block, {product}, sequence {sequence}, head {head}");
            add(place("scores"), length * length);
            add(place("weighted"), length * (width / heads));
        }
    }
    add(format!("{block}.attention.output"), rows * width);
    add(format!("{block}.feed-forward.up"), rows * wide);
    add(format!("{block}.feed-forward.down"), rows * width);
    all
}

/// The operation that this byte belongs to.
pub fn operation_at(operations: &[(String, Range<usize>)], byte: usize) -> Option<&str> {
    operations.iter().find(|(_, range)| range.contains(&byte)).map(|(name, _)| name.as_str())
}

/// The file of a document.
pub fn file<T: Document>(document: &T) -> Vec<u8> {
    encode(document)
}
