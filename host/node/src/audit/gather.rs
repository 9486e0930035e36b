//! Gathers evidence: what this machine finds out about each step of a receipt.
//!
//! # How
//!
//! Batch by batch, block by block. A block's input is, in this order: what the block before gave here, which
//! was seen to be what the receipt says; the transcript's, if its digest is the one on the receipt; for the
//! first block, the tokens of the request. So blocks can be looked at alone where there is a transcript; without
//! one, the blocks before the last one that was chosen are run too, and then they are looked at as well.
//!
//! The first step that is wrong ends it: what comes after was computed from something wrong, or is not needed to
//! know who is to blame. So does a batch whose steps are not the package's blocks: the verifier rejects such a receipt
//! before it comes to any step.

use super::Cost;
use super::evidence::{BlockEvidence, Evidence};
use crate::error::NodeError;
use crate::execute::{inputs, rows};
use crate::load::Model;
use crate::progress::{Event, Watcher};
use crate::receipt::tensor_digest;
use crate::tokens::Tokenised;
use ostrakon_engine::verification::{Checked, Computed, Element, Input, Observation, Product};
use ostrakon_nn::{Auditor, CheckedProduct, Tensor};
use ostrakon_protocol::{Batch, Digest, PublicKey, Receipt, Request, SignedReceipt, Step};

/// What gathering needs.
pub(super) struct Gathering<'a> {
    pub(super) signed: &'a SignedReceipt,
    /// Whether all its signatures hold.
    pub(super) is_signed: bool,
    pub(super) model: &'a mut Model,
    /// With Freivalds.
    pub(super) auditor: Option<&'a Auditor>,
    pub(super) evidence: Option<&'a Evidence>,
    /// For each step.
    pub(super) chosen: &'a [bool],
}

/// What was found out.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) missing: Vec<String>,
    pub(super) texts: Option<u32>,
    pub(super) inputs: Vec<Option<Input>>,
    pub(super) steps: Vec<Observation>,
    /// For each output of the receipt.
    pub(super) outputs: Vec<Option<Digest>>,
    pub(super) cost: Cost,
    /// Worth knowing, not decisive.
    pub(super) notes: Vec<String>,
}

impl Gathered {
    /// Steps that were looked at, and all.
    pub(super) fn looked_at(&self) -> (usize, usize) {
        let looked = |step: &&Observation| matches!(step, Observation::Computed(_) | Observation::Checked(_));
        (self.steps.iter().filter(looked).count(), self.steps.len())
    }
}

/// A batch with what the request makes of it.
struct Place<'a> {
    at: u32,
    batch: &'a Batch,
    texts: Option<&'a [Tokenised]>,
    /// Ids and lengths, where the request is known and makes what the receipt says.
    inputs: Option<(Tensor, Tensor)>,
}

