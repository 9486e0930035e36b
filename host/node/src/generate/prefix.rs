//! What earlier sequences left, for those that begin alike.
//!
//! # How
//!
//! 1. When a sequence ends, what its rows left is put here under its tokens.
//! 2. A new sequence gets a copy of what the longest beginning that it shares left. The blocks are exact: it is what running the same
//!    tokens again would leave, to the byte.
//! 3. What was not used for longest goes when there are more bytes than may be kept.

use super::decoder::Past;
use std::collections::VecDeque;

/// Beginnings shorter than this are run again: it takes no longer than to copy.
const LEAST: usize = 4;
/// Most sequences: the search looks at each.
const MOST: usize = 256;

struct Entry {
    tokens: Vec<u32>,
    past: Past,
}

/// What is kept, the one that was used last in front.
pub(super) struct Prefixes {
    entries: VecDeque<Entry>,
    bytes: usize,
    most_bytes: usize,
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Prefixes {
    pub(super) const fn new(most_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, most_bytes }
    }

    /// Bytes that are kept.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keep what running these tokens left.
    pub(super) fn put(&mut self, mut tokens: Vec<u32>, past: Past) {
        tokens.truncate(past.rows);
        let bytes = past.bytes();
        if tokens.len() < LEAST || tokens.len() < past.rows || bytes > self.most_bytes {
            return;
        }
        // What begins another sequence as a whole is in that one.
        let covers = |longer: &[u32], shorter: &[u32]| common(longer, shorter) == shorter.len();
        if self.entries.iter().any(|entry| covers(&entry.tokens, &tokens)) {
            return;
        }
        self.keep_if(|entry| !covers(&tokens, &entry.tokens));
        while self.entries.len() >= MOST || self.bytes.saturating_add(bytes) > self.most_bytes {
            self.drop_oldest();
        }
        self.bytes += bytes;
        self.entries.push_front(Entry { tokens, past });
    }

    /// A copy of what the longest beginning of these tokens left, shorter than all of them: the last one's logits are wanted.
    pub(super) fn get(&mut self, tokens: &[u32]) -> Past {
        let most = tokens.len().saturating_sub(1);
        let shared = |entry: &Entry| common(&entry.tokens, tokens).min(most);
        let best = self.entries.iter().enumerate().map(|(at, entry)| (shared(entry), at)).max_by_key(|&(rows, _)| rows);
        let Some((rows, at)) = best.filter(|&(rows, _)| rows >= LEAST) else { return Past::default() };
        let Some(entry) = self.entries.remove(at) else { return Past::default() };
        let past = entry.past.first(rows);
        self.entries.push_front(entry);
        past
    }

    /// Make room for what runs now.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let oldest = self.entries.pop_back();
        self.bytes = self.bytes.saturating_sub(oldest.as_ref().map_or(0, |entry| entry.past.bytes()));
        oldest.is_some()
    }

    fn keep_if(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.entries.retain(keep);
        self.bytes = self.entries.iter().map(|entry| entry.past.bytes()).sum();
    }
}
