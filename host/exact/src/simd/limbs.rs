//! Products of elements of F_p where the kernel multiplies bytes.
//!
//! An element is four bytes, so a row of elements is four rows of codes. The four sums of a column make one total, at
//! most `2^31 * 127 * 66,000 < 2^54` in magnitude, which is folded to an element as soon as its tile is done.

use super::coding::Coder;
use super::cpu::Packed;
use super::crew::Shared;
use super::instantiate::instantiate;
use super::place::Place;
use super::scratch::grown;
use super::tile::{COLUMNS, Quads, Step, Tile, ZERO_TILE, tile_rows};
use crate::field::fold_one;

/// Bytes of an element.
const LIMBS: usize = 4;

instantiate! {
    /// The bytes of elements, lowest first.
    fn split(elements: &[u32], first: &mut [u8], second: &mut [u8], third: &mut [u8], fourth: &mut [u8]) = split_body;
    /// Fold the sums of `rows` rows, four to a row.
    fn fold(sums: &Tile, rows: usize, out: &mut Place<'_, u32>) = fold_body;
}

/// See [`CpuProduct::multiply_elements`](super::CpuProduct::multiply_elements).
pub(super) fn multiply<'a>(
    weights: &Packed<Quads>,
    rows: impl Iterator<Item = &'a [u32]>,
    out: &mut [u32],
    start: usize,
    stride: usize,
) {
    let (level, width) = (weights.level, weights.stride());
    let out = Shared::new(out);
    Quads::scratch().with_borrow_mut(|codes| {
        let mut count = 0;
        for row in rows {
            let codes = grown(codes, (count + 1) * LIMBS * width).get_mut(count * LIMBS * width..).unwrap_or(&mut []);
            let (low, high) = codes.split_at_mut(codes.len() / 2);
            let ((first, second), (third, fourth)) =
                (low.split_at_mut(low.len() / 2), high.split_at_mut(high.len() / 2));
            split(level, row, first, second, third, fourth);
            count += 1;
        }
        let tiles = count.div_ceil(tile_rows(level) / LIMBS);
        let mut sums = ZERO_TILE;
        for panel in 0..weights.panels() {
            let steps = weights.panel(panel);
            let columns = (weights.outputs - panel * COLUMNS).min(COLUMNS);
            for tile in 0..tiles {
                let (row, end) = (tile * count / tiles, (tile + 1) * count / tiles);
                let codes = codes.get(row * LIMBS * width..).unwrap_or(&[]);
                Quads::tile(level, codes, width, (end - row) * LIMBS, steps, &mut sums);
                // SAFETY: `out` is this call's alone, and tiles differ in their rows or columns.
                #[allow(unsafe_code)]
                let mut place = unsafe { Place::new(&out, start + row * stride + panel * COLUMNS, columns, stride) };
                fold(level, &sums, end - row, &mut place);
            }
        }
    });
}

#[inline(always)]
fn split_body(elements: &[u32], first: &mut [u8], second: &mut [u8], third: &mut [u8], fourth: &mut [u8]) {
    let limbs = first.iter_mut().zip(second).zip(third.iter_mut().zip(fourth));
    for (&x, ((first, second), (third, fourth))) in elements.iter().zip(limbs) {
        *first = x as u8;
        *second = (x >> 8) as u8;
        *third = (x >> 16) as u8;
        *fourth = (x >> 24) as u8;
    }
}

#[inline(always)]
fn fold_body(sums: &Tile, rows: usize, out: &mut Place<'_, u32>) {
    for (row, [first, second, third, fourth]) in sums.as_chunks::<LIMBS>().0.iter().take(rows).enumerate() {
        let limbs = first.iter().zip(second).zip(third.iter().zip(fourth));
        let total = |((&first, &second), (&third, &fourth)): ((&i32, &i32), (&i32, &i32))| {
            fold_one(i64::from(first) + (i64::from(second) << 8) + (i64::from(third) << 16) + (i64::from(fourth) << 24))
        };
        out.put(row, limbs.map(total));
    }
}
