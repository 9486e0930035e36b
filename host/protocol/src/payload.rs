//! Documents that bytes follow: a transcript and its products, a trace and its tensors.
//!
//! # Why
//!
//! Products and tensors are large, and whoever reads them wants them in place. So a file is a small document in
//! front, then the bytes that it speaks of.
//!
//! # How
//!
//! ```text
//! length of the document (u64, little-endian) | document | first part | second part | ...
//! ```
//!
//! The document says how long each part is. A file has exactly the bytes that it should have: one that is cut off
//! or has grown is refused. No memory is allocated for what a length claims.

use crate::encoding::{self, DecodeError, Document};
use std::ops::Range;

/// A document that bytes follow.
pub(crate) trait WithPayload: Document {
    /// How many bytes each part has, in order.
    fn parts(&self) -> impl Iterator<Item = u64>;
}

/// The file of a document with its payload cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The document in front.
    #[error(transparent)]
    Document(#[from] DecodeError),
    /// Too short to hold what it says.
    #[error("the {kind} is cut off: it has {found} bytes, {needed} are needed")]
    Truncated {
        /// What it should be.
        kind: &'static str,
        /// Bytes there.
        found: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// Bytes that nothing speaks of.
    #[error("the {kind} has {more} bytes too many at its end")]
    TooLong {
        /// What it is.
        kind: &'static str,
        /// How many.
        more: u64,
    },
}

/// The bytes before the payload.
pub(crate) fn head<T: WithPayload>(document: &T) -> Vec<u8> {
    let document = encoding::encode(document);
    [&(document.len() as u64).to_le_bytes()[..], &document].concat()
}

/// Read the document of a file and find its parts.
pub(crate) fn read<T: WithPayload>(file: &[u8]) -> Result<(T, Vec<Range<usize>>), PayloadError> {
    let (kind, found) = (T::KIND, file.len() as u64);
    let truncated = |needed: u64| PayloadError::Truncated { kind, found, needed };
    let (length, rest) = file.split_first_chunk::<8>().ok_or_else(|| truncated(8))?;
    let length = u64::from_le_bytes(*length);
    if length > T::LIMIT as u64 {
        // Not such a file: perhaps another document, which says so itself.
        let start = file.get(..file.len().min(T::LIMIT)).unwrap_or_default();
        if let Err(other @ DecodeError::Kind { found: Some(_), .. }) = encoding::decode::<T>(start) {
            return Err(other.into());
        }
    }
    let document = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let document: T = encoding::decode(document.ok_or_else(|| truncated(length.saturating_add(8)))?)?;
    let mut at = length.saturating_add(8);
    let mut ranges = Vec::new();
    for bytes in document.parts() {
        let end = at.saturating_add(bytes);
        match (usize::try_from(at), usize::try_from(end)) {
            (Ok(from), Ok(to)) if end <= found => ranges.push(from..to),
            _ => return Err(truncated(end)),
        }
        at = end;
    }
    match found.saturating_sub(at) {
        0 => Ok((document, ranges)),
        more => Err(PayloadError::TooLong { kind, more }),
    }
}
