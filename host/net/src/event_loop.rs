//! The one task that touches libp2p.
//!
//! # How
//!
//! 1. [`listen`] puts the protocols together and waits until every address is listened on.
//! 2. [`EventLoop::run`] takes turns: what happened in the network, what clients want, answers that became ready, and a tick
//!    each second for everything that is done from time to time.
//! 3. Nothing in it waits for anybody. News that nobody has taken yet stay in a bounded backlog ([`backlog`]).
//!
//! By subject: [`reach`] (dialling), [`questions`], [`statuses`] (gossip and the tables of others), [`discovery`].

mod backlog;
mod discovery;
mod questions;
mod reach;
mod statuses;

use crate::address::{complete, parse, place, tcp_socket};
use crate::behaviour::{Protocols, ProtocolsEvent, build};
use crate::client::Command;
use crate::config::{NetConfig, NetLimits};
use crate::error::NetError;
use crate::event::{Event, Events};
use crate::fleet::{Fleet, Offence};
use crate::identity::{keypair, node_of, node_of_keypair, peer_of};
use crate::streams::{Counts, DECODING, FILES, SESSION, SHARE, Streams};
use backlog::{Backlog, News};
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm};
use libp2p_stream::Control;
use ostrakon_protocol::PublicKey;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, timeout};

/// Commands and events that wait.
const QUEUE: usize = 256;
/// What may happen before everything is listened on.
const EARLY: usize = 4096;
/// Seconds until an address that was lost is listened on again.
const RELISTEN: u64 = 10;
/// Time until every address is listened on.
const LISTEN: Duration = Duration::from_secs(10);
/// Time to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// Round trips that fail one after the other until a connection is given up.
const LOST_PINGS: u32 = 2;

/// A network that listens and is about to run.
pub(crate) struct Listening {
    pub(crate) event_loop: EventLoop,
    pub(crate) node: PublicKey,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) addresses: Arc<RwLock<Vec<String>>>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: mpsc::WeakSender<Event>,
    pub(crate) taken: Events,
    pub(crate) streams: Streams,
    pub(crate) control: Control,
}

/// The state of the task.
pub(crate) struct EventLoop {
    swarm: Swarm<Protocols>,
    /// What happened before the loop ran.
    early: VecDeque<SwarmEvent<ProtocolsEvent>>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    backlog: Backlog,
    fleet: Arc<Fleet>,
    limits: NetLimits,
    addresses: Arc<RwLock<Vec<String>>>,
    external: Vec<Multiaddr>,
    listeners: HashMap<ListenerId, Multiaddr>,
    /// Addresses that should be listened on and are not.
    lost: Vec<Multiaddr>,
    ticks: u64,
    /// How many round trips in a row failed.
    lost_pings: HashMap<PeerId, u32>,
    reach: reach::Reach,
    questions: questions::Questions,
    statuses: statuses::Statuses,
    discovery: discovery::Discovery,
}

/// Listen.
pub(crate) async fn listen(config: NetConfig) -> Result<Listening, NetError> {
    let keypair = keypair(config.seed)?;
    let node = node_of_keypair(&keypair)?;
    let parsed = |list: &[String]| list.iter().map(|a| parse(a)).collect::<Result<Vec<_>, _>>();
    let (external, bootstrap) = (parsed(&config.external)?, parsed(&config.bootstrap)?);
    let fleet = Arc::new(Fleet::new(node, config.limits.clone()));
    let mut swarm = build(keypair, &config, &fleet)?;
    for address in &external {
        swarm.add_external_address(address.clone());
    }
    let (listeners, early) = listen_on(&mut swarm, &config.listen).await?;

    let (commands, commanded) = mpsc::channel(QUEUE);
    let (events, taken) = mpsc::channel(QUEUE);
    let streams = Streams {
        fleet: fleet.clone(),
        commands: commands.downgrade(),
        counts: Arc::<Counts>::default(),
        per_peer: config.limits.streams_per_peer,
    };
    let mut control = swarm.behaviour().streams.new_control();
    let twice = |_| NetError::Start("a stream protocol was registered twice".to_owned());
    let sessions = control.accept(SESSION).map_err(twice)?;
    let shares = control.accept(SHARE).map_err(twice)?;
    let decoding = control.accept(DECODING).map_err(twice)?;
    let files = control.accept(FILES).map_err(twice)?;
    let session = |from, stream| Event::Session { from, stream };
    tokio::spawn(streams.clone().take(sessions, events.downgrade(), session));
    tokio::spawn(streams.clone().take(shares, events.downgrade(), |from, stream| Event::Share { from, stream }));
    tokio::spawn(streams.clone().take(decoding, events.downgrade(), |from, stream| Event::Decoding { from, stream }));
    tokio::spawn(streams.clone().take(files, events.downgrade(), |from, stream| Event::Files { from, stream }));

    let addresses = Arc::<RwLock<Vec<String>>>::default();
    let event_loop = EventLoop {
        swarm,
        early,
        commands: commanded,
        events: events.clone(),
        backlog: Backlog::default(),
        fleet: fleet.clone(),
        limits: config.limits,
        addresses: addresses.clone(),
        external,
        listeners,
        lost: Vec::new(),
        ticks: 0,
        lost_pings: HashMap::new(),
        reach: reach::Reach::new(bootstrap),
        questions: questions::Questions::default(),
        statuses: statuses::Statuses::default(),
        discovery: discovery::Discovery::default(),
    };
    event_loop.show_addresses();
    let events = events.downgrade();
    Ok(Listening { event_loop, node, fleet, addresses, commands, events, taken, streams, control })
}

