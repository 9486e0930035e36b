//! Sessions over real sockets on loopback: what a node computes is what a local run computes, and what it does not put
//! up with.

use ostrakon_net::{Client, Event, FrameStream, NetConfig, NetError, Offence, Question};
use ostrakon_nn::Tensor;
use ostrakon_node::swarm::serve::{Serving, leg};
use ostrakon_node::{SignedReceipt, progress};
use ostrakon_protocol::quorum::{Phase, Quorum};
use ostrakon_protocol::wire::{Ask, FromNode, Prepare, Refusal, Reply, TensorHeader, ToNode, vote_subject};
use ostrakon_protocol::{Digest, Leg, Place, PublicKey, Request};
use ostrakon_tests::serving::{ask, column, digest, inputs, settings, start, tensor_digest, whole};
use ostrakon_tests::tiny::{BLOCKS, Random, Tiny, key, quick};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The client's end of a session.
type Stream = FrameStream<FromNode, ToNode>;

const SOON: Duration = Duration::from_secs(20);

async fn network(seed: u8, listen: &[&str]) -> (Client, ostrakon_net::Events) {
    let config = NetConfig {
        listen: listen.iter().map(|&address| address.to_owned()).collect(),
        ..NetConfig::new(*key(seed).seed())
    };
    Client::start(config).await.unwrap()
}

/// A node that serves.
struct Node {
    serving: Arc<Serving>,
    client: Client,
    /// What peers did wrong, as sessions said.
    offences: Arc<Mutex<Vec<Offence>>>,
}

