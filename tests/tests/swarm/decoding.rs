//! Decoding over real sockets on loopback: logits are those of the model, what a node does not put up with, and nodes that lie.

use crate::nodes::{config, publish};
use ostrakon_net::{Client, Event, FrameStream, Offence};
use ostrakon_node::generate::{GenerateRequest, Generator, Limits, Piece, Sampling};
use ostrakon_node::swarm::client::SwarmClient;
use ostrakon_node::swarm::serve::{PackageSetting, ServeSettings, Serving};
use ostrakon_protocol::decoding::{FromDecoder, MAX_SEQUENCES, Part, ToDecoder};
use ostrakon_protocol::wire::{MAX_TENSOR_BYTES, Refusal, TensorHeader};
use ostrakon_protocol::{Digest, PublicKey, Roles};
use ostrakon_tests::serving::{column, settings, start, tensor_digest, whole};
use ostrakon_tests::tiny::{Random, Tiny, expect, key, policy, quick};
use ostrakon_tests::tiny_writer::{CONTEXT, VOCABULARY, package};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

type Stream = FrameStream<FromDecoder, ToDecoder>;

const SOON: Duration = Duration::from_secs(20);
const BLOCKS: u32 = 5;
/// Bytes of a row between two blocks.
const ROW: usize = 128;
const ROWS: u32 = 48;
const SEQUENCES: u32 = 3;
const KEPT: u32 = 100;

/// What a node makes of its own honest answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    /// An answer to another call.
    Call,
    /// Rows of another width.
    Width,
    /// More bytes than anybody would take.
    Huge,
    /// Nothing where rows are wanted.
    Nothing,
    /// It says that it has no such sequence.
    NoSequence,
    /// It says that it is open, again.
    Opened,
    /// Half of the rows, and the end of the stream.
    Half,
}

const LIES: [Lie; 7] = [Lie::Call, Lie::Width, Lie::Huge, Lie::Nothing, Lie::NoSequence, Lie::Opened, Lie::Half];

/// A node that serves, and lies from some call on.
struct Node {
    serving: Arc<Serving>,
    client: Client,
    offences: Arc<Mutex<Vec<Offence>>>,
}

