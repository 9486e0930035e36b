//! The executor's transcript, read in place.

use crate::error::{NodeError, file_error};
use crate::receipt::{element_type, tensor_digest};
use crate::replay::expect_lengths_tensor;
use crate::transcript::lengths_tensor;
use memmap2::Mmap;
use ostrakon_nn::Tensor;
use ostrakon_protocol::{Batch, BlockRange, BlockTranscript, Digest, PublicKey, Receipt, Step, Transcript};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The bytes of a transcript: a map of a file, a buffer.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A transcript that belongs to the receipt.
pub struct Evidence {
    bytes: Bytes,
    receipt: Digest,
    blocks: Vec<(BlockTranscript, BlockRange)>,
    by_place: HashMap<(u32, String), usize>,
}

/// A range of the bytes.
struct Part {
    bytes: Bytes,
    range: std::ops::Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        (*self.bytes).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl Evidence {
    /// Open a transcript in a file.
    ///
    /// # Errors
    /// As [`Evidence::new`]; the file cannot be read.
    #[allow(unsafe_code)]
    pub fn open(path: &Path, receipt: &Receipt) -> Result<Self, NodeError> {
        let file = File::open(path).map_err(file_error("read", path))?;
        // SAFETY: the map is only read. Should somebody change the file under it, products and digests are
        // checked on copies, or the verdict is of what was read; a file that is cut while it is mapped can end
        // this process, as it can any that maps files.
        let map = unsafe { Mmap::map(&file) }.map_err(file_error("read", path))?;
        Self::new(Arc::new(map), &path.display().to_string(), receipt)
    }

    /// A transcript; `name` is what errors call it.
    ///
    /// # Errors
    /// It is none, or not the transcript of this receipt.
    pub fn new(bytes: Bytes, name: &str, receipt: &Receipt) -> Result<Self, NodeError> {
        let broken = |source| NodeError::Transcript { path: name.to_owned(), source };
        let (transcript, ranges) = Transcript::read((*bytes).as_ref()).map_err(broken)?;
        let id = receipt.digest();
        if transcript.receipt != id {
            return Err(NodeError::Setting(format!(
                "{name} is the transcript of another receipt: {} and not {id}",
                transcript.receipt
            )));
        }
        let blocks: Vec<_> = transcript.blocks.into_iter().zip(ranges).collect();
        let by_place = (0..).zip(&blocks).map(|(at, (block, _))| ((block.batch, block.block.clone()), at)).collect();
        Ok(Self { bytes, receipt: id, blocks, by_place })
    }

    /// What it has of a block on a batch.
    pub(super) fn block(&self, batch: u32, block: &str) -> Option<BlockEvidence<'_>> {
        let at = *self.by_place.get(&(batch, block.to_owned()))?;
        let (block, range) = self.blocks.get(at)?;
        Some(BlockEvidence { of: self, block, range })
    }
}

/// What a transcript has of one block on one batch.
pub(super) struct BlockEvidence<'a> {
    of: &'a Evidence,
    block: &'a BlockTranscript,
    range: &'a BlockRange,
}

impl BlockEvidence<'_> {
    fn part(&self, range: &std::ops::Range<usize>) -> Part {
        Part { bytes: Arc::clone(&self.of.bytes), range: range.clone() }
    }

    /// The products.
    pub(super) fn products(&self) -> Bytes {
        Arc::new(self.part(&self.range.products))
    }

    /// The block's input and the batch's lengths, if they are those that the receipt commits to.
    /// No text may be longer than `max_tokens`.
    pub(super) fn inputs(&self, step: &Step, batch: &Batch, max_tokens: u32) -> Result<(Tensor, Tensor), String> {
        let lengths = lengths_tensor(self.block, batch.texts).map_err(|error| error.to_string())?;
        expect_lengths_tensor(&lengths, max_tokens).map_err(|why| format!("the transcript is of no run: {why}"))?;
        let ty = element_type(self.block.element)
            .ok_or_else(|| format!("the transcript has an input of the unknown type {}", self.block.element))?;
        let bytes = self.part(&self.range.input).as_ref().to_vec();
        let input = Tensor::new(self.block.dimensions.clone(), ty, bytes)
            .map_err(|error| format!("the transcript's input is no tensor: {}", error.text()))?;
        if tensor_digest(&input) != step.input {
            return Err("the transcript's input is not the one that the receipt commits to".into());
        }
        if tensor_digest(&lengths) != batch.lengths {
            return Err("the transcript's lengths are not those that the receipt commits to".into());
        }
        Ok((input, lengths))
    }

    /// Whether the node signed this.
    pub(super) fn is_signed(&self, node: &PublicKey) -> bool {
        let (input, products) = (self.part(&self.range.input), self.part(&self.range.products));
        self.block.is_signed(node, &self.of.receipt, input.as_ref(), products.as_ref())
    }
}
