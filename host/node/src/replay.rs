//! Runs the request of a receipt again, block by block, and compares what comes out with the receipt.

use crate::error::NodeError;
use crate::execute::inputs;
use crate::load::Model;
use crate::receipt::tensor_digest;
use crate::tokens::Tokenised;
use ostrakon_nn::Tensor;
use ostrakon_protocol::{Batch, Digest, PublicKey, Receipt, SignedReceipt, Step};

/// The texts that a receipt travels with.
pub(crate) fn texts(signed: &SignedReceipt) -> Result<&[String], NodeError> {
    match &signed.request {
        Some(request) if request.digest() == signed.receipt.request => Ok(&request.texts),
        Some(_) => Err(NodeError::Setting("the request in the file is not the one of the receipt".into())),
        None => Err(NodeError::Setting("the receipt is without its request, which must be run again".into())),
    }
}

/// The steps of a batch, each with the node that ran it.
pub(crate) fn steps(batch: &Batch) -> Vec<(PublicKey, &Step)> {
    batch.legs.iter().flat_map(|leg| leg.steps.iter().map(move |step| (leg.node, step))).collect()
}

/// What goes into the first block of a batch.
pub(crate) struct Start {
    pub(crate) texts: Vec<Tokenised>,
    pub(crate) ids: Tensor,
    pub(crate) lengths: Tensor,
}

impl Start {
    /// Of a batch of a receipt with these texts.
    pub(crate) fn of(model: &Model, receipt: &Receipt, texts: &[String], batch: u32) -> Result<Self, NodeError> {
        let at = usize::try_from(batch).unwrap_or(usize::MAX);
        let claimed = receipt.batches.get(at).ok_or_else(|| {
            NodeError::Setting(format!(
                "the receipt has {} batches, counted from 0: there is no batch {batch}",
                receipt.batches.len()
            ))
        })?;
        let before =
            receipt.batches.iter().take(at).fold(0usize, |sum, batch| sum.saturating_add(batch.texts as usize));
        let texts = before
            .checked_add(claimed.texts as usize)
            .and_then(|end| texts.get(before..end))
            .ok_or_else(|| NodeError::NotReproduced(format!("batch {batch} has texts that the request has not")))?;
        let texts = model.tokens.encode(texts)?;
        let (ids, lengths) = inputs(&texts)?;
        let first = steps(claimed).first().map(|(_, step)| step.input);
        if first != Some(tensor_digest(&ids)) || claimed.lengths != tensor_digest(&lengths) {
            return Err(NodeError::NotReproduced(format!("batch {batch} does not start from what the request makes")));
        }
        Ok(Self { texts, ids, lengths })
    }
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
    for (index, (_, step)) in steps(batch).into_iter().take(count).enumerate() {
        x = model.run_block(index, x, &start.lengths)?.output;
        let got = tensor_digest(&x);
        if got != step.output {
            return Ok(Reached::Differs { index, got });
        }
    }
    Ok(Reached::There(x))
}
