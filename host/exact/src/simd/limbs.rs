//! Products of elements of a prime field where the kernel multiplies bytes.
//!
//! An element is three or four bytes, so a row of elements is as many rows of codes. The sums of a column make one total, at
//! most `p * 127 * 66,000` in magnitude, less than `p * 2^23`, which is folded to an element as soon as its tile is done.

use super::coding::Coder;
use super::cpu::Packed;
use super::crew::Shared;
use super::instantiate::instantiate;
use super::place::Place;
use super::scratch::grown;
use super::tile::{COLUMNS, Quads, Step, Tile, ZERO_TILE, tile_rows};
use crate::field::{Field, fold_one};

instantiate! {
    /// The bytes of elements, lowest first, each row of bytes in its own part of `limbs`.
    fn split(field: Field, elements: &[u32], limbs: &mut [u8]) = split_body;
    /// Fold the sums of `rows` rows, [`Field::bytes`] to a row.
    fn fold(field: Field, sums: &Tile, rows: usize, out: &mut Place<'_, u32>) = fold_body;
}

/// See [`CpuProduct::multiply_elements`](super::CpuProduct::multiply_elements).
pub(super) fn multiply<'a>(
    weights: &Packed<Quads>,
    field: Field,
    rows: impl Iterator<Item = &'a [u32]>,
    out: &mut [u32],
    start: usize,
    stride: usize,
) {
    let (level, width, limbs) = (weights.level, weights.stride(), field.bytes());
    let out = Shared::new(out);
    Quads::scratch().with_borrow_mut(|codes| {
        let mut count = 0;
        for row in rows {
            let codes = grown(codes, (count + 1) * limbs * width).get_mut(count * limbs * width..).unwrap_or(&mut []);
            split(level, field, row, codes);
            count += 1;
        }
        let tiles = count.div_ceil(tile_rows(level) / limbs);
        let mut sums = ZERO_TILE;
        for panel in 0..weights.panels() {
            let steps = weights.panel(panel);
            let columns = (weights.outputs - panel * COLUMNS).min(COLUMNS);
            for tile in 0..tiles {
                let (row, end) = (tile * count / tiles, (tile + 1) * count / tiles);
                let codes = codes.get(row * limbs * width..).unwrap_or(&[]);
                Quads::tile(level, codes, width, (end - row) * limbs, steps, &mut sums);
                // SAFETY: `out` is this call's alone, and tiles differ in their rows or columns.
                #[allow(unsafe_code)]
                let mut place = unsafe { Place::new(&out, start + row * stride + panel * COLUMNS, columns, stride) };
                fold(level, field, &sums, end - row, &mut place);
            }
        }
    });
}

#[inline(always)]
fn split_body(field: Field, elements: &[u32], limbs: &mut [u8]) {
    let width = limbs.len() / field.bytes();
    for (limb, codes) in limbs.chunks_exact_mut(width.max(1)).enumerate() {
        let shift = 8 * limb as u32;
        codes.iter_mut().zip(elements).for_each(|(code, &x)| *code = (x >> shift) as u8);
    }
}

#[inline(always)]
fn fold_body(field: Field, sums: &Tile, rows: usize, out: &mut Place<'_, u32>) {
    let wide = |sum: &i32, limb: u32| i64::from(*sum) << (8 * limb);
    match field {
        Field::P24 => {
            for (row, [first, second, third]) in sums.as_chunks().0.iter().take(rows).enumerate() {
                let totals = first.iter().zip(second).zip(third);
                let totals = totals.map(|((first, second), third)| wide(first, 0) + wide(second, 1) + wide(third, 2));
                out.put(row, totals.map(|total| fold_one(Field::P24, total)));
            }
        }
        Field::P31 => {
            for (row, [first, second, third, fourth]) in sums.as_chunks().0.iter().take(rows).enumerate() {
                let totals = first.iter().zip(second).zip(third.iter().zip(fourth));
                let totals = totals.map(|((first, second), (third, fourth))| {
                    wide(first, 0) + wide(second, 1) + wide(third, 2) + wide(fourth, 3)
                });
                out.put(row, totals.map(|total| fold_one(Field::P31, total)));
            }
        }
    }
}
