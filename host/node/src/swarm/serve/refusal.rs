//! What a node does not do, and why.

use super::packages::NoLeg;
use crate::error::NodeError;
use ostrakon_engine::CallError;
use ostrakon_protocol::wire::{Refusal, Reply};

/// Most bytes of a reason.
const MAX_REASON: usize = 1024;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) why: Refusal,
    pub(super) reason: String,
}

impl Refused {
    pub(super) fn new(why: Refusal, reason: impl Into<String>) -> Self {
        Self { why, reason: bounded(reason.into()) }
    }

    pub(super) fn bad(reason: impl Into<String>) -> Self {
        Self::new(Refusal::Bad, reason)
    }

    pub(super) fn fault(error: &NodeError) -> Self {
        Self::new(Refusal::Fault, error.in_full())
    }
}

impl From<Refused> for Reply {
    fn from(Refused { why, reason }: Refused) -> Self {
        Self::Refused { why, reason }
    }
}

impl From<NoLeg> for Refused {
    /// What the component says or does with these bytes it does everywhere: nobody need be asked again. What this
    /// machine could not do another one may.
    fn from(no: NoLeg) -> Self {
        let why = match &no {
            NoLeg::Input { .. } => Refusal::Bad,
            NoLeg::Aborted => Refusal::Busy,
            NoLeg::Block(NodeError::Block { source: CallError::Guest(_) | CallError::Trap(_), .. }) => Refusal::Bad,
            NoLeg::Block(_) | NoLeg::Cut(_) | NoLeg::Panicked => Refusal::Fault,
        };
        let reason = match &no {
            NoLeg::Block(error) => error.in_full(),
            other => other.to_string(),
        };
        Self::new(why, reason)
    }
}

/// Reasons are sent and shown.
pub(super) fn bounded(mut text: String) -> String {
    if text.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostrakon_engine::{Failure, HostFault, Trap};

    #[test]
    fn guests_traps_and_faults_are_told_apart() {
        let of = |source: CallError| Refused::from(NoLeg::Block(NodeError::Block { block: "blocks.0".into(), source }));
        let guest = of(Failure::BadInput("no".into()).into());
        let trap = of(Trap::OutOfFuel { budget: 1 }.into());
        let fault = of(HostFault::Operation("gone".into()).into());
        assert_eq!([guest.why, trap.why, fault.why], [Refusal::Bad, Refusal::Bad, Refusal::Fault]);
        assert!(guest.reason.contains("refuses its input") && trap.reason.contains("fuel"), "{guest:?} {trap:?}");
        assert!(fault.reason.contains("blocks.0") && fault.reason.contains("gone"), "{fault:?}");
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        let cut = bounded("ä".repeat(MAX_REASON));
        assert!(cut.len() <= MAX_REASON + 4 && cut.ends_with("ä ..."));
    }
}
