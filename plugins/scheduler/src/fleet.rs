//! Who can run what, and what it costs: what the host says of the fleet, checked and priced.
//!
//! # How
//!
//! 1. [`Task`] adds up the work of blocks for one batch; everything is brought below bounds at which nothing overflows.
//! 2. [`Fleet::new`] checks every index and every count.
//! 3. Each range of blocks that an able node serves becomes a [`Candidate`] with a rate and a fixed cost. What was
//!    measured is taken as it is; what is only said is taken for no better than what was measured of others.

use crate::bindings::exports::ostrakon::plugin::scheduling::{Failure, Node, Request, Served, Snapshot, Span};
use crate::fixed::{ONE, exp2, log2};
use crate::model::{self, Known, Shared, Vector};
use std::collections::BTreeMap;

/// Most blocks, nodes, ranges of a node, replicas, excluded nodes; most bytes of a name.
const MAX_BLOCKS: usize = 4096;
const MAX_NODES: usize = 16_384;
const MAX_RANGES: usize = 8;
const MAX_REPLICAS: u32 = 16;
const MAX_EXCLUDED: usize = 16_384;
const MAX_NAME: usize = 64;
/// No single quantity counts for more.
const MOST: u64 = 1 << 40;
/// No work of a batch counts for more.
const MOST_WORK: u128 = 1 << 62;
/// No cost is more: 2^50 nanoseconds are 13 days.
pub(crate) const MOST_COST: u64 = 1 << 50;
/// Nanoseconds of a round trip that nobody measured, where none was measured at all: 20 ms.
const UNKNOWN_ROUND_TRIP: u64 = 20_000_000;
/// Nanoseconds a byte between two nodes: a gigabit a second.
const BYTE: u64 = 8;
/// A vote takes two round trips more than an answer: commit and reveal.
const VOTE_ROUND_TRIPS: u64 = 3;

pub(crate) fn bad(what: impl Into<String>) -> Failure {
    Failure::BadInput(what.into())
}

/// One batch of the request.
pub(crate) struct Task {
    /// Blocks.
    pub(crate) blocks: u32,
    /// Multiply-adds before each border.
    before: Vec<u128>,
    /// Nanoseconds that a batch takes to cross each border.
    crossing: Vec<u64>,
    /// Bytes of a batch in and out of the widest block.
    memory: u64,
    /// Rows of a batch.
    pub(crate) rows: u64,
    pub(crate) batches: u64,
    pub(crate) replicas: usize,
}

impl Task {
    pub(crate) fn new(request: &Request) -> Result<Self, Failure> {
        let Request { blocks, rows, batches, replicas, audited: _, excluded } = request;
        if blocks.is_empty() || blocks.len() > MAX_BLOCKS {
            return Err(bad(format!("{} blocks: 1 to {MAX_BLOCKS} can be planned for", blocks.len())));
        }
        if *replicas == 0 || *replicas > MAX_REPLICAS {
            return Err(bad(format!("{replicas} replicas: 1 to {MAX_REPLICAS} can be planned for")));
        }
        if excluded.len() > MAX_EXCLUDED {
            return Err(bad(format!("{} excluded nodes: at most {MAX_EXCLUDED}", excluded.len())));
        }
        let batches = u64::from(*batches).max(1);
        let rows = rows.div_ceil(batches).clamp(1, MOST);
        let mut total = 0_u128;
        let works = blocks.iter().map(|block| {
            total = (total + u128::from(block.work.clamp(1, MOST)) * u128::from(rows)).min(MOST_WORK);
            total
        });
        let before = std::iter::once(0).chain(works).collect();
        let cross = |bytes: u64| bytes.min(MOST).saturating_mul(rows).saturating_mul(BYTE).min(MOST_COST);
        // What goes in first are token ids.
        let crossing = std::iter::once(4).chain(blocks.iter().map(|block| block.row_bytes)).map(cross).collect();
        let widest = blocks.iter().map(|block| block.row_bytes).max().unwrap_or_default();
        Ok(Self {
            blocks: u32::try_from(blocks.len()).unwrap_or_default(),
            before,
            crossing,
            memory: widest.saturating_mul(rows).saturating_mul(2),
            rows,
            batches,
            replicas: usize::try_from(*replicas).unwrap_or(1),
        })
    }

    /// Multiply-adds of a batch through these blocks.
    pub(crate) fn work(&self, from: u32, to: u32) -> u128 {
        let before = |border: u32| self.before.get(border as usize).copied().unwrap_or_default();
        before(to).saturating_sub(before(from)).max(1)
    }

    /// Nanoseconds that a batch takes into and out of these blocks.
    pub(crate) fn transport(&self, from: u32, to: u32) -> u64 {
        let at = |border: u32| self.crossing.get(border as usize).copied().unwrap_or_default();
        at(from).saturating_add(at(to)).min(MOST_COST)
    }
}

