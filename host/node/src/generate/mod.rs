//! Generating text: a decoder that many requests share.
//!
//! # Why
//!
//! A token takes one pass over all weights, whoever it is for: so what is generated for many goes together. And what was run once need
//! not be run again for whoever begins alike. Neither may change an answer by a byte, and neither does: every operation is exact.
//!
//! # How
//!
//! 1. [`Generator::open`] loads a package and starts one thread, the [`engine`], which owns it.
//! 2. [`Generator::ask`] checks a request and puts it into a bounded [`queue`]; what comes of it comes as [`Pieces`].
//! 3. The engine runs batches through the [`decoder`], chooses tokens ([`sample`]), and keeps what sequences left for those that
//!    begin alike ([`prefix`]).
//! 4. The blocks run on this machine, or on nodes of a swarm ([`remote`]).
//! 5. [`text`] makes text of tokens as they come; [`template`] makes a prompt of a conversation.
//! 6. [`Generator::receipt`] makes the receipt of an answer, when somebody wants it: [`one_piece`] runs it once more, [`answered`] chooses
//!    its tokens again.

mod answered;
mod decoder;
mod engine;
mod one_piece;
mod prefix;
mod queue;
mod remote;
mod request;
mod sample;
mod template;
mod text;

pub use answered::Answered;
pub use one_piece::Receipting;
pub use request::{Done, End, GenerateRequest, MAX_TOP, Piece, Pieces, Refusal};
pub use sample::{Likelihood, OutOfRange, Sampling};
pub use template::{Message, Template, TemplateError};
pub use text::TextStream;

use crate::error::NodeError;
use crate::float::expect_tier;
use crate::load::Model;
use crate::options::RunOptions;
use crate::swarm::client::SwarmClient;
use crate::tokens::Tokens;
use decoder::{Decoder, LocalDecoder};
use engine::{Engine, Shared, lock};
use one_piece::Wanted;
use ostrakon_package::{Digest, Generation, Home, Manifest, Package, Tier, TrustPolicy};
use ostrakon_protocol::Generated;
use queue::Waiting;
use remote::RemoteDecoder;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// Receipts that may be waited for at once.
const MAX_RECEIPTS: usize = 16;

/// What a generator may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of a prompt and its answer; the package's own if that is less.
    pub context: usize,
    /// Sequences that run at once.
    pub sequences: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Bytes of what the rows of running sequences leave.
    pub past_bytes: usize,
    /// Likewise, kept of sequences that have ended.
    pub prefix_bytes: usize,
}

impl Default for Limits {
    /// For a machine with some gigabytes to spare.
    fn default() -> Self {
        Self { context: usize::MAX, sequences: 32, waiting: 256, past_bytes: 2 << 30, prefix_bytes: 512 << 20 }
    }
}

/// What a generator has done, and how it stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    /// Requests that began.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Of these, not computed again.
    pub reused_tokens: u64,
    /// Tokens that were generated.
    pub generated_tokens: u64,
    /// Calls of the model.
    pub calls: u64,
    /// In these calls.
    pub busy: Duration,
    /// Requests that run now.
    pub running: u64,
    /// Requests that wait now.
    pub waiting: u64,
    /// Bytes kept of sequences that have ended.
    pub kept_bytes: u64,
}

/// What is known of a package that generates text, wherever it is run.
struct Writer {
    tokens: Arc<Tokens>,
    template: Option<Template>,
    generation: Generation,
    manifest: Manifest,
    digest: Digest,
}

impl Writer {
    fn of(package: &Package, tokens: Arc<Tokens>) -> Result<Self, NodeError> {
        let manifest = package.manifest().clone();
        let name = &manifest.name;
        let Some(generation) = manifest.generation.clone() else {
            return Err(NodeError::Setting(format!("the package `{name}` generates no text: `ostrakon run` runs it")));
        };
        let template = package.template().map(Template::new).transpose();
        let template = template
            .map_err(|error| NodeError::Setting(format!("the package `{name}`: its chat template: {error}")))?;
        Ok(Self { tokens, template, generation, digest: package.digest(), manifest })
    }
}

/// A package that generates text.
pub struct Generator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    limits: Limits,
    tokens: Arc<Tokens>,
    template: Option<Template>,
    generation: Generation,
    manifest: Manifest,
    digest: Digest,
    backend: &'static str,
}

impl Generator {
    /// Load the package in `directory` and make it ready.
    ///
    /// # Errors
    /// As [`Model::load`]; the package generates no text; its template is none.
    pub fn open(
        directory: &Path,
        policy: &TrustPolicy,
        home: &Home,
        options: &RunOptions,
        limits: Limits,
    ) -> Result<Self, NodeError> {
        Self::of(Model::load(directory, policy, home, options)?, limits)
    }

