//! How a node takes part in the network.

use ostrakon_protocol::PublicKey;

/// What a node listens on, whom it knows, whom it lets in.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// Seed of the node's ed25519 key: its libp2p identity is the same key.
    pub seed: [u8; 32],
    /// Multiaddresses to listen on. Empty: only dial (a client).
    pub listen: Vec<String>,
    /// Multiaddresses under which others reach this node, if they differ.
    pub external: Vec<String>,
    /// Multiaddresses of nodes to begin with.
    pub bootstrap: Vec<String>,
    /// Find nodes on the same LAN.
    pub mdns: bool,
    /// Relay for nodes behind NAT.
    pub relay: bool,
    /// If not empty, nobody else is let in.
    pub allow: Vec<PublicKey>,
    /// Never let in.
    pub deny: Vec<PublicKey>,
    /// Bounds.
    pub limits: NetLimits,
}

impl NetConfig {
    /// What a client needs: the key of this seed, nothing to listen on, everybody let in.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            mdns: false,
            relay: false,
            allow: Vec::new(),
            deny: Vec::new(),
            limits: NetLimits::default(),
        }
    }
}

/// Bounds of what peers may take.
#[derive(Debug, Clone)]
pub struct NetLimits {
    /// Connections in all.
    pub connections: u32,
    /// Connections from one IP address.
    pub connections_per_address: u32,
    /// Connections of one peer.
    pub connections_per_peer: u32,
    /// Streams that are open at once from one peer.
    pub streams_per_peer: u32,
    /// Questions a second from one peer.
    pub questions_per_second: u32,
    /// Nodes in the fleet.
    pub fleet: usize,
    /// Nodes in the fleet that were heard of from, or listen at, one IP address.
    pub fleet_per_address: usize,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_per_address: 64,
            connections_per_peer: 4,
            streams_per_peer: 64,
            questions_per_second: 200,
            fleet: 16_384,
            fleet_per_address: 64,
        }
    }
}
