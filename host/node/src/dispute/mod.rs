//! Disputes: which of two receipts for one request is wrong, and where?
//!
//! # Why
//!
//! Two nodes that ran the same request and signed different answers cannot both be right. Who is wrong is settled
//! by one operation, however large the model: everything before it both agree on.
//!
//! # How
//!
//! 1. Receipts and legs must be signed, or nobody answers for them. The receipts name the first block on which
//!    they part although its input was the same ([`ostrakon_protocol::dispute::first_difference`]).
//! 2. A component that is not the package's decides at once.
//! 3. Each [`Side`] is asked for digests of prefixes of its trace until the first operation that differs is
//!    found. Its operands come from either trace and are used only if they have the digest that both sides name.
//!    This machine runs that one operation.
//! 4. Where the traces do not lead there (one is missing, is signed by somebody else, contradicts the receipt; or
//!    the sides part in what the component did between two operations), this machine runs that one block from
//!    its input, which both agree on, and compares the output ([`referee`]).
//! 5. What was found is signed by this machine's key.
//!
//! Whoever is found wrong claimed something else than what this machine got from inputs that the accused itself
//! named. As everything is exact, that cannot happen to a node that was right.

mod referee;
mod side;

pub use ostrakon_protocol::dispute::{Finding, SignedDispute};
pub use side::{Side, Tensors};

use crate::error::NodeError;
use crate::load::Model;
use crate::options::RunOptions;
use crate::progress::{Event, Watcher};
use crate::receipt::{self, tensor_digest};
use crate::store;
use ostrakon_package::{Home, TrustPolicy};
use ostrakon_protocol::dispute::{Difference, Dispute, first_difference, other_fuel};
use ostrakon_protocol::{Digest, PublicKey, SignedReceipt, SigningKey};
use referee::Referee;
use side::TraceSide;
use std::path::{Path, PathBuf};

/// What a dispute is held with.
#[derive(Debug, Clone)]
pub struct DisputeOptions {
    /// How the referee runs what it runs.
    pub run: RunOptions,
    /// Whose packages are run.
    pub policy: TrustPolicy,
    /// The package's directory; without it, the one in the store with the digest on the receipts.
    pub package: Option<PathBuf>,
    /// Each side's trace.
    pub traces: [Option<PathBuf>; 2],
}

/// What a dispute found.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The record, as the referee signs it.
    pub dispute: Dispute,
    /// Who ran the block on which the receipts part: first and second side. Those who signed the receipts, where
    /// the receipts do not part on a block.
    pub sides: [PublicKey; 2],
    /// Who was found wrong.
    pub wrong: Vec<PublicKey>,
    /// Worth knowing, not decisive: why a trace did not help.
    pub notes: Vec<String>,
}

/// What two receipts differ in.
enum Parting {
    /// Nobody answers for one of them.
    Unsigned(String),
    /// In nothing.
    Nowhere,
    /// In a block.
    Block(Box<Difference>),
    /// In what the receipts say of the outputs, although all blocks gave the same.
    Outputs,
}

/// Hold the dispute between the receipts in two files.
///
/// # Errors
/// What keeps the dispute from being held: a file that is no receipt, receipts that have nothing to do with each
/// other, a package that is refused. What goes wrong later is part of the decision.
pub fn dispute(
    files: [&Path; 2],
    home: &Home,
    options: &DisputeOptions,
    key: &SigningKey,
    watch: Watcher<'_>,
) -> Result<(SignedDispute, Decision), NodeError> {
    let [a, b] = files;
    let (a, b): (SignedReceipt, SignedReceipt) = (receipt::read(a)?, receipt::read(b)?);
    let receipts = [&a, &b];
    let parting = compare(receipts)?;
    let decision = match parting {
        Parting::Unsigned(_) | Parting::Nowhere => without_model(receipts, parting),
        parting => {
            watch(Event::Step("opening the package".into()));
            let directory = store::locate_or_find(home, options.package.as_deref(), &a.receipt.package)?;
            let mut model = Model::load(&directory, &options.policy, home, &options.run)?;
            let [a, b] = &options.traces;
            with_model(&mut model, receipts, parting, [a.as_deref(), b.as_deref()], watch)?
        }
    };
    Ok((SignedDispute::sign(key, decision.dispute.clone()), decision))
}

