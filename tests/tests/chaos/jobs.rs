//! Hundreds of jobs while machines die: no job is lost, none is wrong, none is answered twice.
//!
//! Ten nodes are ten processes, each in a network namespace of its own where this machine allows it. While four clients
//! ask, nodes are killed and started again, frozen, slowed and cut off from the others, up to three at once.

use ostrakon_node::swarm::client::{SwarmClient, SwarmRequest};
use ostrakon_node::{Digest, Request};
use ostrakon_protocol::{SigningKey, Verify};
use ostrakon_tests::swarm::{Part, Swarm};
use ostrakon_tests::tiny::{Random, Tiny, expect, quick};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const NODES: usize = 10;
/// Nodes that are disturbed at once.
const DISTURBED: usize = 3;
const CLIENTS: usize = 4;
/// What is asked, again and again.
const REQUESTS: usize = 8;
/// No job may need longer, whatever happens.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every node serves two of three shards, so that every shard is on six nodes at least.
fn parts(package: &Path) -> Vec<Part> {
    let roles = |at| match at {
        0..3 => vec!["execution", "scheduling"],
        3..6 => vec!["execution", "verification"],
        9 => vec!["execution", "participation"],
        _ => vec!["execution"],
    };
    let shards = |at: usize| {
        let left_out = at % 3;
        (0..3).filter(|&shard| shard != left_out).map(|shard| format!("shard-{shard}")).collect()
    };
    let part = |at| Part {
        operator: format!("operator-{at}"),
        roles: roles(at),
        packages: vec![(package.to_owned(), shards(at))],
        ..Part::default()
    };
    (0..NODES).map(part).collect()
}

/// What happened to a job.
struct Done {
    took: Duration,
    plans: usize,
    verify: Verify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Killed,
    Frozen,
    Slowed,
    CutOff,
}

/// Disturb nodes until all jobs are done.
fn disturb(swarm: &mut Swarm, over: &AtomicBool) -> BTreeMap<Trouble, usize> {
    let mut random = Random(11);
    let mut troubles: Vec<(usize, Trouble, Instant)> = Vec::new();
    let mut counts = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        let (ended, going): (Vec<_>, Vec<_>) = troubles.into_iter().partition(|(_, _, end)| *end <= Instant::now());
        troubles = going;
        for (at, trouble, _) in ended {
            match trouble {
                Trouble::Killed => swarm.restart(at),
                Trouble::Frozen | Trouble::Slowed => swarm.node(at).signal("CONT"),
                Trouble::CutOff => swarm.node(at).cut_off(false),
            }
        }
        for (at, trouble, _) in &troubles {
            if *trouble == Trouble::Slowed {
                // One part in four of the time.
                swarm.node(*at).signal(if random.below(4) == 0 { "CONT" } else { "STOP" });
            }
        }
        if troubles.len() < DISTURBED && random.below(8) == 0 {
            let at = random.below(NODES);
            let schedulers = troubles.iter().filter(|(at, ..)| *at < 3).count();
            if troubles.iter().any(|(other, ..)| *other == at) || (at < 3 && schedulers >= 2) {
                continue;
            }
            let all = [Trouble::Killed, Trouble::Frozen, Trouble::Slowed, Trouble::CutOff];
            let trouble = match random.one_of(&all) {
                Trouble::CutOff if !swarm.is_apart() => Trouble::Frozen,
                trouble => trouble,
            };
            match trouble {
                Trouble::Killed => swarm.node(at).kill(),
                Trouble::Frozen | Trouble::Slowed => swarm.node(at).signal("STOP"),
                Trouble::CutOff => swarm.node(at).cut_off(true),
            }
            *counts.entry(trouble).or_insert(0) += 1;
            troubles.push((at, trouble, Instant::now() + Duration::from_millis(500 + random.below(3500) as u64)));
        }
    }
    for (at, trouble, _) in troubles {
        if trouble != Trouble::Killed {
            swarm.node(at).signal("CONT");
            swarm.node(at).cut_off(false);
        }
    }
    counts
}

