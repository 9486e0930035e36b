//! One value, one encoding.
//!
//! # How
//!
//! Documents are CBOR in its deterministic form (RFC 8949, section 4.2): arrays of definite length,
//! shortest integers, no maps. A document is the array `[kind, version, content]`.
//!
//! A decoder that accepts a little more than an encoder writes would give one value two names. So what
//! was decoded is encoded again and must be the very bytes that came in: whatever the decoder would
//! tolerate is refused all the same.
//!
//! Decoding allocates in proportion to the items that are really there, never to a count that they claim;
//! items are counted first; and the types nest to a fixed depth.

use minicbor::{Decode, Decoder, Encode, Encoder, decode::Tokenizer, encode::Write};
use std::convert::Infallible;

/// Something that is written to files and sent to peers.
pub trait Document: Encode<()> + for<'b> Decode<'b, ()> {
    /// Its kind, as the first element of the encoding.
    const KIND: &'static str;
    /// The version that this crate reads and writes.
    const VERSION: u32;
    /// Most bytes that are read.
    const LIMIT: usize;
}

/// Most items (texts, digests, numbers, arrays of them) of a document: what is decoded takes more memory than
/// its encoding, an empty text 24 bytes for one.
pub const MAX_ITEMS: usize = 1 << 21;

/// Why bytes are not the document they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than such a document may have.
    #[error("the {kind} has {bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// What it should be.
        kind: &'static str,
        /// Its size.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// More items than such a document may have.
    #[error("the {kind} has more than {MAX_ITEMS} items")]
    TooManyItems {
        /// What it should be.
        kind: &'static str,
    },
    /// Another kind of document, or none.
    #[error("this is not an {kind}{}", found.as_ref().map(|f| format!(" but an {f}")).unwrap_or_default())]
    Kind {
        /// What it should be.
        kind: &'static str,
        /// What it says it is.
        found: Option<String>,
    },
    /// A version that this program does not know.
    #[error("the {kind} is of version {found}; this program reads version {known}: use another version of it")]
    Version {
        /// What it is.
        kind: &'static str,
        /// What it says.
        found: u64,
        /// What is known.
        known: u32,
    },
    /// The content does not decode.
    #[error("the {kind} is damaged: {reason}")]
    Malformed {
        /// What it should be.
        kind: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// The same said in other bytes.
    #[error("the {kind} is not in the one encoding that is allowed (from byte {at} on)")]
    NotCanonical {
        /// What it is.
        kind: &'static str,
        /// The first byte that differs.
        at: usize,
    },
}

/// The encoding of a value without the frame of a document: what is hashed.
pub(crate) fn content<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Nothing can go wrong: a vector takes every write and no type here refuses to be encoded.
    let _: Result<(), minicbor::encode::Error<Infallible>> = minicbor::encode(value, &mut bytes);
    bytes
}

/// The encoding of a document.
pub fn encode<T: Document>(document: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = write(document, &mut bytes);
    bytes
}

fn write<T: Document, W: Write>(document: &T, to: W) -> Result<(), minicbor::encode::Error<W::Error>> {
    Encoder::new(to).array(3)?.str(T::KIND)?.u32(T::VERSION)?.encode(document)?.ok()
}

/// Read a document.
///
/// # Errors
/// Bytes that are not the one encoding of such a document.
pub fn decode<T: Document>(bytes: &[u8]) -> Result<T, DecodeError> {
    let kind = T::KIND;
    if bytes.len() > T::LIMIT {
        return Err(DecodeError::TooLarge { kind, bytes: bytes.len(), limit: T::LIMIT });
    }
    let mut decoder = Decoder::new(bytes);
    let found = match decoder.array() {
        Ok(Some(3)) => decoder.str().ok(),
        _ => None,
    };
    if found != Some(kind) {
        // Shown to people, so nothing but what our own kinds are made of.
        let plain = |f: &&str| f.len() < 64 && f.bytes().all(|b| b.is_ascii_lowercase() || b == b' ');
        let found = found.filter(|f| f.starts_with("ostrakon")).filter(plain).map(str::to_owned);
        return Err(DecodeError::Kind { kind, found });
    }
    let malformed = |e: minicbor::decode::Error| DecodeError::Malformed { kind, reason: e.to_string() };
    for (at, token) in Tokenizer::new(bytes).enumerate() {
        token.map_err(malformed)?;
        if at >= MAX_ITEMS {
            return Err(DecodeError::TooManyItems { kind });
        }
    }
    let version = decoder.u64().map_err(malformed)?;
    if version != u64::from(T::VERSION) {
        return Err(DecodeError::Version { kind, found: version, known: T::VERSION });
    }
    let document: T = decoder.decode().map_err(malformed)?;
    let mut same = Same { expected: bytes, at: 0 };
    match write(&document, &mut same) {
        Ok(()) if same.at == bytes.len() => Ok(document),
        _ => Err(DecodeError::NotCanonical { kind, at: same.at }),
    }
}

/// Compares what is written with what was read, so that nothing is written.
struct Same<'a> {
    expected: &'a [u8],
    at: usize,
}

/// The first byte that differs.
struct Differs;

impl Write for Same<'_> {
    type Error = Differs;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Differs> {
        let rest = self.expected.get(self.at..).unwrap_or_default();
        let equal = rest.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        self.at += equal;
        if equal == bytes.len() { Ok(()) } else { Err(Differs) }
    }
}
