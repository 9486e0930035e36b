//! Jobs through the five phases, over real sockets, with the real components.

use crate::nodes::{LEAD, Manner, Swarm, coordinator};
use ostrakon_node::progress;
use ostrakon_node::swarm::check::{Check, check};
use ostrakon_node::swarm::client::{SwarmAnswer, SwarmClient, SwarmRequest};
use ostrakon_protocol::wire::Reply;
use ostrakon_protocol::{Attestation, Digest, Finding, Job, JobAnswer, Request, SignedReceipt, Verify};
use ostrakon_tests::tiny::{Random, expect, key, quick};
use std::sync::Arc;
use std::time::Duration;

const QUORUM: Verify = Verify::Quorum { needed: 2, nodes: 3 };
const BEFORE: Verify = Verify::Audit { per_mille: 300, before: true };
const AFTER: Verify = Verify::Audit { per_mille: 1000, before: false };

async fn client(swarm: &Swarm, seed: u8) -> SwarmClient {
    expect(SwarmClient::connect(&swarm.lead.addresses(), key(seed)).await)
}

fn asked(swarm: &Swarm, texts: &[String], verify: Verify) -> SwarmRequest {
    SwarmRequest {
        request: Request::of_texts(swarm.known.digest(), texts.to_vec()),
        verify,
        batch: 2,
        package: Some(Arc::clone(&swarm.known)),
        within: Duration::from_secs(90),
    }
}

fn local(swarm: &Swarm, texts: &[String]) -> Digest {
    let mut model = swarm.tiny.load(&swarm.package, &quick());
    expect(model.run(texts, None, &progress::unwatched)).digest
}

fn runtime() -> tokio::runtime::Runtime {
    expect(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build())
}

