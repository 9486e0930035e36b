//! The protocols that this node speaks, put together.
//!
//! # How
//!
//! 1. Transports: TCP with TLS and yamux, and QUIC; host names are resolved; relayed connections.
//! 2. [`Gate`] and connection limits come first, so that nothing is set up for who is not let in.
//! 3. Discovery: identify, ping, Kademlia (only provider records, only of digests), mDNS on a LAN. Behind NAT: AutoNAT,
//!    relays, hole punching.
//! 4. Our own: gossip of statuses, control, streams.

use crate::config::NetConfig;
use crate::control::{CONTROL, ControlCodec};
use crate::error::NetError;
use crate::fleet::Fleet;
use crate::gate::Gate;
use crate::security::Tls;
use crate::transport::{self, Yamux};
use libp2p::gossipsub::{self, IdentTopic};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, autonat, connection_limits, dcutr, identify, kad, mdns, ping, relay,
};
use ostrakon_protocol::Digest;
use ostrakon_protocol::status::MAX_STATUS_BYTES;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Where statuses are told.
pub(crate) const TOPIC: &str = "ostrakon/status/1";
/// The name of the DHT's protocol: nodes of other networks are not in it.
pub(crate) const KADEMLIA: StreamProtocol = StreamProtocol::new("/ostrakon/kad/1");
/// A connection that nothing uses is closed after this.
const IDLE: Duration = Duration::from_secs(300);
/// Round trips are measured this often, and must not take longer than [`PING`].
const PING_EVERY: Duration = Duration::from_secs(5);
/// The longest round trip.
const PING: Duration = Duration::from_secs(6);
/// The longest exchange of a question and its answer, whatever whoever asks says.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);
/// Contents that are remembered for others.
const PROVIDED: usize = 16 << 10;
/// Streams of one connection.
pub(crate) const STREAMS: usize = 512;

/// The protocols of this node.
#[derive(NetworkBehaviour)]
pub(crate) struct Protocols {
    pub(crate) gate: Gate,
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) kademlia: kad::Behaviour<MemoryStore>,
    pub(crate) gossip: gossipsub::Behaviour,
    pub(crate) control: request_response::Behaviour<ControlCodec>,
    pub(crate) streams: libp2p_stream::Behaviour,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) probe: Toggle<autonat::v2::client::Behaviour>,
    pub(crate) prober: autonat::v2::server::Behaviour,
    pub(crate) relayed: relay::client::Behaviour,
    pub(crate) relay: Toggle<relay::Behaviour>,
    pub(crate) punch: dcutr::Behaviour,
}

/// Make everything ready, without listening yet.
pub(crate) fn build(keypair: Keypair, config: &NetConfig, fleet: &Arc<Fleet>) -> Result<Swarm<Protocols>, NetError> {
    let start = |what: &str, e: &dyn std::fmt::Display| NetError::Start(format!("{what}: {e}"));
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_quic()
        .with_other_transport(transport::tcp)
        .map_err(|e| start("TCP", &e))?
        .with_dns()
        .map_err(|e| start("the resolver of host names (see /etc/resolv.conf)", &e))?
        .with_relay_client(Tls::new, || Yamux)
        .map_err(|e| start("relays", &e))?
        .with_behaviour(|key, relayed| protocols(key, relayed, config, fleet))
        .map_err(|e| start("a protocol", &e))?
        .with_swarm_config(|c| c.with_idle_connection_timeout(IDLE).with_max_negotiating_inbound_streams(STREAMS))
        .build();
    Ok(swarm)
}

type Boxed = Box<dyn Error + Send + Sync>;

