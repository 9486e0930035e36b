//! Servers of private runs that lie, send nonsense, stall and go: the answer is right, and who did what is said.

use crate::runs::{User, spread};
use ostrakon_exact::field::{Field, Parts};
use ostrakon_net::{Client, Event, Events, FrameStream, NetConfig};
use ostrakon_node::progress::unwatched;
use ostrakon_node::swarm::serve::Serving;
use ostrakon_protocol::share::{FromServer, ToServer};
use ostrakon_protocol::wire::{MAX_TENSOR_BYTES, Refusal};
use ostrakon_protocol::{Digest, PublicKey, Roles, SignedStatus, Status};
use ostrakon_tests::private::{linear_layers, packed, unpacked};
use ostrakon_tests::serving::{settings, start, whole};
use ostrakon_tests::tiny::{Random, Tiny, expect, key, quick};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(20);
/// Linear layers of the tiny model.
const LAYERS: u32 = 12;
/// One of its layers of the larger field, and after it one of the smaller one.
const LARGE: u32 = 4;
const SMALL: u32 = 5;

/// What a server does instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// One element is another one.
    Wrong,
    /// One element is the number that is zero in the field.
    Prime,
    /// All bits of an element are set.
    Ones,
    Shorter,
    Longer,
    /// The elements as those of the other field are sent.
    OtherField,
    /// It says that so much follows as nobody has.
    Huge,
    OtherCall,
    OpensAgain,
    /// A header without end.
    NoEnd,
    /// A header that is none.
    NoFrame,
    /// The header, byte by byte.
    DripsHeader,
    /// The elements, byte by byte.
    Drips,
    /// Half of the elements, then the end.
    ClosesInside,
    /// The end instead of an answer.
    Closes,
    Silent,
    Busy,
    Fails,
    /// It does not take the stream: says so, or nothing.
    RefusesToOpen,
    SilentToOpen,
}

/// All of them, with a part of what the note says, and whether it is reported.
const DEEDS: [(Deed, &str, bool); 20] = [
    (Deed::Wrong, "is wrong: row", true),
    (Deed::Prime, "something else than it was asked for", true),
    (Deed::Ones, "something else than it was asked for", true),
    (Deed::Shorter, "of another size", true),
    (Deed::Longer, "of another size", true),
    (Deed::OtherField, "of another size", true),
    (Deed::Huge, "of another size", true),
    (Deed::OtherCall, "not asked for", true),
    (Deed::OpensAgain, "not asked for", true),
    (Deed::NoEnd, "something else than it was asked for", true),
    (Deed::NoFrame, "something else than it was asked for", true),
    (Deed::DripsHeader, "did not answer within", true),
    (Deed::Drips, "did not answer within", true),
    // In the middle of what it sends, or of what it is sent.
    (Deed::ClosesInside, "the connection ended", false),
    (Deed::Closes, "closed the stream", false),
    (Deed::Silent, "did not answer within", true),
    (Deed::Busy, "no room: later", false),
    (Deed::Fails, "it failed: broken", true),
    (Deed::RefusesToOpen, "it refused: never", false),
    (Deed::SilentToOpen, "did not answer within", true),
];

/// Those that are not the same in each field.
const OF_FIELD: [Deed; 7] =
    [Deed::Prime, Deed::Ones, Deed::Shorter, Deed::Longer, Deed::OtherField, Deed::Drips, Deed::ClosesInside];

/// When a server misbehaves.
#[derive(Debug, Clone, Copy)]
struct Manner {
    deed: Deed,
    /// With a share that was sent; else with one that a seed makes.
    sent: bool,
    /// The how manieth of these on a stream.
    at: u32,
}

/// A layer's field and the columns of its product, by its name.
type Layers = BTreeMap<String, (Field, usize)>;

struct Node {
    client: Client,
    serving: Arc<Serving>,
    layers: Arc<Layers>,
    manner: Mutex<Option<Manner>>,
}

impl Node {
    fn own(&self) -> PublicKey {
        self.client.node()
    }

