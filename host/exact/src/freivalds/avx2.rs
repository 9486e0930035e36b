//! Codes times projections with AVX2: `vpmaddwd` on the limbs of v.
#![allow(unsafe_code)]

use super::kernel::{Code, Kind};
use super::limbs::{BLOCK, Limbs, TURN};
use super::vectors::Projection;
use crate::simd::level::Proven;
use core::arch::x86_64::*;

/// 16 columns of both v, in L limbs each.
type Columns<const L: usize> = [[[i16; TURN]; L]; 2];

/// See [`right`](super::kernel::right).
pub(super) fn right<T: Code>(_: Proven, codes: &[T], projection: &Projection, limbs: &Limbs, right: &mut [[u64; 2]]) {
    // u16 codes are taken less 2^15, which makes them signed; this gives it back.
    let offset = match T::KIND {
        Kind::U16 => limbs.sums.map(|sum| sum << 15),
        Kind::U8 | Kind::I16 => [0; 2],
    };
    let width = projection.len();
    // SAFETY: whoever has a proof of this level has AVX2.
    unsafe {
        match limbs.shifts.len() {
            3 => rows::<T, 3>(codes, width, limbs, offset, right),
            4 => rows::<T, 4>(codes, width, limbs, offset, right),
            5 => rows::<T, 5>(codes, width, limbs, offset, right),
            _ => rows::<T, 6>(codes, width, limbs, offset, right),
        }
    }
}

#[target_feature(enable = "avx2")]
fn rows<T: Code, const L: usize>(codes: &[T], width: usize, limbs: &Limbs, offset: [u64; 2], right: &mut [[u64; 2]]) {
    let columns: &[Columns<L>] = limbs.turns.as_chunks::<L>().0.as_chunks::<2>().0;
    for (codes, right) in codes.chunks_exact(width.max(1)).zip(right) {
        let mut sums = [_mm256_setzero_si256(); 2];
        let (turns, rest) = codes.as_chunks::<TURN>();
        for (turns, columns) in turns.chunks(BLOCK).zip(columns.chunks(BLOCK)) {
            block(turns, columns, limbs.shifts, &mut sums);
        }
        if !rest.is_empty() {
            let mut turn = [T::default(); TURN];
            turn.iter_mut().zip(rest).for_each(|(turn, &code)| *turn = code);
            block(&[turn], columns.get(turns.len()..).unwrap_or(&[]), limbs.shifts, &mut sums);
        }
        for ((right, offset), sum) in right.iter_mut().zip(offset).zip(sums) {
            let mut lanes = [0u64; 4];
            // SAFETY: four lanes of 64 bits are one vector.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
            *right = lanes.iter().fold(offset, |sum, &lane| sum.wrapping_add(lane));
        }
    }
}

/// Add up to a block of turns to the sums, four lanes of 64 bits for each v.
#[inline]
#[target_feature(enable = "avx2")]
fn block<T: Code, const L: usize>(
    turns: &[[T; TURN]],
    columns: &[Columns<L>],
    shifts: &[u32],
    sums: &mut [__m256i; 2],
) {
    let mut parts = [[_mm256_setzero_si256(); L]; 2];
    for (turn, columns) in turns.iter().zip(columns) {
        let codes = load(turn);
        for (parts, limbs) in parts.iter_mut().zip(columns) {
            for (part, limb) in parts.iter_mut().zip(limbs) {
                // SAFETY: 16 limbs of 16 bits are one vector.
                let limb = unsafe { _mm256_loadu_si256(limb.as_ptr().cast()) };
                *part = _mm256_add_epi32(*part, _mm256_madd_epi16(codes, limb));
            }
        }
    }
    for (sum, parts) in sums.iter_mut().zip(parts) {
        for (part, &shift) in parts.into_iter().zip(shifts) {
            let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(part));
            let high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(part));
            let part = _mm256_sll_epi64(_mm256_add_epi64(low, high), _mm_cvtsi32_si128(shift as i32));
            *sum = _mm256_add_epi64(*sum, part);
        }
    }
}

/// A turn as signed numbers of 16 bits; u16 codes less 2^15.
#[inline]
#[target_feature(enable = "avx2")]
fn load<T: Code>(turn: &[T; TURN]) -> __m256i {
    let from = turn.as_ptr();
    match T::KIND {
        // SAFETY: only u8 is of this kind, and 16 of them are half a vector.
        Kind::U8 => _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(from.cast()) }),
        // SAFETY: only u16 is of this kind, and 16 of them are one vector.
        Kind::U16 => _mm256_xor_si256(unsafe { _mm256_loadu_si256(from.cast()) }, _mm256_set1_epi16(i16::MIN)),
        // SAFETY: only i16 is of this kind, and 16 of them are one vector.
        Kind::I16 => unsafe { _mm256_loadu_si256(from.cast()) },
    }
}
