//! Keys and values of one sequence, coded and packed for the kernel of the products.
//!
//! Keys are panels of 16 columns over the head's width, values are panels of 16 columns over the sequence's rows. Rows
//! are packed in blocks of 16, each by whichever thread: the one whose rows they are has them in its cache.

use super::attention::{Sequence, Shape, code};
use super::crew::Shared;
use super::instantiate::instantiate;
use super::tile::{COLUMNS, Pairs, Step};
use crate::reference::{MAX_HEAD_WIDTH, QUERY_KEY_CODE, VALUE_CODE};
use core::ops::Range;

/// Rows of a block: a panel of keys.
pub(super) const BLOCK_ROWS: usize = COLUMNS;
/// Most panels of values in a head.
const MAX_VALUE_PANELS: usize = MAX_HEAD_WIDTH / COLUMNS;

instantiate! {
    /// Put two rows of value codes into their step of each panel.
    fn pair_values(even: &[i16], odd: &[i16], steps: &mut [Pairs]) = pair_values_body;
}

/// Some heads of one sequence, one after another. What fills them up to whole panels is 0.
pub(super) struct Heads {
    size: Size,
    keys: Vec<Pairs>,
    key_scales: Vec<f32>,
    values: Vec<Pairs>,
    value_scales: Vec<f32>,
}

/// One of them.
pub(super) struct Head<'a> {
    pub(super) keys: &'a [Pairs],
    pub(super) key_scales: &'a [f32],
    pub(super) values: &'a [Pairs],
    pub(super) value_scales: &'a [f32],
}

/// [`Heads`] that are being packed.
pub(super) struct Packing<'a> {
    size: Size,
    keys: Shared<'a, Pairs>,
    key_scales: Shared<'a, f32>,
    values: Shared<'a, Pairs>,
    value_scales: Shared<'a, f32>,
}

/// What one head takes.
#[derive(Clone, Copy)]
struct Size {
    blocks: usize,
    /// Steps of a panel of keys.
    key_depth: usize,
    /// Steps of a panel of values.
    value_depth: usize,
    value_panels: usize,
}

impl Size {
    fn keys(&self) -> usize {
        self.blocks * self.key_depth
    }

    fn values(&self) -> usize {
        self.value_panels * self.value_depth
    }

    fn scales(&self) -> usize {
        self.blocks * BLOCK_ROWS
    }
}

impl Heads {
    /// Room for so many heads of a sequence.
    pub(super) fn new(shape: &Shape, sequence: &Sequence<'_>, heads: usize) -> Self {
        let size = Size {
            blocks: sequence.length.div_ceil(BLOCK_ROWS),
            key_depth: shape.depth(),
            value_depth: sequence.length.div_ceil(Pairs::WIDTH),
            value_panels: shape.d.div_ceil(COLUMNS),
        };
        Self {
            size,
            keys: vec![Pairs::ZERO; heads * size.keys()],
            key_scales: vec![0.0; heads * size.scales()],
            values: vec![Pairs::ZERO; heads * size.values()],
            value_scales: vec![0.0; heads * size.scales()],
        }
    }

    /// How many blocks of rows there are to pack.
    pub(super) fn blocks(&self) -> usize {
        self.size.blocks
    }

    /// Pack them.
    pub(super) fn packing(&mut self) -> Packing<'_> {
        Packing {
            size: self.size,
            keys: Shared::new(&mut self.keys),
            key_scales: Shared::new(&mut self.key_scales),
            values: Shared::new(&mut self.values),
            value_scales: Shared::new(&mut self.value_scales),
        }
    }

    /// The head at `at`, from 0.
    pub(super) fn head(&self, at: usize) -> Head<'_> {
        fn part<T>(all: &[T], at: usize, size: usize) -> &[T] {
            all.get(at * size..(at + 1) * size).unwrap_or(&[])
        }
        Head {
            keys: part(&self.keys, at, self.size.keys()),
            key_scales: part(&self.key_scales, at, self.size.scales()),
            values: part(&self.values, at, self.size.values()),
            value_scales: part(&self.value_scales, at, self.size.scales()),
        }
    }
}

impl Packing<'_> {
    /// Code and pack the rows of `block` in these heads of the sequence, the first of which is stored first.
    ///
    /// # Safety
    /// Nobody else packs this block.
    #[allow(unsafe_code)]
    pub(super) unsafe fn block(&self, shape: &Shape, sequence: &Sequence<'_>, block: usize, heads: Range<usize>) {
        let first = block * BLOCK_ROWS;
        let count = (sequence.length - first).min(BLOCK_ROWS);
        for (at, head) in heads.enumerate() {
            let (size, scales) = (self.size, at * self.size.scales() + first);
            let keys = at * size.keys() + block * size.key_depth;
            // SAFETY: each head's keys and scales of a block lie apart from all others, and so do the steps of its
            // values in each panel, below.
            let (keys, key_scales, value_scales) = unsafe {
                (
                    self.keys.range(keys, keys + size.key_depth),
                    self.key_scales.range(scales, scales + count),
                    self.value_scales.range(scales, scales + count),
                )
            };
            let mut codes = [0i16; MAX_HEAD_WIDTH];
            for (j, scale) in key_scales.iter_mut().enumerate() {
                let columns = sequence.columns(shape, first + j, 1, head);
                *scale = code(shape.level, columns, QUERY_KEY_CODE, codes.get_mut(..shape.d).unwrap_or(&mut []));
                for (step, &pair) in keys.iter_mut().zip(codes.as_chunks::<2>().0) {
                    if let Some(slot) = step.0.as_chunks_mut::<2>().0.get_mut(j) {
                        *slot = pair;
                    }
                }
            }
            for (pair, scales) in value_scales.chunks_mut(Pairs::WIDTH).enumerate() {
                let mut codes = [[0i16; MAX_HEAD_WIDTH]; 2];
                for ((odd, scale), codes) in scales.iter_mut().enumerate().zip(&mut codes) {
                    let codes = codes.get_mut(..shape.d).unwrap_or(&mut []);
                    let row = first + pair * Pairs::WIDTH + odd;
                    *scale = code(shape.level, sequence.columns(shape, row, 2, head), VALUE_CODE, codes);
                }
                let mut steps = [Pairs::ZERO; MAX_VALUE_PANELS];
                let [even, odd] = &codes;
                pair_values(shape.level, even, odd, &mut steps);
                for (panel, step) in steps.iter().enumerate().take(size.value_panels) {
                    let place = at * size.values() + panel * size.value_depth + first / Pairs::WIDTH + pair;
                    // SAFETY: as above.
                    unsafe { self.values.range(place, place + 1) }.fill(*step);
                }
            }
        }
    }
}

#[inline(always)]
fn pair_values_body(even: &[i16], odd: &[i16], steps: &mut [Pairs]) {
    let columns = even.as_chunks::<COLUMNS>().0.iter().zip(odd.as_chunks::<COLUMNS>().0);
    for (step, (even, odd)) in steps.iter_mut().zip(columns) {
        for ((slot, &even), &odd) in step.0.as_chunks_mut::<2>().0.iter_mut().zip(even).zip(odd) {
            *slot = [even, odd];
        }
    }
}