    fn publish(self: &Arc<Self>, seed: u8) {
        let node = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
                let status = Status {
                    node: node.own(),
                    sequence: now,
                    issued: now,
                    operator: format!("operator {seed}"),
                    roles: Roles { execution: true, scheduling: seed == 1, ..Roles::default() },
                    addresses: node.client.addresses(),
                    hardware: node.serving.hardware(),
                    load: node.serving.load(),
                    served: node.serving.served(),
                    plugins: vec![],
                    draining: false,
                };
                node.client.publish(SignedStatus::sign(&key(seed), status)).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    async fn serve(self: Arc<Self>, mut events: Events) {
        while let Some(event) = events.recv().await {
            let node = Arc::clone(&self);
            let Event::Share { from, stream } = event else { continue };
            tokio::spawn(async move {
                let manner = *node.manner.lock().unwrap();
                match manner.filter(|_| from != node.own()) {
                    Some(manner) => drop(deceive(&node, manner, stream).await),
                    None => drop(node.serving.share(from, stream).await),
                }
            });
        }
    }
}

type Stream = FrameStream<ToServer, FromServer>;

/// Have it computed honestly, and pass on what the manner makes of it.
async fn deceive(node: &Node, manner: Manner, mut stream: Stream) -> Option<()> {
    let open = stream.receive(SOON).await.ok()??;
    match manner.deed {
        Deed::RefusesToOpen => {
            let refusal = FromServer::Failed { call: 0, why: Refusal::NotHere, reason: "never".into() };
            stream.send(&refusal, &[]).await.ok()?;
            return None;
        }
        Deed::SilentToOpen => return until_left(&mut stream).await,
        _ => {}
    }
    let mut honest = node.client.share(node.own()).await.ok()?;
    honest.send(&open, &[]).await.ok()?;
    let opened = honest.receive(SOON).await.ok()??;
    stream.send(&opened, &[]).await.ok()?;
    let mut seen = 0;
    loop {
        let frame = stream.receive(Duration::from_secs(60)).await.ok()??;
        let share = stream.payload(frame.follows(), MAX_TENSOR_BYTES).await.ok()?;
        honest.send(&frame, &share).await.ok()?;
        let FromServer::Product { call, bytes, took } = honest.receive(SOON).await.ok()?? else { return None };
        let product = honest.payload(bytes, MAX_TENSOR_BYTES).await.ok()?.to_vec();
        let right = FromServer::Product { call, bytes, took };
        let concerned = matches!(frame, ToServer::Multiply { .. }) == manner.sent;
        if concerned && seen == manner.at {
            // The slot is free for others.
            drop(honest);
            return misbehave(&mut stream, manner.deed, call, product, node.layers[layer(&frame)]).await;
        }
        seen += u32::from(concerned);
        stream.send(&right, &product).await.ok()?;
    }
}

fn layer(frame: &ToServer) -> &str {
    match frame {
        ToServer::Multiply { layer, .. } | ToServer::Masked { layer, .. } => layer,
        _ => panic!("it asks for nothing"),
    }
}

async fn misbehave(
    stream: &mut Stream,
    deed: Deed,
    call: u32,
    mut product: Vec<u8>,
    (field, width): (Field, usize),
) -> Option<()> {
    let header = |call, bytes| FromServer::Product { call, bytes, took: 1 };
    let failed = |why, reason: &str| FromServer::Failed { call, why, reason: reason.to_owned() };
    let mut elements = unpacked(field, width, &product);
    let middle = elements.len() / 2;
    let element = elements[middle];
    let mut put = |element: u32| {
        elements[middle] = element;
        product = packed(field, width, &elements);
    };
    match deed {
        Deed::Wrong => put((element + 1) % field.prime()),
        Deed::Prime => put(field.prime()),
        Deed::Ones => put(u32::MAX),
        Deed::OtherField => {
            let [small, large] = Field::ALL;
            product = packed(if field == small { large } else { small }, width, &elements);
        }
        Deed::Shorter => product.truncate(product.len() - field.bytes()),
        Deed::Longer => product.resize(product.len() + field.bytes(), 0),
        _ => {}
    }
    let bytes = product.len() as u64;
    match deed {
        Deed::Wrong | Deed::Prime | Deed::Ones | Deed::OtherField | Deed::Shorter | Deed::Longer => {
            stream.send(&header(call, bytes), &product).await.ok()?;
        }
        Deed::Huge => stream.send(&header(call, u64::MAX), &product).await.ok()?,
        Deed::OtherCall => stream.send(&header(call + 1, bytes), &product).await.ok()?,
        Deed::OpensAgain => stream.send(&FromServer::Opened, &[]).await.ok()?,
        Deed::NoEnd => stream.write(&[0xff; 4096]).await.ok()?,
        Deed::NoFrame => {
            stream.write(&4000_u32.to_le_bytes()).await.ok()?;
            stream.write(&[0; 8000]).await.ok()?;
        }
        Deed::DripsHeader => {
            for byte in [16, 0, 0, 0].into_iter().chain([0; 16]) {
                stream.write(&[byte]).await.ok()?;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        Deed::Drips => {
            stream.send(&header(call, bytes), &[]).await.ok()?;
            for byte in product {
                stream.write(&[byte]).await.ok()?;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        Deed::ClosesInside => stream.send(&header(call, bytes), &product[..product.len() / 2]).await.ok()?,
        Deed::Busy => stream.send(&failed(Refusal::Busy, "later"), &[]).await.ok()?,
        // Whoever shows it to people must leave out what moves a cursor.
        Deed::Fails => stream.send(&failed(Refusal::Fault, "\u{1b}broken"), &[]).await.ok()?,
        Deed::Closes | Deed::RefusesToOpen | Deed::SilentToOpen => return None,
        Deed::Silent => {}
    }
    if deed != Deed::ClosesInside {
        until_left(stream).await?;
    }
    None
}

/// Whoever waits for more waits in vain.
async fn until_left(stream: &mut Stream) -> Option<()> {
    loop {
        stream.receive(SOON).await.ok()??;
    }
}

/// Nodes of an operator each, in this process, on real sockets.
struct Nodes {
    user: User,
    nodes: Vec<Arc<Node>>,
    package: PathBuf,
    texts: Vec<String>,
    right: Digest,
    _tiny: Tiny,
}

impl Nodes {
    fn start(count: u8) -> Self {
        let tiny = Tiny::new();
        let package = tiny.honest(1);
        let texts = Random(11).texts(6);
        let mut model = tiny.load(&package, &quick());
        let right = expect(model.run(&texts, None, &unwatched)).digest;
        let cut = linear_layers(&model).into_iter().map(|(name, layer)| (name, Parts::of(&layer)));
        let layers: Vec<_> = cut.map(|(name, parts)| (name, (parts.field(), parts.columns()))).collect();
        let fields = [SMALL, LARGE].map(|at| layers[at as usize].1.0);
        assert_eq!((layers.len(), fields), (LAYERS as usize, Field::ALL));
        let layers: Arc<Layers> = Arc::new(layers.into_iter().collect());
        let mut user = User::new(Vec::new(), tiny.home(), quick());
        let mut nodes = Vec::new();
        for seed in 1..=count {
            nodes.push(user.runtime.block_on(async {
                let serving = start(&tiny, seed, settings(), vec![whole(&package)]).await;
                let listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
                let bootstrap = user.addresses.clone();
                let config = NetConfig { listen, bootstrap, ..NetConfig::new([seed; 32]) };
                let (client, events) = expect(Client::start(config).await);
                let (layers, manner) = (Arc::clone(&layers), Mutex::default());
                let node = Arc::new(Node { client, serving, layers, manner });
                node.publish(seed);
                tokio::spawn(Arc::clone(&node).serve(events));
                node
            }));
            if seed == 1 {
                user.addresses = nodes[0].client.addresses();
            }
        }
        user.until_served(count.into());
        Self { user, nodes, package, texts, right, _tiny: tiny }
    }

    fn manner(&self, at: usize, manner: Option<Manner>) {
        *self.nodes[at].manner.lock().unwrap() = manner;
    }

    /// A run with one bad server: what it took.
    fn meets(&self, manner: Manner, place: usize, servers: u32, words: &str, reported: bool) -> Duration {
        let (mut model, net) = expect(self.user.open(&self.package, servers));
        let chosen = model.legs()[0].servers[place];
        // No stream is open yet.
        for node in &self.nodes {
            *node.manner.lock().unwrap() = Some(manner).filter(|_| node.own() == chosen);
        }
        let bad = self.nodes.iter().find(|node| node.own() == chosen).unwrap();
        let start = Instant::now();
        let private = expect(model.run(&self.texts, None, &unwatched));
        let took = start.elapsed();
        assert_eq!(private.answer.digest, self.right, "{manner:?}");
        let [replaced] = private.replaced.as_slice() else { panic!("{manner:?}: {:?}", private.replaced) };
        assert_eq!(replaced.server, bad.own(), "{manner:?}");
        let note = &replaced.why;
        assert!(note.contains(words) && !note.contains('\u{1b}'), "{manner:?}: {note}");
        assert!(private.legs.iter().all(|leg| !leg.servers.contains(&bad.own())), "{manner:?} is asked again");
        for node in &self.nodes {
            let reputation = net.fleet().reputation(&node.own());
            let expected = reported && node.own() == bad.own();
            assert_eq!(reputation < 1000, expected, "{manner:?}: {} has {reputation}; {note}", node.own());
        }
        // And without anybody who misbehaves it goes on.
        let again = expect(model.run(&self.texts, Some(2), &unwatched));
        assert_eq!((again.answer.digest, again.replaced.len()), (self.right, 1), "{manner:?}");
        model.close();
        println!("{manner:?} at place {place} of {servers}: {} ms; {}", took.as_millis(), note);
        took
    }
}

#[test]
fn whatever_a_server_does_the_answer_is_right() {
    let nodes = Nodes::start(5);
    let mut times = Vec::new();
    for sent in [true, false] {
        for (deed, words, reported) in DEEDS {
            let layers = if OF_FIELD.contains(&deed) { vec![LARGE, SMALL] } else { vec![LARGE] };
            for at in layers {
                times.push(nodes.meets(Manner { deed, sent, at }, usize::from(!sent), 2, words, reported));
            }
        }
        // In each product.
        for at in 0..LAYERS {
            let manner = Manner { deed: Deed::Wrong, sent, at };
            times.push(nodes.meets(manner, usize::from(!sent), 2, "is wrong: row", true));
        }
    }
    // One of several with a seed.
    for place in [1, 2] {
        let manner = Manner { deed: Deed::Wrong, sent: false, at: 7 };
        times.push(nodes.meets(manner, place, 3, "is wrong: row", true));
    }
    let (taken, sent) = nodes.user.masks.used_once();
    assert!(sent <= taken);
    println!("{}; {taken} rows of masks, {sent} sent, each used once", spread(times));
}

#[test]
fn with_liars_only_it_ends() {
    let nodes = Nodes::start(5);
    for (sent, at) in [(true, 1), (false, 3), (true, 0), (false, LAYERS - 1)] {
        for node in 0..5 {
            nodes.manner(node, Some(Manner { deed: Deed::Wrong, sent, at }));
        }
        let (mut model, net) = expect(nodes.user.open(&nodes.package, 2));
        let start = Instant::now();
        let error = model.run(&nodes.texts, None, &unwatched).unwrap_err().to_string();
        let took = start.elapsed();
        model.close();
        println!("all lie (sent: {sent}, {at}), {} ms: {error}", took.as_millis());
        assert!(error.contains("different ones are needed") || error.contains("no node that is free"), "{error}");
        let reported = nodes.nodes.iter().filter(|node| net.fleet().reputation(&node.own()) < 1000).count();
        assert!(reported >= 4, "{reported} of 5 liars are reported");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    nodes.user.masks.used_once();
}

#[test]
fn with_silent_servers_only_it_ends() {
    let nodes = Nodes::start(4);
    for sent in [true, false] {
        for node in 0..4 {
            nodes.manner(node, Some(Manner { deed: Deed::Silent, sent, at: 0 }));
        }
        let (mut model, _) = expect(nodes.user.open(&nodes.package, 2));
        let start = Instant::now();
        let error = model.run(&nodes.texts, None, &unwatched).unwrap_err().to_string();
        println!("all are silent (sent: {sent}), {:.1} s: {error}", start.elapsed().as_secs_f64());
        assert!(error.contains("did not answer within"), "{error}");
        model.close();
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }
    nodes.user.masks.used_once();
}
