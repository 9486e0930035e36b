//! Nodes in one process, on real sockets: honest ones, and some that are not.

use ostrakon_net::{Client, Event, Events, FrameStream, NetConfig};
use ostrakon_node::swarm::coordinator::{Coordinator, CoordinatorLimits, CoordinatorSettings};
use ostrakon_node::swarm::database;
use ostrakon_node::swarm::known::KnownPackage;
use ostrakon_node::swarm::serve::Serving;
use ostrakon_protocol::quorum::Vote;
use ostrakon_protocol::wire::{Ask, FromNode, MAX_TENSOR_BYTES, Prepare, Reply, TensorHeader, ToNode, vote_subject};
use ostrakon_protocol::{
    Attestation, Digest, Finding, Leg, Place, PublicKey, Roles, SignedReceipt, SignedStatus, Status, decode,
};
use ostrakon_tests::tiny::{Tiny, expect, key, policy, quick};
use ostrakon_tests::{packed, serving};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Audits, and runs nothing.
    Audits,
    /// Audits, and accuses whoever ran something.
    Accuses,
    /// Takes sessions and ends them.
    Drops,
    /// Takes sessions and never says a word.
    Silent,
    /// Signs something wrong.
    Lies,
    /// Sends another output than it has signed.
    Equivocates,
    /// Commits to one output and shows another.
    Wavers,
}

pub(crate) struct Swarm {
    pub(crate) tiny: Tiny,
    pub(crate) package: PathBuf,
    pub(crate) known: Arc<KnownPackage>,
    pub(crate) lead: Client,
    pub(crate) coordinator: Coordinator,
    pub(crate) nodes: Vec<(PublicKey, Client)>,
}

pub(crate) const LEAD: u8 = 100;

pub(crate) fn config(seed: u8, bootstrap: Vec<String>) -> NetConfig {
    NetConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".into()], bootstrap, ..NetConfig::new([seed; 32]) }
}

fn limits() -> CoordinatorLimits {
    CoordinatorLimits {
        patience: Duration::from_secs(1),
        search: Duration::from_secs(30),
        search_in_vain: Duration::from_secs(5),
        ..CoordinatorLimits::default()
    }
}

pub(crate) async fn coordinator(tiny: &Tiny, net: &Client, known: &Arc<KnownPackage>, data: &Path) -> Coordinator {
    let mut home = tiny.home();
    home.data = data.to_owned();
    let settings = CoordinatorSettings {
        net: net.clone(),
        database: expect(database::open(&home)),
        home,
        key: key(LEAD),
        scheduler: expect(std::fs::read(packed::plugins().join("scheduler.wasm"))),
        options: quick(),
        packages: vec![Arc::clone(known)],
        limits: limits(),
    };
    expect(Coordinator::start(settings).await)
}

impl Swarm {
    /// A coordinator, and a node of each of these manners.
    pub(crate) async fn start(manners: &[Manner]) -> Self {
        let tiny = Tiny::new();
        let package = tiny.honest(1);
        let known = Arc::new(expect(KnownPackage::open(&package, &policy(), &tiny.home(), &quick())));
        let (lead, events) = expect(Client::start(config(LEAD, vec![])).await);
        let coordinator = coordinator(&tiny, &lead, &known, &tiny.path().join("lead")).await;
        tokio::spawn(lead_events(coordinator.clone(), events));
        publish(&lead, LEAD, Roles { scheduling: true, ..Roles::default() }, None);
        let mut swarm = Self { tiny, package, known, lead, coordinator, nodes: Vec::new() };
        for (seed, &manner) in (1..).zip(manners) {
            swarm.join(seed, manner).await;
        }
        swarm.settle().await;
        swarm
    }

    pub(crate) async fn join(&mut self, seed: u8, manner: Manner) {
        let packages = vec![serving::whole(&self.package)];
        let serving = serving::start(&self.tiny, seed, serving::settings(), packages).await;
        let (client, events) = expect(Client::start(config(seed, self.lead.addresses())).await);
        let audits = matches!(manner, Manner::Audits | Manner::Accuses);
        let (execution, verification) = (!audits, audits || manner == Manner::Honest);
        let roles = Roles { execution, verification, ..Roles::default() };
        publish(&client, seed, roles, Some(&serving));
        let node = Arc::new(Node {
            client: client.clone(),
            serving,
            manner,
            seed,
            profile: self.known.profile(),
            asks: Mutex::default(),
        });
        tokio::spawn(node_events(node, events));
        self.nodes.push((key(seed).public(), client));
    }