/// Blocks that a node could run, and what they cost it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) node: u32,
    pub(crate) operator: u32,
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// Nanoseconds a multiply-add, of 32 fractional bits.
    pub(crate) rate: u64,
    /// Nanoseconds beside that.
    fixed: u64,
}

impl Candidate {
    pub(crate) const fn covers(&self, from: u32, to: u32) -> bool {
        self.from <= from && to <= self.to
    }

    /// Nanoseconds for this much work.
    pub(crate) fn cost(&self, work: u128) -> u64 {
        let computing = (u128::from(self.rate) * work.min(MOST_WORK)) >> 32;
        u64::try_from(computing).unwrap_or(MOST_COST).saturating_add(self.fixed).min(MOST_COST)
    }
}

/// The fleet, checked.
pub(crate) struct Fleet<'a> {
    pub(crate) nodes: &'a [Node],
    pub(crate) names: &'a [String],
    served: &'a [Served],
    excluded: Vec<bool>,
    known: Vec<Known>,
    pub(crate) weights: Vector,
}

/// Hardware that is taken for alike: backend, SIMD level, threads to a power of two.
type Class = (u32, u32, i64);

/// A range of a node, not yet priced.
struct Raw {
    served: Served,
    /// Its cost of a multiply-add in logarithms, from the regression or by what was measured.
    y: i64,
    work: u128,
    measured: bool,
}

impl<'a> Fleet<'a> {
    pub(crate) fn new(request: &Request, task: &Task, snapshot: &'a Snapshot) -> Result<Self, Failure> {
        let Snapshot { nodes, served, names, learned } = snapshot;
        if nodes.len() > MAX_NODES {
            return Err(bad(format!("{} nodes: at most {MAX_NODES} can be planned with", nodes.len())));
        }
        if served.len() > nodes.len() * MAX_RANGES {
            return Err(bad(format!("{} ranges of {} nodes: at most {MAX_RANGES} each", served.len(), nodes.len())));
        }
        for (at, node) in nodes.iter().enumerate() {
            if node.simd as usize >= names.len() || node.backend as usize >= names.len() {
                return Err(bad(format!("node {at} has a name beyond the {} that there are", names.len())));
            }
        }
        if let Some(name) = names.iter().find(|name| name.len() > MAX_NAME) {
            return Err(bad(format!("a name of {} bytes: at most {MAX_NAME}", name.len())));
        }
        for range in served {
            if range.node as usize >= nodes.len() || range.from >= range.to || range.to > task.blocks {
                let Served { node, from, to, .. } = range;
                return Err(bad(format!("node {node} is said to serve blocks {from} to {to} of {}", task.blocks)));
            }
        }
        let mut excluded = vec![false; nodes.len()];
        for node in &request.excluded {
            if let Some(excluded) = excluded.get_mut(*node as usize) {
                *excluded = true;
            }
        }
        let known = nodes.iter().map(|node| Known::read(&node.learned)).collect();
        Ok(Self { nodes, names, served, excluded, known, weights: Shared::read(learned).weights() })
    }

    /// Whether the node can be trusted with anything now.
    pub(crate) fn is_fit(&self, at: usize) -> bool {
        let excluded = self.excluded.get(at).copied().unwrap_or(true);
        self.nodes.get(at).is_some_and(|node| !excluded && !node.draining && node.wrong == 0)
    }

    fn can_run(&self, at: usize, task: &Task) -> bool {
        let able = |node: &Node| node.executes && node.used < node.slots && node.free_memory >= task.memory;
        self.is_fit(at) && self.nodes.get(at).is_some_and(able)
    }

    /// What describes a node with this much work before it.
    pub(crate) fn features(&self, node: &Node, work: u128, rows: u64) -> Vector {
        let name = |at: u32| self.names.get(at as usize).map_or("", String::as_str);
        let Node { threads, slots, used, .. } = *node;
        model::features(&model::Task {
            threads,
            simd: name(node.simd),
            backend: name(node.backend),
            slots,
            used,
            work,
            rows,
        })
    }

    /// Every range of blocks that a node can run, priced. Where `busy`, those too that only lack a free slot.
    pub(crate) fn candidates(&self, task: &Task, busy: bool) -> Vec<Candidate> {
        let mut raw = Vec::with_capacity(self.served.len());
        for served in self.served {
            let at = served.node as usize;
            let (Some(node), Some(known)) = (self.nodes.get(at), self.known.get(at)) else { continue };
            let can = if busy { self.is_fit(at) && node.executes } else { self.can_run(at, task) };
            if !can {
                continue;
            }
            let work = task.work(served.from, served.to);
            let x = self.features(node, work, task.rows);
            let y = known.predict(&self.weights, &x);
            raw.push(Raw { served: *served, y, work, measured: known.is_measured() });
        }
        let floors = Floors::new(self.nodes, &raw);
        let unknown = self.usual_round_trip();
        let price = |raw: &Raw| {
            let node = self.nodes.get(raw.served.node as usize)?;
            let y = if raw.measured { raw.y } else { floors.of(node, raw, task) };
            let trips = if task.replicas > 1 { VOTE_ROUND_TRIPS } else { 1 };
            let trip = node.round_trip.map_or(unknown, |micros| micros.min(MOST).saturating_mul(1000));
            let dearer = dearer(node);
            Some(Candidate {
                node: raw.served.node,
                operator: node.operator,
                from: raw.served.from,
                to: raw.served.to,
                rate: times(exp2(y + 32 * ONE), dearer).max(1),
                fixed: times(trip.saturating_mul(trips), dearer).min(MOST_COST),
            })
        };
        raw.iter().filter_map(price).collect()
    }

