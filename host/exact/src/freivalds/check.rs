//! The checks, one for each kind of product.

use super::kernel::{Range, narrow_left, right, wide_left};
use super::vectors::{Challenge, Projection, Vectors, offset};
use super::{ELEMENT_BITS, LEAST_REACH};
use crate::ragged::ShapeError;
use crate::reference::{MAX_HEAD_WIDTH, VALUE_CODE, expect_len};
use crate::simd::Executor;

/// Longest sequence whose attention can be checked.
pub const MAX_SEQUENCE: usize = 1 << 16;

/// Largest magnitude of a weight and a value.
const WEIGHTED_TERM: i64 = i16::MAX as i64 * VALUE_CODE as i64;
/// The centre of weighted values is 0.
const WEIGHTED_LEAST: [i64; MAX_HEAD_WIDTH] = [-LEAST_REACH; MAX_HEAD_WIDTH];

/// Both sides of the checks of rows, modulo 2^64: two numbers a row, one for each secret vector. A row
/// is right where both pairs are equal. As secret as the challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sides {
    /// From the claimed totals: `Y r`.
    pub left: Vec<[u64; 2]>,
    /// From codes and weights: `X v`.
    pub right: Vec<[u64; 2]>,
    /// The sides of a wrong row are equal with a probability of at most 2 to minus this.
    pub error_bits: u32,
}

impl Default for Sides {
    fn default() -> Self {
        Self::with_rows(0)
    }
}

impl Sides {
    /// None yet, and room for so many.
    pub fn with_rows(rows: usize) -> Self {
        Self { left: Vec::with_capacity(rows), right: Vec::with_capacity(rows), error_bits: 2 * ELEMENT_BITS }
    }

    /// The first row whose sides differ.
    pub fn first_difference(&self) -> Option<usize> {
        self.left.iter().zip(&self.right).position(|(left, right)| left != right)
    }

    /// Room for the sides of more rows.
    fn more(&mut self, rows: usize) -> (&mut [[u64; 2]], &mut [[u64; 2]]) {
        let before = self.left.len();
        self.left.resize(before + rows, [0; 2]);
        self.right.resize(before + rows, [0; 2]);
        (self.left.get_mut(before..).unwrap_or(&mut []), self.right.get_mut(before..).unwrap_or(&mut []))
    }

    /// Differences of 64-bit totals stay below `2 reach`.
    fn allow(&mut self, reach: i64) {
        let power = (2 * reach - 1).unsigned_abs().max(1).ilog2();
        self.error_bits = self.error_bits.min(2 * (64 - power).min(ELEMENT_BITS));
    }
}

/// Check `totals` [rows, N], claimed for u8 `codes` [rows, K], and add the sides of these rows to `sides`.
///
/// # Errors
/// Slices that do not fit the vectors.
pub fn check_u8(
    executor: &Executor,
    vectors: &Vectors,
    codes: &[u8],
    rows: usize,
    totals: &[i32],
    sides: &mut Sides,
) -> Result<(), ShapeError> {
    expect(vectors, codes.len(), rows, totals.len())?;
    let (left, rights) = sides.more(rows);
    narrow_left(executor.proven(), totals, vectors.challenge.elements(), left);
    right(executor.proven(), codes, &vectors.projection, &vectors.narrow, rights);
    Ok(())
}

/// Check `totals` [rows, N], claimed for 16-bit `codes` [rows, K], and add the sides of these rows to `sides`.
///
/// # Errors
/// Slices that do not fit the vectors.
pub fn check_u16(
    executor: &Executor,
    vectors: &Vectors,
    codes: &[u16],
    rows: usize,
    totals: &[i64],
    sides: &mut Sides,
) -> Result<(), ShapeError> {
    expect(vectors, codes.len(), rows, totals.len())?;
    let range = vectors.range();
    sides.allow(range.reach);
    let (left, rights) = sides.more(rows);
    right(executor.proven(), codes, &vectors.projection, &vectors.wide, rights);
    wide(executor, totals, &range, &vectors.challenge, left, rights);
    Ok(())
}

