//! Discovery: who is where, who has what, and ways around NAT.
//!
//! # How
//!
//! 1. Whoever connects says who it is and where it listens (identify). Those that speak our DHT go into its table.
//! 2. The DHT holds only who provides which digest. What this node provides it says again when it met somebody new.
//! 3. On a LAN, nodes find each other by mDNS and connect.
//! 4. Others probe whether this node can be reached (AutoNAT). If it cannot, it asks a relay among its peers to listen for it;
//!    connections that come that way are made direct where NATs let them (DCUtR).

use super::{EventLoop, tell};
use crate::address::{Place, place};
use crate::behaviour::KADEMLIA;
use crate::identity::node_of;
use libp2p::kad::store::RecordStore;
use libp2p::kad::{self, InboundRequest, QueryId, QueryResult, RecordKey};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, PeerId, autonat, identify, mdns, relay};
use ostrakon_protocol::{Digest, PublicKey};
use std::collections::{HashMap, HashSet};
use tokio::sync::oneshot;

/// Most providers of a content that are told.
const PROVIDERS: usize = 20;
/// Most contents that this node says it has.
const PROVIDED: usize = 4096;
/// Addresses of a peer that are believed.
const ADDRESSES: usize = 16;
/// Peers on the LAN that are dialled.
const ON_LAN: usize = 64;
/// Relays that are remembered.
const RELAYS: usize = 16;
/// Queries of the DHT at once.
const QUERIES: usize = 256;

/// What a query of the DHT is for.
enum Query {
    Providers(HashSet<PublicKey>, oneshot::Sender<Vec<PublicKey>>),
    Node(PeerId),
}

/// What is known of the network.
#[derive(Default)]
pub(super) struct Discovery {
    queries: HashMap<QueryId, Query>,
    provided: HashSet<Digest>,
    met_somebody: bool,
    relays: HashMap<PeerId, Multiaddr>,
    relayed: bool,
}

impl Discovery {
    pub(super) fn left(&mut self, peer: &PeerId) {
        self.relays.remove(peer);
    }

    /// A listener ended, perhaps that at a relay: the next probe asks another.
    pub(super) fn relay_lost(&mut self) {
        self.relayed = false;
    }
}

fn key(content: &Digest) -> RecordKey {
    RecordKey::new(content.as_bytes())
}

impl EventLoop {
    pub(super) fn provide(&mut self, content: Digest) {
        if self.discovery.provided.len() < PROVIDED && self.discovery.provided.insert(content) {
            self.say_provided(content);
        }
    }

    fn say_provided(&mut self, content: Digest) {
        if let Err(error) = self.swarm.behaviour_mut().kademlia.start_providing(key(&content)) {
            tracing::warn!(%content, %error, "the DHT does not learn that this node has a content");
        }
    }

    pub(super) fn withdraw(&mut self, content: Digest) {
        self.discovery.provided.remove(&content);
        self.swarm.behaviour_mut().kademlia.stop_providing(&key(&content));
    }

    pub(super) fn providers(&mut self, content: Digest, answer: oneshot::Sender<Vec<PublicKey>>) {
        if self.discovery.queries.len() >= QUERIES {
            return tell(answer, Vec::new());
        }
        let id = self.swarm.behaviour_mut().kademlia.get_providers(key(&content));
        self.discovery.queries.insert(id, Query::Providers(HashSet::new(), answer));
    }

    /// Ask the DHT where a node is.
    pub(super) fn look_up(&mut self, peer: PeerId) {
        if self.discovery.queries.len() >= QUERIES {
            return self.looked_up(peer, Vec::new());
        }
        let id = self.swarm.behaviour_mut().kademlia.get_closest_peers(peer);
        self.discovery.queries.insert(id, Query::Node(peer));
    }

