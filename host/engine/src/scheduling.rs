//! Typed calls of `ostrakon:plugin/scheduling`: which nodes run which blocks.
//!
//! # Why
//!
//! Whoever has the arguments of a decision must be able to make it again, so it is a component that decides. What each
//! field means and which rules are applied is written in `wit/plugin.wit`, interface `scheduling`; the types here are its
//! records, field by field.
//!
//! # How
//!
//! 1. [`crate::Runtime::admit`] a component to [`crate::World::Scheduler`], then [`crate::Plugin::scheduler`].
//! 2. Nodes, operators and names are numbers: a fleet of 10,000 crosses the border in milliseconds.
//! 3. [`Scheduler::plan`], [`Scheduler::learn`] and [`Scheduler::place`] give what the component says and the fuel that it took.
//!
//! A scheduler is foreign code too: what it says is bounded here. Whether a plan makes sense is for the caller to
//! check: nodes and blocks are those that there are, and each leg has enough replicas ([`Planned::check`]).

use crate::error::{CallError, bounded};
use crate::guest::{self, Guest};
use crate::limits::Limiter;
use std::fmt;
use wasmtime::component::{ComponentExportIndex, ComponentType, Func, Instance, Lift, Lower};

/// Most legs and most gaps taken over from a component, and most nodes of a list in a leg.
const MAX_LEGS: usize = 4096;
const MAX_LISTED: usize = 64;
/// Most bytes that are kept of what was learnt of a node.
pub const MAX_LEARNED_NODE: usize = 4 << 10;
/// Most bytes that are kept of what was learnt of all nodes.
pub const MAX_LEARNED_SHARED: usize = 64 << 10;

/// What a block needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Needs {
    /// Bytes of its weights.
    #[component(name = "weight-bytes")]
    pub weight_bytes: u64,
    /// Multiply-adds a row.
    pub work: u64,
    /// Bytes of a row that leaves it.
    #[component(name = "row-bytes")]
    pub row_bytes: u64,
}

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Request {
    /// In order.
    pub blocks: Vec<Needs>,
    /// Rows of all batches.
    pub rows: u64,
    /// Batches that go through one after another.
    pub batches: u32,
    /// Nodes that run each leg.
    pub replicas: u32,
    /// Whether auditors are needed.
    pub audited: bool,
    /// Nodes that must not be used.
    pub excluded: Vec<u32>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Node {
    /// Nodes with the same number have the same operator.
    pub operator: u32,
    /// It runs blocks.
    pub executes: bool,
    /// It audits receipts.
    pub verifies: bool,
    /// It takes nothing new.
    pub draining: bool,
    /// Threads that compute.
    pub threads: u32,
    /// The name of its SIMD level.
    pub simd: u32,
    /// The name of its backend.
    pub backend: u32,
    /// Bytes that it would still give.
    #[component(name = "free-memory")]
    pub free_memory: u64,
    /// Sessions that may be open at once.
    pub slots: u32,
    /// Sessions that are.
    pub used: u32,
    /// Microseconds; `None`: never measured.
    #[component(name = "round-trip")]
    pub round_trip: Option<u64>,
    /// Legs that it did.
    pub done: u64,
    /// Legs that it failed.
    pub failed: u64,
    /// Legs that it did wrong.
    pub wrong: u64,
    /// What was learnt of it last.
    pub learned: Vec<u8>,
}

/// Blocks that a node has ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Served {
    /// Which node.
    pub node: u32,
    /// The first block.
    pub from: u32,
    /// One after the last.
    pub to: u32,
    /// By the node's own word; 0: not said.
    #[component(name = "rows-per-second")]
    pub rows_per_second: u64,
}

/// The fleet.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Snapshot {
    /// All nodes.
    pub nodes: Vec<Node>,
    /// Of the package that is asked for.
    pub served: Vec<Served>,
    /// Of SIMD levels and backends.
    pub names: Vec<String>,
    /// What was learnt of all last.
    pub learned: Vec<u8>,
}

/// Blocks that go to the same nodes.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Leg {
    /// The first block.
    pub from: u32,
    /// One after the last.
    pub to: u32,
    /// Who runs them.
    pub replicas: Vec<u32>,
    /// Who takes the place of one that fails.
    pub shadows: Vec<u32>,
}

