//! Who is let in.
//!
//! # How
//!
//! 1. Before anything is negotiated: not more connections from one place than the limit, and not more new ones a second than
//!    [`RATE`] after a burst. A connection that was made leaves traces in tables of libp2p that outlast it.
//! 2. As soon as the peer has proved its key: it must be an ed25519 key, on the allow list if there is one, not on the deny
//!    list, and not banned for what it did.
//! 3. The same lists hold for whom this node dials.

use crate::address::{Place, place};
use crate::fleet::Fleet;
use crate::identity::node_of;
use crate::rate::Bucket;
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
    #[error("too many new connections in a short time from {0:?}")]
    Haste(Place),
}

/// New connections a second from one place.
const RATE: u32 = 4;
/// New connections at once from one place, as a multiple of those that may be there.
const BURST: u32 = 4;
/// Places whose new connections are counted.
const PLACES: usize = 8192;

/// Lists and counts.
#[derive(Debug)]
pub(crate) struct Gate {
    fleet: Arc<Fleet>,
    allow: HashSet<PublicKey>,
    deny: HashSet<PublicKey>,
    per_place: u32,
    rates: HashMap<Place, Bucket>,
    inbound: HashMap<ConnectionId, Place>,
    counts: HashMap<Place, u32>,
}

impl Gate {
    pub(crate) fn new(fleet: Arc<Fleet>, allow: Vec<PublicKey>, deny: Vec<PublicKey>, per_place: u32) -> Self {
        let (allow, deny) = (allow.into_iter().collect(), deny.into_iter().collect());
        let (rates, inbound, counts) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { fleet, allow, deny, per_place, rates, inbound, counts }
    }

    /// Count a new connection from a place.
    fn enter(&mut self, connection: ConnectionId, place: Place) -> Result<(), Refused> {
        let burst = self.per_place.saturating_mul(BURST);
        if self.rates.len() >= PLACES && !self.rates.contains_key(&place) {
            self.rates.retain(|_, bucket| !bucket.is_full(RATE, burst));
            if self.rates.len() >= PLACES {
                self.rates.clear();
            }
        }
        let count = self.counts.get(&place).copied().unwrap_or(0);
        if count >= self.per_place {
            return Err(Refused::Place(place));
        }
        if !self.rates.entry(place.clone()).or_insert_with(|| Bucket::full(burst)).take(RATE, burst) {
            return Err(Refused::Haste(place));
        }
        self.counts.insert(place.clone(), count + 1);
        self.inbound.insert(connection, place);
        Ok(())
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
        self.enter(connection, place).map_err(ConnectionDenied::new)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_and_so_is_haste() {
        let place = || Place::V4([10, 0, 0, 1]);
        let mut gate = Gate::new(Arc::default(), vec![], vec![], 2);
        let ids: Vec<_> = (0..20).map(ConnectionId::new_unchecked).collect();
        assert_eq!(gate.enter(ids[0], place()), Ok(()));
        assert_eq!(gate.enter(ids[1], place()), Ok(()));
        assert_eq!(gate.enter(ids[2], place()), Err(Refused::Place(place())));
        gate.leave(ids[0]);
        // Coming and going all the time.
        let admitted = ids[3..].iter().filter(|id| gate.enter(**id, place()).map(|()| gate.leave(**id)).is_ok());
        assert_eq!(admitted.count(), 6);
        assert_eq!(gate.enter(ids[0], place()), Err(Refused::Haste(place())));
        assert_eq!(gate.enter(ids[0], Place::V4([10, 0, 0, 2])), Ok(()));
    }
}
