//! Audits: is a receipt right?
//!
//! # Why
//!
//! A receipt is worth what a stranger can find out about it. Everything here is exact, so a stranger who gets
//! other bytes than a node signed has proof that the node was wrong, and never accuses a node that was right.
//!
//! # How
//!
//! 1. The package that the receipt names is opened: it holds the weights, the components, the tokenizer.
//! 2. Evidence is gathered ([`gather`]), block by block. *Replay* runs a block again, on any engine or with
//!    the reference arithmetic. *Freivalds* takes the integer products from the executor's transcript, checks
//!    them with secret vectors ([`vectors`]) and runs only what is between them.
//! 3. The verifier component judges ([`judge`]): accept, reject with the one who is wrong and where, or
//!    indeterminate with what is missing.

pub mod evidence;
mod gather;
mod judge;
pub mod vectors;

pub use evidence::Evidence;

use crate::error::NodeError;
use crate::load::Model;
use crate::options::RunOptions;
use crate::plugins::{Plugins, VERIFIER};
use crate::progress::{Event, Watcher};
use crate::replay::expect_texts;
use crate::transcript::keeping;
use ostrakon_engine::verification::Verdict;
use ostrakon_nn::Auditor;
use ostrakon_package::{Home, TrustPolicy};
use ostrakon_protocol::{Digest, Receipt, Request, SignedReceipt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use vectors::KeptVectors;

/// How blocks are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Run again.
    Replay,
    /// Products checked, the rest run again.
    Freivalds,
}

/// Which blocks are looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// All.
    All,
    /// These, by their place in the package, on every batch.
    Blocks(Vec<usize>),
    /// Each with this probability, by this machine's randomness; one at least.
    Sample(f64),
}

/// How an audit is made.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// How blocks are run.
    pub run: RunOptions,
    /// Whose packages are run.
    pub policy: TrustPolicy,
    /// How blocks are looked at.
    pub method: Method,
}

/// What an auditor has been given of a run beside the receipt.
#[derive(Default)]
pub struct Given<'a> {
    /// The request's texts, if the receipt is without them.
    pub texts: Option<&'a [String]>,
    /// The executor's transcript.
    pub transcript: Option<&'a Evidence>,
}

/// What an audit found.
#[derive(Debug, Clone)]
pub struct AuditReport {
    /// The receipt.
    pub receipt: Digest,
    /// Who signed it.
    pub issuer: String,
    /// The verdict.
    pub verdict: Verdict,
    /// What the verifier's call cost.
    pub verifier_fuel: u64,
    /// The verifier.
    pub verifier: Digest,
    /// How blocks were looked at.
    pub method: Method,
    /// Steps that were looked at, and all of them.
    pub looked_at: (usize, usize),
    /// Outputs that were computed here, and all of them.
    pub outputs: (usize, usize),
    /// What was checked and what it took.
    pub cost: Cost,
    /// Worth knowing, not decisive.
    pub notes: Vec<String>,
}

/// What was checked and what it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Integer products that were checked.
    pub products: u64,
    /// Multiply-adds of these products.
    pub multiply_adds: u64,
    /// Multiply-adds of 64 bits that checking them took.
    pub checking: u64,
    /// A wrong row passed with a probability of at most 2 to minus this. `None`: no product was checked.
    pub error_bits: Option<u32>,
    /// Opening the package, starting engine and arithmetic, making or reading vectors.
    pub load: Duration,
    /// Gathering evidence and judging.
    pub audit: Duration,
    /// What that took of all processors.
    pub cpu: Duration,
}

/// An auditor of the runs of one package.
pub struct Auditing {
    model: Model,
    verifier: judge::Judge,
    /// With Freivalds.
    auditor: Option<Auditor>,
    vectors: Option<Arc<KeptVectors>>,
    method: Method,
    load: Duration,
}

impl Auditing {
    /// Open the package in `directory` to audit its runs.
    ///
    /// # Errors
    /// The package is refused, there is no verifier, or something that is needed does not start.
    pub fn open(directory: &Path, home: &Home, options: &AuditOptions) -> Result<Self, NodeError> {
        let start = Instant::now();
        let AuditOptions { policy, run, method } = options;
        let verifier = verifier(home, run)?;
        let (auditor, vectors) = (OnceLock::new(), OnceLock::new());
        let model = match method {
            Method::Replay => Model::load(directory, policy, home, run)?,
            Method::Freivalds => {
                let package = ostrakon_package::package::claimed_digest(directory)?;
                let backend = keeping(&auditor, |executor| {
                    let kept = Arc::new(KeptVectors::new(home, &package, Arc::clone(executor)));
                    Auditor::new(Arc::clone(executor), Arc::clone(vectors.get_or_init(|| kept)) as _)
                });
                Model::load_on(directory, policy, home, run, backend)?
            }
        };
        let (auditor, vectors) = (auditor.into_inner(), vectors.into_inner());
        Ok(Self { model, verifier, auditor, vectors, method: *method, load: start.elapsed() })
    }

