//! `/v1/completions`.

mod answer;
mod request;

pub(super) use answer::Completion;
pub(super) use request::CompletionRequest;

use super::Server;
use super::admission::Admission;
use super::answer::Head;
use super::asking::{Choice, Part, Question, Reason, Spent, ask};
use super::error::{ApiError, ErrorBody, unreadable};
use super::stream::{self, Broken, Events};
use answer::{CompletionChoice, Logprobs};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::future::try_join_all;
use ostrakon_node::generate::{Generator, Pieces};
use request::Prompt;
use std::sync::Arc;

/// What an answer is made with.
struct Answering {
    generator: Arc<Generator>,
    server: Arc<Server>,
    stop: Vec<String>,
    head: Head,
    scored: bool,
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
        (status = "4XX", description = "Something is wrong with the request, or there is no room", body = ErrorBody),
        (status = "5XX", description = "Something is wrong with the server", body = ErrorBody),
    )
)]
pub(super) async fn complete(State(server): State<Arc<Server>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let admission = Admission::of(&parts)?;
    let mut request: CompletionRequest = server.bodies.read(&parts.headers, body).await?;
    let (served, generator) = server.models.generator(&request.model)?;
    request.check()?;
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
    let pieces = ask(&generator, &question, "prompt")?;
    let answering = Answering {
        generator,
        server: Arc::clone(&server),
        stop,
        head: Head::new("cmpl", "text_completion", &served.name, served.fingerprint(), seed),
        scored: likelihoods.is_some(),
        prompts,
        choices: choices as usize,
        echo,
        usage: request.wants_usage(),
    };
    if !request.stream.unwrap_or(false) {
        return Ok(super::json(&answering.whole(pieces).await?));
    }
    Ok(stream::response(move |events| async move {
        answering.stream(pieces, &events).await;
        drop(admission);
    }))
}

impl Answering {
    fn choice(&self, pieces: Pieces) -> Choice<'_> {
        Choice::new(&self.generator, &self.server.counters, pieces, self.stop.clone(), true)
    }

    fn prompt(&self, index: usize) -> Option<&Prompt> {
        self.prompts.get(index / self.choices)
    }

    fn echoed(&self, index: usize) -> String {
        match self.prompt(index) {
            Some(prompt) if self.echo => prompt.text(&self.generator),
            _ => String::new(),
        }
    }

    /// Logprobs, to which those of a choice are added.
    fn logprobs(&self) -> Logprobs<'_> {
        Logprobs::new(&self.generator)
    }

    async fn whole(&self, pieces: Vec<Pieces>) -> Result<Completion<'_>, ApiError> {
        let each = pieces.into_iter().enumerate().map(|(index, pieces)| async move {
            let mut choice = self.choice(pieces);
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
            let logprobs = self.scored.then(|| logprobs.take());
            let done = CompletionChoice::new(index, text, logprobs, Some(end));
            Ok::<_, ApiError>((done, Took { generated: choice.tokens, reused: choice.reused }))
        });
        let (choices, took): (Vec<_>, Vec<_>) = try_join_all(each).await?.into_iter().unzip();
        Ok(Completion { head: &self.head, choices, usage: Some(Some(self.spent(&took).into())) })
    }

    fn spent(&self, took: &[Took]) -> Spent {
        Spent {
            prompt: self.prompts.iter().map(|prompt| prompt.tokens.len() as u64).sum(),
            // Further answers for the same prompt go on from it anyway.
            reused: took.iter().step_by(self.choices).map(|took| took.reused).sum(),
            generated: took.iter().map(|took| took.generated).sum(),
        }
    }

    async fn stream(&self, pieces: Vec<Pieces>, events: &Events) {
        let each = pieces.into_iter().enumerate().map(|(index, pieces)| self.one(index, pieces, events));
        match try_join_all(each).await {
            Ok(took) => {
                let usage = Some(Some(self.spent(&took).into()));
                let last = Completion { head: &self.head, choices: Vec::new(), usage };
                if !self.usage || events.send(&last).await.is_ok() {
                    events.done().await;
                }
            }
            Err(broken) => broken.tell(events).await,
        }
    }

    async fn one(&self, index: usize, pieces: Pieces, events: &Events) -> Result<Took, Broken> {
        let chunk = |text, logprobs: &mut Logprobs<'_>, end| Completion {
            head: &self.head,
            choices: vec![CompletionChoice::new(index, text, self.scored.then(|| logprobs.take()), end)],
            usage: self.usage.then_some(None),
        };
        let (mut choice, mut logprobs) = (self.choice(pieces), self.logprobs());
        let mut echoed = self.echoed(index);
        if !self.scored && !echoed.is_empty() {
            events.send(&chunk(std::mem::take(&mut echoed), &mut logprobs, None)).await?;
        }
        while let Some(part) = choice.next().await? {
            match part {
                Part::Prompt(likelihoods) => {
                    logprobs.prompt(self.prompt(index), &likelihoods);
                    events.send(&chunk(std::mem::take(&mut echoed), &mut logprobs, None)).await?;
                }
                Part::Text(text, scored) => {
                    logprobs.answer(&scored);
                    events.send(&chunk(text, &mut logprobs, None)).await?;
                }
                Part::End(reason) => events.send(&chunk(String::new(), &mut logprobs, Some(reason))).await?,
            }
        }
        Ok(Took { generated: choice.tokens, reused: choice.reused })
    }
}
