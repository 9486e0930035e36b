//! A peer that keeps to no rules but libp2p's: raw streams under any protocol's name, and gossip of anything.

use crate::nodes::{SOON, seed, soon};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, tcp, tls, yamux};
use libp2p_stream::Control;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

pub(crate) const CONTROL: StreamProtocol = StreamProtocol::new("/ostrakon/control/1");
pub(crate) const SESSION: StreamProtocol = StreamProtocol::new("/ostrakon/session/1");

#[derive(NetworkBehaviour)]
struct Protocols {
    streams: libp2p_stream::Behaviour,
    gossip: gossipsub::Behaviour,
}

pub(crate) struct Raw {
    pub(crate) control: Control,
    pub(crate) target: PeerId,
    address: Multiaddr,
    connections: Arc<AtomicUsize>,
    gossip: mpsc::UnboundedSender<Vec<u8>>,
    dial: mpsc::UnboundedSender<Multiaddr>,
}

impl Raw {
    /// A peer that dials an address that ends in a peer id.
    pub(crate) fn start(n: u32, address: &str) -> Self {
        let keypair = Keypair::ed25519_from_bytes(seed(n)).unwrap();
        let protocols = || {
            let config = gossipsub::ConfigBuilder::default()
                .validation_mode(ValidationMode::Anonymous)
                .message_id_fn(|m: &gossipsub::Message| gossipsub::MessageId::new(&m.data))
                .heartbeat_interval(Duration::from_millis(100))
                .build()
                .unwrap();
            let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config).unwrap();
            gossip.subscribe(&IdentTopic::new("ostrakon/status/1")).unwrap();
            Protocols { streams: libp2p_stream::Behaviour::new(), gossip }
        };
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), tls::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| protocols())
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(60)))
            .build();
        let control = swarm.behaviour().streams.new_control();
        let target: PeerId = address.rsplit('/').next().unwrap().parse().unwrap();
        let address: Multiaddr = address.parse().unwrap();
        swarm.dial(address.clone()).unwrap();
        let (gossip, mut told) = mpsc::unbounded_channel::<Vec<u8>>();
        let (dial, mut dials) = mpsc::unbounded_channel::<Multiaddr>();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    event = swarm.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { .. } => { count.fetch_add(1, Ordering::SeqCst); }
                        SwarmEvent::ConnectionClosed { .. } => { count.fetch_sub(1, Ordering::SeqCst); }
                        _ => {}
                    },
                    Some(data) = told.recv() => {
                        let _ = swarm.behaviour_mut().gossip.publish(IdentTopic::new("ostrakon/status/1"), data);
                    }
                    address = dials.recv() => match address {
                        Some(address) => { let _ = swarm.dial(address); }
                        None => return,
                    },
                }
            }
        });
        Self { control, target, address, connections, gossip, dial }
    }

    /// One that is connected, and stays so for a moment.
    pub(crate) async fn connected(n: u32, address: &str) -> Self {
        let raw = Self::start(n, address);
        crate::nodes::until("a raw peer is connected", async || raw.is_connected()).await;
        // Gossip needs to know who listens.
        sleep(Duration::from_millis(500)).await;
        raw
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connections.load(Ordering::SeqCst) > 0
    }

    /// Dial again.
    pub(crate) fn dial(&self) {
        self.dial.send(self.address.clone()).unwrap();
    }

    pub(crate) fn tell(&self, data: Vec<u8>) {
        self.gossip.send(data).unwrap();
    }

    pub(crate) async fn open(&mut self, protocol: StreamProtocol) -> Option<Stream> {
        timeout(SOON, self.control.open_stream(self.target, protocol)).await.ok()?.ok()
    }

    /// A stream that the other side has taken.
    pub(crate) async fn session(&mut self) -> Stream {
        let mut stream = self.open(SESSION).await.unwrap();
        let mut taken = [0];
        soon(stream.read_exact(&mut taken)).await.unwrap();
        assert_eq!(taken, [1]);
        stream
    }

    /// What is answered to these bytes on a control stream; empty if the stream is cut.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(mut stream) = self.open(CONTROL).await else { return Vec::new() };
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        answer
    }
}

/// Bytes with their length before them.
pub(crate) fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat()
}
