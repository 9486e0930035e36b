//! The referee: finds the operation on which two sides part, and runs it; or the block, where that does not lead
//! anywhere.

use super::shown;
use super::side::{Side, Tensors};
use crate::error::NodeError;
use crate::execute::rows;
use crate::load::Model;
use crate::receipt::tensor_digest;
use crate::replay::{self, Reached, Start};
use ostrakon_nn::{Meter, OperationKind, Quotas, Tensor};
use ostrakon_protocol::dispute::{Answered, Bisection, Difference, Disputed, Finding};
use ostrakon_protocol::trace::{after, start};
use ostrakon_protocol::{Batch, Digest, Operation, PublicKey, Request, SignedReceipt, Step};

/// One block in dispute.
pub(super) struct Referee<'a> {
    pub(super) model: &'a mut Model,
    pub(super) receipts: [&'a SignedReceipt; 2],
    pub(super) difference: &'a Difference,
    /// Those who defend themselves.
    pub(super) sides: [Option<&'a dyn Side>; 2],
    pub(super) tensor: Tensors<'a>,
}

/// What the referee found out.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) asked: Vec<Answered>,
    pub(super) operation: Option<Disputed>,
    pub(super) claimed: Option<[Digest; 2]>,
    pub(super) exact: Option<Digest>,
    verdict: Verdict,
    reason: String,
}

#[derive(Default)]
enum Verdict {
    #[default]
    Undecided,
    /// Which side is right.
    Right([bool; 2]),
    /// Both sides named something before that is wrong; these nodes did it.
    Earlier(Vec<PublicKey>),
}

impl Judged {
    fn undecided(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }

    fn of(right: [bool; 2], reason: String) -> Self {
        Self { verdict: Verdict::Right(right), reason, ..Self::default() }
    }

    /// The decision between these nodes.
    pub(super) fn finding(&self, sides: [PublicKey; 2]) -> Finding {
        let reason = self.reason.clone();
        let [a, b] = sides;
        match &self.verdict {
            Verdict::Right([true, false]) => Finding::Right { node: a, wrong: b, reason },
            Verdict::Right([false, true]) => Finding::Right { node: b, wrong: a, reason },
            Verdict::Right([false, false]) | Verdict::Earlier(_) => Finding::BothWrong { reason },
            Verdict::Right([true, true]) | Verdict::Undecided => Finding::Undecided { reason },
        }
    }

