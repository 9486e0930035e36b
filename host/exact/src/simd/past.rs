//! Keys and values of the earlier rows of a sequence, coded and packed.
//!
//! # How
//!
//! 1. Each head of keys and values has a list of blocks of 64 rows. In a block the keys are four panels of 16 columns
//!    over the head's width, and the values are panels of 16 columns over the block's rows: what the kernel of the
//!    products takes ([`tile`](super::tile)).
//! 2. A row is coded by itself, so it never changes once it is there. Clones share their blocks; one that appends
//!    first copies the block that it appends to.
//! 3. A block holds as many rows as weighted values fit 32 bits: `32767 * 1023 * 64 < 2^31`.

use super::attention::code;
use super::level::Proven;
use super::tile::{COLUMNS, Pairs, Step};
use crate::layer::MAX_HEADS;
use crate::ragged::ShapeError;
use crate::reference::{Grouped, MAX_HEAD_WIDTH, QUERY_KEY_CODE, VALUE_CODE};
use std::sync::Arc;

/// Rows of a block.
pub(super) const BLOCK_ROWS: usize = 64;
/// Pairs of rows of a block.
pub(super) const BLOCK_PAIRS: usize = BLOCK_ROWS / Pairs::WIDTH;

/// Coded keys and values of one sequence in one block of a model: append-only, but for
/// [`truncate`](Self::truncate). A clone shares memory with what it was cloned from.
#[derive(Clone)]
pub struct Past {
    width: usize,
    rows: usize,
    /// Blocks of each head.
    heads: Vec<Vec<Arc<Block>>>,
}

impl Past {
    /// Of no rows, for `kv_heads` heads of keys and values of `width` columns.
    ///
    /// # Errors
    /// No heads or over 1024, no columns or over 128.
    pub fn new(kv_heads: usize, width: usize) -> Result<Self, ShapeError> {
        if !(1..=MAX_HEADS).contains(&kv_heads) || !(1..=MAX_HEAD_WIDTH).contains(&width) {
            return Err(ShapeError(format!(
                "{kv_heads} heads of keys and values of {width} columns: 1 to {MAX_HEADS} of 1 to {MAX_HEAD_WIDTH}"
            )));
        }
        Ok(Self { width, rows: 0, heads: vec![Vec::new(); kv_heads] })
    }

    /// How many rows it holds.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that its rows take; those it shares with clones are counted in each.
    pub fn bytes(&self) -> usize {
        self.bytes_of(self.rows)
    }

    /// Bytes that it would take with that many rows.
    pub fn bytes_of(&self, rows: usize) -> usize {
        rows.div_ceil(BLOCK_ROWS).saturating_mul(self.heads.len()).saturating_mul(Block::bytes(self.width))
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.heads.len()
    }

    /// Columns of a head.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Forget all rows from this one on.
    pub fn truncate(&mut self, rows: usize) {
        if rows < self.rows {
            self.rows = rows;
            self.heads.iter_mut().for_each(|blocks| blocks.truncate(rows.div_ceil(BLOCK_ROWS)));
        }
    }

    /// Whether it is of these heads.
    pub(super) fn expect(&self, shape: Grouped) -> Result<(), ShapeError> {
        if (self.kv_heads(), self.width) == (shape.kv_heads, shape.width) {
            return Ok(());
        }
        let (have, width) = (self.kv_heads(), self.width);
        Err(ShapeError(format!(
            "a past of {have} heads of {width} columns, for {} heads of {} columns",
            shape.kv_heads, shape.width
        )))
    }

    /// The blocks of a head.
    pub(super) fn blocks(&self, kv_head: usize) -> &[Arc<Block>] {
        self.heads.get(kv_head).map_or(&[], Vec::as_slice)
    }

    /// Make room for `count` more rows, the first of which is row `first` of the call: what is to be written where.
    pub(super) fn grow(&mut self, first: usize, count: usize) -> Vec<Vacant<'_>> {
        let (before, after) = (self.rows, self.rows + count);
        let width = self.width;
        self.rows = after;
        let mut vacant = Vec::with_capacity(self.heads.len() * (count / BLOCK_ROWS + 2));
        for (kv_head, blocks) in self.heads.iter_mut().enumerate() {
            blocks.resize_with(after.div_ceil(BLOCK_ROWS), || Arc::new(Block::new(width)));
            for (i, block) in blocks.iter_mut().enumerate().skip(before / BLOCK_ROWS) {
                let start = before.max(i * BLOCK_ROWS);
                let end = after.min((i + 1) * BLOCK_ROWS);
                vacant.push(Vacant {
                    block: Arc::make_mut(block),
                    kv_head,
                    at: start - i * BLOCK_ROWS,
                    first: first + start - before,
                    count: end - start,
                });
            }
        }
        vacant
    }
}

