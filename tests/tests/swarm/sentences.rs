//! Text written by nodes of a swarm: processes of their own on real sockets, and the same bytes as on one machine.

use ostrakon_node::RunOptions;
use ostrakon_node::generate::{GenerateRequest, Generator, Likelihood, Limits, Piece, Pieces, Sampling};
use ostrakon_node::swarm::client::SwarmClient;
use ostrakon_protocol::SigningKey;
use ostrakon_tests::packed;
use ostrakon_tests::swarm::{Part, Swarm};
use ostrakon_tests::tiny::{Random, Tiny, expect, policy, quick};
use ostrakon_tests::tiny_writer;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// One test after the other: each has processes enough.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nodes, and whoever has them write.
struct Scene {
    runtime: Runtime,
    tiny: Tiny,
    swarm: Swarm,
    package: PathBuf,
}

impl Scene {
    /// A node for each of these lists of shards; an empty one: all shards.
    fn start(tiny: Tiny, package: PathBuf, nodes: &[&[usize]]) -> Self {
        let part = |(at, shards): (usize, &&[usize])| Part {
            operator: format!("operator-{at}"),
            roles: vec!["execution"],
            packages: vec![(package.clone(), shards.iter().map(|shard| format!("shard-{shard}")).collect())],
            ..Part::default()
        };
        let parts: Vec<Part> = nodes.iter().enumerate().map(part).collect();
        let swarm = Swarm::start(&packed::binary(), &parts, false);
        let runtime = Runtime::new().unwrap();
        let scene = Self { runtime, tiny, swarm, package };
        scene.settle(nodes.len());
        scene
    }

    fn client(&self) -> SwarmClient {
        let addresses: Vec<String> = self.swarm.nodes.iter().map(|node| node.address.clone()).collect();
        let key = SigningKey::generate().unwrap();
        expect(self.runtime.block_on(SwarmClient::connect(&addresses, key)))
    }

    /// Until so many nodes know each other.
    fn settle(&self, nodes: usize) {
        let (client, begun) = (self.client(), Instant::now());
        let known = || {
            let all = self.runtime.block_on(client.statuses()).unwrap_or_default();
            all.iter().map(|signed| signed.status.node).collect::<BTreeSet<_>>().len()
        };
        while known() < nodes {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", self.swarm.logs(20));
            std::thread::sleep(Duration::from_millis(100));
        }
        self.runtime.block_on(client.close());
    }

    fn remote(&self, limits: Limits) -> Generator {
        let setting = (self.client(), self.runtime.handle().clone());
        expect(Generator::of_swarm(&self.package, &policy(), &self.tiny.home(), &quick(), setting, limits))
    }

    fn local(&self, options: &RunOptions) -> Generator {
        expect(Generator::open(&self.package, &policy(), &self.tiny.home(), options, Limits::default()))
    }

    /// Calls that a node has computed.
    fn forwards(&self, node: usize) -> u64 {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.swarm.nodes[node].http)?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = ask().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("ostrakon_forwards_total "));
        line.unwrap_or_else(|| panic!("{text}")).trim().parse().unwrap()
    }

    /// Of two nodes that serve the same, the one that is used and the other.
    fn used(&self, one: usize, other: usize) -> (usize, usize) {
        match (self.forwards(one), self.forwards(other)) {
            (1.., 0) => (one, other),
            (0, 1..) => (other, one),
            both => panic!("{both:?}"),
        }
    }
}

/// What comes of a request, without the time it took.
#[derive(Debug, PartialEq)]
struct Answer {
    prompt: Vec<Option<Likelihood>>,
    tokens: Vec<u32>,
    likelihoods: Vec<Option<Likelihood>>,
}

/// All pieces; `seen` is told how many tokens there are after each.
fn collect(mut pieces: Pieces, mut seen: impl FnMut(usize)) -> Result<Answer, Piece> {
    let mut answer = Answer { prompt: Vec::new(), tokens: Vec::new(), likelihoods: Vec::new() };
    while let Some(piece) = pieces.blocking_next() {
        match piece {
            Piece::Prompt(all) => answer.prompt = all,
            Piece::Token { token, likelihood } => {
                answer.tokens.push(token);
                answer.likelihoods.push(likelihood);
                seen(answer.tokens.len());
            }
            Piece::Done(_) => return Ok(answer),
            other => return Err(other),
        }
    }
    panic!("no end came after {} tokens", answer.tokens.len())
}

