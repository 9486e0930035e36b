//! Says what follows from the evidence of an audit.
//!
//! # Why
//!
//! Whoever checks a receipt must come to the same verdict as everybody else who has the same claim and
//! the same evidence, and must not accuse anybody beyond what the evidence shows. So the judgement is a
//! component: the same bytes everywhere, and it can reach nothing but its arguments.
//!
//! # How
//!
//! The rules of `ostrakon:plugin/verification`, one function each, in their order. A rule says nothing, or
//! ends the matter with a verdict:
//!
//! 1. [`claim`]: what the receipt says of itself: shape, signatures, order, answer, inputs.
//! 2. [`steps`]: what the host observed of each step.
//! 3. [`verify`]: one after the other; then outputs, and what is missing.
//!
//! [`text`] has the words. Time and memory are in proportion to the arguments (but for a logarithm).

mod claim;
mod steps;
mod text;

use bindings::exports::ostrakon::plugin::verification::{
    Accepted, Accusation, Claim, Evidence, Guest, Observation, Verdict,
};
use text::Reasons;

#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, clippy::restriction)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "verifier",
        additional_derives: [PartialEq, Eq],
    });
}

/// The component.
struct Component;

impl Guest for Component {
    fn verify(claim: Claim, evidence: Evidence) -> Verdict {
        match verify(&claim, &evidence) {
            Ok(accepted) => Verdict::Accept(accepted),
            Err(verdict) => verdict,
        }
    }
}

/// All rules. What is not an acceptance comes as an error, so that a rule ends the matter with `?`.
fn verify(claim: &Claim, evidence: &Evidence) -> Result<Accepted, Verdict> {
    claim::check_shape(claim, evidence)?;
    claim::check_seals(claim, evidence)?;
    claim::check_order(claim, evidence)?;
    claim::check_answer(claim, evidence)?;
    claim::check_inputs(claim, evidence)?;

    let mut reasons = Reasons::default();
    steps::check(claim, evidence, &mut reasons)?;
    check_outputs(claim, evidence)?;

    let looked_at = evidence.steps.iter().filter(|step| !matches!(step, Observation::NotLookedAt)).count();
    note_what_is_missing(claim, evidence, looked_at, &mut reasons);
    if reasons.is_empty() {
        Ok(Accepted { looked_at: number(looked_at), steps: number(claim.steps.len()) })
    } else {
        Err(Verdict::Indeterminate(reasons.into_list()))
    }
}

fn check_outputs(claim: &Claim, evidence: &Evidence) -> Result<(), Verdict> {
    for (at, (claimed, exact)) in claim.outputs.iter().zip(&evidence.outputs).enumerate() {
        let Some(exact) = exact else { continue };
        if claimed != exact {
            let reason = format!(
                "the output of text {at} is {}, the receipt says {}",
                text::digest(*exact),
                text::digest(*claimed)
            );
            return Err(reject_issuer(claim, None, None, reason));
        }
    }
    Ok(())
}

/// What keeps an audit without a wrong finding from being an acceptance.
fn note_what_is_missing(claim: &Claim, evidence: &Evidence, looked_at: usize, reasons: &mut Reasons) {
    for missing in &evidence.missing {
        reasons.add(|| text::short(missing).into_owned());
    }
    for batch in evidence.inputs.iter().enumerate().filter_map(|(batch, input)| input.is_none().then_some(batch)) {
        reasons.add(|| format!("the input of batch {batch} is not known"));
    }
    if looked_at == 0 {
        reasons.add(|| "no step was looked at".to_owned());
    }
    if evidence.outputs.contains(&None) && steps::ends_looked_at(claim, evidence) {
        reasons.add(|| "the outputs of the texts are not known, though every last block was looked at".to_owned());
    }
}

/// Accuse whoever put the receipt together.
fn reject_issuer(claim: &Claim, batch: Option<u32>, block: Option<&str>, reason: String) -> Verdict {
    Verdict::Reject(Accusation {
        node: claim.issuer.clone(),
        batch,
        block: block.map(str::to_owned),
        operation: None,
        reason,
    })
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[allow(unsafe_code)]
mod export {
    use super::Component;

    super::bindings::export!(Component with_types_in super::bindings);
}
