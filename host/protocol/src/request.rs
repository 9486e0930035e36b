//! Requests: what was asked.
//!
//! Texts to be run, or an answer that was generated, to be followed again (see [`generated`](crate::generated)).

use crate::digest::{Context, Digest};
use crate::encoding::content;
use crate::generated::Generated;
use minicbor::{Decode, Encode};

/// Texts for the model of a package, or an answer of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    /// The package.
    #[n(0)]
    pub package: Digest,
    /// The texts, in order. Of an answer: none, or those of its prompt and of itself, for people.
    #[n(1)]
    pub texts: Vec<String>,
    /// The answer. `None`: the texts are run.
    #[n(2)]
    pub generation: Option<Generated>,
}

impl Request {
    /// For texts.
    pub const fn of_texts(package: Digest, texts: Vec<String>) -> Self {
        Self { package, texts, generation: None }
    }

    /// How many outputs there are to it: one for each text, or the answer.
    pub fn outputs(&self) -> usize {
        if self.generation.is_some() { 1 } else { self.texts.len() }
    }

    /// What stands for it on a receipt.
    pub fn digest(&self) -> Digest {
        Digest::of(Context::REQUEST, &content(self))
    }
}