    pub(crate) async fn settle(&self) {
        let all = self.nodes.len() + 1;
        for _ in 0..400 {
            if self.lead.fleet().statuses().len() >= all {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} of {all} nodes know each other", self.lead.fleet().statuses().len());
    }

    pub(crate) fn reputation(&self, node: usize) -> u32 {
        self.lead.fleet().reputation(&self.nodes[node].0)
    }
}

pub(crate) fn publish(client: &Client, seed: u8, roles: Roles, serving: Option<&Arc<Serving>>) {
    let (client, serving) = (client.clone(), serving.cloned());
    tokio::spawn(async move {
        loop {
            let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
            let status = Status {
                node: key(seed).public(),
                sequence: now,
                issued: now,
                operator: format!("operator {seed}"),
                roles,
                addresses: client.addresses(),
                hardware: serving.as_ref().map(|s| s.hardware()).unwrap_or_default(),
                load: serving.as_ref().map(|s| s.load()).unwrap_or_default(),
                served: serving.as_ref().filter(|_| roles.execution).map(|s| s.served()).unwrap_or_default(),
                plugins: vec![],
                draining: false,
            };
            client.publish(SignedStatus::sign(&key(seed), status)).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    });
}

pub(crate) async fn lead_events(coordinator: Coordinator, mut events: Events) {
    while let Some(event) = events.recv().await {
        let coordinator = coordinator.clone();
        tokio::spawn(async move {
            match event {
                Event::Question(question) => {
                    let reply = match question.ask {
                        Ask::Submit { job } => coordinator.submit(question.from, *job).await,
                        Ask::Job { job } => coordinator.job(question.from, job).await,
                        Ask::Receipts => coordinator.receipts().await,
                        _ => return,
                    };
                    let _ = question.answer.send(reply);
                }
                Event::Files { from, mut stream } => {
                    if let Ok(Some(ask)) = stream.receive(Duration::from_secs(5)).await {
                        let _ = coordinator.files(from, ask, &mut stream).await;
                    }
                }
                _ => {}
            }
        });
    }
}

struct Node {
    client: Client,
    serving: Arc<Serving>,
    manner: Manner,
    seed: u8,
    profile: Digest,
    asks: Mutex<HashMap<Digest, Prepare>>,
}

async fn node_events(node: Arc<Node>, mut events: Events) {
    while let Some(event) = events.recv().await {
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            match event {
                Event::Question(question) => {
                    let from = question.from;
                    let reply = match question.ask {
                        Ask::Prepare(ask) => {
                            let reply = node.serving.prepare(from, ask.clone()).await;
                            if let Reply::Prepared { session } = &reply {
                                node.asks.lock().unwrap().insert(*session, ask);
                            }
                            reply
                        }
                        Ask::Commit { session } => node.serving.commit(from, session).await,
                        Ask::Abort { session } => node.serving.abort(from, session).await,
                        Ask::Audit { receipt, .. } if node.manner == Manner::Accuses => accuse(node.seed, &receipt),
                        Ask::Audit { receipt, per_mille } => node.serving.audit(from, &receipt, per_mille).await,
                        _ => return,
                    };
                    let _ = question.answer.send(reply);
                }
                Event::Session { from, stream } => {
                    let own = from == key(node.seed).public();
                    match node.manner {
                        _ if own => drop(node.serving.session(from, stream).await),
                        Manner::Honest => drop(node.serving.session(from, stream).await),
                        Manner::Drops => drop(stream),
                        Manner::Silent => {
                            tokio::time::sleep(Duration::from_secs(600)).await;
                            drop(stream);
                        }
                        _ => drop(deceive(&node, stream).await),
                    }
                }
                _ => {}
            }
        });
    }
}

fn accuse(auditor: u8, receipt: &[u8]) -> Reply {
    let receipt = expect(decode::<SignedReceipt>(receipt)).receipt;
    let (_, node, _) = receipt.steps().next().unwrap();
    let finding = Finding::Reject { node, reason: "I say so".into() };
    let verifier = Digest::of_content(b"none");
    let count = receipt.steps().count() as u64;
    Reply::Audited(Attestation::sign(&key(auditor), receipt.digest(), verifier, count, finding))
}