fn rows(answer: &SwarmAnswer) -> Vec<u8> {
    answer.outputs.iter().flat_map(|output| &output.values).flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn every_way_of_verification_gives_the_local_digest() {
    runtime().block_on(async {
        let swarm = Swarm::start(&[Manner::Honest; 4]).await;
        let texts = Random(7).texts(9);
        let right = local(&swarm, &texts);
        let client = client(&swarm, 50).await;
        for verify in [Verify::None, QUORUM, BEFORE, AFTER, Verify::Full] {
            let request = asked(&swarm, &texts, verify);
            let signed = Arc::new(expect(client.job(&request)));
            let answer = expect(client.run_job(&signed, Some(&swarm.known), request.within).await);
            assert_eq!(answer.digest, right, "{verify:?}");
            assert_eq!(answer.plans.len(), 1, "{verify:?}");
            assert_eq!(answer.outputs.len(), texts.len());
            // The same job again is the same job: its answer comes from the store.
            let again = expect(client.run_job(&signed, Some(&swarm.known), request.within).await);
            assert_eq!(again.signed.receipt.digest(), answer.signed.receipt.digest());
            if let Verify::Quorum { .. } = verify {
                let legs: usize = answer.signed.receipt.batches.iter().map(|batch| batch.legs.len()).sum();
                assert!(answer.signed.receipt.swarm.unwrap().witnesses.len() >= legs);
            }
        }
        let Reply::Receipts { receipts } = swarm.coordinator.receipts().await else { panic!("no receipts") };
        assert_eq!(receipts.len(), 5);
        // Nobody else gets to see it.
        let stranger = expect(SwarmClient::connect(&swarm.lead.addresses(), key(51)).await);
        let foreign = Arc::new(expect(client.job(&asked(&swarm, &texts, Verify::None))));
        let refused = stranger.run_job(&foreign, None, Duration::from_secs(3)).await.unwrap_err().to_string();
        assert!(refused.contains("only the client"), "{refused}");
        assert!((0..4).all(|node| swarm.reputation(node) == 1000));
    });
}

/// One operator cannot vote alone, and nobody knows another package: both are said long before the time is over.
#[test]
fn what_cannot_be_done_is_said_soon() {
    runtime().block_on(async {
        let swarm = Swarm::start(&[Manner::Honest]).await;
        let client = client(&swarm, 50).await;
        let texts = Random(13).texts(1);
        let foreign = Request::of_texts(Digest::from_bytes([9; 32]), texts.clone());
        let unknown = SwarmRequest { request: foreign, package: None, ..asked(&swarm, &texts, Verify::None) };
        let few = asked(&swarm, &texts, QUORUM);
        let hasty = SwarmRequest { within: Duration::from_secs(2), ..few.clone() };
        let start = std::time::Instant::now();
        for (request, words) in [
            (unknown, ["does not know the package", "`packages`"]),
            (hasty, ["within 2 s", "nodes of 1 operators"]),
            (few, ["no plan can be made", "nodes of 1 operators"]),
        ] {
            let why = client.run(&request).await.unwrap_err().to_string();
            assert!(words.iter().all(|word| why.contains(word)), "{why}");
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    });
}

/// A job that the first node is chosen for, because there are no others yet. It must not change a byte.
async fn meets(manner: Manner, verify: Verify) -> Swarm {
    let manners: &[Manner] = match verify {
        Verify::Quorum { .. } => &[manner, Manner::Honest, Manner::Honest],
        Verify::Full => &[manner, Manner::Audits, Manner::Audits],
        _ => &[manner],
    };
    let mut swarm = Swarm::start(manners).await;
    let texts = Random(11).texts(6);
    let right = local(&swarm, &texts);
    let (client, request) = (client(&swarm, 50).await, asked(&swarm, &texts, verify));
    let hostile = swarm.nodes[0].0;
    let later = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        swarm.join(90, Manner::Honest).await;
    };
    let (answer, ()) = tokio::join!(client.run(&request), later);
    let answer = expect(answer);
    assert_eq!(answer.digest, right, "{manner:?} {verify:?}");
    let first = &answer.plans[0].record.plan;
    assert!(first.legs.iter().any(|leg| leg.replicas.contains(&hostile)), "{manner:?} was not chosen");
    let receipt = &answer.signed.receipt;
    assert!(receipt.steps().all(|(_, node, _)| node != hostile), "{manner:?} is on the receipt");
    let witnesses = &receipt.swarm.as_ref().unwrap().witnesses;
    assert!(witnesses.iter().all(|witness| witness.node != hostile), "{manner:?} is a witness");
    assert!((1..swarm.nodes.len()).all(|node| swarm.reputation(node) == 1000), "an honest node is blamed");
    swarm
}

#[test]
fn a_node_that_drops_streams_is_replaced() {
    runtime().block_on(async {
        meets(Manner::Drops, Verify::None).await;
        meets(Manner::Drops, QUORUM).await;
    });
}

#[test]
fn a_node_that_never_answers_is_named() {
    runtime().block_on(async {
        for verify in [Verify::None, QUORUM] {
            let swarm = meets(Manner::Silent, verify).await;
            assert!(swarm.reputation(0) < 1000);
        }
    });
}

#[test]
fn a_node_that_lies_is_named_by_quorum_and_audit() {
    runtime().block_on(async {
        for verify in [QUORUM, Verify::Full] {
            let swarm = meets(Manner::Lies, verify).await;
            assert!(swarm.reputation(0) < 1000, "{verify:?}");
        }
    });
}

#[test]
fn a_node_with_two_tongues_is_named() {
    runtime().block_on(async {
        let swarm = meets(Manner::Equivocates, Verify::None).await;
        assert!(swarm.reputation(0) < 1000);
        let swarm = meets(Manner::Wavers, QUORUM).await;
        assert!(swarm.reputation(0) < 1000);
    });
}

#[test]
fn an_auditor_that_accuses_honest_nodes_is_outvoted() {
    runtime().block_on(async {
        let swarm = Swarm::start(&[Manner::Honest, Manner::Audits, Manner::Audits, Manner::Accuses]).await;
        let client = client(&swarm, 50).await;
        // Lots decide who is asked first.
        for seed in 0..40 {
            let texts = Random(seed).texts(2);
            let answer = expect(client.run(&asked(&swarm, &texts, Verify::Full)).await);
            assert_eq!(answer.digest, local(&swarm, &texts));
            if swarm.reputation(3) < 1000 {
                break;
            }
        }
        let reputations: Vec<u32> = (0..4).map(|node| swarm.reputation(node)).collect();
        assert!(reputations[3] < 1000 && reputations[..3] == [1000; 3], "{reputations:?}");
    });
}

#[test]
fn an_unfinished_job_is_run_after_a_restart() {
    runtime().block_on(async {
        let mut swarm = Swarm::start(&[]).await;
        let texts = Random(3).texts(5);
        let client = client(&swarm, 50).await;
        let request = asked(&swarm, &texts, Verify::None);
        let signed = expect(client.job(&request));
        // There is nobody to run it: it waits.
        let data = swarm.tiny.path().join("second");
        let first = coordinator(&swarm.tiny, &swarm.lead, &swarm.known, &data).await;
        let Reply::Job(_) = first.submit(key(50).public(), signed.clone()).await else { panic!("it is not taken") };
        tokio::time::sleep(Duration::from_millis(300)).await;
        first.stop().await;
        drop(first);
        swarm.join(1, Manner::Honest).await;
        swarm.settle().await;
        let second = coordinator(&swarm.tiny, &swarm.lead, &swarm.known, &data).await;
        second.drain().await;
        let Reply::Job(state) = second.job(key(50).public(), signed.job.id()).await else { panic!("it is forgotten") };
        assert!(matches!(state, ostrakon_protocol::wire::JobState::Done { .. }), "{state:?}");
        let Reply::Receipts { receipts } = second.receipts().await else { panic!("no receipts") };
        assert_eq!((receipts.len(), receipts[0].job), (1, signed.job.id()));
        let Reply::Refused { .. } = second.job(key(51).public(), signed.job.id()).await else { panic!("told") };
    });
}

/// The answer as it came, to be doctored.
struct Came {
    job: Job,
    answer: JobAnswer,
    rows: Vec<u8>,
}

impl Came {
    fn of(job: &Job, got: &SwarmAnswer) -> Self {
        let mut receipt = got.signed.clone();
        receipt.request = None;
        let answer = JobAnswer {
            job: job.id(),
            receipt,
            plans: got.plans.clone(),
            attestations: got.attestations.clone(),
            texts: got.outputs.iter().map(|o| (u32::try_from(o.tokens).unwrap(), o.truncated)).collect(),
            width: u32::try_from(got.outputs[0].values.len()).unwrap(),
        };
        Self { job: job.clone(), answer, rows: rows(got) }
    }

    /// Sign it again, as the coordinator could.
    fn sealed(mut self) -> Self {
        self.answer.receipt = SignedReceipt::sign(&key(LEAD), self.answer.receipt.receipt, None);
        self
    }
}

#[test]
fn a_doctored_answer_is_not_believed() {
    runtime().block_on(async {
        let swarm = Swarm::start(&[Manner::Honest; 5]).await;
        let texts = Random(5).texts(5);
        let client = client(&swarm, 50).await;
        let came = async |verify| {
            let signed = Arc::new(expect(client.job(&asked(&swarm, &texts, verify))));
            let answer = expect(client.run_job(&signed, Some(&swarm.known), Duration::from_secs(60)).await);
            (signed.job.clone(), answer)
        };
        let (job, quorum) = came(QUORUM).await;
        let (full_job, full) = came(Verify::Full).await;
        let why = |came: Came| {
            let Came { job, answer, rows } = came;
            let (coordinator, package) = (key(LEAD).public(), Some(&*swarm.known));
            check(Check { job: &job, coordinator, package, answer: &answer, rows: &rows }).map_err(|bad| bad.what)
        };
        assert_eq!(why(Came::of(&job, &quorum)), Ok(ostrakon_node::swarm::check::Checked::default()));
        let doctored = |change: &dyn Fn(&mut Came)| {
            let mut came = Came::of(&job, &quorum);
            change(&mut came);
            why(came.sealed()).unwrap_err()
        };
        let says = |change: &dyn Fn(&mut Came), what: &str| {
            let why = doctored(change);
            assert!(why.contains(what), "{why:?} does not say {what:?}");
        };
        says(&|c| c.rows[0] ^= 1, "rows that came are not those");
        says(&|c| c.rows.truncate(1), "row for each text");
        says(&|c| c.answer.job = Digest::of_content(b"x"), "another job");
        says(&|c| c.answer.receipt.receipt.request = Digest::of_content(b"x"), "another request");
        says(&|c| drop(c.answer.plans.pop()), "plans that came");
        says(&|c| c.answer.receipt.receipt.outputs.swap(0, 1), "rows that came are not those");
        says(&|c| c.answer.receipt.receipt.answer = Digest::of_content(b"x"), "not that of its outputs");
        says(&|c| c.answer.receipt.receipt.batches[0].legs[0].steps[0].fuel += 1, "is not signed by");
        says(&|c| c.answer.receipt.receipt.batches.swap(0, 1), "is not signed by");
        says(&|c| c.answer.receipt.receipt.swarm.as_mut().unwrap().witnesses.clear(), "the quorum needs 2");
        says(
            &|c| {
                let witnesses = &mut c.answer.receipt.receipt.swarm.as_mut().unwrap().witnesses;
                witnesses[0].backend.push('x');
            },
            "not signed by its witness",
        );
        says(&|c| c.answer.texts[0].0 += 1, "number of tokens");
        let mut forged = Came::of(&job, &quorum);
        forged.answer.receipt = SignedReceipt::sign(&key(9), forged.answer.receipt.receipt, None);
        assert!(why(forged).unwrap_err().contains("signed by another node"));
        let mut plan = Came::of(&job, &quorum);
        plan.answer.plans[0].record.request.rows += 1;
        plan.answer.receipt.receipt.swarm.as_mut().unwrap().plans = vec![plan.answer.plans[0].record.digest()];
        assert!(why(plan.sealed()).unwrap_err().contains("not signed by the coordinator"));
        // Rows of the coordinator's own making, with everything that it can sign itself.
        let mut rows = Came::of(&job, &quorum);
        rows.rows[0] ^= 1;
        let values: Vec<f32> = rows
            .rows
            .as_chunks::<4>()
            .0
            .iter()
            .take(rows.answer.width as usize)
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let receipt = &mut rows.answer.receipt.receipt;
        receipt.outputs[0] = Digest::of_output(&[rows.answer.width], &values);
        receipt.answer = Digest::of_outputs(&receipt.outputs);
        assert!(why(rows.sealed()).unwrap_err().contains("not what its last node signed"));

        let mut unheard = Came::of(&full_job, &full);
        assert!(why(Came::of(&full_job, &full)).is_ok());
        unheard.answer.attestations.clear();
        assert!(why(unheard).unwrap_err().contains("no auditor has accepted"));
        let mut own = Came::of(&full_job, &full);
        let digest = own.answer.receipt.receipt.digest();
        own.answer.attestations =
            vec![Attestation::sign(&key(LEAD), digest, Digest::of_content(b"v"), 1000, Finding::Accept)];
        assert!(why(own).unwrap_err().contains("no plan names the auditor"));
    });
}
