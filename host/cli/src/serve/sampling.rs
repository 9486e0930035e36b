//! How a client wants tokens to be chosen, and what it wants beside them.

use super::error::ApiError;
use super::limits::{CHOICES, STOP_BYTES, STOPS};
use ostrakon_node::generate::{Generator, Sampling, fresh_seed};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Strings that end an answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a text, or a list of texts")]
pub(super) enum Stop {
    /// One.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

/// What is sent of a stream.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub(super) struct StreamOptions {
    /// Say at the end how many tokens there were.
    pub(super) include_usage: Option<bool>,
    /// Taken, and without effect: answers are not padded.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// Whether an answer comes in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streaming {
    pub(super) streams: bool,
    /// Whether the last piece says how many tokens there were.
    pub(super) usage: bool,
}

impl Streaming {
    pub(super) fn of(stream: Option<bool>, options: Option<&StreamOptions>) -> Result<Self, ApiError> {
        let streams = stream.unwrap_or(false);
        match options {
            Some(_) if !streams => Err(ApiError::field("stream_options", "only together with `stream`")),
            options => Ok(Self { streams, usage: options.and_then(|options| options.include_usage).unwrap_or(false) }),
        }
    }
}

/// What requests have in common, as it came.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) top_k: Option<u32>,
    pub(super) seed: Option<i64>,
    pub(super) repetition_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) logit_bias: Option<BTreeMap<String, f32>>,
    pub(super) stop: Option<Stop>,
    pub(super) n: Option<u32>,
}

/// The wishes of a request, which are fields of it. (A structure of their own in it would take every field that nobody knows.)
macro_rules! wishes_of {
    ($request:expr) => {
        $crate::serve::sampling::Wishes {
            temperature: $request.temperature,
            top_p: $request.top_p,
            top_k: $request.top_k,
            seed: $request.seed,
            repetition_penalty: $request.repetition_penalty,
            frequency_penalty: $request.frequency_penalty,
            presence_penalty: $request.presence_penalty,
            logit_bias: $request.logit_bias.clone(),
            stop: $request.stop.clone(),
            n: $request.n,
        }
    };
}
pub(super) use wishes_of;

impl Wishes {
    /// How tokens are chosen. Without a seed a fresh one is drawn, small enough for every reader of JSON.
    pub(super) fn sampling(&self, generator: &Generator) -> Result<(Sampling, i64), ApiError> {
        let vocabulary = generator.manifest().generation.as_ref().map_or(0, |generation| generation.vocabulary);
        let seed = match self.seed {
            Some(seed) => seed,
            None => (fresh_seed().map_err(|error| ApiError::internal(&error.to_string()))? >> 11).cast_signed(),
        };
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(1.0),
            top_p: self.top_p.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(0),
            seed: seed.cast_unsigned(),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            bias: biases(self.logit_bias.as_ref(), vocabulary)?,
        };
        Ok((sampling, seed))
    }

    /// Strings that end an answer.
    pub(super) fn stop(&self) -> Result<Vec<String>, ApiError> {
        let all = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(one)) => vec![one.clone()],
            Some(Stop::Many(many)) => many.clone(),
        };
        if all.len() > STOPS {
            return Err(ApiError::field("stop", format!("{} texts: at most {STOPS}", all.len())));
        }
        match all.iter().any(|stop| stop.len() > STOP_BYTES) {
            true => Err(ApiError::field("stop", format!("a text has more than {STOP_BYTES} bytes"))),
            false => Ok(all),
        }
    }

    /// Answers for each prompt.
    pub(super) fn choices(&self) -> Result<u32, ApiError> {
        match self.n.unwrap_or(1) {
            n if (1..=CHOICES).contains(&n) => Ok(n),
            n => Err(ApiError::field("n", format!("{n}: 1 to {CHOICES}"))),
        }
    }
}

fn biases(given: Option<&BTreeMap<String, f32>>, vocabulary: u32) -> Result<BTreeMap<u32, f32>, ApiError> {
    let given = given.into_iter().flatten();
    let all = given.map(|(token, &bias)| match token.parse() {
        Ok(id) if id < vocabulary => Ok((id, bias)),
        _ => {
            let token: String = token.chars().take(20).collect();
            Err(ApiError::field("logit_bias", format!("{token:?} is no token of this model")))
        }
    });
    all.collect()
}

/// Refuse the fields that ask for something that is not done here, and would be missed.
pub(super) fn refuse(fields: &[(&str, &Option<Value>, &str)]) -> Result<(), ApiError> {
    let asks = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    match fields.iter().find(|(_, value, _)| value.as_ref().is_some_and(asks)) {
        Some((name, _, why)) => Err(ApiError::unsupported(*name, why)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stops_are_one_or_a_few() {
        let stops = |value: Value| {
            let stop = serde_json::from_value(value).map(Some);
            stop.map_err(|e| e.to_string()).and_then(|stop| {
                Wishes { stop, ..Wishes::default() }.stop().map_err(|error| error.message().to_owned())
            })
        };
        assert_eq!(stops(json!("\n")).unwrap(), ["\n"]);
        assert_eq!(stops(json!(["a", "b"])).unwrap(), ["a", "b"]);
        assert!(stops(json!(["a", "b", "c", "d", "e"])).unwrap_err().contains("at most 4"));
        assert!(stops(json!("x".repeat(257))).unwrap_err().contains("256 bytes"));
        assert!(stops(json!(3)).unwrap_err().contains("a text, or a list of texts"));
    }

    #[test]
    fn numbers_of_answers_and_biases_are_bounded() {
        let choices = |n| Wishes { n, ..Wishes::default() }.choices();
        assert_eq!(choices(None), Ok(1));
        assert_eq!(choices(Some(16)), Ok(16));
        assert_eq!(choices(Some(0)).unwrap_err().param(), Some("n"));
        assert_eq!(choices(Some(17)).unwrap_err().param(), Some("n"));
        let bias = |token: &str| biases(Some(&BTreeMap::from([(token.to_owned(), 1.0)])), 10);
        assert_eq!(bias("9"), Ok(BTreeMap::from([(9, 1.0)])));
        for wrong in ["10", "-1", "x", ""] {
            assert_eq!(bias(wrong).unwrap_err().param(), Some("logit_bias"));
        }
    }

    #[test]
    fn what_asks_for_nothing_is_not_refused() {
        for nothing in [json!(null), json!([]), json!({}), json!(false)] {
            assert_eq!(refuse(&[("tools", &Some(nothing), "no")]), Ok(()));
        }
        assert_eq!(refuse(&[("tools", &None, "no")]), Ok(()));
        let error = refuse(&[("a", &None, "no"), ("tools", &Some(json!([{}])), "no")]).unwrap_err();
        assert_eq!(error.param(), Some("tools"));
    }
}
