//! The inner kernel with the vector instructions of x86-64; see [`tile`](super::tile).
#![allow(unsafe_code)]

use super::tile::{NarrowPairs, Pairs, Quads, Tile};
use core::arch::asm;
use core::arch::x86_64::*;

/// How far ahead of the step at hand weights are asked for. The processor's own prefetching ends at each page of
/// memory; a tile of few rows would wait there.
const AHEAD: usize = 4096;

/// Two k of 16 columns as vectors of 16-bit numbers.
pub(super) trait Vectors: Copy {
    /// As two vectors.
    ///
    /// # Safety
    /// AVX2.
    unsafe fn avx2(&self) -> [__m256i; 2];

    /// As one vector.
    ///
    /// # Safety
    /// AVX-512 F and BW.
    unsafe fn avx512(&self) -> __m512i;

    /// Ask for what comes after these four steps, if that is worth it.
    fn prefetch(turn: &[Self; 4]);
}

impl Vectors for Pairs {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2(&self) -> [__m256i; 2] {
        let columns = self.0.as_ptr().cast::<__m256i>();
        // SAFETY: a step is two aligned vectors.
        unsafe { [_mm256_load_si256(columns), _mm256_load_si256(columns.add(1))] }
    }

    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw")]
    unsafe fn avx512(&self) -> __m512i {
        // SAFETY: a step is one aligned vector.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch(_: &[Self; 4]) {}
}

impl Vectors for NarrowPairs {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2(&self) -> [__m256i; 2] {
        let columns = self.0.as_ptr().cast::<__m128i>();
        // SAFETY: a step is two aligned half vectors.
        unsafe { [_mm256_cvtepi8_epi16(_mm_load_si128(columns)), _mm256_cvtepi8_epi16(_mm_load_si128(columns.add(1)))] }
    }

    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw")]
    unsafe fn avx512(&self) -> __m512i {
        // SAFETY: a step is one aligned half vector.
        unsafe { _mm512_cvtepi8_epi16(_mm256_load_si256(self.0.as_ptr().cast())) }
    }

    #[inline(always)]
    fn prefetch(turn: &[Self; 4]) {
        let ahead = turn.as_ptr().cast::<i8>().wrapping_add(AHEAD);
        // SAFETY: a prefetch reads nothing that the program sees and never faults.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(ahead);
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64));
        }
    }
}

/// Ask for steps that will be needed soon.
pub(super) fn prefetch<S>(steps: &[S]) {
    for step in steps {
        // SAFETY: a prefetch reads nothing that the program sees and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(step).cast()) };
    }
}

/// # Safety
/// AVX2; `codes` readable up to `(R - 1) * stride + 2 * panel.len()`; R at most 6 (for speed) and
/// at most the rows of `out`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn pairs_avx2<const R: usize>(
    codes: *const i16,
    stride: usize,
    panel: &[impl Vectors],
    out: &mut Tile,
) {
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    // SAFETY: the caller vouches for the codes of R rows and of every step.
    unsafe {
        let mut rows: [*const i16; R] = core::array::from_fn(|r| codes.add(r * stride));
        // Four steps a turn: each row's address is moved once for four.
        let (turns, rest) = panel.as_chunks::<4>();
        for turn in turns {
            Vectors::prefetch(turn);
            let [first, second, third, fourth] = turn;
            pairs_avx2_step::<R, 0>(&rows, first.avx2(), &mut sums);
            pairs_avx2_step::<R, 4>(&rows, second.avx2(), &mut sums);
            pairs_avx2_step::<R, 8>(&rows, third.avx2(), &mut sums);
            pairs_avx2_step::<R, 12>(&rows, fourth.avx2(), &mut sums);
            rows = rows.map(|row| row.add(8));
        }
        for step in rest {
            pairs_avx2_step::<R, 0>(&rows, step.avx2(), &mut sums);
            rows = rows.map(|row| row.add(2));
        }
    }
    for (out, [a, b]) in out.iter_mut().zip(sums) {
        let out = out.as_mut_ptr().cast::<__m256i>();
        // SAFETY: a row of the tile is 64 bytes.
        unsafe {
            _mm256_storeu_si256(out, a);
            _mm256_storeu_si256(out.add(1), b);
        }
    }
}

