//! One row of a check: both sides for both vectors in one pass over the row.
//!
//! # How
//!
//! - *8-bit codes*: `255 * 2^31 * 66_000 < 2^56`, so nothing is reduced before the end.
//! - *narrow totals* become unsigned by adding their bound B. With `2 B < p` a product stays below 2^62, and
//!   sums are folded modulo p every few steps, how many depends on B.
//! - *16-bit codes* meet v in two halves, v modulo 2^32 and the rest, each of whose sums fits 64 bits.
//! - *wide totals* become unsigned below 2^44 and are cut into two parts of 22 bits, each of whose products
//!   with r stays below 2^53: 2048 of them add up in 64. (16-bit codes give at most 2^39.1, weighted values 2^41.)

use super::vectors::{Challenge, Projection};
use super::{FIELD, WIDE_BIAS, WIDE_BITS, fold, residue_u64};
use crate::simd::level::{Level, Proven};

/// Elements of codes that a wide sum takes at once: `2^16 * 2^32 * 2^15 = 2^63`.
const CODES_BLOCK: usize = 1 << 15;
/// Low bits of a wide total.
pub(super) const LOW_BITS: u32 = 22;
/// Wide totals whose parts add up in 64 bits: `2^22 * 2^31 * 2^11 = 2^64`, which `2^22 - 1` does not reach.
const TOTALS_BLOCK: usize = 2048;

/// What all rows of narrow totals share.
pub(super) struct Narrow {
    /// Largest magnitude of a total; twice that is below p.
    bound: u32,
    /// Products that may be added to a folded sum.
    steps: usize,
    /// What takes away the bias: p less the residue of the bound times the sum of r.
    unbias: [u64; 2],
}

impl Narrow {
    pub(super) fn new(bound: u32, challenge: &Challenge) -> Self {
        let largest = (2 * u64::from(bound)).max(1) * u64::from(FIELD);
        let steps = (u64::MAX - (1 << 35)) / largest;
        let biased = challenge.sum.map(|sum| residue_u64(u64::from(residue_u64(sum)) * u64::from(bound)));
        Self { bound, steps: steps.clamp(1, 1 << 20) as usize, unbias: biased.map(|biased| u64::from(FIELD - biased)) }
    }
}

/// `totals . r` in the field, or nothing if a total lies outside `-bound ..= bound`.
#[inline(always)]
pub(super) fn narrow_left(level: Proven, totals: &[i32], plan: &Narrow, challenge: &Challenge) -> Option<[u32; 2]> {
    let [first, second] = &challenge.natural;
    let r = [first.as_slice(), second.as_slice()];
    let (sums, most) = match level.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => super::avx2::narrow_left(level, totals, plan.bound, plan.steps, r),
        _ => narrow_left_portable(totals, plan.bound, r),
    };
    let ([x, y], [a, b]) = (sums, plan.unbias);
    (most <= 2 * plan.bound).then(|| [residue_u64(fold(x) + a), residue_u64(fold(y) + b)])
}

/// Folded sums of biased totals, and the largest biased total.
pub(super) fn narrow_left_portable(totals: &[i32], bound: u32, [first, second]: [&[u32]; 2]) -> ([u64; 2], u32) {
    let (mut a, mut b, mut most) = (0, 0, 0);
    for ((&y, &r), &s) in totals.iter().zip(first).zip(second) {
        let y = (y as u32).wrapping_add(bound);
        most = most.max(y);
        a = fold(a) + u64::from(y) * u64::from(r);
        b = fold(b) + u64::from(y) * u64::from(s);
    }
    ([a, b], most)
}

/// `codes . v` in the field.
#[inline(always)]
pub(super) fn narrow_right(level: Proven, codes: &[u8], projection: &Projection) -> [u32; 2] {
    match level.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => {
            let [a, b] = &projection.limbs;
            let sums = super::avx2::narrow_right(level, codes, [&a.low, &b.low], [&a.high, &b.high]);
            // `255 * 2^30 * 66_000 < p * 2^25`
            sums.map(|sum| residue_u64((sum + (i64::from(FIELD) << 25)) as u64))
        }
        _ => narrow_right_portable(codes, projection.residues.each_ref().map(Vec::as_slice)).map(residue_u64),
    }
}

pub(super) fn narrow_right_portable(codes: &[u8], [first, second]: [&[u32]; 2]) -> [u64; 2] {
    let (mut a, mut b) = (0, 0);
    for ((&x, &v), &w) in codes.iter().zip(first).zip(second) {
        a += u64::from(x) * u64::from(v);
        b += u64::from(x) * u64::from(w);
    }
    [a, b]
}

/// `totals . r` as integers, or nothing if a total lies outside `1 - 2^43 ..= 2^43`.
#[inline(always)]
pub(super) fn wide_left(level: Proven, totals: &[i64], challenge: &Challenge) -> Option<[i128; 2]> {
    let (mut sums, mut seen) = totals_block(level, totals, challenge, 0);
    // Few products are wider than a block.
    for start in (TOTALS_BLOCK..totals.len()).step_by(TOTALS_BLOCK) {
        let ([x, y], more) = totals_block(level, totals.get(start..).unwrap_or(&[]), challenge, start);
        let [a, b] = sums;
        sums = [a + x, b + y];
        seen |= more;
    }
    if seen >> WIDE_BITS != 0 {
        return None;
    }
    let ([x, y], [a, b]) = (sums, challenge.bias);
    Some([x - a, y - b])
}