fn request(prompt: Vec<u32>, max_tokens: u32, seed: u64) -> GenerateRequest {
    GenerateRequest {
        client: seed % 3,
        prompt,
        max_tokens,
        sampling: Sampling { temperature: 0.9, seed, ..Sampling::default() },
        stop: Vec::new(),
        likelihoods: Some(20),
        prompt_likelihoods: false,
        reuse: true,
    }
}

/// Requests of all kinds, some of which begin alike.
fn requests(random: &mut Random, count: usize) -> Vec<GenerateRequest> {
    let words = |random: &mut Random, count: usize| (0..count).map(|_| random.below(256) as u32).collect::<Vec<_>>();
    let shared = words(random, 40);
    let one = |at: usize| {
        let mut prompt = if at.is_multiple_of(2) { shared[..20 + at].to_vec() } else { Vec::new() };
        let length = 1 + random.below(60);
        prompt.extend(words(random, length));
        let prompt_likelihoods = at.is_multiple_of(5);
        GenerateRequest { prompt_likelihoods, ..request(prompt, 1 + random.below(40) as u32, at as u64) }
    };
    (0..count).map(one).collect()
}

fn all_at_once(generator: &Generator, requests: &[GenerateRequest]) -> Vec<Answer> {
    let asked: Vec<Pieces> = requests.iter().map(|one| generator.ask(one.clone()).unwrap()).collect();
    asked.into_iter().map(|pieces| collect(pieces, |_| ()).unwrap()).collect()
}

#[test]
fn the_same_bytes_come_from_one_node_and_from_three() {
    let _turn = turn();
    for shards in [1, 3] {
        let tiny = Tiny::new();
        let package = tiny_writer::package(tiny.path(), shards);
        let each: Vec<[usize; 1]> = (0..shards).map(|shard| [shard]).collect();
        let each: Vec<&[usize]> = each.iter().map(|shard| &shard[..]).collect();
        let scene = Scene::start(tiny, package, &each);
        let (local, remote) = (scene.local(&quick()), scene.remote(Limits { sequences: 8, ..Limits::default() }));
        let all = requests(&mut Random(shards as u64), 20);
        let wanted = all_at_once(&local, &all);
        // Twice: the second time what the first left is gone on from.
        for _ in 0..2 {
            assert_eq!(all_at_once(&remote, &all), wanted);
        }
        let statistics = remote.statistics();
        assert!(statistics.reused_tokens > 300, "{statistics:?}");
        assert!(statistics.calls < statistics.generated_tokens, "nothing went together: {statistics:?}");
        for node in 0..shards {
            assert!(scene.forwards(node) >= statistics.calls / 2, "node {node}");
        }
        // One alone, for the time that a token takes.
        let begun = Instant::now();
        let alone = all_at_once(&remote, &[request(vec![3; 5], 100, 1)]);
        let took = begun.elapsed().as_secs_f64() * 1e3 / alone[0].tokens.len() as f64;
        println!("{shards} nodes: {took:.2} ms a token of the tiny model");
    }
}

