//! The tokenizer, and the calibration texts as ids.

use super::{CALIBRATION, ImportError, config::Config, tokenizer};
use std::path::Path;
use tokenizers::Tokenizer;

/// Most calibration rows: bounds the time an odd tokenizer can cost.
const MAX_ROWS: usize = 8192;
/// Rows of random ids beside them.
const SCRAMBLED: usize = 3000;
/// One text of so many is judged by.
const JUDGED: usize = 3;

/// Texts as ids, one after another.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    pub(super) ids: Vec<i32>,
    pub(super) lengths: Vec<usize>,
    /// How many of them, the last, answers are judged by.
    pub(super) judged: usize,
}

impl Batch {
    /// How many rows come before the judged texts.
    pub(super) fn unjudged_rows(&self) -> usize {
        self.lengths.iter().take(self.lengths.len().saturating_sub(self.judged)).sum()
    }

    /// The judged texts of at most `longest` rows, and which they are.
    pub(super) fn short_judged(&self, longest: usize) -> (Self, Vec<usize>) {
        let mut out = Self::default();
        let mut which = Vec::new();
        let mut rest = self.ids.get(self.unjudged_rows()..).unwrap_or_default();
        for (i, &length) in self.lengths.iter().enumerate().skip(self.lengths.len().saturating_sub(self.judged)) {
            let (ids, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            if length <= longest {
                out.push(ids);
                which.push(i);
            }
        }
        out.judged = which.len();
        (out, which)
    }

    fn push(&mut self, ids: &[i32]) {
        self.ids.extend(ids);
        self.lengths.push(ids.len());
    }

    /// As the exact operations want them.
    pub(super) fn lengths_i32(&self) -> Vec<i32> {
        self.lengths.iter().map(|&l| i32::try_from(l).unwrap_or(i32::MAX)).collect()
    }
}

/// A checked tokenizer.
pub(super) struct Tokens {
    tokenizer: Tokenizer,
    /// The file without padding and truncation: those are the caller's business, not the model's.
    pub(super) cleaned: Vec<u8>,
}

impl Tokens {
    pub(super) fn read(directory: &Path, config: &Config) -> Result<Self, ImportError> {
        let (tokenizer, cleaned) = tokenizer::read(directory, config.vocabulary)?;
        Ok(Self { tokenizer, cleaned })
    }

    /// The calibration texts, those that answers are judged by last. Without any (a tokenizer that finds
    /// nothing in them): ids in order.
    pub(super) fn calibration(&self, config: &Config) -> Batch {
        let most = (config.max_tokens as usize).min(MAX_ROWS);
        let mut batch = Batch::default();
        let mut judged = Batch::default();
        for (i, text) in CALIBRATION.lines().filter(|l| !l.is_empty()).enumerate() {
            let Ok(encoding) = self.tokenizer.encode(text, true) else { continue };
            let ids = cut(encoding.get_ids(), most);
            if ids.is_empty() || batch.ids.len() + judged.ids.len() + ids.len() > MAX_ROWS {
                continue;
            }
            if i % JUDGED == JUDGED - 1 { &mut judged } else { &mut batch }.push(&ids);
        }
        let room = MAX_ROWS - batch.ids.len() - judged.ids.len();
        self.scramble(config, most, SCRAMBLED.min(room), &mut batch);
        if batch.ids.is_empty() {
            let ids: Vec<i32> = (0..config.vocabulary.min(most)).filter_map(|id| i32::try_from(id).ok()).collect();
            batch.push(&ids);
        }
        batch.judged = judged.lengths.len();
        batch.ids.extend(judged.ids);
        batch.lengths.extend(judged.lengths);
        batch
    }

    /// Random ids framed as a text is: a hundred texts know a small part of the vocabulary, and weights
    /// fitted to them alone do worse on the rest.
    fn scramble(&self, config: &Config, most: usize, rows: usize, batch: &mut Batch) {
        let Ok(empty) = self.tokenizer.encode("", true) else { return };
        let (opening, closing) = match empty.get_ids() {
            [] => (None, None),
            [only] => (Some(*only), None),
            [first, .., last] => (Some(*first), Some(*last)),
        };
        let goal = batch.ids.len() + rows;
        let mut state = 1u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n.max(1)
        };
        while batch.ids.len() < goal {
            let length = (6 + below(50)).min(most.saturating_sub(2)).max(1);
            let ids: Vec<u32> = (0..length).filter_map(|_| u32::try_from(below(config.vocabulary)).ok()).collect();
            let framed: Vec<u32> = opening.into_iter().chain(ids).chain(closing).collect();
            batch.push(&cut(&framed, most));
        }
    }
}

/// At most `most` ids; the last one, which closes a text, stays the last.
fn cut(ids: &[u32], most: usize) -> Vec<i32> {
    let (kept, closing) = match ids.split_last() {
        Some((last, rest)) if ids.len() > most => (rest.get(..most.saturating_sub(1)).unwrap_or(rest), Some(last)),
        _ => (ids, None),
    };
    kept.iter().chain(closing).filter_map(|&id| i32::try_from(id).ok()).collect()
}
