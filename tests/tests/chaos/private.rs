//! Hundreds of private requests while servers die: all are answered, all rightly, and no mask is ever used twice.
//!
//! Six nodes are six processes, each in a network namespace of its own where this machine allows it. While some keep their model
//! and one opens a fresh one again and again, nodes are killed and started again, frozen, and cut off, up to two at once.

use crate::runs::{User, spread};
use ostrakon_node::private::PrivateModel;
use ostrakon_node::progress::unwatched;
use ostrakon_protocol::Digest;
use ostrakon_tests::packed::binary;
use ostrakon_tests::swarm::{Part, Swarm};
use ostrakon_tests::tiny::{Random, Tiny, expect, quick};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const NODES: usize = 6;
/// Nodes that are disturbed at once.
const DISTURBED: usize = 2;
/// What is asked, again and again.
const REQUESTS: usize = 8;
/// Servers of those who ask. The last one opens its model anew for each request.
const CLIENTS: [u32; 4] = [2, 2, 2, 2];
/// No request may need longer, whatever happens.
const PATIENCE: Duration = Duration::from_secs(90);

/// Every node serves two of three shards, so that every shard is on four nodes.
fn parts(package: &Path) -> Vec<Part> {
    let shards = |at: usize| (0..3).filter(|&shard| shard != at % 3).map(|shard| format!("shard-{shard}")).collect();
    let part = |at| Part {
        operator: format!("operator-{at}"),
        roles: if at < 3 { vec!["execution", "scheduling"] } else { vec!["execution"] },
        packages: vec![(package.to_owned(), shards(at))],
        ..Part::default()
    };
    (0..NODES).map(part).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Killed,
    Frozen,
    CutOff,
}

fn end(swarm: &mut Swarm, at: usize, trouble: Trouble) {
    match trouble {
        Trouble::Killed => swarm.restart(at),
        Trouble::Frozen => swarm.node(at).signal("CONT"),
        Trouble::CutOff => swarm.node(at).cut_off(false),
    }
}

/// Disturb nodes until all is done.
fn disturb(swarm: &mut Swarm, over: &AtomicBool) -> BTreeMap<Trouble, usize> {
    let mut random = Random(17);
    let mut troubles: Vec<(usize, Trouble, Instant)> = Vec::new();
    let mut counts = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        let (ended, going): (Vec<_>, Vec<_>) = troubles.into_iter().partition(|(_, _, end)| *end <= Instant::now());
        troubles = going;
        for (at, trouble, _) in ended {
            end(swarm, at, trouble);
        }
        let at = random.below(NODES);
        if troubles.len() >= DISTURBED || random.below(8) > 0 || troubles.iter().any(|(other, ..)| *other == at) {
            continue;
        }
        let trouble = match random.one_of(&[Trouble::Killed, Trouble::Frozen, Trouble::CutOff]) {
            Trouble::CutOff if !swarm.is_apart() => Trouble::Frozen,
            trouble => trouble,
        };
        match trouble {
            Trouble::Killed => swarm.node(at).kill(),
            Trouble::Frozen => swarm.node(at).signal("STOP"),
            Trouble::CutOff => swarm.node(at).cut_off(true),
        }
        *counts.entry(trouble).or_insert(0) += 1;
        troubles.push((at, trouble, Instant::now() + Duration::from_millis(500 + random.below(4500) as u64)));
    }
    for (at, trouble, _) in troubles {
        if trouble != Trouble::Killed {
            end(swarm, at, trouble);
        }
    }
    counts
}

/// What happened to a request.
struct Done {
    fresh: bool,
    opened: Duration,
    took: Duration,
    replaced: usize,
}

/// Asks until all is asked.
struct Client<'a> {
    user: &'a User,
    package: &'a Path,
    servers: u32,
    fresh: bool,
    random: Random,
    model: Option<PrivateModel>,
    replaced: usize,
}

impl Client<'_> {
    fn ask(&mut self, at: usize, texts: &[String], right: Digest) -> Done {
        let start = Instant::now();
        let mut model = self.model.take().unwrap_or_else(|| {
            self.replaced = 0;
            match self.user.open(self.package, self.servers) {
                Ok((model, _)) => model,
                Err(error) => panic!("request {at} is lost, no model: {error}"),
            }
        });
        let opened = start.elapsed();
        // Sometimes ahead, more or less than will be needed.
        if self.random.below(3) == 0
            && let Err(error) = model.prepare(self.random.below(40))
        {
            panic!("request {at} is lost, no masks: {error}");
        }
        let most = self.random.one_of(&[None, Some(1), Some(2)]);
        let private =
            model.run(texts, most, &unwatched).unwrap_or_else(|error| panic!("request {at} is lost: {error}"));
        assert_eq!(private.answer.digest, right, "request {at} is wrong");
        let took = start.elapsed();
        assert!(took < PATIENCE, "request {at} took {took:?}: {:?}", private.replaced);
        let replaced = private.replaced.len().saturating_sub(self.replaced);
        self.replaced = private.replaced.len();
        if self.fresh {
            model.close()
        } else {
            self.model = Some(model)
        }
        Done { fresh: self.fresh, opened, took, replaced }
    }
}

