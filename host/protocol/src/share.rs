//! What a client and the servers of a private run send to each other.
//!
//! # Why
//!
//! A client that shows nobody its text has linear layers multiplied on random-looking *shares* of its codes, elements of a
//! prime field. What one server sees says nothing.
//!
//! # How
//!
//! 1. A stream carries [`ToServer`] and [`FromServer`] frames, as sessions do ([`crate::wire`]): a header, and after it
//!    as many bytes as the header says: rows of elements of three or four bytes, as the layer's field needs, all lowest bytes of a
//!    row, then all second ones, and so on. Which field that is follows from the weights.
//! 2. [`ToServer::Open`] names the package, the blocks and the most rows of a call. Then [`ToServer::Multiply`] brings a share;
//!    [`ToServer::Masked`] brings a seed, from which the server makes its share itself.
//! 3. Frames are answered in order. A client may send several before the first answer; a server reads the next one only when
//!    the last one is answered, so a client that sends large shares ahead must read at the same time.

use crate::digest::Digest;
use crate::encoding::Document;
use crate::wire::{MAX_TENSOR_BYTES, Refusal};
use minicbor::{Decode, Encode};
use std::fmt;

/// Most bytes of a header: names are short.
pub const MAX_SHARE_HEADER: usize = 4096;
/// Most characters of a layer's name.
pub const MAX_LAYER_NAME: usize = 128;

/// Frames to a server.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToServer {
    /// First: what the stream is for.
    #[n(0)]
    Open {
        /// The package.
        #[n(0)]
        package: Digest,
        /// The first block.
        #[n(1)]
        from: u32,
        /// One after the last.
        #[n(2)]
        to: u32,
        /// Most rows of a call.
        #[n(3)]
        rows: u32,
    },
    /// Multiply this share. Its elements follow, row after row.
    #[n(1)]
    Multiply {
        /// Larger than that of any call before on the stream.
        #[n(0)]
        call: u32,
        /// The layer: `<block>.<layer>`.
        #[n(1)]
        layer: String,
        /// Rows of the share.
        #[n(2)]
        rows: u32,
        /// Bytes that follow.
        #[n(3)]
        bytes: u64,
    },
    /// Multiply the share that a seed makes.
    #[n(2)]
    Masked {
        /// Larger than that of any call before on the stream.
        #[n(0)]
        call: u32,
        /// The layer: `<block>.<layer>`.
        #[n(1)]
        layer: String,
        /// Which of the seed's streams.
        #[n(2)]
        stream: u32,
        /// The seed.
        #[cbor(n(3), with = "minicbor::bytes")]
        seed: [u8; 32],
        /// The first row of the stream.
        #[n(4)]
        first: u64,
        /// Rows of the share.
        #[n(5)]
        rows: u32,
    },
    /// Nothing more is wanted.
    #[n(3)]
    Close,
}

/// Frames from a server.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromServer {
    /// The stream is taken.
    #[n(0)]
    Opened,
    /// The product; its elements follow, row after row, and in a row the parts of the layer one after the other.
    #[n(1)]
    Product {
        /// Which call.
        #[n(0)]
        call: u32,
        /// Bytes that follow.
        #[n(1)]
        bytes: u64,
        /// Microseconds of computing.
        #[n(2)]
        took: u64,
    },
    /// It could not be done; the stream is over.
    #[n(2)]
    Failed {
        /// Which call.
        #[n(0)]
        call: u32,
        /// What kind of refusal.
        #[n(1)]
        why: Refusal,
        /// In words.
        #[n(2)]
        reason: String,
    },
}

impl Document for ToServer {
    const KIND: &'static str = "ostrakon frame to a server";
    const VERSION: u32 = 1;
    const LIMIT: usize = MAX_SHARE_HEADER;
}

impl Document for FromServer {
    const KIND: &'static str = "ostrakon frame from a server";
    const VERSION: u32 = 1;
    const LIMIT: usize = MAX_SHARE_HEADER;
}

/// A seed is a secret: it is not shown.
impl fmt::Debug for ToServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { package, from, to, rows } => {
                write!(f, "Open {{ {package}, blocks {from} to {to}, {rows} rows }}")
            }
            Self::Multiply { call, layer, rows, bytes } => {
                write!(f, "Multiply {{ call {call}, layer {layer:?}, {rows} rows, {bytes} bytes }}")
            }
            Self::Masked { call, layer, stream, first, rows, .. } => {
                write!(f, "Masked {{ call {call}, layer {layer:?}, stream {stream}, {rows} rows from {first} on }}")
            }
            Self::Close => f.write_str("Close"),
        }
    }
}

impl ToServer {
    /// Bytes of elements that follow the header.
    pub const fn follows(&self) -> u64 {
        match self {
            Self::Multiply { bytes, .. } => *bytes,
            _ => 0,
        }
    }
}

impl FromServer {
    /// Bytes of elements that follow the header.
    pub const fn follows(&self) -> u64 {
        match self {
            Self::Product { bytes, .. } => *bytes,
            _ => 0,
        }
    }
}

/// Bytes of so many rows of so many elements of `each` bytes, if a frame may carry them.
pub fn element_bytes(rows: u32, columns: usize, each: usize) -> Option<u64> {
    let elements = u64::from(rows).checked_mul(u64::try_from(columns).ok()?)?;
    elements.checked_mul(u64::try_from(each).ok()?).filter(|bytes| *bytes <= MAX_TENSOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    #[test]
    fn frames_come_back_and_hide_their_seed() {
        let package = Digest::from_bytes([3; 32]);
        let layer = || "a".repeat(MAX_LAYER_NAME);
        let masked = ToServer::Masked { call: 2, layer: layer(), stream: 3, seed: [0xab; 32], first: 4, rows: 5 };
        for frame in [
            ToServer::Open { package, from: 0, to: 6, rows: 128 },
            ToServer::Multiply { call: 1, layer: layer(), rows: 2, bytes: 8 },
            masked.clone(),
            ToServer::Close,
        ] {
            assert_eq!(decode(&encode(&frame)), Ok(frame.clone()));
            assert_eq!(frame.follows(), if matches!(frame, ToServer::Multiply { .. }) { 8 } else { 0 });
        }
        let shown = format!("{masked:?}");
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("abab"), "{shown}");
        // A seed is a byte string.
        assert!(encode(&masked).windows(34).any(|bytes| bytes[..2] == [0x58, 32] && bytes[2..] == [0xab; 32]));
        for frame in [
            FromServer::Opened,
            FromServer::Product { call: 1, bytes: 12, took: 9 },
            FromServer::Failed { call: 1, why: Refusal::Bad, reason: "no".into() },
        ] {
            assert_eq!(decode(&encode(&frame)), Ok(frame.clone()));
        }
    }

    #[test]
    fn what_no_frame_carries_is_no_number_of_bytes() {
        assert_eq!(element_bytes(3, 5, 4), Some(60));
        assert_eq!(element_bytes(1, MAX_TENSOR_BYTES as usize / 4, 4), Some(MAX_TENSOR_BYTES));
        assert_eq!(element_bytes(1, MAX_TENSOR_BYTES as usize / 4 + 1, 4), None);
        assert_eq!(element_bytes(3, 5, 3), Some(45));
        let most = MAX_TENSOR_BYTES as usize / 3;
        assert_eq!(element_bytes(1, most, 3), Some(3 * most as u64));
        assert_eq!(element_bytes(1, most + 1, 3), None);
        assert_eq!(element_bytes(u32::MAX, usize::MAX, 3), None);
    }
}