/// Hold the dispute between two receipts with a package that is ready, and traces from files.
///
/// # Errors
/// As [`dispute`].
pub fn decide(
    model: &mut Model,
    receipts: [&SignedReceipt; 2],
    traces: [Option<&Path>; 2],
    watch: Watcher<'_>,
) -> Result<Decision, NodeError> {
    match compare(receipts)? {
        parting @ (Parting::Unsigned(_) | Parting::Nowhere) => Ok(without_model(receipts, parting)),
        parting => with_model(model, receipts, parting, traces, watch),
    }
}

/// Hold the dispute between two receipts with sides that answer for themselves. `tensor` gives a tensor by its
/// digest, if somebody has it; it is not believed.
///
/// # Errors
/// As [`dispute`].
pub fn settle(
    model: &mut Model,
    receipts: [&SignedReceipt; 2],
    sides: [Option<&dyn Side>; 2],
    tensor: Tensors<'_>,
) -> Result<Decision, NodeError> {
    match compare(receipts)? {
        parting @ (Parting::Unsigned(_) | Parting::Nowhere) => Ok(without_model(receipts, parting)),
        parting => {
            let checked = |digest: &Digest| tensor(digest).filter(|tensor| tensor_digest(tensor) == *digest);
            judged(model, receipts, &parting, sides, &checked)
        }
    }
}

fn compare(receipts: [&SignedReceipt; 2]) -> Result<Parting, NodeError> {
    let [a, b] = receipts;
    let difference = first_difference(&a.receipt, &b.receipt)?;
    // Receipts that have nothing to do with each other are told apart first: that is what a person got wrong.
    for (name, signed) in ["first", "second"].into_iter().zip(receipts) {
        if let Some(missing) = unsigned(signed) {
            return Ok(Parting::Unsigned(format!("{missing} of the {name} receipt: nobody answers for it")));
        }
    }
    Ok(match difference {
        Some(difference) => Parting::Block(Box::new(difference)),
        None if (&a.receipt.outputs, a.receipt.answer) != (&b.receipt.outputs, b.receipt.answer) => Parting::Outputs,
        None => Parting::Nowhere,
    })
}

/// What is not signed by whom it names.
fn unsigned(signed: &SignedReceipt) -> Option<String> {
    let seal = signed.seals().find(|seal| !seal.valid)?;
    let Some((at, leg)) = seal.leg else {
        return Some(format!("{} did not sign the whole", seal.signer));
    };
    let first = leg.steps.first().map_or_else(String::new, |step| shown(&step.block));
    Some(format!("{} did not sign what it ran from `{first}` on in batch {at}", seal.signer))
}

fn without_model(receipts: [&SignedReceipt; 2], parting: Parting) -> Decision {
    let finding = match parting {
        Parting::Unsigned(reason) => Finding::Undecided { reason },
        _ => Finding::NoDifference,
    };
    let [a, b] = receipts;
    let fuel = matches!(finding, Finding::NoDifference).then(|| other_fuel(&a.receipt, &b.receipt)).flatten();
    let note = |(batch, block, [a, b]): (u32, String, [u64; 2])| {
        format!(
            "block `{}` of batch {batch} cost {a} units of fuel on the first receipt, {b} on the second: not judged, as \
             an audit does that",
            shown(&block)
        )
    };
    Decision {
        dispute: empty(receipts, finding),
        sides: receipts.map(|signed| signed.issuer),
        wrong: Vec::new(),
        notes: fuel.map(note).into_iter().collect(),
    }
}

