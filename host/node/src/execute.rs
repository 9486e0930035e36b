//! The execute phase on one machine: texts in, outputs and their digests out.
//!
//! # How
//!
//! 1. Texts become token ids, cut to the package's limit.
//! 2. They are split into ragged batches (see [`batch`](crate::batch)).
//! 3. Each batch goes through the blocks in order; the tensor that leaves a block enters the next one,
//!    whichever shard that is in.
//! 4. The last block gives one row for each text. Each row is hashed, then the list of hashes.
//! 5. For a receipt, the tensors between the blocks are hashed as well: nothing else is kept of a run.

use crate::batch;
use crate::error::NodeError;
use crate::generate::Answered;
use crate::load::{Model, OpenBlock};
use crate::progress::{Event, Watcher};
use crate::receipt::{BatchBorders, Borders, tensor_digest};
use crate::tokens::Tokenised;
use ostrakon_engine::{CallError, HostFault};
use ostrakon_nn::{NnError, Tensor};
use ostrakon_protocol::{Digest, Request};
use std::time::{Duration, Instant};

/// What a run gives.
#[derive(Debug, Clone)]
pub struct Answer {
    /// One for each text, in order.
    pub outputs: Vec<Output>,
    /// Of all outputs in order.
    pub digest: Digest,
    /// Of all blocks together. May depend on how texts were batched; the digests may not.
    pub fuel: u64,
    /// What each block cost, in the order in which they ran.
    pub blocks: Vec<BlockCost>,
    /// Making token ids.
    pub tokenise: Duration,
    /// All blocks on all batches.
    pub compute: Duration,
}

/// The output for one text.
#[derive(Debug, Clone)]
pub struct Output {
    /// How many tokens the text had after the cut.
    pub tokens: usize,
    /// Whether something was cut off.
    pub truncated: bool,
    /// The row. Of an answer none.
    pub values: Vec<f32>,
    /// Of the row, or of the tokens that follow from the logits.
    pub digest: Digest,
    /// Why the answer that was asked for is not what follows.
    pub wrong: Option<String>,
}

/// What one block cost.
#[derive(Debug, Clone)]
pub struct BlockCost {
    /// Its name.
    pub name: String,
    /// Its kind, from its settings.
    pub kind: String,
    /// The shard it is in.
    pub shard: String,
    /// Guest instructions and charges of host calls.
    pub fuel: u64,
    /// On the wall clock.
    pub time: Duration,
}

impl Model {
    /// Run `texts`, at most `most` in a batch.
    ///
    /// # Errors
    /// When a text cannot be tokenised, a block fails, or the last block does not give a row a text.
    pub fn run(&mut self, texts: &[String], most: Option<usize>, watch: Watcher<'_>) -> Result<Answer, NodeError> {
        self.run_noting(texts, most, watch, None)
    }

    /// Run `texts` and note, if wanted, what crosses the borders of blocks.
    pub(crate) fn run_noting(
        &mut self,
        texts: &[String],
        most: Option<usize>,
        watch: Watcher<'_>,
        mut borders: Option<&mut Borders>,
    ) -> Result<Answer, NodeError> {
        if self.manifest().generation.is_some() {
            let name = &self.manifest().name;
            return Err(NodeError::Setting(format!(
                "the package `{name}` generates text: give it to `ostrakon chat`, or to `ostrakon serve`"
            )));
        }
        let start = Instant::now();
        let tokenised = self.tokens.encode(texts)?;
        let tokenise = start.elapsed();
        let mut blocks: Vec<BlockCost> = self.blocks.iter().map(BlockCost::unused).collect();
        let mut outputs = Vec::with_capacity(texts.len());
        let counts: Vec<usize> = tokenised.iter().map(|t| t.ids.len()).collect();
        for range in batch::split(&counts, most) {
            let part = tokenised.get(range).unwrap_or_default();
            let (ids, lengths) = inputs(part)?;
            let mut noted = borders.is_some().then(|| BatchBorders::new(part.len(), &lengths));
            let result = self.through_blocks(ids, &lengths, &mut blocks, noted.as_mut())?;
            if let (Some(borders), Some(noted)) = (borders.as_deref_mut(), noted) {
                borders.batches.push(noted);
            }
            outputs.extend(rows(&result, part)?);
            watch(Event::Done { done: outputs.len() as u64, total: texts.len() as u64 });
        }
        let digests: Vec<Digest> = outputs.iter().map(|o| o.digest).collect();
        Ok(Answer {
            digest: Digest::of_outputs(&digests),
            fuel: blocks.iter().map(|b| b.fuel).sum(),
            outputs,
            blocks,
            tokenise,
            compute: start.elapsed().saturating_sub(tokenise),
        })
    }

    /// What a request is run on.
    ///
    /// # Errors
    /// A text that cannot be tokenised; an answer that is none of this package's, or goes with texts that are not its
    /// tokens'.
    pub(crate) fn asked(&self, request: &Request) -> Result<Vec<Tokenised>, NodeError> {
        let Some(generated) = &request.generation else { return Ok(self.tokens.encode(&request.texts)?) };
        let answer = Answered::of(self.manifest(), generated)?;
        let text = |tokens: &[u32]| self.tokens.text_of(tokens, false);
        if !request.texts.is_empty() && request.texts != [text(&generated.prompt), text(&generated.answer)] {
            return Err(NodeError::Setting("the texts of the request are not those of its tokens".into()));
        }
        Ok(vec![Tokenised { ids: answer.ids(), truncated: false, answer: Some(answer) }])
    }

