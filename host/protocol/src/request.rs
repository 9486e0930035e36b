//! Requests: what was asked.

use crate::digest::{Context, Digest};
use crate::encoding::content;
use minicbor::{Decode, Encode};

/// Texts for the model of a package.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    /// The package.
    #[n(0)]
    pub package: Digest,
    /// The texts, in order.
    #[n(1)]
    pub texts: Vec<String>,
}

impl Request {
    /// What stands for it on a receipt.
    pub fn digest(&self) -> Digest {
        Digest::of(Context::REQUEST, &content(self))
    }
}
