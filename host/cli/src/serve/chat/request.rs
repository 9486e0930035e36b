//! A conversation, as clients send it.

use crate::serve::error::ApiError;
use crate::serve::limits::MESSAGES;
use crate::serve::sampling::{Stop, StreamOptions, Streaming, Wishes, refuse, wishes_of};
use ostrakon_node::generate::{MAX_TOP, Message};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A conversation to go on with.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatRequest {
    /// The model's name.
    pub(crate) model: String,
    /// What was said so far.
    #[schema(min_items = 1, max_items = 4096)]
    messages: Vec<ChatMessage>,
    /// Most tokens of the answer; without it, as many as fit.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    /// The same, as it was called before.
    #[schema(minimum = 1)]
    max_tokens: Option<u32>,
    /// 0 takes the likeliest token, 1 (the default) takes tokens as often as the model says.
    #[schema(minimum = 0, maximum = 100)]
    temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// Only the so many likeliest tokens; 0: all.
    top_k: Option<u32>,
    /// Answers that are wanted.
    #[schema(minimum = 1, maximum = 16)]
    n: Option<u32>,
    /// Strings that end the answer; they are no part of it.
    stop: Option<Stop>,
    /// What is drawn follows from it; without it, from a fresh one, which is returned.
    seed: Option<i64>,
    /// Send the answer in pieces, as it comes.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
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
    /// Say how likely the answer's tokens were.
    logprobs: Option<bool>,
    /// And so many likeliest ones for each.
    #[schema(maximum = 20)]
    top_logprobs: Option<usize>,

    /// Taken, and without effect.
    #[serde(rename = "user")]
    _user: Option<String>,
    /// Taken, and without effect.
    #[serde(rename = "metadata")]
    _metadata: Option<Map<String, Value>>,
    /// Taken, and without effect: nothing is stored.
    #[serde(rename = "store")]
    _store: Option<bool>,
    /// Taken, and without effect.
    #[serde(rename = "service_tier")]
    _service_tier: Option<String>,
    /// Taken, and without effect.
    #[serde(rename = "safety_identifier")]
    _safety_identifier: Option<String>,
    /// Taken, and without effect.
    #[serde(rename = "prompt_cache_key")]
    _prompt_cache_key: Option<String>,
    /// Taken, and without effect: there are no tools.
    #[serde(rename = "parallel_tool_calls")]
    _parallel_tool_calls: Option<bool>,

    #[schema(ignore)]
    tools: Option<Value>,
    #[schema(ignore)]
    tool_choice: Option<Value>,
    #[schema(ignore)]
    functions: Option<Value>,
    #[schema(ignore)]
    function_call: Option<Value>,
    #[schema(ignore)]
    response_format: Option<Value>,
    #[schema(ignore)]
    modalities: Option<Value>,
    #[schema(ignore)]
    audio: Option<Value>,
    #[schema(ignore)]
    prediction: Option<Value>,
    #[schema(ignore)]
    reasoning_effort: Option<Value>,
    #[schema(ignore)]
    verbosity: Option<Value>,
    #[schema(ignore)]
    web_search_options: Option<Value>,
}

/// What somebody said.
#[derive(Debug, Deserialize, ToSchema)]
struct ChatMessage {
    role: Role,
    /// The text.
    content: Option<Content>,
    /// Taken, and without effect.
    #[serde(rename = "name")]
    _name: Option<String>,
    /// As it came with an answer: without effect.
    #[schema(ignore)]
    #[serde(rename = "refusal")]
    _refusal: Option<Value>,
    #[schema(ignore)]
    #[serde(rename = "annotations")]
    _annotations: Option<Value>,
    #[schema(ignore)]
    tool_calls: Option<Value>,
    #[schema(ignore)]
    function_call: Option<Value>,
    #[schema(ignore)]
    audio: Option<Value>,
}

/// Who.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    /// Says how to answer.
    System,
    /// The same, as it is called now.
    Developer,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A text, or parts of one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a text, or a list of parts of type `text`")]
enum Content {
    /// As a whole.
    Text(String),
    /// In parts.
    Parts(Vec<ContentPart>),
}

