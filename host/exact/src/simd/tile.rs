//! The inner kernel: a few rows of codes times 16 packed columns, summed in 32-bit integers.
//!
//! # How
//!
//! Columns are packed in panels of 16. A panel is a list of steps; a step holds two ([`Pairs`]) or four
//! ([`Quads`]) consecutive k of each of its columns, which is what one multiply-add instruction takes.
//! Codes are row-major, so the same k of one row are one 32-bit word that is broadcast. The sums of a
//! tile live in registers until its panel ends; nothing else is loaded twice.
//!
//! All instructions used are exact for operands within the bounds: `vpmaddwd` multiplies 16 by 16 bits
//! and adds two products in 32; `vpdpbusd` multiplies u8 by i8 and adds four products in 32. (The older
//! `vpmaddubsw` saturates and is never used.)

use super::level::{Level, Proven};
use core::cell::RefCell;
use std::thread::LocalKey;

/// Columns of a panel.
pub(super) const COLUMNS: usize = 16;
/// Most rows of a tile at any level.
pub(super) const MAX_TILE_ROWS: usize = 12;

/// The sums of a tile.
pub(super) type Tile = [[i32; COLUMNS]; MAX_TILE_ROWS];

/// A tile of zeros.
pub(super) const ZERO_TILE: Tile = [[0; COLUMNS]; MAX_TILE_ROWS];

/// Two k of 16 columns as 16-bit numbers, column by column.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Pairs(pub(super) [i16; 32]);

/// Four k of 16 columns as 8-bit numbers, column by column.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Quads(pub(super) [i8; 64]);

/// One step of a panel.
pub(super) trait Step: Copy + Send + Sync + 'static {
    /// What a code is stored as.
    type Code: Copy + Default + Send + Sync + 'static;
    /// How many k a step holds.
    const WIDTH: usize;
    /// A step of zeros.
    const ZERO: Self;

    /// Set the weight at `position` (`column * WIDTH + k`).
    fn set(&mut self, position: usize, weight: i8);

    /// Memory for codes that a thread keeps from one call to the next.
    fn scratch() -> &'static LocalKey<RefCell<Vec<Self::Code>>>;

    /// `out[r][c] = sum over k of codes[r * stride + k] * panel[k][c]` for the first `rows` rows.
    ///
    /// # Panics
    /// If `rows` is 0 or more than [`tile_rows`], or `codes` too short.
    fn tile(level: Proven, codes: &[Self::Code], stride: usize, rows: usize, panel: &[Self], out: &mut Tile);
}

/// Most rows of a tile: as many as the level's registers hold.
pub(super) fn tile_rows(level: Proven) -> usize {
    match level.level() {
        Level::Scalar => 4,
        Level::Avx2 => 6,
        Level::Avx512 => 12,
    }
}

thread_local! {
    static PAIR_CODES: RefCell<Vec<i16>> = const { RefCell::new(Vec::new()) };
    static QUAD_CODES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn check(level: Proven, available: usize, stride: usize, rows: usize, depth: usize) {
    assert!((1..=tile_rows(level)).contains(&rows), "a tile of {rows} rows");
    assert!((rows - 1) * stride + depth <= available, "too few codes for a tile");
}

/// Calls `$kernel::<R>` for the R that equals `$rows`.
macro_rules! by_rows {
    ($rows:expr, $kernel:ident($codes:expr, $stride:expr, $panel:expr, $out:expr), $($count:literal)*) => {
        match $rows {
            $($count => $kernel::<$count>($codes, $stride, $panel, $out),)*
            _ => {}
        }
    };
}

impl Step for Pairs {
    type Code = i16;
    const WIDTH: usize = 2;
    const ZERO: Self = Self([0; 32]);

    fn set(&mut self, position: usize, weight: i8) {
        if let Some(slot) = self.0.get_mut(position) {
            *slot = i16::from(weight);
        }
    }

    fn scratch() -> &'static LocalKey<RefCell<Vec<i16>>> {
        &PAIR_CODES
    }

    #[allow(unsafe_code)]
    fn tile(level: Proven, codes: &[i16], stride: usize, rows: usize, panel: &[Self], out: &mut Tile) {
        check(level, codes.len(), stride, rows, panel.len() * Self::WIDTH);
        match level.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                use x86::pairs_avx2 as kernel;
                // SAFETY: the level is proven and the lengths were checked.
                unsafe { by_rows!(rows, kernel(codes.as_ptr(), stride, panel, out), 1 2 3 4 5 6) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                use x86::pairs_avx512 as kernel;
                // SAFETY: the level is proven and the lengths were checked.
                unsafe { by_rows!(rows, kernel(codes.as_ptr(), stride, panel, out), 1 2 3 4 5 6 7 8 9 10 11 12) }
            }
            _ => by_rows!(rows, pairs_portable(codes, stride, panel, out), 1 2 3 4),
        }
    }
}