    /// The median of what was measured.
    fn usual_round_trip(&self) -> u64 {
        let mut measured: Vec<u64> = self.nodes.iter().filter_map(|node| node.round_trip).collect();
        let middle = measured.len() / 2;
        if measured.is_empty() {
            return UNKNOWN_ROUND_TRIP;
        }
        let (_, median, _) = measured.select_nth_unstable(middle);
        (*median).min(MOST).saturating_mul(1000)
    }
}

/// What failures make a node dearer by: 1 and four times their share, of 8 fractional bits.
fn dearer(node: &Node) -> u64 {
    let (done, failed) = (node.done.min(MOST), node.failed.min(MOST));
    256 + 4 * 256 * failed / (done + failed + 4)
}

fn times(value: u64, factor: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(factor)) >> 8).unwrap_or(u64::MAX)
}

/// What nobody is taken to be faster than by its own word.
struct Floors {
    classes: BTreeMap<Class, i64>,
    all: i64,
}

impl Floors {
    fn new(nodes: &[Node], raw: &[Raw]) -> Self {
        let mut classes: BTreeMap<Class, i64> = BTreeMap::new();
        for raw in raw.iter().filter(|raw| raw.measured) {
            let Some(node) = nodes.get(raw.served.node as usize) else { continue };
            let best = classes.entry(class(node)).or_insert(raw.y);
            *best = raw.y.min(*best);
        }
        let all = classes.values().min().copied().unwrap_or_else(|| {
            let mut predicted: Vec<i64> = raw.iter().map(|raw| raw.y).collect();
            let middle = predicted.len() / 2;
            if predicted.is_empty() { 0 } else { *predicted.select_nth_unstable(middle).1 }
        });
        Self { classes, all }
    }

    /// What is believed of a node that was never measured.
    fn of(&self, node: &Node, raw: &Raw, task: &Task) -> i64 {
        let rows = raw.served.rows_per_second.min(MOST);
        // A second through all of these blocks, for so many rows: the work of a row is that of a batch by its rows.
        let said = (rows > 0).then(|| {
            let work = (raw.work / u128::from(task.rows.max(1))).max(1);
            model::cost(1_000_000_000, work.saturating_mul(rows.into()))
        });
        match self.classes.get(&class(node)) {
            Some(best) => said.unwrap_or(raw.y).max(*best),
            None => said.unwrap_or(raw.y).max(raw.y).max(self.all),
        }
    }
}

fn class(node: &Node) -> Class {
    (node.backend, node.simd, model::threads(node.threads) / ONE)
}

/// Blocks that none of these serves.
pub(crate) fn unserved(candidates: &[Candidate], blocks: u32) -> Vec<Span> {
    let mut changes = vec![0_i64; blocks as usize + 1];
    for candidate in candidates {
        if let Some(change) = changes.get_mut(candidate.from as usize) {
            *change += 1;
        }
        if let Some(change) = changes.get_mut(candidate.to as usize) {
            *change -= 1;
        }
    }
    let mut spans: Vec<Span> = Vec::new();
    let mut serving = 0;
    for (block, change) in (0..blocks).zip(changes) {
        serving += change;
        if serving > 0 {
            continue;
        }
        match spans.last_mut() {
            Some(span) if span.to == block => span.to = block + 1,
            _ => spans.push(Span { from: block, to: block + 1 }),
        }
    }
    spans
}

/// What the work of a row costs, as rows a second in thousandths.
pub(crate) fn throughput(rate: u64, work: u128, rows: u64) -> u64 {
    let nanoseconds = ((u128::from(rate) * work.min(MOST_WORK)) >> 32).max(1);
    let thousandths = u128::from(rows).saturating_mul(1_000_000_000_000) / nanoseconds;
    u64::try_from(thousandths).unwrap_or(u64::MAX).min(1 << 50)
}

/// The rate for a predicted cost of a multiply-add.
pub(crate) fn rate(y: i64) -> u64 {
    exp2(y + 32 * ONE).max(1)
}

/// Only for showing how dear something is: a logarithm with steps of a sixteenth.
pub(crate) fn step(cost: u64, best: u64) -> i64 {
    (log2(cost.into()) - log2(best.into())) / (ONE / 8)
}
