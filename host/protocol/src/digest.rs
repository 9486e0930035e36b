//! BLAKE3 digests: what names a file, a package, a tensor, a request.
//!
//! A file's digest is plain BLAKE3, so `b3sum` gives the same one and it can be verified while it
//! streams. Everything else is hashed in a [`Context`] of its own, so that no digest of one kind can be
//! passed off as one of another kind, however its content is chosen.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// What a digest is of. Changing a text here renames everything of that kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context(&'static str);

impl Context {
    /// The bytes of a `package.toml`, which names all other files by their digests.
    pub const PACKAGE: Self = Self("ostrakon 2026 package manifest v1");
    /// A profile whose arithmetic is done by a component: the profile and the component's digest.
    pub const REFERENCE_PROFILE: Self = Self("ostrakon 2026 reference profile v1");
    /// A tensor that crosses the border of a block: see [`Digest::of_tensor`].
    pub const TENSOR: Self = Self("ostrakon 2026 tensor v1");
    /// The output for one text.
    pub(crate) const OUTPUT: Self = Self("ostrakon output v1");
    /// A generated output.
    pub(crate) const TOKENS: Self = Self("ostrakon 2026 generated tokens v1");
    /// The outputs for all texts.
    pub(crate) const OUTPUTS: Self = Self("ostrakon outputs v1");
    /// A request's encoding.
    pub(crate) const REQUEST: Self = Self("ostrakon 2026 request v1");
    /// What a node signs of its part of a run.
    pub(crate) const LEG: Self = Self("ostrakon 2026 receipt leg v1");
    /// A receipt's encoding.
    pub(crate) const RECEIPT: Self = Self("ostrakon 2026 receipt v1");
    /// The encoding of a receipt of the float tier.
    pub(crate) const FLOAT_RECEIPT: Self = Self("ostrakon 2026 float receipt v1");
    /// What a node signs of a block's transcript.
    pub(crate) const TRANSCRIPT: Self = Self("ostrakon 2026 transcript v1");
    /// The products and the input of a block's transcript.
    pub(crate) const PRODUCTS: Self = Self("ostrakon 2026 transcript products v1");
    /// What a node signs of a block's trace.
    pub(crate) const TRACE: Self = Self("ostrakon 2026 trace v1");
    /// The operations of a trace up to one of them.
    pub(crate) const PREFIX: Self = Self("ostrakon 2026 trace prefix v1");
    /// The record of a dispute.
    pub(crate) const DISPUTE: Self = Self("ostrakon 2026 dispute v1");
    /// A commitment in a quorum.
    pub(crate) const COMMITMENT: Self = Self("ostrakon 2026 quorum commitment v1");
    /// A message of a quorum.
    pub(crate) const BALLOT: Self = Self("ostrakon 2026 quorum ballot v1");

    /// What a node says of itself.
    pub(crate) const STATUS: Self = Self("ostrakon 2026 node status v1");
    /// A fleet as one node saw it.
    pub(crate) const SNAPSHOT: Self = Self("ostrakon 2026 fleet snapshot v1");
    /// A plan and what it follows from.
    pub(crate) const PLAN: Self = Self("ostrakon 2026 plan v1");
    /// A job: its id.
    pub(crate) const JOB: Self = Self("ostrakon 2026 job v1");
    /// What a verification node says of a receipt.
    pub(crate) const ATTESTATION: Self = Self("ostrakon 2026 attestation v1");
    /// What a quorum votes on: one leg of one batch of one job.
    pub(crate) const LEG_VOTE: Self = Self("ostrakon 2026 leg vote v1");

    /// A hasher that has taken in nothing yet.
    pub(crate) fn hasher(self) -> blake3::Hasher {
        blake3::Hasher::new_derive_key(self.0)
    }
}

