//! `/v1/completions`.

mod answer;
mod request;

pub(super) use answer::Completion;
pub(super) use request::CompletionRequest;

use super::Server;
use super::admission::Admission;
use super::answer::Head;
use super::answering::Answering;
use super::asking::{Asked, Part, Question, Reason, Spent, ask};
use super::error::{ApiError, Refusals, unreadable};
use super::sampling::Streaming;
use super::stream::{self, Broken, Events};
use answer::{CompletionChoice, Logprobs};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::future::try_join_all;
use request::Prompt;
use std::sync::Arc;

/// Texts that are being gone on with.
struct Texts {
    of: Answering,
    prompts: Vec<Prompt>,
    /// Answers for each prompt.
    choices: usize,
    /// Whether prompts are part of the answers.
    echo: bool,
    usage: bool,
}

/// What one choice took.
struct Took {
    generated: u64,
    reused: u64,
}

/// Go on with texts.
#[utoipa::path(
    post, path = "/v1/completions", tag = "generation", request_body = CompletionRequest, security((), ("key" = [])),
    responses(
        (status = 200, description = "The answer; in pieces of the same shape, if `stream` is set", content((Completion = "application/json"), (Completion = "text/event-stream"))),
        Refusals,
    )
)]
pub(super) async fn complete(State(server): State<Arc<Server>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let admission = Admission::of(&parts)?;
    let mut request: CompletionRequest = server.bodies.read(&parts.headers, body).await?;
    let (served, generator) = server.models.generator(&request.model)?;
    request.check()?;
    let Streaming { streams, usage } = request.streaming()?;
    let wishes = request.wishes();
    let (sampling, seed) = wishes.sampling(&generator)?;
    let (choices, stop) = (wishes.choices()?, wishes.stop()?);
    let texts = request.prompts()?;
    let prompts = {
        let generator = Arc::clone(&generator);
        let asked = move || texts.into_iter().map(|text| text.tokens(&generator)).collect::<Result<Vec<_>, _>>();
        admission.compute(asked).await?.map_err(|error| unreadable(&error, "prompt"))?
    };
    let likelihoods = request.likelihoods()?;
    let echo = request.echo.unwrap_or(false);
    let question = Question {
        client: admission.client(),
        max_tokens: request.max_tokens.unwrap_or(16),
        choices,
        sampling,
        likelihoods,
        prompt_likelihoods: echo && likelihoods.is_some(),
        reuse: server.reuse,
        prompts: prompts.iter().map(|prompt| prompt.tokens.clone()).collect(),
    };
    request.expect_bounded(&question)?;
    let asked = ask(&generator, &question, "prompt")?;
    let head = Head::new("cmpl", "text_completion", &served.name, served.fingerprint(), seed);
    let of = Answering::new(Arc::clone(&server), generator, &admission, head, stop, likelihoods.is_some());
    let texts = Texts { of, prompts, choices: choices as usize, echo, usage };
    if !streams {
        return Ok(super::json(&texts.whole(asked).await?));
    }
    Ok(stream::response(move |events| async move {
        texts.stream(asked, &events).await;
        drop(admission);
    }))
}

impl Texts {
    fn prompt(&self, index: usize) -> Option<&Prompt> {
        self.prompts.get(index / self.choices)
    }

    fn echoed(&self, index: usize) -> String {
        match self.prompt(index) {
            Some(prompt) if self.echo => prompt.text(&self.of.generator),
            _ => String::new(),
        }
    }

    /// Logprobs, to which those of a choice are added.
    fn logprobs(&self) -> Logprobs<'_> {
        Logprobs::new(&self.of.generator)
    }

    async fn whole(&self, asked: Vec<Asked>) -> Result<Completion<'_>, ApiError> {
        let each = asked.into_iter().enumerate().map(|(index, asked)| async move {
            let mut choice = self.of.choice(asked, true);
            let (mut text, mut logprobs, mut end) = (self.echoed(index), self.logprobs(), Reason::Length);
            while let Some(part) = choice.next().await? {
                match part {
                    Part::Prompt(likelihoods) => logprobs.prompt(self.prompt(index), &likelihoods),
                    Part::Text(more, scored) => {
                        text.push_str(&more);
                        logprobs.answer(&scored);
                    }
                    Part::End(reason) => end = reason,
                }
            }
            let logprobs = self.of.scored.then(|| logprobs.take());
            let done = CompletionChoice::new(index, text, logprobs).ended(end, self.of.more(&choice));
            Ok::<_, ApiError>((done, Took { generated: choice.tokens(), reused: choice.reused }))
        });
        let (choices, took): (Vec<_>, Vec<_>) = try_join_all(each).await?.into_iter().unzip();
        Ok(Completion { head: &self.of.head, choices, usage: Some(Some(self.spent(&took).into())) })
    }

    fn spent(&self, took: &[Took]) -> Spent {
        Spent {
            prompt: self.prompts.iter().map(|prompt| prompt.tokens.len() as u64).sum(),
            // Further answers for the same prompt go on from it anyway.
            reused: took.iter().step_by(self.choices).map(|took| took.reused).sum(),
            generated: took.iter().map(|took| took.generated).sum(),
        }
    }

    async fn stream(&self, asked: Vec<Asked>, events: &Events) {
        let each = asked.into_iter().enumerate().map(|(index, asked)| self.one(index, asked, events));
        match try_join_all(each).await {
            Ok(took) => {
                let usage = Some(Some(self.spent(&took).into()));
                let last = Completion { head: &self.of.head, choices: Vec::new(), usage };
                if !self.usage || events.send(&last).await.is_ok() {
                    events.done().await;
                }
            }
            Err(broken) => broken.tell(events).await,
        }
    }

    async fn one(&self, index: usize, asked: Asked, events: &Events) -> Result<Took, Broken> {
        let piece = |text, logprobs: &mut Logprobs<'_>| {
            CompletionChoice::new(index, text, self.of.scored.then(|| logprobs.take()))
        };
        let chunk =
            |choice| Completion { head: &self.of.head, choices: vec![choice], usage: self.usage.then_some(None) };
        let (mut choice, mut logprobs) = (self.of.choice(asked, true), self.logprobs());
        let mut echoed = self.echoed(index);
        if !self.of.scored && !echoed.is_empty() {
            events.send(&chunk(piece(std::mem::take(&mut echoed), &mut logprobs))).await?;
        }
        while let Some(part) = choice.next().await? {
            match part {
                Part::Prompt(likelihoods) => {
                    logprobs.prompt(self.prompt(index), &likelihoods);
                    events.send(&chunk(piece(std::mem::take(&mut echoed), &mut logprobs))).await?;
                }
                Part::Text(text, scored) => {
                    logprobs.answer(&scored);
                    events.send(&chunk(piece(text, &mut logprobs))).await?;
                }
                Part::End(reason) => {
                    let last = piece(String::new(), &mut logprobs).ended(reason, self.of.more(&choice));
                    events.send(&chunk(last)).await?;
                }
            }
        }
        Ok(Took { generated: choice.tokens(), reused: choice.reused })
    }
}
