//! The kernels of a row with AVX2.
//!
//! `vpmuludq` and `vpmuldq` multiply the low 32 bits of each 64-bit lane. The elements at odd places are
//! brought there by a shift of the row's side and by loading the vector's side one element later, so
//! nothing is shuffled. 8-bit codes are multiplied by `vpmaddwd` instead, with v in two limbs of 16 bits.
#![allow(unsafe_code)]

use super::kernel::{LOW_BITS, Word};
use super::{FIELD, WIDE_BIAS};
use crate::simd::level::Proven;
use core::arch::x86_64::*;

/// Elements of a turn.
const TURN: usize = 8;
/// Elements of a turn of 16-bit pairs.
const PAIRS_TURN: usize = 16;
/// Turns whose pairs, each at most `2 * 255 * 2^15 < 2^24` in magnitude, add up in 32 bits.
const PAIRS_BLOCK: usize = 128;

/// See [`narrow_left_portable`](super::kernel::narrow_left_portable); a folded sum and `steps` products of a
/// biased total and an element of r stay below 2^64.
#[inline]
pub(super) fn narrow_left(_: Proven, totals: &[i32], bound: u32, steps: usize, r: [&[u32]; 2]) -> ([u64; 2], u32) {
    assert!(r.iter().all(|r| r.len() > totals.len()), "too short a challenge");
    // SAFETY: whoever has a proof of this level has AVX2; the lengths were checked.
    unsafe { narrow_left_avx2(totals, bound, steps, r) }
}

/// # Safety
/// AVX2; each r longer than the totals.
#[target_feature(enable = "avx2")]
unsafe fn narrow_left_avx2(totals: &[i32], bound: u32, steps: usize, r: [&[u32]; 2]) -> ([u64; 2], u32) {
    let bias = _mm256_set1_epi32(bound as i32);
    let mut most = _mm256_setzero_si256();
    let mut sums = [[_mm256_setzero_si256(); 2]; 2];
    let (turns, rest) = totals.as_chunks::<TURN>();
    let mut at = 0;
    for turns in turns.chunks(steps) {
        for turn in turns {
            // SAFETY: a turn is one vector; each r has an element beyond the totals.
            unsafe {
                let even = _mm256_add_epi32(_mm256_loadu_si256(turn.as_ptr().cast()), bias);
                let odd = _mm256_srli_epi64::<32>(even);
                most = _mm256_max_epu32(most, even);
                for (sums, r) in sums.iter_mut().zip(&r) {
                    let [a, b] = sums;
                    let r = r.as_ptr().add(at);
                    *a = _mm256_add_epi64(*a, _mm256_mul_epu32(even, _mm256_loadu_si256(r.cast())));
                    *b = _mm256_add_epi64(*b, _mm256_mul_epu32(odd, _mm256_loadu_si256(r.add(1).cast())));
                }
            }
            at += TURN;
        }
        for [a, b] in &mut sums {
            *a = fold(*a);
            *b = fold(*b);
        }
    }
    let ([a, b], rest_most) = match rest {
        [] => ([0; 2], 0),
        rest => super::kernel::narrow_left_portable(rest, bound, after(r, at)),
    };
    let [[c, d], [e, f]] = sums.map(|sums| sums.map(|sum| lanes(sum).iter().sum::<u64>()));
    let most = lanes(most).iter().fold(rest_most, |most, &pair| most.max(pair as u32).max((pair >> 32) as u32));
    // Folded lanes are below 2^34.
    ([super::fold(a) + c + d, super::fold(b) + e + f], most)
}

/// The sum of codes and centred v, as an integer; v in two limbs: `v = high * 2^16 + low`.
#[inline]
pub(super) fn narrow_right(_: Proven, codes: &[u8], low: [&[i16]; 2], high: [&[i16]; 2]) -> [i64; 2] {
    assert!(low.iter().chain(&high).all(|v| v.len() >= codes.len()), "too short a projection");
    // SAFETY: whoever has a proof of this level has AVX2; the lengths were checked.
    unsafe { narrow_right_avx2(codes, low, high) }
}

