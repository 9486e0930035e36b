//! Both sides of many rows, for both vectors, modulo 2^64.
//!
//! # How
//!
//! - *totals* meet r in 64-bit products, several rows at once so that r is loaded for all of them.
//! - *wide totals* are taken relative to the least one that is in [`LEAST_REACH`] of its column's centre. Nearly
//!   all are: then they fit 32 bits, and one multiplication does. A row with a total beyond that is done
//!   again in full.
//! - *codes* meet v in limbs, see [`limbs`](super::limbs); without `vpmaddwd`, as it stands.

use super::LEAST_REACH;
use super::limbs::Limbs;
use super::vectors::Projection;
use crate::simd::instantiate::instantiate;
use crate::simd::level::{Level, Proven};

/// Rows of totals that are taken at once.
pub(super) const ROWS: usize = 4;

instantiate! {
    /// `totals . r` of rows of 32-bit totals.
    fn narrow_left(totals: &[i32], r: [&[u32]; 2], left: &mut [[u64; 2]]) = narrow_left_body;
    /// Likewise of 16-bit numbers.
    fn values_left(values: &[i16], r: [&[u32]; 2], left: &mut [[u64; 2]]) = narrow_left_body;
    /// `totals . r` of rows of 64-bit totals, and which rows hold a total out of range.
    fn wide_left(
        totals: &[i64],
        range: &Range<'_>,
        r: [&[u32]; 2],
        left: &mut [[u64; 2]],
        outside: &mut Vec<usize>,
    ) = wide_left_body;
}

/// Where 64-bit totals lie.
pub(super) struct Range<'a> {
    /// For each column, its centre less [`LEAST_REACH`].
    pub(super) least: &'a [i64],
    /// Totals lie in `centre - reach .. centre + reach`; at least [`LEAST_REACH`].
    pub(super) reach: i64,
    /// `least . r` for both vectors.
    pub(super) offset: [u64; 2],
}

/// Rows beginning at row `first`; the first of all stands in for those that are missing.
#[inline(always)]
pub(super) fn rows<T>(all: &[T], first: usize, width: usize) -> [&[T]; ROWS] {
    let row = |at: usize| all.get(at * width..(at + 1) * width);
    core::array::from_fn(|at| row(first + at).or_else(|| row(0)).unwrap_or(&[]))
}

#[inline(always)]
fn narrow_left_body<T: Copy + Into<i64>>(totals: &[T], [first, second]: [&[u32]; 2], left: &mut [[u64; 2]]) {
    for (at, left) in left.chunks_mut(ROWS).enumerate() {
        let [a, b, c, d] = rows(totals, at * ROWS, first.len());
        let mut sums = [[0i64; 2]; ROWS];
        for (((((&a, &b), &c), &d), &r), &s) in a.iter().zip(b).zip(c).zip(d).zip(first).zip(second) {
            let (r, s) = (i64::from(r as i32), i64::from(s as i32));
            for (sum, y) in sums.iter_mut().zip([a, b, c, d]) {
                let [x, z] = sum;
                *x = x.wrapping_add(y.into() * r);
                *z = z.wrapping_add(y.into() * s);
            }
        }
        for (left, sums) in left.iter_mut().zip(sums) {
            *left = sums.map(|sum| sum as u64);
        }
    }
}

#[inline(always)]
fn wide_left_body(totals: &[i64], range: &Range<'_>, r: [&[u32]; 2], left: &mut [[u64; 2]], outside: &mut Vec<usize>) {
    let [first, second] = r;
    for (at, left) in left.chunks_mut(ROWS).enumerate() {
        let all = rows(totals, at * ROWS, first.len());
        let [a, b, c, d] = all;
        let mut sums = [range.offset; ROWS];
        let mut seen = [0u64; ROWS];
        let columns = a.iter().zip(b).zip(c).zip(d).zip(range.least).zip(first).zip(second);
        for ((((((&a, &b), &c), &d), &least), &r), &s) in columns {
            for ((sum, seen), y) in sums.iter_mut().zip(&mut seen).zip([a, b, c, d]) {
                let [x, z] = sum;
                let y = y.wrapping_sub(least) as u64;
                *seen |= y;
                let y = y & u64::from(u32::MAX);
                *x = x.wrapping_add(y * u64::from(r));
                *z = z.wrapping_add(y * u64::from(s));
            }
        }
        for (row, ((left, sums), (seen, totals))) in
            left.iter_mut().zip(sums).zip(seen.into_iter().zip(all)).enumerate()
        {
            *left = sums;
            if seen > u64::from(u32::MAX) {
                *left = r.map(|r| full(totals, r));
                if !is_in_range(totals, range) {
                    outside.push(at * ROWS + row);
                }
            }
        }
    }
}

#[inline(always)]
fn full(totals: &[i64], r: &[u32]) -> u64 {
    totals.iter().zip(r).fold(0, |sum, (&y, &r)| sum.wrapping_add((y as u64).wrapping_mul(r.into())))
}

#[inline(always)]
fn is_in_range(totals: &[i64], range: &Range<'_>) -> bool {
    let from_least = range.reach - LEAST_REACH;
    // What wraps is far outside, since centres and reach are far below 2^62.
    totals
        .iter()
        .zip(range.least)
        .all(|(&y, &least)| (y.wrapping_sub(least).wrapping_add(from_least) as u64) < 2 * range.reach.unsigned_abs())
}

/// A code of a factor.
pub(super) trait Code: Copy + Default + Into<i64> {
    /// How it meets the limbs.
    const KIND: Kind;
}

/// The types of codes.
pub(super) enum Kind {
    U8,
    U16,
    I16,
}

impl Code for u8 {
    const KIND: Kind = Kind::U8;
}

impl Code for u16 {
    const KIND: Kind = Kind::U16;
}

impl Code for i16 {
    const KIND: Kind = Kind::I16;
}

/// `codes . v` of rows of codes.
pub(super) fn right<T: Code>(
    level: Proven,
    codes: &[T],
    projection: &Projection,
    limbs: &Limbs,
    right: &mut [[u64; 2]],
) {
    match level.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => super::avx2::right(level, codes, projection, limbs, right),
        _ => portable_right(codes, projection, right),
    }
}

fn portable_right<T: Code>(codes: &[T], projection: &Projection, right: &mut [[u64; 2]]) {
    for (codes, right) in codes.chunks_exact(projection.len().max(1)).zip(right) {
        *right = projection.both().map(|v| {
            codes.iter().zip(v).fold(0, |sum: u64, (&x, &v)| sum.wrapping_add(x.into().wrapping_mul(v) as u64))
        });
    }
}
