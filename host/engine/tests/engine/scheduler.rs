//! Every rule of `ostrakon:plugin/scheduling` on the official component. Each plan is asked for under both compilers.

use crate::support::fleets::{
    Random, chi_squared, chi_squared_limit, decide, fleet, learn, lots, node, planned, request, sample, scheduler,
};
use ostrakon_engine::scheduling::{Newcomer, NoPlan, Placement, Request, Served, Shortage, Snapshot, Span};
use std::collections::BTreeSet;

/// Ten nodes of ten operators: a third of the blocks each, every third three or four times.
fn thirds() -> Snapshot {
    let nodes: Vec<_> = (0..10).map(|at| (at, 4 * (at % 3), 4 * (at % 3) + 4)).collect();
    fleet(&nodes)
}

#[test]
fn legs_cover_all_blocks_with_nodes_that_serve_them() {
    let plan = planned(&request(12), &thirds(), &lots(1));
    let borders: Vec<_> = plan.legs.iter().map(|leg| (leg.from, leg.to)).collect();
    assert_eq!(borders, [(0, 4), (4, 8), (8, 12)]);
    for (third, leg) in (0..).zip(&plan.legs) {
        assert_eq!(leg.replicas.len(), 1);
        assert_eq!(leg.shadows.len(), if third == 0 { 3 } else { 2 });
        let all: BTreeSet<_> = leg.replicas.iter().chain(&leg.shadows).collect();
        assert_eq!(all.len(), leg.replicas.len() + leg.shadows.len(), "a node is there twice");
        assert!(all.iter().all(|node| **node % 3 == third));
    }
    assert!(plan.predicted > 3000, "three round trips of a millisecond: {}", plan.predicted);
    assert!(plan.auditors.is_empty());
}

#[test]
fn one_hop_is_cheaper_than_three() {
    let mut snapshot = thirds();
    snapshot.nodes.push(node(99));
    snapshot.served.push(Served { node: 10, from: 0, to: 12, rows_per_second: 0 });
    for at in 0..8 {
        let plan = planned(&request(12), &snapshot, &lots(at));
        assert_eq!((plan.legs.len(), &plan.legs[0].replicas), (1, &vec![10]));
    }
    // But not when it is far away.
    snapshot.nodes[10].round_trip = Some(1_000_000);
    assert_eq!(planned(&request(12), &snapshot, &lots(0)).legs.len(), 3);
}

#[test]
fn who_cannot_or_must_not_is_never_used() {
    let all = Request { replicas: 2, ..request(6) };
    let snapshot = fleet(&(0..8).map(|at| (at, 0, 6)).collect::<Vec<_>>());
    type Change<'a> = &'a dyn Fn(&mut Snapshot, &mut Request);
    let cases: [(&str, Change<'_>); 7] = [
        ("draining", &|s, _| s.nodes[3].draining = true),
        ("full", &|s, _| s.nodes[3].used = 4),
        ("without memory", &|s, _| s.nodes[3].free_memory = 1000),
        ("found wrong", &|s, _| s.nodes[3].wrong = 1),
        ("excluded", &|_, r| r.excluded = vec![3]),
        ("not executing", &|s, _| s.nodes[3].executes = false),
        ("without slots", &|s, _| s.nodes[3].slots = 0),
    ];
    for (case, change) in cases {
        let (mut snapshot, mut request) = (snapshot.clone(), all.clone());
        change(&mut snapshot, &mut request);
        let mut used = BTreeSet::new();
        for at in 0..40 {
            let plan = planned(&request, &snapshot, &lots(at));
            used.extend(plan.legs.iter().flat_map(|leg| leg.replicas.iter().chain(&leg.shadows).copied()));
        }
        assert!(!used.contains(&3), "a node that is {case} was used");
        assert_eq!(used.len(), 7, "{case}: {used:?}");
    }
}

#[test]
fn failures_make_a_node_dearer_and_never_impossible() {
    let mut snapshot = fleet(&[(0, 0, 6), (1, 0, 6)]);
    (snapshot.nodes[0].done, snapshot.nodes[0].failed) = (4, 4);
    for at in 0..20 {
        assert_eq!(planned(&request(6), &snapshot, &lots(at)).legs[0].replicas, [1]);
    }
    snapshot.nodes[1].draining = true;
    assert_eq!(planned(&request(6), &snapshot, &lots(0)).legs[0].replicas, [0]);
}

#[test]
fn replicas_are_of_different_operators_and_shadows_of_others_again() {
    // 40 nodes of eight operators, a few operators have most of them.
    let operators = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7];
    let nodes: Vec<_> = (0..40).map(|at| (operators[at % 16], 0, 6)).collect();
    let snapshot = fleet(&nodes);
    for replicas in 1..=8 {
        let request = Request { replicas, ..request(6) };
        for at in 0..10 {
            let plan = planned(&request, &snapshot, &lots(at));
            let leg = &plan.legs[0];
            let operator = |node: &u32| snapshot.nodes[*node as usize].operator;
            let distinct: BTreeSet<_> = leg.replicas.iter().map(operator).collect();
            assert_eq!(distinct.len(), replicas as usize);
            let others = 8 - replicas as usize;
            let fresh: BTreeSet<_> =
                leg.shadows.iter().take(others).map(operator).filter(|o| !distinct.contains(o)).collect();
            assert_eq!(fresh.len(), others.min(leg.shadows.len()), "shadows of new operators come first");
            if replicas > 1 {
                let all: BTreeSet<_> = leg.replicas.iter().chain(&leg.shadows).map(operator).collect();
                assert_eq!(all.len(), leg.replicas.len() + leg.shadows.len(), "an operator has two votes");
            }
        }
    }
    let error = decide(&Request { replicas: 9, ..request(6) }, &snapshot, &lots(0)).unwrap_err();
    assert_eq!(error, NoPlan::FewOperators(Shortage { from: 0, to: 6, found: 8, needed: 9 }));
    assert!(error.to_string().contains("blocks 0 to 5 are served by nodes of 8 operators"), "{error}");
}