/// # Safety
/// AVX2; each limb of v as long as the codes.
#[target_feature(enable = "avx2")]
unsafe fn narrow_right_avx2(codes: &[u8], low: [&[i16]; 2], high: [&[i16]; 2]) -> [i64; 2] {
    let mut totals = [0i64; 2];
    let (turns, rest) = codes.as_chunks::<PAIRS_TURN>();
    let mut at = 0;
    for turns in turns.chunks(PAIRS_BLOCK) {
        let mut sums = [[_mm256_setzero_si256(); 2]; 2];
        for turn in turns {
            // SAFETY: a turn is 16 bytes; each limb is as long as the codes.
            unsafe {
                let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(turn.as_ptr().cast()));
                for ((sums, low), high) in sums.iter_mut().zip(&low).zip(&high) {
                    let [a, b] = sums;
                    let (low, high) = (low.as_ptr().add(at).cast(), high.as_ptr().add(at).cast());
                    *a = _mm256_add_epi32(*a, _mm256_madd_epi16(codes, _mm256_loadu_si256(low)));
                    *b = _mm256_add_epi32(*b, _mm256_madd_epi16(codes, _mm256_loadu_si256(high)));
                }
            }
            at += PAIRS_TURN;
        }
        for (total, [a, b]) in totals.iter_mut().zip(sums) {
            *total += sum_of_i32(a) + (sum_of_i32(b) << 16);
        }
    }
    if !rest.is_empty() {
        for ((total, low), high) in totals.iter_mut().zip(after(low, at)).zip(after(high, at)) {
            for ((&x, &low), &high) in rest.iter().zip(low).zip(high) {
                *total += i64::from(x) * (i64::from(low) + (i64::from(high) << 16));
            }
        }
    }
    totals
}

/// See [`wide_left_portable`](super::kernel::wide_left_portable); `paired` is r in the order of
/// [`Challenge`](super::Challenge), as far as whole turns go.
#[inline]
pub(super) fn wide_left(_: Proven, totals: &[i64], r: [&[u32]; 2], paired: [&[u32]; 2]) -> ([[u64; 2]; 2], u64) {
    assert!(paired.iter().all(|r| r.len() > totals.len() / TURN * TURN), "too short a challenge");
    // SAFETY: whoever has a proof of this level has AVX2; the lengths were checked.
    unsafe { wide_left_avx2(totals, r, paired) }
}

/// # Safety
/// AVX2; each of `paired` longer than the whole turns of the totals.
#[target_feature(enable = "avx2")]
unsafe fn wide_left_avx2(totals: &[i64], r: [&[u32]; 2], paired: [&[u32]; 2]) -> ([[u64; 2]; 2], u64) {
    let bias = _mm256_set1_epi64x(WIDE_BIAS);
    let low_bits = _mm256_set1_epi64x((1 << LOW_BITS) - 1);
    let mut seen = _mm256_setzero_si256();
    let mut sums = [[_mm256_setzero_si256(); 2]; 2];
    let (turns, rest) = totals.as_chunks::<TURN>();
    let mut at = 0;
    for turn in turns {
        // SAFETY: a turn is two vectors; each of `paired` has an element beyond all turns.
        unsafe {
            let first = _mm256_add_epi64(_mm256_loadu_si256(turn.as_ptr().cast()), bias);
            let second = _mm256_add_epi64(_mm256_loadu_si256(turn.as_ptr().add(4).cast()), bias);
            seen = _mm256_or_si256(seen, _mm256_or_si256(first, second));
            let low = [_mm256_and_si256(first, low_bits), _mm256_and_si256(second, low_bits)];
            let high =
                [_mm256_srli_epi64::<{ LOW_BITS as i32 }>(first), _mm256_srli_epi64::<{ LOW_BITS as i32 }>(second)];
            for (sums, r) in sums.iter_mut().zip(&paired) {
                let r = r.as_ptr().add(at);
                let r = [_mm256_loadu_si256(r.cast()), _mm256_loadu_si256(r.add(1).cast())];
                for (sum, part) in sums.iter_mut().zip([low, high]) {
                    for (part, r) in part.into_iter().zip(r) {
                        *sum = _mm256_add_epi64(*sum, _mm256_mul_epu32(part, r));
                    }
                }
            }
        }
        at += TURN;
    }
    let (mut parts, mut all) = match rest {
        [] => ([[0; 2]; 2], 0),
        rest => super::kernel::wide_left_portable(rest, after(r, at)),
    };
    for (parts, sums) in parts.iter_mut().zip(sums) {
        for (part, sum) in parts.iter_mut().zip(sums) {
            *part = lanes(sum).iter().fold(*part, |sum, &lane| sum.wrapping_add(lane));
        }
    }
    all |= lanes(seen).iter().fold(0, |all, &lane| all | lane);
    (parts, all)
}

