//! The receipt of an answer, made afterwards: prompt and answer go through the blocks once, in one piece.
//!
//! Nothing is hashed while an answer is generated. A run goes block by block, so that whoever generates for others can do their next
//! tokens in between; the weights are there already, and are not loaded a second time.

use super::request::Refusal;
use crate::error::NodeError;
use crate::execute::{inputs, rows};
use crate::load::Model;
use crate::receipt::{BatchBorders, Unsigned, tensor_digest};
use crate::tokens::Tokenised;
use ostrakon_nn::Tensor;
use ostrakon_protocol::{Digest, Generated, Request, SignedReceipt, SigningKey};
use tokio::sync::oneshot;

/// An answer on its way through the blocks.
pub(crate) struct OnePiece {
    request: Request,
    texts: Vec<Tokenised>,
    lengths: Tensor,
    /// What goes into the next block, and its digest.
    x: Tensor,
    input: Digest,
    borders: BatchBorders,
}

impl OnePiece {
    /// Before the first block.
    ///
    /// # Errors
    /// The answer is none of this model's.
    pub(crate) fn new(model: &Model, generated: Generated) -> Result<Self, NodeError> {
        let texts =
            vec![model.tokens.text_of(&generated.prompt, false), model.tokens.text_of(&generated.answer, false)];
        let request = Request { package: model.digest(), texts, generation: Some(generated) };
        let texts = model.asked(&request)?;
        let (x, lengths) = inputs(&texts)?;
        let (input, borders) = (tensor_digest(&x), BatchBorders::new(texts.len(), &lengths));
        Ok(Self { request, texts, lengths, x, input, borders })
    }

    /// Go through the next block. `true`: that was the last one.
    ///
    /// # Errors
    /// The block fails.
    pub(crate) fn next(&mut self, model: &mut Model) -> Result<bool, NodeError> {
        let at = self.borders.steps.len();
        let done = model.run_block(at, self.x.clone(), &self.lengths)?;
        self.x = done.output;
        let output = tensor_digest(&self.x);
        if let Some(block) = model.blocks.get(at) {
            self.borders.steps.push(block.step(self.input, output, done.fuel));
        }
        self.input = output;
        Ok(self.borders.steps.len() == model.blocks.len())
    }

    /// After the last block.
    ///
    /// # Errors
    /// The answer does not follow from what the last block gave.
    pub(crate) fn unsigned(self, model: &Model) -> Result<Unsigned, NodeError> {
        let outputs = rows(&self.x, &self.texts)?;
        match outputs.iter().find_map(|output| output.wrong.as_ref()) {
            Some(wrong) => Err(NodeError::NotReproduced(wrong.clone())),
            None => Ok(Unsigned::new(model, self.request, vec![self.borders], &outputs)),
        }
    }
}

impl Model {
    /// The receipt of an answer of this model, signed by `key`.
    ///
    /// # Errors
    /// The answer is none of this model's, or does not follow from its logits; a block fails.
    pub fn receipt_of_answer(&mut self, generated: Generated, key: &SigningKey) -> Result<SignedReceipt, NodeError> {
        let mut piece = OnePiece::new(self, generated)?;
        while !piece.next(self)? {}
        Ok(piece.unsigned(self)?.sign(key))
    }
}

/// An answer whose receipt somebody waits for.
pub(super) struct Wanted {
    pub(super) generated: Generated,
    pub(super) tell: oneshot::Sender<Result<Unsigned, NodeError>>,
}

/// A receipt that is being made. Dropping it ends the work.
#[derive(Debug)]
pub struct Receipting(pub(super) oneshot::Receiver<Result<Unsigned, NodeError>>);

impl Receipting {
    /// The receipt, signed by `key`.
    ///
    /// # Errors
    /// As [`Model::receipt_of_answer`]; the generator has ended.
    pub async fn signed(self, key: &SigningKey) -> Result<SignedReceipt, NodeError> {
        made(self.0.await, key)
    }

    /// Likewise, for threads of their own.
    ///
    /// # Errors
    /// As [`Receipting::signed`].
    pub fn blocking_signed(self, key: &SigningKey) -> Result<SignedReceipt, NodeError> {
        made(self.0.blocking_recv(), key)
    }
}

fn made(
    told: Result<Result<Unsigned, NodeError>, oneshot::error::RecvError>,
    key: &SigningKey,
) -> Result<SignedReceipt, NodeError> {
    let unsigned = told.map_err(|_| NodeError::Decoder(Refusal::Ended.to_string()))??;
    Ok(unsigned.sign(key))
}
