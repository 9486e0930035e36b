//! Auditors that try many receipts, and what came of it.

use crate::forge::{Claimed, Loose};
use crate::tiny::{Random, Tiny, expect, key, policy, quick};
use ostrakon_node::audit::{AuditOptions, Auditing, Choice, Evidence, Given, Method};
use ostrakon_node::{Home, NodeError, RunOptions, SignedReceipt, Verdict, progress};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// What an audit ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receipt is right, as far as was looked.
    Accept,
    /// Somebody is wrong.
    Reject {
        /// Who.
        node: String,
        /// Where.
        batch: Option<u32>,
        /// Where.
        block: Option<String>,
        /// Where.
        operation: Option<String>,
        /// Why.
        reason: String,
    },
    /// It cannot be told.
    Indeterminate(Vec<String>),
    /// There was no audit.
    Refused(String),
}

impl Outcome {
    /// In a word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Accept => "accepted",
            Self::Reject { operation: Some(_), .. } => "rejected, operation named",
            Self::Reject { block: Some(_), .. } => "rejected, block named",
            Self::Reject { .. } => "rejected",
            Self::Indeterminate(_) => "indeterminate",
            Self::Refused(_) => "refused before",
        }
    }

    /// Whether `node` is accused of what it did at this block and operation.
    pub fn accuses(&self, node: &str, block: Option<&str>, operation: Option<&str>) -> bool {
        match self {
            Self::Reject { node: accused, block: in_block, operation: at, .. } => {
                accused == node && in_block.as_deref() == block && at.as_deref() == operation
            }
            _ => false,
        }
    }

    /// Whether nobody is accused and nothing is accepted.
    pub const fn is_undecided(&self) -> bool {
        matches!(self, Self::Indeterminate(_) | Self::Refused(_))
    }
}

impl From<Result<Verdict, NodeError>> for Outcome {
    fn from(result: Result<Verdict, NodeError>) -> Self {
        match result {
            Ok(Verdict::Accept(_)) => Self::Accept,
            Ok(Verdict::Reject(accusation)) => Self::Reject {
                node: accusation.node,
                batch: accusation.batch,
                block: accusation.block,
                operation: accusation.operation,
                reason: accusation.reason,
            },
            Ok(Verdict::Indeterminate(reasons)) => Self::Indeterminate(reasons),
            Err(error) => Self::Refused(error.to_string()),
        }
    }
}

/// An auditor of each kind, for one package.
pub struct Auditors {
    /// Runs again.
    pub replay: Auditing,
    /// Checks products.
    pub freivalds: Auditing,
}

impl Auditors {
    /// Both, at this package.
    pub fn of(package: &Path, home: &Home) -> Self {
        Self {
            replay: auditing(package, home, Method::Replay, quick()),
            freivalds: auditing(package, home, Method::Freivalds, quick()),
        }
    }

    /// Run all again.
    pub fn replay(&mut self, signed: &SignedReceipt) -> Outcome {
        audit(&mut self.replay, signed, None, &Choice::All)
    }

    /// Check all products.
    pub fn freivalds(&mut self, claimed: &Claimed) -> Outcome {
        self.freivalds_of(claimed, &Choice::All)
    }

    /// Check the products of some blocks.
    pub fn freivalds_of(&mut self, claimed: &Claimed, choice: &Choice) -> Outcome {
        audit(&mut self.freivalds, &claimed.signed, Some(&claimed.transcript), choice)
    }

    /// What each says.
    pub fn both(&mut self, claimed: &Claimed) -> [Outcome; 2] {
        [self.replay(&claimed.signed), self.freivalds(claimed)]
    }
}

/// An auditor of one kind.
pub fn auditing(package: &Path, home: &Home, method: Method, run: RunOptions) -> Auditing {
    expect(Auditing::open(package, home, &AuditOptions { run, policy: policy(), method }))
}

/// Honest runs of a package that was loaded, of random texts in random batches, taken apart.
pub fn honest_runs(tiny: &Tiny, package: &Path, random: &mut Random, count: usize) -> Vec<Loose> {
    let mut model = tiny.load(package, &quick());
    let mut run = || {
        let count = 1 + random.below(4);
        let texts = random.texts(count);
        let most = random.one_of(&[None, Some(1), Some(2)]);
        let (_, signed) = expect(model.run_with_receipt(&texts, most, &progress::unwatched, &key(0)));
        Loose::of(&signed, &tiny.transcript(package, &signed, &key(0)))
    };
    (0..count).map(|_| run()).collect()
}

/// One audit.
pub fn audit(auditing: &mut Auditing, signed: &SignedReceipt, transcript: Option<&[u8]>, choice: &Choice) -> Outcome {
    let evidence = transcript.map(|bytes| Evidence::new(Arc::new(bytes.to_vec()), "the transcript", &signed.receipt));
    let evidence = match evidence.transpose() {
        Ok(evidence) => evidence,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    let given = Given { transcript: evidence.as_ref(), ..Given::default() };
    auditing.audit(signed, &given, choice, &progress::unwatched).map(|report| report.verdict).into()
}

/// What came of each kind of deed.
#[derive(Default)]
pub struct Counts(BTreeMap<String, BTreeMap<String, usize>>);

impl Counts {
    /// One more.
    pub fn add(&mut self, kind: &str, outcome: &str) {
        *self.0.entry(kind.to_owned()).or_default().entry(outcome.to_owned()).or_default() += 1;
    }

    /// All of a kind.
    pub fn of(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, |outcomes| outcomes.values().sum())
    }

    /// All with this outcome.
    pub fn with(&self, outcome: &str) -> usize {
        self.0.values().filter_map(|outcomes| outcomes.get(outcome)).sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, outcomes) in &self.0 {
            for (outcome, count) in outcomes {
                writeln!(f, "{count:>7}  {kind}: {outcome}")?;
            }
        }
        Ok(())
    }
}
