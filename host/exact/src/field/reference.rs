//! The same functions, written down as they are defined: one step after another, no threads, no speed. The tests
//! hold the fast ones to it.
//!
//! Numbers need not be elements here: all are taken modulo p.

use super::lift::expect_lift;
use super::mask::expect_mask;
use super::packed::expect_rows;
use super::{Field, Parts};
use crate::layer::Linear;
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use core::ops::Range;

/// `x` modulo p.
fn modulo(field: Field, x: i128) -> u32 {
    x.rem_euclid(i128::from(field.prime())) as u32
}

/// The field of a layer and its parts: the smaller field if the layer has one part in it.
pub fn parts(layer: &Linear) -> (Field, Vec<Range<usize>>) {
    let small = cut(layer, Field::P24);
    if small.len() <= 1 { (Field::P24, small) } else { (Field::P31, cut(layer, Field::P31)) }
}

/// The parts of a layer, column by column: where one more would be too many for some output, a new part begins.
fn cut(layer: &Linear, field: Field) -> Vec<Range<usize>> {
    let code = i128::from(layer.activation.max_code());
    let weights = layer.weight.as_slice();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut sums = vec![0; layer.outputs];
    for k in 0..layer.inputs {
        let column: Vec<i128> =
            weights.iter().skip(k).step_by(layer.inputs).map(|&w| code * i128::from(w).abs()).collect();
        let fits = sums.iter().zip(&column).all(|(sum, w)| sum + w < i128::from(field.prime()));
        match ranges.last_mut().filter(|_| fits) {
            Some(range) => range.end = k + 1,
            None => {
                ranges.push(k..k + 1);
                sums.fill(0);
            }
        }
        sums.iter_mut().zip(column).for_each(|(sum, w)| *sum += w);
    }
    ranges
}

/// The block function of ChaCha20 (RFC 8439, 2.3).
#[allow(clippy::indexing_slicing, reason = "constants below 16")]
pub fn chacha20_block(key: &[u8; 32], counter: u32, nonce: &[u8; 12]) -> [u32; 16] {
    let mut start = [0; 16];
    let constants = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
    let words =
        |bytes: &[u8]| -> Vec<u32> { bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect() };
    let all = constants.into_iter().chain(words(key)).chain([counter]).chain(words(nonce));
    start.iter_mut().zip(all).for_each(|(start, word)| *start = word);
    let mut state = start;
    let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
        for (a, b, d, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
            state[a] = state[a].wrapping_add(state[b]);
            state[d] = (state[d] ^ state[a]).rotate_left(turn);
        }
    };
    for _ in 0..10 {
        for i in 0..4 {
            quarter(i, 4 + i, 8 + i, 12 + i);
        }
        for i in 0..4 {
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
        }
    }
    state.iter_mut().zip(start).for_each(|(word, start)| *word = word.wrapping_add(start));
    state
}

/// See [`expand`](super::expand()).
///
/// # Errors
/// As there.
pub fn expand(
    field: Field,
    seed: &[u8; 32],
    stream: u32,
    first_row: u64,
    rows: usize,
    columns: usize,
    out: &mut [u32],
) -> Result<(), ShapeError> {
    expect_mask(first_row, rows, columns, out.len())?;
    for (row, out) in (first_row..).zip(out.chunks_exact_mut(columns.max(1))) {
        let mut nonce = [0; 12];
        let bytes = stream.to_le_bytes().into_iter().chain(row.to_le_bytes());
        nonce.iter_mut().zip(bytes).for_each(|(nonce, byte)| *nonce = byte);
        let words = (0..).flat_map(|counter| chacha20_block(seed, counter, &nonce));
        let bits = field.prime().next_power_of_two() - 1;
        let elements = words.map(|word| word & bits).filter(|&x| x < field.prime());
        out.iter_mut().zip(elements).for_each(|(out, x)| *out = x);
    }
    Ok(())
}

/// See [`add`](super::add).
///
/// # Errors
/// As there.
pub fn add(field: Field, a: &[u32], b: &[u32], out: &mut [u32]) -> Result<(), ShapeError> {
    expect_len("b", b.len(), a.len(), 1)?;
    expect_len("the output", out.len(), a.len(), 1)?;
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = modulo(field, i128::from(a) + i128::from(b));
    }
    Ok(())
}

/// See [`subtract`](super::subtract).
///
/// # Errors
/// As there.
pub fn subtract(field: Field, a: &[u32], b: &[u32], out: &mut [u32]) -> Result<(), ShapeError> {
    expect_len("b", b.len(), a.len(), 1)?;
    expect_len("the output", out.len(), a.len(), 1)?;
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = modulo(field, i128::from(a) - i128::from(b));
    }
    Ok(())
}

/// See [`expect_elements`](super::expect_elements).
pub fn are_elements(field: Field, all: &[u32]) -> bool {
    all.iter().all(|&x| x < field.prime())
}

