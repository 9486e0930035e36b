//! Who is let in.
//!
//! # How
//!
//! 1. Before anything is negotiated: not more connections from one place than the limit.
//! 2. As soon as the peer has proved its key: it must be an ed25519 key, on the allow list if there is one, not on the deny
//!    list, and not banned for what it did.
//! 3. The same lists hold for whom this node dials.

use crate::address::{Place, place};
use crate::fleet::Fleet;
use crate::identity::node_of;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, ListenFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};
use ostrakon_protocol::PublicKey;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("its key is not an ed25519 key")]
    Key,
    #[error("it is not on the allow list of this node")]
    NotAllowed,
    #[error("it is on the deny list of this node")]
    Denied,
    #[error("it is banned for what it did")]
    Banned,
    #[error("too many connections from {0:?}")]
    Place(Place),
}

/// Lists and counts.
#[derive(Debug)]
pub(crate) struct Gate {
    fleet: Arc<Fleet>,
    allow: HashSet<PublicKey>,
    deny: HashSet<PublicKey>,
    per_place: usize,
    inbound: HashMap<ConnectionId, Place>,
    counts: HashMap<Place, usize>,
}

impl Gate {
    pub(crate) fn new(fleet: Arc<Fleet>, allow: Vec<PublicKey>, deny: Vec<PublicKey>, per_place: u32) -> Self {
        let per_place = per_place.try_into().unwrap_or(usize::MAX);
        let (allow, deny) = (allow.into_iter().collect(), deny.into_iter().collect());
        Self { fleet, allow, deny, per_place, inbound: HashMap::new(), counts: HashMap::new() }
    }

    /// Other lists.
    pub(crate) fn lists(&mut self, allow: Vec<PublicKey>, deny: Vec<PublicKey>) {
        self.allow = allow.into_iter().collect();
        self.deny = deny.into_iter().collect();
    }

    /// Whether a peer may be here.
    pub(crate) fn admit(&self, peer: &PeerId) -> Result<PublicKey, Refused> {
        let node = node_of(peer).ok_or(Refused::Key)?;
        if !self.allow.is_empty() && !self.allow.contains(&node) {
            return Err(Refused::NotAllowed);
        }
        if self.deny.contains(&node) {
            return Err(Refused::Denied);
        }
        if self.fleet.banned(&node) { Err(Refused::Banned) } else { Ok(node) }
    }

    fn leave(&mut self, connection: ConnectionId) {
        if let Some(place) = self.inbound.remove(&connection)
            && let Some(count) = self.counts.get_mut(&place)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&place);
            }
        }
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let place = place(remote);
        if place == Place::Nowhere {
            // Through a relay: the relay's connection is what is counted.
            return Ok(());
        }
        let count = self.counts.entry(place.clone()).or_default();
        if *count >= self.per_place {
            return Err(ConnectionDenied::new(Refused::Place(place)));
        }
        *count += 1;
        self.inbound.insert(connection, place);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        peer.map_or(Ok(()), |peer| self.admit(&peer).map(drop)).map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => self.leave(connection_id),
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                connection_id,
                endpoint: ConnectedPoint::Dialer { .. },
                ..
            }) => self.leave(connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