impl Quads {
    /// Whether the level multiplies quads: it needs AVX-512 VNNI too.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn suits(level: Proven) -> bool {
        level.level() == Level::Avx512 && std::arch::is_x86_feature_detected!("avx512vnni")
    }

    /// Whether the level multiplies quads.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn suits(_level: Proven) -> bool {
        false
    }
}

impl Step for Quads {
    type Code = u8;
    const WIDTH: usize = 4;
    const ZERO: Self = Self([0; 64]);

    fn set(&mut self, position: usize, weight: i8) {
        if let Some(slot) = self.0.get_mut(position) {
            *slot = weight;
        }
    }

    fn scratch() -> &'static LocalKey<RefCell<Vec<u8>>> {
        &QUAD_CODES
    }

    #[allow(unsafe_code)]
    fn tile(level: Proven, codes: &[u8], stride: usize, rows: usize, panel: &[Self], out: &mut Tile) {
        check(level, codes.len(), stride, rows, panel.len() * Self::WIDTH);
        #[cfg(target_arch = "x86_64")]
        if Self::suits(level) {
            use x86::quads_vnni as kernel;
            // SAFETY: the level is proven, VNNI was seen, and the lengths were checked.
            unsafe { by_rows!(rows, kernel(codes.as_ptr(), stride, panel, out), 1 2 3 4 5 6 7 8 9 10 11 12) }
            return;
        }
        for (row, sums) in codes.chunks(stride.max(1)).zip(out.iter_mut().take(rows)) {
            *sums = [0; COLUMNS];
            for (codes, step) in row.as_chunks::<4>().0.iter().zip(panel) {
                for (sum, weights) in sums.iter_mut().zip(step.0.as_chunks::<4>().0) {
                    for (&code, &weight) in codes.iter().zip(weights) {
                        *sum += i32::from(code) * i32::from(weight);
                    }
                }
            }
        }
    }
}

/// The kernel in plain Rust.
fn pairs_portable<const R: usize>(codes: &[i16], stride: usize, panel: &[Pairs], out: &mut Tile) {
    let mut sums = [[0i32; COLUMNS]; R];
    for (k, step) in panel.iter().enumerate() {
        for (r, sums) in sums.iter_mut().enumerate() {
            let at = r * stride + 2 * k;
            let Some(&[a, b]) = codes.get(at..at + 2) else { return };
            for (sum, &[u, v]) in sums.iter_mut().zip(step.0.as_chunks::<2>().0) {
                *sum += i32::from(a) * i32::from(u) + i32::from(b) * i32::from(v);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = sums;
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use super::{Pairs, Quads, Tile};
    use core::arch::asm;
    use core::arch::x86_64::*;

    /// # Safety
    /// AVX2; `codes` readable up to `(R - 1) * stride + 2 * panel.len()`; R at most 6 (for speed) and
    /// at most the rows of `out`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn pairs_avx2<const R: usize>(codes: *const i16, stride: usize, panel: &[Pairs], out: &mut Tile) {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        // SAFETY: the caller vouches for the codes of R rows and of every step.
        unsafe {
            let mut rows: [*const i16; R] = core::array::from_fn(|r| codes.add(r * stride));
            // Four steps a turn: each row's address is moved once for four.
            let (turns, rest) = panel.as_chunks::<4>();
            for [first, second, third, fourth] in turns {
                pairs_avx2_step::<R, 0>(&rows, first, &mut sums);
                pairs_avx2_step::<R, 4>(&rows, second, &mut sums);
                pairs_avx2_step::<R, 8>(&rows, third, &mut sums);
                pairs_avx2_step::<R, 12>(&rows, fourth, &mut sums);
                rows = rows.map(|row| row.add(8));
            }
            for step in rest {
                pairs_avx2_step::<R, 0>(&rows, step, &mut sums);
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
        step: &Pairs,
        sums: &mut [[__m256i; 2]; R],
    ) {
        let columns = step.0.as_ptr().cast::<__m256i>();
        // SAFETY: a step is two aligned vectors; the caller vouches for the codes.
        unsafe {
            let left = _mm256_load_si256(columns);
            let right = _mm256_load_si256(columns.add(1));
            for (&row, [a, b]) in rows.iter().zip(sums) {
                // The order of these five is worth a tenth of the speed on Zen 3, where an addition that
                // follows its own product takes a multiplier's place; compilers choose another.
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
        panel: &[Pairs],
        out: &mut Tile,
    ) {
        let mut sums = [_mm512_setzero_si512(); R];
        let mut codes = codes;
        for step in panel {
            // SAFETY: a step is one aligned vector; the caller vouches for the codes.
            unsafe {
                let columns = _mm512_load_si512(step.0.as_ptr().cast());
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

    /// # Safety
    /// AVX-512 F and VNNI; `codes` readable up to `(R - 1) * stride + 4 * panel.len()`.
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn quads_vnni<const R: usize>(codes: *const u8, stride: usize, panel: &[Quads], out: &mut Tile) {
        let mut sums = [_mm512_setzero_si512(); R];
        let mut codes = codes;
        for step in panel {
            // SAFETY: a step is one aligned vector; the caller vouches for the codes.
            unsafe {
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
}
