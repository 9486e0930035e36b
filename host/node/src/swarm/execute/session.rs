//! A session on one node: reserved, committed, and then one call after the other.
//!
//! # How
//!
//! Whatever a node does instead of what it should is [`Trouble`], which says whether the node is to blame and for what.
//! Everything that is waited for is waited for only so long: a node that is frozen looks like one that is slow.

use crate::swarm::known::Carried;
use ostrakon_net::{Client, FrameStream, NetError, Offence};
use ostrakon_protocol::wire::{Ask, FromNode, Prepare, Refusal, Reply, ToNode};
use ostrakon_protocol::{Digest, PublicKey};
use std::time::Duration;
use tokio::time::timeout;

/// What a node did instead of what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It has no room.
    #[error("it has no room: {0}")]
    Busy(String),
    /// It will not, though it said that it serves these blocks.
    #[error("it refused: {0}")]
    Refused(String),
    /// It failed after it had promised.
    #[error("it failed: {0}")]
    Failed(String),
    /// It says that what it was given is not what goes into its blocks. Who gave it to us may be to blame as well.
    #[error("it does not take its input: {0}")]
    Unfit(String),
    /// It cannot be reached, or the connection ended.
    #[error("{0}")]
    Gone(String),
    /// It did not answer in time.
    #[error("it did not answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The others were done long before it.
    #[error("it was much slower than the others")]
    Slow,
    /// What came is not what the protocol has here.
    #[error("it sent something else than it was asked for: {0}")]
    Malformed(String),
    /// It signed something that is wrong.
    #[error("what it signed is wrong: {0}")]
    Wrong(String),
    /// There was no majority, with or against it.
    #[error("it was in a quorum without a majority")]
    Divided,
}

impl Trouble {
    /// What it is reported for. A node that crashed has done nothing wrong.
    pub const fn offence(&self) -> Option<Offence> {
        match self {
            Self::Busy(_) | Self::Refused(_) | Self::Unfit(_) | Self::Slow | Self::Divided | Self::Gone(_) => None,
            Self::Failed(_) | Self::Late(_) => Some(Offence::Broken),
            Self::Malformed(_) => Some(Offence::Malformed),
            Self::Wrong(_) => Some(Offence::Wrong),
        }
    }

    /// Whether the node may be used for this job again when there is nobody else.
    pub const fn may_pass(&self) -> bool {
        !matches!(self, Self::Wrong(_) | Self::Malformed(_))
    }
}

impl From<NetError> for Trouble {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Decode(_) | NetError::TooLarge { .. } | NetError::Unexpected(_) => {
                Self::Malformed(error.to_string())
            }
            other => Self::Gone(other.to_string()),
        }
    }
}

fn refused(why: Refusal, reason: &str, promised: bool) -> Trouble {
    // Words of a peer: shown to people, so only a little of them and nothing that moves a cursor.
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
    match why {
        Refusal::Busy => Trouble::Busy(reason),
        Refusal::Bad if promised => Trouble::Unfit(reason),
        _ if promised => Trouble::Failed(reason),
        _ => Trouble::Refused(reason),
    }
}

async fn ask(net: &Client, node: PublicKey, question: Ask, within: Duration) -> Result<Reply, Trouble> {
    match timeout(within, net.ask(node, question, within)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(NetError::Timeout { .. })) | Err(_) => Err(Trouble::Late(within)),
        Ok(Err(error)) => Err(error.into()),
    }
}

/// The first half of the commit: the node holds room for us.
pub(super) async fn prepare(
    net: &Client,
    node: PublicKey,
    prepare: Prepare,
    within: Duration,
) -> Result<Digest, Trouble> {
    match ask(net, node, Ask::Prepare(prepare), within).await? {
        Reply::Prepared { session } => Ok(session),
        Reply::Refused { why, reason } => Err(refused(why, &reason, false)),
        _ => Err(Trouble::Malformed("no answer to a reservation".into())),
    }
}

/// Forget a reservation; whether the node hears it or not, it runs out.
pub(super) async fn abort(net: Client, node: PublicKey, session: Digest) {
    let within = Duration::from_secs(2);
    let _ = timeout(within, net.ask(node, Ask::Abort { session }, within)).await;
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    /// Who.
    pub(super) node: PublicKey,
    stream: FrameStream<FromNode, ToNode>,
}

/// What a node answers with an output.
pub(super) struct Answered {
    pub(super) leg: ostrakon_protocol::Leg,
    pub(super) output: Carried,
    /// Microseconds, by the node's word.
    pub(super) took: u64,
}

impl Session {
    /// The second half of the commit, and the stream.
    pub(super) async fn open(
        net: &Client,
        node: PublicKey,
        session: Digest,
        within: Duration,
    ) -> Result<Self, Trouble> {
        match ask(net, node, Ask::Commit { session }, within).await? {
            Reply::Ok => {}
            Reply::Refused { why, reason } => return Err(refused(why, &reason, true)),
            _ => return Err(Trouble::Malformed("no answer to a commit".into())),
        }
        let late = |_| Trouble::Late(within);
        let stream = timeout(within, net.session(node)).await.map_err(late)??;
        let mut open = Self { node, stream };
        open.send(&ToNode::Open { session }, &[], within).await?;
        match open.next(within).await? {
            FromNode::Opened => Ok(open),
            other => Err(unexpected(other)),
        }
    }

    /// Send a frame.
    pub(super) async fn send(&mut self, frame: &ToNode, payload: &[u8], within: Duration) -> Result<(), Trouble> {
        Ok(timeout(within, self.stream.send(frame, payload)).await.map_err(|_| Trouble::Late(within))??)
    }

    /// The next frame's header.
    pub(super) async fn next(&mut self, within: Duration) -> Result<FromNode, Trouble> {
        let late = |_| Trouble::Late(within);
        match timeout(within, self.stream.receive(within)).await.map_err(late)? {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(Trouble::Gone("it closed the session".into())),
            Err(NetError::Timeout { .. }) => Err(Trouble::Late(within)),
            Err(error) => Err(error.into()),
        }
    }

    /// The output of a call, at most so many bytes of it.
    pub(super) async fn output(&mut self, call: u32, most: u64, within: Duration) -> Result<Answered, Trouble> {
        match self.next(within).await? {
            FromNode::Output { call: of, leg, tensor, took } if of == call => {
                // A tensor arrives as fast as the link; its reader has a least speed of its own.
                let bytes = self.stream.payload(tensor.bytes, most).await?;
                let output = tokio::task::spawn_blocking(move || Carried::new(tensor, bytes)).await;
                Ok(Answered { leg, output: output.map_err(|_| Trouble::Slow)?, took })
            }
            other => Err(unexpected(other)),
        }
    }

    /// The session is over. Whether the node hears it or not, the stream ends.
    pub(super) async fn close(mut self) {
        let within = Duration::from_secs(1);
        if self.send(&ToNode::Close, &[], within).await.is_ok() {
            let _ = timeout(within, self.stream.finish()).await;
        }
    }
}

pub(super) fn unexpected(frame: FromNode) -> Trouble {
    let what = match frame {
        FromNode::Failed { why, reason, .. } => return refused(why, &reason, true),
        FromNode::Opened => "the stream's opening",
        FromNode::Committed { .. } => "a commitment",
        FromNode::Revealed { .. } => "a vote",
        FromNode::Output { .. } => "an output",
    };
    Trouble::Malformed(format!("{what} that was not asked for, or of another call"))
}
