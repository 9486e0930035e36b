//! The published cost table: fuel for the work a guest asks of its host.
//!
//! # Why
//!
//! wasmtime counts a guest's own instructions, not the work a host call does. Charged by this table,
//! fuel bounds both, and is the same number on every machine: it goes on the receipt.
//!
//! # How
//!
//! Each cost is an integer function of shapes alone, never of time, threads, caches or the backend.
//! One unit is about one WebAssembly instruction. Arithmetic saturates: an absurd shape costs more
//! than any budget. The table is part of the profile's digest.

use ostrakon_nn::Tensor;

/// Fuel to cross from guest to host and back.
const CALL: u64 = 500;
/// Fuel to look a layer up by name, and for its share of preparing it.
const LOOKUP: u64 = 20_000;
/// Bytes copied between guest and host for one unit.
const BYTES_PER_FUEL: u64 = 8;
/// Integer multiply-adds for one unit.
const MULTIPLY_ADDS_PER_FUEL: u64 = 64;
/// Fuel an element for a copy, an addition, a look-up in a table of codes.
const LIGHT: u64 = 1;
/// Fuel an element for quantising, a norm, a division.
const MEDIUM: u64 = 4;
/// Fuel an element for a function by polynomial: gelu, the exponential.
const HEAVY: u64 = 8;

/// Fuel to run a graph in floating point, whatever is in it: its work cannot be read off its shapes, so the
/// wall clock bounds it.
const GRAPH: u64 = 1_000_000;

/// The table as hashed and published.
pub(crate) const TABLE: &[(&str, u64)] = &[
    ("call", CALL),
    ("lookup", LOOKUP),
    ("bytes-per-fuel", BYTES_PER_FUEL),
    ("multiply-adds-per-fuel", MULTIPLY_ADDS_PER_FUEL),
    ("element-light", LIGHT),
    ("element-medium", MEDIUM),
    ("element-heavy", HEAVY),
    ("graph", GRAPH),
];

/// A call that does no work of its own.
pub(crate) const fn call() -> u64 {
    CALL
}

/// A look-up by a name of this length.
pub(crate) fn lookup(name: &str) -> u64 {
    CALL.saturating_add(LOOKUP).saturating_add(name.len() as u64)
}

/// A call that copies this many bytes.
pub(crate) fn copy(bytes: u64) -> u64 {
    CALL.saturating_add(bytes.div_ceil(BYTES_PER_FUEL))
}

fn products(multiply_adds: u64) -> u64 {
    multiply_adds.div_ceil(MULTIPLY_ADDS_PER_FUEL)
}

/// Elements of 4 bytes, as every heavy operation has.
fn elements(x: &Tensor) -> u64 {
    (x.byte_len() as u64) / 4
}

fn operation(work: u64) -> u64 {
    CALL.saturating_add(work)
}

/// `y = x W^T`: inputs are quantised, each meets every output column, `limbs` times.
pub(crate) fn linear(x: &Tensor, inputs: u64, outputs: u64, limbs: u64) -> u64 {
    let elements = elements(x);
    let results = elements.div_ceil(inputs.max(1)).saturating_mul(outputs);
    let multiply_adds = elements.saturating_mul(outputs).saturating_mul(limbs);
    let other = elements.saturating_add(results).saturating_mul(MEDIUM);
    operation(products(multiply_adds).saturating_add(other))
}

/// One row of the table for each id.
pub(crate) fn embedding(ids: &Tensor, width: u64) -> u64 {
    operation(elements(ids).saturating_mul(width).saturating_mul(LIGHT))
}

/// A norm with weights, of the sum of its inputs (`x` and `residual`).
pub(crate) fn layer_norm(x: &Tensor) -> u64 {
    operation(elements(x).saturating_mul(MEDIUM))
}

/// A norm without a mean.
pub(crate) fn rms_norm(x: &Tensor) -> u64 {
    operation(elements(x).saturating_mul(MEDIUM))
}

/// Heads turned by positions: each input for itself.
pub(crate) fn rotary(input: &Tensor) -> u64 {
    operation(elements(input).saturating_mul(MEDIUM))
}

/// A graph in floating point. Its inputs and outputs are charged as [`copy`].
pub(crate) const fn graph() -> u64 {
    GRAPH
}

/// Element by element addition.
pub(crate) fn add(a: &Tensor) -> u64 {
    operation(elements(a).saturating_mul(LIGHT))
}

/// Element by element gelu.
pub(crate) fn gelu(x: &Tensor) -> u64 {
    operation(elements(x).saturating_mul(HEAVY))
}

/// Element by element gates.
pub(crate) fn swiglu(x: &Tensor) -> u64 {
    operation(elements(x).saturating_mul(HEAVY))
}

