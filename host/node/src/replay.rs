//! Runs the request of a receipt again, block by block, and compares what comes out with the receipt.
//!
//! # How
//!
//! 1. What others wrote is bounded before anything is computed for it: [`request`] before it becomes tokens,
//!    [`expect_lengths`] before attention sees them.
//! 2. [`Start`] makes what goes into the first block of a batch; it must be what the receipt says.
//! 3. [`run`] runs blocks as long as their outputs are those of the receipt.
//!
//! A node that answers for its own run, by a transcript or a trace, does so with a [`Rerun`].

use crate::error::NodeError;
use crate::execute::inputs;
use crate::load::Model;
use crate::options::RunOptions;
use crate::receipt::tensor_digest;
use crate::tokens::{MAX_TEXT_BYTES, Tokenised};
use ostrakon_exact::simd::Executor;
use ostrakon_nn::{BackendError, Observer, ProvenBackend, Tensor};
use ostrakon_package::{Home, TrustPolicy};
use ostrakon_protocol::{Batch, Digest, PublicKey, Receipt, Request, SignedReceipt, SigningKey, Step};
use std::path::PathBuf;
use std::sync::Arc;

/// A run that is to be made again by the node that made it.
#[derive(Debug)]
pub struct Rerun {
    /// Its receipt, with the request.
    pub signed: SignedReceipt,
    /// The package's directory.
    pub directory: PathBuf,
    /// Whose packages are run.
    pub policy: TrustPolicy,
    /// This user's files.
    pub home: Home,
    /// How blocks are run.
    pub options: RunOptions,
    /// The key that signed the legs.
    pub key: SigningKey,
}

impl Rerun {
    /// The package, ready to run on what `backend` makes, with somebody who is told of every operation.
    pub(crate) fn load(
        &self,
        backend: impl FnOnce(&Arc<Executor>) -> Result<ProvenBackend, BackendError> + Send,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Model, NodeError> {
        let model = Model::load_observed(&self.directory, &self.policy, &self.home, &self.options, backend, observer)?;
        model.expect_package(&self.signed.receipt)?;
        Ok(model)
    }

    /// Only the node that ran a block can answer for it.
    pub(crate) fn expect_own(&self, node: PublicKey, block: &str) -> Result<(), NodeError> {
        let own = self.key.public();
        if node == own {
            return Ok(());
        }
        Err(NodeError::Setting(format!(
            "block `{block}` was run by {node}: only that node can answer for it, this one is {own}"
        )))
    }
}

/// The request that a receipt travels with.
pub(crate) fn request(signed: &SignedReceipt) -> Result<&Request, NodeError> {
    match &signed.request {
        Some(request) if request.digest() == signed.receipt.request => {
            expect_texts(request)?;
            Ok(request)
        }
        Some(_) => Err(NodeError::Setting("the request in the file is not the one of the receipt".into())),
        None => Err(NodeError::Setting("the receipt is without its request, which must be run again".into())),
    }
}

/// A text longer than any that is run is not tokenised. Those of an answer are only compared.
pub(crate) fn expect_texts(request: &Request) -> Result<(), NodeError> {
    match request.texts.iter().filter(|_| request.generation.is_none()).position(|text| text.len() > MAX_TEXT_BYTES) {
        None => Ok(()),
        Some(at) => Err(NodeError::Setting(format!(
            "text {} of the request is longer than {MAX_TEXT_BYTES} bytes: no run takes such a text",
            at + 1
        ))),
    }
}

/// What attention allocates grows with the square of a length, so none that somebody else names may exceed the
/// package's limit.
pub(crate) fn expect_lengths(lengths: &[i32], max_tokens: u32) -> Result<(), String> {
    let fits = |&length: &i32| u32::try_from(length).is_ok_and(|length| (1..=max_tokens).contains(&length));
    if lengths.iter().all(fits) {
        return Ok(());
    }
    Err(format!("there are texts that are not 1 to {max_tokens} tokens long"))
}

/// Likewise, for a tensor of lengths, perhaps of an answer. What is none is refused by whoever takes it.
pub(crate) fn expect_lengths_tensor(lengths: &Tensor, max_tokens: u32) -> Result<(), String> {
    let values = lengths.as_i32().unwrap_or_default();
    let each = lengths.dims().get(1).map_or(1, |&each| each.max(1) as usize);
    let column = |at: usize| values.iter().copied().skip(at).step_by(each);
    if each > 1 && column(1).any(|before| before != 0) {
        return Err("there are rows before those of a text: receipts are of whole texts".into());
    }
    expect_lengths(&column(0).collect::<Vec<_>>(), max_tokens)
}

/// A batch of a receipt.
pub(crate) fn claimed(receipt: &Receipt, batch: u32) -> Result<&Batch, NodeError> {
    receipt.batch(batch).ok_or_else(|| {
        NodeError::Setting(format!(
            "the receipt has {} batches, counted from 0: there is no batch {batch}",
            receipt.batches.len()
        ))
    })
}

/// What goes into the first block of a batch.
pub(crate) struct Start {
    pub(crate) texts: Vec<Tokenised>,
    pub(crate) ids: Tensor,
    pub(crate) lengths: Tensor,
}

impl Start {
    /// Of a batch of a receipt of this request.
    pub(crate) fn of(model: &Model, receipt: &Receipt, request: &Request, batch: u32) -> Result<Self, NodeError> {
        let at = usize::try_from(batch).unwrap_or(usize::MAX);
        let claimed = claimed(receipt, batch)?;
        let before =
            receipt.batches.iter().take(at).fold(0usize, |sum, batch| sum.saturating_add(batch.texts as usize));
        let end = before.saturating_add(claimed.texts as usize);
        if end > request.outputs() {
            return Err(NodeError::NotReproduced(format!("batch {batch} has texts that the request has not")));
        }
        let texts = match &request.generation {
            Some(_) => model.asked(request)?,
            None => model.tokens.encode(request.texts.get(before..end).unwrap_or_default())?,
        };
        let (ids, lengths) = inputs(&texts)?;
        let first = claimed.steps().next().map(|(_, step)| step.input);
        if first != Some(tensor_digest(&ids)) || claimed.lengths != tensor_digest(&lengths) {
            return Err(NodeError::NotReproduced(format!("batch {batch} does not start from what the request makes")));
        }
        Ok(Self { texts, ids, lengths })
    }
}

/// A block gives something else than its receipt says.
pub(crate) fn not_reproduced(batch: u32, step: &Step, got: Digest) -> NodeError {
    let Step { block, output, .. } = step;
    NodeError::NotReproduced(format!("block `{block}` of batch {batch} gives {got}, the receipt says {output}"))
}

/// How far a batch could be run.
pub(crate) enum Reached {
    /// The input of the block that was asked for, or the output of the last one.
    There(Tensor),
    /// A block before gave something else than the receipt says.
    Differs {
        /// Its place.
        index: usize,
        /// What it gave here.
        got: Digest,
    },
}

/// Run the first `count` blocks of a batch.
pub(crate) fn run(model: &mut Model, batch: &Batch, start: &Start, count: usize) -> Result<Reached, NodeError> {
    let mut x = start.ids.clone();
    for (index, (_, step)) in batch.steps().take(count).enumerate() {
        x = model.run_block(index, x, &start.lengths)?.output;
        let got = tensor_digest(&x);
        if got != step.output {
            return Ok(Reached::Differs { index, got });
        }
    }
    Ok(Reached::There(x))
}
