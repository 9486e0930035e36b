//! Transcripts: the integer products of blocks, for an auditor who checks instead of computing.
//!
//! # How
//!
//! A transcript is made on demand, by running the request again. For each block on each batch it holds
//! the tensor that went in and the results of all integer products in the order in which the block asked
//! for them: the products of linear layers as i32 (i64 where activations have 16 bits), the two products
//! of attention as i32 and i64, little-endian, nothing between them; causal attention has none. Their shapes
//! follow from the operations, so none are written.
//!
//! Inputs and products follow the document, block by block, as its [payload](crate::payload).
//!
//! Each block's part is signed by the node that ran the block: a bit that flips on the way accuses
//! nobody.

use crate::digest::{Context, Digest};
use crate::encoding::{Document, content};
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
use crate::payload::{self, PayloadError, WithPayload};
use minicbor::{Decode, Encode};
use std::ops::Range;

/// A block on a batch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BlockTranscript {
    /// Which batch of the receipt, counted from 0.
    #[n(0)]
    pub batch: u32,
    /// The block's name.
    #[n(1)]
    pub block: String,
    /// The input's element type: its number in wasi-nn's enumeration.
    #[n(2)]
    pub element: u8,
    /// The input's shape.
    #[n(3)]
    pub dimensions: Vec<u32>,
    /// How many rows each text of the batch has; of an answer also the rows before, none, and the last ones that are
    /// wanted.
    #[n(4)]
    pub lengths: Vec<i32>,
    /// Bytes of the input.
    #[n(5)]
    pub input: u64,
    /// Bytes of the products.
    #[n(6)]
    pub products: u64,
    /// The node's, over all of this, the bytes and the receipt.
    #[n(7)]
    pub signature: Signature,
}

/// The products of some or all blocks of a run.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Transcript {
    /// Of the receipt whose blocks these are.
    #[n(0)]
    pub receipt: Digest,
    /// The blocks.
    #[n(1)]
    pub blocks: Vec<BlockTranscript>,
}

impl Document for Transcript {
    const KIND: &'static str = "ostrakon transcript";
    const VERSION: u32 = 1;
    const LIMIT: usize = 64 << 20;
}

#[derive(Encode)]
struct SignedBlock<'a> {
    #[n(0)]
    receipt: &'a Digest,
    #[n(1)]
    batch: u32,
    #[n(2)]
    block: &'a str,
    #[n(3)]
    element: u8,
    #[n(4)]
    dimensions: &'a [u32],
    #[n(5)]
    lengths: &'a [i32],
    #[n(6)]
    input: u64,
    #[n(7)]
    content: &'a Digest,
}

/// What a transcript says of one block, before it is signed.
#[derive(Debug, Clone, Copy)]
pub struct BlockContent<'a> {
    /// Which batch.
    pub batch: u32,
    /// The block's name.
    pub block: &'a str,
    /// The input's element type.
    pub element: u8,
    /// The input's shape.
    pub dimensions: &'a [u32],
    /// How many rows each text has.
    pub lengths: &'a [i32],
    /// The input's bytes.
    pub input: &'a [u8],
    /// The products.
    pub products: &'a [u8],
}

impl BlockContent<'_> {
    fn digest(&self, receipt: &Digest) -> Digest {
        let mut hasher = Context::PRODUCTS.hasher();
        hasher.update(self.input);
        hasher.update(self.products);
        let content_digest = Digest::from(hasher);
        let signed = SignedBlock {
            receipt,
            batch: self.batch,
            block: self.block,
            element: self.element,
            dimensions: self.dimensions,
            lengths: self.lengths,
            input: self.input.len() as u64,
            content: &content_digest,
        };
        Digest::of(Context::TRANSCRIPT, &content(&signed))
    }

    /// Sign it as part of the transcript of a receipt.
    pub fn sign(&self, key: &SigningKey, receipt: &Digest) -> BlockTranscript {
        BlockTranscript {
            batch: self.batch,
            block: self.block.to_owned(),
            element: self.element,
            dimensions: self.dimensions.to_vec(),
            lengths: self.lengths.to_vec(),
            input: self.input.len() as u64,
            products: self.products.len() as u64,
            signature: key.sign(Purpose::TRANSCRIPT, &self.digest(receipt)),
        }
    }
}

/// Where the bytes of a block are in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRange {
    /// The input.
    pub input: Range<usize>,
    /// The products.
    pub products: Range<usize>,
}

impl WithPayload for Transcript {
    fn parts(&self) -> impl Iterator<Item = u64> {
        self.blocks.iter().flat_map(|block| [block.input, block.products])
    }
}

impl Transcript {
    /// The bytes before those of the blocks.
    pub fn head(&self) -> Vec<u8> {
        payload::head(self)
    }

    /// Read the document of a file and find the bytes of its blocks.
    ///
    /// # Errors
    /// A file that is cut off or grown, or a document that is none.
    pub fn read(file: &[u8]) -> Result<(Self, Vec<BlockRange>), PayloadError> {
        let (transcript, parts) = payload::read(file)?;
        let blocks = parts.as_chunks::<2>().0.iter();
        let blocks = blocks.map(|[input, products]| BlockRange { input: input.clone(), products: products.clone() });
        Ok((transcript, blocks.collect()))
    }
}

impl BlockTranscript {
    /// Whether `node` signed this part with these bytes, as part of the transcript of `receipt`.
    #[must_use]
    pub fn is_signed(&self, node: &PublicKey, receipt: &Digest, input: &[u8], products: &[u8]) -> bool {
        let content = BlockContent {
            batch: self.batch,
            block: &self.block,
            element: self.element,
            dimensions: &self.dimensions,
            lengths: &self.lengths,
            input,
            products,
        };
        node.signed(Purpose::TRANSCRIPT, &content.digest(receipt), &self.signature)
    }
}