/// See [`pack`](super::pack).
///
/// # Errors
/// As there.
pub fn pack(field: Field, elements: &[u32], width: usize, packed: &mut [u8]) -> Result<(), ShapeError> {
    expect_rows(field, elements.len(), width, packed.len())?;
    let rows =
        elements.chunks_exact(width.max(1)).zip(packed.chunks_exact_mut(width.max(1).saturating_mul(field.bytes())));
    for (elements, packed) in rows {
        for (k, x) in elements.iter().enumerate() {
            let bytes = packed.iter_mut().skip(k).step_by(width);
            bytes.zip(x.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        }
    }
    Ok(())
}

/// See [`unpack`](super::unpack). Numbers that are not elements are handed out.
///
/// # Errors
/// Slices of another size.
pub fn unpack(field: Field, packed: &[u8], width: usize, elements: &mut [u32]) -> Result<(), ShapeError> {
    expect_rows(field, elements.len(), width, packed.len())?;
    let rows =
        elements.chunks_exact_mut(width.max(1)).zip(packed.chunks_exact(width.max(1).saturating_mul(field.bytes())));
    for (elements, packed) in rows {
        for (k, x) in elements.iter_mut().enumerate() {
            let bytes = packed.iter().skip(k).step_by(width);
            *x = bytes.rev().fold(0, |x, &byte| x << 8 | u32::from(byte));
        }
    }
    Ok(())
}

/// See [`dot`](super::dot()).
///
/// # Errors
/// As there.
pub fn dot(field: Field, rows: &[u32], vectors: [&[u32]; 2], out: &mut [[u32; 2]]) -> Result<(), ShapeError> {
    let [first, second] = vectors;
    expect_len("the second vector", second.len(), first.len(), 1)?;
    expect_len("the rows", rows.len(), out.len(), first.len())?;
    out.fill([0; 2]);
    for (row, out) in rows.chunks_exact(first.len().max(1)).zip(out) {
        *out = vectors.map(|v| {
            row.iter().zip(v).fold(0, |sum, (&x, &v)| modulo(field, i128::from(sum) + i128::from(x) * i128::from(v)))
        });
    }
    Ok(())
}

/// See [`lift`](super::lift()).
///
/// # Errors
/// As there.
pub fn lift(
    field: Field,
    elements: &[u32],
    least: &[i64],
    outputs: usize,
    totals: &mut [i64],
) -> Result<(), ShapeError> {
    expect_lift(field, elements.len(), least, outputs, totals.len())?;
    for (elements, totals) in elements.chunks_exact(least.len()).zip(totals.chunks_exact_mut(outputs)) {
        for (n, total) in totals.iter_mut().enumerate() {
            let parts = elements.iter().zip(least).skip(n).step_by(outputs);
            *total =
                parts.map(|(&x, &least)| least + i64::from(modulo(field, i128::from(x) - i128::from(least)))).sum();
        }
    }
    Ok(())
}

/// Both v of [`Vectors`](super::Vectors), of both r.
pub fn project(layer: &Linear, parts: &Parts, r: [&[u32]; 2]) -> [Vec<u32>; 2] {
    r.map(|r| {
        let of = |(range, r): (&Range<usize>, &[u32])| -> Vec<u32> {
            let column = |k| layer.weight.as_slice().iter().skip(k).step_by(layer.inputs);
            let v = |k| modulo(parts.field(), column(k).zip(r).map(|(&w, &r)| i128::from(w) * i128::from(r)).sum());
            range.clone().map(v).collect()
        };
        parts.ranges().iter().zip(r.chunks_exact(layer.outputs.max(1))).flat_map(of).collect()
    })
}

/// What [`ShareProduct::multiply`](super::ShareProduct::multiply) computes.
///
/// # Errors
/// As there.
pub fn multiply(layer: &Linear, parts: &Parts, shares: &[u32], rows: usize, out: &mut [u32]) -> Result<(), ShapeError> {
    expect_len("the share", shares.len(), rows, layer.inputs)?;
    expect_len("the output", out.len(), rows, parts.columns())?;
    let columns = parts.ranges().iter().flat_map(|range| {
        let weights = layer.weight.as_slice().chunks_exact(layer.inputs.max(1));
        weights.map(|weights| (range.clone(), weights.get(range.clone()).unwrap_or(&[])))
    });
    let columns: Vec<(Range<usize>, &[i8])> = columns.collect();
    for (share, out) in shares.chunks_exact(layer.inputs.max(1)).zip(out.chunks_exact_mut(columns.len().max(1))) {
        for (out, (range, weights)) in out.iter_mut().zip(&columns) {
            let share = share.get(range.clone()).unwrap_or(&[]);
            *out =
                modulo(parts.field(), share.iter().zip(*weights).map(|(&x, &w)| i128::from(x) * i128::from(w)).sum());
        }
    }
    Ok(())
}