impl Gathering<'_> {
    /// Look at the chosen steps.
    pub(super) fn gather(mut self, request: Option<&Request>, watch: Watcher<'_>) -> Result<Gathered, NodeError> {
        let signed = self.signed;
        let mut found = Gathered::default();
        if request.is_none() {
            found.missing.push("the request is not known: give its texts with --text or --input".into());
        }
        found.texts = request.map(|request| u32::try_from(request.outputs()).unwrap_or(u32::MAX));
        // Tokenising is work: none of it for a receipt that nobody answers for or that does not add up.
        let request = request.filter(|request| self.is_signed && adds_up(&signed.receipt, request.outputs()));
        let tokenised = request.map(|request| self.model.asked(request)).transpose()?;
        let mut rest = tokenised.as_deref();
        found.outputs = vec![None; signed.receipt.outputs.len()];
        let mut first = 0usize;
        let mut stopped = false;
        for (at, batch) in (0..).zip(&signed.receipt.batches) {
            let texts;
            // A receipt that claims more texts than there are gets those that are left.
            (texts, rest) = match rest.map(|rest| rest.split_at(rest.len().min(batch.texts as usize))) {
                Some((texts, rest)) => (Some(texts), Some(rest)),
                None => (None, None),
            };
            let made = texts.map(inputs).transpose()?;
            found.inputs.push(
                made.as_ref().map(|(ids, lengths)| Input {
                    rows: word(tensor_digest(ids)),
                    lengths: word(tensor_digest(lengths)),
                }),
            );
            let made = made.filter(|(ids, lengths)| {
                batch.steps().next().is_some_and(|(_, step)| step.input == tensor_digest(ids))
                    && batch.lengths == tensor_digest(lengths)
            });
            let place = Place { at, batch, texts, inputs: made };
            stopped = stopped || !self.model.is_of_all_blocks(batch);
            let result = if stopped { self.skip(&place, &mut found) } else { self.batch(&place, &mut found, watch) };
            stopped |= result.is_wrong;
            let places = found.outputs.iter_mut().skip(first);
            for (place, output) in places.zip(result.outputs.into_iter().flatten()) {
                *place = Some(output);
            }
            first = first.saturating_add(batch.texts as usize);
        }
        Ok(found)
    }

    fn skip(&self, place: &Place<'_>, found: &mut Gathered) -> BatchResult {
        found.steps.extend(place.batch.steps().map(|_| Observation::NotLookedAt));
        BatchResult::default()
    }

    fn batch(&mut self, place: &Place<'_>, found: &mut Gathered, watch: Watcher<'_>) -> BatchResult {
        let steps: Vec<(PublicKey, &Step)> = place.batch.steps().collect();
        let first = found.steps.len();
        let chosen = self.chosen.get(first..first + steps.len()).unwrap_or_default();
        let needed = self.needed(chosen, &steps, place);
        let mut result = BatchResult::default();
        // What the block before gave here, seen to be what the receipt says.
        let mut x: Option<Tensor> = None;
        for (index, ((node, step), needed)) in steps.iter().zip(needed).enumerate() {
            let evidence = self.evidence.and_then(|evidence| evidence.block(place.at, &step.block));
            if result.is_wrong || !needed {
                found.steps.push(Observation::NotLookedAt);
                x = None;
                continue;
            }
            let input = match (x.take(), &place.inputs) {
                (Some(x), Some((_, lengths))) => Ok((x, lengths.clone())),
                (None, Some((ids, lengths))) if index == 0 => Ok((ids.clone(), lengths.clone())),
                _ => match &evidence {
                    Some(evidence) => {
                        evidence.inputs(step, place.batch, self.model.manifest().max_tokens.unwrap_or_default())
                    }
                    None if place.inputs.is_none() => Err("its input cannot be made: the request is not known".into()),
                    None => Err("its input is not known: a block before it could not be run here".into()),
                },
            };
            let looked = input.and_then(|(input, lengths)| {
                let job = Job { index, node: *node, step, input, lengths, evidence: evidence.as_ref() };
                match self.auditor.cloned() {
                    Some(auditor) => self.check(&auditor, job, &mut found.cost),
                    None => self.replay(job),
                }
            });
            match looked {
                Ok(Looked { observation, output, is_wrong }) => {
                    found.steps.push(observation);
                    result.is_wrong = is_wrong;
                    x = output;
                }
                Err(reason) => found.steps.push(Observation::Unavailable(reason)),
            }
            watch(Event::Done { done: found.steps.len() as u64, total: self.chosen.len() as u64 });
        }
        let outputs = x.zip(place.texts).and_then(|(x, texts)| rows(&x, texts).ok());
        found.notes.extend(outputs.iter().flatten().filter_map(|output| output.wrong.clone()));
        result.outputs = outputs.map(|outputs| outputs.into_iter().map(|output| output.digest).collect());
        result
    }

    /// Which steps must be run: those that were chosen, and those before a chosen one that has no input otherwise.
    fn needed(&self, chosen: &[bool], steps: &[(PublicKey, &Step)], place: &Place<'_>) -> Vec<bool> {
        let has_input =
            |step: &Step| self.evidence.is_some_and(|evidence| evidence.block(place.at, &step.block).is_some());
        // From the last to the first: whether the one after wants what this one gives.
        let mut is_wanted = false;
        let from_last = chosen.iter().zip(steps).rev().map(|(&chosen, (_, step))| {
            let needed = chosen || is_wanted;
            is_wanted = needed && self.auditor.is_none() && !has_input(step);
            needed
        });
        let mut needed: Vec<bool> = from_last.collect();
        needed.reverse();
        needed
    }

    /// Whether fuel can be compared.
    fn is_comparable(&self) -> bool {
        self.model.profile() == self.signed.receipt.profile
    }

    fn replay(&mut self, job: Job<'_>) -> Result<Looked, String> {
        let Job { index, step, input, lengths, .. } = job;
        let done = self.model.run_block(index, input, &lengths).map_err(|error| error.in_full())?;
        let output = tensor_digest(&done.output);
        let fuel = self.is_comparable().then_some(done.fuel);
        let is_wrong = output != step.output || fuel.is_some_and(|fuel| fuel != step.fuel);
        let observation = Observation::Computed(Computed { output: word(output), fuel });
        Ok(Looked { observation, output: Some(done.output), is_wrong })
    }

    fn check(&mut self, auditor: &Auditor, job: Job<'_>, cost: &mut Cost) -> Result<Looked, String> {
        let Job { index, node, step, input, lengths, evidence } = job;
        let evidence = evidence.ok_or("the transcript does not hold it")?;
        auditor.begin(evidence.products());
        let done = self.model.run_block(index, input, &lengths);
        let finished = auditor.finish();
        if let Some(operation) = finished.ended_early {
            return Err(format!("the transcript ends in the middle of {operation}"));
        }
        for product in &finished.products {
            cost.products += 1;
            cost.multiply_adds = cost.multiply_adds.saturating_add(product.multiply_adds);
            cost.checking = cost.checking.saturating_add(product.checking);
            cost.error_bits = Some(cost.error_bits.map_or(product.error_bits, |bits| bits.min(product.error_bits)));
        }
        let passed = finished.products.iter().all(CheckedProduct::passed);
        let products = finished.products.into_iter().map(product).collect();
        let (checked, output) = match done {
            Ok(done) => {
                if finished.left_over > 0 {
                    return Err(format!("the transcript has {} bytes that no product asked for", finished.left_over));
                }
                let fuel = self.is_comparable().then_some(done.fuel);
                (Checked { products, output: Some(word(tensor_digest(&done.output))), fuel }, Some(done.output))
            }
            Err(_) if !passed => (Checked { products, output: None, fuel: None }, None),
            Err(error) => return Err(error.in_full()),
        };
        let right =
            passed && checked.output == Some(word(step.output)) && checked.fuel.is_none_or(|fuel| fuel == step.fuel);
        // Where everything is right it does not matter whose the transcript is. Before anyone is accused it does.
        if !right && !evidence.is_signed(&node) {
            return Err(
                "the transcript is wrong, but not signed by the node that ran the block: it is damaged or forged"
                    .into(),
            );
        }
        Ok(Looked { observation: Observation::Checked(checked), output, is_wrong: !right })
    }
}

