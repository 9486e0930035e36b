//! The blocks of a decoder, run on the later rows of many sequences at once.
//!
//! # How
//!
//! 1. The rows of all sequences go through all blocks but the last, one after another, each block going on from what earlier
//!    calls left of each sequence (`Past`).
//! 2. The last block gives the logits of those rows alone that somebody wants them of: its product is the widest of all.
//!
//! Blocks are row by row or causal, and exact: how sequences are cut into calls, and which go together, changes no byte.

use crate::error::NodeError;
use crate::load::Model;
use ostrakon_nn::{NnError, SequencePast, Tensor};

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
    /// For each block.
    blocks: Vec<SequencePast>,
}

impl Past {
    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.iter().map(SequencePast::bytes).sum()
    }

    /// What the first rows left. It shares their memory.
    pub(super) fn first(&self, rows: usize) -> Self {
        let mut first = self.clone();
        first.truncate(rows);
        first
    }

    /// Forget all rows from this one on.
    fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        for block in &mut self.blocks {
            block.truncate(rows);
        }
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

    /// The model, if all of it is on this machine.
    fn model(&mut self) -> Option<&mut Model>;
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
        let (mut x, lengths) = inputs(&batch)?;
        let mut starts = Vec::with_capacity(batch.len());
        let (mut pasts, mut counts) = (Vec::new(), Vec::new());
        for Later { tokens, wanted, past } in batch {
            starts.push((past.rows, tokens.len()));
            counts.push(wanted);
            pasts.push(past.blocks);
        }
        let Some((last, blocks)) = self.model.blocks.split_last_mut() else {
            return Err(malformed("the package has no blocks"));
        };
        for past in &mut pasts {
            past.resize_with(blocks.len(), SequencePast::default);
        }
        for (at, block) in blocks.iter_mut().enumerate() {
            let before = pasts.iter_mut().filter_map(|past| past.get_mut(at)).map(std::mem::take).collect();
            let (done, after) = block.forward_on(&self.model.bench, x, &lengths, before)?;
            for (past, after) in pasts.iter_mut().filter_map(|past| past.get_mut(at)).zip(after) {
                *past = after;
            }
            x = done.output;
        }
        let mut logits = Vec::new();
        let wanted: usize = counts.iter().sum();
        if wanted > 0 {
            let nothing = vec![SequencePast::default(); counts.len()];
            let (done, _) = last.forward_on(&self.model.bench, x, &lengths, nothing)?;
            logits = rows(&done.output, wanted, self.vocabulary)?;
        }
        let mut logits = logits.into_iter();
        let decoded = starts.into_iter().zip(pasts).zip(counts).map(|(((before, rows), blocks), count)| Decoded {
            past: Past { rows: before + rows, blocks },
            logits: logits.by_ref().take(count).collect(),
        });
        Ok(decoded.collect())
    }

    fn model(&mut self) -> Option<&mut Model> {
        Some(&mut self.model)
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
