//! TCP with TLS and yamux, set up for tensors.
//!
//! # Why
//!
//! What goes over a connection here is mostly tensors of some hundred KiB, and somebody waits for each. As libp2p puts these
//! three together, every 16 KiB go through the kernel by themselves and come out of it in pieces of 8 KiB; on a fast
//! network those calls and the threads that they wake take longer than the bytes.
//!
//! # How
//!
//! 1. What comes is read from the socket [`READ`] bytes at a time.
//! 2. What goes is cut into frames of [`WRITE`] bytes, each flushed once.
//!
//! Both sides may choose this for themselves: on the network nothing is different.

use crate::behaviour::STREAMS;
use crate::security::Tls;
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite, future, ready};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent};
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version};
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, tcp};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use yamux::{Connection, ConnectionError, Mode, Stream};

/// Most bytes of one read from a socket: a connection keeps a buffer of this size.
const READ: usize = 128 << 10;
/// Bytes of a frame. Other streams of the connection wait while one is sent, and nothing of it is seen on the other side before
/// all of it is there.
const WRITE: usize = 64 << 10;
/// Most streams that wait to be taken; a peer opens no more before some are.
const WAITING: usize = 256;

/// Connections over TCP.
///
/// # Errors
/// A key that cannot sign a certificate.
pub(crate) fn tcp(keypair: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Box<dyn Error + Send + Sync>> {
    let sockets = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let buffered = sockets.map(|socket, _| BufReader::with_capacity(READ, socket));
    let connections = buffered.upgrade(Version::V1Lazy).authenticate(Tls::new(keypair)?).multiplex(Yamux);
    Ok(connections.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed())
}

/// Many streams over one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Yamux;

impl Yamux {
    fn muxer<C: AsyncRead + AsyncWrite + Unpin>(connection: C, mode: Mode) -> Muxer<C> {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS).set_split_send_size(WRITE);
        Muxer { connection: Connection::new(connection, config, mode), waiting: VecDeque::new(), taker: None }
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = future::Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, connection: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Self::muxer(connection, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = future::Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, connection: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Self::muxer(connection, Mode::Client)))
    }
}

/// A connection of [`Yamux`].
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    connection: Connection<C>,
    /// Streams that the peer has opened and nobody has taken.
    waiting: VecDeque<Stream>,
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    /// Bytes move whenever this is called; it is ready when the peer opens a stream.
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_next_inbound(cx).map(|stream| stream.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let opened = self.poll_opened(cx);
        if opened.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        opened
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let stream = ready!(self.poll_opened(cx))?;
        if self.waiting.len() < WAITING {
            self.waiting.push_back(stream);
            if let Some(taker) = self.taker.take() {
                taker.wake();
            }
        }
        // There may be more, after others had their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
