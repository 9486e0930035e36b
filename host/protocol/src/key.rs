//! Keys and signatures: who answers for what.
//!
//! An ed25519 signature is always over a [`Purpose`] and a [`Digest`], so that a signature made for one
//! purpose means nothing for another. Verification is strict: no weak keys, no second encoding of a
//! signature. Keys are read and written elsewhere; here is what is done with them.

use crate::digest::{Digest, decode_hex};
use ed25519_dalek::{Signer, VerifyingKey};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Before the digits of a public key.
const KEY_PREFIX: &str = "ed25519:";

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purpose(&'static [u8]);

impl Purpose {
    /// To answer for a package.
    pub const PACKAGE: Self = Self(b"ostrakon package signature v1\0");
    /// To answer for blocks that were run.
    pub(crate) const LEG: Self = Self(b"ostrakon leg signature v1\0");
    /// To answer for a receipt.
    pub(crate) const RECEIPT: Self = Self(b"ostrakon receipt signature v1\0");
    /// To answer for a receipt of the float tier.
    pub(crate) const FLOAT_RECEIPT: Self = Self(b"ostrakon float receipt signature v1\0");
    /// To answer for the transcript of a block.
    pub(crate) const TRANSCRIPT: Self = Self(b"ostrakon transcript signature v1\0");
    /// To answer for the trace of a block.
    pub(crate) const TRACE: Self = Self(b"ostrakon trace signature v1\0");
    /// To answer for a decision as referee.
    pub(crate) const DISPUTE: Self = Self(b"ostrakon dispute signature v1\0");
    /// To take part in a quorum.
    pub(crate) const BALLOT: Self = Self(b"ostrakon ballot signature v1\0");

    /// To answer for what a node says of itself.
    pub(crate) const STATUS: Self = Self(b"ostrakon status signature v1\0");
    /// To answer for a plan.
    pub(crate) const PLAN: Self = Self(b"ostrakon plan signature v1\0");
    /// To ask for something.
    pub(crate) const JOB: Self = Self(b"ostrakon job signature v1\0");
    /// To answer for an audit.
    pub(crate) const ATTESTATION: Self = Self(b"ostrakon attestation signature v1\0");

    fn message(self, digest: &Digest) -> Vec<u8> {
        [self.0, digest.as_bytes()].concat()
    }
}

/// Whom a signature comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct PublicKey(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl PublicKey {
    /// From raw bytes, which need not be a key: no signature verifies under bytes that are none.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether this key signed `digest` for `purpose`. Never for a key that signs anything.
    #[must_use]
    pub fn signed(&self, purpose: Purpose, digest: &Digest, signature: &Signature) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| {
                key.verify_strict(&purpose.message(digest), &ed25519_dalek::Signature::from_bytes(&signature.0))
            })
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_PREFIX}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix(KEY_PREFIX)
            .and_then(decode_hex)
            .map(Self)
            .ok_or_else(|| format!("a public key is `{KEY_PREFIX}` and 64 lower-case hexadecimal digits"))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The secret half. It is never shown and is wiped when dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key with this seed: the same every time.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, for the file that keeps it.
    pub fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The half that others know.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Sign.
    pub fn sign(&self, purpose: Purpose, digest: &Digest) -> Signature {
        Signature(self.0.sign(&purpose.message(digest)).to_bytes())
    }
}

/// The 64 bytes of an ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Signature(#[cbor(n(0), with = "minicbor::bytes")] [u8; 64]);

impl Signature {
    /// The digits, lower case.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        decode_hex(&String::deserialize(deserializer)?)
            .map(Self)
            .ok_or_else(|| de::Error::custom("a signature is 128 lower-case hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_for_one_key_purpose_and_digest() {
        let (key, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let digest = Digest::of_content(b"x");
        let signature = key.sign(Purpose::LEG, &digest);
        assert!(key.public().signed(Purpose::LEG, &digest, &signature));
        assert!(!key.public().signed(Purpose::RECEIPT, &digest, &signature));
        assert!(!other.public().signed(Purpose::LEG, &digest, &signature));
        assert!(!key.public().signed(Purpose::LEG, &Digest::of_content(b"y"), &signature));
        // The identity element verifies anything unless verification is strict.
        let mut weak = [0; 32];
        weak[0] = 1;
        assert!(!PublicKey(weak).signed(Purpose::LEG, &digest, &Signature([0; 64])));
    }
}
