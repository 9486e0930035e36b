//! Frames on a stream: length, header, and what follows it. Nothing is read before its length is known to be allowed.

use crate::error::NetError;
use ostrakon_protocol::Document;
use std::marker::PhantomData;
use std::time::Duration;

/// Bytes that follow a header.
pub type Payload = bytes::Bytes;

/// A stream that `In` frames come from and `Out` frames go to.
#[derive(Debug)]
pub struct FrameStream<In, Out> {
    frames: PhantomData<(In, Out)>,
}

#[allow(clippy::unused_async)]
impl<In: Document, Out: Document> FrameStream<In, Out> {
    /// The next frame's header. `None`: the peer closed the stream between two frames.
    ///
    /// # Errors
    /// Too long, too slow, not a frame, or the connection ended. `within` is for the first byte; after it a minimum speed holds.
    pub async fn receive(&mut self, _within: Duration) -> Result<Option<In>, NetError> {
        Err(NetError::Stopped)
    }

    /// Exactly this many bytes.
    ///
    /// # Errors
    /// More than `limit`, too slow, or the connection ended.
    pub async fn payload(&mut self, _bytes: u64, _limit: u64) -> Result<Payload, NetError> {
        Err(NetError::Stopped)
    }

    /// Send a header and what follows it.
    ///
    /// # Errors
    /// The connection ended, or the peer takes nothing for too long.
    pub async fn send(&mut self, _header: &Out, _payload: &[u8]) -> Result<(), NetError> {
        Err(NetError::Stopped)
    }

    /// Say that nothing follows.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn finish(&mut self) -> Result<(), NetError> {
        Err(NetError::Stopped)
    }
}

/// Raw bytes after the frames, for verified file streams.
impl<In, Out> FrameStream<In, Out> {
    /// Read some bytes, at most the buffer's length; 0: the end. A minimum speed holds.
    ///
    /// # Errors
    /// Too slow, or the connection ended.
    pub async fn read(&mut self, _buffer: &mut [u8]) -> Result<usize, NetError> {
        Err(NetError::Stopped)
    }

    /// Write all of these bytes.
    ///
    /// # Errors
    /// The connection ended, or the peer takes nothing for too long.
    pub async fn write(&mut self, _bytes: &[u8]) -> Result<(), NetError> {
        Err(NetError::Stopped)
    }
}
