//! An answer that is said to have been generated, and whether its tokens follow from logits.
//!
//! # Why
//!
//! Everything is exact: prompt and answer, but for the answer's last token, run once in one piece give the very logits
//! from which each token was chosen, however they were run then. So an answer needs no record of how it came about.
//!
//! # How
//!
//! 1. [`Answered::of`] bounds what somebody else wrote before anything is computed for it. What is run is one sequence of which the
//!    last rows are wanted, one for each token of the answer.
//! 2. [`Answered::again`] chooses each token again, given the claimed ones before it. The output is what was chosen, and whether the
//!    answer ends there as it must: with the first token that ends answers, or after as many as were asked for.

use super::Sampling;
use crate::error::NodeError;
use ostrakon_nn::Tensor;
use ostrakon_package::Manifest;
use ostrakon_protocol::{Digest, Generated, TokenChoice};
use std::collections::BTreeMap;

/// An answer that can be run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    generated: Generated,
    /// Most tokens of the answer, the model's context considered.
    most: usize,
    vocabulary: u32,
}

/// What follows from the logits.
pub(crate) struct Again {
    /// Of the tokens that do.
    pub(crate) digest: Digest,
    /// Why these are not the answer, if they are not.
    pub(crate) wrong: Option<String>,
}

impl Answered {
    /// An answer of the package with this manifest.
    ///
    /// # Errors
    /// The package generates no text; a token, the length or a setting of the request is none of the package's.
    pub(crate) fn of(manifest: &Manifest, generated: &Generated) -> Result<Self, NodeError> {
        let wrong = |why: String| NodeError::Setting(format!("the request is of no answer: {why}"));
        let Some(generation) = &manifest.generation else {
            return Err(wrong(format!("the package `{}` generates no text", manifest.name)));
        };
        generated.check().map_err(wrong)?;
        let context = manifest.max_tokens.unwrap_or_default() as usize;
        let (prompt, answer) = (generated.prompt.len(), generated.answer.len());
        if prompt.saturating_add(answer) > context {
            return Err(wrong(format!("{prompt} tokens and {answer} more pass the model's context, {context}")));
        }
        let vocabulary = generation.vocabulary;
        let mut tokens = generated.prompt.iter().chain(&generated.answer);
        if let Some(token) = tokens.find(|&&token| token >= vocabulary || i32::try_from(token).is_err()) {
            return Err(wrong(format!("token {token} is none of the model's {vocabulary}")));
        }
        Sampling::from(&generated.choice).check().map_err(|error| wrong(error.to_string()))?;
        let most = (generated.max_tokens as usize).min(context - prompt);
        Ok(Self { generated: generated.clone(), most, vocabulary })
    }

    /// The tokens that are run.
    pub(crate) fn ids(&self) -> Vec<i32> {
        let Generated { prompt, answer, .. } = &self.generated;
        let run = answer.len().saturating_sub(1);
        let tokens = prompt.iter().chain(answer.iter().take(run));
        // They are below 2^31, see `of`.
        tokens.map(|&token| i32::try_from(token).unwrap_or_default()).collect()
    }

    /// Of how many of their rows logits are wanted.
    pub(crate) fn wanted(&self) -> usize {
        self.generated.answer.len()
    }

    /// Choose the tokens again. `None`: these are not the logits of the rows that are wanted.
    pub(crate) fn again(&self, logits: &Tensor) -> Option<Again> {
        let Generated { prompt, answer, choice, stop, .. } = &self.generated;
        let &[rows, width] = logits.dims() else { return None };
        let values = logits.as_f32().ok()?;
        if rows as usize != answer.len() || width != self.vocabulary || width == 0 {
            return None;
        }
        let sampling = Sampling::from(choice);
        let mut seen: BTreeMap<u32, u32> = prompt.iter().map(|&token| (token, 0)).collect();
        let (mut chosen, mut wrong) = (Vec::with_capacity(answer.len()), None);
        let places = (prompt.len() as u64..).zip(1usize..);
        for ((logits, &claimed), (at, number)) in values.chunks_exact(width as usize).zip(answer).zip(places) {
            if chosen.len() == self.most {
                break;
            }
            let token = sampling.choose(logits, &seen, at);
            chosen.push(token);
            if token != claimed && wrong.is_none() {
                wrong = Some(format!("token {number} of the answer is {claimed}, {token} follows"));
            }
            if stop.contains(&token) {
                break;
            }
            *seen.entry(claimed).or_insert(0) += 1;
        }
        let ends = chosen.len() == self.most || chosen.last().is_some_and(|token| stop.contains(token));
        if wrong.is_none() && chosen.len() < answer.len() {
            wrong = Some(format!("the answer ends with token {}, but goes on to {}", chosen.len(), answer.len()));
        } else if wrong.is_none() && !ends {
            wrong = Some(format!("the answer is cut: it goes on after token {}", chosen.len()));
        }
        Some(Again { digest: Digest::of_tokens(&chosen, ends), wrong })
    }
}

impl From<&TokenChoice> for Sampling {
    fn from(choice: &TokenChoice) -> Self {
        Self {
            temperature: f32::from_bits(choice.temperature),
            top_k: choice.top_k,
            top_p: f32::from_bits(choice.top_p),
            seed: choice.seed,
            repetition_penalty: f32::from_bits(choice.repetition_penalty),
            frequency_penalty: f32::from_bits(choice.frequency_penalty),
            presence_penalty: f32::from_bits(choice.presence_penalty),
            bias: choice.bias.iter().map(|&(token, bias)| (token, f32::from_bits(bias))).collect(),
        }
    }
}

impl From<&Sampling> for TokenChoice {
    fn from(sampling: &Sampling) -> Self {
        // -0 says what 0 says.
        let bits = |value: f32| (value + 0.0).to_bits();
        Self {
            temperature: bits(sampling.temperature),
            top_k: sampling.top_k,
            top_p: bits(sampling.top_p),
            seed: sampling.seed,
            repetition_penalty: bits(sampling.repetition_penalty),
            frequency_penalty: bits(sampling.frequency_penalty),
            presence_penalty: bits(sampling.presence_penalty),
            bias: sampling.bias.iter().map(|(&token, &bias)| (token, bits(bias))).collect(),
        }
    }
}
