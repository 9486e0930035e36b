//! Digests of outputs: what two machines compare when they compare answers.
//!
//! An output is hashed from its shape and its bytes alone: never from the text that led to it, the
//! batch it was in or the machine that made it. So equal digests mean equal bytes and nothing else.

use std::fmt;

/// Separates output digests from every other use of BLAKE3 here.
const OUTPUT_CONTEXT: &str = "ostrakon output v1";
/// Separates the digest of a list of outputs from the digest of one.
const OUTPUTS_CONTEXT: &str = "ostrakon outputs v1";

/// 32 bytes of BLAKE3, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OutputDigest([u8; 32]);

impl OutputDigest {
    /// The digest of one output: rank, dimensions (both u32), then the values (f32), all little-endian.
    pub fn of_output(dimensions: &[u32], values: &[f32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(OUTPUT_CONTEXT);
        let rank = u32::try_from(dimensions.len()).unwrap_or(u32::MAX);
        hasher.update(&rank.to_le_bytes());
        for dimension in dimensions {
            hasher.update(&dimension.to_le_bytes());
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        hasher.update(&bytes);
        Self(*hasher.finalize().as_bytes())
    }

    /// The digest of outputs in order: how many (u64, little-endian), then their digests.
    pub fn of_outputs(outputs: &[Self]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(OUTPUTS_CONTEXT);
        hasher.update(&(outputs.len() as u64).to_le_bytes());
        for output in outputs {
            hasher.update(&output.0);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for OutputDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for OutputDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_and_sign_of_zero_count() {
        let row = OutputDigest::of_output(&[2], &[0.0, 1.0]);
        assert_ne!(row, OutputDigest::of_output(&[1, 2], &[0.0, 1.0]));
        assert_ne!(row, OutputDigest::of_output(&[2], &[-0.0, 1.0]));
        assert_eq!(row, OutputDigest::of_output(&[2], &[0.0, 1.0]));
    }

    #[test]
    fn order_and_count_of_outputs_count() {
        let a = OutputDigest::of_output(&[1], &[1.0]);
        let b = OutputDigest::of_output(&[1], &[2.0]);
        assert_ne!(OutputDigest::of_outputs(&[a, b]), OutputDigest::of_outputs(&[b, a]));
        assert_ne!(OutputDigest::of_outputs(&[a]), a);
        assert_ne!(OutputDigest::of_outputs(&[]), OutputDigest::of_outputs(&[a]));
    }

    #[test]
    fn the_encoding_does_not_drift() {
        // Golden: a change here changes every published digest.
        assert_eq!(OutputDigest::of_output(&[2], &[1.0, -2.5]).to_string(), {
            let mut h = blake3::Hasher::new_derive_key("ostrakon output v1");
            h.update(&[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
            h.finalize().to_hex().to_string()
        });
    }
}