/// Who runs what.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Planned {
    /// In order.
    pub legs: Vec<Leg>,
    /// In the order in which they are asked.
    pub auditors: Vec<u32>,
    /// Microseconds for all batches.
    pub predicted: u64,
}

impl Planned {
    /// Whether it is a plan for this request and this fleet at all, however good.
    ///
    /// # Errors
    /// What is not, in words.
    pub fn check(&self, request: &Request, snapshot: &Snapshot) -> Result<(), String> {
        let known =
            |nodes: &[u32]| nodes.len() <= MAX_LISTED && nodes.iter().all(|n| (*n as usize) < snapshot.nodes.len());
        if self.legs.len() > MAX_LEGS || !known(&self.auditors) {
            return Err("it has more legs than blocks, or auditors that are not in the snapshot".into());
        }
        let mut next = 0;
        for Leg { from, to, replicas, shadows } in &self.legs {
            if *from != next || to <= from {
                return Err(format!("a leg has blocks {from} to {to}, where block {next} is next"));
            }
            if replicas.len() != request.replicas as usize || !known(replicas) || !known(shadows) {
                return Err(format!("the leg of blocks {from} to {to} does not have {} known nodes", request.replicas));
            }
            next = *to;
        }
        if next as usize == request.blocks.len() {
            Ok(())
        } else {
            Err(format!("it ends before block {next} of {}", request.blocks.len()))
        }
    }
}

/// Blocks from one up to before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Span {
    /// The first block.
    pub from: u32,
    /// One after the last.
    pub to: u32,
}

/// Blocks that too few operators serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Shortage {
    /// The first block.
    pub from: u32,
    /// One after the last.
    pub to: u32,
    /// Operators that do.
    pub found: u32,
    /// Operators that would have to.
    pub needed: u32,
}

/// Why there is no plan: the component's own word.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum NoPlan {
    /// The arguments are out of bounds.
    #[component(name = "bad-input")]
    BadInput(String),
    /// Blocks that no node can run now.
    #[component(name = "unserved")]
    Unserved(Vec<Span>),
    /// Too few operators for the replicas.
    #[component(name = "few-operators")]
    FewOperators(Shortage),
    /// So many legs would be needed.
    #[component(name = "fragmented")]
    Fragmented(u32),
    /// No verification node of another operator.
    #[component(name = "no-auditor")]
    NoAuditor,
}

impl NoPlan {
    fn bounded(self) -> Self {
        match self {
            Self::BadInput(text) => Self::BadInput(bounded(&text)),
            Self::Unserved(spans) => Self::Unserved(spans.into_iter().take(MAX_LISTED).collect()),
            other => other,
        }
    }
}

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks = |Span { from, to }: &Span| match to.saturating_sub(*from) {
            1 => from.to_string(),
            _ => format!("{from} to {}", to.saturating_sub(1)),
        };
        match self {
            Self::BadInput(text) => f.write_str(text),
            Self::Unserved(spans) => {
                let spans: Vec<_> = spans.iter().map(blocks).collect();
                write!(
                    f,
                    "no node that is free and may be used serves blocks {}: start nodes that do, or wait",
                    spans.join(", ")
                )
            }
            Self::FewOperators(Shortage { from, to, found, needed }) => write!(
                f,
                "blocks {} are served by nodes of {found} operators that are free and may be used, and {needed} different ones are needed",
                blocks(&Span { from: *from, to: *to })
            ),
            Self::Fragmented(legs) => {
                write!(f, "it would take {legs} legs: the nodes serve too few blocks each")
            }
            Self::NoAuditor => {
                f.write_str("no verification node is of another operator than the nodes that would run the blocks")
            }
        }
    }
}

/// One leg, measured.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Sample {
    /// Threads of the node.
    pub threads: u32,
    /// Its SIMD level.
    pub simd: String,
    /// Its backend.
    pub backend: String,
    /// Sessions that it could have when it was planned.
    pub slots: u32,
    /// Sessions that it had.
    pub used: u32,
    /// Multiply-adds a row, of all blocks of the leg.
    pub work: u64,
    /// Rows of the batch.
    pub rows: u64,
    /// From input to output, without the round trip.
    pub nanoseconds: u64,
}

/// What is known after a sample.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Learned {
    /// Of all nodes.
    pub shared: Vec<u8>,
    /// Of the sample's node.
    pub node: Vec<u8>,
}

