//! What the host observed of each step, against what the receipt claims of it.

use crate::bindings::exports::ostrakon::plugin::verification::{
    Accusation, Block, Checked, Claim, Computed, Digest, Element, Evidence, Observation, Product, Step, Verdict,
};
use crate::text::{self, Reasons, short};

/// The first wrong step ends the matter; what cannot be judged is noted.
pub(crate) fn check(claim: &Claim, evidence: &Evidence, reasons: &mut Reasons) -> Result<(), Verdict> {
    // Each batch goes through the blocks in order, which was checked before.
    let blocks = evidence.blocks.iter().cycle();
    for ((step, block), observation) in claim.steps.iter().zip(blocks).zip(&evidence.steps) {
        check_component(step, block)?;
        match observation {
            Observation::NotLookedAt => {}
            Observation::Computed(Computed { output, fuel }) => {
                check_output(step, *output, "its output")?;
                check_fuel(step, *fuel)?;
            }
            Observation::Checked(checked) => check_transcript(step, checked, reasons)?,
            Observation::Unavailable(why) => reasons.add(|| format!("{}: {}", text::place(step), short(why))),
        }
    }
    Ok(())
}

/// Whether the last step of every batch was looked at, so that the outputs can be known.
pub(crate) fn ends_looked_at(claim: &Claim, evidence: &Evidence) -> bool {
    evidence
        .steps
        .chunks(evidence.blocks.len().max(1))
        .filter_map(<[Observation]>::last)
        .take(claim.lengths.len())
        .all(|last| matches!(last, Observation::Computed(_) | Observation::Checked(_)))
}

fn check_component(step: &Step, block: &Block) -> Result<(), Verdict> {
    if step.component == block.component {
        return Ok(());
    }
    let (claimed, exact) = (text::digest(step.component), text::digest(block.component));
    Err(reject(step, None, format!("it ran the component {claimed}, the package names {exact}")))
}

fn check_output(step: &Step, output: Digest, what: &str) -> Result<(), Verdict> {
    if step.output == output {
        return Ok(());
    }
    let (claimed, exact) = (text::digest(step.output), text::digest(output));
    Err(reject(step, None, format!("{what} is {exact}, the receipt says {claimed}")))
}

fn check_fuel(step: &Step, fuel: Option<u64>) -> Result<(), Verdict> {
    match fuel {
        Some(fuel) if fuel != step.fuel => {
            Err(reject(step, None, format!("it takes {fuel} of fuel, the receipt says {}", step.fuel)))
        }
        _ => Ok(()),
    }
}

/// Products in their order; the rest only when every one of them is right.
fn check_transcript(step: &Step, checked: &Checked, reasons: &mut Reasons) -> Result<(), Verdict> {
    let mut sound = true;
    for product in &checked.products {
        match judge(product) {
            Judgement::Right => {}
            Judgement::Wrong(Element { row, column, claimed, exact }) => {
                let reason = format!("row {row}, column {column} of the product is {exact}, the node says {claimed}");
                return Err(reject(step, Some(&product.operation), reason));
            }
            Judgement::Unusable(why) => {
                sound = false;
                reasons.add(|| format!("{}, operation `{}`: {why}", text::place(step), short(&product.operation)));
            }
        }
    }
    if !sound {
        return Ok(());
    }
    match checked.output {
        Some(output) => {
            let what = "every integer product is right; what was computed between them is not: the output";
            check_output(step, output, what)?;
        }
        None => {
            reasons.add(|| format!("{}: its output is not known, though its products are right", text::place(step)))
        }
    }
    check_fuel(step, checked.fuel)
}

enum Judgement {
    Right,
    Wrong(Element),
    Unusable(&'static str),
}

/// An accusation needs the very element that is wrong, in a row whose sides differ.
fn judge(product: &Product) -> Judgement {
    let Product { left, right, wrong, .. } = product;
    if left.len() != right.len() || left.len() % 2 != 0 {
        return Judgement::Unusable("the two sides of the check do not have two values for each of the same rows");
    }
    if left.is_empty() {
        return Judgement::Unusable("the check has no rows");
    }
    let differs = |row: u32| {
        let row = usize::try_from(row).unwrap_or(usize::MAX);
        let [left, right] = [left, right].map(|side| side.chunks(2).nth(row));
        left != right
    };
    match (left == right, wrong) {
        (true, None) => Judgement::Right,
        (true, Some(_)) => Judgement::Unusable("an element is said to be wrong, but the check finds all right"),
        (false, None) => Judgement::Unusable("the auditor's own vectors do not fit its weights"),
        (false, Some(element)) if element.claimed == element.exact || !differs(element.row) => {
            Judgement::Unusable("the element that is said to be wrong does not explain what the check finds")
        }
        (false, Some(element)) => Judgement::Wrong(*element),
    }
}

fn reject(step: &Step, operation: Option<&str>, reason: String) -> Verdict {
    Verdict::Reject(Accusation {
        node: step.node.clone(),
        batch: Some(step.batch),
        block: Some(step.block.clone()),
        operation: operation.map(str::to_owned),
        reason,
    })
}