/// What was made of a call.
struct Made {
    leg: Leg,
    header: TensorHeader,
    bytes: Vec<u8>,
    vote: Vote,
}

const SOON: Duration = Duration::from_secs(20);

/// Computes honestly for itself, and passes on what its manner makes of it.
async fn deceive(node: &Node, mut stream: FrameStream<ToNode, FromNode>) -> Option<()> {
    let own = key(node.seed).public();
    let Some(ToNode::Open { session }) = stream.receive(SOON).await.ok()? else { return None };
    let ask = node.asks.lock().unwrap().get(&session)?.clone();
    let Reply::Prepared { session } = node.serving.prepare(own, ask.clone()).await else { return None };
    node.serving.commit(own, session).await;
    let mut honest = node.client.session(own).await.ok()?;
    honest.send(&ToNode::Open { session }, &[]).await.ok()?;
    honest.receive(SOON).await.ok()?;
    stream.send(&FromNode::Opened, &[]).await.ok()?;
    let mut made: Option<Made> = None;
    while let Some(frame) = stream.receive(SOON).await.ok()? {
        match frame {
            ToNode::Forward { call, batch, lengths, input, tensor, sealed } => {
                let bytes = stream.payload(tensor.bytes, MAX_TENSOR_BYTES).await.ok()?;
                let values: Vec<u8> = lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
                let lengths_digest = Digest::of_tensor(5, &[u32::try_from(lengths.len()).unwrap()], &values);
                let forward = ToNode::Forward { call, batch, lengths, input, tensor, sealed: false };
                honest.send(&forward, &bytes).await.ok()?;
                let Some(FromNode::Output { leg, tensor, took, .. }) = honest.receive(SOON).await.ok()? else {
                    return None;
                };
                let output = honest.payload(tensor.bytes, MAX_TENSOR_BYTES).await.ok()?.to_vec();
                let place = Place {
                    request: ask.request,
                    package: ask.package,
                    profile: node.profile,
                    batch,
                    lengths: lengths_digest,
                };
                let (leg, bytes) = altered(node, &place, leg, &tensor, output);
                let subject = vote_subject(&ask.job, &ask.plan, batch, call, ask.from, ask.to);
                let vote = expect(Vote::new(subject, leg.steps.last()?.output));
                if sealed {
                    let commit = if node.manner == Manner::Wavers {
                        expect(Vote::new(subject, Digest::of_content(b"something else"))).commit(&key(node.seed))
                    } else {
                        vote.commit(&key(node.seed))
                    };
                    stream.send(&FromNode::Committed { call, commit }, &[]).await.ok()?;
                } else {
                    let output = FromNode::Output { call, leg: leg.clone(), tensor: tensor.clone(), took };
                    stream.send(&output, &bytes).await.ok()?;
                }
                made = Some(Made { leg, header: tensor, bytes, vote });
            }
            ToNode::Reveal { call } => {
                let made = made.as_ref()?;
                let reveal = made.vote.reveal(&key(node.seed));
                stream.send(&FromNode::Revealed { call, reveal, leg: made.leg.clone() }, &[]).await.ok()?;
            }
            ToNode::Fetch { call } => {
                let Made { leg, header, bytes, .. } = made.as_ref()?;
                let output = FromNode::Output { call, leg: leg.clone(), tensor: header.clone(), took: 1 };
                stream.send(&output, bytes).await.ok()?;
            }
            ToNode::Open { .. } | ToNode::Close => return None,
        }
    }
    None
}

fn altered(node: &Node, place: &Place, leg: Leg, header: &TensorHeader, mut bytes: Vec<u8>) -> (Leg, Vec<u8>) {
    if node.manner == Manner::Wavers {
        return (leg, bytes);
    }
    bytes[0] ^= 1;
    if node.manner == Manner::Equivocates {
        return (leg, bytes);
    }
    let mut steps = leg.steps;
    let last = steps.last_mut().unwrap();
    last.output = Digest::of_tensor(header.element, &header.dimensions, &bytes);
    (Leg::sign(&key(node.seed), place, &leg.backend, steps), bytes)
}
