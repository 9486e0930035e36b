//! Texts to go on with, as clients send them.

use crate::serve::asking::Question;
use crate::serve::error::ApiError;
use crate::serve::limits::{LIKELIHOODS, PROMPTS};
use crate::serve::sampling::{Stop, StreamOptions, Streaming, Wishes, refuse, wishes_of};
use ostrakon_node::NodeError;
use ostrakon_node::generate::{Generator, MAX_TOP};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Texts to go on with.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CompletionRequest {
    /// The model's name.
    pub(crate) model: String,
    /// One text or many, as text or as tokens.
    prompt: Option<Prompts>,
    /// Most tokens of each answer; 16 without it. 0, together with `echo`: only look at the prompt.
    pub(crate) max_tokens: Option<u32>,
    /// 0 takes the likeliest token, 1 (the default) takes tokens as often as the model says.
    #[schema(minimum = 0, maximum = 100)]
    temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// Only the so many likeliest tokens; 0: all.
    top_k: Option<u32>,
    /// Answers that are wanted for each prompt.
    #[schema(minimum = 1, maximum = 16)]
    n: Option<u32>,
    /// Strings that end the answer; they are no part of it.
    stop: Option<Stop>,
    /// What is drawn follows from it; without it, from a fresh one, which is returned.
    seed: Option<i64>,
    /// Send the answer in pieces, as it comes.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Begin each answer with its prompt.
    pub(crate) echo: Option<bool>,
    /// Say how likely tokens were, and so many likeliest ones for each.
    #[schema(maximum = 20)]
    logprobs: Option<usize>,
    /// Taken off the logits of tokens as often as they were generated.
    #[schema(minimum = -100, maximum = 100)]
    frequency_penalty: Option<f32>,
    /// Taken off the logits of tokens that were generated.
    #[schema(minimum = -100, maximum = 100)]
    presence_penalty: Option<f32>,
    /// Makes tokens that were there less likely, if above 1.
    #[schema(exclusive_minimum = 0, maximum = 100)]
    repetition_penalty: Option<f32>,
    /// Added to the logits of tokens, by their ids.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Taken, and without effect.
    #[serde(rename = "user")]
    _user: Option<String>,

    #[schema(ignore)]
    best_of: Option<u32>,
    #[schema(ignore)]
    suffix: Option<Value>,
}

/// One text or many, as text or as tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a text, a list of texts, a list of tokens, or a list of lists of tokens")]
enum Prompts {
    /// A text.
    Text(String),
    /// Tokens of one text.
    Tokens(Vec<u32>),
    /// Texts.
    Texts(Vec<String>),
    /// Tokens of many texts.
    Lists(Vec<Vec<u32>>),
}

/// A prompt as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PromptText {
    Text(String),
    Tokens(Vec<u32>),
}

/// A prompt, as tokens.
pub(super) struct Prompt {
    pub(super) tokens: Vec<u32>,
    /// As it came, if it was text.
    text: Option<String>,
}

impl PromptText {
    pub(super) fn tokens(self, generator: &Generator) -> Result<Prompt, NodeError> {
        Ok(match self {
            Self::Text(text) => Prompt { tokens: generator.tokens_of(&text)?, text: Some(text) },
            Self::Tokens(tokens) => Prompt { tokens, text: None },
        })
    }
}

impl Prompt {
    pub(super) fn text(&self, generator: &Generator) -> String {
        self.text.clone().unwrap_or_else(|| generator.text_of(&self.tokens))
    }
}