/// Listeners, and what happened while they came up.
type Early = (HashMap<ListenerId, Multiaddr>, VecDeque<SwarmEvent<ProtocolsEvent>>);

/// Listen on all addresses.
async fn listen_on(swarm: &mut Swarm<Protocols>, listen: &[String]) -> Result<Early, NetError> {
    let bad = |address: &str, reason: String| NetError::Address { address: address.to_owned(), reason };
    let (mut listeners, mut waiting) = (HashMap::new(), HashMap::new());
    for address in listen {
        let parsed = parse(address)?;
        if let Some(socket) = tcp_socket(&parsed) {
            // libp2p shares ports: another process at the same one would get half of the connections, and nobody would say so.
            std::net::TcpListener::bind(socket).map_err(|e| bad(address, format!("it cannot be listened on: {e}")))?;
        }
        let id = swarm.listen_on(parsed.clone()).map_err(|e| bad(address, format!("it cannot be listened on: {e}")))?;
        listeners.insert(id, parsed);
        waiting.insert(id, address.as_str());
    }
    let mut early = VecDeque::new();
    while let Some(some) = waiting.values().next().copied() {
        let event = timeout(LISTEN, swarm.select_next_some()).await;
        match event.map_err(|_| bad(some, format!("nothing is heard of it for {} s", LISTEN.as_secs())))? {
            SwarmEvent::NewListenAddr { listener_id, .. } => {
                waiting.remove(&listener_id);
            }
            SwarmEvent::ListenerError { listener_id, error } if waiting.contains_key(&listener_id) => {
                return Err(bad(waiting.get(&listener_id).unwrap_or(&some), error.to_string()));
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } if waiting.contains_key(&listener_id) => {
                let reason = reason.err().map_or_else(|| "it was closed".to_owned(), |e| e.to_string());
                return Err(bad(waiting.get(&listener_id).unwrap_or(&some), reason));
            }
            other if early.len() < EARLY => early.push_back(other),
            _ => {}
        }
    }
    Ok((listeners, early))
}

