//! The inner kernel: a few rows of codes times 16 packed columns, summed in 32-bit integers.
//!
//! # How
//!
//! Columns are packed in panels of 16. A panel is a list of steps; a step holds two ([`Pairs`], or
//! [`NarrowPairs`] of half the bytes, which are widened as they are loaded) or four
//! ([`Quads`]) consecutive k of each of its columns, which is what one multiply-add instruction takes.
//! Codes are row-major, so the same k of one row are one 32-bit word that is broadcast. The sums of a
//! tile live in registers until its panel ends; nothing else is loaded twice.
//!
//! All instructions used are exact for operands within the bounds: `vpmaddwd` multiplies 16 by 16 bits
//! and adds two products in 32; `vpdpwssd` adds to a sum in the same step, and `vpdpbusd` multiplies u8 by i8 and adds four products so. (The older
//! `vpmaddubsw` saturates and is never used.)

use super::level::{Level, Proven};
#[cfg(target_arch = "x86_64")]
use super::tile_x86::Vectors;

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

/// Two k of 16 columns as 8-bit numbers, column by column: weights as they lie in memory where the level multiplies
/// pairs.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct NarrowPairs(pub(super) [i8; 32]);

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

    /// `out[r][c] = sum over k of codes[r * stride + k] * panel[k][c]` for the first `rows` rows.
    ///
    /// # Panics
    /// If `rows` is 0 or more than [`tile_rows`], or `codes` too short.
    fn tile(level: Proven, codes: &[Self::Code], stride: usize, rows: usize, panel: &[Self], out: &mut Tile);

    /// Ask for steps that will be needed soon, where the machine can be asked.
    fn prefetch(steps: &[Self]) {
        #[cfg(target_arch = "x86_64")]
        super::tile_x86::prefetch(steps);
        #[cfg(not(target_arch = "x86_64"))]
        let _ = steps;
    }
}