    /// Send a ragged batch of token ids, I32 [T] with lengths I32 [B], through all blocks.
    ///
    /// # Errors
    /// When a block fails.
    pub fn forward(&mut self, ids: Tensor, lengths: &Tensor) -> Result<Tensor, NodeError> {
        let mut unwanted: Vec<BlockCost> = self.blocks.iter().map(BlockCost::unused).collect();
        self.through_blocks(ids, lengths, &mut unwanted, None)
    }

    fn through_blocks(
        &mut self,
        ids: Tensor,
        lengths: &Tensor,
        costs: &mut [BlockCost],
        mut borders: Option<&mut BatchBorders>,
    ) -> Result<Tensor, NodeError> {
        let mut x = ids;
        let mut input = borders.is_some().then(|| tensor_digest(&x));
        for (block, cost) in self.blocks.iter_mut().zip(costs) {
            let start = Instant::now();
            let done = block.forward(&self.bench, x, lengths)?;
            cost.time += start.elapsed();
            cost.fuel = cost.fuel.saturating_add(done.fuel);
            if let (Some(borders), Some(input)) = (borders.as_deref_mut(), &mut input) {
                let output = tensor_digest(&done.output);
                borders.steps.push(block.step(*input, output, done.fuel));
                *input = output;
            }
            x = done.output;
        }
        Ok(x)
    }

    /// Run the block at `index` alone.
    pub(crate) fn run_block(
        &mut self,
        index: usize,
        input: Tensor,
        lengths: &Tensor,
    ) -> Result<ostrakon_engine::Forward, NodeError> {
        let block = self.blocks.get_mut(index).ok_or_else(|| internal("?", &"the package has no such block"))?;
        block.forward(&self.bench, input, lengths)
    }
}

impl BlockCost {
    fn unused(block: &OpenBlock) -> Self {
        Self {
            name: block.name.clone(),
            kind: block.kind.clone(),
            shard: block.shard.clone(),
            fuel: 0,
            time: Duration::ZERO,
        }
    }
}

/// Token ids and lengths of a batch: I32 [B], or [1, 3] for an answer, of which the last rows are wanted.
pub(crate) fn inputs(texts: &[Tokenised]) -> Result<(Tensor, Tensor), NodeError> {
    let ids: Vec<i32> = texts.iter().flat_map(|t| t.ids.iter().copied()).collect();
    let lengths = texts.iter().map(|t| i32::try_from(t.ids.len()).unwrap_or(i32::MAX)).collect();
    let lengths = match texts {
        [Tokenised { ids, answer: Some(answer), .. }] => {
            let count = |rows| i32::try_from(rows).unwrap_or(i32::MAX);
            Tensor::from_i32(vec![1, 3], vec![count(ids.len()), 0, count(answer.wanted())])
        }
        _ => column(lengths),
    };
    let ids = column(ids).map_err(|e| internal("tokens", &e))?;
    Ok((ids, lengths.map_err(|e| internal("lengths", &e))?))
}

/// Numbers as a tensor of rank 1.
pub(crate) fn column(values: Vec<i32>) -> Result<Tensor, NnError> {
    let count = u32::try_from(values.len()).map_err(|_| NnError::TooLarge("more than 2^32 tokens".into()))?;
    Tensor::from_i32(vec![count], values)
}

/// A fault of this program, not of the block.
pub(crate) fn internal(block: &str, why: &dyn std::fmt::Display) -> NodeError {
    let source = CallError::Host(HostFault::Operation(why.to_string()));
    NodeError::Block { block: block.into(), source }
}

/// The last block's output, cut into the rows of the texts; of an answer, what follows from its logits.
pub(crate) fn rows(result: &Tensor, texts: &[Tokenised]) -> Result<Vec<Output>, NodeError> {
    let wrong = || NodeError::Output { got: result.dims().to_vec(), texts: texts.len() };
    if let [Tokenised { ids, answer: Some(answer), .. }] = texts {
        let again = answer.again(result).ok_or_else(wrong)?;
        let (tokens, values) = (ids.len(), Vec::new());
        return Ok(vec![Output { tokens, truncated: false, values, digest: again.digest, wrong: again.wrong }]);
    }
    let &[count, width] = result.dims() else { return Err(wrong()) };
    let values = result.as_f32().map_err(|_| wrong())?;
    let step = usize::try_from(width).unwrap_or(usize::MAX);
    if count as usize != texts.len() || step == 0 {
        return Err(wrong());
    }
    let make = |(text, row): (&Tokenised, &[f32])| Output {
        tokens: text.ids.len(),
        truncated: text.truncated,
        digest: Digest::of_output(&[width], row),
        values: row.to_vec(),
        wrong: None,
    };
    Ok(texts.iter().zip(values.chunks_exact(step)).map(make).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(count: usize) -> Vec<Tokenised> {
        vec![Tokenised { ids: vec![1, 2, 3], truncated: false, answer: None }; count]
    }

    #[test]
    fn each_text_gets_its_row() {
        let result = Tensor::from_f32(vec![2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let outputs = rows(&result, &texts(2)).unwrap();
        assert_eq!(outputs[1].values, [4.0, 5.0, 6.0]);
        assert_eq!(outputs[1].digest, Digest::of_output(&[3], &[4.0, 5.0, 6.0]));
        assert_eq!(outputs[0].tokens, 3);
    }

    #[test]
    fn a_block_that_does_not_pool_is_an_error() {
        for dims in [vec![6], vec![6, 1], vec![1, 2, 3]] {
            let result = Tensor::from_f32(dims, vec![0.0; 6]).unwrap();
            assert!(matches!(rows(&result, &texts(2)), Err(NodeError::Output { texts: 2, .. })));
        }
        let ids = Tensor::from_i32(vec![2, 3], vec![0; 6]).unwrap();
        assert!(rows(&ids, &texts(2)).is_err());
    }
}