#[test]
fn a_quorum_cuts_legs_where_enough_operators_serve_them() {
    // One node serves all, but three operators can be had only for halves.
    let snapshot = fleet(&[(0, 0, 8), (1, 0, 4), (2, 0, 4), (3, 4, 8), (4, 4, 8)]);
    let plan = planned(&Request { replicas: 3, ..request(8) }, &snapshot, &lots(3));
    let borders: Vec<_> = plan.legs.iter().map(|leg| (leg.from, leg.to)).collect();
    assert_eq!(borders, [(0, 4), (4, 8)]);
    let error = decide(&Request { replicas: 4, ..request(8) }, &snapshot, &lots(3)).unwrap_err();
    assert_eq!(error, NoPlan::FewOperators(Shortage { from: 0, to: 4, found: 3, needed: 4 }));
}

#[test]
fn what_nobody_serves_is_named() {
    let mut snapshot = fleet(&[(0, 1, 3), (1, 2, 4), (2, 6, 7)]);
    let error = decide(&request(9), &snapshot, &lots(0)).unwrap_err();
    let spans = [(0, 1), (4, 6), (7, 9)].map(|(from, to)| Span { from, to });
    assert_eq!(error, NoPlan::Unserved(spans.into()));
    assert!(error.to_string().contains("serves blocks 0, 4 to 5, 7 to 8:"), "{error}");
    snapshot.nodes.clear();
    snapshot.served.clear();
    let error = decide(&request(9), &snapshot, &lots(0)).unwrap_err();
    assert_eq!(error, NoPlan::Unserved(vec![Span { from: 0, to: 9 }]));
}

#[test]
fn auditors_are_of_operators_that_run_nothing() {
    let mut snapshot = fleet(&[(0, 0, 6), (0, 0, 6), (1, 0, 6), (2, 0, 6), (3, 0, 6), (3, 0, 6)]);
    snapshot.nodes.iter_mut().for_each(|node| node.verifies = true);
    let audited = Request { audited: true, ..request(6) };
    for at in 0..40 {
        let plan = planned(&audited, &snapshot, &lots(at));
        let operator = |node: &u32| snapshot.nodes[*node as usize].operator;
        let runs = operator(&plan.legs[0].replicas[0]);
        let audits: BTreeSet<_> = plan.auditors.iter().map(operator).collect();
        assert!(!audits.contains(&runs) && audits.len() == 3 && plan.auditors.len() == 3, "{audits:?} audit {runs}");
    }
    // Two operators: one is kept for the audit, whatever the lots are.
    let mut snapshot = fleet(&[(0, 0, 6), (1, 0, 6)]);
    snapshot.nodes[1].verifies = true;
    for at in 0..20 {
        let plan = planned(&audited, &snapshot, &lots(at));
        assert_eq!((plan.legs[0].replicas[0], plan.auditors), (0, vec![1]));
    }
    // A verification node that serves nothing will do; one that was found wrong will not.
    snapshot.served.pop();
    assert_eq!(planned(&audited, &snapshot, &lots(0)).auditors, [1]);
    snapshot.nodes[1].wrong = 1;
    let error = decide(&audited, &snapshot, &lots(0)).unwrap_err();
    assert_eq!(error, NoPlan::NoAuditor);
    assert!(error.to_string().contains("no verification node is of another operator"), "{error}");
}

