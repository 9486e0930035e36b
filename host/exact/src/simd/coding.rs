//! Rows of floats to codes, and sums of codes back to floats: the two ends of a linear layer.
//!
//! 16-bit codes meet a multiplier of signed 16-bit numbers *centred*, less 32768; what that takes from
//! a sum, 32768 times the sum of the weights, is given back exactly. Sums of 16-bit codes are held in
//! f64: they stay below 2^40, where f64 is exact.

use super::instantiate::instantiate;
use super::level::Proven;
use super::place::Place;
use super::rows::range;
use super::tile::{COLUMNS, MAX_TILE_ROWS, NarrowPairs, Quads, Step, Tile};
use crate::layer::{Activation, Linear};
use crate::number::{TINY, clean, round};
use crate::reference::QuantisedRow;
use core::cell::RefCell;
use core::hint::black_box;
use std::thread::LocalKey;

/// What centring takes from a 16-bit code.
const CENTRE: i32 = 32_768;

/// The sums of a tile, of 16-bit codes.
pub(super) type WideTile = [[f64; COLUMNS]; MAX_TILE_ROWS];

/// A wide tile of zeros.
pub(super) const ZERO_WIDE: WideTile = [[0.0; COLUMNS]; MAX_TILE_ROWS];

/// What scaling needs to know of 16 columns.
pub(super) struct Columns {
    pub(super) row_sum: [i32; COLUMNS],
    pub(super) scale: [f32; COLUMNS],
    pub(super) bias: [f32; COLUMNS],
}

impl Columns {
    /// Of the columns in a panel; zeros where the matrix ends inside it.
    pub(super) fn new(layer: &Linear, panel: usize) -> Self {
        let first = panel * COLUMNS;
        Self { row_sum: part(&layer.row_sum, first), scale: part(&layer.scale, first), bias: part(&layer.bias, first) }
    }
}

fn part<T: Copy + Default>(all: &[T], first: usize) -> [T; COLUMNS] {
    let mut part = [T::default(); COLUMNS];
    for (slot, &value) in part.iter_mut().zip(all.iter().skip(first)) {
        *slot = value;
    }
    part
}

/// How weights are stored and rows coded for a kind of step.
pub(super) trait Coder: Step {
    /// What was taken from each 16-bit code.
    const CENTRE: i32;

    /// Set the weight at `position` (`column * WIDTH + k`).
    fn set(&mut self, position: usize, weight: i8);

    /// Memory for codes that a thread keeps from one call to the next.
    fn scratch() -> &'static LocalKey<RefCell<Vec<Self::Code>>>;

    /// How many rows of stored codes stand for one row.
    fn limbs(activation: Activation) -> usize;

    /// Store an 8-bit code.
    fn from_u8(code: u8) -> Self::Code;

    /// Store a limb of a 16-bit code.
    fn from_u16(code: u16, limb: usize) -> Self::Code;

    /// Code the row `x` into `codes`, its limbs one after another; `values` is scratch.
    fn code(level: Proven, layer: &Linear, x: &[f32], values: &mut [f32], codes: &mut [Self::Code]) -> QuantisedRow;
}

thread_local! {
    static PAIR_CODES: RefCell<Vec<i16>> = const { RefCell::new(Vec::new()) };
    static QUAD_CODES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Coder for NarrowPairs {
    const CENTRE: i32 = CENTRE;

    fn set(&mut self, position: usize, weight: i8) {
        if let Some(slot) = self.0.get_mut(position) {
            *slot = weight;
        }
    }

    fn scratch() -> &'static LocalKey<RefCell<Vec<i16>>> {
        &PAIR_CODES
    }

    fn limbs(_activation: Activation) -> usize {
        1
    }

    fn from_u8(code: u8) -> i16 {
        i16::from(code)
    }

    fn from_u16(code: u16, _limb: usize) -> i16 {
        (i32::from(code) - CENTRE) as i16
    }

    fn code(level: Proven, layer: &Linear, x: &[f32], values: &mut [f32], codes: &mut [i16]) -> QuantisedRow {
        let prescale = layer.prescale.as_deref();
        match layer.activation {
            Activation::U8 => code_u8_pairs(level, x, prescale, values, codes),
            Activation::U16 => code_u16_pairs(level, x, prescale, values, codes),
        }
    }
}