    /// Make a loaded package ready.
    ///
    /// # Errors
    /// It generates no text; its template is none.
    pub fn of(model: Model, limits: Limits) -> Result<Self, NodeError> {
        let writer = Writer::of(&model.package, Arc::clone(&model.tokens))?;
        let backend = model.backend();
        let decoder = LocalDecoder::new(model, writer.generation.vocabulary);
        Self::start(writer, decoder, limits, backend)
    }

    /// Make the package in `directory` ready to be run by nodes of a swarm that `client` knows: only tokenizer and manifest are
    /// kept. `handle` is of the runtime that `client` lives on, and must outlive the generator. This blocks.
    ///
    /// # Errors
    /// The package is refused, or generates no text; there are no nodes that run it.
    pub fn of_swarm(
        directory: &Path,
        policy: &TrustPolicy,
        home: &Home,
        options: &RunOptions,
        (client, handle): (SwarmClient, Handle),
        mut limits: Limits,
    ) -> Result<Self, NodeError> {
        let package = Package::open(directory, policy)?;
        expect_tier(package.manifest(), Tier::Exact)?;
        let most = usize::try_from(package.manifest().max_tokens.unwrap_or_default()).unwrap_or(usize::MAX);
        let tokens = Arc::new(Tokens::load(package.tokenizer().unwrap_or_default(), most)?);
        let writer = Writer::of(&package, tokens)?;
        limits.context = limits.context.min(most);
        let setting = remote::Setting { package: &package, policy, home, options, client, handle };
        let decoder = RemoteDecoder::new(setting, writer.generation.vocabulary, &mut limits)?;
        drop(package);
        Self::start(writer, decoder, limits, "swarm")
    }