impl Node {
    async fn new(tiny: &Tiny, seed: u8, package: &Path) -> Self {
        let serving = start(tiny, seed, settings(), vec![whole(package)]).await;
        let (client, mut events) = network(seed, &["/ip4/127.0.0.1/tcp/0"]).await;
        let offences: Arc<Mutex<Vec<Offence>>> = Arc::default();
        let (serves, noted) = (serving.clone(), offences.clone());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let (serving, noted) = (serves.clone(), noted.clone());
                match event {
                    Event::Question(Question { from, ask, answer }) => {
                        tokio::spawn(async move {
                            let reply = match ask {
                                Ask::Prepare(ask) => serving.prepare(from, ask).await,
                                Ask::Commit { session } => serving.commit(from, session).await,
                                Ask::Abort { session } => serving.abort(from, session).await,
                                Ask::Audit { receipt, per_mille } => serving.audit(from, &receipt, per_mille).await,
                                other => panic!("{other:?}"),
                            };
                            let _ = answer.send(reply);
                        });
                    }
                    Event::Session { from, stream } => {
                        tokio::spawn(async move {
                            let offence = serving.session(from, stream).await;
                            noted.lock().unwrap().extend(offence);
                        });
                    }
                    _ => {}
                }
            }
        });
        Self { serving, client, offences }
    }

    fn key(&self) -> PublicKey {
        self.client.node()
    }

    /// Until as many reservations and sessions are there.
    async fn until_used(&self, used: u32) {
        let begun = Instant::now();
        while self.serving.load().used != used {
            assert!(begun.elapsed() < SOON, "{} are used, not {used}", self.serving.load().used);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Somebody who wants blocks to be run.
struct Peer(Client);

impl Peer {
    async fn new(seed: u8, nodes: &[&Node]) -> Self {
        let (client, mut events) = network(seed, &[]).await;
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        for node in nodes {
            client.dial(&node.client.addresses()[0]).await.unwrap();
        }
        Self(client)
    }

    async fn ask(&self, node: &Node, ask: Ask) -> Reply {
        self.0.ask(node.key(), ask, SOON).await.unwrap()
    }

    async fn prepare(&self, node: &Node, ask: Prepare) -> Digest {
        match self.ask(node, Ask::Prepare(ask)).await {
            Reply::Prepared { session } => session,
            other => panic!("{other:?}"),
        }
    }

    async fn reserve(&self, node: &Node, ask: Prepare) -> Digest {
        let session = self.prepare(node, ask).await;
        assert_eq!(self.ask(node, Ask::Commit { session }).await, Reply::Ok);
        session
    }

    async fn stream(&self, node: &Node) -> Stream {
        self.0.session(node.key()).await.unwrap()
    }

    /// A session that is open.
    async fn open(&self, node: &Node, ask: Prepare) -> Stream {
        let session = self.reserve(node, ask).await;
        let mut stream = self.stream(node).await;
        stream.send(&ToNode::Open { session }, &[]).await.unwrap();
        assert_eq!(stream.receive(SOON).await.unwrap(), Some(FromNode::Opened));
        stream
    }
}

fn forward(call: u32, batch: u32, lengths: &[u32], input: &Tensor, sealed: bool) -> ToNode {
    let (tensor, input) = (leg::header(input), tensor_digest(input));
    ToNode::Forward { call, batch, lengths: lengths.to_vec(), input, tensor, sealed }
}

async fn next(stream: &mut Stream) -> FromNode {
    stream.receive(SOON).await.unwrap().unwrap()
}

/// The output of a call.
async fn output(stream: &mut Stream, wanted: u32) -> (Leg, Tensor, u64) {
    let FromNode::Output { call, leg, tensor, took } = next(stream).await else { panic!() };
    assert_eq!(call, wanted);
    let bytes = stream.payload(tensor.bytes, 1 << 20).await.unwrap();
    let tensor = leg::tensor(&tensor, &bytes).unwrap();
    assert_eq!(tensor_digest(&tensor), leg.steps.last().unwrap().output);
    (leg, tensor, took)
}

async fn failed(stream: &mut Stream) -> (Refusal, String) {
    match next(stream).await {
        FromNode::Failed { why, reason, .. } => (why, reason),
        other => panic!("{other:?}"),
    }
}

/// The model, a request and what a local run makes of it.
struct Local {
    tiny: Tiny,
    package: std::path::PathBuf,
    request: Request,
    signed: SignedReceipt,
    rows: Vec<Vec<f32>>,
}

/// Texts in a batch.
const TEXTS: usize = 2;

impl Local {
    fn new(texts: usize) -> Self {
        let tiny = Tiny::new();
        let package = tiny.honest(3);
        let mut model = tiny.load(&package, &quick());
        let texts = Random(7).texts(texts);
        let run = model.run_with_receipt(&texts, Some(TEXTS), &progress::unwatched, &key(0)).unwrap();
        let rows = run.0.outputs.into_iter().map(|output| output.values).collect();
        Self { tiny, package, request: Request::of_texts(model.digest(), texts), signed: run.1, rows }
    }

    fn batch(&self, at: usize) -> (Tensor, Vec<u32>) {
        inputs(self.request.texts.chunks(TEXTS).nth(at).unwrap())
    }

    fn place(&self, batch: u32, lengths: &[u32]) -> Place {
        let lengths = column(lengths.iter().map(|&n| n as i32).collect());
        let receipt = &self.signed.receipt;
        let place = Place {
            request: self.request.digest(),
            package: receipt.package,
            profile: receipt.profile,
            batch,
            lengths: tensor_digest(&lengths),
        };
        assert_eq!(Some(place), receipt.place(batch));
        place
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_of_two_nodes_are_the_local_run() {
    let local = Local::new(60);
    let (a, b) = (Node::new(&local.tiny, 1, &local.package).await, Node::new(&local.tiny, 2, &local.package).await);
    let peer = Peer::new(20, &[&a, &b]).await;
    let mut first = peer.open(&a, ask(&local.request, 0, 2)).await;
    let mut second = peer.open(&b, ask(&local.request, 2, BLOCKS as u32)).await;
    let mut overheads = Vec::new();
    for (at, batch) in local.signed.receipt.batches.iter().enumerate() {
        let call = at as u32;
        let (ids, lengths) = local.batch(at);
        let mut x = ids;
        let mut steps = Vec::new();
        for (stream, node) in [(&mut first, &a), (&mut second, &b)] {
            let begun = Instant::now();
            stream.send(&forward(call, call, &lengths, &x, false), &x.bytes()).await.unwrap();
            let (leg, tensor, took) = output(stream, call).await;
            overheads.push(begun.elapsed().saturating_sub(Duration::from_micros(took)));
            assert!(leg.is_signed(&local.place(call, &lengths)) && leg.node == node.key());
            steps.extend(leg.steps);
            x = tensor;
        }
        // Fuel too: a session costs what a local run costs.
        assert_eq!(steps.iter().collect::<Vec<_>>(), batch.steps().map(|(_, step)| step).collect::<Vec<_>>());
        let rows: Vec<&[f32]> = x.as_f32().unwrap().chunks(x.dims()[1] as usize).collect();
        let expected: Vec<&[f32]> = local.rows.chunks(TEXTS).nth(at).unwrap().iter().map(Vec::as_slice).collect();
        assert_eq!(rows, expected);
    }
    overheads.sort();
    println!(
        "{} hops: overhead median {:?}, worst {:?}",
        overheads.len(),
        overheads[overheads.len() / 2],
        overheads.last().unwrap()
    );
    first.send(&ToNode::Close, &[]).await.unwrap();
    drop(second);
    for node in [&a, &b] {
        node.until_used(0).await;
        assert!(node.offences.lock().unwrap().is_empty());
        assert!(node.serving.served()[0].rows_per_second > 0);
        let metrics = node.serving.metrics().all();
        let count = |wanted: &str| metrics.iter().find(|(name, ..)| *name == wanted).unwrap().2;
        assert_eq!((count("sessions"), count("forwards"), count("refused")), (1, 30, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_votes_without_seeing_an_output() {
    let local = Local::new(4);
    let mut nodes = Vec::new();
    for seed in 1..4 {
        nodes.push(Node::new(&local.tiny, seed, &local.package).await);
    }
    let peer = Peer::new(20, &nodes.iter().collect::<Vec<_>>()).await;
    let (from, to) = (0, BLOCKS as u32);
    let mut streams = Vec::new();
    for node in &nodes {
        streams.push(peer.open(node, ask(&local.request, from, to)).await);
    }
    let keys: Vec<PublicKey> = nodes.iter().map(Node::key).collect();
    for call in 0..2u32 {
        let (ids, lengths) = local.batch(call as usize);
        let mut quorum = Quorum::new(vote_subject(&digest(1), &digest(2), call, call, from, to), &keys, 2).unwrap();
        for stream in &mut streams {
            stream.send(&forward(call, call, &lengths, &ids, true), &ids.bytes()).await.unwrap();
        }
        for stream in &mut streams {
            let FromNode::Committed { call: got, commit } = next(stream).await else { panic!() };
            assert_eq!(got, call);
            quorum.commit(&commit).unwrap();
        }
        assert_eq!(quorum.phase(), Phase::Reveal);
        for (stream, node) in streams.iter_mut().zip(&keys) {
            stream.send(&ToNode::Reveal { call }, &[]).await.unwrap();
            let FromNode::Revealed { reveal, leg, .. } = next(stream).await else { panic!() };
            assert!(leg.is_signed(&local.place(call, &lengths)) && leg.node == *node);
            assert_eq!(reveal.output, leg.steps.last().unwrap().output);
            quorum.reveal(&reveal).unwrap();
        }
        let outcome = quorum.outcome().unwrap();
        assert_eq!(outcome.agreed.len(), 3);
        let expected = local.signed.receipt.batches[call as usize].steps().last().unwrap().1.output;
        assert_eq!(outcome.accepted, Some(expected));
        streams[1].send(&ToNode::Fetch { call }, &[]).await.unwrap();
        assert_eq!(tensor_digest(&output(&mut streams[1], call).await.1), expected);
    }
    // Out of order, each ends its session.
    for (stream, frames, words) in [
        (0, vec![ToNode::Reveal { call: 1 }], "revealed already"),
        (1, vec![ToNode::Reveal { call: 2 }], "no sealed call 2"),
        (2, vec![ToNode::Fetch { call: 7 }], "no sealed call 7"),
    ] {
        for frame in frames {
            streams[stream].send(&frame, &[]).await.unwrap();
        }
        let (why, reason) = failed(&mut streams[stream]).await;
        assert!(why == Refusal::Bad && reason.contains(words), "{reason}");
    }
    // The output before the vote: not shown. And only so many are kept.
    let (ids, lengths) = local.batch(0);
    let mut early = peer.open(&nodes[0], ask(&local.request, from, to)).await;
    let mut many = peer.open(&nodes[0], ask(&local.request, from, to)).await;
    for call in 0..6 {
        many.send(&forward(call, call, &lengths, &ids, true), &ids.bytes()).await.unwrap();
        assert!(matches!(next(&mut many).await, FromNode::Committed { .. }));
    }
    early.send(&forward(0, 0, &lengths, &ids, true), &ids.bytes()).await.unwrap();
    assert!(matches!(next(&mut early).await, FromNode::Committed { .. }));
    early.send(&ToNode::Fetch { call: 0 }, &[]).await.unwrap();
    assert!(failed(&mut early).await.1.contains("has not been revealed"));
    many.send(&ToNode::Reveal { call: 2 }, &[]).await.unwrap();
    assert!(matches!(next(&mut many).await, FromNode::Revealed { .. }));
    many.send(&ToNode::Reveal { call: 1 }, &[]).await.unwrap();
    assert!(failed(&mut many).await.1.contains("no sealed call 1"));
    nodes[0].until_used(0).await;
}

/// Changes a call's number, its lengths, its input's digest, its tensor's header.
type Change<'a> = &'a dyn Fn(&mut u32, &mut Vec<u32>, &mut Digest, &mut TensorHeader);

/// A forward call, changed.
fn changed(good: &ToNode, change: Change<'_>) -> ToNode {
    let ToNode::Forward { mut call, batch, mut lengths, mut input, mut tensor, sealed } = good.clone() else {
        panic!()
    };
    change(&mut call, &mut lengths, &mut input, &mut tensor);
    ToNode::Forward { call, batch, lengths, input, tensor, sealed }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_frames_end_their_session_and_nothing_else() {
    let local = Local::new(2);
    let node = Node::new(&local.tiny, 1, &local.package).await;
    let (peer, other) = (Peer::new(20, &[&node]).await, Peer::new(21, &[&node]).await);
    let (ids, lengths) = local.batch(0);
    let good = forward(0, 0, &lengths, &ids, false);
    let reserved = ask(&local.request, 0, 2);
    // An honest session that is there all the time.
    let mut honest = peer.open(&node, reserved.clone()).await;

    let wrong: [(Change<'_>, &str); 14] = [
        (&|_, lengths, _, _| lengths.clear(), "no texts"),
        (&|_, lengths, _, _| lengths[0] = 0, "not 1 to 10 tokens"),
        (&|_, lengths, _, _| lengths[0] = 11, "not 1 to 10 tokens"),
        (&|_, lengths, _, _| lengths[0] = u32::MAX, "not 1 to 10 tokens"),
        (&|_, lengths, _, _| lengths.push(1), "here it must be"),
        (&|_, lengths, _, _| *lengths = vec![10; 7], "70 rows, 64 were reserved"),
        (&|_, _, input, _| *input = digest(9), "the input's digest is"),
        (&|_, _, _, tensor| tensor.element = 1, "here it must be of type 5"),
        (&|_, _, _, tensor| tensor.element = 200, "here it must be of type 5"),
        (&|_, _, _, tensor| tensor.dimensions = vec![], "here it must be"),
        (&|_, _, _, tensor| tensor.dimensions.push(1), "here it must be"),
        (&|_, _, _, tensor| tensor.dimensions = vec![u32::MAX; 9], "here it must be"),
        (&|_, _, _, tensor| tensor.bytes += 4, "here it must be"),
        (&|_, _, _, tensor| tensor.bytes = u64::MAX, "here it must be"),
    ];
    for (change, words) in wrong {
        let mut stream = peer.open(&node, reserved.clone()).await;
        stream.send(&changed(&good, change), &ids.bytes()).await.unwrap();
        let (why, reason) = failed(&mut stream).await;
        assert!(why == Refusal::Bad && reason.contains(words), "{why:?} {reason}");
    }
    // No call comes twice.
    let mut twice = peer.open(&node, reserved.clone()).await;
    twice.send(&good, &ids.bytes()).await.unwrap();
    output(&mut twice, 0).await;
    twice.send(&good, &ids.bytes()).await.unwrap();
    assert!(failed(&mut twice).await.1.contains("call 0 has been"));
    // Each is noted, once the stream is over.
    let begun = Instant::now();
    while node.offences.lock().unwrap().len() < 15 {
        assert!(begun.elapsed() < SOON, "{:?}", node.offences);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(std::mem::take(&mut *node.offences.lock().unwrap()), [Offence::Malformed; 15]);
    node.until_used(1).await;

    // What the component refuses is refused, and no offence: somebody else may have computed it.
    let mut stream = peer.open(&node, reserved.clone()).await;
    let unknown = column(vec![9999; ids.dims()[0] as usize]);
    stream.send(&forward(0, 0, &lengths, &unknown, false), &unknown.bytes()).await.unwrap();
    let (why, reason) = failed(&mut stream).await;
    assert!(why == Refusal::Bad && reason.contains("embeddings"), "{reason}");
    assert!(node.offences.lock().unwrap().is_empty());

    // Sessions that are not this peer's to open, or not now.
    let foreign = other.reserve(&node, reserved.clone()).await;
    let not_committed = peer.prepare(&node, reserved.clone()).await;
    for (frame, why, words) in [
        (ToNode::Open { session: foreign }, Refusal::Forbidden, "somebody else's"),
        (ToNode::Open { session: not_committed }, Refusal::Bad, "not committed"),
        (ToNode::Open { session: digest(3) }, Refusal::NotHere, "no reservation"),
        (ToNode::Reveal { call: 0 }, Refusal::Bad, "first frame"),
        (ToNode::Close, Refusal::Bad, "first frame"),
        (good.clone(), Refusal::Bad, "first frame"),
    ] {
        let mut stream = peer.stream(&node).await;
        stream.send(&frame, &[]).await.unwrap();
        let (kind, reason) = failed(&mut stream).await;
        assert!(kind == why && reason.contains(words), "{kind:?} {reason}");
    }
    // One stream for a session; one session for a stream.
    let session = peer.reserve(&node, reserved.clone()).await;
    let mut first = peer.stream(&node).await;
    first.send(&ToNode::Open { session }, &[]).await.unwrap();
    assert_eq!(next(&mut first).await, FromNode::Opened);
    let mut second = peer.stream(&node).await;
    second.send(&ToNode::Open { session }, &[]).await.unwrap();
    assert!(failed(&mut second).await.1.contains("has a stream already"));
    first.send(&ToNode::Open { session }, &[]).await.unwrap();
    assert!(failed(&mut first).await.1.contains("has a session already"));

    // An unsealed call has nothing to reveal or to fetch.
    for frame in [ToNode::Reveal { call: 0 }, ToNode::Fetch { call: 0 }] {
        let mut stream = peer.open(&node, reserved.clone()).await;
        stream.send(&good, &ids.bytes()).await.unwrap();
        output(&mut stream, 0).await;
        stream.send(&frame, &[]).await.unwrap();
        assert!(failed(&mut stream).await.1.contains("no sealed call 0"));
    }

    // Bytes that are no frames, and headers larger than any: the stream ends.
    for raw in [&[7u8; 300][..], &u32::MAX.to_le_bytes(), &[4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
        let mut stream = other.open(&node, reserved.clone()).await;
        stream.write(raw).await.unwrap();
        let ended = stream.receive(SOON).await;
        assert!(matches!(ended, Ok(None) | Err(NetError::Closed(_))), "{ended:?}");
    }

    // And the honest one goes on.
    honest.send(&good, &ids.bytes()).await.unwrap();
    let (leg, _, _) = output(&mut honest, 0).await;
    let expected: Vec<_> = local.signed.receipt.batches[0].steps().take(2).map(|(_, step)| step.clone()).collect();
    assert_eq!(leg.steps, expected);
    drop(honest);
    other.ask(&node, Ask::Abort { session: foreign }).await;
    peer.ask(&node, Ask::Abort { session: not_committed }).await;
    node.until_used(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_by_silence_abort_and_drain_and_outlive_their_package() {
    let local = Local::new(4);
    let node = Node::new(&local.tiny, 1, &local.package).await;
    let peer = Peer::new(20, &[&node]).await;
    let reserved = ask(&local.request, 0, 2);
    let (ids, lengths) = local.batch(0);

    let mut silent = peer.open(&node, Prepare { hold: 300, ..reserved.clone() }).await;
    let begun = Instant::now();
    let (why, reason) = failed(&mut silent).await;
    assert!(why == Refusal::Busy && reason.contains("nothing came"), "{reason}");
    assert!((250..5000).contains(&begun.elapsed().as_millis()));
    assert!(node.offences.lock().unwrap().is_empty(), "silence is no offence");

    let session = peer.reserve(&node, reserved.clone()).await;
    let mut aborted = peer.stream(&node).await;
    aborted.send(&ToNode::Open { session }, &[]).await.unwrap();
    assert_eq!(next(&mut aborted).await, FromNode::Opened);
    assert_eq!(peer.ask(&node, Ask::Abort { session }).await, Reply::Ok);
    let (why, reason) = failed(&mut aborted).await;
    assert!(why == Refusal::Busy && reason.contains("aborted"), "{reason}");
    node.until_used(0).await;

    // The package is replaced under a session that runs, and under one that is only prepared.
    let mut running = peer.open(&node, reserved.clone()).await;
    let prepared = peer.prepare(&node, reserved.clone()).await;
    let new = local.tiny.honest(1);
    node.serving.set_packages(vec![whole(&new)]).await.unwrap();
    assert_ne!(node.serving.served()[0].package, local.request.package);
    let Reply::Refused { why, .. } = peer.ask(&node, Ask::Prepare(reserved.clone())).await else { panic!() };
    assert_eq!(why, Refusal::NotHere);
    assert_eq!(peer.ask(&node, Ask::Commit { session: prepared }).await, Reply::Ok);
    let mut late = peer.stream(&node).await;
    late.send(&ToNode::Open { session: prepared }, &[]).await.unwrap();
    assert_eq!(next(&mut late).await, FromNode::Opened);
    // And then the node is to leave, while both still run.
    let draining = tokio::spawn({
        let serving = node.serving.clone();
        async move { serving.drain().await }
    });
    for stream in [&mut running, &mut late] {
        stream.send(&forward(0, 0, &lengths, &ids, false), &ids.bytes()).await.unwrap();
        let (leg, _, _) = output(stream, 0).await;
        assert!(leg.is_signed(&local.place(0, &lengths)));
    }
    assert!(!draining.is_finished());
    running.send(&ToNode::Close, &[]).await.unwrap();
    drop(late);
    tokio::time::timeout(SOON, draining).await.unwrap().unwrap();
    assert_eq!(node.serving.load().used, 0);
}
