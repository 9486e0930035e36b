//! Whether a plan follows from what its record names.
//!
//! # How
//!
//! 1. The record is signed by its scheduling node, and the snapshot is the one that it names.
//! 2. The snapshot was taken by that node, is in the one form that it may have, and every status in it is signed by its node.
//! 3. The randomness is that node's for this job, attempt and snapshot.
//! 4. The component that the record names makes the plan again. It must be the same to the last node.
//!
//! Only what the scheduling node signed can be held against it: a snapshot that is another than the one it named, or a component
//! that is not here, says nothing.
//!
//! What this cannot see: snapshots that were taken and thrown away. Whoever schedules can take several, and use the one whose lots
//! please best. The receipt shows when it was taken.

use super::schedule::{Scheduler, check_form, check_signatures};
use crate::error::NodeError;
use ostrakon_protocol::{Plan, SignedPlan, Snapshot};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanVerdict {
    /// The plan is what follows.
    Follows,
    /// It is not: the scheduling node is to blame.
    DoesNot {
        /// What is wrong.
        why: String,
    },
    /// It cannot be said.
    Indeterminate {
        /// What is missing.
        why: String,
    },
}

impl std::fmt::Display for PlanVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Follows => f.write_str("the plan follows from the snapshot and the randomness"),
            Self::DoesNot { why } => write!(f, "the plan does not follow: {why}"),
            Self::Indeterminate { why } => write!(f, "it cannot be said whether the plan follows: {why}"),
        }
    }
}

/// Judge a plan from the snapshot that it names, with the component that it names.
pub fn audit_plan(scheduler: &Scheduler, signed: &SignedPlan, snapshot: &Snapshot) -> PlanVerdict {
    let indeterminate = |why: String| PlanVerdict::Indeterminate { why };
    let record = &signed.record;
    if !signed.is_signed() {
        return indeterminate(format!("the plan is not signed by {}", record.scheduler));
    }
    let digest = snapshot.digest();
    if digest != record.snapshot {
        return indeterminate(format!("the plan names the snapshot {}, this is {digest}", record.snapshot));
    }
    if scheduler.digest() != record.component {
        let (named, here) = (record.component, scheduler.digest());
        return indeterminate(format!("the plan names the component {named}, the one that is here is {here}"));
    }
    match judge(scheduler, signed, snapshot) {
        Ok(None) => PlanVerdict::Follows,
        Ok(Some(why)) => PlanVerdict::DoesNot { why },
        Err(error) => indeterminate(error.in_full()),
    }
}

/// What is wrong, or nothing.
fn judge(scheduler: &Scheduler, signed: &SignedPlan, snapshot: &Snapshot) -> Result<Option<String>, NodeError> {
    let record = &signed.record;
    if snapshot.taken_by != record.scheduler {
        return Ok(Some(format!("the snapshot was taken by {}", snapshot.taken_by)));
    }
    if let Err(bad) = check_form(snapshot).and_then(|()| check_signatures(snapshot)) {
        return Ok(Some(bad.to_string()));
    }
    let randomness = match record.randomness() {
        Ok(randomness) => randomness,
        Err(error) => return Ok(Some(error.to_string())),
    };
    match scheduler.decide(&record.request, snapshot, &randomness) {
        Ok(plan) => Ok(difference(&plan, &record.plan)),
        Err(NodeError::NoPlan(why)) => Ok(Some(format!("none does: {why}"))),
        Err(error) => Err(error),
    }
}

/// The first thing in which a plan is another than the one that follows.
fn difference(follows: &Plan, given: &Plan) -> Option<String> {
    if follows == given {
        return None;
    }
    if follows.legs.len() != given.legs.len() {
        return Some(format!("it has {} legs, {} follow", given.legs.len(), follows.legs.len()));
    }
    for (at, (follows, given)) in follows.legs.iter().zip(&given.legs).enumerate() {
        if (follows.from, follows.to) != (given.from, given.to) {
            return Some(format!(
                "leg {at} has blocks {} to {}, {} to {} follow",
                given.from, given.to, follows.from, follows.to
            ));
        }
        if follows.replicas != given.replicas {
            return Some(format!("leg {at} goes to {}, {} follow", keys(&given.replicas), keys(&follows.replicas)));
        }
        if follows.shadows != given.shadows {
            return Some(format!(
                "leg {at} has the shadows {}, {} follow",
                keys(&given.shadows),
                keys(&follows.shadows)
            ));
        }
    }
    if follows.auditors != given.auditors {
        return Some(format!("the auditors are {}, {} follow", keys(&given.auditors), keys(&follows.auditors)));
    }
    Some(format!("{} microseconds are predicted, {} follow", given.predicted, follows.predicted))
}

fn keys(keys: &[ostrakon_protocol::PublicKey]) -> String {
    const SHOWN: usize = 16;
    match keys {
        [] => "nobody".to_owned(),
        keys => keys.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
