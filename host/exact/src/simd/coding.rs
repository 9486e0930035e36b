//! Rows of floats to codes, and sums of codes back to floats: the two ends of a linear layer.
//!
//! 16-bit codes meet a multiplier of signed 16-bit numbers *centred*, less 32768; what that takes from
//! a sum, 32768 times the sum of the weights, is given back exactly. Sums of 16-bit codes are held in
//! f64: they stay below 2^40, where f64 is exact.

use super::instantiate::instantiate;
use super::level::Proven;
use super::rows::range;
use super::tile::{COLUMNS, MAX_TILE_ROWS, NarrowPairs, Pairs, Quads, Step, Tile};
use crate::layer::{Activation, Linear};
use crate::number::{TINY, clean, round};
use crate::reference::QuantisedRow;
use core::cell::RefCell;
use std::thread::LocalKey;

/// What centring takes from a 16-bit code.
const CENTRE: i32 = 32_768;

/// The sums of a tile, of 16-bit codes.
pub(super) type WideTile = [[f64; COLUMNS]; MAX_TILE_ROWS];

/// A wide tile of zeros.
pub(super) const ZERO_WIDE: WideTile = [[0.0; COLUMNS]; MAX_TILE_ROWS];

/// A tile of results.
pub(super) type Scaled = [[f32; COLUMNS]; MAX_TILE_ROWS];

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
    /// What a panel is opened to before it meets many rows: a step that is quicker to multiply.
    type Open: Step<Code = Self::Code>;
    /// From how many tiles on a panel is worth opening.
    const OPEN_TILES: usize;
    /// What was taken from each 16-bit code.
    const CENTRE: i32;
    /// Most steps whose sums of 16-bit codes fit 32 bits.
    const WIDE_DEPTH_ONCE: usize;
    /// After how many steps such sums are widened where there are more.
    const WIDE_DEPTH: usize;

    /// Set the weight at `position` (`column * WIDTH + k`).
    fn set(&mut self, position: usize, weight: i8);

    /// Open a panel into `open`, which is as long.
    fn open(level: Proven, panel: &[Self], open: &mut [Self::Open]);

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

    /// Add sums of `rows` rows of 16-bit codes, limb by limb, to `wide`.
    fn widen(level: Proven, sums: &Tile, rows: usize, wide: &mut WideTile);
}

