//! What a package of a model that writes text says beside its weights: `[generation]` in the manifest.
//!
//! Its presence is what makes a package one that generates. The chat template is a file of the
//! package, kept as its author wrote it; this crate reads it as text and nothing more.

use serde::{Deserialize, Serialize};

use crate::manifest::{FileEntry, Manifest};

/// Longest chat template, in bytes.
pub const MAX_TEMPLATE: u64 = 1 << 20;
/// Largest vocabulary.
pub const MAX_VOCABULARY: u32 = 1 << 24;
/// Most tokens that end an answer, and most that are put before a text.
pub const MAX_SPECIAL: usize = 64;

/// How a model that writes text is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Number of tokens: the outputs of the last block.
    pub vocabulary: u32,
    /// Tokens that end an answer, at least one.
    pub stop: Vec<u32>,
    /// Tokens put before every text; often none.
    pub begin: Vec<u32>,
    /// The chat template (Jinja), if the model has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<FileEntry>,
}

impl Manifest {
    /// Every token that is named exists, and the numbers are sane.
    pub(crate) fn check_generation(&self) -> Result<(), String> {
        let Some(generation) = &self.generation else { return Ok(()) };
        let vocabulary = generation.vocabulary;
        if !(1..=MAX_VOCABULARY).contains(&vocabulary) {
            return Err(format!("the vocabulary is {vocabulary}, it must be 1 to {MAX_VOCABULARY}"));
        }
        for (what, tokens) in [("stop", &generation.stop), ("begin", &generation.begin)] {
            if tokens.len() > MAX_SPECIAL {
                return Err(format!("`{what}` has {} tokens, at most {MAX_SPECIAL} are allowed", tokens.len()));
            }
            if let Some(token) = tokens.iter().find(|&&token| token >= vocabulary) {
                return Err(format!("`{what}` has the token {token}, but the vocabulary is {vocabulary}"));
            }
        }
        if generation.stop.is_empty() {
            return Err("`stop` is empty: an answer would never end".to_owned());
        }
        match self.max_tokens {
            // A text needs room after what is put before it.
            Some(most) if generation.begin.len() < most as usize => Ok(()),
            Some(most) => Err(format!("`begin` has {} tokens, `max_tokens` is {most}", generation.begin.len())),
            None => Err("a package that generates has `max_tokens`".to_owned()),
        }
    }
}