/// A part of a text.
#[derive(Debug, Deserialize, ToSchema)]
struct ContentPart {
    /// `text`.
    #[serde(rename = "type")]
    kind: PartKind,
    text: String,
}

/// What a part is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PartKind {
    /// A text.
    Text,
}

impl ChatRequest {
    /// Refuse what is not done here.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        let is = |field: &Option<Value>, harmless: &[Value]| field.as_ref().is_some_and(|v| harmless.contains(v));
        let text = serde_json::json!({ "type": "text" });
        let plain = |field: &Option<Value>, harmless: &[Value]| match is(field, harmless) {
            true => None,
            false => field.clone(),
        };
        let nothing = ["none".into(), "auto".into()];
        refuse(&[
            ("tools", &self.tools, "the model calls no tools"),
            ("tool_choice", &plain(&self.tool_choice, &nothing), "the model calls no tools"),
            ("functions", &self.functions, "the model calls no functions"),
            ("function_call", &plain(&self.function_call, &nothing), "the model calls no functions"),
            ("response_format", &plain(&self.response_format, &[text]), "answers are plain text"),
            ("modalities", &plain(&self.modalities, &[serde_json::json!(["text"])]), "answers are plain text"),
            ("audio", &self.audio, "answers are plain text"),
            ("prediction", &self.prediction, "leave it out"),
            ("reasoning_effort", &plain(&self.reasoning_effort, &["none".into()]), "the model does not reason apart"),
            ("verbosity", &plain(&self.verbosity, &["medium".into()]), "ask for short answers in the messages"),
            ("web_search_options", &self.web_search_options, "nothing is searched"),
        ])
    }

    pub(crate) fn wishes(&self) -> Wishes {
        wishes_of!(self)
    }

    pub(crate) fn streaming(&self) -> Result<Streaming, ApiError> {
        Streaming::of(self.stream, self.stream_options.as_ref())
    }

    pub(crate) fn max_tokens(&self) -> Result<Option<u32>, ApiError> {
        let (name, most) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(new), Some(old)) if new != old => {
                return Err(ApiError::field("max_tokens", "not what `max_completion_tokens` says: give one of them"));
            }
            (Some(most), _) => ("max_completion_tokens", most),
            (None, Some(most)) => ("max_tokens", most),
            (None, None) => return Ok(None),
        };
        if most == 0 {
            return Err(ApiError::field(name, "0: at least 1"));
        }
        Ok(Some(most))
    }

    pub(crate) fn likelihoods(&self) -> Result<Option<usize>, ApiError> {
        match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (_, Some(top)) if top > MAX_TOP => {
                Err(ApiError::field("top_logprobs", format!("{top}: at most {MAX_TOP}")))
            }
            (false, Some(top)) if top > 0 => Err(ApiError::field("top_logprobs", "only together with `logprobs`")),
            (false, _) => Ok(None),
            (true, top) => Ok(Some(top.unwrap_or(0))),
        }
    }

    /// What was said, for the chat template.
    pub(crate) fn conversation(&self) -> Result<Vec<Message>, ApiError> {
        if self.messages.is_empty() || self.messages.len() > MESSAGES {
            return Err(ApiError::field("messages", format!("{}: 1 to {MESSAGES}", self.messages.len())));
        }
        self.messages.iter().enumerate().map(|(at, message)| message.said(at)).collect()
    }
}