/// Check `totals` [rows, rows], claimed for the queries and keys [rows, d] of one head, each in
/// [-4095, 4095]; `challenge` has an element for each row and was drawn after the totals were fixed.
///
/// # Errors
/// Slices or a challenge of another size, more rows than [`MAX_SEQUENCE`], a head over 128 wide.
pub fn check_scores(
    executor: &Executor,
    challenge: &Challenge,
    queries: &[i16],
    keys: &[i16],
    d: usize,
    totals: &[i32],
) -> Result<Sides, ShapeError> {
    let rows = challenge.len();
    expect_head(rows, d)?;
    expect_len("the queries", queries.len(), rows, d)?;
    expect_len("the keys", keys.len(), rows, d)?;
    expect_len("the scores", totals.len(), rows, rows)?;
    let projection = Projection::of_keys(executor, keys, d, challenge);
    let mut sides = Sides::default();
    let (left, rights) = sides.more(rows);
    narrow_left(executor.proven(), totals, challenge.elements(), left);
    right(executor.proven(), queries, &projection, &projection.wide(executor), rights);
    Ok(sides)
}

/// Check `totals` [rows, d], claimed for the weights [rows, rows] and values [rows, d] of one head;
/// `challenge` has d elements and was drawn after the totals were fixed.
///
/// # Errors
/// Slices or a challenge of another size, more rows than [`MAX_SEQUENCE`], a head over 128 wide.
pub fn check_weighted(
    executor: &Executor,
    challenge: &Challenge,
    weights: &[i16],
    values: &[i16],
    rows: usize,
    totals: &[i64],
) -> Result<Sides, ShapeError> {
    let d = challenge.len();
    expect_head(rows, d)?;
    expect_len("the weights", weights.len(), rows, rows)?;
    expect_len("the values", values.len(), rows, d)?;
    expect_len("the weighted values", totals.len(), rows, d)?;
    let projection = Projection::of_values(executor, values, challenge);
    let least = WEIGHTED_LEAST.get(..d).unwrap_or(&WEIGHTED_LEAST);
    let reach = (rows as i64 * WEIGHTED_TERM + 1).max(LEAST_REACH);
    let mut sides = Sides::default();
    sides.allow(reach);
    let (left, rights) = sides.more(rows);
    right(executor.proven(), weights, &projection, &projection.wide(executor), rights);
    wide(executor, totals, &Range { least, reach, offset: offset(least, challenge) }, challenge, left, rights);
    Ok(sides)
}

/// The left sides of 64-bit totals.
fn wide(
    executor: &Executor,
    totals: &[i64],
    range: &Range<'_>,
    challenge: &Challenge,
    left: &mut [[u64; 2]],
    right: &[[u64; 2]],
) {
    let mut outside = Vec::new();
    wide_left(executor.proven(), totals, range, challenge.elements(), left, &mut outside);
    for row in outside {
        if let (Some(left), Some(right)) = (left.get_mut(row), right.get(row)) {
            *left = right.map(|right| right.wrapping_sub(1));
        }
    }
}

fn expect(vectors: &Vectors, codes: usize, rows: usize, totals: usize) -> Result<(), ShapeError> {
    let (inputs, outputs) = (vectors.inputs(), vectors.outputs());
    if inputs == 0 || outputs == 0 {
        return Err(ShapeError("a layer has at least one input and one output".to_owned()));
    }
    expect_len("the codes", codes, rows, inputs)?;
    expect_len("the totals", totals, rows, outputs)
}

fn expect_head(rows: usize, d: usize) -> Result<(), ShapeError> {
    if rows <= MAX_SEQUENCE && (1..=MAX_HEAD_WIDTH).contains(&d) {
        Ok(())
    } else {
        Err(ShapeError(format!(
            "a head of {rows} rows and {d} columns: at most {MAX_SEQUENCE} rows, 1 to {MAX_HEAD_WIDTH} columns"
        )))
    }
}
