//! `/v1/chat/completions`.

mod answer;
mod request;

pub(super) use answer::{ChatChunk, ChatCompletion};
pub(super) use request::ChatRequest;

use super::Server;
use super::admission::Admission;
use super::answer::{Head, Usage};
use super::answering::Answering;
use super::asking::{Asked, Part, Question, Reason, Scored, Spent, ask};
use super::error::{ApiError, Refusals, unreadable};
use super::sampling::Streaming;
use super::stream::{self, Broken, Events};
use answer::{ChatChoice, ChatLogprobs, ChunkChoice, Delta};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::future::try_join_all;
use std::sync::Arc;

/// A conversation that is being answered.
struct Conversation {
    of: Answering,
    /// Tokens of the prompt.
    prompt: u64,
}

/// Answer a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "generation", request_body = ChatRequest, security((), ("key" = [])),
    responses(
        (status = 200, description = "The answer; in pieces, if `stream` is set", content((ChatCompletion = "application/json"), (ChatChunk = "text/event-stream"))),
        Refusals,
    )
)]
pub(super) async fn chat(State(server): State<Arc<Server>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let admission = Admission::of(&parts)?;
    let request: ChatRequest = server.bodies.read(&parts.headers, body).await?;
    let (served, generator) = server.models.generator(&request.model)?;
    request.check()?;
    let Streaming { streams, usage } = request.streaming()?;
    let wishes = request.wishes();
    let (sampling, seed) = wishes.sampling(&generator)?;
    let (choices, stop, messages) = (wishes.choices()?, wishes.stop()?, request.conversation()?);
    let prompt = {
        let generator = Arc::clone(&generator);
        let asked = move || generator.prompt_of(&messages);
        admission.compute(asked).await?.map_err(|error| unreadable(&error, "messages"))?
    };
    let question = Question {
        client: admission.client(),
        max_tokens: request.max_tokens()?.unwrap_or(u32::MAX),
        choices,
        sampling,
        likelihoods: request.likelihoods()?,
        prompt_likelihoods: false,
        reuse: server.reuse,
        prompts: vec![prompt],
    };
    let tokens = question.prompts.iter().map(Vec::len).sum::<usize>() as u64;
    let asked = ask(&generator, &question, "messages")?;
    let object = if streams { "chat.completion.chunk" } else { "chat.completion" };
    let head = Head::new("chatcmpl", object, &served.name, served.fingerprint(), seed);
    let scored = question.likelihoods.is_some();
    let of = Answering::new(Arc::clone(&server), generator, &admission, head, stop, scored);
    let conversation = Conversation { of, prompt: tokens };
    if !streams {
        return Ok(super::json(&conversation.whole(asked).await?));
    }
    Ok(stream::response(move |events| async move {
        conversation.stream(asked, usage, &events).await;
        drop(admission);
    }))
}

impl Conversation {
    fn logprobs(&self, scored: Vec<Scored>) -> Option<ChatLogprobs> {
        self.of.scored.then(|| ChatLogprobs::of(&self.of.generator, &scored))
    }

    async fn whole(&self, asked: Vec<Asked>) -> Result<ChatCompletion, ApiError> {
        let each = (0..).zip(asked).map(|(index, asked)| async move {
            let mut choice = self.of.choice(asked, false);
            let (mut content, mut all, mut end) = (String::new(), Vec::new(), Reason::Stop);
            while let Some(part) = choice.next().await? {
                match part {
                    Part::Text(text, scored) => {
                        content.push_str(&text);
                        all.extend(scored);
                    }
                    Part::End(reason) => end = reason,
                    Part::Prompt(_) => {}
                }
            }
            let done = ChatChoice::new(index, content, self.logprobs(all), end, self.of.more(&choice));
            Ok::<_, ApiError>((done, choice.tokens(), choice.reused))
        });
        let done = try_join_all(each).await?;
        let spent = self.spent(done.iter().map(|(_, tokens, reused)| (*tokens, *reused)));
        let choices = done.into_iter().map(|(choice, _, _)| choice).collect();
        Ok(ChatCompletion { head: self.of.head.clone(), choices, usage: spent.into() })
    }

    fn spent(&self, choices: impl Iterator<Item = (u64, u64)>) -> Spent {
        let mut spent = Spent { prompt: self.prompt, ..Spent::default() };
        for (index, (generated, reused)) in choices.enumerate() {
            spent.generated += generated;
            // Further answers for the same prompt go on from it anyway.
            if index == 0 {
                spent.reused = reused;
            }
        }
        spent
    }

    async fn stream(&self, asked: Vec<Asked>, usage: bool, events: &Events) {
        let each = (0..).zip(asked).map(|(index, asked)| self.one(index, asked, usage, events));
        match try_join_all(each).await {
            Ok(done) => {
                let spent = self.spent(done.into_iter());
                let last = ChatChunk { head: &self.of.head, choices: Vec::new(), usage: Some(Some(spent.into())) };
                if !usage || events.send(&last).await.is_ok() {
                    events.done().await;
                }
            }
            Err(broken) => broken.tell(events).await,
        }
    }

    async fn one(&self, index: u32, asked: Asked, usage: bool, events: &Events) -> Result<(u64, u64), Broken> {
        let chunk =
            |choice| ChatChunk { head: &self.of.head, choices: vec![choice], usage: usage.then_some(None::<Usage>) };
        events.send(&chunk(ChunkChoice::new(index, Delta::role(), None))).await?;
        let mut choice = self.of.choice(asked, false);
        while let Some(part) = choice.next().await? {
            match part {
                Part::Text(text, scored) if !text.is_empty() || !scored.is_empty() => {
                    events.send(&chunk(ChunkChoice::new(index, Delta::text(text), self.logprobs(scored)))).await?;
                }
                Part::End(reason) => {
                    events.send(&chunk(ChunkChoice::end(index, reason, self.of.more(&choice)))).await?;
                }
                Part::Text(..) | Part::Prompt(_) => {}
            }
        }
        Ok((choice.tokens(), choice.reused))
    }
}
