//! Generated fleets, and the official scheduler under both compilers.

use crate::support::{limits, runtime};
use ostrakon_engine::scheduling::{Needs, NoPlan, Node, Planned, Request, Sample, Served, Snapshot};
use ostrakon_engine::{Compiler, Limits, Plugin, Scheduler, World};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The official component, from the directory in `OSTRAKON_PLUGINS` or from where `make plugins` leaves it.
pub(crate) fn component() -> Vec<u8> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/plugins");
    let path = std::env::var_os("OSTRAKON_PLUGINS").map_or(default, PathBuf::from).join("scheduler.wasm");
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}. Run `make plugins`, or name the directory in OSTRAKON_PLUGINS", path.display())
    })
}

pub(crate) fn plugins() -> &'static [Plugin; 2] {
    static PLUGINS: OnceLock<[Plugin; 2]> = OnceLock::new();
    PLUGINS.get_or_init(|| {
        let component = component();
        [Compiler::Cranelift, Compiler::Pulley]
            .map(|compiler| runtime(compiler).admit(&component, World::Scheduler).unwrap())
    })
}

pub(crate) fn ample() -> Limits {
    Limits { fuel: 1 << 40, memory_bytes: 1 << 30, wall_time: std::time::Duration::from_secs(120), ..limits() }
}

pub(crate) fn scheduler() -> Scheduler {
    plugins()[0].scheduler(ample()).unwrap()
}

/// Numbers that look random and are the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn bytes(&mut self) -> [u8; 64] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

/// Randomness number `at`.
pub(crate) fn lots(at: u64) -> [u8; 64] {
    Random(at.wrapping_mul(0x1234_5678_9abc_def1)).bytes()
}

pub(crate) const NAMES: [&str; 5] = ["scalar", "avx2", "avx512", "cpu", "openvino"];

/// A usual node: four threads of AVX2, a millisecond away, nothing known of it.
pub(crate) fn node(operator: u32) -> Node {
    Node {
        operator,
        executes: true,
        verifies: false,
        draining: false,
        threads: 4,
        simd: 1,
        backend: 3,
        free_memory: 1 << 32,
        slots: 4,
        used: 0,
        round_trip: Some(1000),
        done: 0,
        failed: 0,
        wrong: 0,
        learned: Vec::new(),
    }
}

/// Nodes of these operators that serve these blocks.
pub(crate) fn fleet(nodes: &[(u32, u32, u32)]) -> Snapshot {
    let served =
        (0..).zip(nodes).map(|(node, (_, from, to))| Served { node, from: *from, to: *to, rows_per_second: 0 });
    Snapshot {
        nodes: nodes.iter().map(|(operator, ..)| node(*operator)).collect(),
        served: served.collect(),
        names: NAMES.map(str::to_owned).into(),
        learned: Vec::new(),
    }
}

/// A request through blocks of 10 million multiply-adds a row each.
pub(crate) fn request(blocks: usize) -> Request {
    Request {
        blocks: vec![Needs { weight_bytes: 10_000_000, work: 10_000_000, row_bytes: 1536 }; blocks],
        rows: 128,
        batches: 1,
        replicas: 1,
        audited: false,
        excluded: Vec::new(),
    }
}

/// What both compilers say, at the same fuel.
pub(crate) fn decide(request: &Request, snapshot: &Snapshot, lots: &[u8; 64]) -> Result<Planned, NoPlan> {
    let [cranelift, pulley] =
        plugins().each_ref().map(|plugin| plugin.scheduler(ample()).unwrap().plan(request, snapshot, lots).unwrap());
    assert_eq!(cranelift, pulley);
    assert!(cranelift.fuel > 0);
    if let Ok(planned) = &cranelift.said {
        planned.check(request, snapshot).unwrap();
    }
    cranelift.said
}

pub(crate) fn planned(request: &Request, snapshot: &Snapshot, lots: &[u8; 64]) -> Planned {
    decide(request, snapshot, lots).unwrap()
}

/// A leg of this node over all blocks of the request that took this long.
pub(crate) fn sample(snapshot: &Snapshot, node: u32, request: &Request, nanoseconds: u64) -> Sample {
    let of = &snapshot.nodes[node as usize];
    let name = |at: u32| snapshot.names[at as usize].clone();
    Sample {
        threads: of.threads,
        simd: name(of.simd),
        backend: name(of.backend),
        slots: of.slots,
        used: of.used,
        work: request.blocks.iter().map(|block| block.work).sum(),
        rows: request.rows,
        nanoseconds,
    }
}

/// Tell the scheduler of such a leg.
pub(crate) fn learn(
    component: &mut Scheduler,
    snapshot: &mut Snapshot,
    node: u32,
    request: &Request,
    nanoseconds: u64,
) {
    let sample = sample(snapshot, node, request, nanoseconds);
    let of = &snapshot.nodes[node as usize];
    let learned = component.learn(&snapshot.learned, &of.learned, &sample).unwrap().said;
    snapshot.learned = learned.shared;
    snapshot.nodes[node as usize].learned = learned.node;
}

/// What chi-squared with these counts against evenness is.
pub(crate) fn chi_squared(counts: &[u64]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

/// What a chi-squared of so many categories exceeds once in a million times (Wilson and Hilferty).
pub(crate) fn chi_squared_limit(categories: usize) -> f64 {
    let degrees = (categories - 1) as f64;
    let part = 2.0 / (9.0 * degrees);
    degrees * (1.0 - part + 4.753 * part.sqrt()).powi(3)
}