impl EventLoop {
    /// Run until nobody has a client any more, or it is stopped.
    pub(crate) async fn run(mut self) {
        while let Some(event) = self.early.pop_front() {
            self.happened(event);
        }
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = self.events.clone();
        let stopped = loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.happened(event),
                permit = events.reserve(), if !self.backlog.is_empty() => match (permit, self.backlog.pop()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    // Nobody listens to events: clients still work.
                    _ => self.backlog.clear(),
                },
                command = self.commands.recv() => match command {
                    Some(Command::Stop(done)) => break Some(done),
                    Some(command) => self.command(command),
                    None => break None,
                },
                Some(answered) = self.questions.answering.next() => self.answered(answered),
                Some(checked) = self.statuses.checking.join_next() => self.checked(checked),
                _ = tick.tick() => self.tick(),
            }
        };
        self.goodbye().await;
        drop(self);
        if let Some(done) = stopped {
            let _ = done.send(());
        }
    }

    /// Close all connections, so that peers need not find out by themselves.
    async fn goodbye(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = timeout(GOODBYE, closed).await;
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Dial { address, answer } => self.dial(address, answer),
            Command::Reach { node, answer } => self.reach(node, answer),
            Command::Ask { node, query, answer } => self.ask(node, query, answer),
            Command::Publish(status) => self.publish(status),
            Command::Provide(content) => self.provide(content),
            Command::Withdraw(content) => self.withdraw(content),
            Command::Providers { content, answer } => self.providers(content, answer),
            Command::Admit { allow, deny, done } => {
                self.swarm.behaviour_mut().gate.lists(allow, deny);
                self.drop_unwanted();
                let _ = done.send(());
            }
            Command::Drop(node) => {
                if let Some(peer) = peer_of(&node) {
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
            // Taken care of where commands are taken.
            Command::Stop(_) => {}
        }
    }

    fn happened(&mut self, event: SwarmEvent<ProtocolsEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.protocol(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                let Some(node) = node_of(&peer_id) else { return };
                self.fleet.connected(node, place(endpoint.get_remote_address()));
                self.arrived(connection_id, peer_id, node);
                if num_established.get() == 1 {
                    self.emit(News::Connected, node);
                    self.ask_fleet(peer_id);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                let Some(node) = node_of(&peer_id) else { return };
                tracing::debug!(%node, ?cause, "the last connection ended");
                self.fleet.disconnected(&node);
                self.lost_pings.remove(&peer_id);
                self.questions.left(&peer_id);
                self.discovery.left(&peer_id);
                self.emit(News::Disconnected, node);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.not_arrived(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(%send_back_addr, %error, "somebody could not connect");
            }
            SwarmEvent::NewListenAddr { .. }
            | SwarmEvent::ExpiredListenAddr { .. }
            | SwarmEvent::ExternalAddrConfirmed { .. }
            | SwarmEvent::ExternalAddrExpired { .. } => self.show_addresses(),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                tracing::warn!(?reason, "an address is listened on no more");
                self.lost.extend(self.listeners.remove(&listener_id));
                self.discovery.relay_lost();
                self.show_addresses();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "an address cannot be listened on"),
            _ => {}
        }
    }

    fn protocol(&mut self, event: ProtocolsEvent) {
        match event {
            ProtocolsEvent::Control(event) => self.control(event),
            ProtocolsEvent::Gossip(event) => self.gossip(event),
            ProtocolsEvent::Identify(event) => self.identified(event),
            ProtocolsEvent::Kademlia(event) => self.kademlia(event),
            ProtocolsEvent::Mdns(event) => self.on_lan(event),
            ProtocolsEvent::Probe(event) => self.probed(&event),
            ProtocolsEvent::Ping(event) => self.pinged(&event),
            ProtocolsEvent::Relayed(event) => tracing::debug!(?event, "relay"),
            ProtocolsEvent::Relay(event) => tracing::debug!(?event, "relaying"),
            ProtocolsEvent::Punch(event) => tracing::debug!(?event, "hole punching"),
            ProtocolsEvent::Prober(_) | ProtocolsEvent::Streams(()) => {}
            ProtocolsEvent::Gate(never) | ProtocolsEvent::Limits(never) => match never {},
        }
    }

    fn pinged(&mut self, event: &libp2p::ping::Event) {
        let Some(node) = node_of(&event.peer) else { return };
        match event.result {
            Ok(round_trip) => {
                self.lost_pings.remove(&event.peer);
                self.fleet.measured(node, round_trip);
            }
            Err(libp2p::ping::Failure::Unsupported) => {}
            Err(ref failure) => {
                let lost = self.lost_pings.entry(event.peer).or_default();
                *lost += 1;
                tracing::debug!(%node, %failure, lost, "no round trip");
                if *lost >= LOST_PINGS {
                    // It may be frozen: whoever waits for it should know.
                    self.swarm.close_connection(event.connection);
                }
            }
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.fleet.sweep();
        if self.ticks.is_multiple_of(RELISTEN) {
            self.relisten();
        }
        self.drop_unwanted();
        self.tick_reach();
        self.tick_statuses();
        self.tick_discovery();
    }

    /// Listen again where a network or a relay went away.
    fn relisten(&mut self) {
        for address in std::mem::take(&mut self.lost) {
            match self.swarm.listen_on(address.clone()) {
                Ok(id) => {
                    self.listeners.insert(id, address);
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "an address cannot be listened on");
                    self.lost.push(address);
                }
            }
        }
    }

    /// Drop who may not be here.
    fn drop_unwanted(&mut self) {
        let gate = &self.swarm.behaviour().gate;
        let unwanted: Vec<PeerId> = self.swarm.connected_peers().filter(|p| gate.admit(p).is_err()).copied().collect();
        for peer in unwanted {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Queue news.
    fn emit(&mut self, news: News, node: PublicKey) {
        if !self.backlog.is_empty() || matches!(self.events.try_send(news.of(node)), Err(TrySendError::Full(_))) {
            self.backlog.push(news, node);
        }
    }

    /// A peer did something wrong.
    fn offended(&mut self, node: PublicKey, offence: Offence) {
        if self.fleet.offend(node, offence)
            && let Some(peer) = peer_of(&node)
        {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Under which addresses others reach this node: those it was told first, then those found out, then those it listens on.
    fn show_addresses(&self) {
        let me = *self.swarm.local_peer_id();
        let mut seen = HashSet::new();
        let all = self.external.iter().chain(self.swarm.external_addresses()).chain(self.swarm.listeners());
        let all = all.map(|a| complete(a.clone(), me).to_string()).filter(|a| seen.insert(a.clone())).collect();
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

/// Tell whoever waits, if anybody still does.
fn tell<T>(answer: oneshot::Sender<T>, what: T) {
    let _ = answer.send(what);
}
