//! Causal attention with grouped keys and values: what a decoder does.

use super::attention::{Coded, attend};
use super::{MAX_HEAD_WIDTH, QUERY_KEY_CODE, VALUE_CODE, expect_len};
use crate::layer::MAX_HEADS;
use crate::ragged::{Lengths, ShapeError};
use alloc::{format, vec::Vec};

/// Most rows of a sequence: `32767 * 1023 * 2^20 < 2^53` and `2^20 * 2^20 < 2^53`, so the sums of a row are
/// exact in 64-bit integers and in f64 alike.
pub const MAX_CONTEXT: usize = 1 << 20;

/// The heads of causal attention, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grouped {
    /// Heads of queries.
    pub(crate) heads: usize,
    /// Heads of keys and of values.
    pub(crate) kv_heads: usize,
    /// Columns of a head.
    pub(crate) width: usize,
}

impl Grouped {
    /// The heads, or what is wrong with them.
    pub(crate) fn new(heads: usize, kv_heads: usize, width: usize) -> Result<Self, ShapeError> {
        if !(1..=MAX_HEAD_WIDTH).contains(&width) {
            return Err(ShapeError(format!("heads of {width} columns: 1 to {MAX_HEAD_WIDTH}")));
        }
        if !(1..=MAX_HEADS).contains(&heads) || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(ShapeError(format!(
                "{heads} heads cannot share {kv_heads} heads of keys and values: 1 to {MAX_HEADS}, a multiple of those"
            )));
        }
        Ok(Self { heads, kv_heads, width })
    }

    /// How many heads share one head of keys and values.
    pub(crate) const fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Columns of queries, keys and values.
    pub(crate) const fn columns(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.width
    }

    /// Columns of the output.
    pub(crate) const fn outputs(&self) -> usize {
        self.heads * self.width
    }

    /// Where the queries of a head begin in a row.
    pub(crate) const fn query(&self, head: usize) -> usize {
        head * self.width
    }

    /// Where the keys of a head of keys begin in a row.
    pub(crate) const fn key(&self, kv_head: usize) -> usize {
        (self.heads + kv_head) * self.width
    }

    /// Where the values of a head of values begin in a row.
    pub(crate) const fn value(&self, kv_head: usize) -> usize {
        (self.heads + self.kv_heads + kv_head) * self.width
    }
}

/// A sequence may not be longer than this.
pub(crate) fn expect_context(rows: usize) -> Result<(), ShapeError> {
    if rows <= MAX_CONTEXT {
        Ok(())
    } else {
        Err(ShapeError(format!("a sequence of {rows} rows: at most {MAX_CONTEXT}")))
    }
}

/// Attention inside each sequence; row i sees the rows 0 to i.
///
/// `qkv` is [rows, (heads + 2 * kv_heads) * width]: `heads` heads of queries, `kv_heads` heads of keys, `kv_heads`
/// heads of values, side by side, `width` columns each; head h uses the keys and values of head
/// `h / (heads / kv_heads)`. Row by row the formulas are those of [`attention`](super::attention()), with j from 0 to
/// i: so no row depends on a later one, and a sequence that comes in pieces gives the same bytes.
///
/// # Errors
/// Slices of another size; heads over 1024 or no multiple of `kv_heads`; heads over 128 wide; a sequence over
/// [`MAX_CONTEXT`].
pub fn causal_attention(
    qkv: &[f32],
    lengths: &Lengths,
    heads: usize,
    kv_heads: usize,
    width: usize,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let shape = Grouped::new(heads, kv_heads, width)?;
    let rows = lengths.iter().sum();
    expect_len("qkv", qkv.len(), rows, shape.columns())?;
    expect_len("the output", out.len(), rows, shape.outputs())?;
    lengths.iter().try_for_each(expect_context)?;
    let inverse_root = 1.0 / libm::sqrtf(width as f32);
    let mut start = 0;
    for length in lengths.iter() {
        for head in 0..heads {
            let columns = |first: usize, code: f32| -> Vec<Coded> {
                qkv.chunks_exact(shape.columns())
                    .skip(start)
                    .take(length)
                    .map(|row| Coded::new(row.iter().skip(first).take(width), code))
                    .collect()
            };
            let kv_head = head / shape.group();
            let queries = columns(shape.query(head), QUERY_KEY_CODE);
            let keys = columns(shape.key(kv_head), QUERY_KEY_CODE);
            let values = columns(shape.value(kv_head), VALUE_CODE);
            let outputs = out.chunks_exact_mut(shape.outputs()).skip(start).take(length);
            for (i, (query, out)) in queries.iter().zip(outputs).enumerate() {
                let (keys, values) = (keys.get(..=i).unwrap_or(&[]), values.get(..=i).unwrap_or(&[]));
                let out = out.iter_mut().skip(head * width).take(width);
                for (y, result) in out.zip(attend(query, keys, values, inverse_root, width)) {
                    *y = result;
                }
            }
        }
        start += length;
    }
    Ok(())
}
