//! The thread that runs a decoder for many requests at once.
//!
//! # How
//!
//! Again and again, as long as there is something to do:
//!
//! 1. Requests whose clients have left are dropped, wherever they stand.
//! 2. Waiting requests begin, as long as there is room: for their sequences, and for what all rows that they may come to leave. A
//!    sequence goes on from what an earlier one with the same beginning left.
//! 3. One call runs the next row of every sequence that generates, and a piece of the prompts that are not through: short
//!    while others generate, so that nobody waits long for his next token.
//! 4. Whoever's last row was run gets a token. Who has all that was wanted is done.
//! 5. If somebody waits for a receipt, its answer goes through one block in one piece: between the tokens of others, and on the
//!    weights that are there.
//!
//! Which sequences go together changes no byte of any answer.

use super::decoder::{BLOCK_ROWS, Decoder, Later, Past};
use super::one_piece::{OnePiece, Wanted};
use super::prefix::Prefixes;
use super::queue::{Queue, Waiting};
use super::request::{Done, End, Piece};
use super::sample::Likelihood;
use super::{Limits, Statistics};
use crate::error::NodeError;
use crate::receipt::Unsigned;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rows of prompts in a call while others generate, and while nobody does.
const PROMPT_ROWS: (usize, usize) = (128, 512);
/// Rows of prompts in a call of which every row's logits are wanted: a row of logits is large.
const LOOKED_AT: usize = 64;

/// What the engine shares with those who ask.
pub(super) struct Shared {
    pub(super) inner: Mutex<Inner>,
    pub(super) changed: Condvar,
    pub(super) statistics: Mutex<Statistics>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) queue: Queue,
    pub(super) receipts: VecDeque<Wanted>,
    pub(super) ended: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A sequence at work.
struct Sequence {
    waiting: Waiting,
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    past: Past,
    reused: usize,
    /// All tokens so far, with how often each was generated.
    seen: BTreeMap<u32, u32>,
    /// Of the prompt's tokens, the first left out.
    looked_at: Vec<Option<Likelihood>>,
    first: Option<Duration>,
    /// Most tokens that are generated.
    most: usize,
    end: Option<End>,
}

impl Sequence {
    fn prompt(&self) -> usize {
        self.waiting.request.prompt.len()
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.prompt()
    }

    /// Rows that are still to be run before the next token.
    fn left(&self) -> usize {
        self.tokens.len() - self.past.rows
    }

    /// Whether it has left its prompt behind.
    fn generates(&self) -> bool {
        self.left() == 1 && self.generated() > 0
    }

    /// Rows that it may come to, at most, as memory is taken for them.
    fn rows(&self) -> usize {
        (self.prompt() + self.most).next_multiple_of(BLOCK_ROWS)
    }

    /// Its next rows, at most so many, and which of them logits are wanted of.
    fn later(&mut self, most: usize) -> Later<'_> {
        let begin = self.past.rows;
        let end = (begin + most).min(self.tokens.len());
        let through = end == self.tokens.len();
        let request = &self.waiting.request;
        let wanted = match request.prompt_likelihoods && begin < request.prompt.len() {
            true => end - begin,
            false => usize::from(through && self.most > 0),
        };
        let past = std::mem::take(&mut self.past);
        Later { tokens: self.tokens.get(begin..end).unwrap_or_default(), wanted, past }
    }

    /// A call gave this for the rows from `begin` on.
    fn done(&mut self, begin: usize, past: Past, mut logits: Vec<Vec<f32>>) {
        self.past = past;
        let request = &self.waiting.request;
        if request.prompt_likelihoods && begin < request.prompt.len() {
            let top = request.likelihoods.unwrap_or(0);
            for (logits, next) in logits.iter().zip(self.tokens.get(begin + 1..).unwrap_or_default()) {
                self.looked_at.push(Some(Likelihood::of(logits, *next, top)));
            }
        }
        if self.left() > 0 {
            return;
        }
        if request.prompt_likelihoods && self.generated() == 0 {
            let all = std::mem::take(&mut self.looked_at);
            self.tell(Piece::Prompt(std::iter::once(None).chain(all).collect()));
        }
        match logits.pop() {
            Some(logits) if self.most > 0 => self.choose(&logits),
            _ => self.end = Some(End::Length),
        }
    }

    fn choose(&mut self, logits: &[f32]) {
        let request = &self.waiting.request;
        let token = request.sampling.choose(logits, &self.seen, self.tokens.len() as u64);
        let likelihood = request.likelihoods.map(|top| Likelihood::of(logits, token, top));
        let stops = request.stop.contains(&token);
        self.tokens.push(token);
        *self.seen.entry(token).or_insert(0) += 1;
        self.first.get_or_insert(self.waiting.since.elapsed());
        self.tell(Piece::Token { token, likelihood });
        if stops {
            self.end = Some(End::Stop);
        } else if self.generated() >= self.most {
            self.end = Some(End::Length);
        }
    }

    /// There is room for every piece; who does not read them has left, or takes them later.
    fn tell(&self, piece: Piece) {
        let _ = self.waiting.pieces.try_send(piece);
    }
}

