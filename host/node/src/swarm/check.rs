//! The client's own look at an answer, before it is shown to anybody.
//!
//! # Why
//!
//! The coordinator put the answer together, and it may lie. What it says counts only as far as nodes have signed it.
//!
//! # How
//!
//! 1. *Whose*: the receipt is of this job and request, signed by the coordinator that was asked.
//! 2. *Who*: its plans are signed, in order, with their proofs of randomness; every leg was run by a node that a plan
//!    names for these blocks; a quorum has enough different nodes that signed the same.
//! 3. *What*: every step begins where the one before ended; the rows are those that the last steps signed.
//! 4. *With the package at hand*: the first steps begin with the tokens of the very texts, and the blocks are the
//!    package's. Without it that is not known, and said in a note.
//! 5. *Verified*: where auditors were asked for, one that a plan names and that ran nothing itself has signed that it
//!    accepts this receipt.
//!
//! Whether nodes that agree are right, this cannot say: that is what quorums of different operators and audits are for.

use super::answer::output;
use super::known::{BatchInput, KnownPackage};
use super::verify::{share, waits};
use crate::receipt::element_code;
use ostrakon_nn::TensorType;
use ostrakon_protocol::{
    Batch, Digest, Finding, Job, JobAnswer, PublicKey, Receipt, SignedPlan, Swarm, Verify, Witness,
};
use std::collections::{BTreeMap, BTreeSet};

/// An answer that must not be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer of {who} must not be believed: {what}")]
pub struct BadAnswer {
    /// Who is wrong: the node that signed it, or the coordinator that passed it on.
    pub who: PublicKey,
    /// What is wrong.
    pub what: String,
}

/// What is worth knowing of an answer that is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// What was not looked at, and why.
    pub notes: Vec<String>,
}

/// An answer, what was asked, and of whom.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    /// What was asked.
    pub job: &'a Job,
    /// Of whom.
    pub coordinator: PublicKey,
    /// The package, if it is at hand.
    pub package: Option<&'a KnownPackage>,
    /// What came.
    pub answer: &'a JobAnswer,
    /// The rows that came.
    pub rows: &'a [u8],
}

/// Look at an answer. This hashes and verifies signatures.
///
/// # Errors
/// The first thing that is wrong, and who is.
pub fn check(check: Check<'_>) -> Result<Checked, BadAnswer> {
    let mut notes = Vec::new();
    let receipt = &check.answer.receipt.receipt;
    let swarm = check.whose(receipt)?;
    check.plans(swarm)?;
    let mut witnesses: BTreeMap<(u32, u32), Vec<&Witness>> = BTreeMap::new();
    for witness in &swarm.witnesses {
        witnesses.entry((witness.batch, witness.leg)).or_default().push(witness);
    }
    let rows = check.row_digests(receipt)?;
    let mut rows = Rows { left: rows.0, width: rows.1 };
    for (at, batch) in (0..).zip(&receipt.batches) {
        check.batch(receipt, at, batch, &mut witnesses)?;
        check.end(at, batch, &mut rows)?;
    }
    if let Some(((batch, leg), _)) = witnesses.into_iter().next() {
        return Err(
            check.lie(format!("there are witnesses of leg {leg} of batch {batch}, which the receipt does not have"))
        );
    }
    if !rows.left.is_empty() {
        return Err(check.lie("there are more rows than the batches have texts"));
    }
    match check.package {
        Some(package) => check.against(receipt, package, &mut notes)?,
        None => notes.push(
            "the package is not at hand: that the nodes began with these texts and ran its blocks rests on the coordinator \
             and them"
                .into(),
        ),
    }
    check.attestations(receipt, &mut notes)?;
    Ok(Checked { notes })
}

/// The rows that are not accounted for yet.
struct Rows<'a> {
    left: &'a [u8],
    width: u32,
}