impl Coder for Quads {
    const CENTRE: i32 = 0;

    fn set(&mut self, position: usize, weight: i8) {
        if let Some(slot) = self.0.get_mut(position) {
            *slot = weight;
        }
    }

    fn scratch() -> &'static LocalKey<RefCell<Vec<u8>>> {
        &QUAD_CODES
    }

    fn limbs(activation: Activation) -> usize {
        match activation {
            Activation::U8 => 1,
            Activation::U16 => 2,
        }
    }

    fn from_u8(code: u8) -> u8 {
        code
    }

    fn from_u16(code: u16, limb: usize) -> u8 {
        let [low, high] = code.to_le_bytes();
        if limb == 0 { high } else { low }
    }

    fn code(level: Proven, layer: &Linear, x: &[f32], values: &mut [f32], codes: &mut [u8]) -> QuantisedRow {
        let prescale = layer.prescale.as_deref();
        match layer.activation {
            Activation::U8 => code_u8(level, x, prescale, values, codes),
            Activation::U16 => {
                let (high, low) = codes.split_at_mut(codes.len() / 2);
                code_u16_quads(level, x, prescale, values, high, low)
            }
        }
    }
}

instantiate! {
    /// Code a row in 8 bits; `values` is scratch of the row's length.
    fn code_u8_pairs(x: &[f32], prescale: Option<&[f32]>, values: &mut [f32], codes: &mut [i16])
        -> QuantisedRow = code_u8_pairs_body;
    /// Code a row in 16 bits, centred.
    fn code_u16_pairs(x: &[f32], prescale: Option<&[f32]>, values: &mut [f32], codes: &mut [i16])
        -> QuantisedRow = code_u16_pairs_body;
    /// Code a row in 8 bits.
    fn code_u8(x: &[f32], prescale: Option<&[f32]>, values: &mut [f32], codes: &mut [u8])
        -> QuantisedRow = code_u8_body;
    /// Code a row in 16 bits, high bytes apart from low bytes.
    fn code_u16_quads(x: &[f32], prescale: Option<&[f32]>, values: &mut [f32], high: &mut [u8], low: &mut [u8])
        -> QuantisedRow = code_u16_quads_body;
    /// Code a row in 16 bits as the reference stores it.
    fn code_u16(x: &[f32], prescale: Option<&[f32]>, values: &mut [f32], codes: &mut [u16])
        -> QuantisedRow = code_u16_body;
    /// Scale `rows.len()` rows of sums of 8-bit codes.
    fn scale_narrow(sums: &Tile, rows: &[QuantisedRow], columns: &Columns, out: &mut Place<'_, f32>) = scale_narrow_body;
    /// Scale `rows.len()` rows of sums of 16-bit codes less `centre` that fit 32 bits.
    fn scale_centred(sums: &Tile, centre: i32, rows: &[QuantisedRow], columns: &Columns, out: &mut Place<'_, f32>)
        = scale_centred_body;
    /// Scale `rows.len()` rows of sums of 16-bit codes, high bytes and low bytes apart.
    fn scale_limbs(sums: &Tile, rows: &[QuantisedRow], columns: &Columns, out: &mut Place<'_, f32>) = scale_limbs_body;
    /// Scale `rows.len()` rows of sums of 16-bit codes less `centre`.
    fn scale_wide(sums: &WideTile, centre: i32, rows: &[QuantisedRow], columns: &Columns, out: &mut Place<'_, f32>)
        = scale_wide_body;
    /// One row of results from whole sums of 8-bit codes.
    fn scale_row_u8(totals: &[i32], row: QuantisedRow, layer: &Linear, out: &mut [f32]) = scale_row_u8_body;
    /// One row of results from whole sums of 16-bit codes.
    fn scale_row_u16(totals: &[i64], row: QuantisedRow, layer: &Linear, out: &mut [f32]) = scale_row_u16_body;
    /// `wide += sums`.
    fn widen(sums: &Tile, rows: usize, wide: &mut WideTile) = widen_body;
}

/// The row's scale and zero point, and what values are multiplied with; `values` becomes the cleaned row.
#[inline(always)]
fn measure(
    x: &[f32],
    prescale: Option<&[f32]>,
    values: &mut [f32],
    activation: Activation,
) -> Option<(QuantisedRow, f32)> {
    match prescale {
        Some(prescale) => {
            for ((v, &x), &p) in values.iter_mut().zip(x).zip(prescale) {
                *v = clean(x * p);
            }
        }
        None => {
            for (v, &x) in values.iter_mut().zip(x) {
                *v = clean(x);
            }
        }
    }
    let (low, high) = range(values);
    let range = high - low;
    if range < TINY {
        return None;
    }
    let max = activation.max_code();
    let inverse = max as f32 / range;
    let zero = round(-low * inverse).min(max);
    Some((QuantisedRow { scale: range / max as f32, zero }, inverse))
}

const ZERO_ROW: QuantisedRow = QuantisedRow { scale: 0.0, zero: 0 };

#[inline(always)]
fn code<T>(
    x: &[f32],
    prescale: Option<&[f32]>,
    values: &mut [f32],
    activation: Activation,
    codes: &mut [T],
    convert: impl Fn(i32) -> T,
) -> QuantisedRow {
    let max = activation.max_code();
    match measure(x, prescale, values, activation) {
        Some((row, inverse)) => {
            for (code, &v) in codes.iter_mut().zip(&*values) {
                *code = convert((round(v * inverse) + row.zero).clamp(0, max));
            }
            row
        }
        None => {
            codes.iter_mut().for_each(|code| *code = convert(0));
            ZERO_ROW
        }
    }
}

#[inline(always)]
fn code_u8_pairs_body(x: &[f32], prescale: Option<&[f32]>, values: &mut [f32], codes: &mut [i16]) -> QuantisedRow {
    code(x, prescale, values, Activation::U8, codes, |c| c as i16)
}

#[inline(always)]
fn code_u16_pairs_body(x: &[f32], prescale: Option<&[f32]>, values: &mut [f32], codes: &mut [i16]) -> QuantisedRow {
    code(x, prescale, values, Activation::U16, codes, |c| (c - CENTRE) as i16)
}

#[inline(always)]
fn code_u8_body(x: &[f32], prescale: Option<&[f32]>, values: &mut [f32], codes: &mut [u8]) -> QuantisedRow {
    code(x, prescale, values, Activation::U8, codes, |c| c as u8)
}

#[inline(always)]
fn code_u16_body(x: &[f32], prescale: Option<&[f32]>, values: &mut [f32], codes: &mut [u16]) -> QuantisedRow {
    code(x, prescale, values, Activation::U16, codes, |c| c as u16)
}

#[inline(always)]
fn code_u16_quads_body(
    x: &[f32],
    prescale: Option<&[f32]>,
    values: &mut [f32],
    high: &mut [u8],
    low: &mut [u8],
) -> QuantisedRow {
    let Some((row, inverse)) = measure(x, prescale, values, Activation::U16) else {
        high.fill(0);
        low.fill(0);
        return ZERO_ROW;
    };
    let max = Activation::U16.max_code();
    for ((high, low), &v) in high.iter_mut().zip(low).zip(&*values) {
        let code = (round(v * inverse) + row.zero).clamp(0, max);
        *high = (code >> 8) as u8;
        *low = code as u8;
    }
    row
}

/// What belongs to a row, unknown to the compiler: it would otherwise take the same column of 16 rows together, with a
/// gather for each, instead of the 16 columns of a row.
#[inline(always)]
fn one_row(row: QuantisedRow) -> QuantisedRow {
    black_box(row)
}

#[inline(always)]
fn scale_narrow_body(sums: &Tile, rows: &[QuantisedRow], columns: &Columns, out: &mut Place<'_, f32>) {
    for (r, (sums, &row)) in sums.iter().zip(rows).enumerate() {
        let row = one_row(row);
        let columns = columns.row_sum.iter().zip(&columns.scale).zip(&columns.bias);
        let result = |(&sum, ((&row_sum, &scale), &bias)): (&i32, ((&i32, &f32), &f32))| {
            // The difference is the sum of (code - zero) * weight with |code - zero| <= 255: it fits 32
            // bits for every K, even where the product that is subtracted wraps.
            let total = sum.wrapping_sub(row.zero.wrapping_mul(row_sum));
            total as f32 * (row.scale * scale) + bias
        };
        out.put(r, sums.iter().zip(columns).map(result));
    }
}

#[inline(always)]
fn scale_centred_body(sums: &Tile, centre: i32, rows: &[QuantisedRow], columns: &Columns, out: &mut Place<'_, f32>) {
    for (r, (sums, &row)) in sums.iter().zip(rows).enumerate() {
        out.put(r, scale_exact(sums.iter().map(|&sum| f64::from(sum)), centre, row, columns));
    }
}

#[inline(always)]
fn scale_limbs_body(sums: &Tile, rows: &[QuantisedRow], columns: &Columns, out: &mut Place<'_, f32>) {
    for (r, ([high, low], &row)) in sums.as_chunks::<2>().0.iter().zip(rows).enumerate() {
        let sums = high.iter().zip(low).map(|(&high, &low)| f64::from(high) * 256.0 + f64::from(low));
        out.put(r, scale_exact(sums, 0, row, columns));
    }
}

#[inline(always)]
fn scale_wide_body(sums: &WideTile, centre: i32, rows: &[QuantisedRow], columns: &Columns, out: &mut Place<'_, f32>) {
    for (r, (sums, &row)) in sums.iter().zip(rows).enumerate() {
        out.put(r, scale_exact(sums.iter().copied(), centre, row, columns));
    }
}

/// Every term is an integer below 2^40, so f64 adds them exactly, and the total is rounded to f32 once.
#[inline(always)]
fn scale_exact(
    sums: impl Iterator<Item = f64>,
    centre: i32,
    row: QuantisedRow,
    columns: &Columns,
) -> impl Iterator<Item = f32> {
    let row = one_row(row);
    let offset = f64::from(centre - row.zero);
    let columns = columns.row_sum.iter().zip(&columns.scale).zip(&columns.bias);
    sums.zip(columns).map(move |(sum, ((&row_sum, &scale), &bias))| {
        let total = sum + offset * f64::from(row_sum);
        total as f32 * (row.scale * scale) + bias
    })
}

#[inline(always)]
fn scale_row_u8_body(totals: &[i32], row: QuantisedRow, layer: &Linear, out: &mut [f32]) {
    let columns = layer.row_sum.iter().zip(&layer.scale).zip(&layer.bias);
    for ((y, &total), ((&row_sum, &scale), &bias)) in out.iter_mut().zip(totals).zip(columns) {
        // As in `scale_narrow`: the difference fits 32 bits.
        let total = total.wrapping_sub(row.zero.wrapping_mul(row_sum));
        *y = total as f32 * (row.scale * scale) + bias;
    }
}

#[inline(always)]
fn scale_row_u16_body(totals: &[i64], row: QuantisedRow, layer: &Linear, out: &mut [f32]) {
    let zero = f64::from(row.zero);
    let columns = layer.row_sum.iter().zip(&layer.scale).zip(&layer.bias);
    for ((y, &total), ((&row_sum, &scale), &bias)) in out.iter_mut().zip(totals).zip(columns) {
        // Exact, as in `scale_exact`.
        let total = exact_f64(total) - zero * f64::from(row_sum);
        *y = total as f32 * (row.scale * scale) + bias;
    }
}

/// An integer of -2^51 to 2^51 - 1 as f64, others modulo 2^52: by its bits, as AVX2 has no instruction for it.
#[inline(always)]
fn exact_f64(x: i64) -> f64 {
    const HALF: u64 = 1 << 51;
    const ONE: u64 = 1 << 52;
    // The bits of 2^52; below 2^53 the last bit of a float counts 1.
    const ONE_BITS: u64 = 1075 << 52;
    let positive = (x as u64).wrapping_add(HALF) & (ONE - 1);
    f64::from_bits(ONE_BITS | positive) - (ONE + HALF) as f64
}

#[inline(always)]
fn widen_body(sums: &Tile, rows: usize, wide: &mut WideTile) {
    for (sums, wide) in sums.iter().zip(wide).take(rows) {
        for (&sum, wide) in sums.iter().zip(wide) {
            *wide += f64::from(sum);
        }
    }
}