#[test]
fn batches_that_follow_one_another_share_the_work() {
    let snapshot = fleet(&[(0, 0, 8), (1, 0, 4), (2, 4, 8)]);
    assert_eq!(planned(&request(8), &snapshot, &lots(0)).legs.len(), 1);
    let many = Request { rows: 50 * 4096, batches: 50, ..request(8) };
    let plan = planned(&many, &snapshot, &lots(0));
    assert_eq!(plan.legs.len(), 2);
    assert_ne!(plan.legs[0].replicas, plan.legs[1].replicas);
}

#[test]
fn lots_are_even_among_equals() {
    let count = 50;
    let mut component = scheduler();
    let snapshot = fleet(&(0..count).map(|at| (at, 0, 6)).collect::<Vec<_>>());
    for replicas in [1, 3] {
        let request = Request { replicas, ..request(6) };
        let (mut counts, mut shadows) = (vec![0; count as usize], vec![0; count as usize]);
        for at in 0..2000 {
            let plan = component.plan(&request, &snapshot, &lots(at)).unwrap().said.unwrap();
            plan.legs[0].replicas.iter().for_each(|node| counts[*node as usize] += 1);
            plan.legs[0].shadows.iter().for_each(|node| shadows[*node as usize] += 1);
        }
        for counts in [counts, shadows] {
            let (found, limit) = (chi_squared(&counts), chi_squared_limit(count as usize));
            assert!(found < limit, "chi-squared {found:.0} of at most {limit:.0}: {counts:?}");
            assert!(found > 10.0, "too even to be lots: {found:.1}");
        }
    }
}

#[test]
fn nearly_equal_is_equal_and_clearly_slower_is_not() {
    let mut snapshot = fleet(&(0..6).map(|at| (at, 0, 6)).collect::<Vec<_>>());
    let mut component = scheduler();
    let request = request(6);
    // The same but for a hundredth, and two that take half as long again.
    for _ in 0..12 {
        for (node, nanoseconds) in [100, 101, 100, 101, 150, 150].into_iter().enumerate() {
            learn(&mut component, &mut snapshot, node as u32, &request, nanoseconds * 1_000_000);
        }
    }
    let mut counts = [0; 6];
    for at in 0..600 {
        let plan = component.plan(&request, &snapshot, &lots(at)).unwrap().said.unwrap();
        counts[plan.legs[0].replicas[0] as usize] += 1;
    }
    assert!(counts[..4].iter().all(|count| *count > 90), "{counts:?}");
    assert_eq!(counts[4..], [0, 0]);
}

#[test]
fn nobody_gets_more_by_what_it_says() {
    let request = request(6);
    let share = |change: &dyn Fn(&mut Snapshot)| {
        let mut component = scheduler();
        let mut snapshot = fleet(&(0..10).map(|at| (at, 0, 6)).collect::<Vec<_>>());
        for node in 0..9 {
            for _ in 0..4 {
                learn(&mut component, &mut snapshot, node, &request, 50_000_000);
            }
        }
        change(&mut snapshot);
        let plans = (0..400).map(|at| component.plan(&request, &snapshot, &lots(at)).unwrap().said.unwrap());
        plans.filter(|plan| plan.legs[0].replicas == [9]).count()
    };
    // Node 9 was never measured: it has its turn among equals, and one plan of eight is for trying. Words add nothing.
    let silent = share(&|_| ());
    assert!((40..130).contains(&silent), "{silent}");
    let absurd: [&dyn Fn(&mut Snapshot); 5] = [
        &|s| s.served[9].rows_per_second = 1 << 50,
        &|s| s.nodes[9].threads = u32::MAX,
        &|s| (s.nodes[9].simd, s.nodes[9].backend) = (2, 4),
        &|s| (s.nodes[9].slots, s.nodes[9].free_memory) = (u32::MAX, u64::MAX),
        &|s| {
            s.served[9].rows_per_second = u64::MAX;
            (s.nodes[9].threads, s.nodes[9].simd) = (1 << 20, 2);
        },
    ];
    for (at, change) in absurd.into_iter().enumerate() {
        let count = share(change);
        assert!(count < 130, "word {at}: {count} of 400 for one of ten");
    }
    // A modest word is believed.
    assert_eq!(share(&|s| s.served[9].rows_per_second = 1), 0);
}

