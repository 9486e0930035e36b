//! Projections cut into limbs of 16 bits and less, for `vpmaddwd`.
//!
//! # How
//!
//! `v = sum of limb[i] << shift[i]` modulo 2^64, limbs signed. `vpmaddwd` multiplies 16-bit numbers and adds
//! pairs of products in 32 bits. With limbs of 16 bits and codes of 8 a pair is below 2^24 in magnitude, with
//! limbs of 8 bits and codes of 16 at most 2^23, so 127 pairs add up exactly. From 2^32 on a sum counts only
//! modulo 2^32, so there limbs have 16 bits whatever the codes are. Most v are below 2^47: then the last limb is
//! left out.

use crate::simd::instantiate::instantiate;
use crate::simd::level::Proven;

/// Columns of a turn.
pub(super) const TURN: usize = 16;
/// Turns whose pairs add up exactly.
pub(super) const BLOCK: usize = 127;

/// Shifts for codes of 8 bits.
pub(super) const NARROW: &[u32] = &[0, 16, 32, 48];
/// Shifts for codes of 16 bits.
pub(super) const WIDE: &[u32] = &[0, 8, 16, 24, 32, 48];

/// Both v in limbs.
pub(super) struct Limbs {
    /// Turn by turn, in each of the first and the second v, of each limb by limb 16 columns; missing
    /// columns are 0.
    pub(super) turns: Vec<[i16; TURN]>,
    /// Of each limb.
    pub(super) shifts: &'static [u32],
    /// The sum of each v, modulo 2^64.
    pub(super) sums: [u64; 2],
}

instantiate! {
    /// Append the limbs of both v.
    fn cut(v: [&[i64]; 2], shifts: &[u32], bias: u64, turns: &mut Vec<[i16; TURN]>) = cut_body;
}

impl Limbs {
    /// With all these shifts, or without the last.
    pub(super) fn new(level: Proven, v: [&[i64]; 2], shifts: &'static [u32]) -> Self {
        let [first, second] = v;
        // Half of what each limb but the last can hold: with it added, limbs are the bits as they stand.
        let bias = shifts.iter().skip(1).fold(0, |bias, shift| bias | 1 << (shift - 1));
        let last = shifts.last().copied().unwrap_or(0);
        let all = first.iter().chain(second).fold(0, |all, &v| all | (v as u64).wrapping_add(bias));
        let shifts = shifts.get(..shifts.len() - usize::from(all >> last == 0)).unwrap_or(shifts);
        let mut turns = Vec::with_capacity(first.len().div_ceil(TURN) * 2 * shifts.len());
        cut(level, v, shifts, bias, &mut turns);
        let sums = v.map(|v| v.iter().fold(0, |sum: u64, &v| sum.wrapping_add(v as u64)));
        Self { turns, shifts, sums }
    }
}

#[inline(always)]
fn cut_body([first, second]: [&[i64]; 2], shifts: &[u32], bias: u64, turns: &mut Vec<[i16; TURN]>) {
    for (a, b) in first.chunks(TURN).zip(second.chunks(TURN)) {
        for v in [a, b] {
            let mut biased = [bias; TURN];
            biased.iter_mut().zip(v).for_each(|(biased, &v)| *biased = biased.wrapping_add(v as u64));
            for (at, &shift) in shifts.iter().enumerate() {
                // The last has no bias: it is what is left.
                let width = shifts.get(at + 1).map_or(if shift < 48 { 16 } else { 0 }, |next| next - shift);
                let half = (1u32 << width >> 1) as u16;
                let mask = half.wrapping_shl(1).wrapping_sub(1);
                turns.push(biased.map(|v| ((v >> shift) as u16 & mask).wrapping_sub(half) as i16));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Executor, Level};

    #[test]
    fn limbs_add_up() {
        let level = Executor::new(Level::detect(), 1).unwrap().proven();
        for long in [false, true] {
            let edges = [0, 1, 127, 128, 129, 1 << 31, 0x7fff_7fff, 0x8080_8080, (1 << 31) - 1, (1 << 32) - 1];
            let mut v: Vec<i64> = edges.into_iter().flat_map(|v: i64| [v, -v, v << 14, 1 - v]).collect();
            if long {
                v.extend([i64::MAX, i64::MIN, i64::MAX - 0x8000, 1 << 47, 0x7f80_0000_0000]);
            }
            let other: Vec<i64> = v.iter().map(|v| v / 3).collect();
            for all in [NARROW, WIDE] {
                let Limbs { turns, shifts, sums } = Limbs::new(level, [&v, &other], all);
                assert_eq!(
                    sums.map(|sum| sum as i64),
                    [&v, &other].map(|v| v.iter().fold(0, |a: i64, b| a.wrapping_add(*b)))
                );
                assert_eq!(shifts.len(), all.len() - usize::from(!long));
                assert_eq!(turns.len(), v.len().div_ceil(TURN) * 2 * shifts.len());
                for (at, (&v, &w)) in v.iter().zip(&other).enumerate() {
                    for (vector, v) in [v, w].into_iter().enumerate() {
                        let limb = |limb: usize| turns[(at / TURN * 2 + vector) * shifts.len() + limb][at % TURN];
                        let terms = shifts.iter().enumerate().map(|(i, shift)| i64::from(limb(i)) << shift);
                        assert_eq!(terms.fold(0i64, i64::wrapping_add), v);
                    }
                }
            }
        }
    }
}
