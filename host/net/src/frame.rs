//! Frames on a stream: length, header, and what follows it. Nothing is read before its length is known to be allowed.
//!
//! # How
//!
//! 1. A frame is four bytes, little-endian, for the length of its header, the header (one document), and as many bytes after
//!    it as the header says, for whoever reads the header.
//! 2. The length is compared with the document's limit; then the header is read, into memory that grows as bytes arrive. The
//!    same for what follows: a peer that promises much and sends little takes little.
//! 3. Once the first byte of something is there, the rest must come at a minimum speed ([`crate::pace`]).
//! 4. Whoever sends something else than frames, or too slowly, has an offence counted against it right here.
//!
//! [`FrameStream::receive`] may be dropped in the middle and called again: what had come is kept.

use crate::error::NetError;
use crate::fleet::Offence;
use crate::pace::Pace;
use crate::streams::Held;
use bytes::{Bytes, BytesMut};
use ostrakon_protocol::{Document, decode, encode};
use std::fmt;
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Bytes that follow a header.
pub type Payload = Bytes;

/// Bytes of the length before a header.
const PREFIX: usize = 4;
/// Most memory that is set aside before bytes have come.
const STEP: usize = 64 << 10;

/// What bytes come from and go to.
pub(crate) trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// A stream that `In` frames come from and `Out` frames go to.
pub struct FrameStream<In, Out> {
    pipe: Box<dyn Pipe>,
    /// What has come of a frame's length and header.
    begun: BytesMut,
    pace: Option<Pace>,
    /// How raw reading goes, and when it last paused.
    raw: Option<(Pace, Instant)>,
    held: Held,
    frames: PhantomData<fn(In) -> Out>,
}

impl<In, Out> fmt::Debug for FrameStream<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameStream").field("with", &self.held.node()).finish_non_exhaustive()
    }
}

impl<In, Out> FrameStream<In, Out> {
    pub(crate) fn new(pipe: impl Pipe + 'static, held: Held) -> Self {
        Self { pipe: Box::new(pipe), begun: BytesMut::new(), pace: None, raw: None, held, frames: PhantomData }
    }

    /// Counts what the peer did wrong against it.
    fn judged<T>(&self, result: Result<T, NetError>) -> Result<T, NetError> {
        if let Err(NetError::TooLarge { .. } | NetError::TooSlow | NetError::Decode(_)) = &result {
            self.held.report(Offence::Malformed);
        }
        result
    }
}

impl<In: Document, Out: Document> FrameStream<In, Out> {
    /// The next frame's header. `None`: the peer closed the stream between two frames.
    ///
    /// # Errors
    /// Too long, too slow, not a frame, or the connection ended. `within` is for the first byte; after it a minimum speed holds.
    pub async fn receive(&mut self, within: Duration) -> Result<Option<In>, NetError> {
        self.raw = None;
        let result = self.header(within).await;
        self.judged(result)
    }

    async fn header(&mut self, within: Duration) -> Result<Option<In>, NetError> {
        let first = Instant::now().checked_add(within);
        loop {
            let mut missing = PREFIX.saturating_sub(self.begun.len());
            if let Some(prefix) = self.begun.first_chunk::<PREFIX>() {
                let length = u32::from_le_bytes(*prefix) as usize;
                if length > In::LIMIT {
                    let (bytes, limit) = (length as u64, In::LIMIT as u64);
                    return Err(NetError::TooLarge { what: "a frame's header", bytes, limit });
                }
                missing = (PREFIX + length).saturating_sub(self.begun.len());
                if missing == 0 {
                    let frame = self.begun.split().freeze();
                    self.pace = None;
                    return Ok(Some(decode(frame.get(PREFIX..).unwrap_or_default())?));
                }
            }
            let mut step = [0; 4096];
            let step = step.get_mut(..missing.min(4096)).unwrap_or_default();
            let deadline = match &self.pace {
                Some(pace) => Some(pace.deadline()),
                None => first,
            };
            let read = match deadline {
                Some(deadline) => match timeout_at(deadline, self.pipe.read(step)).await {
                    Ok(read) => read,
                    // Nobody promised to say something by then: that is no offence.
                    Err(_) if self.pace.is_none() => {
                        return Err(NetError::Timeout { node: self.held.node() });
                    }
                    Err(_) => return Err(NetError::TooSlow),
                },
                None => self.pipe.read(step).await,
            };
            let count = read.map_err(|e| ended(&e))?;
            if count == 0 {
                let between = self.begun.is_empty();
                return if between { Ok(None) } else { Err(NetError::Closed("in the middle of a frame".into())) };
            }
            self.begun.extend_from_slice(step.get(..count).unwrap_or_default());
            self.pace.get_or_insert_with(Pace::begin).moved(count);
        }
    }

