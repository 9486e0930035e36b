//! Masks from seeds.

use super::Field;
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::Executor;
use crate::simd::instantiate::instantiate;
use crate::simd::level::Proven;
use chacha20::cipher::consts::U10;
use chacha20::cipher::{Block, KeyIvInit, StreamCipherCore};
use chacha20::{ChaChaCore, Nonce};

/// Most columns of a mask: a stream of ChaCha20 has 2^36 words, and few are skipped.
pub const MAX_COLUMNS: usize = 1 << 28;
/// Elements of a part of a mask.
const CHUNK: usize = 8 * 1024;
/// Blocks that are made at once.
const BLOCKS: usize = 32;
/// Words of a block.
const WORDS: usize = 16;

instantiate! {
    /// Elements of blocks to the front of `out`, and how many.
    fn take(field: Field, blocks: &[Block<ChaChaCore<U10>>], out: &mut [u32]) -> usize = take_body;
}

#[inline(always)]
fn take_body(field: Field, blocks: &[Block<ChaChaCore<U10>>], out: &mut [u32]) -> usize {
    let (p, mask) = (field.prime(), field.mask());
    let mut skipped = false;
    for (block, out) in blocks.iter().zip(out.chunks_mut(WORDS)) {
        let words = block.as_slice().as_chunks::<4>().0;
        for (out, &word) in out.iter_mut().zip(words) {
            *out = u32::from_le_bytes(word) & mask;
            skipped |= *out >= p;
        }
    }
    if !skipped {
        return out.len().min(blocks.len() * WORDS);
    }
    let words = blocks.iter().flat_map(|block| block.as_slice().as_chunks::<4>().0);
    let elements = words.map(|&word| u32::from_le_bytes(word) & mask).filter(|&x| x < p);
    out.iter_mut().zip(elements).map(|(out, x)| *out = x).count()
}

/// One row of a mask.
fn row(level: Proven, field: Field, seed: &[u8; 32], stream: u32, row: u64, mut out: &mut [u32]) {
    let mut nonce = Nonce::default();
    let bytes = stream.to_le_bytes().into_iter().chain(row.to_le_bytes());
    nonce.iter_mut().zip(bytes).for_each(|(nonce, byte)| *nonce = byte);
    let mut cipher = ChaChaCore::<U10>::new(seed.into(), &nonce);
    let mut blocks = [Block::<ChaChaCore<U10>>::default(); BLOCKS];
    while !out.is_empty() {
        let blocks = blocks.get_mut(..out.len().div_ceil(WORDS).min(BLOCKS)).unwrap_or(&mut []);
        cipher.write_keystream_blocks(blocks);
        let taken = take(level, field, blocks, out);
        out = out.get_mut(taken..).unwrap_or(&mut []);
    }
}

/// Rows `first_row ..` of a mask of `stream`: `out` [rows, columns], uniform elements. See the [module](super) for the
/// definition, and for why no row may be used twice.
///
/// # Errors
/// An output of another size, over [`MAX_COLUMNS`] columns, row numbers past 2^64.
#[allow(clippy::too_many_arguments, reason = "the operation has as many")]
pub fn expand(
    executor: &Executor,
    field: Field,
    seed: &[u8; 32],
    stream: u32,
    first_row: u64,
    rows: usize,
    columns: usize,
    out: &mut [u32],
) -> Result<(), ShapeError> {
    expect_mask(first_row, rows, columns, out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    let chunk = CHUNK.div_ceil(columns);
    executor.crew().each_chunk(out, chunk * columns, |i, out| {
        let first = first_row.wrapping_add((i * chunk) as u64);
        for (r, out) in out.chunks_exact_mut(columns).enumerate() {
            row(executor.proven(), field, seed, stream, first.wrapping_add(r as u64), out);
        }
    });
    Ok(())
}

/// Whether there is such a mask.
pub(super) fn expect_mask(first_row: u64, rows: usize, columns: usize, len: usize) -> Result<(), ShapeError> {
    expect_len("the mask", len, rows, columns)?;
    if columns > MAX_COLUMNS {
        return Err(ShapeError(format!("a mask of {columns} columns: at most {MAX_COLUMNS}")));
    }
    match u64::try_from(rows).ok().and_then(|rows| first_row.checked_add(rows)) {
        Some(_) => Ok(()),
        None => Err(ShapeError(format!("a mask of {rows} rows from row {first_row} on: row numbers have 64 bits"))),
    }
}
