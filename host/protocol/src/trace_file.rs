//! Trace files: a trace, and the tensors that its operations are about.
//!
//! # How
//!
//! A referee who runs one operation needs its operands. Whoever defends a block therefore gives, beside the
//! signed trace, the block's input and every tensor that went into or came out of an operation. They need no
//! signature: each is wanted by its digest, from whoever has it, and used only if it has that digest.
//!
//! As for transcripts, a small document goes in front and is followed by the bytes it speaks of:
//!
//! ```text
//! length of the document (u64, little-endian) | document | first tensor | second tensor | ...
//! ```

use crate::digest::Digest;
use crate::encoding::{self, DecodeError, Document};
use crate::trace::SignedTrace;
use minicbor::{Decode, Encode};
use std::ops::Range;

/// A tensor whose bytes follow the document.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StoredTensor {
    /// Of the tensor, as the trace names it. It is worth nothing until the bytes have been hashed.
    #[n(0)]
    pub digest: Digest,
    /// Its element type: the number in wasi-nn's enumeration.
    #[n(1)]
    pub element: u8,
    /// Its shape.
    #[n(2)]
    pub dimensions: Vec<u32>,
    /// How many bytes it has.
    #[n(3)]
    pub bytes: u64,
}

/// A trace with the list of the tensors that follow it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TraceFile {
    /// The trace.
    #[n(0)]
    pub signed: SignedTrace,
    /// The tensors, in the order of their bytes.
    #[n(1)]
    pub tensors: Vec<StoredTensor>,
}

impl Document for TraceFile {
    const KIND: &'static str = "ostrakon trace file";
    const VERSION: u32 = 1;
    const LIMIT: usize = 32 << 20;
}

/// A trace's file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceFileError {
    /// The document in front.
    #[error(transparent)]
    Document(#[from] DecodeError),
    /// Too short to hold what it says.
    #[error("the trace is cut off: it has {found} bytes, {needed} are needed")]
    Truncated {
        /// Bytes there.
        found: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// Bytes that nothing speaks of.
    #[error("the trace has {0} bytes too many at its end")]
    TooLong(u64),
}

impl TraceFile {
    /// The bytes before those of the tensors.
    pub fn head(&self) -> Vec<u8> {
        let document = encoding::encode(self);
        [&(document.len() as u64).to_le_bytes()[..], &document].concat()
    }

    /// Read the document of a file and find the bytes of its tensors.
    ///
    /// # Errors
    /// A file that is cut off or grown, or a document that is none.
    pub fn read(file: &[u8]) -> Result<(Self, Vec<Range<usize>>), TraceFileError> {
        let found = file.len() as u64;
        let truncated = |needed: u64| TraceFileError::Truncated { found, needed };
        let (length, rest) = file.split_first_chunk::<8>().ok_or_else(|| truncated(8))?;
        let length = u64::from_le_bytes(*length);
        let document = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let document = document.ok_or_else(|| truncated(length.saturating_add(8)))?;
        let this: Self = encoding::decode(document)?;
        let mut at = length.saturating_add(8);
        let mut ranges = Vec::new();
        for tensor in &this.tensors {
            let end = at.saturating_add(tensor.bytes);
            match (usize::try_from(at), usize::try_from(end)) {
                (Ok(from), Ok(to)) if end <= found => ranges.push(from..to),
                _ => return Err(truncated(end)),
            }
            at = end;
        }
        match found.saturating_sub(at) {
            0 => Ok((this, ranges)),
            more => Err(TraceFileError::TooLong(more)),
        }
    }
}
