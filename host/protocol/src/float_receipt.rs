//! Receipts of the float tier: who gave which numbers for which tensors.
//!
//! Another kind of document than a [receipt](crate::receipt), because it proves less: the numbers differ from machine
//! to machine, so that whoever runs the package again can say only how near they are. There are no steps to check
//! and nothing to dispute.

use crate::digest::{Context, Digest};
use crate::encoding::{Document, content};
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// A tensor by its name.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NamedTensor {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// The number of its element type in wasi-nn's enumeration.
    #[n(1)]
    pub element: u8,
    /// Its shape.
    #[n(2)]
    pub dimensions: Vec<u32>,
    /// Of all of it: see [`Digest::of_tensor`].
    #[n(3)]
    pub digest: Digest,
}

/// What a run of a float package leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FloatReceipt {
    /// The package that ran.
    #[n(0)]
    pub package: Digest,
    /// The determinism profile of the components; it says nothing of the graphs.
    #[n(1)]
    pub profile: Digest,
    /// What ran the graphs.
    #[n(2)]
    pub backend: String,
    /// What went in, in the order of their names.
    #[n(3)]
    pub inputs: Vec<NamedTensor>,
    /// What came out, in the order of the package.
    #[n(4)]
    pub outputs: Vec<NamedTensor>,
    /// What it cost, in units of the profile.
    #[n(5)]
    pub fuel: u64,
}

impl FloatReceipt {
    /// What stands for the receipt, whoever signed it.
    pub fn digest(&self) -> Digest {
        Digest::of(Context::FLOAT_RECEIPT, &content(self))
    }
}

/// A receipt of the float tier with the signature of the node that ran it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedFloatReceipt {
    /// Who ran it and signed.
    #[n(0)]
    pub issuer: PublicKey,
    /// Over the receipt.
    #[n(1)]
    pub signature: Signature,
    /// The receipt.
    #[n(2)]
    pub receipt: FloatReceipt,
    /// The bytes of each output, little-endian and row-major, as far as they fit; the receipt names their digests.
    #[n(3)]
    pub values: Vec<Option<ByteVec>>,
}

impl Document for SignedFloatReceipt {
    const KIND: &'static str = "ostrakon float receipt";
    const VERSION: u32 = 1;
    const LIMIT: usize = 32 << 20;
}

impl SignedFloatReceipt {
    /// Most bytes of values of one document.
    pub const MOST_VALUES: usize = 16 << 20;

    /// Sign a receipt. `values` are the bytes of its outputs: kept in order, as long as they fit.
    pub fn sign(key: &SigningKey, receipt: FloatReceipt, values: Vec<Vec<u8>>) -> Self {
        let signature = key.sign(Purpose::FLOAT_RECEIPT, &receipt.digest());
        let mut room = Self::MOST_VALUES;
        let fitting = |bytes: Vec<u8>| {
            let left = room.checked_sub(bytes.len())?;
            room = left;
            Some(ByteVec::from(bytes))
        };
        let values = values.into_iter().map(fitting).collect();
        Self { issuer: key.public(), signature, receipt, values }
    }

    /// Whether the issuer that it names signed it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.issuer.signed(Purpose::FLOAT_RECEIPT, &self.receipt.digest(), &self.signature)
    }

    /// The bytes of the output at this place, if they are there and are those of the receipt.
    pub fn value(&self, at: usize) -> Option<&[u8]> {
        let bytes = self.values.get(at)?.as_ref()?;
        let NamedTensor { element, dimensions, digest, .. } = self.receipt.outputs.get(at)?;
        (Digest::of_tensor(*element, dimensions, bytes) == *digest).then_some(bytes.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{decode, encode};

    fn signed() -> SignedFloatReceipt {
        let tensor = |name: &str, bytes: &[u8]| NamedTensor {
            name: name.to_owned(),
            element: 4,
            dimensions: vec![bytes.len() as u32],
            digest: Digest::of_tensor(4, &[bytes.len() as u32], bytes),
        };
        let receipt = FloatReceipt {
            package: Digest::of_content(b"p"),
            profile: Digest::of_content(b"q"),
            backend: "openvino".to_owned(),
            inputs: vec![tensor("x", b"in")],
            outputs: vec![tensor("y", b"out"), tensor("z", b"more")],
            fuel: 7,
        };
        SignedFloatReceipt::sign(&SigningKey::from_seed(&[1; 32]), receipt, vec![b"out".to_vec(), b"more".to_vec()])
    }

    #[test]
    fn one_encoding_and_every_change_is_noticed() {
        let signed = signed();
        let bytes = encode(&signed);
        assert_eq!(decode::<SignedFloatReceipt>(&bytes).as_ref(), Ok(&signed));
        assert!(signed.is_signed());
        for cut in 0..bytes.len() {
            assert!(decode::<SignedFloatReceipt>(&bytes[..cut]).is_err());
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            if let Ok(other) = decode::<SignedFloatReceipt>(&changed) {
                let whole =
                    |signed: &SignedFloatReceipt| signed.is_signed() && (0..2).all(|n| signed.value(n).is_some());
                assert!(!whole(&other), "{at}");
            }
        }
        // No kind is taken for another.
        assert!(
            decode::<crate::SignedReceipt>(&bytes).unwrap_err().to_string().contains("but an ostrakon float receipt")
        );
    }

    #[test]
    fn values_that_do_not_fit_are_left_out() {
        let most = SignedFloatReceipt::MOST_VALUES;
        let receipt = signed().receipt;
        let key = SigningKey::from_seed(&[1; 32]);
        let signed = SignedFloatReceipt::sign(&key, receipt, vec![vec![0; most + 1], b"more".to_vec()]);
        assert_eq!((signed.value(0), signed.value(1)), (None, Some(&b"more"[..])));
        assert!(encode(&signed).len() < SignedFloatReceipt::LIMIT);
    }
}
