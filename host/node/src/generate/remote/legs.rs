//! Which node runs which blocks.
//!
//! # How
//!
//! 1. The scheduler component plans the whole package once; each leg of the plan gets a stream when it is first used.
//! 2. Whoever fails is left: a shadow of the leg takes its place, and without one a new plan without those who failed says who runs
//!    these blocks. Legs are cut further then, if nobody serves all of them.
//! 3. Who only failed may be asked again when nobody else is left; who sent something wrong may not.

use super::connection::Connection;
use crate::error::NodeError;
use crate::swarm::client::choosing::{Choosing, Chosen};
use crate::swarm::execute::Trouble;
use ostrakon_protocol::decoding::ToDecoder;
use ostrakon_protocol::{BlockNeeds, Digest, PlannedLeg, PublicKey};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Blocks, and who runs them.
pub(super) struct Leg {
    /// The first block.
    pub(super) from: u32,
    /// One after the last.
    pub(super) to: u32,
    node: PublicKey,
    shadows: VecDeque<PublicKey>,
    connection: Option<Connection>,
}

impl Leg {
    fn of(planned: PlannedLeg) -> Option<Self> {
        let PlannedLeg { from, to, replicas, shadows } = planned;
        let mut nodes = replicas.into_iter().chain(shadows);
        Some(Self { from, to, node: nodes.next()?, shadows: nodes.collect(), connection: None })
    }
}

/// What a stream is opened for, but for the blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    /// Rows of a call.
    pub(super) rows: u32,
    /// Of these, rows of which logits are wanted.
    pub(super) wanted: u32,
    /// Sequences that nodes keep something of.
    pub(super) sequences: u32,
    /// Rows of all of them.
    pub(super) kept: u32,
}

/// All legs, in order.
pub(super) struct Legs {
    choosing: Choosing,
    package: Digest,
    needs: Vec<BlockNeeds>,
    most: Most,
    legs: Vec<Leg>,
    /// Where nodes said that they can be reached.
    addresses: BTreeMap<PublicKey, Vec<String>>,
    /// Whoever failed since the last plan that there was, and all liars.
    excluded: BTreeSet<PublicKey>,
    /// Whoever sent something wrong.
    liars: BTreeSet<PublicKey>,
}

impl Legs {
    pub(super) fn new(choosing: Choosing, package: Digest, needs: Vec<BlockNeeds>, most: Most) -> Self {
        let (excluded, liars) = (BTreeSet::new(), BTreeSet::new());
        Self { choosing, package, needs, most, legs: Vec::new(), addresses: BTreeMap::new(), excluded, liars }
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.legs.len()
    }

    /// The blocks of a leg.
    pub(super) fn blocks(&self, at: usize) -> (u32, u32) {
        self.legs.get(at).map_or((0, 0), |leg| (leg.from, leg.to))
    }

    /// Plan, if nothing is planned yet.
    pub(super) async fn begin(&mut self) -> Result<(), NodeError> {
        if self.legs.is_empty() {
            let blocks = u32::try_from(self.needs.len()).unwrap_or(u32::MAX);
            self.legs = self.planned(0, blocks).await?;
        }
        Ok(())
    }

    /// Legs of these blocks, by a new plan.
    async fn planned(&mut self, from: u32, to: u32) -> Result<Vec<Leg>, NodeError> {
        let excluded = self.excluded.iter().copied().collect();
        let Chosen { legs, addresses } = self.choosing.choose(self.package, &self.needs, excluded).await?;
        self.addresses = addresses;
        let clipped = legs.into_iter().filter_map(|leg| {
            let (from, to) = (leg.from.max(from), leg.to.min(to));
            if from < to { Leg::of(PlannedLeg { from, to, ..leg }) } else { None }
        });
        let legs: Vec<Leg> = clipped.collect();
        let mut at = from;
        for leg in &legs {
            if leg.from != at {
                break;
            }
            at = leg.to;
        }
        if at != to {
            return Err(NodeError::NoPlan(format!("nobody was chosen for the blocks from {at} on")));
        }
        Ok(legs)
    }

    /// The stream to the node of a leg, opened if it is not.
    pub(super) async fn connection(&mut self, at: usize) -> Result<&mut Connection, Trouble> {
        let gone = || Trouble::Gone("there is no such leg any more".into());
        let leg = self.legs.get_mut(at).ok_or_else(gone)?;
        let open = match leg.connection.take() {
            Some(open) => open,
            None => {
                let Most { rows, wanted, sequences, kept } = self.most;
                let (package, from, to) = (self.package, leg.from, leg.to);
                let purpose = ToDecoder::Open { package, from, to, rows, wanted, sequences, kept };
                let addresses = self.addresses.get(&leg.node).map(Vec::as_slice).unwrap_or_default();
                Connection::open(self.choosing.net(), leg.node, addresses, purpose).await?
            }
        };
        Ok(leg.connection.insert(open))
    }

    /// These sequences are not wanted any more.
    pub(super) fn forget(&mut self, sequences: &[u32]) {
        for connection in self.legs.iter_mut().filter_map(|leg| leg.connection.as_mut()) {
            sequences.iter().for_each(|&sequence| connection.forget(sequence));
        }
    }

    /// The node of a leg failed: another one takes its place.
    ///
    /// # Errors
    /// There is no other one now. Then the same may be tried again.
    pub(super) async fn replace(&mut self, at: usize, trouble: &Trouble) -> Result<(), NodeError> {
        let Some(leg) = self.legs.get_mut(at) else { return Ok(()) };
        let over = match (leg.connection.take(), trouble) {
            // It has ended a stream that was silent for long, or has no room for more on this one.
            (Some(connection), Trouble::Gone(_)) => connection.is_idle(),
            (Some(_), Trouble::Busy(_)) => true,
            _ => false,
        };
        if over {
            // It gets what is wanted now again, on a new one.
            return Ok(());
        }
        let (failed, from, to) = (leg.node, leg.from, leg.to);
        tracing::warn!(node = %failed, blocks = %format!("{from}-{}", to.saturating_sub(1)), %trouble, "a node is replaced");
        if let Some(offence) = trouble.offence() {
            self.choosing.net().report(failed, offence);
        }
        self.excluded.insert(failed);
        if !trouble.may_pass() {
            self.liars.insert(failed);
        }
        if let Some(next) = leg.shadows.pop_front() {
            leg.node = next;
            return Ok(());
        }
        match self.planned(from, to).await {
            Ok(legs) => {
                self.legs.splice(at..=at, legs);
                Ok(())
            }
            Err(error) => {
                self.excluded.clone_from(&self.liars);
                match self.planned(from, to).await {
                    Ok(legs) => drop(self.legs.splice(at..=at, legs)),
                    // Whoever sent something wrong is not asked again, even if nobody else is there.
                    Err(_) if self.liars.contains(&failed) => self.legs.clear(),
                    Err(_) => {}
                }
                Err(error)
            }
        }
    }
}