#[test]
fn a_sentence_goes_on_when_nodes_die_in_the_middle() {
    let _turn = turn();
    let tiny = Tiny::new();
    let package = tiny_writer::package(tiny.path(), 2);
    let mut scene = Scene::start(tiny, package, &[&[0], &[1], &[0], &[1]]);
    let (local, remote) = (scene.local(&quick()), scene.remote(Limits::default()));
    let all: Vec<_> = (0..4).map(|at| request(vec![at as u32 + 1; 12], 200, at)).collect();
    let wanted = all_at_once(&local, &all);
    // The first call was made when the generator was.
    let ((first, spare), (second, other)) = (scene.used(0, 2), scene.used(1, 3));

    let mut asked: Vec<Pieces> = all.iter().map(|one| remote.ask(one.clone()).unwrap()).collect();
    let rest = asked.split_off(1);
    let swarm = &mut scene.swarm;
    // One dies, the other one of another shard hangs.
    let begun = collect(asked.remove(0), |tokens| match tokens {
        20 => swarm.node(first).kill(),
        60 => swarm.node(second).signal("STOP"),
        _ => {}
    });
    let mut answers = vec![begun.unwrap()];
    answers.extend(rest.into_iter().map(|pieces| collect(pieces, |_| ()).unwrap()));
    assert_eq!(answers, wanted);
    assert!(scene.forwards(spare) > 20 && scene.forwards(other) > 20);

    // Nobody is left for the first shard: whoever asks hears so soon.
    scene.swarm.node(spare).kill();
    let begun = Instant::now();
    let vain = collect(remote.ask(all[0].clone()).unwrap(), |_| ());
    let Err(Piece::Unavailable(why)) = vain else { panic!("{vain:?}") };
    assert!(why.contains("no nodes of the swarm"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());

    // It comes back, and so does the text.
    scene.swarm.restart(spare);
    let begun = Instant::now();
    loop {
        match collect(remote.ask(all[0].clone()).unwrap(), |_| ()) {
            Ok(answer) => break assert_eq!(answer, wanted[0]),
            Err(why) => assert!(begun.elapsed() < Duration::from_secs(60), "{why:?}"),
        }
    }
}

/// A package with its blocks in so many shards.
fn sharded(package: &Path, shards: usize, tiny: &Tiny) -> PathBuf {
    let out = tiny.path().join(format!("smollm2-{shards}"));
    let mut pack = Command::new(packed::binary());
    pack.arg("pack").arg(package).args(["--allow-unknown-signer", "--shards", &shards.to_string(), "--out"]).arg(&out);
    let done = pack.env("OSTRAKON_HOME", tiny.path().join("home")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    out
}

#[test]
fn smollm2_writes_the_same_text_on_five_nodes_and_when_one_is_lost() {
    const TOKENS: u32 = 48;
    let _turn = turn();
    let tiny = Tiny::new();
    let each = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3 / f64::from(TOKENS);
    let open = |package: &Path| Generator::open(package, &policy(), &tiny.home(), &quick(), Limits::default());
    let local = expect(open(&packed::smollm2()));
    let prompt = local.tokens_of("The lighthouse keeper climbed the stairs and").unwrap();
    let asked = GenerateRequest { reuse: false, ..request(prompt, TOKENS, 3) };
    let begun = Instant::now();
    let wanted = collect(local.ask(asked.clone()).unwrap(), |_| ()).unwrap();
    println!("one machine: {:.1} ms a token", each(begun));
    drop(local);

    let nodes: [&[&[usize]]; 3] = [&[&[0]], &[&[0], &[1], &[2]], &[&[0], &[1], &[2], &[3], &[4], &[1, 2, 3]]];
    for (shards, nodes) in [1, 3, 5].into_iter().zip(nodes) {
        let tiny = Tiny::new();
        let package = sharded(&packed::smollm2(), shards, &tiny);
        let mut scene = Scene::start(tiny, package, nodes);
        let remote = scene.remote(Limits::default());
        let begun = Instant::now();
        assert_eq!(collect(remote.ask(asked.clone()).unwrap(), |_| ()).unwrap(), wanted);
        println!("{shards} shards: {:.1} ms a token", each(begun));
        if shards < 5 {
            continue;
        }
        // Whoever of these runs most is lost; what it ran is on others.
        let used = [1, 2, 3, 5].into_iter().max_by_key(|&node| scene.forwards(node)).unwrap();
        let (swarm, begun) = (&mut scene.swarm, Instant::now());
        let lost = collect(remote.ask(asked.clone()).unwrap(), |tokens| {
            if tokens == 10 {
                swarm.node(used).kill();
            }
        });
        assert_eq!(lost.unwrap(), wanted);
        println!("{shards} shards, and a node is lost: {:.1} ms a token", each(begun));
        println!("{}", remote.text_of(&wanted.tokens));
    }
}
