//! The blocks of a decoder, run on the later rows of many sequences at once.
//!
//! # How
//!
//! 1. The rows of all sequences go through all blocks but the last, one after another, each block going on from what earlier
//!    calls left of each sequence (`Past`).
//! 2. The last block gives the logits of those rows alone that somebody wants them of: its product is the widest of all.
//!
//! Blocks are row by row or causal, and exact: how sequences are cut into calls, and which go together, changes no byte.

use super::remote::Number;
use crate::error::NodeError;
use crate::load::Model;
use ostrakon_nn::{NnError, SequencePast, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// Memory for what rows leave is taken for so many at once.
pub(super) const BLOCK_ROWS: usize = 64;

/// Later rows of a sequence.
pub(super) struct Later<'a> {
    /// Their tokens, at least one.
    pub(super) tokens: &'a [u32],
    /// Of how many of the last of them logits are wanted.
    pub(super) wanted: usize,
    /// What earlier calls left.
    pub(super) past: Past,
}

/// What calls left of a sequence.
#[derive(Clone, Default)]
pub(super) struct Past {
    /// Tokens that were run.
    pub(super) rows: usize,
    pub(super) kept: Kept,
}

/// Where it is kept.
#[derive(Clone)]
pub(super) enum Kept {
    /// Here, for each block.
    Here(Vec<SequencePast>),
    /// On the nodes that run the blocks.
    There {
        /// What they call it.
        number: Arc<Number>,
        /// Bytes that a row takes there and here, at most.
        row_bytes: usize,
    },
}

impl Default for Kept {
    fn default() -> Self {
        Self::Here(Vec::new())
    }
}

impl Past {
    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Here(blocks) => blocks.iter().map(SequencePast::bytes).sum(),
            Kept::There { row_bytes, .. } => self.rows.next_multiple_of(BLOCK_ROWS).saturating_mul(*row_bytes),
        }
    }

    /// What the first rows left. It shares their memory.
    pub(super) fn first(&self, rows: usize) -> Self {
        let mut first = self.clone();
        first.rows = first.rows.min(rows);
        // Nodes are told with the next rows how many are before them.
        if let Kept::Here(blocks) = &mut first.kept {
            blocks.iter_mut().for_each(|block| block.truncate(rows));
        }
        first
    }
}

/// What a call gives for a sequence.
pub(super) struct Decoded {
    /// With the rows of the call.
    pub(super) past: Past,
    /// The logits of each row that was wanted.
    pub(super) logits: Vec<Vec<f32>>,
}

/// Blocks that generate text.
pub(super) trait Decoder: Send {
    /// Run later rows of each sequence. After an error nothing is left of any of them.
    ///
    /// # Errors
    /// A block fails, or does not give what it should.
    fn decode(&mut self, batch: Vec<Later<'_>>) -> Result<Vec<Decoded>, NodeError>;

    /// The whole model, on this machine.
    ///
    /// # Errors
    /// It cannot be loaded.
    fn model(&mut self) -> Result<&mut Model, NodeError>;
}

/// All blocks on this machine.
pub(super) struct LocalDecoder {
    model: Model,
    /// Tokens that there are: the width of logits.
    vocabulary: u32,
}

impl LocalDecoder {
    pub(super) const fn new(model: Model, vocabulary: u32) -> Self {
        Self { model, vocabulary }
    }
}

impl Decoder for LocalDecoder {
    fn decode(&mut self, batch: Vec<Later<'_>>) -> Result<Vec<Decoded>, NodeError> {
        let (x, lengths) = inputs(&batch)?;
        let mut starts = Vec::with_capacity(batch.len());
        let (mut pasts, mut counts) = (Vec::new(), Vec::new());
        for Later { tokens, wanted, past } in batch {
            starts.push((past.rows, tokens.len()));
            counts.push(wanted);
            match past.kept {
                Kept::Here(blocks) => pasts.push(blocks),
                Kept::There { .. } => return Err(malformed("what its rows left is on nodes")),
            }
        }
        let wanted: usize = counts.iter().sum();
        let blocks = self.model.blocks.len();
        let logits = if wanted > 0 {
            rows(&self.model.go_on(0..blocks, x, &lengths, &mut pasts)?, wanted, self.vocabulary)?
        } else {
            self.model.go_on(0..blocks.saturating_sub(1), x, &lengths, &mut pasts)?;
            Vec::new()
        };
        let mut logits = logits.into_iter();
        let decoded = starts.into_iter().zip(pasts).zip(counts).map(|(((before, rows), blocks), count)| Decoded {
            past: Past { rows: before + rows, kept: Kept::Here(blocks) },
            logits: logits.by_ref().take(count).collect(),
        });
        Ok(decoded.collect())
    }

