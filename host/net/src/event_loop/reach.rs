//! Dialling: addresses by hand, nodes by their key, and enough others to hold the network together.
//!
//! # How
//!
//! 1. A node is dialled at the addresses of its status and those that protocols remember. If that fails, the DHT is asked once
//!    where it is.
//! 2. All who want to reach the same node wait for the same dial.
//! 3. Bootstrap addresses are dialled again and again, ever more slowly, while nobody is connected there.
//! 4. A node with few connections dials nodes it only heard of, so that no single node's death cuts it off.

use super::{EventLoop, tell};
use crate::address::{complete, parse, split};
use crate::error::NetError;
use crate::identity::{node_of, peer_of};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use ostrakon_protocol::PublicKey;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Connections that a node wants to have of its own accord.
const WANTED: usize = 8;
/// Dials at strangers in one second.
const STRANGERS: usize = 2;
/// A stranger that did not answer is left alone for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bootstrap addresses are dialled again after this, then after twice as long, and so on up to [`SLOWEST`].
const AGAIN: Duration = Duration::from_secs(1);
/// The longest time between two dials at a bootstrap address.
const SLOWEST: Duration = Duration::from_secs(60);

type Answer<T> = oneshot::Sender<Result<T, NetError>>;

/// Who is being reached.
pub(super) struct Reach {
    dials: HashMap<ConnectionId, (String, Answer<PublicKey>)>,
    nodes: HashMap<PeerId, Waiting>,
    bootstrap: Vec<Bootstrap>,
    strangers: HashMap<PublicKey, Instant>,
}

struct Waiting {
    answers: Vec<Answer<()>>,
    looked_up: bool,
}

struct Bootstrap {
    address: Multiaddr,
    peer: Option<PeerId>,
    dial: Option<ConnectionId>,
    next: Instant,
    pause: Duration,
}

impl Reach {
    pub(super) fn new(bootstrap: Vec<Multiaddr>) -> Self {
        let entry = |address: Multiaddr| Bootstrap {
            peer: split(address.clone()).1,
            address,
            dial: None,
            next: Instant::now(),
            pause: AGAIN,
        };
        let bootstrap = bootstrap.into_iter().map(entry).collect();
        Self { dials: HashMap::new(), nodes: HashMap::new(), bootstrap, strangers: HashMap::new() }
    }
}

fn options(address: &Multiaddr) -> DialOpts {
    match split(address.clone()) {
        (_, Some(peer)) => {
            DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address.clone()]).build()
        }
        (address, None) => DialOpts::unknown_peer_id().address(address).build(),
    }
}

impl EventLoop {
    pub(super) fn dial(&mut self, address: Multiaddr, answer: Answer<PublicKey>) {
        if let (_, Some(peer)) = split(address.clone()) {
            let here = self.swarm.is_connected(&peer) || peer == *self.swarm.local_peer_id();
            if let Some(node) = node_of(&peer).filter(|_| here) {
                return tell(answer, Ok(node));
            }
        }
        let options = options(&address);
        let (id, name) = (options.connection_id(), address.to_string());
        match self.swarm.dial(options) {
            Ok(()) => {
                self.reach.dials.insert(id, (name, answer));
            }
            Err(error) => tell(answer, Err(unreachable(name, &error))),
        }
    }

    pub(super) fn reach(&mut self, node: PublicKey, answer: Answer<()>) {
        let lost = |reason: String| NetError::Unreachable { peer: node.to_string(), reason };
        let Some(peer) = peer_of(&node) else {
            return tell(answer, Err(lost("this is no ed25519 key".into())));
        };
        if self.swarm.is_connected(&peer) {
            return tell(answer, Ok(()));
        }
        if let Err(refused) = self.swarm.behaviour().gate.admit(&peer) {
            return tell(answer, Err(lost(refused.to_string())));
        }
        if let Some(waiting) = self.reach.nodes.get_mut(&peer) {
            waiting.answers.push(answer);
            return;
        }
        self.reach.nodes.insert(peer, Waiting { answers: vec![answer], looked_up: false });
        let addresses = self.addresses_of(&node, peer);
        self.dial_node(peer, addresses);
    }

    /// Where a node says it is.
    fn addresses_of(&self, node: &PublicKey, peer: PeerId) -> Vec<Multiaddr> {
        let status = self.fleet.status(node);
        let claimed = status.iter().flat_map(|s| &s.status.addresses).filter_map(|a| parse(a).ok());
        claimed.map(|a| complete(a, peer)).collect()
    }

