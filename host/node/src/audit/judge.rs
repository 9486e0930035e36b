//! Lets the verifier component judge.

use super::gather::{Gathered, word};
use crate::error::NodeError;
use crate::load::{Model, runtime};
use crate::options::RunOptions;
use ostrakon_engine::verification::{Block, Claim, Evidence, Judged, Seal, Step, Verifier};
use ostrakon_engine::{Limits, World};
use ostrakon_package::Home;
use ostrakon_protocol::{Digest, SignedReceipt, Testimony};

/// All signatures of a receipt, verified.
pub(super) struct Sealed<'a> {
    pub(super) seals: Vec<ostrakon_protocol::Seal<'a>>,
    pub(super) testimonies: Vec<Testimony<'a>>,
}

impl<'a> Sealed<'a> {
    pub(super) fn of(signed: &'a SignedReceipt) -> Self {
        Self { seals: signed.seals().collect(), testimonies: signed.testimonies().collect() }
    }

    /// Whether all hold.
    pub(super) fn holds(&self) -> bool {
        self.seals.iter().all(|seal| seal.valid) && self.testimonies.iter().all(|testimony| testimony.valid)
    }
}

/// The verifier at work.
pub(super) struct Judge {
    verifier: Verifier,
    digest: Digest,
}

impl Judge {
    /// Admit the verifier.
    pub(super) fn new(component: &[u8], home: &Home, options: &RunOptions) -> Result<Self, NodeError> {
        let name = crate::plugins::VERIFIER.to_owned();
        let plugin = runtime(home, options)?
            .admit(component, World::Verifier)
            .map_err(|source| NodeError::Admission { name: name.clone(), source })?;
        let digest = Digest::from_bytes(*plugin.digest().as_bytes());
        let verifier =
            plugin.verifier(Limits { ..options.limits }).map_err(|source| NodeError::Block { block: name, source })?;
        Ok(Self { verifier, digest })
    }

    /// The component's digest.
    pub(super) const fn digest(&self) -> Digest {
        self.digest
    }

    /// The verdict on a receipt from what was found out about it.
    pub(super) fn judge(
        &mut self,
        signed: &SignedReceipt,
        sealed: &Sealed<'_>,
        model: &Model,
        found: Gathered,
    ) -> Result<Judged, NodeError> {
        let Gathered { missing, texts, inputs, steps, outputs, .. } = found;
        let evidence = Evidence {
            missing,
            seals: sealed.seals.iter().flat_map(seals).chain(sealed.testimonies.iter().map(testimony)).collect(),
            blocks: blocks(model),
            texts,
            inputs,
            steps,
            outputs: outputs.into_iter().map(|output| output.map(word)).collect(),
            answer: word(Digest::of_outputs(&signed.receipt.outputs)),
        };
        let judged = self.verifier.verify(&claim(signed), &evidence);
        judged.map_err(|source| NodeError::Block { block: crate::plugins::VERIFIER.into(), source })
    }
}

fn claim(signed: &SignedReceipt) -> Claim {
    let receipt = &signed.receipt;
    let step = |(batch, node, step): (u32, ostrakon_protocol::PublicKey, &ostrakon_protocol::Step)| Step {
        batch,
        block: step.block.clone(),
        component: word(step.component),
        node: node.to_string(),
        input: word(step.input),
        output: word(step.output),
        fuel: step.fuel,
    };
    Claim {
        issuer: signed.issuer.to_string(),
        steps: receipt.steps().map(step).collect(),
        texts: receipt.batches.iter().map(|batch| batch.texts).collect(),
        lengths: receipt.batches.iter().map(|batch| word(batch.lengths)).collect(),
        outputs: receipt.outputs.iter().copied().map(word).collect(),
        answer: word(receipt.answer),
    }
}

/// What a signature is of, for the verifier: the whole, or block by block.
fn seals(seal: &ostrakon_protocol::Seal<'_>) -> Vec<Seal> {
    let (signer, valid) = (seal.signer.to_string(), seal.valid);
    let Some((at, leg)) = seal.leg else {
        return vec![Seal { subject: "the receipt".into(), signer, valid, batch: None, block: None }];
    };
    let of = |subject: String, block: &str| Seal {
        subject,
        signer: signer.clone(),
        valid,
        batch: Some(at),
        block: Some(block.to_owned()),
    };
    if leg.steps.is_empty() {
        // It covers no block, but somebody is named.
        return vec![of(format!("a part of batch {at} without blocks"), "")];
    }
    leg.steps.iter().map(|step| of(format!("block `{}` of batch {at}", step.block), &step.block)).collect()
}

/// What a witness signed, for the verifier: one place of the run. A witness answers for the same steps as the leg's
/// node, whose own seal is beside it, so a signature that does not hold accuses nobody: whoever put the receipt
/// together could have written it there. As with a leg's, nothing is concluded from such a receipt.
fn testimony(testimony: &Testimony<'_>) -> Seal {
    let Testimony { witness, leg, valid } = testimony;
    let first = leg.and_then(|leg| leg.steps.first()).map(|step| step.block.clone());
    let subject = match &first {
        Some(block) => format!("the part of batch {} from block `{block}` on, as a witness,", witness.batch),
        None => format!("leg {} of batch {}, which the receipt does not have,", witness.leg, witness.batch),
    };
    let block = Some(first.unwrap_or_default());
    Seal { subject, signer: witness.node.to_string(), valid: *valid, batch: Some(witness.batch), block }
}

fn blocks(model: &Model) -> Vec<Block> {
    model.blocks.iter().map(|block| Block { name: block.name.clone(), component: word(block.component) }).collect()
}
