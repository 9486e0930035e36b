//! The verify phase: verification nodes look at the receipt.
//!
//! # How
//!
//! 1. The auditors of the plan are asked in order. One that cannot be reached, is too slow, cannot say or sends something
//!    else than an audit of this receipt is passed over.
//! 2. The first that accepts ends it.
//! 3. One that rejects accuses a node, and may lie: another one is asked, and to look at everything, for another sample might
//!    miss what the first has seen. If that accepts, the first is the one who is
//!    wrong. If it accuses the same node, that node is. If nobody else is there to ask, nobody's word counts more than
//!    the other's: both are left out and the job runs again.

use super::execute::Trouble;
use super::submit::Work;
use ostrakon_net::{Client, NetError};
use ostrakon_protocol::wire::{Ask, Reply};
use ostrakon_protocol::{Attestation, Finding, PublicKey, SignedReceipt, Verify, encode};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

/// What came of asking auditors.
#[derive(Debug)]
pub(super) enum Verdict {
    /// One accepts.
    Accepted(Attestation),
    /// The receipt does not stand: what these nodes did must be done again by others.
    Rejected(Vec<PublicKey>, Attestation),
    /// Nobody could say.
    Nobody,
}

/// The share of the steps that is looked at, in thousandths; `None`: nobody audits.
pub(super) const fn share(verify: Verify) -> Option<u32> {
    match verify {
        Verify::Audit { per_mille, .. } => Some(per_mille),
        Verify::Full => Some(1000),
        Verify::None | Verify::Quorum { .. } => None,
    }
}

/// Whether the answer waits for the verdict.
pub(super) const fn waits(verify: Verify) -> bool {
    matches!(verify, Verify::Full | Verify::Audit { before: true, .. })
}

/// A receipt in front of auditors.
pub(super) struct Hearing<'a> {
    pub(super) net: &'a Client,
    pub(super) work: &'a Work,
    /// With its request.
    pub(super) signed: &'a SignedReceipt,
    pub(super) per_mille: u32,
    /// For each auditor.
    pub(super) within: Duration,
    /// Who is told of what somebody did.
    pub(super) blame: &'a (dyn Fn(PublicKey, Trouble) + Sync),
}

impl Hearing<'_> {
    /// Ask these auditors.
    pub(super) async fn hear(&self, auditors: &[PublicKey]) -> Verdict {
        let nodes: BTreeSet<PublicKey> = self.signed.receipt.steps().map(|(_, node, _)| node).collect();
        let mut first: Option<(PublicKey, Attestation)> = None;
        for &auditor in auditors {
            let per_mille = if first.is_some() { 1000 } else { self.per_mille };
            let attestation = match self.ask(auditor, per_mille).await {
                Ok(attestation) => attestation,
                Err(trouble) => {
                    (self.blame)(auditor, trouble);
                    continue;
                }
            };
            match (&attestation.finding, first.take()) {
                (Finding::Accept, None) => return Verdict::Accepted(attestation),
                (Finding::Accept, Some((_, rejected))) => {
                    (self.blame)(rejected.auditor, Trouble::Wrong("it rejected what another auditor accepts".into()));
                    return Verdict::Accepted(attestation);
                }
                (Finding::Reject { node, .. }, before) if !nodes.contains(node) => {
                    first = before;
                    (self.blame)(auditor, Trouble::Malformed("it accuses a node that is not on the receipt".into()));
                }
                (Finding::Reject { node, reason }, None) => {
                    tracing::warn!(job = %self.work.id, %auditor, %node, %reason, "an auditor rejects the receipt");
                    first = Some((*node, attestation));
                }
                (Finding::Reject { node, reason }, Some((accused, rejected))) if *node == accused => {
                    let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
                    (self.blame)(accused, Trouble::Wrong(format!("two auditors reject it: {reason}")));
                    return Verdict::Rejected(vec![accused], rejected);
                }
                (Finding::Reject { node, .. }, Some((accused, rejected))) => {
                    (self.blame)(accused, Trouble::Divided);
                    (self.blame)(*node, Trouble::Divided);
                    return Verdict::Rejected(vec![accused, *node], rejected);
                }
                (Finding::Indeterminate { reason }, before) => {
                    first = before;
                    let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
                    (self.blame)(
                        auditor,
                        Trouble::Refused(format!("it cannot say whether the receipt is right: {reason}")),
                    );
                }
            }
        }
        match first {
            Some((accused, rejected)) => {
                (self.blame)(accused, Trouble::Divided);
                (self.blame)(rejected.auditor, Trouble::Divided);
                Verdict::Rejected(vec![accused], rejected)
            }
            None => Verdict::Nobody,
        }
    }

    async fn ask(&self, auditor: PublicKey, per_mille: u32) -> Result<Attestation, Trouble> {
        let ask = Ask::Audit { receipt: encode(self.signed).into(), per_mille };
        let attestation = match timeout(self.within, self.net.ask(auditor, ask, self.within)).await {
            Ok(Ok(Reply::Audited(attestation))) => attestation,
            Ok(Ok(Reply::Refused { reason, .. })) => {
                return Err(Trouble::Refused(reason.chars().filter(|c| !c.is_control()).take(200).collect()));
            }
            Ok(Ok(_)) => return Err(Trouble::Malformed("no answer to an audit".into())),
            Ok(Err(NetError::Timeout { .. })) | Err(_) => return Err(Trouble::Late(self.within)),
            Ok(Err(error)) => return Err(error.into()),
        };
        let receipt = &self.signed.receipt;
        let of_this = attestation.auditor == auditor && attestation.receipt == receipt.digest();
        if !of_this || !attestation.is_signed() {
            return Err(Trouble::Malformed("an attestation that is not its own, or not of this receipt".into()));
        }
        let all = receipt.steps().count() as u64;
        let least = if per_mille == 1000 { all } else { 1 };
        if attestation.finding == Finding::Accept && attestation.looked_at < least {
            let seen = attestation.looked_at;
            return Err(Trouble::Failed(format!("it looked at {seen} steps of {least} that it was asked for")));
        }
        Ok(attestation)
    }
}