/// 32 bytes that stand for a content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Digest(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl Digest {
    /// The digest of a file's bytes.
    pub fn of_content(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of bytes in a context.
    pub fn of(context: Context, bytes: &[u8]) -> Self {
        Self(blake3::derive_key(context.0, bytes))
    }

    /// The digest of a tensor: code of its element type (u8, its number in wasi-nn's enumeration), rank,
    /// dimensions (each u32), then its bytes, all little-endian.
    pub fn of_tensor(element: u8, dimensions: &[u32], bytes: &[u8]) -> Self {
        let mut hasher = Context::TENSOR.hasher();
        hasher.update(&[element]);
        shape(&mut hasher, dimensions);
        hasher.update(bytes);
        Self::from(hasher)
    }

    /// The digest of the output for one text: rank, dimensions (each u32), then the values (f32), all
    /// little-endian. Never of the text that led to it, of its batch or of the machine that made it: equal
    /// digests mean equal bytes and nothing else.
    pub fn of_output(dimensions: &[u32], values: &[f32]) -> Self {
        let mut hasher = Context::OUTPUT.hasher();
        shape(&mut hasher, dimensions);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        hasher.update(&bytes);
        Self::from(hasher)
    }

    /// The digest of outputs in order: how many (u64, little-endian), then their digests.
    pub fn of_outputs(outputs: &[Self]) -> Self {
        let mut hasher = Context::OUTPUTS.hasher();
        hasher.update(&(outputs.len() as u64).to_le_bytes());
        for output in outputs {
            hasher.update(&output.0);
        }
        Self::from(hasher)
    }

    /// From raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn shape(hasher: &mut blake3::Hasher, dimensions: &[u32]) {
    let rank = u32::try_from(dimensions.len()).unwrap_or(u32::MAX);
    hasher.update(&rank.to_le_bytes());
    for dimension in dimensions {
        hasher.update(&dimension.to_le_bytes());
    }
}

impl From<blake3::Hasher> for Digest {
    fn from(hasher: blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 lower-case hexadecimal digits")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        decode_hex(text).map(Self).ok_or(DigestError)
    }
}

/// `N` bytes from exactly `2 N` lower-case digits: one text for one value.
pub fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_for_one_digest() {
        let digest = Digest::of_content(b"");
        let text = digest.to_string();
        assert_eq!(text, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(text.to_uppercase().parse::<Digest>(), Err(DigestError));
        assert_eq!(text[1..].parse::<Digest>(), Err(DigestError));
        assert_eq!(format!("{text}0").parse::<Digest>(), Err(DigestError));
    }

    #[test]
    fn no_kind_is_taken_for_another() {
        assert_ne!(Digest::of_content(b"x"), Digest::of(Context::PACKAGE, b"x"));
        assert_ne!(Digest::of(Context::REQUEST, b"x"), Digest::of(Context::PACKAGE, b"x"));
    }

    #[test]
    fn shape_type_and_sign_of_zero_count() {
        let row = Digest::of_output(&[2], &[0.0, 1.0]);
        assert_ne!(row, Digest::of_output(&[1, 2], &[0.0, 1.0]));
        assert_ne!(row, Digest::of_output(&[2], &[-0.0, 1.0]));
        assert_eq!(row, Digest::of_output(&[2], &[0.0, 1.0]));
        let tensor = Digest::of_tensor(1, &[1], &[0; 4]);
        assert_ne!(tensor, Digest::of_tensor(5, &[1], &[0; 4]));
        assert_ne!(tensor, Digest::of_tensor(1, &[1, 1], &[0; 4]));
    }

    #[test]
    fn order_and_count_of_outputs_count() {
        let a = Digest::of_output(&[1], &[1.0]);
        let b = Digest::of_output(&[1], &[2.0]);
        assert_ne!(Digest::of_outputs(&[a, b]), Digest::of_outputs(&[b, a]));
        assert_ne!(Digest::of_outputs(&[a]), a);
        assert_ne!(Digest::of_outputs(&[]), Digest::of_outputs(&[a]));
    }

    #[test]
    fn the_digest_of_an_output_does_not_drift() {
        // Golden: a change here changes every published digest.
        let mut h = blake3::Hasher::new_derive_key("ostrakon output v1");
        h.update(&[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
        assert_eq!(Digest::of_output(&[2], &[1.0, -2.5]), Digest::from(h));
    }
}
