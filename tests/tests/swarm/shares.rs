//! Shares over real sockets on loopback: products are those of the reference, and what a node does not put up with.

use ostrakon_exact::Linear;
use ostrakon_exact::field::{Field, Parts, lift, reference};
use ostrakon_exact::reference::accumulate;
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_net::{Client, Event, FrameStream, NetConfig, Offence};
use ostrakon_node::swarm::serve::{Blocks, PackageSetting, ServeSettings, Serving};
use ostrakon_protocol::share::{FromServer, ToServer};
use ostrakon_protocol::wire::Refusal;
use ostrakon_protocol::{Digest, PublicKey};
use ostrakon_tests::private::{linear_layers, packed, unpacked};
use ostrakon_tests::serving::{settings, start, whole};
use ostrakon_tests::tiny::{BLOCKS, Random, Tiny, key, quick};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The client's end of a stream.
pub(crate) type Stream = FrameStream<FromServer, ToServer>;

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Most rows of a call in most tests.
pub(crate) const ROWS: u32 = 64;

async fn network(seed: u8, listen: &[&str]) -> (Client, ostrakon_net::Events) {
    let listen = listen.iter().map(|&address| address.to_owned()).collect();
    Client::start(NetConfig { listen, ..NetConfig::new(*key(seed).seed()) }).await.unwrap()
}

/// A node that serves.
pub(crate) struct Node {
    pub(crate) serving: Arc<Serving>,
    pub(crate) client: Client,
    pub(crate) offences: Arc<Mutex<Vec<Offence>>>,
}

