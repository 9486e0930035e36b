//! The nodes that this one knows of: their newest status, how far they are, how they behaved.

use ostrakon_protocol::{PublicKey, SignedStatus};
use std::time::Duration;

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// Bytes that are no message of ours, or too many of them, or too slowly.
    Malformed,
    /// More than it may ask for.
    TooMuch,
    /// A status that is absurd, forged, or that contradicts another.
    Status,
    /// Promised and did not do.
    Broken,
    /// Signed something that is wrong.
    Wrong,
}

/// The nodes that this one knows of. Shared; every method locks for a moment only.
#[derive(Debug, Default)]
pub struct Fleet {}

impl Fleet {
    /// All statuses that are not too old, in order of their nodes' keys. This node's own is among them.
    pub fn statuses(&self) -> Vec<SignedStatus> {
        Vec::new()
    }

    /// The status of a node.
    pub fn status(&self, _node: &PublicKey) -> Option<SignedStatus> {
        None
    }

    /// The newest measured round trip.
    pub fn round_trip(&self, _node: &PublicKey) -> Option<Duration> {
        None
    }

    /// Reputation in thousandths: 1000 for nobody who did anything wrong; below 100 nothing is taken from it.
    pub fn reputation(&self, _node: &PublicKey) -> u32 {
        1000
    }
}