impl CompletionRequest {
    /// Refuse what is not done here.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        let suffix = self.suffix.clone().filter(|suffix| suffix != "");
        refuse(&[("suffix", &suffix, "texts are only gone on with")])?;
        if self.best_of.is_some_and(|best| best != self.n.unwrap_or(1)) {
            return Err(ApiError::unsupported("best_of", "all `n` answers are given"));
        }
        Ok(())
    }

    pub(crate) fn wishes(&self) -> Wishes {
        wishes_of!(self)
    }

    pub(crate) fn streaming(&self) -> Result<Streaming, ApiError> {
        Streaming::of(self.stream, self.stream_options.as_ref())
    }

    pub(crate) fn likelihoods(&self) -> Result<Option<usize>, ApiError> {
        match self.logprobs {
            Some(top) if top > MAX_TOP => Err(ApiError::field("logprobs", format!("{top}: at most {MAX_TOP}"))),
            logprobs => Ok(logprobs),
        }
    }

    /// The prompts; they are not in the request any more.
    pub(super) fn prompts(&mut self) -> Result<Vec<PromptText>, ApiError> {
        let all: Vec<PromptText> = match self.prompt.take() {
            None => return Err(ApiError::field("prompt", "missing")),
            Some(Prompts::Text(text)) => vec![PromptText::Text(text)],
            Some(Prompts::Texts(texts)) => texts.into_iter().map(PromptText::Text).collect(),
            Some(Prompts::Tokens(tokens)) => vec![PromptText::Tokens(tokens)],
            Some(Prompts::Lists(lists)) => lists.into_iter().map(PromptText::Tokens).collect(),
        };
        match all.len() {
            1..=PROMPTS => Ok(all),
            count => Err(ApiError::field("prompt", format!("{count} texts: 1 to {PROMPTS}"))),
        }
    }

    /// Refuse what would make an answer that nobody can hold.
    pub(super) fn expect_bounded(&self, question: &Question) -> Result<(), ApiError> {
        if !question.prompt_likelihoods {
            return Ok(());
        }
        let tokens: usize = question.prompts.iter().map(Vec::len).sum();
        let each = (question.likelihoods.unwrap_or(0) + 1).saturating_mul(question.choices as usize);
        match tokens.saturating_mul(each) > LIKELIHOODS {
            false => Ok(()),
            true => Err(ApiError::field(
                "logprobs",
                format!(
                    "{each} likelihoods for each of {tokens} tokens, at most {LIKELIHOODS}: ask for fewer texts at once"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::body::parse;
    use serde_json::json;

    fn with(more: Value) -> Result<CompletionRequest, ApiError> {
        let mut all = json!({"model": "m"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse::<CompletionRequest>(all.to_string().as_bytes())
            .and_then(|request| request.check().and_then(|()| request.streaming()).map(|_| request))
    }

    #[test]
    fn prompts_come_in_four_shapes() {
        let prompts = |value: Value| with(json!({ "prompt": value })).and_then(|mut request| request.prompts());
        let text = |text: &str| PromptText::Text(text.into());
        assert_eq!(prompts(json!("a")), Ok(vec![text("a")]));
        assert_eq!(prompts(json!(["a", "b"])), Ok(vec![text("a"), text("b")]));
        assert_eq!(prompts(json!([1, 2])), Ok(vec![PromptText::Tokens(vec![1, 2])]));
        assert_eq!(
            prompts(json!([[1], [2, 3]])),
            Ok(vec![PromptText::Tokens(vec![1]), PromptText::Tokens(vec![2, 3])])
        );
        for wrong in
            [json!(null), json!(3), json!(["a", 1]), json!([-1]), json!([[1], "a"]), json!({}), json!(vec!["a"; 129])]
        {
            assert_eq!(prompts(wrong).unwrap_err().param(), Some("prompt"));
        }
    }

    #[test]
    fn what_is_not_done_here_is_refused_by_name() {
        for (name, value) in [
            ("suffix", json!("x")),
            ("best_of", json!(3)),
            ("stream_options", json!({})),
            ("messages", json!([])),
            ("logprobs", json!(true)),
        ] {
            assert_eq!(with(json!({ name: value })).unwrap_err().param(), Some(name));
        }
        assert!(with(json!({"suffix": "", "best_of": 1, "user": "u"})).is_ok());
        assert!(with(json!({"n": 2, "best_of": 2})).is_ok());
        assert_eq!(with(json!({"logprobs": 21})).unwrap().likelihoods().unwrap_err().param(), Some("logprobs"));
    }
}