impl ChatMessage {
    fn said(&self, at: usize) -> Result<Message, ApiError> {
        refuse(&[
            ("tool_calls", &self.tool_calls, "the model calls no tools"),
            ("function_call", &self.function_call, "the model calls no functions"),
            ("audio", &self.audio, "messages are plain text"),
        ])
        .map_err(|error| error.of_field(format!("messages[{at}]")))?;
        let content = match &self.content {
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => {
                // There is only one kind.
                parts.iter().map(|ContentPart { kind: PartKind::Text, text }| text.as_str()).collect()
            }
            None if self.role == Role::Assistant => String::new(),
            None => return Err(ApiError::field(format!("messages[{at}].content"), "missing")),
        };
        Ok(Message { role: self.role.word().into(), content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::body::parse;
    use serde_json::json;

    fn with(more: Value) -> Result<ChatRequest, ApiError> {
        let mut all = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse::<ChatRequest>(all.to_string().as_bytes())
            .and_then(|request| request.check().and_then(|()| request.streaming()).map(|_| request))
    }

    fn wrong(more: Value) -> String {
        with(more).unwrap_err().param().unwrap().to_owned()
    }

    #[test]
    fn what_is_not_done_here_is_refused_by_name() {
        for (name, value) in [
            ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
            ("tool_choice", json!("required")),
            ("functions", json!([{"name": "f"}])),
            ("response_format", json!({"type": "json_object"})),
            ("response_format", json!({"type": "json_schema", "json_schema": {"name": "s"}})),
            ("modalities", json!(["text", "audio"])),
            ("audio", json!({"voice": "a"})),
            ("prediction", json!({"type": "content"})),
            ("reasoning_effort", json!("high")),
            ("verbosity", json!("low")),
            ("web_search_options", json!({"a": 1})),
            ("stream_options", json!({"include_usage": true})),
            ("colour", json!("red")),
            ("n", json!("two")),
            ("temperature", json!("hot")),
            ("max_tokens", json!(-1)),
        ] {
            assert_eq!(wrong(json!({ name: value })), name);
        }
    }

    #[test]
    fn what_is_harmless_is_taken() {
        let harmless = json!({
            "user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto", "safety_identifier": "s",
            "prompt_cache_key": "k", "parallel_tool_calls": true, "tools": [], "tool_choice": "none", "functions": null,
            "response_format": {"type": "text"}, "modalities": ["text"], "verbosity": "medium", "temperature": null,
            "stream": true, "stream_options": {"include_usage": true, "include_obfuscation": true}
        });
        assert_eq!(with(harmless).unwrap().streaming(), Ok(Streaming { streams: true, usage: true }));
    }

    #[test]
    fn messages_are_texts_or_parts() {
        let said = |messages: Value| with(json!({ "messages": messages })).and_then(|request| request.conversation());
        let all = said(json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
            {"role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": null},
        ]));
        let all: Vec<_> = all.unwrap().into_iter().map(|message| (message.role, message.content)).collect();
        let want = [("system", "be brief"), ("user", "ab"), ("assistant", "")];
        assert_eq!(all, want.map(|(role, content)| (role.to_owned(), content.to_owned())));
        for (messages, param) in [
            (json!([]), "messages"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "tool", "content": "a"}]), "messages[0].role"),
            (json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), "messages[0].content"),
            (json!([{"role": "user", "content": 3}]), "messages[0].content"),
            (json!([{"role": "user", "content": "a", "mood": "good"}]), "messages[0].mood"),
            (json!([{"role": "assistant", "tool_calls": [{}]}]), "messages[0]"),
        ] {
            assert_eq!(said(messages).unwrap_err().param(), Some(param));
        }
    }

    #[test]
    fn lengths_and_likelihoods_fit_together() {
        let most = |more| with(more).unwrap().max_tokens();
        assert_eq!(most(json!({})), Ok(None));
        assert_eq!(most(json!({"max_tokens": 5})), Ok(Some(5)));
        assert_eq!(most(json!({"max_tokens": 5, "max_completion_tokens": 5})), Ok(Some(5)));
        assert!(most(json!({"max_tokens": 5, "max_completion_tokens": 6})).is_err());
        assert_eq!(most(json!({"max_completion_tokens": 0})).unwrap_err().param(), Some("max_completion_tokens"));
        let top = |more| with(more).unwrap().likelihoods();
        assert_eq!(top(json!({})), Ok(None));
        assert_eq!(top(json!({"logprobs": true})), Ok(Some(0)));
        assert_eq!(top(json!({"logprobs": true, "top_logprobs": 20})), Ok(Some(20)));
        assert_eq!(top(json!({"logprobs": false, "top_logprobs": 0})), Ok(None));
        assert!(
            top(json!({"top_logprobs": 3})).is_err() && top(json!({"logprobs": true, "top_logprobs": 21})).is_err()
        );
    }
}