    fn dial_node(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            // Somebody dials it already: the end of that is the end of this.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.not_reached(peer, &error),
        }
    }

    /// A dial at a node failed: ask the DHT, once.
    fn not_reached(&mut self, peer: PeerId, error: &DialError) {
        let Some(waiting) = self.reach.nodes.get_mut(&peer) else { return };
        if !waiting.looked_up && !matches!(error, DialError::Denied { .. }) {
            waiting.looked_up = true;
            self.look_up(peer);
            return;
        }
        let Some(waiting) = self.reach.nodes.remove(&peer) else { return };
        let name = node_of(&peer).map_or_else(|| peer.to_string(), |n| n.to_string());
        for answer in waiting.answers {
            tell(answer, Err(unreachable(name.clone(), error)));
        }
    }

    /// The DHT said where a node is.
    pub(super) fn looked_up(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if !self.reach.nodes.contains_key(&peer) {
            return;
        }
        if addresses.is_empty() {
            return self.not_reached(peer, &DialError::NoAddresses);
        }
        self.dial_node(peer, addresses);
    }

    /// A connection was made.
    pub(super) fn arrived(&mut self, connection: ConnectionId, peer: PeerId, node: PublicKey) {
        if let Some((_, answer)) = self.reach.dials.remove(&connection) {
            tell(answer, Ok(node));
        }
        for answer in self.reach.nodes.remove(&peer).into_iter().flat_map(|w| w.answers) {
            tell(answer, Ok(()));
        }
        self.reach.strangers.remove(&node);
        for entry in self.reach.bootstrap.iter_mut().filter(|e| e.dial == Some(connection)) {
            entry.peer = Some(peer);
            entry.dial = None;
        }
    }

    /// A connection was not made.
    pub(super) fn not_arrived(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        if let Some((name, answer)) = self.reach.dials.remove(&connection) {
            let me = matches!(error, DialError::LocalPeerId { .. }).then(|| node_of(self.swarm.local_peer_id()));
            tell(answer, me.flatten().ok_or_else(|| unreachable(name, error)));
        }
        let me = *self.swarm.local_peer_id();
        for entry in self.reach.bootstrap.iter_mut().filter(|e| e.dial == Some(connection)) {
            entry.dial = None;
            match error {
                // A list for all nodes names this one too.
                DialError::LocalPeerId { .. } => entry.peer = Some(me),
                _ => {
                    tracing::warn!(address = %entry.address, reason = %why(error), "a bootstrap node cannot be reached")
                }
            }
        }
        if let Some(peer) = peer {
            self.not_reached(peer, error);
        }
    }

    pub(super) fn tick_reach(&mut self) {
        let now = Instant::now();
        self.reach.nodes.retain(|_, waiting| {
            waiting.answers.retain(|answer| !answer.is_closed());
            !waiting.answers.is_empty()
        });
        self.reach.strangers.retain(|_, until| now < *until);
        let me = *self.swarm.local_peer_id();
        for entry in &mut self.reach.bootstrap {
            let there = entry.peer.is_some_and(|p| p == me || self.swarm.is_connected(&p));
            if there {
                (entry.pause, entry.next) = (AGAIN, now);
            } else if entry.dial.is_none() && entry.next <= now {
                let options = options(&entry.address);
                let id = options.connection_id();
                entry.next = now + entry.pause;
                entry.pause = (entry.pause * 2).min(SLOWEST);
                match self.swarm.dial(options) {
                    Ok(()) => entry.dial = Some(id),
                    Err(error) => tracing::warn!(address = %entry.address, reason = %why(&error), "a bootstrap node"),
                }
            }
        }
        self.meet_strangers(now);
    }

    fn meet_strangers(&mut self, now: Instant) {
        if self.swarm.connected_peers().count() >= WANTED {
            return;
        }
        let strangers = self.fleet.strangers(WANTED);
        let untried: Vec<_> = strangers.into_iter().filter(|n| !self.reach.strangers.contains_key(n)).collect();
        for node in untried.into_iter().take(STRANGERS) {
            self.reach.strangers.insert(node, now + PATIENCE);
            if let Some(peer) = peer_of(&node) {
                let addresses = self.addresses_of(&node, peer);
                self.dial_node(peer, addresses);
            }
        }
    }
}

fn unreachable(peer: String, error: &DialError) -> NetError {
    NetError::Unreachable { peer, reason: why(error) }
}

/// What went wrong, with its causes.
/// What an error says, without the list that libp2p makes of one of them.
fn on_one_line(error: &dyn std::error::Error) -> String {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace("Multiple dial errors occurred: - ", "").trim_matches([':', ' ']).to_owned()
}

fn why(error: &DialError) -> String {
    match error {
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::Denied { cause } => format!("it is not let in: {cause}"),
        DialError::WrongPeerId { obtained, address } => {
            let found = node_of(obtained).map_or_else(|| obtained.to_string(), |n| n.to_string());
            format!("at {address} there is another node, {found}")
        }
        DialError::Transport(errors) => {
            let each = |(address, error): &(Multiaddr, libp2p::TransportError<std::io::Error>)| {
                let mut said = vec![address.to_string()];
                let mut cause: Option<&dyn std::error::Error> = Some(error);
                while let Some(error) = cause {
                    let text = on_one_line(error);
                    if !text.is_empty() && !said.iter().any(|before| before.contains(&text)) {
                        said.push(text);
                    }
                    cause = error.source();
                }
                said.join(": ")
            };
            errors.iter().map(each).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}