    fn start(
        writer: Writer,
        decoder: impl Decoder + 'static,
        mut limits: Limits,
        backend: &'static str,
    ) -> Result<Self, NodeError> {
        let Writer { tokens, template, generation, manifest, digest } = writer;
        limits.context = limits.context.min(manifest.max_tokens.unwrap_or_default() as usize);
        let shared =
            Arc::new(Shared { inner: Mutex::default(), changed: Condvar::new(), statistics: Mutex::default() });
        let mut engine = Engine::new(decoder, limits, Arc::clone(&shared));
        engine.warm_up()?;
        let thread = std::thread::Builder::new().name("generator".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                // Whatever ends it, nobody waits for it any more.
                let _end = EndAtDrop(shared);
                engine.run();
            }
        });
        let thread = thread.map_err(|error| NodeError::Setting(format!("no thread can be started: {error}")))?;
        let thread = Some(thread);
        Ok(Self { shared, thread, limits, tokens, template, generation, manifest, digest, backend })
    }

    /// Take a request.
    ///
    /// # Errors
    /// It makes no sense, or too many wait already.
    pub fn ask(&self, request: GenerateRequest) -> Result<Pieces, Refusal> {
        self.check(&request)?;
        // So many pieces can there be: then nothing ever waits for whoever reads slowly.
        let most = (request.max_tokens as usize).min(self.limits.context) + 2;
        let (pieces, receiver) = mpsc::channel(most);
        let mut inner = lock(&self.shared.inner);
        if inner.ended {
            return Err(Refusal::Ended);
        }
        if inner.queue.len() >= self.limits.waiting {
            inner.queue.forget_left();
        }
        let waiting = inner.queue.len();
        if waiting >= self.limits.waiting {
            // What has been done so far is asked for with the same lock.
            drop(inner);
            return Err(Refusal::Busy { waiting, after: self.patience(waiting) });
        }
        inner.queue.put(Waiting { request, pieces, since: Instant::now() });
        drop(inner);
        self.shared.changed.notify_one();
        Ok(Pieces(receiver))
    }

    /// An answer to a request, as receipts have it. One that was ended by whoever asked, at a stop string say, is one of
    /// as many tokens as there are.
    pub fn answered(&self, request: &GenerateRequest, answer: Vec<u32>) -> Generated {
        let GenerateRequest { prompt, sampling, stop, max_tokens, .. } = request;
        let left = u32::try_from(self.limits.context.saturating_sub(prompt.len())).unwrap_or(u32::MAX);
        let given = u32::try_from(answer.len()).unwrap_or(u32::MAX);
        let ends = answer.last().is_some_and(|token| stop.contains(token));
        let max_tokens = if ends { (*max_tokens).min(left) } else { given };
        let mut stop = stop.clone();
        stop.sort_unstable();
        stop.dedup();
        Generated { prompt: prompt.clone(), answer, choice: sampling.into(), stop, max_tokens }
    }

    /// Make the receipt of an answer of this model: run it once more, in one piece, between the tokens of others.
    ///
    /// On the engine's own thread, because a second model would take the weights' memory twice; block by block, so that nobody waits
    /// longer for a token than one block takes. The logits of the whole answer are in memory for a moment: with a
    /// vocabulary of 49,152 an answer may have 5,400 tokens, then the quota of a block, 1 GiB, ends.
    ///
    /// # Errors
    /// Too many receipts are being made already. Whether there is one is said by what comes back.
    pub fn receipt(&self, generated: Generated) -> Result<Receipting, Refusal> {
        let (tell, receiver) = oneshot::channel();
        let mut inner = lock(&self.shared.inner);
        if inner.ended {
            return Err(Refusal::Ended);
        }
        inner.receipts.retain(|wanted| !wanted.tell.is_closed());
        let waiting = inner.receipts.len();
        if waiting >= MAX_RECEIPTS {
            return Err(Refusal::Busy { waiting, after: Duration::from_secs(waiting as u64) });
        }
        inner.receipts.push_back(Wanted { generated, tell });
        drop(inner);
        self.shared.changed.notify_one();
        Ok(Receipting(receiver))
    }

    fn check(&self, request: &GenerateRequest) -> Result<(), Refusal> {
        request.sampling.check()?;
        let (tokens, context) = (request.prompt.len(), self.limits.context);
        if tokens == 0 {
            return Err(Refusal::Empty);
        }
        if tokens > context || (tokens == context && request.max_tokens > 0) {
            return Err(Refusal::TooLong { tokens, context });
        }
        if let Some(top) = request.likelihoods.filter(|&top| top > MAX_TOP) {
            return Err(Refusal::Top(top));
        }
        let vocabulary = self.generation.vocabulary;
        match request.prompt.iter().find(|&&token| token >= vocabulary) {
            Some(&token) => Err(Refusal::Token { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// How long those who wait will take, from how long requests took so far.
    fn patience(&self, waiting: usize) -> Duration {
        let statistics = self.statistics();
        let each = statistics.busy.as_secs_f64() / statistics.requests.max(1) as f64;
        Duration::from_secs((each * waiting as f64).clamp(1.0, 60.0) as u64)
    }

    /// What was done, and how it stands.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = *lock(&self.shared.statistics);
        statistics.waiting = lock(&self.shared.inner).queue.len() as u64;
        statistics
    }

    /// The tokens of a text, with those that begin one.
    ///
    /// # Errors
    /// The tokenizer refuses it.
    pub fn tokens_of(&self, text: &str) -> Result<Vec<u32>, NodeError> {
        let mut all = self.generation.begin.clone();
        all.extend(self.tokens.ids_of(text)?);
        Ok(all)
    }

    /// The prompt of a conversation, up to where the assistant speaks.
    ///
    /// # Errors
    /// The package has no template, or it refuses; the tokenizer refuses what comes of it.
    pub fn prompt_of(&self, messages: &[Message]) -> Result<Vec<u32>, NodeError> {
        let Some(template) = &self.template else {
            return Err(NodeError::Setting(format!(
                "the package `{}` has no chat template: ask for a completion of a text instead",
                self.manifest.name
            )));
        };
        let text = template.render(messages).map_err(|error| NodeError::Setting(error.to_string()))?;
        // What begins a text is the template's business; marks in it are tokens.
        Ok(self.tokens.ids_of(&text)?)
    }

    /// Makes text of tokens as they come, ending at one of these strings.
    pub fn text_stream(&self, stop: Vec<String>) -> TextStream<'_> {
        TextStream::new(&self.tokens, stop)
    }

    /// The text of some tokens, marks left as they are.
    pub fn text_of(&self, tokens: &[u32]) -> String {
        self.tokens.text_of(tokens, false)
    }

    /// Tokens that end an answer.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.generation.stop
    }

    /// What it may use; the context is the model's, if that is less.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// The package's manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The package's digest.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// What computes.
    pub const fn backend(&self) -> &'static str {
        self.backend
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        lock(&self.shared.inner).ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

/// A seed that nobody has seen.
///
/// # Errors
/// The system has no randomness.
pub fn fresh_seed() -> Result<u64, NodeError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| NodeError::Setting(format!("there is no randomness: {error}")))?;
    Ok(u64::from_le_bytes(bytes))
}

struct EndAtDrop(Arc<Shared>);

impl Drop for EndAtDrop {
    fn drop(&mut self) {
        let mut inner = lock(&self.0.inner);
        inner.ended = true;
        inner.queue = queue::Queue::default();
        inner.receipts.clear();
    }
}