#[test]
fn private_requests_survive_chaos() {
    let _turn = crate::turn();
    let jobs: usize = std::env::var("OSTRAKON_CHAOS_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let tiny = Tiny::new();
    let package = tiny.honest(3);
    let mut model = tiny.load(&package, &quick());
    let mut random = Random(5);
    let requests: Vec<(Vec<String>, Digest)> = (0..REQUESTS)
        .map(|at| {
            let texts = random.texts(1 + at % 4);
            let answer = expect(model.run(&texts, None, &unwatched));
            (texts, answer.digest)
        })
        .collect();
    let mut swarm = Swarm::start(&binary(), &parts(&package), true);
    let user = User::new(swarm.schedulers(), tiny.home(), quick());
    user.until_served(NODES);

    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done = Mutex::new(Vec::new());
    let ask = |number: usize| {
        let (servers, fresh) = (CLIENTS[number], number + 1 == CLIENTS.len());
        let random = Random(number as u64);
        let mut client = Client { user: &user, package: &package, servers, fresh, random, model: None, replaced: 0 };
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= jobs {
                break;
            }
            let (texts, right) = &requests[at % REQUESTS];
            let one = client.ask(at, texts, *right);
            done.lock().unwrap().push(one);
            std::thread::sleep(Duration::from_millis(client.random.below(600) as u64));
        }
        if let Some(model) = client.model {
            model.close();
        }
    };
    let ask = &ask;
    let began = Instant::now();
    let counts = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS.len()).map(|client| scope.spawn(move || ask(client))).collect();
        let watch = scope.spawn(|| {
            let results: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            over.store(true, Ordering::Relaxed);
            results.into_iter().all(|result| result.is_ok())
        });
        let counts = disturb(&mut swarm, &over);
        assert!(watch.join().unwrap(), "{}", swarm.logs(8));
        counts
    });
    let done = done.into_inner().unwrap();
    assert_eq!(done.len(), jobs, "every request is answered once");
    let (taken, sent) = user.masks.used_once();
    assert!(sent > 0 && sent <= taken);
    report(&done, began.elapsed());
    println!("troubles: {counts:?}; namespaces: {}", swarm.is_apart());
    println!("{taken} rows of masks were taken, {sent} hid a share, each of them once");
}

#[test]
fn servers_that_are_all_gone_are_waited_for() {
    let _turn = crate::turn();
    let tiny = Tiny::new();
    let package = tiny.honest(3);
    let texts = Random(9).texts(3);
    let right = expect(tiny.load(&package, &quick()).run(&texts, None, &unwatched)).digest;
    let part = |at| Part {
        operator: format!("operator-{at}"),
        roles: vec!["execution", "scheduling"],
        packages: vec![(package.clone(), Vec::new())],
        ..Part::default()
    };
    let mut swarm = Swarm::start(&binary(), &[part(0), part(1)], false);
    let user = User::new(swarm.schedulers(), tiny.home(), quick());
    user.until_served(2);
    let mut model = expect(user.open(&package, 2)).0;
    assert_eq!(expect(model.run(&texts, None, &unwatched)).answer.digest, right);

    let both = |swarm: &mut Swarm, what: fn(&mut Swarm, usize)| (0..2).for_each(|at| what(swarm, at));
    both(&mut swarm, |swarm, at| swarm.node(at).kill());
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| expect(model.run(&texts, None, &unwatched)));
        std::thread::sleep(Duration::from_secs(3));
        both(&mut swarm, Swarm::restart);
        let private = asked.join().unwrap();
        assert_eq!(private.answer.digest, right, "{}", swarm.logs(8));
        assert!(!private.replaced.is_empty() && private.replaced.len() < 40, "{:?}", private.replaced);
    });

    both(&mut swarm, |swarm, at| swarm.node(at).kill());
    let began = Instant::now();
    let vain = model.run(&texts, None, &unwatched).unwrap_err().in_full();
    let took = began.elapsed();
    assert!(vain.contains("nobody can take its place") && !vain.contains('\n'), "{vain}");
    assert!((Duration::from_secs(10)..Duration::from_secs(60)).contains(&took), "{took:?}: {vain}");
    println!("after {:.1} s: {vain}", took.as_secs_f64());
}

#[test]
fn servers_that_all_stall_end_a_run() {
    let _turn = crate::turn();
    let tiny = Tiny::new();
    let package = tiny.honest(3);
    let part = |at| Part {
        operator: format!("operator-{at}"),
        roles: vec!["execution", "scheduling"],
        packages: vec![(package.clone(), Vec::new())],
        ..Part::default()
    };
    let swarm = Swarm::start(&binary(), &[part(0), part(1), part(2)], false);
    let user = User::new(swarm.schedulers(), tiny.home(), quick());
    user.until_served(3);
    let mut model = expect(user.open(&package, 2)).0;
    let texts = Random(9).texts(3);
    expect(model.run(&texts, None, &unwatched));
    swarm.nodes.iter().for_each(|node| node.signal("STOP"));
    let began = Instant::now();
    let vain = model.run(&texts, None, &unwatched).unwrap_err().in_full();
    let took = began.elapsed();
    swarm.nodes.iter().for_each(|node| node.signal("CONT"));
    assert!(vain.contains("did not answer within"), "{vain}");
    assert!(took < Duration::from_secs(75), "{took:?}: {vain}");
    println!("after {:.1} s: {vain}", took.as_secs_f64());
}

fn report(done: &[Done], took: Duration) {
    let times = |of: &dyn Fn(&Done) -> bool| spread(done.iter().filter(|d| of(d)).map(|d| d.took).collect());
    println!("{} requests in {:.1} s", done.len(), took.as_secs_f64());
    println!("kept models:   {}", times(&|d| !d.fresh));
    println!("fresh models:  {}", times(&|d| d.fresh));
    println!("  of it to open: {}", spread(done.iter().filter(|d| d.fresh).map(|d| d.opened).collect()));
    println!("undisturbed:   {}", times(&|d| d.replaced == 0));
    println!("with a server replaced: {}", times(&|d| d.replaced > 0));
}