    /// Who is wrong where both sides are.
    pub(super) fn both(&self, sides: [PublicKey; 2]) -> Vec<PublicKey> {
        let mut nodes = match &self.verdict {
            Verdict::Earlier(nodes) => nodes.clone(),
            _ => sides.to_vec(),
        };
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

impl<'a> Referee<'a> {
    /// Settle it. Why the traces did not, if they did not, goes into `notes`.
    pub(super) fn judge(mut self, notes: &mut Vec<String>) -> Judged {
        let index = match self.place() {
            Ok(index) => index,
            Err(judged) => return *judged,
        };
        let mut asked = Vec::new();
        if let [Some(a), Some(b)] = self.sides {
            match self.by_operation([a, b], &mut asked) {
                Ok(judged) => return Judged { asked, ..judged },
                Err(why) => notes.push(format!("the traces do not settle it: {why}; the block was run instead")),
            }
        }
        Judged { asked, ..self.by_block(index) }
    }

    fn batches(&self) -> [Option<&'a Batch>; 2] {
        self.receipts.map(|signed| signed.receipt.batch(self.difference.batch))
    }

    /// The block's place in the package, if both sides ran the package's components up to it.
    fn place(&self) -> Result<usize, Box<Judged>> {
        let lost = |why: String| Box::new(Judged::undecided(format!("{why}: audit each receipt by itself")));
        let [Some(a), Some(b)] = self.batches() else {
            return Err(lost("a receipt has no such batch".into()));
        };
        for (index, ((node_a, step_a), (node_b, step_b))) in a.steps().zip(b.steps()).enumerate() {
            let name = &step_a.block;
            let Some(block) = self.model.blocks.get(index).filter(|block| block.name == *name) else {
                return Err(lost(format!("the package has no block `{}` at place {index}", shown(name))));
            };
            let right = [step_a, step_b].map(|step| step.component == block.component);
            if right != [true, true] {
                let reason = format!(
                    "block `{name}` is run by the component {}; {}",
                    block.component,
                    claims(right, [step_a, step_b].map(|step| step.component))
                );
                let judged = Judged::of(right, reason);
                // Up to the block in question both name the same component.
                let earlier = *name != self.difference.block;
                let verdict = if earlier { Verdict::Earlier(vec![node_a, node_b]) } else { judged.verdict };
                return Err(Box::new(Judged { verdict, ..judged }));
            }
            if *name == self.difference.block {
                return Ok(index);
            }
        }
        Err(lost(format!("block `{}` is not on the receipts", shown(&self.difference.block))))
    }

    /// Ask for prefixes until one operation is left, and run it.
    fn by_operation(&self, sides: [&dyn Side; 2], asked: &mut Vec<Answered>) -> Result<Judged, String> {
        let mut bisection = Bisection::new(sides.map(Side::count));
        while let Some(count) = bisection.question() {
            let [a, b] = sides.map(|side| side.prefix(count));
            bisection.answer(a?, b?);
        }
        *asked = bisection.asked().to_vec();
        let at = bisection.found().ok_or("the bisection came to no end")?;
        let answer = |count: u32| asked.iter().find(|answered| answered.count == count);
        let Some(parted) = answer(at.saturating_add(1)).filter(|answered| answered.a != answered.b) else {
            let [a, b] = sides.map(Side::count);
            return Err(if a == b {
                "all operations are the same, so the sides part in what the component did itself".into()
            } else {
                format!("they are the same as far as both go, but one has {a} operations and the other {b}")
            });
        };
        let before = match at {
            0 => start(self.difference.batch, &self.difference.block),
            at => answer(at).filter(|answered| answered.a == answered.b).ok_or("a prefix was not asked for")?.a,
        };
        // An operation counts only if it is the one that was answered for.
        let claim = |side: &dyn Side, digest: Digest| -> Result<Operation, String> {
            let operation = side.operation(at)?;
            if after(&before, &operation) == digest {
                Ok(operation)
            } else {
                Err(format!("operation {at} is not the one that its side gave the digest of"))
            }
        };
        let [a, b] = sides;
        let (a, b) = (claim(a, parted.a)?, claim(b, parted.b)?);
        if a.name != b.name || a.inputs != b.inputs {
            return Err(format!(
                "they part in what operation {at} is or takes (`{}` and `{}`), so in what the component did itself",
                shown(&a.name),
                shown(&b.name)
            ));
        }
        let exact = self.perform(&a).map_err(|why| format!("operation {at}, `{}`: {why}", shown(&a.name)))?;
        let claimed = [a.output, b.output];
        let right = claimed.map(|claimed| claimed == exact);
        let reason = format!("operation {at} of the block, `{}`, gives {exact}; {}", a.name, claims(right, claimed));
        let operation = Disputed { at, name: a.name, inputs: a.inputs };
        Ok(Judged {
            operation: Some(operation),
            claimed: Some(claimed),
            exact: Some(exact),
            ..Judged::of(right, reason)
        })
    }

    fn perform(&self, operation: &Operation) -> Result<Digest, String> {
        let kind: OperationKind = operation.name.parse().map_err(|error| format!("{error}"))?;
        let inputs = operation.inputs.iter().map(|(name, digest)| {
            let tensor = (self.tensor)(digest);
            let tensor = tensor.ok_or_else(|| format!("neither trace has its input `{}`, {digest}", shown(name)))?;
            Ok((name.clone(), tensor))
        });
        let inputs = inputs.collect::<Result<Vec<_>, String>>()?;
        for (_, lengths) in inputs.iter().filter(|(name, _)| name == "lengths") {
            self.expect_lengths(lengths)?;
        }
        // Sides that agree on a monstrous operation must not cost the referee its memory.
        let meter = Meter::new(Quotas::default());
        let output = self.model.host().perform(&meter, &kind, inputs);
        output.map(|output| tensor_digest(&output)).map_err(|error| error.to_string())
    }

    /// What both sides agree on may still be of no run.
    fn expect_lengths(&self, lengths: &Tensor) -> Result<(), String> {
        replay::expect_lengths_tensor(lengths, self.model.manifest().max_tokens.unwrap_or_default())
    }

    /// Run the whole block from the input that both agree on.
    fn by_block(&mut self, index: usize) -> Judged {
        let [(_, a), (_, b)] = &self.difference.sides;
        let (input, lengths) = match self.input(index, a) {
            Ok(input) => input,
            Err(judged) => return *judged,
        };
        let done = match self.model.run_block(index, input, &lengths) {
            Ok(done) => done,
            // A fault of this machine looks the same: it accuses nobody.
            Err(error) => return Judged::undecided(format!("the block could not be run here: {}", error.in_full())),
        };
        let exact = tensor_digest(&done.output);
        let claimed = [a.output, b.output];
        let right = claimed.map(|claimed| claimed == exact);
        let reason = format!("block `{}` gives {exact}; {}", self.difference.block, claims(right, claimed));
        Judged { claimed: Some(claimed), exact: Some(exact), ..Judged::of(right, reason) }
    }

    /// The block's input and the batch's lengths: from a trace, or by running the request up to it.
    fn input(&mut self, index: usize, step: &Step) -> Result<(Tensor, Tensor), Box<Judged>> {
        let [Some(batch), _] = self.batches() else {
            return Err(Box::new(Judged::undecided("a receipt has no such batch")));
        };
        if let (Some(input), Some(lengths)) = ((self.tensor)(&step.input), (self.tensor)(&batch.lengths)) {
            let expected = self.expect_lengths(&lengths);
            expected.map_err(|why| Box::new(Judged::undecided(format!("the receipts are of no run: {why}"))))?;
            return Ok((input, lengths));
        }
        let request = request(self.receipts).map_err(|why| {
            let reason = format!("the block's input is not known: neither trace has it, and {why}");
            Box::new(Judged::undecided(reason))
        })?;
        let unknown = |error: NodeError| {
            Box::new(Judged::undecided(format!("the block's input cannot be made: {}", error.in_full())))
        };
        let [a, _] = self.receipts;
        let start = Start::of(self.model, &a.receipt, request, self.difference.batch).map_err(unknown)?;
        match replay::run(self.model, batch, &start, index).map_err(unknown)? {
            Reached::There(input) => Ok((input, start.lengths)),
            Reached::Differs { index, got } => {
                let steps = self.batches().into_iter().flatten().map(Batch::steps);
                let steps: Vec<_> = steps.filter_map(|mut steps| steps.nth(index)).collect();
                let name = steps.first().map_or("?", |(_, step)| &step.block);
                let reason =
                    format!("block `{name}`, on which both agree, gives {got}: both are wrong before they part");
                let nodes = steps.iter().map(|(node, _)| *node).collect();
                Err(Box::new(Judged {
                    exact: Some(got),
                    verdict: Verdict::Earlier(nodes),
                    ..Judged::undecided(reason)
                }))
            }
        }
    }
}

/// The receipts agree on every block and say different things of the outputs: whoever signed them is judged.
pub(super) fn outputs(model: &mut Model, receipts: [&SignedReceipt; 2]) -> Judged {
    let claimed = receipts.map(|signed| signed.receipt.answer);
    let sound = receipts.map(|signed| Digest::of_outputs(&signed.receipt.outputs) == signed.receipt.answer);
    if sound != [true, true] {
        let which = sides(sound.map(|sound| !sound));
        let reason = format!("the answer on the {which} is not the digest of the outputs on it");
        return Judged { claimed: Some(claimed), ..Judged::of(sound, reason) };
    }
    let exact = match all_outputs(model, receipts) {
        Ok(exact) => exact,
        Err(reason) => return Judged { claimed: Some(claimed), ..Judged::undecided(reason) },
    };
    let right = claimed.map(|claimed| claimed == exact);
    let reason = format!("the outputs of the last block have the digest {exact}; {}", claims(right, claimed));
    Judged { claimed: Some(claimed), exact: Some(exact), ..Judged::of(right, reason) }
}

/// The request, from whichever receipt has it.
fn request(receipts: [&SignedReceipt; 2]) -> Result<&Request, String> {
    let [a, b] = receipts.map(replay::request);
    a.or_else(|a| b.map_err(|b| format!("neither receipt has the request as it can be run: {a}; {b}")))
}

fn all_outputs(model: &mut Model, receipts: [&SignedReceipt; 2]) -> Result<Digest, String> {
    let [a, _] = receipts;
    let request = request(receipts)?;
    let mut outputs = Vec::new();
    for (at, batch) in (0..).zip(&a.receipt.batches) {
        if !model.is_of_all_blocks(batch) {
            return Err("the receipts are not of all blocks of the package: audit each of them".into());
        }
        let start = Start::of(model, &a.receipt, request, at).map_err(|error| error.in_full())?;
        let blocks = model.blocks.len();
        let reached = replay::run(model, batch, &start, blocks).map_err(|error| error.in_full())?;
        let Reached::There(last) = reached else {
            return Err("this machine does not get what both receipts say of the blocks: audit each of them".into());
        };
        let rows = rows(&last, &start.texts).map_err(|error| error.in_full())?;
        outputs.extend(rows.into_iter().map(|row| row.digest));
    }
    Ok(Digest::of_outputs(&outputs))
}

/// What each side says, for a reason.
fn claims<T: std::fmt::Display>(right: [bool; 2], claimed: [T; 2]) -> String {
    let [a, b] = claimed;
    match right {
        [true, true] => "both say so".to_owned(),
        [true, false] => format!("the first side says so, the second says {b}"),
        [false, true] => format!("the first side says {a}, the second is right"),
        [false, false] => format!("the first side says {a}, the second {b}"),
    }
}

fn sides(which: [bool; 2]) -> &'static str {
    match which {
        [true, true] => "receipts",
        [true, false] => "first receipt",
        _ => "second receipt",
    }
}