impl core::fmt::Debug for Past {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} rows of {} heads of {} columns", self.rows, self.heads.len(), self.width)
    }
}

/// Rows of a block that are to be written.
pub(super) struct Vacant<'a> {
    pub(super) block: &'a mut Block,
    pub(super) kv_head: usize,
    /// The first of them, in the block.
    pub(super) at: usize,
    /// The first of them, in the call.
    pub(super) first: usize,
    /// How many.
    pub(super) count: usize,
}

/// 64 rows of one head.
#[derive(Clone)]
pub(super) struct Block {
    /// Four panels of keys, over the head's columns.
    keys: Vec<Pairs>,
    key_scales: [f32; BLOCK_ROWS],
    /// Panels of columns, over the block's rows.
    values: Vec<Pairs>,
    value_scales: [f32; BLOCK_ROWS],
}

impl Block {
    fn new(width: usize) -> Self {
        Self {
            keys: vec![Pairs::ZERO; BLOCK_ROWS / COLUMNS * width.div_ceil(Pairs::WIDTH)],
            key_scales: [0.0; BLOCK_ROWS],
            values: vec![Pairs::ZERO; width.div_ceil(COLUMNS) * BLOCK_PAIRS],
            value_scales: [0.0; BLOCK_ROWS],
        }
    }

    /// Bytes of a block with heads of `width` columns.
    fn bytes(width: usize) -> usize {
        let steps = BLOCK_ROWS / COLUMNS * width.div_ceil(Pairs::WIDTH) + width.div_ceil(COLUMNS) * BLOCK_PAIRS;
        size_of::<Self>() + steps * size_of::<Pairs>()
    }

    /// Panels of keys with the scales of their rows.
    pub(super) fn keys(&self, width: usize) -> impl Iterator<Item = (&[Pairs], &[f32; COLUMNS])> + Clone {
        self.keys.chunks_exact(width.div_ceil(Pairs::WIDTH)).zip(self.key_scales.as_chunks::<COLUMNS>().0)
    }

    /// The steps of a panel of values.
    pub(super) fn values(&self, panel: usize) -> &[Pairs] {
        self.values.get(panel * BLOCK_PAIRS..(panel + 1) * BLOCK_PAIRS).unwrap_or(&[])
    }

    /// The scales of the values.
    pub(super) fn value_scales(&self) -> &[f32; BLOCK_ROWS] {
        &self.value_scales
    }

    /// Code one row of keys and one of values into row `at`.
    pub(super) fn write(&mut self, level: Proven, at: usize, key: &[f32], value: &[f32]) {
        let mut codes = [0i16; MAX_HEAD_WIDTH];
        let depth = key.len().div_ceil(Pairs::WIDTH);
        let scale = coded(level, key, QUERY_KEY_CODE, &mut codes);
        if let Some(slot) = self.key_scales.get_mut(at) {
            *slot = scale;
        }
        let steps = self.keys.iter_mut().skip(at / COLUMNS * depth).take(depth);
        for (step, &pair) in steps.zip(codes.as_chunks::<2>().0) {
            if let Some(slot) = step.0.as_chunks_mut::<2>().0.get_mut(at % COLUMNS) {
                *slot = pair;
            }
        }

        // Columns after the head's last stay 0: keys and values are equally wide.
        let scale = coded(level, value, VALUE_CODE, &mut codes);
        if let Some(slot) = self.value_scales.get_mut(at) {
            *slot = scale;
        }
        let panels = self.values.chunks_exact_mut(BLOCK_PAIRS).zip(codes.as_chunks::<COLUMNS>().0);
        for (panel, codes) in panels {
            let Some(step) = panel.get_mut(at / 2) else { return };
            for (slot, &code) in step.0.iter_mut().skip(at % 2).step_by(2).zip(codes) {
                *slot = code;
            }
        }
    }
}

/// Code a row of a head into the first of `codes`; the result is its scale.
pub(super) fn coded(level: Proven, x: &[f32], max_code: f32, codes: &mut [i16]) -> f32 {
    code(level, x, max_code, codes.get_mut(..x.len()).unwrap_or(&mut []))
}