/// # Safety
/// AVX2; each of `rows` readable up to `OFFSET + 4` bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pairs_avx2_step<const R: usize, const OFFSET: usize>(
    rows: &[*const i16; R],
    [left, right]: [__m256i; 2],
    sums: &mut [[__m256i; 2]; R],
) {
    for (&row, [a, b]) in rows.iter().zip(sums) {
        // The order of these five is worth a tenth of the speed on Zen 3, where an addition that
        // follows its own product takes a multiplier's place; compilers choose another.
        // SAFETY: the caller vouches for the codes.
        unsafe {
            asm!(
                "vpbroadcastd {right}, [{row} + {offset}]",
                "vpmaddwd {left}, {right}, {columns_left}",
                "vpmaddwd {right}, {right}, {columns_right}",
                "vpaddd {a}, {a}, {left}",
                "vpaddd {b}, {b}, {right}",
                row = in(reg) row,
                offset = const OFFSET,
                columns_left = in(ymm_reg) left,
                columns_right = in(ymm_reg) right,
                a = inout(ymm_reg) *a,
                b = inout(ymm_reg) *b,
                left = out(ymm_reg) _,
                right = out(ymm_reg) _,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
    }
}

/// # Safety
/// AVX-512 F and BW; otherwise as [`pairs_avx2`] with R at most 12.
#[target_feature(enable = "avx2,avx512f,avx512bw")]
pub(super) unsafe fn pairs_avx512<const R: usize>(
    codes: *const i16,
    stride: usize,
    panel: &[impl Vectors],
    out: &mut Tile,
) {
    let mut sums = [_mm512_setzero_si512(); R];
    let mut codes = codes;
    for step in panel {
        // SAFETY: the caller vouches for the codes.
        unsafe {
            let columns = step.avx512();
            for (r, sum) in sums.iter_mut().enumerate() {
                let pair = _mm512_set1_epi32(codes.add(r * stride).cast::<i32>().read_unaligned());
                *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(pair, columns));
            }
            codes = codes.add(2);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: a row of the tile is 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
    }
}

/// [`pairs_avx512`] where one instruction multiplies, adds two products and adds them to the sum.
///
/// # Safety
/// AVX-512 F, BW and VNNI; otherwise as [`pairs_avx512`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn pairs_vnni<const R: usize>(
    codes: *const i16,
    stride: usize,
    panel: &[impl Vectors],
    out: &mut Tile,
) {
    let mut sums = [_mm512_setzero_si512(); R];
    let mut codes = codes;
    for step in panel {
        // SAFETY: the caller vouches for the codes.
        unsafe {
            let columns = step.avx512();
            for (r, sum) in sums.iter_mut().enumerate() {
                let pair = _mm512_set1_epi32(codes.add(r * stride).cast::<i32>().read_unaligned());
                *sum = _mm512_dpwssd_epi32(*sum, pair, columns);
            }
            codes = codes.add(2);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: a row of the tile is 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
    }
}

/// # Safety
/// AVX-512 F and VNNI; `codes` readable up to `(R - 1) * stride + 4 * panel.len()`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn quads_vnni<const R: usize>(codes: *const u8, stride: usize, panel: &[Quads], out: &mut Tile) {
    let mut sums = [_mm512_setzero_si512(); R];
    let mut codes = codes;
    for step in panel {
        // SAFETY: a step is one aligned vector; the caller vouches for the codes; a prefetch never faults.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(step.0.as_ptr().wrapping_add(AHEAD));
            let columns = _mm512_load_si512(step.0.as_ptr().cast());
            for (r, sum) in sums.iter_mut().enumerate() {
                let quad = _mm512_set1_epi32(codes.add(r * stride).cast::<i32>().read_unaligned());
                *sum = _mm512_dpbusd_epi32(*sum, quad, columns);
            }
            codes = codes.add(4);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: a row of the tile is 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
    }
}
