//! A package that makes vectors, and the thread that owns it.
//!
//! # How
//!
//! 1. A package runs one batch at a time: requests wait for it in a bounded queue.
//! 2. Texts of different requests that wait are computed together: no byte of a vector depends on its company.
//! 3. Whoever has left is not computed for.

use super::error::{ApiError, unreadable};
use super::limits::{TEXTS_AT_ONCE, WAITING};
use crate::problem::Problem;
use ostrakon_node::{Model, NodeError, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

struct Job {
    texts: Vec<String>,
    answer: oneshot::Sender<Result<Vec<Output>, ApiError>>,
}

/// What an embedder has done.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) texts: AtomicU64,
    pub(super) tokens: AtomicU64,
    pub(super) microseconds: AtomicU64,
}

/// The thread, as those who ask see it.
pub(super) struct Embedder {
    /// None at the end.
    jobs: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    counted: Arc<Counted>,
    width: usize,
    context: usize,
}

impl Embedder {
    pub(super) fn start(mut model: Model) -> Result<Self, Problem> {
        // One text, so that everything is warm and the width is known.
        let first = model.run(&["a".to_owned()], None, &|_| {})?;
        let width = first.outputs.first().map_or(0, |output| output.values.len());
        let context = model.manifest().max_tokens.unwrap_or_default() as usize;
        let (jobs, receiver) = sync_channel(WAITING);
        let counted = Arc::new(Counted::default());
        let thread = std::thread::Builder::new().name("embedder".into()).spawn({
            let counted = Arc::clone(&counted);
            move || work(model, &receiver, &counted)
        });
        let thread = thread.map_err(|error| Problem::failed(format!("no thread can be started: {error}")))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)), counted, width, context })
    }

    /// Numbers of a vector.
    pub(super) const fn width(&self) -> usize {
        self.width
    }

    pub(super) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// The vectors of some texts, in order.
    pub(super) async fn run(&self, texts: Vec<String>) -> Result<Vec<Output>, ApiError> {
        let mut outputs = Vec::with_capacity(texts.len());
        let mut texts = texts.into_iter();
        // Piece by piece: others come in between, and what nobody waits for is not computed.
        loop {
            let piece: Vec<String> = texts.by_ref().take(TEXTS_AT_ONCE).collect();
            if piece.is_empty() {
                return Ok(outputs);
            }
            outputs.extend(self.some(piece).await?);
            let from = outputs.len().saturating_sub(TEXTS_AT_ONCE);
            if let Some(at) = outputs.iter().skip(from).position(|output| output.truncated) {
                let why = format!("text {} has more than {} tokens: cut it", from + at + 1, self.context);
                return Err(ApiError::field("input", why).code("context_length_exceeded"));
            }
        }
    }

    async fn some(&self, texts: Vec<String>) -> Result<Vec<Output>, ApiError> {
        let (answer, receiver) = oneshot::channel();
        {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            match jobs.as_ref().map(|jobs| jobs.try_send(Job { texts, answer })) {
                Some(Ok(())) => {}
                Some(Err(TrySendError::Full(_))) => {
                    let message = format!("{WAITING} requests wait already: try again in 1 s");
                    return Err(ApiError::busy(message, Duration::from_secs(1)));
                }
                Some(Err(TrySendError::Disconnected(_))) | None => return Err(ApiError::ended()),
            }
        }
        receiver.await.unwrap_or_else(|_| Err(ApiError::ended()))
    }
}

impl Drop for Embedder {
    fn drop(&mut self) {
        *self.jobs.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

fn work(mut model: Model, jobs: &Receiver<Job>, counted: &Counted) {
    let mut next = jobs.recv().ok();
    while let Some(first) = next.take() {
        let mut together = vec![first];
        let mut count = together.iter().map(|job| job.texts.len()).sum::<usize>();
        while count < TEXTS_AT_ONCE
            && let Ok(job) = jobs.try_recv()
        {
            if count + job.texts.len() > TEXTS_AT_ONCE {
                next = Some(job);
                break;
            }
            count += job.texts.len();
            together.push(job);
        }
        together.retain(|job| !job.answer.is_closed());
        answer(&mut model, together, counted);
        if next.is_none() {
            next = match jobs.try_recv() {
                Ok(job) => Some(job),
                Err(_) => {
                    // Nobody waits: the next one finds fresh instances.
                    if let Err(error) = model.make_ready() {
                        tracing::error!(%error, "an embedding model does not start again");
                    }
                    jobs.recv().ok()
                }
            };
        }
    }
}

fn answer(model: &mut Model, together: Vec<Job>, counted: &Counted) {
    let texts: Vec<String> = together.iter().flat_map(|job| job.texts.iter().cloned()).collect();
    if texts.is_empty() {
        return;
    }
    match compute(model, &texts, counted) {
        Ok(outputs) => {
            let mut outputs = outputs.into_iter();
            for job in together {
                let own = outputs.by_ref().take(job.texts.len()).collect();
                // Whoever has left in between does not want it.
                let _ = job.answer.send(Ok(own));
            }
        }
        // It may be the fault of one: the others are answered.
        Err(_) if together.len() > 1 => {
            for job in together {
                let own = compute(model, &job.texts, counted).map_err(|error| unreadable(&error, "input"));
                let _ = job.answer.send(own);
            }
        }
        Err(error) => {
            for job in together {
                let _ = job.answer.send(Err(unreadable(&error, "input")));
            }
        }
    }
}

fn compute(model: &mut Model, texts: &[String], counted: &Counted) -> Result<Vec<Output>, NodeError> {
    let began = Instant::now();
    let answer = model.run(texts, None, &|_| {})?;
    let tokens: usize = answer.outputs.iter().map(|output| output.tokens).sum();
    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    for (counter, more) in
        [(&counted.texts, texts.len() as u64), (&counted.tokens, tokens as u64), (&counted.microseconds, took)]
    {
        counter.fetch_add(more, Ordering::Relaxed);
    }
    Ok(answer.outputs)
}
