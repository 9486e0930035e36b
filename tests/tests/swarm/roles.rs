//! What a node promises and keeps: reservations, packages that come and go, audits of receipts with many legs.

use ostrakon_node::swarm::serve::{Blocks, NoLeg, PackageSetting, Serving};
use ostrakon_node::{Model, SignedReceipt, progress};
use ostrakon_protocol::wire::{Prepare, Refusal, Reply};
use ostrakon_protocol::{
    Attestation, Batch, Digest, Finding, Leg, Place, Receipt, Request, SigningKey, Swarm, Witness, encode,
};
use ostrakon_tests::serving::{ask, column, digest, inputs, settings, start, tensor_digest, whole};
use ostrakon_tests::tiny::{BLOCKS, MAX_TOKENS, Random, Tiny, block_name, key, quick};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

fn refused(reply: Reply) -> (Refusal, String) {
    match reply {
        Reply::Refused { why, reason } => (why, reason),
        other => panic!("{other:?}"),
    }
}

fn prepared(reply: Reply) -> Digest {
    match reply {
        Reply::Prepared { session } => session,
        other => panic!("{other:?}"),
    }
}

fn some_request(serving: &Serving) -> Request {
    Request::of_texts(serving.packages()[0].digest, vec!["w1 w2".into()])
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_are_bounded_and_their_owners() {
    let tiny = Tiny::new();
    let serving = start(&tiny, 1, settings(), vec![whole(&tiny.honest(2))]).await;
    let request = some_request(&serving);
    let good = ask(&request, 0, 2);
    let [alice, bob, carol] = [21, 22, 23].map(|seed| key(seed).public());
    for (bad, why, words) in [
        (Prepare { package: digest(9), ..good.clone() }, Refusal::NotHere, "is not served here"),
        (Prepare { to: 99, ..good.clone() }, Refusal::NotHere, "0 to 99"),
        (Prepare { from: 2, ..good.clone() }, Refusal::NotHere, "2 to 2"),
        (Prepare { from: 3, to: 1, ..good.clone() }, Refusal::NotHere, "3 to 1"),
        (Prepare { to: u32::MAX, ..good.clone() }, Refusal::Bad, "at most 1024 blocks"),
        (Prepare { rows: 0, ..good.clone() }, Refusal::Bad, "1 to 2048"),
        (Prepare { rows: 2049, ..good.clone() }, Refusal::Bad, "1 to 2048"),
    ] {
        let (kind, reason) = refused(serving.prepare(alice, bad).await);
        assert!(kind == why && reason.contains(words), "{kind:?} {reason}");
    }
    // One peer, then all.
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(prepared(serving.prepare(alice, good.clone()).await));
    }
    let (kind, reason) = refused(serving.prepare(alice, good.clone()).await);
    assert!(kind == Refusal::Busy && reason.contains("one peer"), "{reason}");
    for _ in 0..2 {
        prepared(serving.prepare(bob, good.clone()).await);
    }
    let (kind, reason) = refused(serving.prepare(carol, good.clone()).await);
    assert!(kind == Refusal::Busy && reason.contains("8 slots"), "{reason}");
    assert_eq!(serving.load().used, 8);
    // Whose they are.
    for reply in [serving.commit(bob, sessions[0]).await, serving.abort(bob, sessions[0]).await] {
        assert_eq!(refused(reply).0, Refusal::Forbidden);
    }
    assert_eq!(serving.commit(alice, sessions[0]).await, Reply::Ok);
    assert_eq!(serving.commit(alice, sessions[0]).await, Reply::Ok, "again is as once");
    assert_eq!(serving.abort(alice, sessions[0]).await, Reply::Ok);
    assert_eq!(serving.abort(alice, sessions[0]).await, Reply::Ok, "what is gone is gone");
    assert_eq!(refused(serving.commit(alice, sessions[0]).await).0, Refusal::NotHere);
    assert_eq!(serving.load().used, 7);
    prepared(serving.prepare(carol, good).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_promised_once() {
    let tiny = Tiny::new();
    let package = whole(&tiny.honest(1));
    // A hidden row has 64 bytes: two of the input and four of outputs, for 64 rows.
    let memory = 3 * 64 * 64 * 6;
    let settings = ostrakon_node::swarm::serve::ServeSettings { memory, ..settings() };
    let serving = start(&tiny, 1, settings, vec![package]).await;
    let good = ask(&some_request(&serving), 1, 3);
    let alice = key(21).public();
    let first = prepared(serving.prepare(alice, good.clone()).await);
    for _ in 0..2 {
        prepared(serving.prepare(alice, good.clone()).await);
    }
    assert_eq!(serving.load().free_memory, 0);
    let (kind, reason) = refused(serving.prepare(alice, good.clone()).await);
    assert!(kind == Refusal::Busy && reason.contains("bytes"), "{reason}");
    serving.abort(alice, first).await;
    prepared(serving.prepare(alice, good).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_used_runs_out() {
    let tiny = Tiny::new();
    let serving = start(&tiny, 1, settings(), vec![whole(&tiny.honest(1))]).await;
    let good = ask(&some_request(&serving), 0, 5);
    let alice = key(21).public();
    let short = prepared(serving.prepare(alice, Prepare { hold: 0, ..good.clone() }).await);
    let long = prepared(serving.prepare(alice, Prepare { hold: u32::MAX, ..good }).await);
    assert_eq!(serving.load().used, 2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(refused(serving.commit(alice, short).await).0, Refusal::NotHere);
    assert_eq!(serving.load().used, 1);
    assert_eq!(serving.metrics().all().iter().find(|(name, ..)| *name == "expired").unwrap().2, 1);
    assert_eq!(serving.commit(alice, long).await, Reply::Ok);
    // Draining takes nothing new and waits for what there is.
    let draining = tokio::spawn({
        let serving = Arc::clone(&serving);
        async move { serving.drain().await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!draining.is_finished() && serving.is_draining());
    let (kind, reason) = refused(serving.prepare(alice, ask(&some_request(&serving), 0, 5)).await);
    assert!(kind == Refusal::Busy && reason.contains("leave"), "{reason}");
    assert_eq!(serving.abort(alice, long).await, Reply::Ok);
    tokio::time::timeout(Duration::from_secs(5), draining).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_survive_a_restart() {
    let tiny = Tiny::new();
    let package = whole(&tiny.honest(1));
    let alice = key(21).public();
    let serving = start(&tiny, 1, settings(), vec![package.clone()]).await;
    let good = ask(&some_request(&serving), 0, 5);
    let started = Instant::now();
    let committed = prepared(serving.prepare(alice, good.clone()).await);
    assert_eq!(serving.commit(alice, committed).await, Reply::Ok);
    println!("prepare and commit, written to disk: {:?}", started.elapsed());
    let waiting = prepared(serving.prepare(alice, good.clone()).await);
    let over = prepared(serving.prepare(alice, Prepare { hold: 100, ..good.clone() }).await);
    let aborted = prepared(serving.prepare(alice, good).await);
    assert_eq!(serving.abort(alice, aborted).await, Reply::Ok);
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(serving);
    let serving = start(&tiny, 1, settings(), vec![package]).await;
    assert_eq!(serving.load().used, 2);
    assert_eq!(serving.commit(alice, waiting).await, Reply::Ok);
    assert_eq!(serving.commit(alice, committed).await, Reply::Ok);
    for gone in [over, aborted] {
        assert_eq!(refused(serving.commit(alice, gone).await).0, Refusal::NotHere);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_come_and_go() {
    let tiny = Tiny::new();
    let (one, two) = (tiny.honest(1), tiny.honest(3));
    let serving = start(&tiny, 1, settings(), vec![whole(&one)]).await;
    let before = serving.packages();
    // What cannot be loaded changes nothing and says why.
    for (bad, words) in [
        (PackageSetting { package: "nowhere".into(), blocks: Blocks::All }, "nowhere"),
        (
            PackageSetting { package: two.clone(), blocks: Blocks::Range(2..9) },
            "no blocks 2-8: the package has the blocks 0-4",
        ),
        (PackageSetting { package: two.clone(), blocks: Blocks::Range(7..8) }, "no blocks 7-7"),
        (PackageSetting { package: two.clone(), blocks: Blocks::Shards(vec!["x".into()]) }, "no shard `x`"),
        (PackageSetting { package: two.clone(), blocks: Blocks::Shards(vec![]) }, "no shard is named"),
        (PackageSetting { package: digest(7).to_string().into(), blocks: Blocks::All }, "no package in the store"),
    ] {
        let error = serving.set_packages(vec![whole(&one), bad]).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(Arc::ptr_eq(&serving.packages()[0], &before[0]));
    }
    // What stays is not loaded again.
    let shards: Vec<String> = {
        let model = tiny.load(&two, &quick());
        model.manifest().shards.iter().map(|shard| shard.name.clone()).collect()
    };
    let first_two = PackageSetting { package: two.clone(), blocks: Blocks::Shards(shards[..2].to_vec()) };
    serving.set_packages(vec![first_two, whole(&one)]).await.unwrap();
    let served = serving.served();
    assert_eq!((served.len(), served[0].from), (2, 0));
    assert!(served[0].to < 5 && served[1].to == 5);
    assert!(Arc::ptr_eq(&serving.packages()[1], &before[0]));
    let apart = PackageSetting { package: two, blocks: Blocks::Shards(vec![shards[0].clone(), shards[2].clone()]) };
    assert!(serving.set_packages(vec![apart]).await.unwrap_err().to_string().contains("do not follow"));
    // A part does what the whole does there.
    let (ids, lengths) = inputs(&["w1 w2 w3".into(), "w4".into()]);
    let lengths = column(lengths.iter().map(|&n| n as i32).collect());
    let run = |at: usize| {
        let (hosted, ids, lengths) = (serving.packages()[at].clone(), ids.clone(), lengths.clone());
        async move { hosted.compute(0..2, (ids.clone(), tensor_digest(&ids)), lengths, &CancellationToken::new()).await }
    };
    let (part, all) = (run(0).await.unwrap(), run(1).await.unwrap());
    assert_eq!(tensor_digest(&part.output), tensor_digest(&all.output));
    assert!(serving.served().iter().all(|served| served.rows_per_second > 0));
    // Whoever holds a package that is gone can finish on it.
    let old = serving.packages();
    serving.set_packages(vec![]).await.unwrap();
    assert!(serving.served().is_empty());
    let abort = CancellationToken::new();
    let late = old[0].compute(0..2, (ids.clone(), tensor_digest(&ids)), lengths.clone(), &abort).await.unwrap();
    assert_eq!(tensor_digest(&late.output), tensor_digest(&all.output));
    abort.cancel();
    let gone = old[0].compute(0..2, (ids.clone(), tensor_digest(&ids)), lengths, &abort).await;
    assert!(matches!(gone, Err(NoLeg::Aborted)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_is_cut_short_ends_no_node() {
    let tiny = Tiny::new();
    let package = tiny.honest(2);
    let weights = tiny.load(&package, &quick()).manifest().blocks[1].weights.clone().unwrap();
    let serving = start(&tiny, 1, settings(), vec![whole(&package)]).await;
    let hosted = serving.packages()[0].clone();
    // Before anything is computed: afterwards the blocks are made ready again beside what this does.
    std::fs::File::options().write(true).open(package.join(&weights.file)).unwrap().set_len(10).unwrap();
    let (ids, lengths) = inputs(&["w1 w2".into()]);
    let lengths = column(lengths.iter().map(|&n| n as i32).collect());
    let given = (ids.clone(), tensor_digest(&ids));
    let cut = hosted.compute(0..2, given, lengths, &CancellationToken::new()).await.map(|_| ()).unwrap_err();
    assert!(matches!(&cut, NoLeg::Cut(file) if weights.file.ends_with(file)), "{cut}");
}

/// A receipt of this request whose legs were run by these nodes, and witnesses for each leg.
struct ManyLegs {
    request: Request,
    receipt: Receipt,
    nodes: [SigningKey; 3],
    issuer: SigningKey,
}

impl ManyLegs {
    fn run(model: &mut Model, texts: Vec<String>) -> Self {
        let nodes = [11, 12, 13].map(key);
        let (_, signed) = model.run_with_receipt(&texts, Some(3), &progress::unwatched, &nodes[0]).unwrap();
        let mut receipt = signed.receipt;
        for at in 0..receipt.batches.len() {
            let place = receipt.place(at as u32).unwrap();
            let leg = receipt.batches[at].legs.remove(0);
            receipt.batches[at].legs = [0..2, 2..4, 4..5]
                .into_iter()
                .zip(&nodes)
                .map(|(part, node)| Leg::sign(node, &place, "cpu", leg.steps[part].to_vec()))
                .collect();
        }
        receipt.swarm = Some(Swarm { job: digest(1), plans: vec![digest(2)], witnesses: vec![] });
        let mut many = Self { request: Request::of_texts(receipt.package, texts), receipt, nodes, issuer: key(10) };
        many.receipt.swarm.as_mut().unwrap().witnesses =
            (0..3).map(|leg| many.witness(0, leg, &key(14 + leg as u8))).collect();
        many
    }

    fn place(&self, batch: u32) -> Place {
        self.receipt.place(batch).unwrap()
    }

    fn witness(&self, batch: u32, leg: u32, node: &SigningKey) -> Witness {
        let Batch { legs, .. } = &self.receipt.batches[batch as usize];
        let own = Leg::sign(node, &self.place(batch), "cpu", legs[leg as usize].steps.clone());
        Witness { batch, leg, node: node.public(), backend: own.backend, signature: own.signature }
    }

    fn signed(&self) -> SignedReceipt {
        SignedReceipt::sign(&self.issuer, self.receipt.clone(), Some(self.request.clone()))
    }
}

fn attested(reply: Reply, signed: &SignedReceipt, auditor: &SigningKey) -> (Finding, u64) {
    let Reply::Audited(attestation) = reply else { panic!("{reply:?}") };
    assert!(attestation.is_signed() && attestation.auditor == auditor.public());
    let Attestation { receipt, finding, looked_at, .. } = attestation;
    assert_eq!(receipt, signed.receipt.digest());
    (finding, looked_at)
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_many_nodes_are_audited() {
    let tiny = Tiny::new();
    let package = tiny.honest(3);
    let serving = start(&tiny, 1, settings(), vec![whole(&package)]).await;
    let honest = ManyLegs::run(&mut tiny.load(&package, &quick()), Random(5).texts(7));
    let (auditor, alice) = (key(1), key(21).public());
    let audit = async |signed: &SignedReceipt, per_mille| serving.audit(alice, &encode(signed), per_mille).await;
    let steps = (BLOCKS * honest.receipt.batches.len()) as u64;

    let signed = honest.signed();
    assert_eq!(attested(audit(&signed, 1000).await, &signed, &auditor), (Finding::Accept, steps));
    let (finding, looked_at) = attested(audit(&signed, 1).await, &signed, &auditor);
    assert!(finding == Finding::Accept && (1..=steps).contains(&looked_at));

    // A wrong step of the second leg of the second batch, signed and carried on by the third: its node is accused.
    let mut wrong = ManyLegs::run(&mut tiny.load(&package, &quick()), Random(5).texts(7));
    let place = wrong.place(1);
    for (leg, at, input) in [(1, 1, None), (2, 0, Some(digest(77)))] {
        let legs = &mut wrong.receipt.batches[1].legs;
        let mut steps = legs[leg].steps.clone();
        match input {
            Some(input) => steps[at].input = input,
            None => steps[at].output = digest(77),
        }
        legs[leg] = Leg::sign(&wrong.nodes[leg], &place, "cpu", steps);
    }
    let signed = wrong.signed();
    let (finding, _) = attested(audit(&signed, 1000).await, &signed, &auditor);
    let Finding::Reject { node, reason } = finding else { panic!("{finding:?}") };
    assert_eq!(node, wrong.nodes[1].public());
    assert!(reason.contains("batch 1") && reason.contains(&block_name(3)), "{reason}");

    // A witness that did not sign, or that signed what is not there: nobody is accused, nothing is accepted.
    let broken: [&dyn Fn(&mut Witness); 5] = [
        &|witness| witness.leg = 2,
        &|witness| witness.leg = 9,
        &|witness| witness.batch = 99,
        &|witness| witness.node = key(30).public(),
        &|witness| witness.backend = "openvino".into(),
    ];
    for break_it in broken {
        let mut broken = ManyLegs::run(&mut tiny.load(&package, &quick()), Random(5).texts(7));
        break_it(&mut broken.receipt.swarm.as_mut().unwrap().witnesses[1]);
        let signed = broken.signed();
        let (finding, looked_at) = attested(audit(&signed, 1000).await, &signed, &auditor);
        let Finding::Indeterminate { reason } = finding else { panic!("{finding:?}") };
        assert!(reason.contains("as a witness") || reason.contains("does not have"), "{reason}");
        // The blocks can still be looked at only if the request's tokens were made: they were not.
        assert_eq!(looked_at, 0, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_audited_is_refused() {
    let tiny = Tiny::new();
    let package = tiny.honest(3);
    let honest = ManyLegs::run(&mut tiny.load(&package, &quick()), vec!["w1".into()]);
    let signed = honest.signed();
    let alice = key(21).public();
    let elsewhere = start(&tiny, 1, settings(), vec![]).await;
    let one_of_them = start(&tiny, 12, settings(), vec![whole(&package)]).await;
    let serving = start(&tiny, 2, settings(), vec![whole(&package)]).await;
    let mut no_role = settings();
    no_role.roles.verification = false;
    let without_role = start(&tiny, 3, no_role, vec![whole(&package)]).await;
    let without_request = SignedReceipt { request: None, ..signed.clone() };
    let long = "w1 ".repeat(500_000);
    let long = SignedReceipt { request: Some(Request::of_texts(honest.receipt.package, vec![long])), ..signed.clone() };
    let bytes = encode(&signed);
    for (node, receipt, per_mille, why, words) in [
        (&elsewhere, bytes.clone(), 1000, Refusal::NotHere, "no package in the store"),
        (&one_of_them, bytes.clone(), 1000, Refusal::NotHere, "does not audit itself"),
        (&without_role, bytes.clone(), 1000, Refusal::NotHere, "audits nothing"),
        (&serving, bytes.clone(), 1001, Refusal::Bad, "1001"),
        (&serving, encode(&without_request), 1000, Refusal::Bad, "without its request"),
        (&serving, bytes[1..].to_vec(), 1000, Refusal::Bad, "the receipt"),
        (&serving, vec![0xff; 100], 1000, Refusal::Bad, "the receipt"),
        (&serving, vec![], 1000, Refusal::Bad, "the receipt"),
    ] {
        let (kind, reason) = refused(node.audit(alice, &receipt, per_mille).await);
        assert!(kind == why && reason.contains(words), "{kind:?} {reason}");
    }
    // A request that is not the receipt's is not run: nothing is concluded.
    let reply = serving.audit(alice, &encode(&long), 1000).await;
    let (finding, _) = attested(reply, &long, &key(2));
    assert!(matches!(finding, Finding::Indeterminate { .. }), "{finding:?}");
    assert_eq!(MAX_TOKENS, 10);
    let (finding, _) = attested(serving.audit(alice, &bytes, 0).await, &signed, &key(2));
    assert_eq!(finding, Finding::Accept);
}
