//! What a scheduling node has seen of others.
//!
//! # How
//!
//! For each node there is an [`Observation`], and there is what the component learnt of all together. Counts of done and
//! failed legs are halved when they have grown large, so that a node is judged by what it did lately. What was found wrong stays.
//! The number of nodes is bounded: the one that did least is forgotten first, and one that did wrong last.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use ostrakon_engine::scheduling;
use ostrakon_protocol::plan::MAX_NODES;
use ostrakon_protocol::{Digest, Document, Hardware, Load, Observation, PublicKey, SignedStatus, Snapshot};
use std::collections::BTreeMap;
use std::time::Duration;

/// Legs after which the counts are halved.
const MANY_LEGS: u64 = 256;

/// A leg that a node did, as measured by the scheduling node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Who.
    pub node: PublicKey,
    /// What it is made of, by the status in the snapshot.
    pub hardware: Hardware,
    /// How busy it was, by the same.
    pub load: Load,
    /// Multiply-adds a row, of all blocks of the leg.
    pub work: u64,
    /// Rows of the batch.
    pub rows: u64,
    /// From sending the input to having the output.
    pub took: Duration,
}

impl Sample {
    /// As the component takes it: without the round trip, which is measured apart.
    pub(super) fn measured(&self, history: &History) -> scheduling::Sample {
        let Self { node, hardware, load, work, rows, took } = self;
        let trip = history.nodes.get(node).and_then(|seen| seen.round_trip).unwrap_or_default();
        let took = took.saturating_sub(Duration::from_micros(trip));
        scheduling::Sample {
            threads: hardware.threads,
            simd: hardware.simd.clone(),
            backend: hardware.backend.clone(),
            slots: load.slots,
            used: load.used,
            work: *work,
            rows: *rows,
            nanoseconds: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// What is kept of nodes, and of all together.
#[derive(Debug, Clone, Default)]
pub struct History {
    nodes: BTreeMap<PublicKey, Observation>,
    learned: Vec<u8>,
    /// Statuses whose signatures were checked, by their nodes.
    checked: BTreeMap<PublicKey, Digest>,
}

/// A history as it is stored.
#[derive(Encode, Decode)]
struct Stored {
    #[n(0)]
    observations: Vec<Observation>,
    #[n(1)]
    learned: ByteVec,
}

impl Document for Stored {
    const KIND: &'static str = "ostrakon history";
    const VERSION: u32 = 1;
    const LIMIT: usize = 80 << 20;
}

impl History {
    /// For a file or a database.
    pub fn to_bytes(&self) -> Vec<u8> {
        let observations = self.nodes.values().cloned().collect();
        ostrakon_protocol::encode(&Stored { observations, learned: self.learned.clone().into() })
    }

    /// What [`History::to_bytes`] gave.
    ///
    /// # Errors
    /// The bytes are not a history.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ostrakon_protocol::DecodeError> {
        let Stored { observations, learned } = ostrakon_protocol::decode(bytes)?;
        let mut history = Self { learned: learned.into(), ..Self::default() };
        history.learned.truncate(scheduling::MAX_LEARNED_SHARED);
        for mut observation in observations {
            observation.learned.truncate(scheduling::MAX_LEARNED_NODE);
            let node = observation.node;
            *history.entry(node) = observation;
        }
        Ok(history)
    }

    /// The observation of a node, to be changed; a new one where there is none.
    fn entry(&mut self, node: PublicKey) -> &mut Observation {
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(&node) {
            let least = self.nodes.values().min_by_key(|seen| (seen.wrong, seen.done.saturating_add(seen.failed)));
            if let Some(least) = least.map(|seen| seen.node) {
                self.nodes.remove(&least);
            }
        }
        let new = || Observation { node, round_trip: None, done: 0, failed: 0, wrong: 0, learned: Vec::new().into() };
        self.nodes.entry(node).or_insert_with(new)
    }

    /// What is known of a node.
    pub fn observation(&self, node: &PublicKey) -> Option<&Observation> {
        self.nodes.get(node)
    }

    /// The time to a node and back was measured. It moves by a quarter of the way; the first is taken as it is.
    pub fn round_trip(&mut self, node: PublicKey, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(1 << 40);
        let trip = &mut self.entry(node).round_trip;
        *trip = Some(trip.map_or(micros, |before| (3 * before.min(1 << 40) + micros) / 4));
    }

    /// A node did not do what it had promised.
    pub fn failed(&mut self, node: PublicKey) {
        let seen = self.entry(node);
        seen.failed = seen.failed.saturating_add(1);
        halve(seen);
    }

    /// A node was found wrong. It is not chosen again until [`History::forgive`].
    pub fn wrong(&mut self, node: PublicKey) {
        let seen = self.entry(node);
        seen.wrong = seen.wrong.saturating_add(1);
    }

    /// A person decides that a node may be chosen again.
    pub fn forgive(&mut self, node: &PublicKey) {
        if let Some(seen) = self.nodes.get_mut(node) {
            (seen.wrong, seen.failed) = (0, 0);
        }
    }

    pub(super) fn done(&mut self, node: PublicKey, learned: Vec<u8>, shared: Vec<u8>) {
        self.learned = shared;
        let seen = self.entry(node);
        seen.done = seen.done.saturating_add(1);
        seen.learned = learned.into();
        halve(seen);
    }

    pub(super) fn shared(&self) -> &[u8] {
        &self.learned
    }

    pub(super) fn learned(&self, node: &PublicKey) -> &[u8] {
        self.nodes.get(node).map_or(&[], |seen| seen.learned.as_slice())
    }

    /// The fleet as it is now: of each node the newest status that is its own and within bounds. Of more nodes than a snapshot
    /// may have, those that did most for this node stay: nobody is crowded out by names without deeds.
    pub fn snapshot(&mut self, taken_by: PublicKey, taken: u64, statuses: Vec<SignedStatus>) -> Snapshot {
        let mut newest: BTreeMap<PublicKey, SignedStatus> = BTreeMap::new();
        for signed in statuses {
            let known = newest.get(&signed.status.node);
            if known.is_none_or(|known| known.status.sequence < signed.status.sequence) && self.is_genuine(&signed) {
                newest.insert(signed.status.node, signed);
            }
        }
        let mut statuses: Vec<SignedStatus> = newest.into_values().collect();
        if statuses.len() > MAX_NODES {
            let done = |signed: &SignedStatus| self.nodes.get(&signed.status.node).map_or(0, |seen| seen.done);
            statuses.sort_by_key(|signed| std::cmp::Reverse(done(signed)));
            statuses.truncate(MAX_NODES);
            statuses.sort_by_key(|signed| signed.status.node);
        }
        self.checked.retain(|node, _| statuses.binary_search_by_key(node, |signed| signed.status.node).is_ok());
        let observations = statuses.iter().filter_map(|signed| self.nodes.get(&signed.status.node).cloned()).collect();
        Snapshot { taken_by, taken, statuses, observations, learned: self.learned.clone().into() }
    }

    /// Whether a status is its node's own. Each is checked once.
    fn is_genuine(&mut self, signed: &SignedStatus) -> bool {
        let digest = Digest::of_content(&ostrakon_protocol::encode(signed));
        let node = signed.status.node;
        let genuine = self.checked.get(&node) == Some(&digest) || signed.check().is_ok();
        if genuine {
            self.checked.insert(node, digest);
        }
        genuine
    }
}

fn halve(seen: &mut Observation) {
    if seen.done.saturating_add(seen.failed) >= MANY_LEGS {
        (seen.done, seen.failed) = (seen.done / 2, seen.failed / 2);
    }
}