#[test]
fn an_absurd_word_does_not_win_where_nothing_was_measured() {
    let mut snapshot = fleet(&(0..10).map(|at| (at, 0, 6)).collect::<Vec<_>>());
    snapshot.served[9].rows_per_second = 1 << 50;
    snapshot.nodes[9].threads = 1 << 30;
    let mut component = scheduler();
    let plans = (0..400).map(|at| component.plan(&request(6), &snapshot, &lots(at)).unwrap().said.unwrap());
    let count = plans.filter(|plan| plan.legs[0].replicas == [9]).count();
    assert!(count < 130, "{count} of 400 for one of ten");
}

#[test]
fn a_word_is_found_out_after_one_leg() {
    let mut snapshot = fleet(&(0..3).map(|at| (at, 0, 6)).collect::<Vec<_>>());
    let (mut component, request) = (scheduler(), request(6));
    snapshot.served[2].rows_per_second = 1 << 50;
    for node in [0, 1] {
        learn(&mut component, &mut snapshot, node, &request, 50_000_000);
    }
    learn(&mut component, &mut snapshot, 2, &request, 5_000_000_000);
    for at in 0..50 {
        let plan = component.plan(&request, &snapshot, &lots(at)).unwrap().said.unwrap();
        assert_ne!(plan.legs[0].replicas, [2]);
    }
}

#[test]
fn the_model_learns_what_hardware_does_and_unlearns_it() {
    let (mut component, request) = (scheduler(), request(6));
    let mut snapshot = fleet(&[(0, 0, 6), (1, 0, 6)]);
    let mut random = Random(5);
    // Within 3 % of a mean, as on a quiet machine.
    let mut run = |component: &mut _, snapshot: &mut Snapshot, node, mean: u64| {
        learn(component, snapshot, node, &request, mean * (970 + random.below(61)) / 1000);
    };
    for _ in 0..20 {
        run(&mut component, &mut snapshot, 0, 20_000_000);
        run(&mut component, &mut snapshot, 1, 80_000_000);
    }
    let predicted = |component: &mut ostrakon_engine::Scheduler, snapshot: &Snapshot| {
        component.plan(&request, snapshot, &lots(0)).unwrap().said.unwrap()
    };
    let before = predicted(&mut component, &snapshot);
    assert_eq!(before.legs[0].replicas, [0]);
    assert!((20_000..26_000).contains(&before.predicted), "{}", before.predicted);
    // Node 0 is throttled to a tenth.
    let mut legs = 0;
    while predicted(&mut component, &snapshot).legs[0].replicas == [0] {
        run(&mut component, &mut snapshot, 0, 200_000_000);
        legs += 1;
        assert!(legs < 10, "still chosen after {legs} slow legs");
    }
    assert!(legs >= 2, "one slow leg may be chance");
    // And is itself again.
    for _ in 0..12 {
        run(&mut component, &mut snapshot, 0, 20_000_000);
    }
    let after = predicted(&mut component, &snapshot);
    assert_eq!(after.legs[0].replicas, [0]);
    assert!((19_000..28_000).contains(&after.predicted), "{}", after.predicted);
}

#[test]
fn what_was_learnt_of_some_is_expected_of_others_alike() {
    let (mut component, request) = (scheduler(), request(6));
    let mut snapshot = fleet(&(0..20).map(|at| (at, 0, 6)).collect::<Vec<_>>());
    for node in &mut snapshot.nodes[10..] {
        node.simd = 2;
    }
    // AVX-512 turns out to be three times slower here, against what is believed at first.
    for _ in 0..10 {
        for node in (0..9).chain(10..19) {
            learn(&mut component, &mut snapshot, node, &request, if node < 10 { 30_000_000 } else { 90_000_000 });
        }
    }
    for at in 0..40 {
        let plan = component.plan(&request, &snapshot, &lots(at)).unwrap().said.unwrap();
        assert_ne!(plan.legs[0].replicas, [19], "never measured, but of hardware that was");
    }
}

