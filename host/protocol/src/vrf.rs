//! Verifiable randomness: ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381) under a node's own key.
//!
//! # Why
//!
//! Who draws lots must not choose how they fall. The output of the function is fixed by the key and the input,
//! nobody can foretell it without the key, and anybody can check it with the proof.
//!
//! # How
//!
//! The key is the node's ed25519 key: a key of its own could be drawn again until the lots please. A signature here
//! is over a purpose and a digest, always more than 32 bytes, and the function hashes 32 bytes: no message is
//! ever common to both, so neither gives anything away of the other.
//!
//! A proof has one encoding: what was decoded is encoded again and must be the bytes that came in.

use crate::key::{PublicKey, SigningKey};
use minicbor::{Decode, Encode};
use vrf_rfc9381::ec::edwards25519::EdVrfProof;
use vrf_rfc9381::ec::edwards25519::tai::{EdVrfEdwards25519TaiPublicKey, EdVrfEdwards25519TaiSecretKey};
use vrf_rfc9381::{Proof as _, Prover as _, Verifier as _};

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 80;

/// That some output belongs to a key and an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Proof(#[cbor(n(0), with = "minicbor::bytes")] [u8; PROOF_BYTES]);

/// What comes out: 64 bytes that look random to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output([u8; 64]);

impl Output {
    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

/// A proof does not hold, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VrfError {
    /// The bytes are no proof, or not the one encoding of it.
    #[error("the proof of randomness is not in the one encoding that is allowed")]
    Encoding,
    /// The key cannot prove anything.
    #[error("this is not a key that randomness can be proved with")]
    Key,
    /// It is a proof of something else.
    #[error("the proof of randomness does not belong to this key and this input")]
    Wrong,
}

impl Proof {
    /// From raw bytes, which need not be a proof.
    pub const fn from_bytes(bytes: [u8; PROOF_BYTES]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; PROOF_BYTES] {
        &self.0
    }

    /// The output for `input` under `key`, with its proof.
    ///
    /// # Errors
    /// The library refuses, which it does for no key made here.
    pub fn prove(key: &SigningKey, input: &[u8]) -> Result<(Self, Output), VrfError> {
        let secret = EdVrfEdwards25519TaiSecretKey::from_slice(key.seed()).map_err(|_| VrfError::Key)?;
        let proof = secret.prove(input).map_err(|_| VrfError::Key)?;
        let bytes = proof.encode_to_pi().try_into().map_err(|_| VrfError::Encoding)?;
        let proof = Self(bytes);
        let output = proof.verify(&key.public(), input)?;
        Ok((proof, output))
    }

    /// The output that belongs to `input` under `key`.
    ///
    /// # Errors
    /// The proof is not one, or of something else.
    pub fn verify(&self, key: &PublicKey, input: &[u8]) -> Result<Output, VrfError> {
        // The library takes a scalar that is too large and reduces it: then the encoding is another one.
        let proof = EdVrfProof::decode_pi(&self.0).map_err(|_| VrfError::Encoding)?;
        if proof.encode_to_pi() != self.0 {
            return Err(VrfError::Encoding);
        }
        let key = EdVrfEdwards25519TaiPublicKey::from_slice(key.as_bytes()).map_err(|_| VrfError::Key)?;
        let output = key.verify(input, proof).map_err(|_| VrfError::Wrong)?;
        Ok(Output(output.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).unwrap();
        bytes
    }

    /// RFC 9381, appendix B.3, examples 16 to 18: secret key, public key, input, proof, output.
    const EXAMPLES: [[&str; 5]; 3] = [
        [
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f26f8a57ccaed74ee1b190bed1f479d9727d2d0f9b005a6e456a35d4fb0daab1268a1b0db10836d9826a528ca76567805",
            "90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff66b71dda49d2de59d03450451af026798e8f81cd2e333de5cdf4f3e140fdd8ae",
        ],
        [
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed5933bf0864a62558b3ed7f2fea45c92a465301b3bbf5e3e54ddf2d935be3b67926da3ef39226bbc355bdc9850112c8f4b02",
            "eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb5e33821bc613efb94db5e5b54c70a848a0bef4553a41befc57663b56373a5031",
        ],
        [
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "9bc0f79119cc5604bf02d23b4caede71393cedfbb191434dd016d30177ccbf8096bb474e53895c362d8628ee9f9ea3c0e52c7a5c691b6c18c9979866568add7a2d41b00b05081ed0f58ee5e31b3a970e",
            "645427e5d00c62a23fb703732fa5d892940935942101e456ecca7bb217c61c452118fec1219202a0edcf038bb6373241578be7217ba85a2687f7a0310b2df19f",
        ],
    ];

    #[test]
    fn as_in_the_standard() {
        for [secret, public, input, proof, output] in EXAMPLES {
            let key = SigningKey::from_seed(&bytes(secret));
            assert_eq!(key.public().as_bytes(), &bytes::<32>(public));
            let input = hex::decode(input).unwrap();
            let (proved, out) = Proof::prove(&key, &input).unwrap();
            assert_eq!(hex::encode(proved.as_bytes()), proof);
            assert_eq!(hex::encode(out.as_bytes()), output);
            assert_eq!(proved.verify(&key.public(), &input), Ok(out));
        }
    }

    #[test]
    fn nothing_else_passes() {
        let key = SigningKey::from_seed(&[7; 32]);
        let (proof, _) = Proof::prove(&key, b"input").unwrap();
        assert_eq!(proof.verify(&key.public(), b"other"), Err(VrfError::Wrong));
        assert!(proof.verify(&SigningKey::from_seed(&[8; 32]).public(), b"input").is_err());
        assert!(proof.verify(&PublicKey::from_bytes([0; 32]), b"input").is_err());
        for bit in 0..PROOF_BYTES * 8 {
            let mut changed = *proof.as_bytes();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Proof::from_bytes(changed).verify(&key.public(), b"input").is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_second_encoding_of_the_scalar_is_refused() {
        // The order of the group, little-endian.
        let order: [u8; 32] = bytes("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let key = SigningKey::from_seed(&[7; 32]);
        let (proof, _) = Proof::prove(&key, b"input").unwrap();
        let mut changed = *proof.as_bytes();
        let mut carry = 0u16;
        for (byte, add) in changed[48..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(add);
            *byte = carry as u8;
            carry >>= 8;
        }
        assert_eq!(carry, 0);
        assert_eq!(Proof::from_bytes(changed).verify(&key.public(), b"input"), Err(VrfError::Encoding));
    }
}