    /// Exactly this many bytes.
    ///
    /// # Errors
    /// More than `limit`, too slow, or the connection ended.
    pub async fn payload(&mut self, bytes: u64, limit: u64) -> Result<Payload, NetError> {
        let result = self.following(bytes, limit).await;
        self.judged(result)
    }

    async fn following(&mut self, bytes: u64, limit: u64) -> Result<Payload, NetError> {
        let too_large = NetError::TooLarge { what: "what follows a frame's header", bytes, limit };
        let Some(length) = usize::try_from(bytes).ok().filter(|_| bytes <= limit) else { return Err(too_large) };
        let (mut all, mut come) = (BytesMut::new(), 0);
        let mut pace = Pace::begin();
        while come < length {
            // Memory grows with what has come, twofold at most, and is zeroed once: a pipe would zero all that it could fill
            // at each read.
            if all.len() == come {
                all.resize(length.min(come.saturating_mul(2).max(STEP)), 0);
            }
            let rest = all.get_mut(come..).unwrap_or_default();
            let count = match timeout_at(pace.deadline(), self.pipe.read(rest)).await {
                Ok(read) => read.map_err(|e| ended(&e))?,
                Err(_) => return Err(NetError::TooSlow),
            };
            if count == 0 {
                return Err(NetError::Closed(format!("after {come} of {length} bytes")));
            }
            come += count;
            pace.moved(count);
        }
        Ok(all.freeze())
    }

    /// Send a header and what follows it.
    ///
    /// # Errors
    /// The connection ended, or the peer takes nothing for too long.
    pub async fn send(&mut self, header: &Out, payload: &[u8]) -> Result<(), NetError> {
        let encoded = encode(header);
        let (bytes, limit) = (encoded.len() as u64, Out::LIMIT as u64);
        let length = u32::try_from(encoded.len()).ok().filter(|_| bytes <= limit);
        let Some(length) = length else { return Err(NetError::TooLarge { what: "a frame's header", bytes, limit }) };
        let mut first = Vec::with_capacity(PREFIX + encoded.len() + payload.len().min(STEP));
        first.extend_from_slice(&length.to_le_bytes());
        first.extend_from_slice(&encoded);
        // A short payload goes out with its header.
        let (joined, rest) = if payload.len() <= STEP { (payload, &[][..]) } else { (&[][..], payload) };
        first.extend_from_slice(joined);
        let mut pace = Pace::begin();
        self.put(&first, &mut pace).await?;
        self.put(rest, &mut pace).await?;
        self.flush(&pace).await
    }

    /// Say that nothing follows.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn finish(&mut self) -> Result<(), NetError> {
        match timeout_at(Pace::begin().deadline(), self.pipe.shutdown()).await {
            Ok(done) => done.map_err(|e| ended(&e)),
            Err(_) => Err(NetError::TooSlow),
        }
    }
}

/// Raw bytes after the frames, for verified file streams.
impl<In, Out> FrameStream<In, Out> {
    /// Read some bytes, at most the buffer's length; 0: the end. A minimum speed holds.
    ///
    /// # Errors
    /// Too slow, or the connection ended.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, NetError> {
        // Time that passes between two reads is not the peer's.
        let mut pace = self.raw.map_or_else(Pace::begin, |(pace, since)| pace.paused(since));
        let result = match timeout_at(pace.deadline(), self.pipe.read(buffer)).await {
            Ok(read) => read.map_err(|e| ended(&e)),
            Err(_) => Err(NetError::TooSlow),
        };
        if let Ok(count) = &result {
            pace.moved(*count);
            self.raw = Some((pace, Instant::now()));
        }
        self.judged(result)
    }

    /// Write all of these bytes.
    ///
    /// # Errors
    /// The connection ended, or the peer takes nothing for too long.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), NetError> {
        let mut pace = Pace::begin();
        self.put(bytes, &mut pace).await?;
        self.flush(&pace).await
    }

    async fn put(&mut self, bytes: &[u8], pace: &mut Pace) -> Result<(), NetError> {
        for part in bytes.chunks(STEP) {
            match timeout_at(pace.deadline(), self.pipe.write_all(part)).await {
                Ok(done) => done.map_err(|e| ended(&e))?,
                Err(_) => return Err(NetError::TooSlow),
            }
            pace.moved(part.len());
        }
        Ok(())
    }

    async fn flush(&mut self, pace: &Pace) -> Result<(), NetError> {
        match timeout_at(pace.deadline(), self.pipe.flush()).await {
            Ok(done) => done.map_err(|e| ended(&e)),
            Err(_) => Err(NetError::TooSlow),
        }
    }
}

fn ended(error: &std::io::Error) -> NetError {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::WriteZero => NetError::Closed("the peer closed the stream".to_owned()),
        _ => NetError::Closed(error.to_string()),
    }
}
