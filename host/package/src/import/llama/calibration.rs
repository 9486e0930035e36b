//! The built-in texts as tokens: what the codes are fitted to.

use super::{CALIBRATION, config::Config, text::Text};

/// Most rows: bounds the time an odd tokenizer can cost.
const MAX_ROWS: usize = 8192;
/// Longest sequence.
const LONGEST: usize = 512;

/// Sequences of tokens, one after another.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) ids: Vec<i32>,
    pub(super) lengths: Vec<i32>,
}

impl Batch {
    /// All texts in one long piece, cut into sequences. Without any token (a tokenizer that finds nothing
    /// in them): the first tokens of the vocabulary, in order.
    pub(super) fn new(text: &Text, config: &Config, positions: usize) -> Self {
        let most = LONGEST.min(positions);
        let begin = &text.generation.begin;
        let encoding = text.tokenizer.encode(CALIBRATION, false);
        let mut rest: Vec<u32> = encoding.map(|e| e.get_ids().to_vec()).unwrap_or_default();
        if rest.is_empty() {
            rest = (0..u32::MAX).take(config.vocabulary.min(most)).collect();
        }
        rest.truncate(MAX_ROWS);
        let mut batch = Self { ids: Vec::new(), lengths: Vec::new() };
        // The settings were checked: what begins a text leaves room in it.
        for piece in rest.chunks(most.saturating_sub(begin.len()).max(1)) {
            let ids = begin.iter().chain(piece).filter_map(|&id| i32::try_from(id).ok());
            let before = batch.ids.len();
            batch.ids.extend(ids);
            batch.lengths.extend(i32::try_from(batch.ids.len() - before));
        }
        batch
    }
}
