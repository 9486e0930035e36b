//! What this node asks of the network.

use crate::config::NetConfig;
use crate::error::NetError;
use crate::event::Events;
use crate::fleet::{Fleet, Offence};
use crate::frame::FrameStream;
use ostrakon_protocol::wire::{Ask, FileAsk, FileReply, FromNode, Reply, ToNode};
use ostrakon_protocol::{Digest, PublicKey, SignedStatus};
use std::sync::Arc;
use std::time::Duration;

/// A handle to the network of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {}

impl Client {
    /// Start the network on the present tokio runtime.
    ///
    /// # Errors
    /// An address cannot be listened on, or makes no sense.
    pub async fn start(_config: NetConfig) -> Result<(Self, Events), NetError> {
        Err(NetError::Stopped)
    }

    /// This node.
    pub fn node(&self) -> PublicKey {
        PublicKey::from_bytes([0; 32])
    }

    /// The addresses it listens on, each ending in its peer id, so that others can dial them as they stand.
    pub fn addresses(&self) -> Vec<String> {
        Vec::new()
    }

    /// The nodes it knows of.
    pub fn fleet(&self) -> Arc<Fleet> {
        Arc::default()
    }

    /// Connect to an address and say who is there.
    ///
    /// # Errors
    /// The address makes no sense, or nobody is there.
    pub async fn dial(&self, _address: &str) -> Result<PublicKey, NetError> {
        Err(NetError::Stopped)
    }

    /// Ask a node. It is dialled at the addresses of its status, or those found in the DHT, unless it is connected.
    ///
    /// # Errors
    /// It cannot be reached, does not answer in time, or answers nonsense.
    pub async fn ask(&self, _node: PublicKey, _ask: Ask, _within: Duration) -> Result<Reply, NetError> {
        Err(NetError::Stopped)
    }

    /// Open a stream to run blocks on.
    ///
    /// # Errors
    /// It cannot be reached or does not take the stream.
    pub async fn session(&self, _node: PublicKey) -> Result<FrameStream<FromNode, ToNode>, NetError> {
        Err(NetError::Stopped)
    }

    /// Open a stream to get files from.
    ///
    /// # Errors
    /// It cannot be reached or does not take the stream.
    pub async fn files(&self, _node: PublicKey) -> Result<FrameStream<FileReply, FileAsk>, NetError> {
        Err(NetError::Stopped)
    }

    /// Tell everybody what this node is now.
    pub async fn publish(&self, _status: SignedStatus) {}

    /// Say in the DHT that this node has a content: a package, a component, a file.
    pub async fn provide(&self, _content: Digest) {}

    /// Say so no longer.
    pub async fn withdraw(&self, _content: Digest) {}

    /// Who has a content, at most 20.
    pub async fn providers(&self, _content: Digest) -> Vec<PublicKey> {
        Vec::new()
    }

    /// A peer did something wrong: its reputation sinks, and with enough of that it is dropped.
    pub fn report(&self, _node: PublicKey, _offence: Offence) {}

    /// Other lists from now on; peers that may no longer be here are dropped.
    pub async fn admit(&self, _allow: Vec<PublicKey>, _deny: Vec<PublicKey>) {}

    /// Close all connections and stop.
    pub async fn stop(&self) {}
}
