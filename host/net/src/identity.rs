//! One key, two names: the ed25519 key of a node and its libp2p peer id.
//!
//! A peer id of an ed25519 key holds the key itself (an identity multihash), so each is computed from the other. Peers
//! with keys of another type have no name here and are refused.

use crate::error::NetError;
use libp2p::PeerId;
use libp2p::identity::{Keypair, ed25519};
use ostrakon_protocol::PublicKey;

/// What comes before the key in a peer id: type ed25519, 32 bytes follow (protobuf).
const BEFORE: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
/// The identity multihash.
const IDENTITY: u64 = 0;

/// The key pair of a seed.
pub(crate) fn keypair(mut seed: [u8; 32]) -> Result<Keypair, NetError> {
    Keypair::ed25519_from_bytes(&mut seed).map_err(|e| NetError::Start(format!("the node's key cannot be used: {e}")))
}

/// The node that a key pair is of.
pub(crate) fn node_of_keypair(keypair: &Keypair) -> Result<PublicKey, NetError> {
    node_of(&keypair.public().to_peer_id())
        .ok_or_else(|| NetError::Start("the node's key is not an ed25519 key".to_owned()))
}

/// Whose peer id this is. `None`: of no ed25519 key.
pub(crate) fn node_of(peer: &PeerId) -> Option<PublicKey> {
    let hash = peer.as_ref();
    let key = hash.digest().strip_prefix(&BEFORE).filter(|_| hash.code() == IDENTITY)?;
    Some(PublicKey::from_bytes(key.try_into().ok()?))
}

/// The peer id of a node. `None`: its bytes are no key, so nobody can be there.
pub(crate) fn peer_of(node: &PublicKey) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostrakon_protocol::SigningKey;

    #[test]
    fn a_key_and_a_peer_id_name_each_other() {
        let key = SigningKey::from_seed(&[7; 32]);
        let peer = peer_of(&key.public()).unwrap();
        assert_eq!(node_of(&peer), Some(key.public()));
        assert_eq!(keypair([7; 32]).unwrap().public().to_peer_id(), peer);
        assert_eq!(node_of(&PeerId::random()), None);
    }
}
