//! The verify phase: verification nodes look at the receipt.
//!
//! # How
//!
//! 1. The auditors of the plan are asked in order. One that cannot be reached, is too slow, cannot say or sends something
//!    else than an audit of this receipt is passed over.
//! 2. The first that accepts ends it.
//! 3. One that rejects accuses a node, and may lie: others are asked, and to look at everything. Then two of one mind
//!    decide ([`opinions`]); where there are not two, the accused and those who spoke are left out and the job runs again.

mod opinions;

use super::execute::Trouble;
use opinions::{Opinions, plain};
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
        let mut opinions = Opinions::of(nodes);
        let mut verdict = None;
        for &auditor in auditors {
            let per_mille = if opinions.are_doubtful() { 1000 } else { self.per_mille };
            match self.ask(auditor, per_mille).await {
                Ok(attestation) => verdict = opinions.hear(attestation),
                Err(trouble) => (self.blame)(auditor, trouble),
            }
            if verdict.is_some() {
                break;
            }
        }
        let verdict = verdict.unwrap_or_else(|| opinions.end());
        for (node, trouble) in opinions.blamed {
            (self.blame)(node, trouble);
        }
        verdict
    }

    async fn ask(&self, auditor: PublicKey, per_mille: u32) -> Result<Attestation, Trouble> {
        let ask = Ask::Audit { receipt: encode(self.signed).into(), per_mille };
        let attestation = match timeout(self.within, self.net.ask(auditor, ask, self.within)).await {
            Ok(Ok(Reply::Audited(attestation))) => attestation,
            Ok(Ok(Reply::Refused { reason, .. })) => {
                return Err(Trouble::Refused(plain(&reason)));
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
