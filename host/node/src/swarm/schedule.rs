//! The schedule phase: who runs a job.
//!
//! # Why
//!
//! A scheduling node must not be able to give jobs to its friends. It has a snapshot of signed statuses, randomness that it
//! cannot choose, and a component that makes a plan of these and of nothing else; all of it is named in the plan's record, so
//! that [`super::plan_audit`] can make the plan again.
//!
//! # How
//!
//! 1. [`History`] keeps what this node has seen of others, and makes a snapshot of it and of the newest statuses.
//! 2. [`Scheduler::plan`] draws randomness over job and snapshot, calls the component on the [`numbered`] fleet and signs what
//!    comes out.
//! 3. Legs that were done are given to [`Scheduler::learn`]: the next snapshot has what follows.
//!
//! Every call gets a fresh instance of the component: nothing is carried from one plan into the next but through snapshots.

pub mod history;
mod numbered;

pub use history::{History, Sample};

use crate::error::NodeError;
use crate::load::runtime;
use crate::options::RunOptions;
use crate::plugins::SCHEDULER;
use numbered::Numbered;
use ostrakon_engine::scheduling;
use ostrakon_engine::{CallError, Limits, Plugin, World};
use ostrakon_package::Home;
use ostrakon_protocol::plan::{MAX_BLOCKS, MAX_EXCLUDED, MAX_NODES};
use ostrakon_protocol::vrf::{Output, Proof};
use ostrakon_protocol::{
    BlockNeeds, Digest, Hardware, Plan, PlanRecord, PlanRequest, PublicKey, SignedPlan, SigningKey, Snapshot, Verify,
};
use std::time::Duration;

/// What one call of the component may use. A fleet of 10,000 nodes needs a tenth of it.
const LIMITS: fn(Limits) -> Limits = |limits| {
    let own =
        Limits { fuel: 1 << 34, wall_time: Duration::from_secs(30), memory_bytes: 256 << 20, ..Limits::default() };
    own.within(limits)
};

/// The scheduler component, admitted.
#[derive(Debug, Clone)]
pub struct Scheduler {
    plugin: Plugin,
    limits: Limits,
    digest: Digest,
}

/// A node that asks what it should serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    /// Who, if it is in the snapshot already.
    pub node: Option<PublicKey>,
    /// What it is made of.
    pub hardware: Hardware,
    /// Bytes that it would give for weights.
    pub memory: u64,
}

/// What a node should serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The first block.
    pub from: u32,
    /// One after the last.
    pub to: u32,
    /// Rows a second through the worst block, in thousandths, before.
    pub before: u64,
    /// And after.
    pub after: u64,
}

impl Scheduler {
    /// Admit the component.
    ///
    /// # Errors
    /// It is refused, or the engine does not start.
    pub fn load(component: &[u8], home: &Home, options: &RunOptions) -> Result<Self, NodeError> {
        let plugin = runtime(home, options)?
            .admit(component, World::Scheduler)
            .map_err(|source| NodeError::Admission { name: SCHEDULER.into(), source })?;
        let digest = Digest::from_bytes(*plugin.digest().as_bytes());
        Ok(Self { plugin, limits: LIMITS(options.limits), digest })
    }

    /// The component's digest.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Plan a job, and sign the plan as `key`.
    ///
    /// # Errors
    /// [`NodeError::NoPlan`] says what is wrong with the request or lacking in the fleet; the component fails.
    pub fn plan(&self, key: &SigningKey, request: PlanRequest, snapshot: &Snapshot) -> Result<SignedPlan, NodeError> {
        let digest = snapshot.digest();
        let input = PlanRecord::randomness_input(&request.job, request.attempt, &digest);
        let (proof, randomness) = Proof::prove(key, &input).map_err(|error| NodeError::NoPlan(error.to_string()))?;
        let plan = self.decide(&request, snapshot, &randomness)?;
        let record =
            PlanRecord { scheduler: key.public(), component: self.digest, request, snapshot: digest, proof, plan };
        Ok(SignedPlan::sign(key, record))
    }

    /// The plan that follows.
    pub(crate) fn decide(
        &self,
        request: &PlanRequest,
        snapshot: &Snapshot,
        randomness: &Output,
    ) -> Result<Plan, NodeError> {
        check(request)?;
        let fleet = Numbered::new(request, snapshot)?;
        let asked = asked(request, &fleet);
        let mut component = self.plugin.scheduler(self.limits).map_err(failed)?;
        let said = component.plan(&asked, &fleet.snapshot, randomness.as_bytes()).map_err(failed)?.said;
        let planned = said.map_err(|reason| NodeError::NoPlan(reason.to_string()))?;
        planned.check(&asked, &fleet.snapshot).map_err(|wrong| {
            NodeError::NoPlan(format!("the scheduler component gave none that can be used: {wrong}"))
        })?;
        Ok(fleet.plan(&planned))
    }

    /// Take a finished leg into account.
    ///
    /// # Errors
    /// The component fails. The history is as it was.
    pub fn learn(&self, history: &mut History, sample: &Sample) -> Result<(), NodeError> {
        let mut component = self.plugin.scheduler(self.limits).map_err(failed)?;
        let known = history.learned(&sample.node);
        let said = component.learn(history.shared(), known, &sample.measured(history)).map_err(failed)?.said;
        history.done(sample.node, said.node, said.shared);
        Ok(())
    }