#[test]
fn jobs_survive_chaos() {
    let _turn = crate::turn();
    let jobs: usize = std::env::var("OSTRAKON_CHAOS_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(250);
    let tiny = Tiny::new();
    let package = tiny.honest(3);
    let mut model = tiny.load(&package, &quick());
    let mut random = Random(5);
    let requests: Vec<(Request, Digest)> = (0..REQUESTS)
        .map(|at| {
            let texts = random.texts(1 + at % 5);
            let answer = expect(model.run(&texts, Some(2), &ostrakon_node::progress::unwatched));
            (Request::of_texts(model.digest(), texts), answer.digest)
        })
        .collect();
    let binary = ostrakon_tests::packed::binary();
    let mut swarm = Swarm::start(&binary, &parts(&package), true);
    let schedulers = swarm.schedulers();
    std::thread::sleep(Duration::from_secs(3));

    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done = Arc::new(Mutex::new(Vec::new()));
    let ask = |client: usize| {
        let runtime = expect(tokio::runtime::Builder::new_current_thread().enable_all().build());
        runtime.block_on(async {
            let key = SigningKey::from_seed(&[100 + client as u8; 32]);
            let client = expect(SwarmClient::connect(&schedulers, key).await);
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= jobs {
                    break;
                }
                let (request, expected) = &requests[at % REQUESTS];
                let verify = match at % 4 {
                    0 => Verify::None,
                    1 | 2 => Verify::Quorum { needed: 2, nodes: 3 },
                    _ => Verify::Audit { per_mille: 300, before: true },
                };
                let asked =
                    SwarmRequest { request: request.clone(), verify, batch: 2, package: None, within: PATIENCE };
                let start = Instant::now();
                let answer = client.run(&asked).await.unwrap_or_else(|error| panic!("job {at} is lost: {error}"));
                assert_eq!(answer.digest, *expected, "job {at} is wrong");
                let took = start.elapsed();
                done.lock().unwrap().push(Done { took, plans: answer.plans.len(), verify });
            }
            client.close().await;
        });
    };
    let ask = &ask;
    let began = Instant::now();
    let counts = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || ask(client))).collect();
        let watch = scope.spawn(|| {
            let results: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            over.store(true, Ordering::Relaxed);
            results.into_iter().all(|result| result.is_ok())
        });
        let counts = disturb(&mut swarm, &over);
        assert!(watch.join().unwrap(), "{}", swarm.logs(8));
        counts
    });
    report(&done.lock().unwrap(), began.elapsed(), &counts, swarm.is_apart());
    assert_eq!(done.lock().unwrap().len(), jobs, "every job is answered once");
}

fn report(done: &[Done], took: Duration, counts: &BTreeMap<Trouble, usize>, apart: bool) {
    let times = |of: &dyn Fn(&Done) -> bool| {
        let mut times: Vec<u128> = done.iter().filter(|d| of(d)).map(|d| d.took.as_millis()).collect();
        times.sort_unstable();
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied();
        format!(
            "{} jobs, ms: half within {}, 90 % {}, 99 % {}, worst {}",
            times.len(),
            at(50).unwrap_or(0),
            at(90).unwrap_or(0),
            at(99).unwrap_or(0),
            at(100).unwrap_or(0)
        )
    };
    println!("{} jobs in {:.1} s; troubles: {counts:?}; namespaces: {apart}", done.len(), took.as_secs_f64());
    println!("none:   {}", times(&|d| d.verify == Verify::None));
    println!("quorum: {}", times(&|d| matches!(d.verify, Verify::Quorum { .. })));
    println!("audit:  {}", times(&|d| matches!(d.verify, Verify::Audit { .. })));
    println!("that needed another plan: {}", times(&|d| d.plans > 1));
}