/// How far a receipt has come.
enum Progress {
    Begun(OnePiece),
    Done(Unsigned),
}

/// What the thread works with.
pub(super) struct Engine<D> {
    decoder: D,
    limits: Limits,
    shared: Arc<Shared>,
    prefixes: Prefixes,
    running: Vec<Sequence>,
    /// The receipt that is being made, once its run has begun.
    receipt: Option<(Wanted, Option<OnePiece>)>,
    /// Bytes that a row leaves in all blocks, as the last call showed.
    row_bytes: usize,
}

impl<D: Decoder> Engine<D> {
    pub(super) fn new(decoder: D, limits: Limits, shared: Arc<Shared>) -> Self {
        let prefixes = Prefixes::new(limits.prefix_bytes);
        Self { decoder, limits, shared, prefixes, running: Vec::new(), receipt: None, row_bytes: 0 }
    }

    /// Run some tokens, so that what a row leaves is known and everything is warm.
    pub(super) fn warm_up(&mut self) -> Result<(), NodeError> {
        let tokens = vec![0; BLOCK_ROWS.min(self.limits.context).max(1)];
        let later = Later { tokens: &tokens, wanted: 1, past: Past::default() };
        let decoded = self.decoder.decode(vec![later])?;
        self.row_bytes = decoded.first().map_or(0, |decoded| decoded.past.bytes().div_ceil(tokens.len()));
        Ok(())
    }

    /// Work until the generator ends.
    pub(super) fn run(mut self) {
        while self.begin() {
            if !self.running.is_empty() {
                self.step();
            }
            self.go_over();
            let mut statistics = lock(&self.shared.statistics);
            statistics.running = self.running.len() as u64;
            statistics.kept_bytes = self.prefixes.bytes() as u64;
        }
        for sequence in &self.running {
            sequence.tell(Piece::Failed("the model does not run any more".into()));
        }
    }

