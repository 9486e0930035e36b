//! Inner products modulo p with AVX2: `vpmuludq` on the even and the odd numbers of a vector.
#![allow(unsafe_code)]

use super::dot::{Halves, LANES};
use crate::simd::level::Proven;
use core::arch::x86_64::*;

/// Numbers of a vector.
const NUMBERS: usize = 8;
/// Vectors that are taken at once: their four products of each lane are added up before they are cut.
const VECTORS: usize = 2;

/// Numbers that are taken at once.
type Turn = [[u32; NUMBERS]; VECTORS];

/// Both inner products of the whole turns at the front of at most a block of numbers, and how many numbers those are.
pub(super) fn front(_: Proven, row: &[u32], first: &[u32], second: &[u32]) -> ([Halves; 2], usize) {
    let turns = |all| turns(all).iter();
    // SAFETY: whoever has a proof of this level has AVX2.
    let sums = unsafe { sums(turns(row), turns(first), turns(second)) };
    (sums, turns(row).len() * NUMBERS * VECTORS)
}

fn turns(all: &[u32]) -> &[Turn] {
    all.as_chunks::<NUMBERS>().0.as_chunks::<VECTORS>().0
}

#[target_feature(enable = "avx2")]
fn sums<'a>(
    row: impl Iterator<Item = &'a Turn>,
    first: impl Iterator<Item = &'a Turn>,
    second: impl Iterator<Item = &'a Turn>,
) -> [Halves; 2] {
    let mut low = [_mm256_setzero_si256(); 2];
    let mut high = [_mm256_setzero_si256(); 2];
    let half = _mm256_set1_epi64x(u32::MAX.into());
    for ((x, r), s) in row.zip(first).zip(second) {
        let x = load(x);
        for ((low, high), r) in low.iter_mut().zip(&mut high).zip([r, s]) {
            let sum = products(&x, &load(r));
            *low = _mm256_add_epi64(*low, _mm256_and_si256(sum, half));
            *high = _mm256_add_epi64(*high, _mm256_srli_epi64::<32>(sum));
        }
    }
    let ([a, b], [c, d]) = (low, high);
    [Halves { low: lanes(a), high: lanes(c) }, Halves { low: lanes(b), high: lanes(d) }]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(turn: &Turn) -> [__m256i; VECTORS] {
    let [a, b] = turn;
    // SAFETY: eight numbers of 32 bits are one vector, twice.
    unsafe { [_mm256_loadu_si256(a.as_ptr().cast()), _mm256_loadu_si256(b.as_ptr().cast())] }
}

/// The sum of the four products of each lane of 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn products([a, b]: &[__m256i; VECTORS], [c, d]: &[__m256i; VECTORS]) -> __m256i {
    let both = |x: __m256i, r: __m256i| {
        let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(x), _mm256_srli_epi64::<32>(r));
        _mm256_add_epi64(_mm256_mul_epu32(x, r), odd)
    };
    _mm256_add_epi64(both(*a, *c), both(*b, *d))
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(sums: __m256i) -> [u64; LANES] {
    let mut lanes = [0; LANES];
    // SAFETY: four lanes of 64 bits are one vector.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums) };
    lanes
}