impl Node {
    async fn new(tiny: &Tiny, seed: u8, settings: ServeSettings, package: PackageSetting) -> Self {
        let serving = start(tiny, seed, settings, vec![package]).await;
        let (client, mut events) = network(seed, &["/ip4/127.0.0.1/tcp/0"]).await;
        let offences: Arc<Mutex<Vec<Offence>>> = Arc::default();
        let (serves, noted) = (serving.clone(), offences.clone());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let (serving, noted) = (serves.clone(), noted.clone());
                if let Event::Share { from, stream } = event {
                    tokio::spawn(async move {
                        let offence = serving.share(from, stream).await;
                        noted.lock().unwrap().extend(offence);
                    });
                }
            }
        });
        Self { serving, client, offences }
    }

    fn key(&self) -> PublicKey {
        self.client.node()
    }

    /// Until as many streams are there.
    pub(crate) async fn until_used(&self, used: u32) {
        let begun = Instant::now();
        while self.serving.load().used != used {
            assert!(begun.elapsed() < SOON, "{} are used, not {used}", self.serving.load().used);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// As soon as so many offences were noted: they are taken away.
    pub(crate) async fn offences(&self, count: usize) -> Vec<Offence> {
        let begun = Instant::now();
        while self.offences.lock().unwrap().len() < count {
            assert!(begun.elapsed() < SOON, "{:?}", self.offences);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::mem::take(&mut *self.offences.lock().unwrap())
    }

    fn count(&self, wanted: &str) -> u64 {
        self.serving.metrics().all().iter().find(|(name, ..)| *name == wanted).unwrap().2
    }
}

/// Somebody who has shares multiplied.
pub(crate) struct Peer(Client);

impl Peer {
    pub(crate) async fn new(seed: u8, nodes: &[&Node]) -> Self {
        let (client, mut events) = network(seed, &[]).await;
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        for node in nodes {
            client.dial(&node.client.addresses()[0]).await.unwrap();
        }
        Self(client)
    }

    async fn stream(&self, node: &Node) -> Stream {
        self.0.share(node.key()).await.unwrap()
    }

    pub(crate) async fn sent(&self, node: &Node, frame: &ToServer) -> Stream {
        let mut stream = self.stream(node).await;
        stream.send(frame, &[]).await.unwrap();
        stream
    }

    pub(crate) async fn open(&self, node: &Node, open: &ToServer) -> Stream {
        let mut stream = self.sent(node, open).await;
        assert_eq!(next(&mut stream).await, FromServer::Opened);
        stream
    }
}

pub(crate) async fn next(stream: &mut Stream) -> FromServer {
    stream.receive(SOON).await.unwrap().unwrap()
}

pub(crate) async fn product(stream: &mut Stream, wanted: u32, parts: &Parts) -> Vec<u32> {
    let FromServer::Product { call, bytes, .. } = next(stream).await else { panic!() };
    assert_eq!(call, wanted);
    let bytes = stream.payload(bytes, 1 << 20).await.unwrap();
    assert_eq!(bytes.len() % (parts.columns() * parts.field().bytes()), 0, "whole rows");
    unpacked(parts.field(), parts.columns(), &bytes)
}

pub(crate) async fn failed(stream: &mut Stream) -> (u32, Refusal, String) {
    match next(stream).await {
        FromServer::Failed { call, why, reason } => (call, why, reason),
        other => panic!("{other:?}"),
    }
}

/// The model, and its linear layers by name.
pub(crate) struct Local {
    tiny: Tiny,
    package: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) layers: Vec<(String, Linear)>,
}

impl Local {
    pub(crate) fn new() -> Self {
        let tiny = Tiny::new();
        let package = tiny.honest(3);
        let model = tiny.load(&package, &quick());
        let layers = linear_layers(&model);
        let fields: Vec<Field> = layers.iter().map(|(_, layer)| Parts::of(layer).field()).collect();
        assert_eq!(fields, [Field::P31, Field::P24].repeat(6));
        Self { digest: model.digest(), tiny, package, layers }
    }

    fn open(&self, from: u32, to: u32) -> ToServer {
        ToServer::Open { package: self.digest, from, to, rows: ROWS }
    }

    pub(crate) fn all(&self) -> ToServer {
        self.open(0, BLOCKS as u32)
    }

    pub(crate) async fn node(&self, seed: u8) -> Node {
        Node::new(&self.tiny, seed, settings(), whole(&self.package)).await
    }
}

/// A share as the layer's field has it sent.
pub(crate) fn bytes(layer: &Linear, share: &[u32]) -> Vec<u8> {
    packed(Parts::of(layer).field(), layer.inputs, share)
}

pub(crate) fn multiply(call: u32, (name, layer): &(String, Linear), share: &[u32]) -> ToServer {
    let (rows, bytes) = ((share.len() / layer.inputs) as u32, bytes(layer, share).len() as u64);
    ToServer::Multiply { call, layer: name.clone(), rows, bytes }
}

pub(crate) fn masked(call: u32, layer: &str, seed: u8, first: u64, rows: usize) -> ToServer {
    ToServer::Masked { call, layer: layer.to_owned(), stream: call, seed: [seed; 32], first, rows: rows as u32 }
}

#[tokio::test(flavor = "multi_thread")]
async fn products_of_shares_are_those_of_the_reference_and_add_up() {
    let local = Local::new();
    let (a, b) = (local.node(1).await, local.node(2).await);
    let peer = Peer::new(20, &[&a, &b]).await;
    let (mut first, mut second) = (peer.open(&a, &local.all()).await, peer.open(&b, &local.all()).await);
    let executor = Executor::new(Level::detect(), 1).unwrap();
    let mut random = Random(5);
    let mut rows_in_all = 0;
    let mut took = Vec::new();
    for (call, named @ (name, layer)) in (0..).zip(&local.layers) {
        let (rows, inputs) = (1 + random.below(ROWS as usize), layer.inputs);
        let largest = layer.activation.max_code() as usize;
        let codes: Vec<u32> = (0..rows * inputs).map(|_| random.below(largest + 1) as u32).collect();
        let parts = Parts::of(layer);
        let field = parts.field();
        let mut mask = vec![0; codes.len()];
        reference::expand(field, &[9; 32], call, 1000, rows, inputs, &mut mask).unwrap();
        let mut share = vec![0; codes.len()];
        reference::subtract(field, &codes, &mask, &mut share).unwrap();

        let expected = |share: &[u32]| {
            let mut out = vec![0; rows * parts.columns()];
            reference::multiply(layer, &parts, share, rows, &mut out).unwrap();
            out
        };
        let begun = Instant::now();
        first.send(&multiply(call, named, &share), &bytes(layer, &share)).await.unwrap();
        second.send(&masked(call, name, 9, 1000, rows), &[]).await.unwrap();
        let (y, z) = (product(&mut first, call, &parts).await, product(&mut second, call, &parts).await);
        took.push(begun.elapsed());
        assert!(y == expected(&share) && z == expected(&mask), "{name}");

        let mut sum = vec![0; y.len()];
        reference::add(field, &y, &z, &mut sum).unwrap();
        let mut totals = vec![0; rows * layer.outputs];
        lift(&executor, field, &sum, parts.least(), layer.outputs, &mut totals).unwrap();
        let codes: Vec<u16> = codes.iter().map(|&code| code as u16).collect();
        for (at, total) in totals.iter().enumerate() {
            let (row, output) = (at / layer.outputs, at % layer.outputs);
            let weight = &layer.weight.as_slice()[output * inputs..(output + 1) * inputs];
            assert_eq!(*total, accumulate(&codes[row * inputs..(row + 1) * inputs], weight), "{name}");
        }
        rows_in_all += rows as u64;
    }
    took.sort();
    println!("{} calls to two servers at once: median {:?}", took.len(), took[took.len() / 2]);
    first.send(&ToServer::Close, &[]).await.unwrap();
    drop(second);
    for (node, masked) in [(&a, 0), (&b, rows_in_all)] {
        node.until_used(0).await;
        assert!(node.offences.lock().unwrap().is_empty());
        assert_eq!((node.count("shares"), node.count("rows"), node.count("refused")), (12, rows_in_all, 0));
        assert_eq!((node.count("masked_rows"), node.count("sessions")), (masked, 0));
        assert!(node.count("tensor_bytes_out") > 0 && (node.count("tensor_bytes_in") > 0) == (masked == 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_may_be_sent_before_the_first_is_answered_and_peers_do_not_mix() {
    let local = Local::new();
    let node = local.node(1).await;
    let peers = [Peer::new(20, &[&node]).await, Peer::new(21, &[&node]).await];
    let mut streams = [peers[0].open(&node, &local.all()).await, peers[1].open(&node, &local.all()).await];
    node.until_used(2).await;
    let mut random = Random(6);
    let mut expected = vec![Vec::new(), Vec::new()];
    for call in 0..24u32 {
        for (stream, expected) in streams.iter_mut().zip(&mut expected) {
            let named @ (_, layer) = &local.layers[random.below(12)];
            let (rows, parts) = (1 + random.below(8), Parts::of(layer));
            let p = parts.field().prime() as usize;
            let share: Vec<u32> = (0..rows * layer.inputs).map(|_| random.below(p) as u32).collect();
            stream.send(&multiply(call, named, &share), &bytes(layer, &share)).await.unwrap();
            let mut out = vec![0; rows * parts.columns()];
            reference::multiply(layer, &parts, &share, rows, &mut out).unwrap();
            expected.push((parts, out));
        }
    }
    for (stream, expected) in streams.iter_mut().zip(&expected) {
        for (call, (parts, expected)) in (0..).zip(expected) {
            assert!(product(stream, call, parts).await == *expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_some_blocks_multiplies_with_their_layers_alone() {
    let local = Local::new();
    let some = PackageSetting { package: local.package.clone(), blocks: Blocks::Range(0..2) };
    let node = Node::new(&local.tiny, 1, settings(), some).await;
    let peer = Peer::new(20, &[&node]).await;
    let own = ["attention.qkv", "attention.output", "feed-forward.up", "feed-forward.down"];
    let mut stream = peer.open(&node, &local.open(0, 2)).await;
    for (call, (layer, (name, linear))) in (0..).zip(own.into_iter().zip(&local.layers)) {
        assert_eq!(*name, format!("blocks.0.{layer}"));
        stream.send(&masked(call, name, 1, 0, 3), &[]).await.unwrap();
        let parts = Parts::of(linear);
        assert_eq!(product(&mut stream, call, &parts).await.len(), 3 * parts.columns());
    }
    for layer in own {
        let mut stream = peer.open(&node, &local.open(0, 2)).await;
        stream.send(&masked(7, &format!("blocks.1.{layer}"), 1, 0, 3), &[]).await.unwrap();
        let (call, why, reason) = failed(&mut stream).await;
        assert!(call == 7 && why == Refusal::Bad && reason.contains("have no linear layer"), "{reason}");
    }
    assert_eq!(node.offences(4).await, [Offence::Malformed; 4]);
    for (from, to) in [(0, 3), (1, 3), (2, 4), (4, 5)] {
        let mut stream = peer.sent(&node, &local.open(from, to)).await;
        let (_, why, reason) = failed(&mut stream).await;
        assert!(why == Refusal::NotHere && reason.contains("are not served here"), "{reason}");
    }
    assert!(node.offences.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_and_memory_are_held_while_a_stream_is_open() {
    let local = Local::new();
    let few = ServeSettings { slots: 3, slots_per_peer: 2, memory: 100_000, ..settings() };
    let node = Node::new(&local.tiny, 1, few, whole(&local.package)).await;
    let (a, b) = (Peer::new(20, &[&node]).await, Peer::new(21, &[&node]).await);
    let free = node.serving.load().free_memory;
    let first = a.open(&node, &local.all()).await;
    // 64 rows of the widest layer, 16 columns in and 48 out: as they are sent and as they are computed with.
    assert_eq!(free - node.serving.load().free_memory, 64 * 4 * 2 * (16 + 48));
    let _second = a.open(&node, &local.all()).await;
    let (_, why, reason) = failed(&mut a.sent(&node, &local.all()).await).await;
    assert!(why == Refusal::Busy && reason.contains("all 2 slots that one peer"), "{reason}");
    let _third = b.open(&node, &local.all()).await;
    let (_, why, reason) = failed(&mut b.sent(&node, &local.all()).await).await;
    assert!(why == Refusal::Busy && reason.contains("all 3 slots"), "{reason}");
    drop(first);
    node.until_used(2).await;
    let large = ToServer::Open { package: local.digest, from: 0, to: BLOCKS as u32, rows: 2000 };
    let (_, why, reason) = failed(&mut b.sent(&node, &large).await).await;
    assert!(why == Refusal::Busy && reason.contains("bytes are wanted"), "{reason}");
    assert!(node.offences.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_by_silence_and_a_node_that_leaves_opens_none() {
    let local = Local::new();
    let brief = ServeSettings { max_hold: Duration::from_millis(500), ..settings() };
    let node = Node::new(&local.tiny, 1, brief, whole(&local.package)).await;
    let leaving = local.node(2).await;
    let peer = Peer::new(20, &[&node, &leaving]).await;
    let mut silent = peer.open(&node, &local.all()).await;
    let begun = Instant::now();
    let (_, why, reason) = failed(&mut silent).await;
    assert!(why == Refusal::Busy && reason.contains("nothing came"), "{reason}");
    assert!((400..5000).contains(&begun.elapsed().as_millis()));
    assert!(node.offences.lock().unwrap().is_empty(), "silence is no offence");
    node.until_used(0).await;

    let mut running = peer.open(&leaving, &local.all()).await;
    let draining = tokio::spawn({
        let serving = leaving.serving.clone();
        async move { serving.drain().await }
    });
    while !leaving.serving.is_draining() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (_, why, reason) = failed(&mut peer.sent(&leaving, &local.all()).await).await;
    assert!(why == Refusal::Busy && reason.contains("it will leave"), "{reason}");
    // What is open goes on, as long as something is wanted.
    let (name, layer) = &local.layers[0];
    running.send(&masked(0, name, 1, 0, 2), &[]).await.unwrap();
    product(&mut running, 0, &Parts::of(layer)).await;
    assert!(!draining.is_finished());
    let (_, why, _) = failed(&mut running).await;
    assert_eq!(why, Refusal::Busy);
    tokio::time::timeout(SOON, draining).await.unwrap().unwrap();
    assert_eq!(leaving.serving.load().used, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drips_a_share_is_cut_off() {
    let local = Local::new();
    let node = local.node(1).await;
    let peer = Peer::new(20, &[&node]).await;
    let (name, layer) = &local.layers[0];
    let mut stream = peer.open(&node, &local.all()).await;
    let bytes = u64::from(ROWS) * 4 * layer.inputs as u64;
    let frame = ToServer::Multiply { call: 0, layer: name.clone(), rows: ROWS, bytes };
    stream.send(&frame, &[]).await.unwrap();
    let begun = Instant::now();
    // A few bytes a second, until nobody takes them.
    while stream.write(&[0; 20]).await.is_ok() && node.serving.load().used > 0 {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    node.until_used(0).await;
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(node.client.fleet().reputation(&peer.0.node()) < 1000);
}
