//! Asks a generator, and makes of its pieces what answers are made of.
//!
//! # How
//!
//! 1. [`ask`] puts all prompts of a request, as often as answers are wanted, into the generator's queue, or none of them.
//! 2. A [`Choice`] is one answer on its way. It gives texts as far as they can be read, each with the tokens that it was made of, then
//!    why it ended. When a string comes that ends it, it lets go of the generator.
//! 3. Dropping a choice ends its work.

use super::error::{ApiError, refused};
use super::metrics::Counters;
use ostrakon_node::generate::{Done, End, GenerateRequest, Generator, Likelihood, Piece, Pieces, Sampling, TextStream};
use ostrakon_protocol::Generated;
use std::time::Instant;

/// Prompts, and what is wanted of each.
pub(super) struct Question {
    pub(super) client: u64,
    pub(super) prompts: Vec<Vec<u32>>,
    /// Answers for each prompt.
    pub(super) choices: u32,
    pub(super) max_tokens: u32,
    pub(super) sampling: Sampling,
    pub(super) likelihoods: Option<usize>,
    pub(super) prompt_likelihoods: bool,
    pub(super) reuse: bool,
}

/// An answer that was asked for.
pub(super) struct Asked {
    request: GenerateRequest,
    pieces: Pieces,
}

/// The answers to come, those of the first prompt first. `field` is the one that the prompts came in.
pub(super) fn ask(generator: &Generator, question: &Question, field: &str) -> Result<Vec<Asked>, ApiError> {
    let (wanted, most) = (question.prompts.len() * question.choices as usize, generator.limits().waiting);
    if wanted > most {
        // There will never be room for them.
        let message = format!("{wanted} answers at once, at most {most}: ask for fewer");
        return Err(ApiError::invalid(message).of_field(field));
    }
    let mut all = Vec::new();
    for prompt in &question.prompts {
        for choice in 0..question.choices {
            let mut sampling = question.sampling.clone();
            // The answers differ; each is what a request for it alone would give.
            sampling.seed = sampling.seed.wrapping_add(choice.into());
            let request = GenerateRequest {
                client: question.client,
                prompt: prompt.clone(),
                max_tokens: question.max_tokens,
                sampling,
                stop: generator.stop_tokens().to_vec(),
                likelihoods: question.likelihoods,
                prompt_likelihoods: question.prompt_likelihoods,
                reuse: question.reuse,
            };
            let pieces = generator.ask(request.clone()).map_err(|refusal| refused(refusal, field))?;
            all.push(Asked { request, pieces });
        }
    }
    Ok(all)
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scored {
    pub(super) token: u32,
    pub(super) likelihood: Likelihood,
}

/// What comes of a choice.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    /// How likely the prompt's tokens were.
    Prompt(Vec<Option<Likelihood>>),
    /// A piece of text, and the tokens that came for it.
    Text(String, Vec<Scored>),
    /// The last part.
    End(Reason),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The model ended it, or one of the strings did.
    Stop,
    /// There was no room for more.
    Length,
}

impl Reason {
    /// As clients read it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// One answer on its way.
pub(super) struct Choice<'a> {
    generator: &'a Generator,
    counters: &'a Counters,
    request: GenerateRequest,
    /// Tokens that came.
    answer: Vec<u32>,
    /// None when nothing comes any more.
    pieces: Option<Pieces>,
    text: TextStream<'a>,
    /// Whether the token that ends an answer is among those that are told of.
    marks: bool,
    scored: Vec<Scored>,
    end: Option<Reason>,
    began: Instant,
    /// Tokens of the prompt that were not computed again, if that was said.
    pub(super) reused: u64,
}

impl<'a> Choice<'a> {
    pub(super) fn new(
        generator: &'a Generator,
        counters: &'a Counters,
        asked: Asked,
        stop: Vec<String>,
        marks: bool,
    ) -> Self {
        let Asked { request, pieces } = asked;
        Self {
            generator,
            counters,
            request,
            answer: Vec::new(),
            pieces: Some(pieces),
            text: generator.text_stream(stop),
            marks,
            scored: Vec::new(),
            end: None,
            began: Instant::now(),
            reused: 0,
        }
    }

    /// How many tokens came.
    pub(super) const fn tokens(&self) -> u64 {
        self.answer.len() as u64
    }

    /// What came, and all that it follows from; none if nothing came.
    pub(super) fn generated(&self) -> Option<Generated> {
        (!self.answer.is_empty()).then(|| self.generator.answered(&self.request, self.answer.clone()))
    }

    /// The next part; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        if let Some(reason) = self.end.take() {
            return Ok(Some(Part::End(reason)));
        }
        while let Some(pieces) = &mut self.pieces {
            let part = match pieces.next().await {
                Some(Piece::Prompt(likelihoods)) => Some(Part::Prompt(likelihoods)),
                Some(Piece::Token { token, likelihood }) => self.token(token, likelihood),
                Some(Piece::Done(done)) => Some(self.done(done)),
                Some(Piece::Failed(why)) => return Err(ApiError::internal(&why)),
                Some(Piece::Unavailable(why)) => return Err(ApiError::unavailable(&why)),
                None => return Err(ApiError::ended()),
            };
            if part.is_some() {
                return Ok(part);
            }
        }
        Ok(None)
    }

    fn token(&mut self, token: u32, likelihood: Option<Likelihood>) -> Option<Part> {
        if self.answer.is_empty() {
            self.counters.first_token(self.began.elapsed());
        }
        self.answer.push(token);
        if let Some(likelihood) = likelihood
            && (self.marks || !self.generator.stop_tokens().contains(&token))
        {
            self.scored.push(Scored { token, likelihood });
        }
        let text = self.text.push(token);
        if self.text.is_stopped() {
            // The generator need not go on.
            self.pieces = None;
            self.end = Some(Reason::Stop);
            let mut scored = std::mem::take(&mut self.scored);
            if text.is_empty() && !self.marks {
                scored.clear();
            }
            return Some(Part::Text(text, scored));
        }
        (!text.is_empty()).then(|| Part::Text(text, std::mem::take(&mut self.scored)))
    }

    fn done(&mut self, done: Done) -> Part {
        self.pieces = None;
        self.reused = done.reused as u64;
        let text = self.text.finish();
        let reason = match done.end {
            End::Stop => Reason::Stop,
            End::Length if self.text.is_stopped() => Reason::Stop,
            End::Length => Reason::Length,
        };
        let scored = std::mem::take(&mut self.scored);
        if text.is_empty() && scored.is_empty() {
            return Part::End(reason);
        }
        self.end = Some(reason);
        Part::Text(text, scored)
    }
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) prompt: u64,
    pub(super) reused: u64,
    pub(super) generated: u64,
}
