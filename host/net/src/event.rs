//! What peers want of this node.

use crate::frame::FrameStream;
use ostrakon_protocol::PublicKey;
use ostrakon_protocol::decoding::{FromDecoder, ToDecoder};
use ostrakon_protocol::share::{FromServer, ToServer};
use ostrakon_protocol::wire::{Ask, FileAsk, FileReply, FromNode, Reply, ToNode};
use tokio::sync::{mpsc, oneshot};

/// What happens in the network, in order. The queue is bounded: while nobody reads it, questions are answered with "busy", streams
/// wait, and of news about a node the newest of each kind is kept.
pub type Events = mpsc::Receiver<Event>;

/// A question of a peer, to be answered once.
#[derive(Debug)]
pub struct Question {
    /// Who asks.
    pub from: PublicKey,
    /// What.
    pub ask: Ask,
    /// Where the answer goes. Dropped without one: the peer is told that this node could not.
    pub answer: oneshot::Sender<Reply>,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A peer asks.
    Question(Question),
    /// A peer wants to run blocks here.
    Session {
        /// Who.
        from: PublicKey,
        /// Its stream.
        stream: FrameStream<ToNode, FromNode>,
    },
    /// A peer wants shares to be multiplied here.
    Share {
        /// Who.
        from: PublicKey,
        /// Its stream.
        stream: FrameStream<ToServer, FromServer>,
    },
    /// A peer wants to decode here.
    Decoding {
        /// Who.
        from: PublicKey,
        /// Its stream.
        stream: FrameStream<ToDecoder, FromDecoder>,
    },
    /// A peer wants files.
    Files {
        /// Who.
        from: PublicKey,
        /// Its stream.
        stream: FrameStream<FileAsk, FileReply>,
    },
    /// A node is there, or says something new of itself.
    Status(PublicKey),
    /// A node signed two statuses with one number.
    TwoTongues(PublicKey),
    /// A connection to a peer was made.
    Connected(PublicKey),
    /// The last connection to a peer ended.
    Disconnected(PublicKey),
}
