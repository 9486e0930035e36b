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

mod evidence;
mod gather;
mod judge;
pub mod vectors;

use crate::error::NodeError;
use crate::load::Model;
use crate::options::{Arithmetic, RunOptions};
use crate::plugins::{Plugins, VERIFIER};
use crate::progress::{Event, Watcher};
use crate::receipt;
use crate::transcript::keeping;
use evidence::Evidence;
use ostrakon_engine::verification::Verdict;
use ostrakon_nn::Auditor;
use ostrakon_package::{Home, Store, TrustPolicy};
use ostrakon_protocol::{Digest, Receipt, Request, SignedReceipt};
use std::path::{Path, PathBuf};
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

/// What an audit is to do.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// How blocks are run.
    pub run: RunOptions,
    /// Whose packages are run.
    pub policy: TrustPolicy,
    /// The package's directory; without it, the one in the store with the digest on the receipt.
    pub package: Option<PathBuf>,
    /// The texts, if the receipt is without them.
    pub texts: Option<Vec<String>>,
    /// The executor's transcript.
    pub transcript: Option<PathBuf>,
    /// How blocks are looked at.
    pub method: Method,
    /// Which.
    pub choice: Choice,
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
    /// Multiply-adds in the field that checking them took.
    pub checking: u64,
    /// Opening the package, starting engine and arithmetic, making or reading vectors.
    pub load: Duration,
    /// Gathering evidence and judging.
    pub audit: Duration,
    /// What that took of all processors.
    pub cpu: Duration,
}

/// Audit the receipt in a file.
///
/// # Errors
/// What keeps the audit from beginning: a file that is no receipt, no verifier, a package that is refused. What
/// goes wrong later is part of the verdict.
pub fn audit(file: &Path, home: &Home, options: &AuditOptions, watch: Watcher<'_>) -> Result<AuditReport, NodeError> {
    let signed: SignedReceipt = receipt::read(file)?;
    watch(Event::Step("opening the package".into()));
    let start = Instant::now();
    let mut notes = Vec::new();
    let mut verifier = verifier(home, &options.run)?;
    let mut opened = Opened::load(&signed.receipt, home, options)?;
    let evidence = options.transcript.as_deref().map(|path| Evidence::open(path, &signed.receipt)).transpose()?;
    if options.method == Method::Freivalds && evidence.is_none() {
        return Err(NodeError::Setting("an audit by Freivalds needs the executor's transcript".into()));
    }
    let texts = texts(&signed, options, &mut notes);
    let load = start.elapsed();

    let (start, cpu) = (Instant::now(), cpu_time::ProcessTime::now());
    let chosen = choose(&signed.receipt, &options.choice)?;
    if options.run.arithmetic == Arithmetic::Reference {
        notes.push("fuel was not compared: the reference arithmetic costs other fuel".into());
    } else if opened.model.profile() != signed.receipt.profile {
        notes.push("fuel was not compared: the receipt is of another determinism profile".into());
    }
    watch(Event::Step(match options.method {
        Method::Replay => "running blocks".into(),
        Method::Freivalds => "checking blocks".into(),
    }));
    let gathered = gather::Gathering { signed: &signed, opened: &mut opened, evidence: evidence.as_ref(), chosen: &chosen }
        .gather(texts.as_deref(), watch)?;
    let looked_at = gathered.looked_at();
    let mut cost = gathered.cost;
    let (judged, digest) = judge::judge(&mut verifier, &signed, &opened.model, gathered)?;
    if let (Verdict::Reject(_), Some(vectors)) = (&judged.verdict, &opened.vectors) {
        // Whoever was caught has learnt something about the vectors: the next audit draws new ones.
        vectors.forget();
    }
    cost.load = load;
    cost.audit = start.elapsed();
    cost.cpu = cpu.elapsed();
    Ok(AuditReport {
        receipt: signed.receipt.digest(),
        issuer: signed.issuer.to_string(),
        verdict: judged.verdict,
        verifier_fuel: judged.fuel,
        verifier: digest,
        method: options.method,
        looked_at,
        cost,
        notes,
    })
}

/// The package of a receipt, ready to be looked at.
pub(crate) struct Opened {
    pub(crate) model: Model,
    /// With Freivalds.
    pub(crate) auditor: Option<Auditor>,
    vectors: Option<Arc<KeptVectors>>,
}

impl Opened {
    fn load(receipt: &Receipt, home: &Home, options: &AuditOptions) -> Result<Self, NodeError> {
        let directory = match &options.package {
            Some(word) => crate::store::locate(home, word)?,
            None => stored(home, &receipt.package)?,
        };
        let AuditOptions { policy, run, .. } = options;
        let opened = match options.method {
            Method::Replay => {
                let model = Model::load(&directory, policy, home, run)?;
                Self { model, auditor: None, vectors: None }
            }
            Method::Freivalds => {
                let auditor = OnceLock::new();
                let vectors = OnceLock::new();
                let backend = keeping(&auditor, |executor| {
                    let kept = KeptVectors::new(home, &receipt.package, Arc::clone(executor));
                    let kept = Arc::clone(vectors.get_or_init(|| Arc::new(kept)));
                    Auditor::new(Arc::clone(executor), kept)
                });
                let model = Model::load_on(&directory, policy, home, run, backend)?;
                Self { model, auditor: auditor.get().cloned(), vectors: vectors.get().cloned() }
            }
        };
        if opened.model.digest() != receipt.package {
            return Err(NodeError::Setting(format!(
                "the receipt is of the package {}, {} has the digest {}",
                receipt.package,
                directory.display(),
                opened.model.digest()
            )));
        }
        Ok(opened)
    }
}

/// The directory of the stored package with this digest.
pub fn stored(home: &Home, package: &Digest) -> Result<PathBuf, NodeError> {
    let stored = Store::open(home).list()?;
    stored.into_iter().find(|stored| stored.digest == *package).map(|stored| stored.directory).ok_or_else(|| {
        NodeError::Setting(format!(
            "no package in the store has the digest {package} that the receipt names: get it and give its directory with --package"
        ))
    })
}

fn verifier(home: &Home, options: &RunOptions) -> Result<judge::Judge, NodeError> {
    let bytes = Plugins::find(options.plugins.as_deref())?.read(VERIFIER)?;
    judge::Judge::new(&bytes, home, options)
}

/// The request's texts, if they are those of the receipt.
fn texts(signed: &SignedReceipt, options: &AuditOptions, notes: &mut Vec<String>) -> Option<Vec<String>> {
    let given = options.texts.as_ref().map(|texts| Request { package: signed.receipt.package, texts: texts.clone() });
    let request = given.or_else(|| signed.request.clone())?;
    if request.digest() == signed.receipt.request {
        return Some(request.texts);
    }
    notes.push("the texts are not those of the receipt: their digest differs".into());
    None
}

/// Which steps are looked at.
fn choose(receipt: &Receipt, choice: &Choice) -> Result<Vec<bool>, NodeError> {
    let places = || receipt.batches.iter().flat_map(|batch| 0..batch.legs.iter().map(|leg| leg.steps.len()).sum());
    let chosen: Vec<bool> = match choice {
        Choice::All => places().map(|_| true).collect(),
        Choice::Blocks(wanted) => places().map(|place: usize| wanted.contains(&place)).collect(),
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
    getrandom::fill(&mut random).map_err(|error| NodeError::Setting(format!("no randomness to choose blocks: {error}")))?;
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