impl Node {
    async fn new(tiny: &Tiny, seed: u8, settings: ServeSettings, package: PackageSetting, lie: (Lie, u32)) -> Self {
        let serving = start(tiny, seed, settings, vec![package]).await;
        let (client, mut events) = expect(Client::start(config(seed, vec![])).await);
        let offences: Arc<Mutex<Vec<Offence>>> = Arc::default();
        let (serves, noted, own) = (serving.clone(), offences.clone(), client.clone());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let (serving, noted, own) = (serves.clone(), noted.clone(), own.clone());
                let Event::Decoding { from, stream } = event else { continue };
                tokio::spawn(async move {
                    if lie.0 == Lie::None || from == own.node() {
                        let offence = serving.decoding(from, stream).await;
                        noted.lock().unwrap().extend(offence);
                    } else {
                        deceive(&own, stream, lie).await;
                    }
                });
            }
        });
        Self { serving, client, offences }
    }

    fn key(&self) -> PublicKey {
        self.client.node()
    }

    async fn until_used(&self, used: u32) {
        let begun = Instant::now();
        while self.serving.load().used != used {
            assert!(begun.elapsed() < SOON, "{} are used, not {used}", self.serving.load().used);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// As soon as so many offences were noted: how many. They are taken away.
    async fn offences(&self, count: usize) -> usize {
        let begun = Instant::now();
        while self.offences.lock().unwrap().len() < count {
            assert!(begun.elapsed() < SOON, "{:?}", self.offences);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::mem::take(&mut *self.offences.lock().unwrap()).len()
    }

    fn forwards(&self) -> u64 {
        self.serving.metrics().all().iter().find(|(name, ..)| name.contains("forwards")).unwrap().2
    }
}

/// Has it computed honestly, and passes on what the lie makes of it from this call on.
async fn deceive(own: &Client, mut stream: FrameStream<ToDecoder, FromDecoder>, (lie, from): (Lie, u32)) -> Option<()> {
    let mut honest = own.decoding(own.node()).await.ok()?;
    while let Some(frame) = stream.receive(SOON).await.ok()? {
        let bytes = match &frame {
            ToDecoder::Run { tensor, .. } => stream.payload(tensor.bytes, MAX_TENSOR_BYTES).await.ok()?,
            _ => Default::default(),
        };
        honest.send(&frame, &bytes).await.ok()?;
        let mut answer = honest.receive(SOON).await.ok()??;
        let mut bytes = Vec::new();
        if let FromDecoder::Output { call, tensor, .. } = &mut answer {
            if let Some(tensor) = tensor {
                bytes = honest.payload(tensor.bytes, MAX_TENSOR_BYTES).await.ok()?.to_vec();
            }
            if *call >= from {
                match (lie, tensor) {
                    (Lie::Call, _) => *call += 1,
                    (Lie::Width, Some(tensor)) => {
                        *tensor.dimensions.last_mut()? += 1;
                        tensor.bytes += 4;
                        bytes.extend([0; 4]);
                    }
                    (Lie::Huge, Some(tensor)) => tensor.bytes = u64::MAX,
                    (Lie::Nothing, tensor) => {
                        *tensor = None;
                        bytes.clear();
                    }
                    (Lie::Half, _) => {
                        bytes.truncate(bytes.len() / 2);
                        let _ = stream.send(&answer, &bytes).await;
                        return None;
                    }
                    (Lie::NoSequence, _) => {
                        let (call, reason) = (*call, "there is no such sequence".to_owned());
                        answer = FromDecoder::Failed { call, why: Refusal::NotHere, reason };
                        bytes.clear();
                    }
                    _ => {
                        answer = FromDecoder::Opened;
                        bytes.clear();
                    }
                }
            }
        }
        stream.send(&answer, &bytes).await.ok()?;
    }
    None
}

/// Somebody who has rows run.
struct Peer {
    client: Client,
    package: Digest,
}

fn part(sequence: u32, of: u32, before: u32, rows: u32, wanted: u32) -> Part {
    Part { sequence, of, before, rows, wanted }
}

fn ids(rows: u32) -> TensorHeader {
    TensorHeader { element: 5, dimensions: vec![rows], bytes: u64::from(rows) * 4 }
}

fn run(call: u32, parts: Vec<Part>) -> (ToDecoder, Vec<u8>) {
    let rows = parts.iter().map(|part| part.rows).sum();
    let tensor = ids(rows);
    let bytes = vec![0; rows as usize * 4];
    (ToDecoder::Run { call, forget: vec![], parts, answered: true, tensor }, bytes)
}

impl Peer {
    async fn new(seed: u8, node: &Node, package: Digest) -> Self {
        let (client, mut events) = expect(Client::start(config(seed, vec![])).await);
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        client.dial(&node.client.addresses()[0]).await.unwrap();
        Self { client, package }
    }

    fn opening(&self) -> ToDecoder {
        let (package, rows, wanted) = (self.package, ROWS, 8);
        ToDecoder::Open { package, from: 0, to: BLOCKS, rows, wanted, sequences: SEQUENCES, kept: KEPT }
    }

    async fn sent(&self, node: &Node, frame: &ToDecoder) -> Stream {
        let mut stream = self.client.decoding(node.key()).await.unwrap();
        stream.send(frame, &[]).await.unwrap();
        stream
    }

    async fn open(&self, node: &Node) -> Stream {
        let mut stream = self.sent(node, &self.opening()).await;
        assert_eq!(next(&mut stream).await, FromDecoder::Opened);
        stream
    }
}

async fn next(stream: &mut Stream) -> FromDecoder {
    stream.receive(SOON).await.unwrap().unwrap()
}

async fn failed(stream: &mut Stream) -> (Refusal, String) {
    match next(stream).await {
        FromDecoder::Failed { why, reason, .. } => (why, reason),
        other => panic!("{other:?}"),
    }
}

async fn rows(stream: &mut Stream, wanted: u32) -> Vec<u8> {
    let FromDecoder::Output { call, tensor, .. } = next(stream).await else { panic!() };
    assert_eq!(call, wanted);
    match tensor {
        Some(tensor) => stream.payload(tensor.bytes, 1 << 24).await.unwrap().to_vec(),
        None => Vec::new(),
    }
}

async fn honest(tiny: &Tiny, settings: ServeSettings) -> (Node, Digest) {
    let package = package(tiny.path(), 1);
    let digest = tiny.load(&package, &quick()).digest();
    (Node::new(tiny, 1, settings, whole(&package), (Lie::None, 0)).await, digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn logits_are_those_of_the_model_in_one_piece() {
    let tiny = Tiny::new();
    let (node, digest) = honest(&tiny, settings()).await;
    let mut model = tiny.load(&package(&tiny.path().join("again"), 1), &quick());
    let peer = Peer::new(2, &node, digest).await;
    let mut random = Random(9);
    let tokens: Vec<i32> = (0..40).map(|_| random.below(VOCABULARY) as i32).collect();
    let other: Vec<i32> = [&tokens[..10], &[1, 2, 3][..]].concat();
    let mut whole = |tokens: &[i32]| {
        let input = column(tokens.to_vec());
        let digest = tensor_digest(&input);
        let lengths = column(vec![tokens.len() as i32]);
        model.run_leg(0..BLOCKS, (input, digest), &lengths, &|| true).unwrap().unwrap().output.bytes().to_vec()
    };
    let (wanted, wanted_other) = (whole(&tokens), whole(&other));
    let bytes = |tokens: &[i32]| tokens.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    let row = VOCABULARY * 4;

    // Two legs, one after the other, as two nodes would have them.
    let leg = |from, to| match peer.opening() {
        ToDecoder::Open { package, rows, wanted, sequences, kept, .. } => {
            ToDecoder::Open { package, from, to, rows, wanted, sequences, kept }
        }
        other => other,
    };
    let mut first = peer.sent(&node, &leg(0, 2)).await;
    let mut second = peer.sent(&node, &leg(2, BLOCKS)).await;
    for stream in [&mut first, &mut second] {
        assert_eq!(next(stream).await, FromDecoder::Opened);
    }
    node.until_used(2).await;
    let calls = [
        (vec![part(7, 7, 0, 12, 0)], bytes(&tokens[..12])),
        (vec![part(7, 7, 12, 20, 2)], bytes(&tokens[12..32])),
        // Goes on in its own way, while another one begins like it.
        (vec![part(7, 7, 32, 1, 1), part(8, 7, 10, 3, 3)], bytes(&[&tokens[32..33], &other[10..]].concat())),
        // Rows that are run again.
        (vec![part(7, 7, 30, 8, 8)], bytes(&tokens[30..38])),
    ];
    let logits = |at: usize| wanted[at * row..(at + 1) * row].to_vec();
    let mut expected = vec![
        vec![],
        [logits(30), logits(31)].concat(),
        [logits(32), wanted_other[10 * row..].to_vec()].concat(),
        wanted[30 * row..38 * row].to_vec(),
    ];
    for (call, ((parts, ids_of), expected)) in (0u32..).zip(calls.into_iter().zip(expected.drain(..))) {
        let rows_now = parts.iter().map(|part| part.rows).sum();
        let frame =
            ToDecoder::Run { call, forget: vec![], parts: parts.clone(), answered: true, tensor: ids(rows_now) };
        first.send(&frame, &ids_of).await.unwrap();
        let between = rows(&mut first, call).await;
        assert_eq!(between.len(), rows_now as usize * ROW);
        let tensor = TensorHeader { element: 1, dimensions: vec![rows_now, 32], bytes: between.len() as u64 };
        let answered = !expected.is_empty();
        second.send(&ToDecoder::Run { call, forget: vec![], parts, answered, tensor }, &between).await.unwrap();
        assert_eq!(rows(&mut second, call).await, expected, "call {call}");
    }
    second.send(&ToDecoder::Close, &[]).await.unwrap();
    drop(first);
    node.until_used(0).await;
    assert!(node.offences.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_may_ask_for_is_refused_with_the_reason() {
    let tiny = Tiny::new();
    let (node, digest) = honest(&tiny, ServeSettings { slots_per_peer: 2, ..settings() }).await;
    let peer = Peer::new(2, &node, digest).await;
    let open = |package, to, [rows, wanted, sequences, kept]: [u32; 4]| ToDecoder::Open {
        package,
        from: 0,
        to,
        rows,
        wanted,
        sequences,
        kept,
    };
    for (frame, why, word) in [
        (open(Digest::from_bytes([1; 32]), BLOCKS, [1, 1, 1, 1]), Refusal::NotHere, ""),
        (open(digest, BLOCKS + 1, [1, 1, 1, 1]), Refusal::NotHere, ""),
        (open(digest, 0, [1, 1, 1, 1]), Refusal::NotHere, ""),
        (open(digest, BLOCKS, [0, 0, 1, 1]), Refusal::Bad, "rows in a call"),
        (open(digest, BLOCKS, [u32::MAX, 1, 1, 1]), Refusal::Bad, "rows in a call"),
        (open(digest, BLOCKS, [1, 2, 1, 1]), Refusal::Bad, "rows in a call"),
        (open(digest, BLOCKS, [1, 1, 0, 1]), Refusal::Bad, "sequences"),
        (open(digest, BLOCKS, [1, 1, MAX_SEQUENCES + 1, 1]), Refusal::Bad, "sequences"),
        (open(digest, BLOCKS, [1, 1, 1, u32::MAX]), Refusal::Busy, "bytes"),
        (ToDecoder::Close, Refusal::Bad, "first frame"),
    ] {
        let mut stream = peer.sent(&node, &frame).await;
        let (said, reason) = failed(&mut stream).await;
        assert!(said == why && reason.contains(word), "{frame:?}: {said:?} {reason}");
    }
    // Only who says something else first does what no client of ours does.
    assert_eq!(node.offences(1).await, 1);

    let begin = run(0, vec![part(1, 1, 0, 30, 0), part(2, 2, 0, 10, 0)]);
    let odd = |tensor| {
        let (_, bytes) = run(1, vec![part(1, 1, 30, 1, 1)]);
        let parts = vec![part(1, 1, 30, 1, 1)];
        (ToDecoder::Run { call: 1, forget: vec![], parts, answered: true, tensor }, bytes)
    };
    let wide = TensorHeader { dimensions: vec![1, 2], ..ids(1) };
    let context = CONTEXT as u32;
    for (frame, why, word, offence) in [
        (run(0, vec![part(1, 1, 30, 1, 1)]), Refusal::Bad, "call 0 has been", true),
        (run(1, vec![]), Refusal::Bad, "0 rows in a call", true),
        (run(1, vec![part(1, 1, 30, ROWS + 1, 1)]), Refusal::Bad, "rows in a call", true),
        (run(1, vec![part(1, 1, 20, 10, 9)]), Refusal::Bad, "wanted", true),
        (run(1, vec![part(1, 1, context, 1, 1)]), Refusal::Bad, "a sequence has", true),
        (run(1, vec![part(1, 1, 30, 1, 1); 2]), Refusal::Bad, "twice", true),
        (run(1, vec![part(1, 1, 31, 1, 1)]), Refusal::NotHere, "30 rows of the sequence 1", false),
        (run(1, vec![part(3, 4, 1, 1, 1)]), Refusal::NotHere, "0 rows of the sequence 4", false),
        (run(1, vec![part(3, 1, 1, 1, 1), part(4, 1, 1, 1, 1)]), Refusal::Busy, "4 sequences", false),
        (run(1, vec![part(1, 1, 30, 40, 1), part(3, 1, 29, 1, 1)]), Refusal::Busy, "110 rows", false),
        (odd(ids(2)), Refusal::Bad, "it must be", true),
        (odd(TensorHeader { element: 1, ..ids(1) }), Refusal::Bad, "it must be", true),
        (odd(TensorHeader { bytes: u64::MAX, ..ids(1) }), Refusal::Bad, "it must be", true),
        (odd(wide), Refusal::Bad, "it must be", true),
        ((peer.opening(), vec![]), Refusal::Bad, "open already", true),
    ] {
        let mut stream = peer.open(&node).await;
        stream.send(&begin.0, &begin.1).await.unwrap();
        rows(&mut stream, 0).await;
        stream.send(&frame.0, &frame.1).await.unwrap();
        let (said, reason) = failed(&mut stream).await;
        assert!(said == why && reason.contains(word), "{:?}: {said:?} {reason}", frame.0);
        drop(stream);
        node.until_used(0).await;
        assert_eq!(node.offences(usize::from(offence)).await, usize::from(offence), "{:?}", frame.0);
    }

    // A stream holds a slot for as long as it is open.
    let (a, _b) = (peer.open(&node).await, peer.open(&node).await);
    let mut third = peer.sent(&node, &peer.opening()).await;
    assert_eq!(failed(&mut third).await.0, Refusal::Busy);
    drop(a);
    node.until_used(1).await;
    peer.open(&node).await;
}

fn request(seed: u64) -> GenerateRequest {
    GenerateRequest {
        client: 0,
        prompt: (0..20).map(|at| (at * 7 + seed as u32) % 256).collect(),
        max_tokens: 30,
        sampling: Sampling { temperature: 0.9, seed, ..Sampling::default() },
        stop: Vec::new(),
        likelihoods: Some(20),
        prompt_likelihoods: false,
        reuse: true,
    }
}

fn answer(generator: &Generator, seed: u64) -> Result<Vec<Piece>, Piece> {
    let mut pieces = generator.ask(request(seed)).unwrap();
    let mut all = Vec::new();
    while let Some(piece) = pieces.blocking_next() {
        match piece {
            Piece::Token { .. } => all.push(piece),
            Piece::Done(_) => return Ok(all),
            other => return Err(other),
        }
    }
    panic!("no end")
}

async fn announced(tiny: &Tiny, seed: u8, package: &Path, lie: (Lie, u32)) -> Node {
    let node = Node::new(tiny, seed, settings(), whole(package), lie).await;
    publish(&node.client, seed, Roles { execution: true, ..Roles::default() }, Some(&node.serving));
    node
}

#[test]
fn a_node_that_lies_is_left_for_one_that_does_not() {
    let limits = Limits { sequences: 4, past_bytes: 1 << 20, prefix_bytes: 1 << 18, ..Limits::default() };
    let tiny = Tiny::new();
    let package = package(tiny.path(), 1);
    let local = expect(Generator::open(&package, &policy(), &tiny.home(), &quick(), limits));
    let wanted: HashMap<u64, _> = [1, 2].map(|seed| (seed, answer(&local, seed).unwrap())).into();
    let runtime = Runtime::new().unwrap();
    for (at, lie) in (0u8..).zip(LIES) {
        let liar = runtime.block_on(announced(&tiny, 10 + 2 * at, &package, (lie, 12)));
        let addresses = liar.client.addresses();
        let client = |seed| expect(runtime.block_on(SwarmClient::connect(&addresses, key(seed))));
        let watch = client(200 + at);
        let until = |count: usize| {
            let begun = Instant::now();
            while runtime.block_on(watch.statuses()).unwrap_or_default().len() < count {
                assert!(begun.elapsed() < SOON, "{lie:?}");
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        until(1);
        let setting = (client(100 + at), runtime.handle().clone());
        let remote = expect(Generator::of_swarm(&package, &policy(), &tiny.home(), &quick(), setting, limits));
        if lie == Lie::Huge {
            // Alone, it is not believed again.
            let vain = answer(&remote, 1);
            let Err(Piece::Unavailable(why)) = vain else { panic!("{vain:?}") };
            assert!(why.contains("nodes of the swarm"), "{why}");
            continue;
        }
        let honest = runtime.block_on(announced(&tiny, 11 + 2 * at, &package, (Lie::None, 0)));
        runtime.block_on(honest.client.dial(&addresses[0])).unwrap();
        until(2);
        for seed in [1, 2] {
            assert_eq!(answer(&remote, seed).unwrap(), wanted[&seed], "{lie:?}");
        }
        assert!(liar.forwards() > 12 && honest.forwards() > 30, "{lie:?}");
    }
}
