//! What can go wrong between peers.

use ostrakon_protocol::{DecodeError, PublicKey};

/// Something between this node and its peers went wrong.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// An address makes no sense or cannot be used.
    #[error("the address {address} cannot be used: {reason}; an address is for example /ip4/127.0.0.1/tcp/4001")]
    Address {
        /// Which.
        address: String,
        /// Why.
        reason: String,
    },
    /// Nobody is there.
    #[error("{peer} cannot be reached: {reason}")]
    Unreachable {
        /// Who: a node or an address.
        peer: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("{node} did not answer in time")]
    Timeout {
        /// Who.
        node: PublicKey,
    },
    /// The connection ended in the middle.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// More than is taken.
    #[error("{what} of {bytes} bytes: at most {limit} are taken")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How many.
        bytes: u64,
        /// The most.
        limit: u64,
    },
    /// Too slow to be waited for.
    #[error("the peer sends too slowly")]
    TooSlow,
    /// What came is not what it should be.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// What came contradicts what was asked.
    #[error("the peer answered something else than was asked: {0}")]
    Unexpected(String),
    /// The network could not be started.
    #[error("the network could not be started: {0}")]
    Start(String),
    /// This node's network has stopped.
    #[error("the network of this node has stopped")]
    Stopped,
}
