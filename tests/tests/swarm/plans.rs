//! Plans with everything around them: signed statuses, snapshots, verifiable randomness, signatures, and audits that make a
//! plan again and catch every change to it.

use ostrakon_node::plugins::{Plugins, SCHEDULER};
use ostrakon_node::swarm::plan_audit::{PlanVerdict, audit_plan};
use ostrakon_node::swarm::schedule::{History, Newcomer, Sample, Scheduler};
use ostrakon_node::{Compiler, Digest, Home, NodeError, RunOptions};
use ostrakon_protocol::{
    BlockNeeds, Hardware, Load, PlanRequest, Roles, Served, SignedPlan, SignedStatus, SigningKey, Snapshot, Status,
    Verify, decode, encode,
};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

const BLOCKS: u32 = 6;

fn scheduler() -> &'static Scheduler {
    static SCHEDULER: OnceLock<Scheduler> = OnceLock::new();
    SCHEDULER.get_or_init(|| load(Compiler::Cranelift))
}

fn load(compiler: Compiler) -> Scheduler {
    let home = Home::from_env().unwrap();
    let options = RunOptions { compiler, ..RunOptions::default() };
    Scheduler::load(&component(), &home, &options).unwrap()
}

fn component() -> Vec<u8> {
    let given = std::env::var_os("OSTRAKON_PLUGINS").map(PathBuf::from);
    Plugins::find(given.as_deref()).unwrap().read(SCHEDULER).unwrap()
}

fn key(at: u8) -> SigningKey {
    SigningKey::from_seed(&[at; 32])
}

fn package() -> Digest {
    Digest::of_content(b"package")
}

/// Node `at`, of an operator of its own, serves everything and audits.
fn status(at: u8) -> Status {
    Status {
        node: key(at).public(),
        sequence: 1,
        issued: 1,
        operator: format!("operator {at}"),
        roles: Roles { execution: true, verification: true, ..Roles::default() },
        addresses: vec![],
        hardware: Hardware { threads: 4, memory: 1 << 33, simd: "avx2".into(), backend: "cpu".into() },
        load: Load { slots: 4, used: 0, free_memory: 1 << 32 },
        served: vec![Served { package: package(), name: "minilm".into(), from: 0, to: BLOCKS, rows_per_second: 0 }],
        plugins: vec![],
        draining: false,
    }
}

fn signed(at: u8) -> SignedStatus {
    SignedStatus::sign(&key(at), status(at))
}

fn request(verify: Verify) -> PlanRequest {
    PlanRequest {
        job: Digest::of_content(b"job"),
        attempt: 0,
        package: package(),
        blocks: vec![BlockNeeds { weight_bytes: 1 << 20, work: 10_000_000, row_bytes: 1536 }; BLOCKS as usize],
        rows: 100,
        batches: 2,
        verify,
        excluded: vec![],
    }
}

fn snapshot(history: &mut History) -> Snapshot {
    history.snapshot(key(100).public(), 1000, (1..=8).map(signed).collect())
}

fn assert_does_not(plan: &SignedPlan, snapshot: &Snapshot, words: &str) {
    match audit_plan(scheduler(), plan, snapshot) {
        PlanVerdict::DoesNot { why } if why.contains(words) => {}
        other => panic!("not `{words}`: {other}"),
    }
}

fn assert_indeterminate(plan: &SignedPlan, snapshot: &Snapshot, words: &str) {
    match audit_plan(scheduler(), plan, snapshot) {
        PlanVerdict::Indeterminate { why } if why.contains(words) => {}
        other => panic!("not `{words}`: {other}"),
    }
}

#[test]
fn a_plan_follows_for_everybody_who_has_the_snapshot() {
    let mut history = History::default();
    for at in 1..=8 {
        history.round_trip(key(at).public(), Duration::from_millis(at.into()));
    }
    let snapshot = snapshot(&mut history);
    for verify in [
        Verify::None,
        Verify::Quorum { needed: 2, nodes: 3 },
        Verify::Audit { per_mille: 100, before: true },
        Verify::Full,
    ] {
        let plan = scheduler().plan(&key(100), request(verify), &snapshot).unwrap();
        assert_eq!(plan.record.plan.legs[0].replicas.len(), verify.replicas() as usize);
        assert_eq!(plan.record.plan.auditors.is_empty(), matches!(verify, Verify::None | Verify::Quorum { .. }));
        // What is sent is what is judged, and the interpreter judges the same.
        let plan: SignedPlan = decode(&encode(&plan)).unwrap();
        let snapshot: Snapshot = decode(&encode(&snapshot)).unwrap();
        assert_eq!(audit_plan(scheduler(), &plan, &snapshot), PlanVerdict::Follows);
        assert_eq!(audit_plan(&load(Compiler::Pulley), &plan, &snapshot), PlanVerdict::Follows);
    }
}