/// Most rows of a tile: as many as the level's registers hold.
pub(super) fn tile_rows(level: Proven) -> usize {
    match level.level() {
        Level::Scalar => 4,
        Level::Avx2 => 6,
        Level::Avx512 => 12,
    }
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

/// Two k of 16 columns.
trait PairStep: Vectors {
    /// As 16-bit numbers.
    fn wide(&self) -> [i16; 32];
}

impl PairStep for Pairs {
    fn wide(&self) -> [i16; 32] {
        self.0
    }
}

impl PairStep for NarrowPairs {
    fn wide(&self) -> [i16; 32] {
        self.0.map(i16::from)
    }
}

/// Nothing to ask of a step where no kernel has vectors of its own.
#[cfg(not(target_arch = "x86_64"))]
trait Vectors {}

#[cfg(not(target_arch = "x86_64"))]
impl<T> Vectors for T {}

/// A tile of either kind of pairs.
#[allow(unsafe_code)]
fn pairs(level: Proven, codes: &[i16], stride: usize, rows: usize, panel: &[impl PairStep], out: &mut Tile) {
    check(level, codes.len(), stride, rows, panel.len() * Pairs::WIDTH);
    match level.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            use super::tile_x86::pairs_avx2 as kernel;
            // SAFETY: the level is proven and the lengths were checked.
            unsafe { by_rows!(rows, kernel(codes.as_ptr(), stride, panel, out), 1 2 3 4 5 6) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if has_vnni(level) => {
            use super::tile_x86::pairs_vnni as kernel;
            // SAFETY: the level is proven, VNNI was seen, and the lengths were checked.
            unsafe { by_rows!(rows, kernel(codes.as_ptr(), stride, panel, out), 1 2 3 4 5 6 7 8 9 10 11 12) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            use super::tile_x86::pairs_avx512 as kernel;
            // SAFETY: the level is proven and the lengths were checked.
            unsafe { by_rows!(rows, kernel(codes.as_ptr(), stride, panel, out), 1 2 3 4 5 6 7 8 9 10 11 12) }
        }
        _ => by_rows!(rows, pairs_portable(codes, stride, panel, out), 1 2 3 4),
    }
}

impl Step for Pairs {
    type Code = i16;
    const WIDTH: usize = 2;
    const ZERO: Self = Self([0; 32]);

    fn tile(level: Proven, codes: &[i16], stride: usize, rows: usize, panel: &[Self], out: &mut Tile) {
        pairs(level, codes, stride, rows, panel, out);
    }
}

impl Step for NarrowPairs {
    type Code = i16;
    const WIDTH: usize = 2;
    const ZERO: Self = Self([0; 32]);

    fn tile(level: Proven, codes: &[i16], stride: usize, rows: usize, panel: &[Self], out: &mut Tile) {
        pairs(level, codes, stride, rows, panel, out);
    }
}

/// Whether a level has instructions that multiply and add up in one: AVX-512 with VNNI.
#[cfg(target_arch = "x86_64")]
fn has_vnni(level: Proven) -> bool {
    level.level() == Level::Avx512 && std::arch::is_x86_feature_detected!("avx512vnni")
}

/// Whether a level has instructions that multiply and add up in one.
#[cfg(not(target_arch = "x86_64"))]
fn has_vnni(_level: Proven) -> bool {
    false
}

impl Quads {
    /// Whether the level multiplies quads.
    pub(super) fn suits(level: Proven) -> bool {
        has_vnni(level)
    }
}

impl Step for Quads {
    type Code = u8;
    const WIDTH: usize = 4;
    const ZERO: Self = Self([0; 64]);

    #[allow(unsafe_code)]
    fn tile(level: Proven, codes: &[u8], stride: usize, rows: usize, panel: &[Self], out: &mut Tile) {
        check(level, codes.len(), stride, rows, panel.len() * Self::WIDTH);
        #[cfg(target_arch = "x86_64")]
        if has_vnni(level) {
            use super::tile_x86::quads_vnni as kernel;
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
fn pairs_portable<const R: usize>(codes: &[i16], stride: usize, panel: &[impl PairStep], out: &mut Tile) {
    let mut sums = [[0i32; COLUMNS]; R];
    for (k, step) in panel.iter().enumerate() {
        let step = step.wide();
        for (r, sums) in sums.iter_mut().enumerate() {
            let at = r * stride + 2 * k;
            let Some(&[a, b]) = codes.get(at..at + 2) else { return };
            for (sum, &[u, v]) in sums.iter_mut().zip(step.as_chunks::<2>().0) {
                *sum += i32::from(a) * i32::from(u) + i32::from(b) * i32::from(v);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = sums;
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// A machine with VNNI takes another kernel, so that nothing else would run this one there.
    #[test]
    #[allow(unsafe_code)]
    fn pairs_without_vnni_agree() {
        use super::super::tile_x86::pairs_avx512 as kernel;
        if Proven::new(Level::Avx512).is_none() {
            return;
        }
        let odd = |at: usize| (at as u32).wrapping_mul(2_654_435_761) >> 8;
        for depth in [1, 2, 3, 7, 64] {
            let panel: Vec<NarrowPairs> =
                (0..depth).map(|k| NarrowPairs(core::array::from_fn(|i| odd(k * 32 + i) as i8))).collect();
            let codes: Vec<i16> = (0..12 * 2 * depth).map(|at| odd(at + 7) as i16).collect();
            for rows in 1..=12 {
                let (mut fast, mut plain) = (ZERO_TILE, ZERO_TILE);
                let stride = 2 * depth;
                // SAFETY: the machine was asked, and there are codes of 12 rows.
                unsafe {
                    by_rows!(rows, kernel(codes.as_ptr(), stride, &panel, &mut fast), 1 2 3 4 5 6 7 8 9 10 11 12);
                }
                by_rows!(rows, pairs_portable(&codes, stride, &panel, &mut plain), 1 2 3 4 5 6 7 8 9 10 11 12);
                assert_eq!(fast, plain, "{rows} rows of {depth} steps");
            }
        }
    }
}
