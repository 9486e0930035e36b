//! Streams for sessions, shares, decoding and files: opened, taken, counted.
//!
//! # How
//!
//! 1. Whoever opens a stream waits for one byte: [`TAKEN`] says that the other side took it. A stream can be lost before
//!    anybody sees it (`libp2p-stream` drops it when too many come at once), so without that byte it is opened again.
//! 2. Whoever takes it has counted it first: at most so many of one peer at once. It is counted until the [`FrameStream`] is
//!    dropped.
//! 3. What a stream's peer does wrong is reported through its [`Held`].

use crate::client::Command;
use crate::error::NetError;
use crate::event::Event;
use crate::fleet::{Fleet, Offence};
use crate::frame::FrameStream;
use crate::identity::{node_of, peer_of};
use futures::StreamExt;
use libp2p::StreamProtocol;
use libp2p_stream::{Control, IncomingStreams, OpenStreamError};
use ostrakon_protocol::PublicKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::compat::FuturesAsyncReadCompatExt;

/// To run blocks.
pub(crate) const SESSION: StreamProtocol = StreamProtocol::new("/ostrakon/session/1");
/// To have shares multiplied.
pub(crate) const SHARE: StreamProtocol = StreamProtocol::new("/ostrakon/share/2");
/// To decode.
pub(crate) const DECODING: StreamProtocol = StreamProtocol::new("/ostrakon/decoding/1");
/// To get files.
pub(crate) const FILES: StreamProtocol = StreamProtocol::new("/ostrakon/files/1");
/// The stream was taken.
const TAKEN: u8 = 1;
/// No more streams from this peer now.
const TOO_MANY: u8 = 2;
/// How long the other side may take to say so.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a stream is opened before it is given up.
const TRIES: u32 = 6;
/// Bytes between the two ends of a stream to oneself.
const LOCAL: usize = 256 << 10;

/// How many streams each peer has open here.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    open: Mutex<HashMap<PublicKey, u32>>,
}

impl Counts {
    fn add(&self, node: PublicKey, most: u32) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(node).or_default();
        let room = *count < most;
        *count += u32::from(room);
        room
    }

    fn remove(&self, node: &PublicKey) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(node) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(node);
            }
        }
    }
}

/// What all streams of this node need.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) commands: mpsc::WeakSender<Command>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) per_peer: u32,
}

/// What a stream holds while it is there.
#[derive(Debug)]
pub(crate) struct Held {
    node: PublicKey,
    streams: Streams,
    counted: bool,
}

impl Held {
    pub(crate) fn node(&self) -> PublicKey {
        self.node
    }

    pub(crate) fn report(&self, offence: Offence) {
        self.streams.report(self.node, offence);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.counted {
            self.streams.counts.remove(&self.node);
        }
    }
}

impl Streams {
    pub(crate) fn report(&self, node: PublicKey, offence: Offence) {
        if self.fleet.offend(node, offence) {
            // Should the queue be full, the event loop sees by itself soon that the peer is banned.
            if let Some(commands) = self.commands.upgrade() {
                let _ = commands.try_send(Command::Drop(node));
            }
        }
    }

    /// Open a stream to a peer that is connected.
    pub(crate) async fn open<In, Out>(
        &self,
        control: &mut Control,
        node: PublicKey,
        protocol: &StreamProtocol,
    ) -> Result<FrameStream<In, Out>, NetError> {
        let unreachable = |reason: String| NetError::Unreachable { peer: node.to_string(), reason };
        let peer = peer_of(&node).ok_or_else(|| unreachable("this is no ed25519 key".into()))?;
        let mut reason = String::new();
        for attempt in 0..TRIES {
            tokio::time::sleep(Duration::from_millis(50) * attempt).await;
            let opened = timeout(HANDSHAKE, control.open_stream(peer, protocol.clone())).await;
            let stream = match opened.map_err(|_| NetError::Timeout { node })? {
                Ok(stream) => stream,
                Err(OpenStreamError::UnsupportedProtocol(_)) => {
                    return Err(unreachable(format!("it does not speak {protocol}")));
                }
                Err(error) => {
                    reason = error.to_string();
                    continue;
                }
            };
            let mut pipe = stream.compat();
            match timeout(HANDSHAKE, pipe.read_u8()).await.map_err(|_| NetError::Timeout { node })? {
                Ok(TAKEN) => {
                    return Ok(FrameStream::new(pipe, Held { node, streams: self.clone(), counted: false }));
                }
                Ok(TOO_MANY) => return Err(unreachable("it takes no more streams of this node now".into())),
                Ok(other) => {
                    self.report(node, Offence::Malformed);
                    return Err(NetError::Unexpected(format!("a stream that begins with {other}")));
                }
                Err(error) => reason = format!("it did not take the stream: {error}"),
            }
        }
        Err(unreachable(reason))
    }

    /// Take streams until nobody listens to events any more.
    pub(crate) async fn take<In: 'static, Out: 'static>(
        self,
        mut incoming: IncomingStreams,
        events: mpsc::WeakSender<Event>,
        event: fn(PublicKey, FrameStream<In, Out>) -> Event,
    ) {
        while let Some((peer, stream)) = incoming.next().await {
            let Some(node) = node_of(&peer) else { continue };
            let counted = self.counts.add(node, self.per_peer);
            let held = Held { node, streams: self.clone(), counted };
            let (mut pipe, events) = (stream.compat(), events.clone());
            tokio::spawn(async move {
                if counted {
                    let taken = async {
                        pipe.write_u8(TAKEN).await?;
                        pipe.flush().await
                    };
                    if let Ok(Ok(())) = timeout(HANDSHAKE, taken).await {
                        let Some(events) = events.upgrade() else { return };
                        let _ = events.send(event(node, FrameStream::new(pipe, held))).await;
                    }
                } else {
                    held.report(Offence::TooMuch);
                    let refused = async {
                        pipe.write_u8(TOO_MANY).await?;
                        pipe.shutdown().await
                    };
                    let _ = timeout(HANDSHAKE, refused).await;
                }
            });
        }
    }

    /// A stream to oneself: the end for whoever opens it, and the end for the event.
    pub(crate) fn local<In, Out>(&self, node: PublicKey) -> (FrameStream<In, Out>, FrameStream<Out, In>) {
        let (here, there) = tokio::io::duplex(LOCAL);
        let held = || Held { node, streams: self.clone(), counted: false };
        (FrameStream::new(here, held()), FrameStream::new(there, held()))
    }
}