/// The record of a dispute in which nothing was asked yet.
fn empty(receipts: [&SignedReceipt; 2], finding: Finding) -> Dispute {
    let receipts = receipts.map(|signed| signed.receipt.digest());
    Dispute {
        receipts,
        batch: None,
        block: None,
        asked: Vec::new(),
        operation: None,
        claimed: None,
        exact: None,
        finding,
    }
}

fn with_model(
    model: &mut Model,
    receipts: [&SignedReceipt; 2],
    parting: Parting,
    traces: [Option<&Path>; 2],
    watch: Watcher<'_>,
) -> Result<Decision, NodeError> {
    let Parting::Block(difference) = &parting else {
        watch(Event::Step("running the request".into()));
        return judged(model, receipts, &parting, [None, None], &|_| None);
    };
    let mut notes = Vec::new();
    let mut does_not_help = |name: &str, why: String| notes.push(format!("the {name} trace does not help: {why}"));
    let [a, b] = traces;
    let opened = [("first", a), ("second", b)].map(|(name, path)| {
        let trace = TraceSide::open(path?);
        trace.map_err(|why| does_not_help(name, why)).ok()
    });
    let [trace_a, trace_b] = opened.each_ref();
    let ([receipt_a, receipt_b], [claim_a, claim_b]) = (receipts, difference.sides.each_ref());
    let sides = [("first", trace_a, receipt_a, claim_a), ("second", trace_b, receipt_b, claim_b)];
    let sides = sides.map(|(name, trace, receipt, (node, step))| {
        let trace = trace.as_ref()?;
        let fits = trace.fits(receipt, difference, node, step);
        fits.map_err(|why| does_not_help(name, why)).ok()?;
        Some(trace as &dyn Side)
    });
    // Their digests speak for tensors, whoever gives them.
    let tensor = |digest: &Digest| opened.iter().flatten().find_map(|trace| trace.tensor(digest));
    watch(Event::Step(format!("judging block {}", shown(&difference.block))));
    let mut decision = judged(model, receipts, &parting, sides, &tensor)?;
    notes.append(&mut decision.notes);
    Ok(Decision { notes, ..decision })
}

/// The decision, with the sides that defend themselves.
fn judged(
    model: &mut Model,
    receipts: [&SignedReceipt; 2],
    parting: &Parting,
    sides: [Option<&dyn Side>; 2],
    tensor: Tensors<'_>,
) -> Result<Decision, NodeError> {
    let [receipt, _] = receipts.map(|signed| &signed.receipt);
    model.expect_package(receipt)?;
    let mut notes = Vec::new();
    let (nodes, judged) = match parting {
        Parting::Block(difference) => {
            let nodes = difference.sides.each_ref().map(|(node, _)| *node);
            (nodes, Referee { model, receipts, difference, sides, tensor }.judge(&mut notes))
        }
        _ => (receipts.map(|signed| signed.issuer), referee::outputs(model, receipts)),
    };
    let [a, b] = nodes;
    if a == b {
        notes.push(format!("both sides are {a}: it signed two answers to one request"));
    }
    let finding = judged.finding(nodes);
    let wrong: Vec<PublicKey> = match &finding {
        Finding::Right { wrong, .. } => vec![*wrong],
        Finding::BothWrong { .. } => judged.both(nodes),
        _ => Vec::new(),
    };
    let mut dispute = empty(receipts, finding);
    if let Parting::Block(difference) = parting {
        (dispute.batch, dispute.block) = (Some(difference.batch), Some(difference.block.clone()));
    }
    let referee::Judged { asked, operation, claimed, exact, .. } = judged;
    let dispute = Dispute { asked, operation, claimed, exact, ..dispute };
    Ok(Decision { dispute, sides: nodes, wrong, notes })
}

/// A name that somebody chose, short and fit to be shown.
fn shown(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}