/// See [`wide_right_portable`](super::kernel::wide_right_portable).
#[inline]
pub(super) fn wide_right<const FLIP: u16, T: Word>(
    _: Proven,
    codes: &[T],
    low: [&[u32]; 2],
    high: [&[i32]; 2],
) -> [(u64, i64); 2] {
    assert!(low.iter().all(|v| v.len() > codes.len()), "too short a projection");
    assert!(high.iter().all(|v| v.len() > codes.len()), "too short a projection");
    // SAFETY: whoever has a proof of this level has AVX2; the lengths were checked.
    unsafe { wide_right_avx2::<FLIP, T>(codes, low, high) }
}

/// # Safety
/// AVX2; each half of v longer than the codes.
#[target_feature(enable = "avx2")]
unsafe fn wide_right_avx2<const FLIP: u16, T: Word>(
    codes: &[T],
    low: [&[u32]; 2],
    high: [&[i32]; 2],
) -> [(u64, i64); 2] {
    const { assert!(size_of::<T>() == 2) };
    let flip = _mm_set1_epi16(FLIP as i16);
    let mut sums = [[_mm256_setzero_si256(); 2]; 2];
    let (turns, rest) = codes.as_chunks::<TURN>();
    let mut at = 0;
    for turn in turns {
        // SAFETY: a turn is 16 bytes; each half of v has an element beyond the codes.
        unsafe {
            let even = _mm256_cvtepu16_epi32(_mm_xor_si128(_mm_loadu_si128(turn.as_ptr().cast()), flip));
            let odd = _mm256_srli_epi64::<32>(even);
            for ((sums, low), high) in sums.iter_mut().zip(&low).zip(&high) {
                let [a, b] = sums;
                let (low, high) = (low.as_ptr().add(at), high.as_ptr().add(at));
                *a = _mm256_add_epi64(*a, _mm256_mul_epu32(even, _mm256_loadu_si256(low.cast())));
                *b = _mm256_add_epi64(*b, _mm256_mul_epi32(even, _mm256_loadu_si256(high.cast())));
                *a = _mm256_add_epi64(*a, _mm256_mul_epu32(odd, _mm256_loadu_si256(low.add(1).cast())));
                *b = _mm256_add_epi64(*b, _mm256_mul_epi32(odd, _mm256_loadu_si256(high.add(1).cast())));
            }
        }
        at += TURN;
    }
    let mut parts = match rest {
        [] => [(0, 0); 2],
        rest => super::kernel::wide_right_portable::<FLIP, T>(rest, after(low, at), after(high, at)),
    };
    for ((low, high), [a, b]) in parts.iter_mut().zip(sums) {
        *low += lanes(a).iter().sum::<u64>();
        *high += lanes(b).iter().map(|&lane| lane as i64).sum::<i64>();
    }
    parts
}

/// What is left of both vectors.
#[inline(always)]
fn after<T>([a, b]: [&[T]; 2], at: usize) -> [&[T]; 2] {
    [a.get(at..).unwrap_or(&[]), b.get(at..).unwrap_or(&[])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_i32(vector: __m256i) -> i64 {
    let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(vector));
    let high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(vector));
    lanes(_mm256_add_epi64(low, high)).iter().map(|&lane| lane as i64).sum()
}

#[inline]
#[target_feature(enable = "avx2")]
fn fold(sum: __m256i) -> __m256i {
    let field = _mm256_set1_epi64x(i64::from(FIELD));
    _mm256_add_epi64(_mm256_and_si256(sum, field), _mm256_srli_epi64::<31>(sum))
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(vector: __m256i) -> [u64; 4] {
    let mut lanes = [0u64; 4];
    // SAFETY: four lanes of 64 bits are one vector.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), vector) };
    lanes
}