    /// Let requests begin, waiting for one if there is nothing else to do. `false`: the generator ended.
    fn begin(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut inner = lock(&shared.inner);
        loop {
            if inner.ended {
                return false;
            }
            self.running.retain(|sequence| !sequence.waiting.pieces.is_closed());
            inner.queue.forget_left();
            while let Some(next) = inner.queue.next() {
                if !self.has_room(next) {
                    break;
                }
                if let Some(waiting) = inner.queue.take() {
                    let sequence = self.opened(waiting);
                    self.running.push(sequence);
                }
            }
            let mut statistics = lock(&shared.statistics);
            (statistics.running, statistics.waiting) = (self.running.len() as u64, inner.queue.len() as u64);
            drop(statistics);
            self.receipt = self.receipt.take().or_else(|| inner.receipts.pop_front().map(|wanted| (wanted, None)));
            if !self.running.is_empty() || self.receipt.is_some() {
                return true;
            }
            inner = shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn has_room(&mut self, next: &Waiting) -> bool {
        if self.running.is_empty() {
            return true;
        }
        let rows: usize = self.running.iter().map(Sequence::rows).sum();
        let wanted = (next.request.prompt.len() + self.most(next)).next_multiple_of(BLOCK_ROWS);
        let bytes = rows.saturating_add(wanted).saturating_mul(self.row_bytes);
        self.running.len() < self.limits.sequences && bytes <= self.limits.past_bytes
    }

    /// Most tokens that are generated for a request.
    fn most(&self, waiting: &Waiting) -> usize {
        let context = self.limits.context.saturating_sub(waiting.request.prompt.len());
        (waiting.request.max_tokens as usize).min(context)
    }

    fn opened(&mut self, waiting: Waiting) -> Sequence {
        let most = self.most(&waiting);
        let request = &waiting.request;
        let past = match request.reuse && !request.prompt_likelihoods {
            true => self.prefixes.get(&request.prompt),
            false => Past::default(),
        };
        let tokens = request.prompt.clone();
        let seen = tokens.iter().map(|&token| (token, 0)).collect();
        let mut statistics = lock(&self.shared.statistics);
        statistics.requests += 1;
        statistics.prompt_tokens += tokens.len() as u64;
        statistics.reused_tokens += past.rows as u64;
        let (reused, looked_at) = (past.rows, Vec::new());
        Sequence { waiting, tokens, past, reused, seen, looked_at, first: None, most, end: None }
    }

    /// One call for all that run.
    fn step(&mut self) {
        let generating = self.running.iter().filter(|sequence| sequence.generates()).count();
        let mut prompt_rows = if generating > 0 { PROMPT_ROWS.0 } else { PROMPT_ROWS.1 };
        let (mut batch, mut places) = (Vec::new(), Vec::new());
        for (at, sequence) in self.running.iter_mut().enumerate() {
            let rows = if sequence.generates() { 1 } else { prompt_rows.min(sequence.left()) };
            let rows = if sequence.waiting.request.prompt_likelihoods { rows.min(LOOKED_AT) } else { rows };
            if rows == 0 {
                continue;
            }
            if !sequence.generates() {
                prompt_rows -= rows;
            }
            places.push((at, sequence.past.rows));
            batch.push(sequence.later(rows));
        }
        let began = Instant::now();
        let result = self.decoder.decode(batch);
        let took = began.elapsed();
        match result {
            Ok(decoded) => {
                for ((at, begin), decoded) in places.into_iter().zip(decoded) {
                    if let Some(sequence) = self.running.get_mut(at) {
                        let before = sequence.tokens.len();
                        sequence.done(begin, decoded.past, decoded.logits);
                        let mut statistics = lock(&self.shared.statistics);
                        statistics.generated_tokens += (sequence.tokens.len() - before) as u64;
                    }
                }
            }
            Err(error) => {
                let elsewhere = matches!(error, NodeError::Swarm(_) | NodeError::NoPlan(_));
                let error = error.in_full();
                tracing::error!(error, "a call of the model failed");
                let piece = if elsewhere { Piece::Unavailable } else { Piece::Failed };
                // What was in the call has lost what it went on from.
                for (at, _) in places.into_iter().rev() {
                    let sequence = self.running.swap_remove(at);
                    sequence.tell(piece(error.clone()));
                }
            }
        }
        let mut statistics = lock(&self.shared.statistics);
        statistics.calls += 1;
        statistics.busy += took;
        drop(statistics);
        self.finish();
    }

    /// Run the next block for a receipt, if one is wanted.
    fn go_over(&mut self) {
        let Some((wanted, piece)) = self.receipt.take() else { return };
        if wanted.tell.is_closed() {
            return;
        }
        match self.gone_over(&wanted, piece) {
            Ok(Progress::Begun(piece)) => self.receipt = Some((wanted, Some(piece))),
            Ok(Progress::Done(unsigned)) => drop(wanted.tell.send(Ok(unsigned))),
            Err(error) => drop(wanted.tell.send(Err(error))),
        }
    }

    fn gone_over(&mut self, wanted: &Wanted, piece: Option<OnePiece>) -> Result<Progress, NodeError> {
        let model = self.decoder.model()?;
        let Some(mut piece) = piece else {
            return OnePiece::new(model, wanted.generated.clone()).map(Progress::Begun);
        };
        Ok(if piece.next(model)? { Progress::Done(piece.unsigned(model)?) } else { Progress::Begun(piece) })
    }

    /// Let go of those who are done.
    fn finish(&mut self) {
        let (done, running) = std::mem::take(&mut self.running).into_iter().partition(|one| one.end.is_some());
        self.running = running;
        let done: Vec<Sequence> = done;
        for sequence in done {
            let total = sequence.waiting.since.elapsed();
            let (reused, first) = (sequence.reused, sequence.first.unwrap_or(total));
            if let Some(end) = sequence.end {
                sequence.tell(Piece::Done(Done { end, reused, first, total }));
            }
            if sequence.waiting.request.reuse {
                self.prefixes.put(sequence.tokens, sequence.past);
            }
        }
    }
}
