//! Text from tokens as they come.
//!
//! # How
//!
//! 1. A token may be a part of a character: what cannot be read yet waits for the next token.
//! 2. What may become one of the strings that end an answer waits until it is one, or cannot be.

use crate::tokens::Tokens;

/// Most bytes of a character that waits: after them it is shown as what cannot be read.
const MOST_WAITING: usize = 16;

/// Makes text of tokens.
pub struct TextStream<'a> {
    tokens: &'a Tokens,
    stop: Vec<String>,
    /// Tokens from the last border of characters but one on.
    ids: Vec<u32>,
    /// Of these, before the last border.
    read: usize,
    /// Text that is not given out yet.
    held: String,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokens: &'a Tokens, stop: Vec<String>) -> Self {
        let stop = stop.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { tokens, stop, ids: Vec::new(), read: 0, held: String::new(), stopped: false }
    }

    /// The next token's text, and what waited, as far as it can be given out.
    pub fn push(&mut self, token: u32) -> String {
        self.ids.push(token);
        let before = self.tokens.text_of(self.ids.get(..self.read).unwrap_or_default(), true);
        let after = self.tokens.text_of(&self.ids, true);
        let waits = after.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.read < MOST_WAITING;
        if !waits {
            // The text of tokens depends on the token before them, and on no other.
            self.held.push_str(after.strip_prefix(&before).unwrap_or(&after));
            self.ids.drain(..self.read);
            self.read = self.ids.len();
        }
        self.given_out()
    }

    /// Whatever is left: no token follows.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let before = self.tokens.text_of(self.ids.get(..self.read).unwrap_or_default(), true);
        let after = self.tokens.text_of(&self.ids, true);
        self.held.push_str(after.strip_prefix(&before).unwrap_or(""));
        (self.ids, self.read) = (Vec::new(), 0);
        let text = self.given_out();
        if self.stopped { text } else { text + &std::mem::take(&mut self.held) }
    }

    /// Whether one of the strings came that end the answer. Nothing more is given out then.
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn given_out(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = self.stop.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Bytes at the end of `text` that `stop` begins with.
fn begun(text: &str, stop: &str) -> usize {
    let most = text.len().min(stop.len().saturating_sub(1));
    (1..=most).rev().find(|&n| text.as_bytes().ends_with(stop.as_bytes().get(..n).unwrap_or_default())).unwrap_or(0)
}
