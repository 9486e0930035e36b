//! The scheduler against snapshots that nobody honest would take: there is a plan or a clear refusal, never a trap, and
//! both compilers agree.

use crate::support::fleets::{NAMES, Random, ample, component, decide, fleet, lots, plugins, request, scheduler};
use crate::support::{identity, limits, shared_runtime};
use ostrakon_engine::scheduling::{Needs, Newcomer, NoPlan, Node, Request, Served, Snapshot};
use ostrakon_engine::{AdmissionError, CallError, Limits, Trap, World};

fn assert_refused(request: &Request, snapshot: &Snapshot, words: &str) {
    let error = decide(request, snapshot, &lots(0)).unwrap_err();
    assert!(matches!(&error, NoPlan::BadInput(text) if text.contains(words)), "{error}");
}

#[test]
fn what_is_out_of_bounds_is_named() {
    let good = fleet(&[(0, 0, 6), (1, 0, 6)]);
    let but = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = good.clone();
        change(&mut snapshot);
        snapshot
    };
    assert_refused(&request(0), &good, "0 blocks");
    assert_refused(&request(4097), &good, "4097 blocks");
    assert_refused(&Request { replicas: 0, ..request(6) }, &good, "0 replicas");
    assert_refused(&Request { replicas: 17, ..request(6) }, &good, "17 replicas");
    assert_refused(&request(5), &good, "serve blocks 0 to 6 of 5");
    assert_refused(&request(6), &but(&|s| s.served[1].node = 2), "node 2 is said to serve");
    assert_refused(&request(6), &but(&|s| s.served[1].from = 6), "blocks 6 to 6");
    assert_refused(&request(6), &but(&|s| s.nodes[1].simd = 5), "node 1 has a name beyond");
    assert_refused(&request(6), &but(&|s| s.nodes[1].backend = u32::MAX), "node 1 has a name beyond");
    assert_refused(&request(6), &but(&|s| s.names[2] = "x".repeat(65)), "65 bytes");
    assert_refused(&request(6), &but(&|s| s.served = vec![s.served[0]; 17]), "17 ranges");
    assert_refused(&request(6), &but(&|s| s.nodes = vec![s.nodes[0].clone(); 16_385]), "16385 nodes");
    // Nobody that is excluded has to exist.
    decide(&Request { excluded: vec![u32::MAX, 7], ..request(6) }, &good, &lots(0)).unwrap();
    let newcomer = Newcomer { node: Some(9), threads: 1, simd: 0, backend: 0, memory: 1 };
    let said = scheduler().place(&request(6), &good, &newcomer, &lots(0)).unwrap().said;
    assert!(said.unwrap_err().to_string().contains("node 9 of 2"));
}

/// Everything as large, as small or as odd as its type allows.
fn absurd(random: &mut Random, nodes: usize, blocks: usize) -> (Request, Snapshot) {
    fn number(random: &mut Random) -> u64 {
        match random.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1,
            3 => u64::MAX >> random.below(64),
            _ => random.below(1000),
        }
    }
    let needs = |random: &mut Random| Needs {
        weight_bytes: number(random),
        work: number(random),
        row_bytes: if random.below(3) == 0 { number(random) } else { 4 },
    };
    let request = Request {
        blocks: (0..blocks).map(|_| needs(random)).collect(),
        rows: number(random),
        batches: number(random) as u32,
        replicas: 1 + random.below(16) as u32,
        audited: random.below(2) == 0,
        excluded: (0..random.below(4)).map(|_| random.below(nodes as u64 + 2) as u32).collect(),
    };
    let node = |random: &mut Random| Node {
        operator: random.below(1 + nodes as u64 / 2) as u32,
        executes: random.below(8) != 0,
        verifies: random.below(4) == 0,
        draining: random.below(8) == 0,
        threads: number(random) as u32,
        simd: random.below(5) as u32,
        backend: random.below(5) as u32,
        free_memory: u64::MAX,
        slots: number(random) as u32 | 1,
        used: if random.below(4) == 0 { number(random) as u32 } else { 0 },
        round_trip: (random.below(2) == 0).then(|| number(random)),
        done: number(random),
        failed: number(random),
        wrong: u64::from(random.below(16) == 0),
        learned: (0..[0, 38, 38, 7][random.below(4) as usize])
            .map(|at| if at == 0 { 1 } else { random.next() as u8 })
            .collect(),
    };
    let served = |random: &mut Random, node| {
        let from = random.below(blocks as u64) as u32;
        let to = from + 1 + random.below(u64::from(blocks as u32 - from)) as u32;
        Served { node, from, to, rows_per_second: number(random) }
    };
    let snapshot = Snapshot {
        nodes: (0..nodes).map(|_| node(random)).collect(),
        served: (0..nodes * 4).map(|at| served(random, (at % nodes) as u32)).collect(),
        names: NAMES.map(str::to_owned).into(),
        learned: (0..[0, 353][random.below(2) as usize])
            .map(|at| if at == 0 { 1 } else { random.next() as u8 })
            .collect(),
    };
    (request, snapshot)
}