    /// What a node should serve of a package. `key` is that of the node that advises: its randomness decides among equals.
    ///
    /// # Errors
    /// [`NodeError::NoPlan`]: nothing fits, or what must be kept does not; the component fails.
    pub fn place(
        &self,
        key: &SigningKey,
        package: Digest,
        blocks: &[BlockNeeds],
        snapshot: &Snapshot,
        newcomer: &Newcomer,
    ) -> Result<Placement, NodeError> {
        /// Rows of the batch for which speed is predicted.
        const ROWS: u64 = 128;
        let request = PlanRequest {
            job: package,
            attempt: 0,
            package,
            blocks: blocks.to_vec(),
            rows: ROWS,
            batches: 1,
            verify: Verify::None,
            excluded: Vec::new(),
        };
        check(&request)?;
        let mut fleet = Numbered::new(&request, snapshot)?;
        let input = PlanRecord::randomness_input(&package, 0, &snapshot.digest());
        let (_, randomness) = Proof::prove(key, &input).map_err(|error| NodeError::NoPlan(error.to_string()))?;
        let Newcomer { node, hardware, memory } = newcomer;
        let asks = scheduling::Newcomer {
            node: node.as_ref().and_then(|node| fleet.number(node)),
            threads: hardware.threads,
            simd: fleet.name(&hardware.simd),
            backend: fleet.name(&hardware.backend),
            memory: *memory,
        };
        let mut component = self.plugin.scheduler(self.limits).map_err(failed)?;
        let asked = asked(&request, &fleet);
        let said = component.place(&asked, &fleet.snapshot, &asks, randomness.as_bytes()).map_err(failed)?.said;
        let scheduling::Placement { from, to, before, after } =
            said.map_err(|reason| NodeError::NoPlan(reason.to_string()))?;
        if from < to && to as usize <= blocks.len() {
            Ok(Placement { from, to, before, after })
        } else {
            Err(NodeError::NoPlan(format!("the scheduler component advises blocks {from} to {to}, which do not exist")))
        }
    }
}

fn failed(source: CallError) -> NodeError {
    NodeError::Block { block: SCHEDULER.into(), source }
}

/// Bounds of a request, before anything is made of it.
fn check(request: &PlanRequest) -> Result<(), NodeError> {
    request.verify.check().map_err(NodeError::NoPlan)?;
    if request.blocks.is_empty() || request.blocks.len() > MAX_BLOCKS as usize {
        let blocks = request.blocks.len();
        return Err(NodeError::NoPlan(format!("{blocks} blocks: a package has 1 to {MAX_BLOCKS}")));
    }
    if request.excluded.len() > MAX_EXCLUDED {
        let excluded = request.excluded.len();
        return Err(NodeError::NoPlan(format!("{excluded} excluded nodes: at most {MAX_EXCLUDED}")));
    }
    Ok(())
}

fn asked(request: &PlanRequest, fleet: &Numbered) -> scheduling::Request {
    let needs = |block: &BlockNeeds| scheduling::Needs {
        weight_bytes: block.weight_bytes,
        work: block.work,
        row_bytes: block.row_bytes,
    };
    scheduling::Request {
        blocks: request.blocks.iter().map(needs).collect(),
        rows: request.rows,
        batches: request.batches,
        replicas: request.verify.replicas(),
        audited: matches!(request.verify, Verify::Audit { .. } | Verify::Full),
        excluded: request.excluded.iter().filter_map(|node| fleet.number(node)).collect(),
    }
}

/// A snapshot that nobody should have taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    /// Too many nodes.
    #[error("the snapshot has {0} nodes, at most {MAX_NODES} are allowed")]
    TooMany(usize),
    /// Statuses or observations are not in the order of their nodes' keys, or a node is there twice.
    #[error("the {0} of the snapshot are not in order of their nodes' keys, each once")]
    Order(&'static str),
    /// A status is not the node's, or out of bounds.
    #[error("in the snapshot, of {node}: {source}")]
    Status {
        /// Whose.
        node: PublicKey,
        /// Why.
        source: ostrakon_protocol::status::BadStatus,
    },
    /// Opaque bytes are too long.
    #[error("what was learnt takes {bytes} bytes in the snapshot, at most {limit} are allowed")]
    Learned {
        /// How long they are.
        bytes: usize,
        /// How long they may be.
        limit: usize,
    },
}

/// Whether a snapshot is in the one form that it may have. Signatures are for [`check_signatures`].
pub(crate) fn check_form(snapshot: &Snapshot) -> Result<(), BadSnapshot> {
    let Snapshot { statuses, observations, learned, .. } = snapshot;
    if statuses.len().max(observations.len()) > MAX_NODES {
        return Err(BadSnapshot::TooMany(statuses.len().max(observations.len())));
    }
    if !statuses.is_sorted_by(|a, b| a.status.node < b.status.node) {
        return Err(BadSnapshot::Order("statuses"));
    }
    if !observations.is_sorted_by(|a, b| a.node < b.node) {
        return Err(BadSnapshot::Order("observations"));
    }
    let of_nodes = observations.iter().map(|observation| (observation.learned.len(), scheduling::MAX_LEARNED_NODE));
    for (bytes, limit) in of_nodes.chain([(learned.len(), scheduling::MAX_LEARNED_SHARED)]) {
        if bytes > limit {
            return Err(BadSnapshot::Learned { bytes, limit });
        }
    }
    Ok(())
}

/// Whether every status is its node's own and within bounds.
pub(crate) fn check_signatures(snapshot: &Snapshot) -> Result<(), BadSnapshot> {
    for signed in &snapshot.statuses {
        signed.check().map_err(|source| BadSnapshot::Status { node: signed.status.node, source })?;
    }
    Ok(())
}

impl From<BadSnapshot> for NodeError {
    fn from(bad: BadSnapshot) -> Self {
        Self::NoPlan(bad.to_string())
    }
}
