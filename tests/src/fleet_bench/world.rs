//! Generated fleets whose true speeds are known here and to nobody else.

use ostrakon_engine::scheduling::{Needs, Node, Planned, Request, Sample, Served, Snapshot};
use ostrakon_engine::{CallError, Plugin};
use ostrakon_tests::random::Random;

use crate::LIMITS;

/// Blocks of the model, and multiply-adds a row of each.
pub(crate) const BLOCKS: u32 = 24;
const WORK: u64 = 12_000_000;
const ROW_BYTES: u64 = 4096;
/// Nanoseconds a byte between any two nodes.
const BYTE: f64 = 8.0;
const NAMES: [&str; 5] = ["scalar", "avx2", "avx512", "cpu", "openvino"];

/// What the benchmark alone knows of a node.
#[derive(Clone)]
pub(crate) struct Truth {
    /// Nanoseconds a multiply-add when it has nothing else to do.
    pub(crate) rate: f64,
    round_trip: f64,
    pub(crate) load: f64,
}

/// A fleet, what it says and what it is.
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) truths: Vec<Truth>,
    pub(crate) request: Request,
}

pub(crate) fn request(replicas: u32) -> Request {
    let needs = Needs { weight_bytes: WORK, work: WORK, row_bytes: ROW_BYTES };
    Request {
        blocks: vec![needs; BLOCKS as usize],
        rows: 128,
        batches: 1,
        replicas,
        audited: false,
        excluded: Vec::new(),
    }
}

impl World {
    /// Machines of many kinds; `liars` in a hundred say that they are a thousand times faster than they are.
    pub(crate) fn new(nodes: u32, liars: u64, random: &mut Random) -> Self {
        let mut snapshot = Snapshot {
            nodes: Vec::new(),
            served: Vec::new(),
            names: NAMES.map(str::to_owned).into(),
            learned: Vec::new(),
        };
        let mut truths = Vec::new();
        for at in 0..nodes {
            let threads = 1 << random.below(6);
            let simd = random.below(3) as u32;
            let backend = 3 + u32::from(random.below(4) == 0);
            // As a machine of that kind, but for what a person cannot know.
            let speed =
                8.0 * f64::from(threads).powf(0.85) * [0.2, 1.0, 1.6].get(simd as usize % 3).copied().unwrap_or(1.0);
            let speed = speed * if backend == 4 { 1.5 } else { 1.0 } * random.between(0.6, 1.6);
            let used = random.below(4) as u32;
            let truth =
                Truth { rate: 1.0 / speed, round_trip: random.between(0.2e6, 40e6), load: f64::from(used) / 4.0 };
            // As many blocks as its memory holds; the first nodes serve all, so that there is always a way.
            let length = if at < 3 { BLOCKS } else { 4 + random.below(u64::from(BLOCKS) - 3) as u32 };
            let from = 4 * random.below(u64::from(BLOCKS - length) / 4 + 1) as u32;
            let work = WORK as f64 * f64::from(length);
            let honest = 1e9 / (truth.rate * work) * random.between(0.7, 1.4);
            let said = if random.below(100) < liars { honest * 1000.0 } else { honest };
            snapshot.served.push(Served { node: at, from, to: from + length, rows_per_second: said as u64 });
            snapshot.nodes.push(Node {
                operator: at,
                executes: true,
                verifies: false,
                draining: false,
                threads,
                simd,
                backend,
                free_memory: 1 << 34,
                slots: 4,
                used,
                round_trip: Some((truth.round_trip / 1000.0) as u64),
                done: 0,
                failed: 0,
                wrong: 0,
                learned: Vec::new(),
            });
            truths.push(truth);
        }
        Self { snapshot, truths, request: request(1) }
    }

    /// Nanoseconds that a node truly takes for blocks.
    pub(crate) fn time(&self, node: u32, from: u32, to: u32) -> f64 {
        let Some(truth) = self.truths.get(node as usize) else { return f64::INFINITY };
        truth.round_trip + self.computing(truth, from, to) + self.transport(from) + self.transport(to)
    }

    fn computing(&self, truth: &Truth, from: u32, to: u32) -> f64 {
        let work = WORK as f64 * f64::from(to - from) * self.request.rows as f64;
        work * truth.rate * (1.0 + truth.load)
    }

    fn transport(&self, border: u32) -> f64 {
        let bytes = if border == 0 { 4 } else { ROW_BYTES };
        (bytes * self.request.rows) as f64 * BYTE
    }

    /// Nanoseconds of a way through the blocks.
    pub(crate) fn way(&self, legs: &[(u32, u32, u32)]) -> f64 {
        legs.iter().map(|(node, from, to)| self.time(*node, *from, *to)).sum()
    }

    pub(crate) fn planned(&self, planned: &Planned) -> f64 {
        planned
            .legs
            .iter()
            .map(|leg| leg.replicas.iter().map(|n| self.time(*n, leg.from, leg.to)).fold(0.0, f64::max))
            .sum()
    }

    pub(crate) fn plan(&self, plugin: &Plugin, lots: &[u8; 64]) -> Result<Planned, Box<dyn std::error::Error>> {
        let said = plugin.scheduler(LIMITS)?.plan(&self.request, &self.snapshot, lots)?.said;
        said.map_err(|reason| reason.to_string().into())
    }

    /// The node runs a leg, a few per cent off its usual time, and the scheduler learns of it.
    pub(crate) fn run(
        &mut self,
        plugin: &Plugin,
        (node, from, to): (u32, u32, u32),
        random: &mut Random,
    ) -> Result<(), CallError> {
        let noise = random.between(0.95, 1.0 / 0.95);
        let (Some(truth), Some(of)) = (self.truths.get(node as usize), self.snapshot.nodes.get(node as usize)) else {
            return Ok(());
        };
        let name = |at: u32| self.snapshot.names.get(at as usize).cloned().unwrap_or_default();
        let sample = Sample {
            threads: of.threads,
            simd: name(of.simd),
            backend: name(of.backend),
            slots: of.slots,
            used: of.used,
            work: WORK * u64::from(to - from),
            rows: self.request.rows,
            nanoseconds: (noise * (self.computing(truth, from, to) + self.transport(from) + self.transport(to))) as u64,
        };
        let learned = plugin.scheduler(LIMITS)?.learn(&self.snapshot.learned, &of.learned, &sample)?.said;
        self.snapshot.learned = learned.shared;
        if let Some(of) = self.snapshot.nodes.get_mut(node as usize) {
            of.learned = learned.node;
            of.done += 1;
        }
        Ok(())
    }

    /// Every node runs all of its blocks so many times.
    pub(crate) fn measure(&mut self, plugin: &Plugin, times: u32, random: &mut Random) -> Result<(), CallError> {
        for _ in 0..times {
            for served in self.snapshot.served.clone() {
                self.run(plugin, (served.node, served.from, served.to), random)?;
            }
        }
        Ok(())
    }
}
