//! Trace files: a trace, and the tensors that its operations are about.
//!
//! # How
//!
//! A referee who runs one operation needs its operands. Whoever defends a block therefore gives, beside the
//! signed trace, the block's input and every tensor that went into or came out of an operation. They need no
//! signature: each is wanted by its digest, from whoever has it, and used only if it has that digest.
//!
//! The tensors follow the document, as its [payload](crate::payload).

use crate::digest::Digest;
use crate::encoding::Document;
use crate::payload::{self, PayloadError, WithPayload};
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

impl WithPayload for TraceFile {
    fn parts(&self) -> impl Iterator<Item = u64> {
        self.tensors.iter().map(|tensor| tensor.bytes)
    }
}

impl TraceFile {
    /// The bytes before those of the tensors.
    pub fn head(&self) -> Vec<u8> {
        payload::head(self)
    }

    /// Read the document of a file and find the bytes of its tensors.
    ///
    /// # Errors
    /// A file that is cut off or grown, or a document that is none.
    pub fn read(file: &[u8]) -> Result<(Self, Vec<Range<usize>>), PayloadError> {
        payload::read(file)
    }
}