    fn model(&mut self) -> Result<&mut Model, NodeError> {
        Ok(&mut self.model)
    }
}

impl Model {
    /// Run some blocks on later rows of sequences. `pasts` has what earlier calls left of each sequence in these blocks, and nothing
    /// before the first one; then it has what is left after this one.
    ///
    /// # Errors
    /// A block fails. Then what was left is gone.
    pub(crate) fn go_on(
        &mut self,
        blocks: Range<usize>,
        mut x: Tensor,
        lengths: &Tensor,
        pasts: &mut [Vec<SequencePast>],
    ) -> Result<Tensor, NodeError> {
        let blocks = self.blocks.get_mut(blocks).ok_or_else(|| malformed("there are no such blocks"))?;
        for past in pasts.iter_mut().filter(|past| past.len() < blocks.len()) {
            past.resize_with(blocks.len(), SequencePast::default);
        }
        for (at, block) in blocks.iter_mut().enumerate() {
            let before = pasts.iter_mut().filter_map(|past| past.get_mut(at)).map(std::mem::take).collect();
            let (done, after) = block.forward_on(&self.bench, x, lengths, before)?;
            for (past, after) in pasts.iter_mut().filter_map(|past| past.get_mut(at)).zip(after) {
                *past = after;
            }
            x = done.output;
        }
        Ok(x)
    }
}

fn malformed(reason: impl Into<String>) -> NodeError {
    NodeError::Decoder(reason.into())
}

/// Token ids I32 [T], and lengths I32 [B, 3]: rows now, rows before, and the last of them that are wanted.
fn inputs(batch: &[Later<'_>]) -> Result<(Tensor, Tensor), NodeError> {
    let number = |count: usize| i32::try_from(count).map_err(|_| malformed("a sequence has too many rows"));
    let tokens = batch.iter().flat_map(|later| later.tokens).map(|&token| i32::try_from(token));
    let tokens: Vec<i32> = tokens.collect::<Result<_, _>>().map_err(|_| malformed("a token id is beyond 31 bits"))?;
    let mut lengths = Vec::with_capacity(3 * batch.len());
    for later in batch {
        lengths.extend([number(later.tokens.len())?, number(later.past.rows)?, number(later.wanted)?]);
    }
    let ids = Tensor::from_i32(vec![dimension(tokens.len())?], tokens).map_err(wrong)?;
    let lengths = Tensor::from_i32(vec![dimension(batch.len())?, 3], lengths).map_err(wrong)?;
    Ok((ids, lengths))
}

fn dimension(count: usize) -> Result<u32, NodeError> {
    u32::try_from(count).map_err(|_| malformed("a batch has too many rows"))
}

fn wrong(error: NnError) -> NodeError {
    malformed(error.to_string())
}

fn rows(logits: &Tensor, count: usize, vocabulary: u32) -> Result<Vec<Vec<f32>>, NodeError> {
    match logits.dims() {
        &[rows, width] if rows as usize == count && width == vocabulary && width > 0 => {
            let values = logits.as_f32().map_err(wrong)?;
            Ok(values.chunks_exact(width as usize).map(<[f32]>::to_vec).collect())
        }
        other => Err(malformed(format!(
            "the last block gives {other:?} where logits of {count} rows and {vocabulary} tokens should be"
        ))),
    }
}