/// A step to look at, with all that is known of it.
struct Job<'a> {
    index: usize,
    node: PublicKey,
    step: &'a Step,
    input: Tensor,
    lengths: Tensor,
    evidence: Option<&'a BlockEvidence<'a>>,
}

/// What was found out about a step.
struct Looked {
    observation: Observation,
    output: Option<Tensor>,
    is_wrong: bool,
}

#[derive(Default)]
struct BatchResult {
    /// Of each text, if the last block was looked at.
    outputs: Option<Vec<Digest>>,
    is_wrong: bool,
}

/// Whether there is one output for each text of each batch and of the request.
fn adds_up(receipt: &Receipt, texts: usize) -> bool {
    let batches: u64 = receipt.batches.iter().map(|batch| u64::from(batch.texts)).sum();
    receipt.outputs.len() == texts && u64::try_from(texts) == Ok(batches)
}

fn product(product: CheckedProduct) -> Product {
    let CheckedProduct { operation, left, right, wrong, .. } = product;
    let wrong = wrong.map(|wrong| Element {
        row: u32::try_from(wrong.row).unwrap_or(u32::MAX),
        column: u32::try_from(wrong.column).unwrap_or(u32::MAX),
        claimed: wrong.claimed,
        exact: wrong.exact,
    });
    Product { operation, left: left.into_flattened(), right: right.into_flattened(), wrong }
}

/// A digest as the verifier takes it.
pub(super) fn word(digest: Digest) -> ostrakon_engine::verification::Digest {
    (*digest.as_bytes()).into()
}