#[test]
fn learning_survives_any_state_and_any_sample() {
    let (mut component, request) = (scheduler(), request(6));
    let mut snapshot = fleet(&[(0, 0, 6), (1, 0, 6)]);
    let mut random = Random(11);
    let extremes = [0, 1, u64::MAX, 1 << 40];
    for round in 0..200_u64 {
        let mut sample = sample(&snapshot, 0, &request, extremes[random.below(4) as usize]);
        sample.work = extremes[random.below(4) as usize];
        sample.rows = extremes[random.below(4) as usize];
        sample.threads = random.next() as u32;
        sample.simd = "x".repeat(random.below(100) as usize);
        let length = [0, 1, 38, 353, 4096][random.below(5) as usize];
        let mut state: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        if let Some(layout) = state.first_mut() {
            *layout = 1;
        }
        let learned = component.learn(&state, &state, &sample).unwrap().said;
        assert!(learned.shared.len() < 1024 && learned.node.len() < 64);
        snapshot.learned = if round % 2 == 0 { learned.shared } else { state.clone() };
        snapshot.nodes[0].learned = if round % 3 == 0 { learned.node } else { state };
        decide(&request, &snapshot, &lots(round)).unwrap();
    }
}

#[test]
fn advice_goes_where_the_worst_block_is() {
    let mut component = scheduler();
    let mut place = |snapshot: &Snapshot, node, blocks: u64, lots| {
        let newcomer = Newcomer { node, threads: 4, simd: 1, backend: 3, memory: blocks * 10_000_000 };
        component.place(&request(12), snapshot, &newcomer, &lots).unwrap().said
    };
    // Nobody serves 8 to 12.
    let snapshot = fleet(&[(0, 0, 8), (1, 0, 8), (2, 4, 8)]);
    let Placement { from, to, before, after } = place(&snapshot, None, 4, lots(0)).unwrap();
    assert_eq!((from, to, before), (8, 12, 0));
    assert!(after > 0);
    // Too little memory for all of these: as many as fit.
    let Placement { from, to, .. } = place(&snapshot, None, 2, lots(0)).unwrap();
    assert!(from >= 8 && to == from + 2);
    // All served, the middle worst.
    let snapshot = fleet(&[(0, 0, 4), (1, 0, 4), (2, 4, 8), (3, 8, 12), (4, 8, 12)]);
    let Placement { from, to, before, after } = place(&snapshot, None, 4, lots(0)).unwrap();
    assert_eq!((from, to), (4, 8));
    assert!(after > before && before > 0);
    // A node that alone serves blocks is never sent away from them.
    let Placement { from, to, .. } = place(&snapshot, Some(2), 6, lots(0)).unwrap();
    assert!(from <= 4 && to >= 8, "{from} to {to}");
    let error = place(&snapshot, Some(2), 3, lots(0)).unwrap_err();
    assert!(error.to_string().contains("blocks 4 to 8, which nobody else serves"), "{error}");
    let error = place(&snapshot, None, 0, lots(0)).unwrap_err();
    assert!(error.to_string().contains("no block fits"), "{error}");
}

#[test]
fn joining_by_advice_serves_all_blocks_evenly() {
    let mut component = scheduler();
    let (request, mut snapshot) = (request(24), fleet(&[]));
    let mut random = Random(3);
    for joined in 0..40_u32 {
        let blocks = 3 + random.below(10);
        let newcomer = Newcomer { node: None, threads: 4, simd: 1, backend: 3, memory: blocks * 10_000_000 };
        let placed = component.place(&request, &snapshot, &newcomer, &random.bytes()).unwrap().said.unwrap();
        snapshot.nodes.push(node(joined));
        snapshot.served.push(Served { node: joined, from: placed.from, to: placed.to, rows_per_second: 0 });
        assert!(placed.after >= placed.before);
    }
    // A node with fewer blocks takes more rows a second through each.
    let mut speed = [0; 24];
    for Served { from, to, .. } in &snapshot.served {
        speed[*from as usize..*to as usize].iter_mut().for_each(|speed| *speed += 1000 / (to - from));
    }
    let (least, mean) = (*speed.iter().min().unwrap(), speed.iter().sum::<u32>() / 24);
    assert!(2 * least > mean, "{speed:?}");
}