#[test]
fn absurd_numbers_overflow_nothing() {
    let mut random = Random(1);
    let (mut plans, mut placed) = (0, 0);
    for round in 0..300 {
        let nodes = 1 + random.below(60) as usize;
        let (mut request, snapshot) = absurd(&mut random, nodes, 1 + (round % 30));
        plans += u32::from(decide(&request, &snapshot, &lots(round as u64)).is_ok());
        request.replicas = 1;
        plans += u32::from(decide(&request, &snapshot, &lots(round as u64)).is_ok());
        let newcomer = Newcomer {
            node: (round % 2 == 0).then_some(0),
            threads: u32::MAX,
            simd: 0,
            backend: 0,
            memory: u64::MAX >> (round % 64),
        };
        placed += u32::from(scheduler().place(&request, &snapshot, &newcomer, &lots(0)).unwrap().said.is_ok());
    }
    assert!(plans > 100 && placed > 100, "{plans} plans, {placed} placements");
}

#[test]
fn fleets_cut_into_pieces_are_planned_within_bounds() {
    let mut random = Random(2);
    // As many nodes, ranges, blocks and operators as are allowed, all over the place.
    let blocks = 4096;
    let mut snapshot = fleet(&(0..16_384).map(|at| (at, 0, 1)).collect::<Vec<_>>());
    snapshot.served = (0..16_384 * 8)
        .map(|at| {
            let from = random.below(blocks) as u32;
            let to = (from + 1 + random.below(200) as u32).min(blocks as u32);
            Served { node: at % 16_384, from, to, rows_per_second: 0 }
        })
        .collect();
    for replicas in [1, 16] {
        let said = scheduler().plan(&Request { replicas, ..request(4096) }, &snapshot, &lots(0)).unwrap();
        said.said.unwrap();
        assert!(said.fuel < 1 << 34, "{} of fuel with {replicas} replicas", said.fuel);
    }
    let newcomer = Newcomer { node: None, threads: 4, simd: 0, backend: 3, memory: u64::MAX };
    let said = scheduler().place(&request(4096), &snapshot, &newcomer, &lots(0)).unwrap();
    said.said.unwrap();
    assert!(said.fuel < 1 << 34, "{} of fuel for a placement", said.fuel);
    // Single blocks each: more legs than a plan may have.
    let pieces = fleet(&(0..200).map(|at| (at, at, at + 1)).collect::<Vec<_>>());
    let error = decide(&request(200), &pieces, &lots(0)).unwrap_err();
    assert!(matches!(error, NoPlan::Fragmented(97..)), "{error}");
}

#[test]
fn one_operator_with_many_names_does_not_crowd_out_a_quorum() {
    // 5,000 nodes of one operator over every possible range, four honest ones over halves.
    let mut random = Random(4);
    let mut nodes: Vec<_> = (0..5000)
        .map(|_| {
            let from = random.below(79) as u32;
            (0, from, from + 1 + random.below(u64::from(80 - from)) as u32)
        })
        .collect();
    nodes.extend([(1, 0, 40), (2, 0, 40), (3, 40, 80), (4, 40, 80)]);
    let mut snapshot = fleet(&nodes);
    for node in &mut snapshot.nodes[..5000] {
        node.round_trip = Some(0);
    }
    let request = Request { replicas: 3, ..request(80) };
    for at in 0..3 {
        let plan = decide(&request, &snapshot, &lots(at)).unwrap();
        for leg in &plan.legs {
            let honest = leg.replicas.iter().filter(|node| **node >= 5000).count();
            assert_eq!(honest, 2);
        }
    }
}

#[test]
fn limits_stop_it_and_the_next_one_works() {
    let snapshot = fleet(&(0..1000).map(|at| (at, 0, 6)).collect::<Vec<_>>());
    let mut component = plugins()[0].scheduler(Limits { fuel: 10_000, ..ample() }).unwrap();
    let error = component.plan(&request(6), &snapshot, &lots(0)).unwrap_err();
    assert!(matches!(error, CallError::Trap(Trap::OutOfFuel { .. })), "{error}");
    assert!(component.is_spent());
    decide(&request(6), &snapshot, &lots(0)).unwrap();
}

#[test]
fn only_schedulers_are_admitted_as_such() {
    let survey = shared_runtime().admit(&component(), World::Scheduler).map(|plugin| plugin.world()).unwrap();
    assert_eq!(survey, World::Scheduler);
    let block = wat::parse_str(identity()).unwrap();
    let error = shared_runtime().admit(&block, World::Scheduler).unwrap_err();
    assert!(matches!(error, AdmissionError::Import { world: "scheduler", .. }), "{error}");
    let error = shared_runtime().admit(&component(), World::Verifier).unwrap_err();
    assert!(matches!(error, AdmissionError::MissingExport { .. } | AdmissionError::Export { .. }), "{error}");
}

#[test]
fn a_damaged_scheduler_never_harms_the_host() {
    let bytes = component();
    let snapshot = fleet(&(0..20).map(|at| (at, 0, 6)).collect::<Vec<_>>());
    let mut ran = 0;
    for at in (8..bytes.len()).step_by(5003) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let Ok(plugin) = shared_runtime().admit(&bytes, World::Scheduler) else { continue };
        let Ok(mut component) = plugin.scheduler(limits()) else { continue };
        ran += 1;
        // Whatever it says now: it is stopped, or what it says is looked at before it is used.
        if let Ok(said) = component.plan(&request(6), &snapshot, &lots(0))
            && let Ok(planned) = said.said
        {
            let _ = planned.check(&request(6), &snapshot);
        }
    }
    assert!(ran > 0);
}