/// A node that asks what it should serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Newcomer {
    /// Its place in the snapshot, if it is in it.
    pub node: Option<u32>,
    /// Threads that compute.
    pub threads: u32,
    /// The name of its SIMD level.
    pub simd: u32,
    /// The name of its backend.
    pub backend: u32,
    /// Bytes that it would give for weights.
    pub memory: u64,
}

/// What a node should serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Placement {
    /// The first block.
    pub from: u32,
    /// One after the last.
    pub to: u32,
    /// Rows a second through the worst block, in thousandths, without the change.
    pub before: u64,
    /// And with it.
    pub after: u64,
}

/// What a scheduler said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said<T> {
    /// Its word.
    pub said: T,
    /// What the call cost. The same on every machine.
    pub fuel: u64,
}

/// Where its functions are.
#[derive(Clone, Copy)]
pub(crate) struct Exports {
    pub(crate) plan: ComponentExportIndex,
    pub(crate) learn: ComponentExportIndex,
    pub(crate) place: ComponentExportIndex,
}

/// A scheduler's component at work.
pub struct Scheduler {
    guest: Guest<Limiter>,
    plan: Func,
    learn: Func,
    place: Func,
}

impl Scheduler {
    pub(crate) fn new(mut guest: Guest<Limiter>, instance: &Instance, exports: Exports) -> Result<Self, CallError> {
        let mut find = |name: &str, index| {
            instance
                .get_func(&mut guest.store, index)
                .ok_or_else(|| guest::engine(&wasmtime::Error::msg(format!("the function `{name}` is gone"))))
        };
        let Exports { plan, learn, place } = exports;
        let (plan, learn, place) = (find("plan", plan)?, find("learn", learn)?, find("place", place)?);
        Ok(Self { guest, plan, learn, place })
    }

    /// Who runs what.
    ///
    /// # Errors
    /// The component traps or is stopped; the arguments do not fit into its memory. Why there is no plan is no error of the call.
    pub fn plan(
        &mut self,
        request: &Request,
        snapshot: &Snapshot,
        randomness: &[u8; 64],
    ) -> Result<Said<Result<Planned, NoPlan>>, CallError> {
        self.guest.ready()?;
        let plan = self.plan;
        let (said, fuel) = self.guest.call(|mut store| {
            let plan = plan.typed::<(&Request, &Snapshot, &[u8]), (Result<Planned, NoPlan>,)>(&store)?;
            Ok(plan.call(&mut store, (request, snapshot, randomness))?.0)
        })?;
        Ok(Said { said: said.map_err(NoPlan::bounded), fuel })
    }

    /// Learn from a leg. What comes back and is longer than may be kept is dropped: then nothing is known.
    ///
    /// # Errors
    /// As [`Scheduler::plan`].
    pub fn learn(&mut self, shared: &[u8], node: &[u8], sample: &Sample) -> Result<Said<Learned>, CallError> {
        self.guest.ready()?;
        let learn = self.learn;
        let (mut said, fuel) = self.guest.call(|mut store| {
            let learn = learn.typed::<(&[u8], &[u8], &Sample), (Learned,)>(&store)?;
            Ok(learn.call(&mut store, (shared, node, sample))?.0)
        })?;
        if said.shared.len() > MAX_LEARNED_SHARED {
            said.shared.clear();
        }
        if said.node.len() > MAX_LEARNED_NODE {
            said.node.clear();
        }
        Ok(Said { said, fuel })
    }

    /// What a joining node should serve.
    ///
    /// # Errors
    /// As [`Scheduler::plan`].
    pub fn place(
        &mut self,
        request: &Request,
        snapshot: &Snapshot,
        newcomer: &Newcomer,
        randomness: &[u8; 64],
    ) -> Result<Said<Result<Placement, NoPlan>>, CallError> {
        self.guest.ready()?;
        let place = self.place;
        let (said, fuel) = self.guest.call(|mut store| {
            let place = place.typed::<(&Request, &Snapshot, &Newcomer, &[u8]), (Result<Placement, NoPlan>,)>(&store)?;
            Ok(place.call(&mut store, (request, snapshot, newcomer, randomness))?.0)
        })?;
        Ok(Said { said: said.map_err(NoPlan::bounded), fuel })
    }

    /// Whether a trap or a fault has ended it.
    pub fn is_spent(&self) -> bool {
        self.guest.is_spent()
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_spent() { "Scheduler(spent)" } else { "Scheduler" })
    }
}
