//! The verification role: audits receipts of swarms for whoever asks.
//!
//! # How
//!
//! 1. The receipt is decoded, which bounds it; it must travel with its request, and this node must have the package.
//! 2. A node does not audit what it ran itself: its word would add nothing to its leg.
//! 3. Audits wait in a queue of a few places and run one at a time, by replay. Packages that were audited last stay open.
//! 4. The verifier component judges; the verdict becomes an [`Attestation`]. A receipt has the legs of several nodes, and
//!    each node is accused of its own steps only. Witnesses are not accused: whoever is wrong with a leg's node is found by
//!    the same steps. A witness whose signature does not hold makes a receipt indeterminate, as a leg's does.

use super::metrics::count;
use super::refusal::{Refused, bounded};
use super::{Serving, in_thread};
use crate::audit::{AuditOptions, AuditReport, Auditing, Choice, Given, Method};
use crate::error::{ErrorKind, NodeError};
use crate::progress;
use crate::store::locate_or_find;
use ostrakon_engine::verification::Verdict;
use ostrakon_package::Home;
use ostrakon_protocol::wire::{Refusal, Reply};
use ostrakon_protocol::{Attestation, Digest, Finding, PublicKey, SignedReceipt, decode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex as Queue, Semaphore};

/// Packages that stay open for audits.
const OPEN: usize = 2;

/// The queue of audits, and what is open for them.
pub(super) struct Audits {
    places: Semaphore,
    open: Arc<Queue<Vec<OpenAudit>>>,
}

struct OpenAudit {
    package: Digest,
    auditing: Auditing,
}

impl Audits {
    pub(super) fn new(places: usize) -> Self {
        Self { places: Semaphore::new(places.min(Semaphore::MAX_PERMITS)), open: Arc::default() }
    }
}

impl Serving {
    /// Audit an encoded receipt that travels with its request: each step with this probability in thousandths.
    pub async fn audit(&self, _from: PublicKey, receipt: &[u8], per_mille: u32) -> Reply {
        match self.try_audit(receipt, per_mille).await {
            Ok(attestation) => Reply::Audited(attestation),
            Err(refused) => self.refuse(refused),
        }
    }

    async fn try_audit(&self, receipt: &[u8], per_mille: u32) -> Result<Attestation, Refused> {
        if !self.settings.roles.verification {
            return Err(Refused::new(Refusal::NotHere, "this node audits nothing for others"));
        }
        if self.is_draining() {
            return Err(Refused::new(Refusal::Busy, "this node takes nothing new: it will leave"));
        }
        let choice = match per_mille {
            0..1000 => Choice::Sample(f64::from(per_mille) / 1000.0),
            1000 => Choice::All,
            _ => return Err(Refused::bad(format!("an audit of {per_mille} thousandths of the steps: there are 1000"))),
        };
        let signed: SignedReceipt = decode(receipt).map_err(|error| Refused::bad(format!("the receipt: {error}")))?;
        if signed.request.is_none() {
            return Err(Refused::bad("the receipt is without its request, which must be run again"));
        }
        let own = self.key.public();
        if signed.receipt.steps().any(|(_, node, _)| node == own) {
            return Err(Refused::new(Refusal::NotHere, "this node ran a part of it and does not audit itself"));
        }
        let _place =
            self.audits.places.try_acquire().map_err(|_| {
                Refused::new(Refusal::Busy, format!("{} audits are waiting already", self.settings.audits))
            })?;
        let package = signed.receipt.package;
        let directory = self.table.directory(&package);
        let home = self.home.clone();
        let options = AuditOptions { run: self.settings.run.clone(), policy: self.policy(), method: Method::Replay };
        let mut open = Arc::clone(&self.audits.open).lock_owned().await;
        let report = in_thread(move || {
            let directory = find(&home, directory, &package)?;
            let audit = open_audit(&mut open, package, &directory, &home, &options)?;
            let audited = audit.auditing.audit(&signed, &Given::default(), &choice, &progress::unwatched);
            audited.map_err(|error| match error.kind() {
                ErrorKind::Usage => Refused::bad(error.in_full()),
                _ => Refused::fault(&error),
            })
        });
        let report = report.await.map_err(|error| Refused::fault(&error))??;
        count(&self.metrics.audits, 1);
        let AuditReport { receipt, verdict, verifier, looked_at: (looked_at, _), .. } = report;
        let finding = finding(verdict);
        if matches!(finding, Finding::Reject { .. }) {
            count(&self.metrics.rejections, 1);
        }
        Ok(Attestation::sign(&self.key, receipt, verifier, looked_at as u64, finding))
    }
}

/// Where the package lies: served, or in the store.
fn find(home: &Home, served: Option<PathBuf>, package: &Digest) -> Result<PathBuf, Refused> {
    let stored = || locate_or_find(home, None, package);
    served.map_or_else(stored, Ok).map_err(|error: NodeError| Refused::new(Refusal::NotHere, error.in_full()))
}

/// The auditor of a package, the last one used in the last place.
fn open_audit<'a>(
    open: &'a mut Vec<OpenAudit>,
    package: Digest,
    directory: &Path,
    home: &Home,
    options: &AuditOptions,
) -> Result<&'a mut OpenAudit, Refused> {
    let audit = match open.iter().position(|audit| audit.package == package) {
        Some(at) => open.remove(at),
        None => {
            let auditing = Auditing::open(directory, home, options).map_err(|error| Refused::fault(&error))?;
            OpenAudit { package, auditing }
        }
    };
    if open.len() >= OPEN {
        open.remove(0);
    }
    open.push(audit);
    open.last_mut().ok_or_else(|| Refused::new(Refusal::Fault, "no audit is open"))
}

fn finding(verdict: Verdict) -> Finding {
    match verdict {
        Verdict::Accept(_) => Finding::Accept,
        Verdict::Reject(accusation) => {
            let place = |what: &str, at: Option<String>| at.map(|at| format!("{what} {at}: ")).unwrap_or_default();
            let batch = place("batch", accusation.batch.map(|batch| batch.to_string()));
            let block = place("block", accusation.block.map(|block| format!("`{block}`")));
            let reason = bounded(format!("{batch}{block}{}", accusation.reason));
            match accusation.node.parse() {
                Ok(node) => Finding::Reject { node, reason },
                // The verifier names nodes as it was given them.
                Err(why) => {
                    Finding::Indeterminate { reason: format!("the verifier accuses nobody that is known: {why}") }
                }
            }
        }
        Verdict::Indeterminate(reasons) => Finding::Indeterminate { reason: bounded(reasons.join("; ")) },
    }
}