#[test]
fn every_change_of_a_signed_plan_is_caught() {
    let snapshot = snapshot(&mut History::default());
    let quorum = Verify::Quorum { needed: 2, nodes: 3 };
    let honest = scheduler().plan(&key(100), request(quorum), &snapshot).unwrap();
    // The scheduling node lies, and signs the lie.
    let lie = |change: &dyn Fn(&mut SignedPlan)| {
        let mut plan = honest.clone();
        change(&mut plan);
        SignedPlan::sign(&key(100), plan.record)
    };
    let friend = key(1).public();
    type Change<'a> = &'a dyn Fn(&mut SignedPlan);
    let changes: [(Change<'_>, &str); 9] = [
        (&|p| p.record.plan.legs[0].replicas.swap(0, 1), "leg 0 goes to"),
        (&|p| p.record.plan.legs[0].shadows.reverse(), "leg 0 has the shadows"),
        (&|p| p.record.plan.legs[0].shadows.clear(), "has the shadows nobody"),
        (&|p| p.record.plan.auditors.push(friend), "the auditors are"),
        (&|p| p.record.plan.predicted += 1, "microseconds are predicted"),
        (&|p| p.record.plan.legs.clear(), "it has 0 legs, 1 follow"),
        (&|p| p.record.plan.legs[0].to = 5, "leg 0 has blocks 0 to 5, 0 to 6 follow"),
        (&|p| p.record.request.attempt = 1, "randomness does not belong"),
        (&|p| p.record.request.verify = Verify::Quorum { needed: 1, nodes: 3 }, "more than half"),
    ];
    for (change, words) in changes {
        assert_does_not(&lie(change), &snapshot, words);
    }
    let mut friends = honest.clone();
    let chosen: BTreeSet<_> = honest.record.plan.legs[0].replicas.iter().copied().collect();
    let other = (1..=8).map(|at| key(at).public()).find(|node| !chosen.contains(node)).unwrap();
    friends.record.plan.legs[0].replicas[0] = other;
    assert_does_not(&SignedPlan::sign(&key(100), friends.record), &snapshot, "leg 0 goes to");
    // Randomness of another key, or of nothing.
    let of_another = scheduler().plan(&key(101), request(quorum), &snapshot).unwrap();
    assert_does_not(&lie(&|p| p.record.proof = of_another.record.proof), &snapshot, "randomness");
    let nothing = ostrakon_protocol::vrf::Proof::from_bytes([0; 80]);
    assert_does_not(&lie(&|p| p.record.proof = nothing), &snapshot, "randomness");
}

#[test]
fn nobody_is_accused_of_what_he_did_not_sign() {
    let snapshot = snapshot(&mut History::default());
    let plan = scheduler().plan(&key(100), request(Verify::None), &snapshot).unwrap();
    let mut unsigned = plan.clone();
    unsigned.record.plan.predicted += 1;
    assert_indeterminate(&unsigned, &snapshot, "not signed by");
    let mut other = snapshot.clone();
    other.taken += 1;
    assert_indeterminate(&plan, &other, "names the snapshot");
    let mut component = plan.clone();
    component.record.component = Digest::of_content(b"another");
    assert_indeterminate(&SignedPlan::sign(&key(100), component.record), &snapshot, "names the component");
}

#[test]
fn made_up_fleets_are_caught() {
    let plan_on = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = snapshot(&mut History::default());
        change(&mut snapshot);
        let plan = scheduler().plan(&key(100), request(Verify::None), &snapshot);
        (plan, snapshot)
    };
    // Everybody but a friend is said to be full: their signatures do not say so.
    let (plan, snapshot) = plan_on(&|s| s.statuses.iter_mut().skip(1).for_each(|signed| signed.status.load.used = 4));
    assert_does_not(&plan.unwrap(), &snapshot, "not signed by the node it names");
    let (plan, snapshot) = plan_on(&|s| s.taken_by = key(3).public());
    assert_does_not(&plan.unwrap(), &snapshot, "the snapshot was taken by");
    // A snapshot in another form is not even planned on.
    for (change, words) in [
        (
            &(|s: &mut Snapshot| s.statuses.reverse()) as &dyn Fn(&mut Snapshot),
            "the statuses of the snapshot are not in order",
        ),
        (&|s| s.statuses.push(s.statuses[7].clone()), "the statuses of the snapshot"),
        (&|s| s.learned = vec![0; (64 << 10) + 1].into(), "takes 65537 bytes"),
    ] {
        let (plan, _) = plan_on(change);
        let error = plan.unwrap_err();
        assert!(matches!(&error, NodeError::NoPlan(why) if why.contains(words)), "{error}");
    }
}

