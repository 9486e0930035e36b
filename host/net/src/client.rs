//! What this node asks of the network.
//!
//! # How
//!
//! 1. [`Client::start`] listens, then gives everything that touches libp2p to one task, the event loop. Clients send it
//!    commands over a bounded channel; peers' wishes come out of it as [`Events`] over another.
//! 2. Whoever is asked or streamed to is reached first: it is connected, or it is dialled at the addresses of its status, or at
//!    those that the DHT has.
//! 3. A node that asks itself takes a short way: its own event queue, and streams in memory.

use crate::address::parse;
use crate::config::NetConfig;
use crate::control::Query;
use crate::error::NetError;
use crate::event::{Event, Events, Question};
use crate::event_loop::{self, Listening};
use crate::fleet::{Fleet, Offence};
use crate::frame::FrameStream;
use crate::streams::{DECODING, FILES, SESSION, SHARE, Streams};
use futures::future::BoxFuture;
use libp2p::{Multiaddr, StreamProtocol};
use libp2p_stream::Control;
use ostrakon_protocol::decoding::{FromDecoder, ToDecoder};
use ostrakon_protocol::share::{FromServer, ToServer};
use ostrakon_protocol::wire::{Ask, FileAsk, FileReply, FromNode, Refusal, Reply, ToNode};
use ostrakon_protocol::{Digest, Document, PublicKey, SignedStatus, encode};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Time to reach a node: to look it up, to dial it, to agree on keys.
const REACH: Duration = Duration::from_secs(20);
/// Time to find who has a content.
const LOOK_UP: Duration = Duration::from_secs(12);

/// What the event loop is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Dial { address: Multiaddr, answer: oneshot::Sender<Result<PublicKey, NetError>> },
    Reach { node: PublicKey, answer: oneshot::Sender<Result<(), NetError>> },
    Ask { node: PublicKey, query: Query, answer: oneshot::Sender<Result<Reply, NetError>> },
    Publish(SignedStatus),
    Provide(Digest),
    Withdraw(Digest),
    Providers { content: Digest, answer: oneshot::Sender<Vec<PublicKey>> },
    Admit { allow: Vec<PublicKey>, deny: Vec<PublicKey>, done: oneshot::Sender<()> },
    Drop(PublicKey),
    Stop(oneshot::Sender<()>),
}

