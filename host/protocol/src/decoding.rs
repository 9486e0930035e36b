//! What a client and the nodes that write a text for it send to each other.
//!
//! # Why
//!
//! A text is generated row by row, and a block needs what it made of the rows before: keys and values, too large to be sent each time.
//! So they stay on the node that runs the block, under a number that the client gives.
//!
//! # How
//!
//! 1. A stream carries [`ToDecoder`] and [`FromDecoder`] frames, as sessions do ([`crate::wire`]). [`ToDecoder::Open`] names the
//!    package, the blocks, and how much the client will want at most; the node counts that before it says [`FromDecoder::Opened`].
//! 2. [`ToDecoder::Run`] brings later rows of some sequences, each a [`Part`]: what the rows go on from, and what they are called
//!    from then on. Going on from fewer rows than there are forgets the later ones; going on from another sequence copies its first
//!    rows. What is called `forget` goes first.
//! 3. Frames are answered in order. A client may send several before the first answer; a node reads the next one only when the
//!    last one is answered.

use crate::digest::Digest;
use crate::encoding::Document;
use crate::wire::{Refusal, TensorHeader};
use minicbor::{Decode, Encode};

/// Most sequences of a stream.
pub const MAX_SEQUENCES: u32 = 4096;
/// Most bytes of a header: that of a call of as many sequences.
pub const MAX_DECODING_HEADER: usize = 192 << 10;

/// Later rows of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    /// What the sequence is called from now on. Whatever was called so is replaced.
    #[n(0)]
    pub sequence: u32,
    /// The sequence whose first rows these go on from: itself, or one that begins alike. Without rows before it is not looked at.
    #[n(1)]
    pub of: u32,
    /// How many rows are before these.
    #[n(2)]
    pub before: u32,
    /// How many rows these are.
    #[n(3)]
    pub rows: u32,
    /// Of how many of the last of them the package's last block is wanted.
    #[n(4)]
    pub wanted: u32,
}

/// Frames to a node that decodes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToDecoder {
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
        /// Of these, most that the package's last block is wanted of.
        #[n(4)]
        wanted: u32,
        /// Most sequences that are kept.
        #[n(5)]
        sequences: u32,
        /// Most rows of all of them.
        #[n(6)]
        kept: u32,
    },
    /// Run the blocks. The rows of all parts follow, one part after the other.
    #[n(1)]
    Run {
        /// Larger than that of any call before on the stream.
        #[n(0)]
        call: u32,
        /// Sequences that are not wanted any more.
        #[n(1)]
        forget: Vec<u32>,
        /// Whose rows.
        #[n(2)]
        parts: Vec<Part>,
        /// Whether what comes of the last block is wanted, or only what the rows leave.
        #[n(3)]
        answered: bool,
        /// The rows.
        #[n(4)]
        tensor: TensorHeader,
    },
    /// Nothing more is wanted.
    #[n(2)]
    Close,
}

/// Frames from a node that decodes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromDecoder {
    /// The stream is taken.
    #[n(0)]
    Opened,
    /// The call is done.
    #[n(1)]
    Output {
        /// Which call.
        #[n(0)]
        call: u32,
        /// What follows, if it was wanted.
        #[n(1)]
        tensor: Option<TensorHeader>,
        /// Microseconds of computing.
        #[n(2)]
        took: u64,
    },
    /// It could not be done; the stream is over, and nothing is kept.
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

impl Document for ToDecoder {
    const KIND: &'static str = "ostrakon frame to a decoder";
    const VERSION: u32 = 1;
    const LIMIT: usize = MAX_DECODING_HEADER;
}

impl Document for FromDecoder {
    const KIND: &'static str = "ostrakon frame from a decoder";
    const VERSION: u32 = 1;
    const LIMIT: usize = 4096;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    #[test]
    fn frames_come_back() {
        let package = Digest::from_bytes([3; 32]);
        let tensor = TensorHeader { element: 1, dimensions: vec![3, 576], bytes: 6912 };
        let part = Part { sequence: 7, of: 3, before: 40, rows: 3, wanted: 1 };
        let run = |forget, parts| ToDecoder::Run { call: 9, forget, parts, answered: true, tensor: tensor.clone() };
        for frame in [
            ToDecoder::Open { package, from: 1, to: 11, rows: 544, wanted: 64, sequences: 320, kept: 16_384 },
            run(vec![1, 2], vec![part]),
            run(vec![], vec![]),
            ToDecoder::Close,
        ] {
            assert_eq!(decode(&encode(&frame)), Ok(frame));
        }
        for frame in [
            FromDecoder::Opened,
            FromDecoder::Output { call: 9, tensor: Some(tensor), took: 12 },
            FromDecoder::Output { call: 10, tensor: None, took: 0 },
            FromDecoder::Failed { call: 1, why: Refusal::NotHere, reason: "no".into() },
        ] {
            assert_eq!(decode(&encode(&frame)), Ok(frame));
        }
    }

    #[test]
    fn a_call_of_all_sequences_fits() {
        let part = |sequence| Part { sequence, of: sequence, before: u32::MAX, rows: u32::MAX, wanted: u32::MAX };
        let parts = (0..MAX_SEQUENCES).map(|i| part(u32::MAX - i)).collect();
        let forget = (0..MAX_SEQUENCES).map(|i| u32::MAX - i).collect();
        let tensor = TensorHeader { element: 1, dimensions: vec![u32::MAX; 8], bytes: u64::MAX };
        let frame = ToDecoder::Run { call: u32::MAX, forget, parts, answered: true, tensor };
        assert!(encode(&frame).len() <= MAX_DECODING_HEADER, "{}", encode(&frame).len());
    }
}
