//! What is asked of a generator, and what comes back piece by piece.

use super::sample::{Likelihood, OutOfRange, Sampling};
use std::time::Duration;
use tokio::sync::mpsc;

/// Most likelihoods beside a token.
pub const MAX_TOP: usize = 20;

/// A text to go on with, as tokens.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// Who asks: requests of different clients take turns.
    pub client: u64,
    /// The tokens so far, at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; less where the model's context ends. 0: only look at the prompt.
    pub max_tokens: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end the answer; they are the last of it.
    pub stop: Vec<u32>,
    /// How likely each token was, with so many beside it.
    pub likelihoods: Option<usize>,
    /// The same for the prompt's tokens.
    pub prompt_likelihoods: bool,
    /// Whether what others asked may be gone on from. It changes no byte, but when an answer begins tells whether somebody asked
    /// the same before.
    pub reuse: bool,
}

/// What comes of a request, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// How likely the prompt's tokens were; nothing can be said of the first. Comes first, if it was asked for.
    Prompt(Vec<Option<Likelihood>>),
    /// The next token.
    Token {
        /// Which.
        token: u32,
        /// How likely it was, if that was asked for.
        likelihood: Option<Likelihood>,
    },
    /// The last piece of an answer.
    Done(Done),
    /// The last piece instead: it could not be answered, and why.
    Failed(String),
    /// Likewise: nobody runs the model now, and why. It may be run again later.
    Unavailable(String),
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Why.
    pub end: End,
    /// Tokens of the prompt that were not computed again.
    pub reused: usize,
    /// From the request to its first token, or to its end where none was wanted.
    pub first: Duration,
    /// From the request to its end.
    pub total: Duration,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// One of the tokens that end it.
    Stop,
    /// As many tokens as were wanted, or as fit the model's context.
    Length,
}

/// The pieces of an answer. Dropping it ends the work.
#[derive(Debug)]
pub struct Pieces(pub(super) mpsc::Receiver<Piece>);

impl Pieces {
    /// The next piece. `None` after the last one, or if the generator ended.
    pub async fn next(&mut self) -> Option<Piece> {
        self.0.recv().await
    }

    /// The next piece, for threads of their own.
    pub fn blocking_next(&mut self) -> Option<Piece> {
        self.0.blocking_recv()
    }
}

/// A request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be answered as it is.
    #[error(transparent)]
    Setting(#[from] OutOfRange),
    /// The prompt is empty.
    #[error("the prompt has no tokens: give a text that is not empty")]
    Empty,
    /// The prompt does not fit.
    #[error("the prompt has {tokens} tokens, and the model's context ends at {context}: give a shorter one")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The model's.
        context: usize,
    },
    /// A token that there is not.
    #[error("token {token} is none of the model's {vocabulary}")]
    Token {
        /// Which.
        token: u32,
        /// How many there are.
        vocabulary: u32,
    },
    /// Too many likelihoods.
    #[error("{0} likelihoods a token: at most {MAX_TOP}")]
    Top(usize),
    /// Everything is full.
    #[error("{waiting} requests wait already: try again in {} s", after.as_secs())]
    Busy {
        /// Requests that wait.
        waiting: usize,
        /// When it may be better.
        after: Duration,
    },
    /// The generator has ended.
    #[error("the model does not run any more")]
    Ended,
}
