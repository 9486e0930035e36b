//! What answers of all kinds have in common.

use super::asking::Spent;
use ostrakon_node::generate::Generator;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// Tokens of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Usage {
    /// Of the prompts.
    prompt_tokens: u64,
    /// Of the answers, the one that ends an answer included.
    completion_tokens: u64,
    /// Both.
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
}

/// More about the prompts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct PromptDetails {
    /// Tokens that were not computed again.
    cached_tokens: u64,
}

impl From<Spent> for Usage {
    fn from(spent: Spent) -> Self {
        Self {
            prompt_tokens: spent.prompt,
            completion_tokens: spent.generated,
            total_tokens: spent.prompt + spent.generated,
            prompt_tokens_details: PromptDetails { cached_tokens: spent.reused },
        }
    }
}

/// What every answer and every piece of one begins with.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Head {
    /// Of this answer.
    id: String,
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    /// The beginning of the package's digest: equal ones answer alike, to the byte, given the same `seed`.
    system_fingerprint: String,
    /// What the answer was drawn with; ask with it to get it again.
    seed: i64,
}

impl Head {
    pub(super) fn new(prefix: &str, object: &'static str, model: &str, fingerprint: String, seed: i64) -> Self {
        Self {
            id: format!("{prefix}-{}", fresh_id()),
            object,
            created: now(),
            model: model.to_owned(),
            system_fingerprint: fingerprint,
            seed,
        }
    }

    /// The model's name.
    pub(super) fn model(&self) -> &str {
        &self.model
    }
}

/// A number that nothing else has.
pub(super) fn fresh_id() -> String {
    let half = || getrandom::u64().unwrap_or_default();
    format!("{:016x}{:016x}", half(), half())
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A token's text, and its bytes where the text is all there is to them.
pub(super) fn token_text(generator: &Generator, token: u32) -> (String, Option<Vec<u8>>) {
    let text = generator.text_of(&[token]);
    // A part of a character has no text of its own.
    let bytes = (!text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.clone().into_bytes());
    (text, bytes)
}