/// Scores and weighted sums of each row with itself and the rows before it, those of earlier calls too: the same for a
/// sequence in pieces, but for the calls, as in one.
pub(crate) fn causal_attention(qkv: &Tensor, lengths: &Tensor, heads: u32, kv_heads: u32) -> u64 {
    let each = if lengths.dims().len() > 1 { 2 } else { 1 };
    let sequences = lengths.as_i32().unwrap_or_default().chunks(each);
    let pairs = sequences.fold(0u64, |sum, sequence| {
        let count = |n: Option<&i32>| n.map_or(0, |&n| u64::try_from(n).unwrap_or(0));
        let (rows, before) = (count(sequence.first()), count(sequence.get(1)));
        let own = rows.saturating_mul(rows.saturating_add(1)) / 2;
        sum.saturating_add(rows.saturating_mul(before)).saturating_add(own)
    });
    let all = u64::from(heads).saturating_add(u64::from(kv_heads).saturating_mul(2));
    let columns = qkv.dims().last().map_or(0, |&n| u64::from(n));
    let width = columns.saturating_mul(heads.into()) / all.max(1);
    let work = products(pairs.saturating_mul(width).saturating_mul(2))
        .saturating_add(pairs.saturating_mul(heads.into()).saturating_mul(HEAVY))
        .saturating_add(elements(qkv).saturating_mul(MEDIUM));
    operation(work)
}

/// Scores and weighted sums inside each sequence: the square of each length, twice.
pub(crate) fn attention(qkv: &Tensor, lengths: &Tensor, heads: u32) -> u64 {
    let width = qkv.dims().last().map_or(0, |&n| u64::from(n) / 3);
    let squares = lengths.as_i32().unwrap_or_default().iter().fold(0u64, |sum, &length| {
        let length = u64::try_from(length).unwrap_or(0);
        sum.saturating_add(length.saturating_mul(length))
    });
    let work = products(squares.saturating_mul(width).saturating_mul(2))
        .saturating_add(squares.saturating_mul(u64::from(heads)).saturating_mul(HEAVY))
        .saturating_add(elements(qkv).saturating_mul(MEDIUM));
    operation(work)
}

/// A row for each sequence, from all of its rows.
pub(crate) fn pool(x: &Tensor) -> u64 {
    operation(elements(x).saturating_mul(LIGHT))
}

/// Elements of the field from a seed.
pub(crate) fn expand(rows: u32, columns: u32) -> u64 {
    operation(u64::from(rows).saturating_mul(columns.into()).saturating_mul(MEDIUM))
}

/// Both inner products of each row.
pub(crate) fn dot(x: &Tensor) -> u64 {
    operation(elements(x).saturating_mul(MEDIUM))
}

/// Each row divided by its length.
pub(crate) fn normalise(x: &Tensor) -> u64 {
    operation(elements(x).saturating_mul(MEDIUM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(dims: &[u32]) -> Tensor {
        let count = dims.iter().product::<u32>() as usize;
        Tensor::from_f32(dims.to_vec(), vec![0.0; count]).unwrap()
    }

    #[test]
    fn costs_follow_shapes() {
        let x = floats(&[2, 64]);
        assert_eq!(linear(&x, 64, 128, 1), 500 + 2 * 64 * 128 / 64 + (2 * 64 + 2 * 128) * 4);
        assert_eq!(linear(&x, 64, 128, 2), linear(&x, 64, 128, 1) + 2 * 64 * 128 / 64);
        assert_eq!(gelu(&x), 500 + 128 * 8);
        let lengths = Tensor::from_i32(vec![2], vec![3, 1]).unwrap();
        assert_eq!(attention(&floats(&[4, 96]), &lengths, 2), 500 + 10 * 32 * 2 / 64 + 10 * 2 * 8 + 4 * 96 * 4);
        assert_eq!(copy(9), 502);
        assert_eq!(swiglu(&x), 500 + 128 * 8);
    }

    #[test]
    fn a_row_costs_what_it_sees() {
        // Four heads of 16 columns that share two of keys: 8 heads in a row. Rows 3 to 5 of one sequence, all of another.
        let lengths = Tensor::from_i32(vec![2, 2], vec![3, 2, 1, 0]).unwrap();
        let pairs = 3 + 4 + 5 + 1;
        let (qkv, row) = (floats(&[4, 128]), floats(&[1, 128]));
        let cost = causal_attention(&qkv, &lengths, 4, 2);
        assert_eq!(cost, 500 + pairs * 2 * 64 / 64 + pairs * 4 * 8 + 4 * 128 * 4);
        // One by one they cost as much, and the calls.
        let one = |before| causal_attention(&row, &Tensor::from_i32(vec![1, 2], vec![1, before]).unwrap(), 4, 2);
        assert_eq!(one(2) + one(3) + one(4) + one(0), cost + 3 * 500);
        let whole = Tensor::from_i32(vec![1], vec![4]).unwrap();
        assert_eq!(causal_attention(&qkv, &whole, 4, 2), one(0) + one(1) + one(2) + one(3) - 3 * 500);
    }

    #[test]
    fn absurd_shapes_saturate() {
        let x = floats(&[2, 64]);
        assert_eq!(linear(&x, 0, u64::MAX, 2), linear(&x, 1, u64::MAX, 2));
        assert!(linear(&x, 1, u64::MAX, 2) > u64::MAX / 64);
        let lengths = Tensor::from_i32(vec![3], vec![i32::MAX, -1, i32::MAX]).unwrap();
        assert!(attention(&x, &lengths, u32::MAX) > u64::MAX / 2);
        let lengths = Tensor::from_i32(vec![2, 2], vec![i32::MAX, i32::MAX, -1, -1]).unwrap();
        assert!(causal_attention(&x, &lengths, u32::MAX, u32::MAX) > u64::MAX / 2);
        assert_eq!(causal_attention(&x, &x, 0, 0), 500 + 128 * 4);
        assert_eq!(copy(u64::MAX), 500 + u64::MAX.div_ceil(8));
    }
}
