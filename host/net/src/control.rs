//! Questions and replies on the wire.
//!
//! # How
//!
//! 1. Four bytes, little-endian, for the length, then the document. The length is compared with the limit before anything is
//!    read, and memory grows as bytes come.
//! 2. A question must be there soon after its stream was opened. The reply may take as long as whoever asks wants to wait;
//!    from its first byte on a minimum speed holds.
//! 3. Both are decoded here, on the task of their connection. What is not the one encoding of a question or a reply, or comes
//!    too slowly, goes no further: a reply becomes an error, and of a question only the reason is told, so that it is counted.

use crate::pace::Pace;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;
use ostrakon_protocol::wire::{Ask, Refusal, Reply};
use ostrakon_protocol::{Document, decode, encode};
use std::io::{Error, ErrorKind};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The protocol's name.
pub(crate) const CONTROL: StreamProtocol = StreamProtocol::new("/ostrakon/control/1");
/// Time for the first byte of a question, once its stream is open.
const QUESTION: Duration = Duration::from_secs(10);
/// Most memory that is set aside before bytes have come.
const STEP: usize = 64 << 10;

/// A question, and how long its answer may take.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// What is asked. Of questions that come in: or why it is none.
    pub(crate) ask: Result<Ask, String>,
    /// For whoever asks; the other side does not learn it.
    pub(crate) within: Duration,
}

/// Reads and writes questions and replies. One for each exchange.
#[derive(Debug, Clone, Default)]
pub(crate) struct ControlCodec {
    /// How long the reply to the question that was written may take.
    within: Duration,
}

impl request_response::Codec for ControlCodec {
    type Protocol = StreamProtocol;
    type Request = Query;
    type Response = Reply;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> Result<Query, Error>
    where
        T: AsyncRead + Unpin + Send,
    {
        let ask = match read(io, QUESTION).await {
            Ok(ask) => Ok(ask),
            // `libp2p` tells nobody of errors here.
            Err(error) if error.kind() == ErrorKind::InvalidData => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        Ok(Query { ask, within: Duration::ZERO })
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> Result<Reply, Error>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.within).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, query: Query) -> Result<(), Error>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.within = query.within;
        let ask = query.ask.map_err(|reason| Error::new(ErrorKind::InvalidInput, reason))?;
        write(io, &encode(&ask)).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, reply: Reply) -> Result<(), Error>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let mut bytes = encode(&reply);
        if bytes.len() > Reply::LIMIT {
            let reason = format!("the answer has {} bytes, at most {} may be sent", bytes.len(), Reply::LIMIT);
            bytes = encode(&Reply::Refused { why: Refusal::Fault, reason });
        }
        write(io, &bytes).await
    }
}

async fn read<D: Document, T: AsyncRead + Unpin + Send>(io: &mut T, within: Duration) -> Result<D, Error> {
    let wrong = |reason: String| Error::new(ErrorKind::InvalidData, reason);
    let late = || Error::new(ErrorKind::InvalidData, "it comes too slowly");
    let first = Instant::now().checked_add(within).ok_or(ErrorKind::InvalidInput)?;
    let mut prefix = [0; 4];
    let (start, rest) = prefix.split_at_mut(1);
    timeout_at(first, io.read_exact(start)).await.map_err(|_| Error::from(ErrorKind::TimedOut))??;
    let mut pace = Pace::begin();
    timeout_at(pace.deadline(), io.read_exact(rest)).await.map_err(|_| late())??;
    let length = u32::from_le_bytes(prefix) as usize;
    if length > D::LIMIT {
        return Err(wrong(format!("an {} of {length} bytes: at most {} are taken", D::KIND, D::LIMIT)));
    }
    let mut bytes = Vec::new();
    let mut step = vec![0; length.min(STEP)];
    while bytes.len() < length {
        let part = step.get_mut(..(length - bytes.len()).min(STEP)).unwrap_or_default();
        let count = timeout_at(pace.deadline(), io.read(part)).await.map_err(|_| late())??;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(part.get(..count).unwrap_or_default());
        pace.moved(count);
    }
    decode(&bytes).map_err(|e| wrong(e.to_string()))
}

async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, bytes: &[u8]) -> Result<(), Error> {
    let late = |_| Error::new(ErrorKind::TimedOut, "the peer takes nothing");
    let length = u32::try_from(bytes.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    let mut all = Vec::with_capacity(4 + bytes.len());
    all.extend_from_slice(&length.to_le_bytes());
    all.extend_from_slice(bytes);
    let mut pace = Pace::begin();
    for part in all.chunks(STEP) {
        timeout_at(pace.deadline(), io.write_all(part)).await.map_err(late)??;
        pace.moved(part.len());
    }
    timeout_at(pace.deadline(), io.flush()).await.map_err(late)?
}