thread_local! {
    static PAIR_CODES: RefCell<Vec<i16>> = const { RefCell::new(Vec::new()) };
    static QUAD_CODES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Coder for NarrowPairs {
    type Open = Pairs;
    const OPEN_TILES: usize = 4;
    const CENTRE: i32 = CENTRE;
    // 32768 * 127 * 516 < 2^31
    const WIDE_DEPTH_ONCE: usize = 258;
    const WIDE_DEPTH: usize = 256;

    fn set(&mut self, position: usize, weight: i8) {
        if let Some(slot) = self.0.get_mut(position) {
            *slot = weight;
        }
    }

    fn open(level: Proven, panel: &[Self], open: &mut [Pairs]) {
        widen_panel(level, panel, open);
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

    fn widen(level: Proven, sums: &Tile, rows: usize, wide: &mut WideTile) {
        widen(level, sums, rows, wide);
    }
}

impl Coder for Quads {
    type Open = Self;
    const OPEN_TILES: usize = usize::MAX;
    const CENTRE: i32 = 0;
    // Limbs are 8-bit codes, whose sums fit for every K.
    const WIDE_DEPTH_ONCE: usize = usize::MAX;
    const WIDE_DEPTH: usize = usize::MAX;

    fn set(&mut self, position: usize, weight: i8) {
        if let Some(slot) = self.0.get_mut(position) {
            *slot = weight;
        }
    }

    fn open(_level: Proven, panel: &[Self], open: &mut [Self]) {
        open.iter_mut().zip(panel).for_each(|(open, step)| *open = *step);
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

    fn widen(level: Proven, sums: &Tile, rows: usize, wide: &mut WideTile) {
        widen_limbs(level, sums, rows, wide);
    }
}

instantiate! {
    /// Weights as 16-bit numbers.
    fn widen_panel(panel: &[NarrowPairs], wide: &mut [Pairs]) = widen_panel_body;
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
    fn scale_narrow(sums: &Tile, rows: &[QuantisedRow], columns: &Columns, out: &mut Scaled) = scale_narrow_body;
    /// Scale `rows.len()` rows of sums of 16-bit codes less `centre` that fit 32 bits.
    fn scale_centred(sums: &Tile, centre: i32, rows: &[QuantisedRow], columns: &Columns, out: &mut Scaled)
        = scale_centred_body;
    /// Scale `rows.len()` rows of sums of 16-bit codes less `centre`.
    fn scale_wide(sums: &WideTile, centre: i32, rows: &[QuantisedRow], columns: &Columns, out: &mut Scaled)
        = scale_wide_body;
    /// One row of results from whole sums of 8-bit codes.
    fn scale_row_u8(totals: &[i32], row: QuantisedRow, layer: &Linear, out: &mut [f32]) = scale_row_u8_body;
    /// One row of results from whole sums of 16-bit codes.
    fn scale_row_u16(totals: &[i64], row: QuantisedRow, layer: &Linear, out: &mut [f32]) = scale_row_u16_body;
    /// `wide += sums`.
    fn widen(sums: &Tile, rows: usize, wide: &mut WideTile) = widen_body;
    /// `wide[r] += 256 * sums[2 r] + sums[2 r + 1]`.
    fn widen_limbs(sums: &Tile, rows: usize, wide: &mut WideTile) = widen_limbs_body;
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

#[inline(always)]
fn scale_narrow_body(sums: &Tile, rows: &[QuantisedRow], columns: &Columns, out: &mut Scaled) {
    for ((sums, row), out) in sums.iter().zip(rows).zip(out) {
        let columns = columns.row_sum.iter().zip(&columns.scale).zip(&columns.bias);
        for ((y, &sum), ((&row_sum, &scale), &bias)) in out.iter_mut().zip(sums).zip(columns) {
            // The difference is the sum of (code - zero) * weight with |code - zero| <= 255: it fits 32
            // bits for every K, even where the product that is subtracted wraps.
            let total = sum.wrapping_sub(row.zero.wrapping_mul(row_sum));
            *y = total as f32 * (row.scale * scale) + bias;
        }
    }
}

#[inline(always)]
fn scale_centred_body(sums: &Tile, centre: i32, rows: &[QuantisedRow], columns: &Columns, out: &mut Scaled) {
    for ((sums, &row), out) in sums.iter().zip(rows).zip(out) {
        scale_exact(sums.iter().map(|&sum| f64::from(sum)), centre, row, columns, out);
    }
}

#[inline(always)]
fn scale_wide_body(sums: &WideTile, centre: i32, rows: &[QuantisedRow], columns: &Columns, out: &mut Scaled) {
    for ((sums, &row), out) in sums.iter().zip(rows).zip(out) {
        scale_exact(sums.iter().copied(), centre, row, columns, out);
    }
}

/// Every term is an integer below 2^40, so f64 adds them exactly, and the total is rounded to f32 once.
#[inline(always)]
fn scale_exact(
    sums: impl Iterator<Item = f64>,
    centre: i32,
    row: QuantisedRow,
    columns: &Columns,
    out: &mut [f32; COLUMNS],
) {
    let offset = f64::from(centre - row.zero);
    let columns = columns.row_sum.iter().zip(&columns.scale).zip(&columns.bias);
    for ((y, sum), ((&row_sum, &scale), &bias)) in out.iter_mut().zip(sums).zip(columns) {
        let total = sum + offset * f64::from(row_sum);
        *y = total as f32 * (row.scale * scale) + bias;
    }
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

#[inline(always)]
fn widen_limbs_body(sums: &Tile, rows: usize, wide: &mut WideTile) {
    for ([high, low], wide) in sums.as_chunks::<2>().0.iter().zip(wide).take(rows) {
        for ((&high, &low), wide) in high.iter().zip(low).zip(wide) {
            *wide += f64::from(high) * 256.0 + f64::from(low);
        }
    }
}

#[inline(always)]
fn widen_panel_body(panel: &[NarrowPairs], wide: &mut [Pairs]) {
    for (step, wide) in panel.iter().zip(wide) {
        for (wide, &weight) in wide.0.iter_mut().zip(&step.0) {
            *wide = i16::from(weight);
        }
    }
}
