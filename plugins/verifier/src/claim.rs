//! What can be said of a receipt before any step is looked at.

use crate::bindings::exports::ostrakon::plugin::verification::{Claim, Evidence, Input, Step, Verdict};
use crate::reject_issuer;
use crate::text::{self, Reasons, short};
use std::collections::BTreeSet;

/// Lists of the host that do not fit the claim are the host's mistake.
pub(crate) fn check_shape(claim: &Claim, evidence: &Evidence) -> Result<(), Verdict> {
    let mut reasons = Reasons::default();
    for (what, observed, claimed) in [
        ("steps", evidence.steps.len(), claim.steps.len()),
        ("inputs of batches", evidence.inputs.len(), claim.lengths.len()),
        ("outputs", evidence.outputs.len(), claim.outputs.len()),
    ] {
        if observed != claimed {
            reasons.add(|| format!("the evidence is about {observed} {what}, the claim has {claimed}"));
        }
    }
    if claim.texts.len() != claim.lengths.len() {
        reasons.add(|| "the claim does not say of each batch how many texts it has".to_owned());
    }
    if evidence.blocks.is_empty() {
        reasons.add(|| "the evidence does not say which blocks the package has".to_owned());
    }
    conclude(reasons)
}

/// Nobody can be held to what he did not sign.
pub(crate) fn check_seals(claim: &Claim, evidence: &Evidence) -> Result<(), Verdict> {
    let mut reasons = Reasons::default();
    for seal in evidence.seals.iter().filter(|seal| !seal.valid) {
        reasons.add(|| format!("{} is not signed by `{}`", short(&seal.subject), short(&seal.signer)));
    }
    let seals: BTreeSet<(&str, Option<u32>, Option<&str>)> =
        evidence.seals.iter().map(|seal| (seal.signer.as_str(), seal.batch, seal.block.as_deref())).collect();
    if !seals.contains(&(claim.issuer.as_str(), None, None)) {
        reasons.add(|| format!("there is no signature of the whole receipt by its issuer `{}`", short(&claim.issuer)));
    }
    for step in &claim.steps {
        let node = step.node.as_str();
        let covered = [None, Some(step.batch)].into_iter().any(|batch| {
            [None, Some(step.block.as_str())].into_iter().any(|block| seals.contains(&(node, batch, block)))
        });
        if !covered {
            reasons.add(|| format!("{} is not signed by its node `{}`", text::place(step), short(node)));
        }
    }
    conclude(reasons)
}

/// Every batch once, through every block of the package, from one to the next.
pub(crate) fn check_order(claim: &Claim, evidence: &Evidence) -> Result<(), Verdict> {
    let reject = |step: &Step, reason| Err(reject_issuer(claim, Some(step.batch), Some(&step.block), reason));
    let mut steps = claim.steps.iter();
    for batch in 0..claim.lengths.len() {
        let mut before: Option<&Step> = None;
        for block in &evidence.blocks {
            let wanted = || format!("block `{}` on batch {batch}", short(&block.name));
            let Some(step) = steps.next() else {
                let reason = format!("the receipt ends before {}", wanted());
                return Err(reject_issuer(claim, u32::try_from(batch).ok(), Some(&block.name), reason));
            };
            if u32::try_from(batch) != Ok(step.batch) || step.block != block.name {
                return reject(step, format!("{} is where {} should be", text::place(step), wanted()));
            }
            if let Some(before) = before
                && before.output != step.input
            {
                let reason = format!(
                    "{} was given {}, but block `{}` before it gave {}",
                    text::place(step),
                    text::digest(step.input),
                    short(&before.block),
                    text::digest(before.output)
                );
                return reject(step, reason);
            }
            before = Some(step);
        }
    }
    match steps.next() {
        Some(step) => reject(step, format!("{} comes after the last batch", text::place(step))),
        None => Ok(()),
    }
}

/// The claim fits itself, and answers all of the request.
pub(crate) fn check_answer(claim: &Claim, evidence: &Evidence) -> Result<(), Verdict> {
    let texts: u64 = claim.texts.iter().copied().map(u64::from).sum();
    if u64::try_from(claim.outputs.len()) != Ok(texts) {
        let reason = format!("the batches have {texts} texts, the receipt has outputs for {}", claim.outputs.len());
        return Err(reject_issuer(claim, None, None, reason));
    }
    if let Some(texts) = evidence.texts
        && usize::try_from(texts) != Ok(claim.outputs.len())
    {
        let reason = format!("the request has {texts} texts, the receipt has outputs for {}", claim.outputs.len());
        return Err(reject_issuer(claim, None, None, reason));
    }
    if claim.answer == evidence.answer {
        return Ok(());
    }
    let reason = format!(
        "the outputs of the receipt give the answer {}, it says {}",
        text::digest(evidence.answer),
        text::digest(claim.answer)
    );
    Err(reject_issuer(claim, None, None, reason))
}

/// Each batch was computed for the request that the receipt is about.
pub(crate) fn check_inputs(claim: &Claim, evidence: &Evidence) -> Result<(), Verdict> {
    // By `check_order` each batch has as many steps as there are blocks.
    let firsts = claim.steps.chunks(evidence.blocks.len().max(1)).filter_map(<[Step]>::first);
    for ((step, lengths), input) in firsts.zip(&claim.lengths).zip(&evidence.inputs) {
        let Some(Input { rows, lengths: exact }) = input else { continue };
        let (what, claimed, exact) = if lengths != exact {
            ("lengths", lengths, exact)
        } else if step.input != *rows {
            ("rows", &step.input, rows)
        } else {
            continue;
        };
        let reason = format!(
            "batch {} was computed for another input: the request gives the {what} {}, the receipt says {}",
            step.batch,
            text::digest(*exact),
            text::digest(*claimed)
        );
        return Err(reject_issuer(claim, Some(step.batch), Some(&step.block), reason));
    }
    Ok(())
}

fn conclude(reasons: Reasons) -> Result<(), Verdict> {
    if reasons.is_empty() { Ok(()) } else { Err(Verdict::Indeterminate(reasons.into_list())) }
}
