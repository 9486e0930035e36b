//! Transcripts: the integer products of blocks, for an auditor who checks instead of computing.
//!
//! # How
//!
//! A transcript is made on demand, by running the request again. For each block on each batch it holds
//! the tensor that went in and the results of all integer products in the order in which the block asked
//! for them: the products of linear layers as i32 (i64 where activations have 16 bits), the two products
//! of attention as i32 and i64, little-endian, nothing between them. Their shapes follow from the
//! operations, so none are written.
//!
//! As products are large and an auditor reads them in place, the file is a small document (the
//! [`Transcript`]) followed by the bytes it speaks of:
//!
//! ```text
//! length of the document (u64, little-endian) | document | input, products of the first block | ...
//! ```
//!
//! Each block's part is signed by the node that ran the block: a bit that flips on the way accuses
//! nobody.

use crate::digest::{Context, Digest};
use crate::encoding::{self, DecodeError, Document, content};
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
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
    /// How many rows each text of the batch has.
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

/// A transcript's file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscriptError {
    /// The document in front.
    #[error(transparent)]
    Document(#[from] DecodeError),
    /// Too short to hold what it says.
    #[error("the transcript is cut off: it has {found} bytes, {needed} are needed")]
    Truncated {
        /// Bytes there.
        found: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// Bytes that nothing speaks of.
    #[error("the transcript has {0} bytes too many at its end")]
    TooLong(u64),
}

impl Transcript {
    /// The bytes before those of the blocks.
    pub fn head(&self) -> Vec<u8> {
        let document = encoding::encode(self);
        [&(document.len() as u64).to_le_bytes()[..], &document].concat()
    }

    /// Read the document of a file and find the bytes of its blocks.
    ///
    /// # Errors
    /// A file that is cut off or grown, or a document that is none.
    pub fn read(file: &[u8]) -> Result<(Self, Vec<BlockRange>), TranscriptError> {
        let truncated = |needed: u64| TranscriptError::Truncated { found: file.len() as u64, needed };
        let (length, rest) = file.split_first_chunk::<8>().ok_or_else(|| truncated(8))?;
        let length = u64::from_le_bytes(*length);
        if length > Self::LIMIT as u64 {
            // Not a transcript: perhaps another document, which says so itself.
            let start = file.get(..file.len().min(Self::LIMIT)).unwrap_or_default();
            if let Err(other @ DecodeError::Kind { found: Some(_), .. }) = encoding::decode::<Self>(start) {
                return Err(other.into());
            }
        }
        let document = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let document = document.ok_or_else(|| truncated(length.saturating_add(8)))?;
        let transcript: Self = encoding::decode(document)?;
        let mut at = length.saturating_add(8);
        let mut ranges = Vec::new();
        for block in &transcript.blocks {
            let middle = at.saturating_add(block.input);
            let end = middle.saturating_add(block.products);
            let range = |from: u64, to: u64| Some(usize::try_from(from).ok()?..usize::try_from(to).ok()?);
            match (range(at, middle), range(middle, end)) {
                (Some(input), Some(products)) if end <= file.len() as u64 => {
                    ranges.push(BlockRange { input, products });
                }
                _ => return Err(truncated(end)),
            }
            at = end;
        }
        match (file.len() as u64).saturating_sub(at) {
            0 => Ok((transcript, ranges)),
            more => Err(TranscriptError::TooLong(more)),
        }
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