fn protocols(
    key: &Keypair,
    relayed: relay::client::Behaviour,
    config: &NetConfig,
    fleet: &Arc<Fleet>,
) -> Result<Protocols, Boxed> {
    let (me, limits, listens) = (key.public().to_peer_id(), &config.limits, !config.listen.is_empty());
    let connections = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(128))
        .with_max_pending_outgoing(Some(128))
        // Room stays for connections of this node's own choice, however many peers push in.
        .with_max_established_incoming(Some(limits.connections.saturating_sub(limits.connections / 4)))
        .with_max_established(Some(limits.connections))
        .with_max_established_per_peer(Some(limits.connections_per_peer));
    let identify = identify::Config::new("/ostrakon/1".to_owned(), key.public())
        .with_agent_version(concat!("ostrakon/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_push_listen_addr_updates(true);
    let control = request_response::Config::default().with_request_timeout(LONGEST).with_max_concurrent_streams(256);
    let mdns = if config.mdns { Some(mdns::tokio::Behaviour::new(mdns::Config::default(), me)?) } else { None };
    Ok(Protocols {
        gate: Gate::new(fleet.clone(), config.allow.clone(), config.deny.clone(), limits.connections_per_address),
        limits: connection_limits::Behaviour::new(connections),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_EVERY).with_timeout(PING)),
        kademlia: kademlia(key, listens),
        gossip: gossip()?,
        control: request_response::Behaviour::new([(CONTROL, ProtocolSupport::Full)], control),
        streams: libp2p_stream::Behaviour::new(),
        mdns: mdns.into(),
        probe: listens.then(autonat::v2::client::Behaviour::default).into(),
        prober: autonat::v2::server::Behaviour::default(),
        relayed,
        relay: config.relay.then(|| relay::Behaviour::new(me, relay::Config::default())).into(),
        punch: dcutr::Behaviour::new(me),
    })
}

fn kademlia(key: &Keypair, listens: bool) -> kad::Behaviour<MemoryStore> {
    let me = key.public().to_peer_id();
    let mut config = kad::Config::new(KADEMLIA);
    config
        // What others want to be stored is looked at first (`discovery`).
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_query_timeout(Duration::from_secs(10))
        .set_provider_record_ttl(Some(Duration::from_secs(1800)))
        .set_provider_publication_interval(Some(Duration::from_secs(600)));
    let store = MemoryStoreConfig { max_provided_keys: PROVIDED, max_records: 0, ..MemoryStoreConfig::default() };
    let mut kademlia = kad::Behaviour::with_config(me, MemoryStore::with_config(me, store), config);
    kademlia.set_mode(Some(if listens { kad::Mode::Server } else { kad::Mode::Client }));
    kademlia
}

fn gossip() -> Result<gossipsub::Behaviour, Boxed> {
    let config = gossipsub::ConfigBuilder::default()
        .max_transmit_size_for_topic(MAX_STATUS_BYTES, IdentTopic::new(TOPIC).hash())
        // A status is signed by its node: nothing more is needed, and one status is one message whoever sends it.
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .message_id_fn(|m: &gossipsub::Message| gossipsub::MessageId::new(Digest::of_content(&m.data).as_bytes()))
        .validate_messages()
        .build()?;
    let mut gossip = gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, config)?;
    let topic = IdentTopic::new(TOPIC);
    let params = gossipsub::PeerScoreParams {
        topics: [(topic.hash(), topic_score())].into(),
        // Points of reputation that a peer lacks, scaled: 1000 missing points are -50. A peer is dropped for a bad reputation
        // before gossip alone stops listening to it and nobody knows why.
        app_specific_weight: 0.05,
        // Places are counted elsewhere; a test or an office has many nodes at one.
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_threshold: 6.0,
        slow_peer_weight: 0.0,
        ..gossipsub::PeerScoreParams::default()
    };
    gossip.with_peer_score(params, gossipsub::PeerScoreThresholds::default())?;
    gossip.subscribe(&topic)?;
    Ok(gossip)
}

/// Nodes are silent for long: only wrong messages count, not the lack of any.
fn topic_score() -> gossipsub::TopicScoreParams {
    gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_cap: 10.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -0.2,
        invalid_message_deliveries_decay: 0.9,
        ..gossipsub::TopicScoreParams::default()
    }
}