/// A handle to the network of this node. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    node: PublicKey,
    fleet: Arc<Fleet>,
    addresses: Arc<RwLock<Vec<String>>>,
    commands: mpsc::Sender<Command>,
    events: mpsc::WeakSender<Event>,
    streams: Streams,
    control: Control,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Client {
    /// Start the network on the present tokio runtime.
    ///
    /// # Errors
    /// An address cannot be listened on, or makes no sense.
    pub fn start(config: NetConfig) -> BoxFuture<'static, Result<(Self, Events), NetError>> {
        // Boxed: the compiler would build all of libp2p again for every program that starts one.
        Box::pin(Self::listen(config))
    }

    async fn listen(config: NetConfig) -> Result<(Self, Events), NetError> {
        let Listening { event_loop, node, fleet, addresses, commands, events, taken, streams, control } =
            event_loop::listen(config).await?;
        tokio::spawn(event_loop.run());
        let client = Self { node, fleet, addresses, commands, events, streams, control };
        Ok((client, taken))
    }

    /// This node.
    pub fn node(&self) -> PublicKey {
        self.node
    }

    /// The addresses it listens on, each ending in its peer id, so that others can dial them as they stand.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The nodes it knows of.
    pub fn fleet(&self) -> Arc<Fleet> {
        self.fleet.clone()
    }

    /// Connect to an address and say who is there.
    ///
    /// # Errors
    /// The address makes no sense, or nobody is there.
    pub async fn dial(&self, address: &str) -> Result<PublicKey, NetError> {
        let parsed = parse(address)?;
        let unreachable = |reason: &str| NetError::Unreachable { peer: address.to_owned(), reason: reason.to_owned() };
        let (answer, answered) = oneshot::channel();
        self.command(Command::Dial { address: parsed, answer }).await?;
        match timeout(REACH, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(NetError::Stopped),
            Err(_) => Err(unreachable("nobody answers there")),
        }
    }

    /// Ask a node. It is dialled at the addresses of its status, or those found in the DHT, unless it is connected.
    ///
    /// # Errors
    /// It cannot be reached, does not answer in time, or answers nonsense.
    pub async fn ask(&self, node: PublicKey, ask: Ask, within: Duration) -> Result<Reply, NetError> {
        let asked = async {
            if node == self.node {
                return self.ask_oneself(ask).await;
            }
            let (bytes, limit) = (encode(&ask).len() as u64, Ask::LIMIT as u64);
            if bytes > limit {
                return Err(NetError::TooLarge { what: "a question", bytes, limit });
            }
            self.reach(node).await?;
            let (answer, answered) = oneshot::channel();
            self.command(Command::Ask { node, query: Query { ask: Ok(ask), within }, answer }).await?;
            answered.await.unwrap_or(Err(NetError::Stopped))
        };
        timeout(within, asked).await.unwrap_or(Err(NetError::Timeout { node }))
    }

    async fn ask_oneself(&self, ask: Ask) -> Result<Reply, NetError> {
        if let Ask::Fleet { after } = ask {
            return Ok(self.fleet.page(after));
        }
        let (answer, answered) = oneshot::channel();
        self.event(Event::Question(Question { from: self.node, ask, answer })).await?;
        Ok(answered.await.unwrap_or_else(|_| unanswered()))
    }

    /// Open a stream to run blocks on.
    ///
    /// # Errors
    /// It cannot be reached or does not take the stream.
    pub async fn session(&self, node: PublicKey) -> Result<FrameStream<FromNode, ToNode>, NetError> {
        self.open(node, &SESSION, |from, stream| Event::Session { from, stream }).await
    }

    /// Open a stream to have shares multiplied on.
    ///
    /// # Errors
    /// It cannot be reached or does not take the stream.
    pub async fn share(&self, node: PublicKey) -> Result<FrameStream<FromServer, ToServer>, NetError> {
        self.open(node, &SHARE, |from, stream| Event::Share { from, stream }).await
    }

    /// Open a stream to decode on.
    ///
    /// # Errors
    /// It cannot be reached or does not take the stream.
    pub async fn decoding(&self, node: PublicKey) -> Result<FrameStream<FromDecoder, ToDecoder>, NetError> {
        self.open(node, &DECODING, |from, stream| Event::Decoding { from, stream }).await
    }

    /// Open a stream to get files from.
    ///
    /// # Errors
    /// It cannot be reached or does not take the stream.
    pub async fn files(&self, node: PublicKey) -> Result<FrameStream<FileReply, FileAsk>, NetError> {
        self.open(node, &FILES, |from, stream| Event::Files { from, stream }).await
    }

    async fn open<In, Out>(
        &self,
        node: PublicKey,
        protocol: &StreamProtocol,
        event: fn(PublicKey, FrameStream<Out, In>) -> Event,
    ) -> Result<FrameStream<In, Out>, NetError> {
        if node == self.node {
            let (here, there) = self.streams.local(node);
            self.event(event(node, there)).await?;
            return Ok(here);
        }
        self.reach(node).await?;
        self.streams.open(&mut self.control.clone(), node, protocol).await
    }

    /// Tell everybody what this node is now. Statuses fade ([`crate::fleet::FADE`]): say it again every 15 seconds or so, with a
    /// larger number each time.
    pub async fn publish(&self, status: SignedStatus) {
        let _ = self.command(Command::Publish(status)).await;
    }

    /// Say in the DHT that this node has a content: a package, a component, a file.
    pub async fn provide(&self, content: Digest) {
        let _ = self.command(Command::Provide(content)).await;
    }

    /// Say so no longer.
    pub async fn withdraw(&self, content: Digest) {
        let _ = self.command(Command::Withdraw(content)).await;
    }

    /// Who has a content, at most 20.
    pub async fn providers(&self, content: Digest) -> Vec<PublicKey> {
        let (answer, answered) = oneshot::channel();
        if self.command(Command::Providers { content, answer }).await.is_err() {
            return Vec::new();
        }
        match timeout(LOOK_UP, answered).await {
            Ok(Ok(providers)) => providers,
            _ => Vec::new(),
        }
    }

    /// A peer did something wrong: its reputation sinks, and with enough of that it is dropped.
    pub fn report(&self, node: PublicKey, offence: Offence) {
        self.streams.report(node, offence);
    }

    /// Other lists from now on; peers that may no longer be here are dropped.
    pub async fn admit(&self, allow: Vec<PublicKey>, deny: Vec<PublicKey>) {
        let (done, admitted) = oneshot::channel();
        if self.command(Command::Admit { allow, deny, done }).await.is_ok() {
            let _ = admitted.await;
        }
    }

    /// Close all connections and stop.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.command(Command::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }

    async fn reach(&self, node: PublicKey) -> Result<(), NetError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Reach { node, answer }).await?;
        match timeout(REACH, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(NetError::Stopped),
            Err(_) => {
                let reason = format!("no connection within {} s", REACH.as_secs());
                Err(NetError::Unreachable { peer: node.to_string(), reason })
            }
        }
    }

    async fn command(&self, command: Command) -> Result<(), NetError> {
        self.commands.send(command).await.map_err(|_| NetError::Stopped)
    }

    async fn event(&self, event: Event) -> Result<(), NetError> {
        let events = self.events.upgrade().ok_or(NetError::Stopped)?;
        events.send(event).await.map_err(|_| NetError::Stopped)
    }
}

/// What is answered to a question that was dropped.
pub(crate) fn unanswered() -> Reply {
    Reply::Refused { why: Refusal::Fault, reason: "this node could not answer".to_owned() }
}