impl Check<'_> {
    fn lie(&self, what: impl Into<String>) -> BadAnswer {
        BadAnswer { who: self.coordinator, what: what.into() }
    }

    fn expect(&self, holds: bool, what: &str) -> Result<(), BadAnswer> {
        if holds { Ok(()) } else { Err(self.lie(what)) }
    }

    fn whose<'a>(&self, receipt: &'a Receipt) -> Result<&'a Swarm, BadAnswer> {
        let signed = &self.answer.receipt;
        let swarm = receipt.swarm.as_ref().ok_or_else(|| self.lie("its receipt is not of a swarm"))?;
        let id = self.job.id();
        self.expect(self.answer.job == id && swarm.job == id, "it is of another job")?;
        self.expect(signed.issuer == self.coordinator, "its receipt is signed by another node than was asked")?;
        self.expect(signed.is_signed(), "the signature on its receipt does not hold")?;
        self.expect(receipt.request == self.job.request.digest(), "its receipt is of another request")?;
        self.expect(receipt.package == self.job.request.package, "its receipt is of another package")?;
        self.expect(
            self.answer.texts.len() == self.job.request.texts.len(),
            "it has another number of texts than were asked",
        )?;
        Ok(swarm)
    }

    fn plans(&self, swarm: &Swarm) -> Result<(), BadAnswer> {
        let plans = &self.answer.plans;
        let named = plans.iter().map(|plan| plan.record.digest()).eq(swarm.plans.iter().copied());
        self.expect(named && !plans.is_empty(), "the plans that came are not those that its receipt names")?;
        for (attempt, plan) in (0..).zip(plans) {
            self.plan(attempt, plan).map_err(|what| self.lie(format!("plan {attempt} {what}")))?;
        }
        Ok(())
    }

    fn plan(&self, attempt: u32, plan: &SignedPlan) -> Result<(), &'static str> {
        let record = &plan.record;
        let request = &record.request;
        let expect = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        expect(record.scheduler == self.coordinator && plan.is_signed(), "is not signed by the coordinator")?;
        expect(request.job == self.job.id() && request.attempt == attempt, "is of another job or attempt")?;
        expect(request.package == self.job.request.package, "is of another package")?;
        expect(request.verify == self.job.verify, "is made for another way of verification")?;
        expect(record.randomness().is_ok(), "has a proof of randomness that does not hold")?;
        let mut block = 0;
        for leg in &record.plan.legs {
            expect(leg.from == block && leg.to > block, "does not cover the blocks in order")?;
            let nodes: BTreeSet<_> = leg.replicas.iter().chain(&leg.shadows).collect();
            let replicas: BTreeSet<_> = leg.replicas.iter().collect();
            expect(replicas.len() == self.job.verify.replicas() as usize, "has too few nodes for a leg")?;
            expect(!request.excluded.iter().any(|node| nodes.contains(node)), "uses a node that it excludes")?;
            block = leg.to;
        }
        expect(block as usize == request.blocks.len(), "does not cover all blocks")
    }

    /// The rows, if they are what the receipt says.
    fn row_digests(&self, receipt: &Receipt) -> Result<(&[u8], u32), BadAnswer> {
        let width = self.answer.width;
        let row = (width as usize).saturating_mul(4);
        let texts = self.job.request.texts.len();
        let fits = row > 0 && self.rows.len() == row.saturating_mul(texts) && receipt.outputs.len() == texts;
        self.expect(fits, "it does not have a row for each text")?;
        let same = self.rows.chunks_exact(row.max(1)).map(|row| output(width, row)).eq(receipt.outputs.iter().copied());
        self.expect(same, "the rows that came are not those of its receipt")?;
        self.expect(
            Digest::of_outputs(&receipt.outputs) == receipt.answer,
            "its receipt's answer is not that of its outputs",
        )?;
        Ok((self.rows, width))
    }

    fn batch(
        &self,
        receipt: &Receipt,
        at: u32,
        batch: &Batch,
        witnesses: &mut BTreeMap<(u32, u32), Vec<&Witness>>,
    ) -> Result<(), BadAnswer> {
        let Some(place) = receipt.place(at) else { return Ok(()) };
        let mut block = 0u32;
        let mut before: Option<Digest> = None;
        for (number, leg) in (0..).zip(&batch.legs) {
            let signed = |what: &str| BadAnswer { who: leg.node, what: format!("{what} (leg {number} of batch {at})") };
            if !leg.is_signed(&place) {
                return Err(self.lie(format!("leg {number} of batch {at} is not signed by {}", leg.node)));
            }
            let to = block.saturating_add(u32::try_from(leg.steps.len()).unwrap_or(u32::MAX));
            let named = self.named(block, to);
            if !named.contains(&leg.node) {
                return Err(self.lie(format!("no plan names {} for the blocks {block} to {to}", leg.node)));
            }
            for step in &leg.steps {
                if before.is_some_and(|before| before != step.input) {
                    return Err(signed(&format!("block `{}` does not begin where the one before ended", step.block)));
                }
                before = Some(step.output);
            }
            let mut nodes = BTreeSet::from([leg.node]);
            for witness in witnesses.remove(&(at, number)).unwrap_or_default() {
                if !leg.is_witnessed(&place, witness) {
                    return Err(
                        self.lie(format!("leg {number} of batch {at} is not signed by its witness {}", witness.node))
                    );
                }
                if !named.contains(&witness.node) {
                    return Err(
                        self.lie(format!("no plan names the witness {} for the blocks {block} to {to}", witness.node))
                    );
                }
                nodes.insert(witness.node);
            }
            if let Verify::Quorum { needed, .. } = self.job.verify
                && nodes.len() < needed as usize
            {
                return Err(self.lie(format!(
                    "leg {number} of batch {at} is signed by {} different nodes, the quorum needs {needed}",
                    nodes.len()
                )));
            }
            block = to;
        }
        let all = self.answer.plans.first().map_or(0, |plan| plan.record.request.blocks.len());
        self.expect(block as usize == all, "a batch did not go through all blocks")
    }

    /// Who is named for these blocks by any of the plans.
    fn named(&self, from: u32, to: u32) -> BTreeSet<PublicKey> {
        let legs = self.answer.plans.iter().flat_map(|plan| &plan.record.plan.legs);
        let these = legs.filter(|leg| leg.from == from && leg.to == to);
        these.flat_map(|leg| leg.replicas.iter().chain(&leg.shadows).copied()).collect()
    }

    /// The rows of a batch are what its last step signed.
    fn end(&self, at: u32, batch: &Batch, rows: &mut Rows<'_>) -> Result<(), BadAnswer> {
        let bytes = (rows.width as usize).saturating_mul(4).saturating_mul(batch.texts as usize);
        let Some((of_batch, left)) = rows.left.split_at_checked(bytes) else {
            return Err(self.lie(format!("there are too few rows for batch {at}")));
        };
        rows.left = left;
        let got = Digest::of_tensor(element_code(TensorType::Fp32), &[batch.texts, rows.width], of_batch);
        let last = batch.legs.last().and_then(|leg| leg.steps.last());
        self.expect(
            last.is_some_and(|step| step.output == got),
            &format!("the rows of batch {at} are not what its last node signed"),
        )
    }

    /// What only who has the package can see.
    fn against(&self, receipt: &Receipt, package: &KnownPackage, notes: &mut Vec<String>) -> Result<(), BadAnswer> {
        if package.digest() != receipt.package {
            notes.push(format!(
                "the package at hand is {}, another one: nothing was compared with it",
                package.digest()
            ));
            return Ok(());
        }
        if package.profile() != receipt.profile {
            notes
                .push("the nodes ran under another profile than this machine's: what it cost is not comparable".into());
        }
        let Ok(batches) = package.batches(&self.job.request.texts, self.job.batch) else {
            return Err(self.lie("the texts cannot be tokenised, yet there is an answer"));
        };
        self.expect(
            batches.len() == receipt.batches.len(),
            "the texts were put into other batches than was asked for",
        )?;
        let texts: Vec<(u32, bool)> = batches.iter().flat_map(|batch| batch.texts.iter().copied()).collect();
        self.expect(texts == self.answer.texts, "the number of tokens of a text is not right")?;
        for ((at, ours), theirs) in (0..).zip(&batches).zip(&receipt.batches) {
            self.tokens(at, ours, theirs)?;
            let named = theirs.steps().map(|(_, step)| (&step.block, &step.component));
            if !named.eq(package.blocks().iter().map(|(name, component)| (name, component))) {
                let wrong = theirs
                    .steps()
                    .zip(package.blocks())
                    .find(|((_, step), (name, component))| (&step.block, &step.component) != (name, component));
                let who = wrong.map_or(self.coordinator, |((node, _), _)| node);
                return Err(BadAnswer {
                    who,
                    what: format!("batch {at} went through other blocks than the package's"),
                });
            }
        }
        Ok(())
    }

    fn tokens(&self, at: u32, ours: &BatchInput, theirs: &Batch) -> Result<(), BadAnswer> {
        let first = theirs.steps().next().map(|(_, step)| step.input);
        let same = first == Some(ours.ids.digest) && theirs.lengths == ours.lengths;
        let count = theirs.texts as usize == ours.texts.len();
        self.expect(same && count, &format!("batch {at} does not begin with the tokens of the texts"))
    }

    fn attestations(&self, receipt: &Receipt, notes: &mut Vec<String>) -> Result<(), BadAnswer> {
        let Some(per_mille) = share(self.job.verify) else { return Ok(()) };
        let auditors: BTreeSet<_> = self.answer.plans.iter().flat_map(|plan| &plan.record.plan.auditors).collect();
        let nodes: BTreeSet<_> = receipt.steps().map(|(_, node, _)| node).collect();
        let steps = receipt.steps().count() as u64;
        let digest = receipt.digest();
        let mut accepted = false;
        for attestation in &self.answer.attestations {
            let auditor = attestation.auditor;
            if attestation.receipt != digest || !attestation.is_signed() {
                return Err(
                    self.lie(format!("the attestation of {auditor} is not signed by it, or of another receipt"))
                );
            }
            if !auditors.contains(&auditor) {
                return Err(self.lie(format!("no plan names the auditor {auditor}")));
            }
            if nodes.contains(&auditor) {
                return Err(self.lie(format!("the auditor {auditor} audits what it ran itself")));
            }
            match &attestation.finding {
                Finding::Accept if per_mille == 1000 && attestation.looked_at < steps => {
                    return Err(BadAnswer {
                        who: auditor,
                        what: "it accepts without having looked at everything".into(),
                    });
                }
                Finding::Accept => accepted = attestation.looked_at > 0 || accepted,
                Finding::Reject { node, reason } => {
                    let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
                    return Err(BadAnswer { who: *node, what: format!("the auditor {auditor} rejects it: {reason}") });
                }
                Finding::Indeterminate { .. } => {}
            }
        }
        if waits(self.job.verify) {
            return self.expect(accepted, "no auditor has accepted it, though the answer was to wait for that");
        }
        if !accepted {
            notes.push("the audit comes later: ask for the answer again to see what it found".into());
        }
        Ok(())
    }
}