    /// Audit a receipt.
    ///
    /// # Errors
    /// What keeps the audit from beginning: another package, no transcript where one is needed, a choice of
    /// nothing. What goes wrong later is part of the verdict.
    pub fn audit(
        &mut self,
        signed: &SignedReceipt,
        given: &Given<'_>,
        choice: &Choice,
        watch: Watcher<'_>,
    ) -> Result<AuditReport, NodeError> {
        let receipt = &signed.receipt;
        self.model.expect_package(receipt)?;
        if self.method == Method::Freivalds && given.transcript.is_none() {
            return Err(NodeError::Setting("an audit by Freivalds needs the executor's transcript".into()));
        }
        let (start, cpu) = (Instant::now(), cpu_time::ProcessTime::now());
        let mut notes = Vec::new();
        let request = request(signed, given, &mut notes);
        request.as_ref().map_or(Ok(()), expect_texts)?;
        let chosen = choose(receipt, choice)?;
        if self.model.profile() != receipt.profile {
            notes.push(format!(
                "fuel was not compared: the receipt is of the profile {}, this audit of {}",
                receipt.profile,
                self.model.profile()
            ));
        }
        watch(Event::Step(match self.method {
            Method::Replay => "running blocks".into(),
            Method::Freivalds => "checking blocks".into(),
        }));
        let sealed = judge::Sealed::of(signed);
        let gathering = gather::Gathering {
            signed,
            is_signed: sealed.holds(),
            model: &mut self.model,
            auditor: self.auditor.as_ref(),
            evidence: given.transcript,
            chosen: &chosen,
        };
        let mut gathered = gathering.gather(request.as_ref(), watch)?;
        notes.append(&mut gathered.notes);
        gathered.missing.extend(another_package(signed));
        let looked_at = gathered.looked_at();
        let outputs = (gathered.outputs.iter().flatten().count(), gathered.outputs.len());
        let mut cost = gathered.cost;
        let judged = self.verifier.judge(signed, &sealed, &self.model, gathered)?;
        if let (Verdict::Reject(_), Some(vectors)) = (&judged.verdict, &self.vectors) {
            // Whoever was caught has learnt something about the vectors: the next audit draws new ones.
            vectors.forget();
            self.model.forget_layers();
        }
        cost.load = self.load;
        cost.audit = start.elapsed();
        cost.cpu = cpu.elapsed();
        Ok(AuditReport {
            receipt: receipt.digest(),
            issuer: signed.issuer.to_string(),
            verdict: judged.verdict,
            verifier_fuel: judged.fuel,
            verifier: self.verifier.digest(),
            method: self.method,
            looked_at,
            outputs,
            cost,
            notes,
        })
    }
}

fn verifier(home: &Home, options: &RunOptions) -> Result<judge::Judge, NodeError> {
    let bytes = Plugins::find(options.plugins.as_deref())?.read(VERIFIER)?;
    judge::Judge::new(&bytes, home, options)
}

/// The request, if it is that of the receipt.
fn request(signed: &SignedReceipt, given: &Given<'_>, notes: &mut Vec<String>) -> Option<Request> {
    let given = given.texts.map(|texts| Request::of_texts(signed.receipt.package, texts.to_vec()));
    let request = given.or_else(|| signed.request.clone())?;
    if request.digest() == signed.receipt.request {
        return Some(request);
    }
    notes.push("the texts are not those of the receipt: their digest differs".into());
    None
}

/// The request names the package that was asked for; the receipt, the one that was run.
fn another_package(signed: &SignedReceipt) -> Option<String> {
    let (request, receipt) = (signed.request.as_ref()?, &signed.receipt);
    (request.digest() == receipt.request && request.package != receipt.package).then(|| {
        format!("the request is for the package {}, the receipt is of a run of {}", request.package, receipt.package)
    })
}

/// Which steps are looked at.
fn choose(receipt: &Receipt, choice: &Choice) -> Result<Vec<bool>, NodeError> {
    let counts = || receipt.batches.iter().map(|batch| batch.steps().count());
    let places = || counts().flat_map(|count| 0..count);
    let most = counts().max().unwrap_or(0);
    if let Choice::Blocks(wanted) = choice
        && let Some(none) = wanted.iter().find(|&&place| place >= most)
    {
        return Err(NodeError::Setting(format!(
            "there is no block {none} on the receipt: it has {most} blocks, counted from 0"
        )));
    }
    let chosen: Vec<bool> = match choice {
        Choice::All => places().map(|_| true).collect(),
        Choice::Blocks(wanted) => places().map(|place| wanted.contains(&place)).collect(),
        Choice::Sample(probability) => sample(places().count(), *probability)?,
    };
    if chosen.contains(&true) || chosen.is_empty() {
        return Ok(chosen);
    }
    Err(NodeError::Setting("none of the blocks that were asked for is on the receipt: they are counted from 0".into()))
}

/// Each with this probability; if none, one of them.
fn sample(count: usize, probability: f64) -> Result<Vec<bool>, NodeError> {
    let mut random = vec![0u8; count.saturating_add(1).saturating_mul(8)];
    getrandom::fill(&mut random)
        .map_err(|error| NodeError::Setting(format!("no randomness to choose blocks: {error}")))?;
    let mut draws = random.as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes));
    let one = draws.next().unwrap_or(0);
    // 2^64 as a float: the comparison needs no more than that.
    let mut chosen: Vec<bool> = draws.map(|draw| (draw as f64) < probability * 18_446_744_073_709_551_616.0).collect();
    if !chosen.contains(&true) {
        let at = usize::try_from(one % (count.max(1) as u64)).unwrap_or(0);
        if let Some(slot) = chosen.get_mut(at) {
            *slot = true;
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_never_empty_and_about_as_large_as_wished() {
        for _ in 0..100 {
            assert_eq!(sample(8, 0.0).unwrap().iter().filter(|&&c| c).count(), 1);
            assert!(sample(8, 1.0).unwrap().iter().all(|&c| c));
        }
        let many = sample(10_000, 0.2).unwrap().iter().filter(|&&c| c).count();
        assert!((1500..2500).contains(&many), "{many}");
        assert!(sample(0, 0.5).unwrap().is_empty());
    }
}