    pub(super) fn kademlia(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => self.query(id, result, step.last),
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => self.discovery.met_somebody = true,
            // Only contents of ours, only of nodes of ours, as many as there is room for.
            kad::Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } }
                if record.key.as_ref().len() == size_of::<Digest>() && node_of(&record.provider).is_some() =>
            {
                if let Err(error) = self.swarm.behaviour_mut().kademlia.store_mut().add_provider(record) {
                    tracing::debug!(%error, "no room for a provider");
                }
            }
            _ => {}
        }
    }

    fn query(&mut self, id: QueryId, result: QueryResult, last: bool) {
        if let (QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })), Some(query)) =
            (&result, self.discovery.queries.get_mut(&id))
            && let Query::Providers(found, _) = query
        {
            let me = node_of(self.swarm.local_peer_id());
            let nodes = providers.iter().filter_map(node_of).filter(|node| Some(*node) != me);
            for node in nodes.filter(|node| !self.fleet.banned(node)) {
                if found.len() < PROVIDERS {
                    found.insert(node);
                }
            }
        }
        // As soon as there are enough, nobody has to wait for the rest.
        let enough = |query: &mut Query| matches!(query, Query::Providers(found, _) if found.len() >= PROVIDERS);
        if !last && !self.discovery.queries.get_mut(&id).is_some_and(enough) {
            return;
        }
        match self.discovery.queries.remove(&id) {
            Some(Query::Providers(found, answer)) => {
                if let Some(mut query) = self.swarm.behaviour_mut().kademlia.query_mut(&id) {
                    query.finish();
                }
                tell(answer, found.into_iter().collect());
            }
            Some(Query::Node(peer)) => {
                let peers = match result {
                    QueryResult::GetClosestPeers(Ok(ok)) => ok.peers,
                    QueryResult::GetClosestPeers(Err(kad::GetClosestPeersError::Timeout { peers, .. })) => peers,
                    _ => Vec::new(),
                };
                let addresses = peers.into_iter().find(|p| p.peer_id == peer).map(|p| p.addrs).unwrap_or_default();
                self.looked_up(peer, addresses.into_iter().take(ADDRESSES).collect());
            }
            None => {}
        }
    }

    pub(super) fn identified(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else { return };
        let addresses = info.listen_addrs.into_iter().filter(|a| place(a) != Place::Nowhere).take(ADDRESSES);
        let addresses: Vec<Multiaddr> = addresses.collect();
        if info.protocols.contains(&relay::HOP_PROTOCOL_NAME)
            && self.discovery.relays.len() < RELAYS
            && let Some(address) = addresses.first()
        {
            self.discovery.relays.insert(peer_id, address.clone());
        }
        if info.protocols.contains(&KADEMLIA) {
            for address in addresses {
                self.swarm.behaviour_mut().kademlia.add_address(&peer_id, address);
            }
        }
    }

    pub(super) fn on_lan(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        for (peer, address) in found.into_iter().take(ON_LAN) {
            let full = self.swarm.connected_peers().count() >= ON_LAN;
            if !full && !self.swarm.is_connected(&peer) && self.swarm.behaviour().gate.admit(&peer).is_ok() {
                let options = DialOpts::peer_id(peer).addresses(vec![address]).build();
                if let Err(error) = self.swarm.dial(options) {
                    tracing::debug!(%peer, %error, "a peer on the LAN is not dialled");
                }
            }
        }
    }

    pub(super) fn probed(&mut self, event: &autonat::v2::client::Event) {
        let reachable = event.result.is_ok() || self.swarm.external_addresses().next().is_some();
        if reachable || self.discovery.relayed {
            return;
        }
        let Some((peer, address)) = self.discovery.relays.iter().next() else { return };
        let through = address.clone().with(Protocol::P2p(*peer)).with(Protocol::P2pCircuit);
        match self.swarm.listen_on(through) {
            Ok(_) => self.discovery.relayed = true,
            Err(error) => tracing::debug!(%error, "a relay cannot be used"),
        }
    }

    pub(super) fn tick_discovery(&mut self) {
        if std::mem::take(&mut self.discovery.met_somebody) {
            let provided: Vec<Digest> = self.discovery.provided.iter().copied().collect();
            for content in provided {
                self.say_provided(content);
            }
        }
    }
}