#[test]
fn a_snapshot_has_only_what_is_genuine_and_newest() {
    let mut history = History::default();
    let newer = SignedStatus::sign(&key(2), Status { sequence: 2, draining: true, ..status(2) });
    let mut forged = signed(3);
    forged.status.load.slots = 1000;
    let stolen = SignedStatus::sign(&key(9), status(4));
    let absurd = SignedStatus::sign(&key(5), Status { operator: "a\u{1b}[2J".into(), ..status(5) });
    let statuses = vec![newer.clone(), forged, signed(1), stolen, signed(2), absurd];
    for _ in 0..2 {
        let snapshot = history.snapshot(key(100).public(), 1, statuses.clone());
        let nodes: BTreeSet<_> = snapshot.statuses.iter().map(|signed| signed.status.node).collect();
        assert_eq!(nodes, BTreeSet::from([key(1).public(), key(2).public()]));
        assert!(snapshot.statuses.contains(&newer));
    }
}

#[test]
fn who_failed_or_did_wrong_is_left_out() {
    let mut history = History::default();
    let (liar, tired) = (key(1).public(), key(2).public());
    history.wrong(liar);
    (0..20).for_each(|_| history.failed(tired));
    let snapshot = snapshot(&mut history);
    let excluded = key(3).public();
    for attempt in 0..30 {
        let request = PlanRequest { attempt, excluded: vec![excluded], ..request(Verify::None) };
        let plan = scheduler().plan(&key(100), request, &snapshot).unwrap().record.plan;
        let leg = &plan.legs[0];
        assert!(!leg.replicas.contains(&tired));
        assert!(!leg.replicas.iter().chain(&leg.shadows).any(|node| *node == liar || *node == excluded));
    }
    history.forgive(&liar);
    assert_eq!(history.observation(&liar).unwrap().wrong, 0);
}

#[test]
fn a_history_outlives_its_process_and_steers_plans() {
    let mut history = History::default();
    let sample = |at: u8, millis| Sample {
        node: key(at).public(),
        hardware: status(at).hardware,
        load: status(at).load,
        work: 60_000_000,
        rows: 50,
        took: Duration::from_millis(millis),
    };
    for _ in 0..6 {
        for at in 1..=8 {
            scheduler().learn(&mut history, &sample(at, if at == 5 { 10 } else { 100 })).unwrap();
        }
    }
    let history_again = History::from_bytes(&history.to_bytes()).unwrap();
    assert_eq!(history_again.to_bytes(), history.to_bytes());
    assert!(History::from_bytes(&history.to_bytes()[1..]).is_err());
    let mut history = history_again;
    assert_eq!(history.observation(&key(5).public()).unwrap().done, 6);
    let snapshot = snapshot(&mut history);
    let request = PlanRequest { batches: 1, ..request(Verify::None) };
    let plan = scheduler().plan(&key(100), request, &snapshot).unwrap();
    assert_eq!(plan.record.plan.legs[0].replicas, [key(5).public()]);
    assert_eq!(audit_plan(scheduler(), &plan, &snapshot), PlanVerdict::Follows);
}

#[test]
fn what_lacks_is_said_in_words() {
    let mut history = History::default();
    let statuses = vec![signed(1), signed(2)];
    let snapshot = history.snapshot(key(100).public(), 1, statuses);
    let no = |request: PlanRequest| match scheduler().plan(&key(100), request, &snapshot).unwrap_err() {
        NodeError::NoPlan(why) => why,
        other => panic!("{other}"),
    };
    let why = no(request(Verify::Quorum { needed: 2, nodes: 3 }));
    assert!(why.contains("nodes of 2 operators") && why.contains("3 different ones are needed"), "{why}");
    let why = no(PlanRequest { package: Digest::of_content(b"another"), ..request(Verify::None) });
    assert!(why.contains("blocks 0 to 5"), "{why}");
    let why = no(PlanRequest { excluded: vec![key(1).public()], ..request(Verify::Full) });
    assert!(why.contains("no verification node is of another operator"), "{why}");
    let why = no(PlanRequest { blocks: vec![], ..request(Verify::None) });
    assert!(why.contains("0 blocks"), "{why}");
}

#[test]
fn a_joining_node_is_told_what_to_serve() {
    let mut first_half = status(1);
    first_half.served[0].to = 3;
    let snapshot = History::default().snapshot(key(100).public(), 1, vec![SignedStatus::sign(&key(1), first_half)]);
    let newcomer = Newcomer { node: None, hardware: status(2).hardware, memory: 3 << 20 };
    let blocks = request(Verify::None).blocks;
    let placed = scheduler().place(&key(100), package(), &blocks, &snapshot, &newcomer).unwrap();
    assert_eq!((placed.from, placed.to, placed.before), (3, 6, 0));
    assert!(placed.after > 0);
    let newcomer = Newcomer { memory: 1, ..newcomer };
    let error = scheduler().place(&key(100), package(), &blocks, &snapshot, &newcomer).unwrap_err();
    assert!(error.to_string().contains("no block fits"), "{error}");
}
