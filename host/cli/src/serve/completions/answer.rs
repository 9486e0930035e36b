//! Texts that were gone on with, whole or in pieces.

use super::request::Prompt;
use crate::serve::answer::{Head, Usage};
use crate::serve::asking::{Reason, Scored};
use crate::serve::receipts::More;
use ostrakon_node::generate::{Generator, Likelihood};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An answer, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion<'a> {
    #[serde(flatten)]
    pub(super) head: &'a Head,
    pub(super) choices: Vec<CompletionChoice>,
    /// Null until the last piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<Usage>>,
}

/// One of the answers that were wanted, or a piece of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CompletionChoice {
    /// Answers to the first prompt come first.
    index: usize,
    text: String,
    logprobs: Option<LegacyLogprobs>,
    /// `stop` or `length`; null until the last piece.
    finish_reason: Option<&'static str>,
    /// In the last piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    ostrakon: Option<More>,
}

impl CompletionChoice {
    /// With more of the answer.
    pub(super) const fn new(index: usize, text: String, logprobs: Option<LegacyLogprobs>) -> Self {
        Self { index, text, logprobs, finish_reason: None, ostrakon: None }
    }

    /// The last one, or the whole.
    pub(super) fn ended(self, end: Reason, ostrakon: Option<More>) -> Self {
        Self { finish_reason: Some(end.word()), ostrakon, ..self }
    }
}

/// How likely tokens were: lists with one entry a token.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub(super) struct LegacyLogprobs {
    tokens: Vec<String>,
    /// Natural logarithms of probabilities; null for the first token of a prompt.
    token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens, and the one that was chosen; null for the first token of a prompt.
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token begins in the text, in characters.
    text_offset: Vec<usize>,
}

/// Collects them.
pub(super) struct Logprobs<'a> {
    generator: &'a Generator,
    all: LegacyLogprobs,
    offset: usize,
}

impl<'a> Logprobs<'a> {
    pub(super) fn new(generator: &'a Generator) -> Self {
        Self { generator, all: LegacyLogprobs::default(), offset: 0 }
    }

    /// Those of a prompt that is echoed.
    pub(super) fn prompt(&mut self, prompt: Option<&Prompt>, likelihoods: &[Option<Likelihood>]) {
        let tokens = prompt.map_or(&[][..], |prompt| &prompt.tokens);
        for (&token, likelihood) in tokens.iter().zip(likelihoods) {
            self.one(token, likelihood.as_ref());
        }
    }

    /// Those of an answer.
    pub(super) fn answer(&mut self, scored: &[Scored]) {
        for Scored { token, likelihood } in scored {
            self.one(*token, Some(likelihood));
        }
    }

    /// Those since the last time.
    pub(super) fn take(&mut self) -> LegacyLogprobs {
        std::mem::take(&mut self.all)
    }

    fn one(&mut self, token: u32, likelihood: Option<&Likelihood>) {
        let text = self.generator.text_of(&[token]);
        let top = likelihood.map(|likelihood| {
            let all = likelihood.top.iter().map(|&(token, logprob)| (self.generator.text_of(&[token]), logprob));
            top(all.chain([(text.clone(), likelihood.chosen)]))
        });
        self.all.text_offset.push(self.offset);
        self.offset += text.chars().count();
        self.all.tokens.push(text);
        self.all.token_logprobs.push(likelihood.map(|likelihood| likelihood.chosen));
        self.all.top_logprobs.push(top);
    }
}

/// By text. Of tokens with the same text, the likeliest counts.
fn top(all: impl Iterator<Item = (String, f32)>) -> BTreeMap<String, f32> {
    let mut map = BTreeMap::new();
    for (text, logprob) in all {
        map.entry(text).or_insert(logprob);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_likeliest_of_equal_texts_counts() {
        let all = [(" a", -0.5), ("\u{fffd}", -1.0), ("\u{fffd}", -2.0), (" a", -0.5)];
        let map = top(all.into_iter().map(|(text, logprob)| (text.to_owned(), logprob)));
        assert_eq!(json!(map), json!({" a": -0.5, "\u{fffd}": -1.0}));
    }

    #[test]
    fn pieces_and_wholes_have_one_shape() {
        let head = Head::new("cmpl", "text_completion", "m", "fp_1".into(), 7);
        let choices = vec![CompletionChoice::new(0, "a".into(), None)];
        let mut value = serde_json::to_value(Completion { head: &head, choices, usage: None }).unwrap();
        for changing in ["id", "created"] {
            value.as_object_mut().unwrap().remove(changing).unwrap();
        }
        assert_eq!(
            value,
            json!({"object": "text_completion", "model": "m", "system_fingerprint": "fp_1", "seed": 7,
                   "choices": [{"index": 0, "text": "a", "logprobs": null, "finish_reason": null}]})
        );
    }
}
