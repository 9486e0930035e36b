//! The answer to a conversation, whole or in pieces.

use crate::serve::answer::{Head, Usage, token_text};
use crate::serve::asking::{Reason, Scored};
use crate::serve::receipts::More;
use ostrakon_node::generate::Generator;
use serde::Serialize;
use utoipa::ToSchema;

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    #[serde(flatten)]
    pub(super) head: Head,
    pub(super) choices: Vec<ChatChoice>,
    pub(super) usage: Usage,
}

/// One of the answers that were wanted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatChoice {
    index: u32,
    message: AnswerMessage,
    logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ostrakon: Option<More>,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
struct AnswerMessage {
    /// `assistant`.
    role: &'static str,
    content: String,
    /// Always null.
    refusal: Option<String>,
}

impl ChatChoice {
    pub(super) fn new(
        index: u32,
        content: String,
        logprobs: Option<ChatLogprobs>,
        end: Reason,
        ostrakon: Option<More>,
    ) -> Self {
        let message = AnswerMessage { role: "assistant", content, refusal: None };
        Self { index, message, logprobs, finish_reason: end.word(), ostrakon }
    }
}

/// A piece of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChunk<'a> {
    #[serde(flatten)]
    #[schema(inline)]
    pub(super) head: &'a Head,
    pub(super) choices: Vec<ChunkChoice>,
    /// Null until the last piece. Only if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<Usage>>,
}

/// A piece of one of the answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChunkChoice {
    index: u32,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    /// Null until the answer's last piece.
    finish_reason: Option<&'static str>,
    /// In the answer's last piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    ostrakon: Option<More>,
}

/// What is new.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Delta {
    /// `assistant`; in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl Delta {
    pub(super) fn role() -> Self {
        Self { role: Some("assistant"), content: Some(String::new()) }
    }

    pub(super) fn text(text: String) -> Self {
        Self { role: None, content: Some(text) }
    }
}

impl ChunkChoice {
    /// With more of the answer.
    pub(super) const fn new(index: u32, delta: Delta, logprobs: Option<ChatLogprobs>) -> Self {
        Self { index, delta, logprobs, finish_reason: None, ostrakon: None }
    }

    /// The last one.
    pub(super) fn end(index: u32, end: Reason, ostrakon: Option<More>) -> Self {
        Self { index, delta: Delta::default(), logprobs: None, finish_reason: Some(end.word()), ostrakon }
    }
}

/// How likely tokens were.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatLogprobs {
    content: Vec<ScoredToken>,
    /// Always null.
    refusal: Option<Vec<ScoredToken>>,
}

/// A token that was chosen.
#[derive(Debug, Serialize, ToSchema)]
struct ScoredToken {
    #[serde(flatten)]
    token: TokenLogprob,
    /// The likeliest ones at this place.
    top_logprobs: Vec<TokenLogprob>,
}

/// A token and the natural logarithm of its probability.
#[derive(Debug, Serialize, ToSchema)]
struct TokenLogprob {
    token: String,
    logprob: f32,
    /// Null for a part of a character.
    bytes: Option<Vec<u8>>,
}

impl ChatLogprobs {
    pub(super) fn of(generator: &Generator, scored: &[Scored]) -> Self {
        let one = |token: u32, logprob: f32| {
            let (token, bytes) = token_text(generator, token);
            TokenLogprob { token, logprob, bytes }
        };
        let content = scored.iter().map(|scored| ScoredToken {
            token: one(scored.token, scored.likelihood.chosen),
            top_logprobs: scored.likelihood.top.iter().map(|&(token, logprob)| one(token, logprob)).collect(),
        });
        Self { content: content.collect(), refusal: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shape(value: &impl Serialize) -> Value {
        let mut value = serde_json::to_value(value).unwrap();
        for changing in ["id", "created"] {
            value.as_object_mut().unwrap().remove(changing).unwrap();
        }
        value
    }

    fn chunk(head: &Head, choice: ChunkChoice, usage: Option<Option<Usage>>) -> Value {
        shape(&ChatChunk { head, choices: vec![choice], usage })
    }

    #[test]
    fn chunks_are_as_clients_expect_them() {
        let head = Head::new("chatcmpl", "chat.completion.chunk", "m", "fp_1".into(), 7);
        let want = |delta: Value, end: Value| {
            json!({"object": "chat.completion.chunk", "model": "m", "system_fingerprint": "fp_1", "seed": 7,
                   "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": end}]})
        };
        let more = |delta: Delta| ChunkChoice::new(0, delta, None);
        assert_eq!(
            chunk(&head, more(Delta::role()), None),
            want(json!({"role": "assistant", "content": ""}), json!(null))
        );
        assert_eq!(chunk(&head, more(Delta::text("a".into())), None), want(json!({"content": "a"}), json!(null)));
        assert_eq!(chunk(&head, ChunkChoice::end(0, Reason::Stop, None), None), want(json!({}), json!("stop")));
        assert_eq!(chunk(&head, more(Delta::role()), Some(None))["usage"], json!(null));
        assert!(chunk(&head, more(Delta::role()), None).get("usage").is_none());
    }

    #[test]
    fn a_whole_answer_is_as_clients_expect_it() {
        let head = Head::new("chatcmpl", "chat.completion", "m", "fp_1".into(), 7);
        let spent = crate::serve::asking::Spent { prompt: 3, reused: 1, generated: 2 };
        let choices = vec![ChatChoice::new(0, "hi".into(), None, Reason::Length, None)];
        assert_eq!(
            shape(&ChatCompletion { head, choices, usage: spent.into() }),
            json!({"object": "chat.completion", "model": "m", "system_fingerprint": "fp_1", "seed": 7,
                   "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi", "refusal": null},
                                "logprobs": null, "finish_reason": "length"}],
                   "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
                             "prompt_tokens_details": {"cached_tokens": 1}}})
        );
    }
}