/// Sums of the first block of `totals`, whose elements of r begin at `start`, and all bits seen.
#[inline(always)]
fn totals_block(level: Proven, totals: &[i64], challenge: &Challenge, start: usize) -> ([i128; 2], u64) {
    let totals = totals.get(..TOTALS_BLOCK).unwrap_or(totals);
    let r = from(&challenge.natural, start);
    let ([[a, b], [c, d]], seen) = match level.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => super::avx2::wide_left(level, totals, r, from(&challenge.paired, start)),
        _ => wide_left_portable(totals, r),
    };
    let join = |low, high| i128::from(low) + (i128::from(high) << LOW_BITS);
    ([join(a, b), join(c, d)], seen)
}

#[inline(always)]
fn from<T>([a, b]: &[Vec<T>; 2], start: usize) -> [&[T]; 2] {
    [a.get(start..).unwrap_or(&[]), b.get(start..).unwrap_or(&[])]
}

/// Low and high sums for both vectors, and all bits of the biased totals.
pub(super) fn wide_left_portable(totals: &[i64], [first, second]: [&[u32]; 2]) -> ([[u64; 2]; 2], u64) {
    let mut sums = [[0u64; 2]; 2];
    let mut seen = 0;
    for ((&y, &r), &s) in totals.iter().zip(first).zip(second) {
        let y = y.wrapping_add(WIDE_BIAS) as u64;
        seen |= y;
        let parts = [y & ((1 << LOW_BITS) - 1), y >> LOW_BITS];
        for (sums, r) in sums.iter_mut().zip([r, s]) {
            for (sum, part) in sums.iter_mut().zip(parts) {
                // Wraps only where a total is out of range.
                *sum = sum.wrapping_add(part.wrapping_mul(u64::from(r)));
            }
        }
    }
    (sums, seen)
}

/// `codes . v` as integers.
#[inline(always)]
pub(super) fn wide_right(level: Proven, codes: &[u16], projection: &Projection) -> [i128; 2] {
    biased_right::<0, _>(level, codes, projection)
}

/// Likewise for signed numbers.
#[inline(always)]
pub(super) fn signed_right(level: Proven, codes: &[i16], projection: &Projection) -> [i128; 2] {
    let [a, b] = biased_right::<0x8000, _>(level, codes, projection);
    let [sum_a, sum_b] = projection.sum;
    [a - (sum_a << 15), b - (sum_b << 15)]
}

/// A number of 16 bits.
pub(super) trait Word: Copy {
    fn bits(self) -> u16;
}

impl Word for u16 {
    fn bits(self) -> u16 {
        self
    }
}

impl Word for i16 {
    fn bits(self) -> u16 {
        self as u16
    }
}

/// The sum of `(x ^ FLIP) * v`: to flip the sign bit is to add 2^15 to a signed number.
#[inline(always)]
fn biased_right<const FLIP: u16, T: Word>(level: Proven, codes: &[T], projection: &Projection) -> [i128; 2] {
    let mut sums = codes_block::<FLIP, T>(level, codes, projection, 0);
    for start in (CODES_BLOCK..codes.len()).step_by(CODES_BLOCK) {
        let [x, y] = codes_block::<FLIP, T>(level, codes.get(start..).unwrap_or(&[]), projection, start);
        let [a, b] = sums;
        sums = [a + x, b + y];
    }
    sums
}

/// Sums of the first block of `codes`, whose elements of v begin at `start`.
#[inline(always)]
fn codes_block<const FLIP: u16, T: Word>(
    level: Proven,
    codes: &[T],
    projection: &Projection,
    start: usize,
) -> [i128; 2] {
    let codes = codes.get(..CODES_BLOCK).unwrap_or(codes);
    let (low, high) = (from(&projection.low, start), from(&projection.high, start));
    let [(a, b), (c, d)] = match level.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => super::avx2::wide_right::<FLIP, T>(level, codes, low, high),
        _ => wide_right_portable::<FLIP, T>(codes, low, high),
    };
    [i128::from(a) + (i128::from(b) << 32), i128::from(c) + (i128::from(d) << 32)]
}

/// The sums with the low and the high halves of each v.
pub(super) fn wide_right_portable<const FLIP: u16, T: Word>(
    codes: &[T],
    [low_a, low_b]: [&[u32]; 2],
    [high_a, high_b]: [&[i32]; 2],
) -> [(u64, i64); 2] {
    let mut sums = [(0u64, 0i64); 2];
    let [(a, b), (c, d)] = &mut sums;
    let halves = low_a.iter().zip(high_a).zip(low_b.iter().zip(high_b));
    for (&x, ((&l, &h), (&m, &i))) in codes.iter().zip(halves) {
        let x = x.bits() ^ FLIP;
        *a += u64::from(x) * u64::from(l);
        *b += i64::from(x) * i64::from(h);
        *c += u64::from(x) * u64::from(m);
        *d += i64::from(x) * i64::from(i);
    }
    sums
}
