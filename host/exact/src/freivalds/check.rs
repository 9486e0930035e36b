//! The checks, one for each kind of product.

use super::kernel::{Narrow, narrow_left, narrow_right, signed_right, wide_left, wide_right};
use super::vectors::{Challenge, Projection, Vectors};
use super::{FIELD, residue};
use crate::ragged::ShapeError;
use crate::reference::{MAX_HEAD_WIDTH, QUERY_KEY_CODE, expect_len};
use crate::simd::Executor;

/// Longest sequence whose attention can be checked.
pub const MAX_SEQUENCE: usize = 1 << 16;

/// Largest magnitude of a total of one u8 code and one weight.
const U8_TERM: usize = 255 * 127;
/// Likewise of a query and a key.
const SCORE_TERM: usize = QUERY_KEY_CODE as usize * QUERY_KEY_CODE as usize;

/// Both sides of the check of a product, in the field: two values a row, one for each secret vector. A row
/// is right where both pairs are equal. As secret as the challenge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sides {
    /// From the claimed totals: `Y r`.
    pub left: Vec<u32>,
    /// From codes and weights: `X v`.
    pub right: Vec<u32>,
}

impl Sides {
    fn with_rows(rows: usize) -> Self {
        Self { left: Vec::with_capacity(2 * rows), right: Vec::with_capacity(2 * rows) }
    }

    /// Add the rows of `more` after these.
    pub fn append(&mut self, more: Self) {
        self.left.extend(more.left);
        self.right.extend(more.right);
    }

    /// The first row whose sides differ.
    pub fn first_difference(&self) -> Option<usize> {
        let rows = self.left.as_chunks::<2>().0.iter().zip(self.right.as_chunks::<2>().0);
        rows.into_iter().position(|(left, right)| left != right)
    }

    /// A row whose sides are known in the field alone.
    fn push_narrow(&mut self, left: Option<[u32; 2]>, right: [u32; 2]) {
        let left = left.unwrap_or_else(|| right.map(before));
        self.left.extend_from_slice(&left);
        self.right.extend_from_slice(&right);
    }

    /// A row whose sides are known as integers.
    fn push_wide(&mut self, left: Option<[i128; 2]>, right: [i128; 2]) {
        let right_residues = right.map(residue);
        let left = match left {
            // Nearly always: then there is nothing more to compute.
            Some(left) if left == right => right_residues,
            Some([a, b]) => {
                let ([c, d], [right_a, right_b]) = (right, right_residues);
                [hidden(a, c, right_a), hidden(b, d, right_b)]
            }
            None => right_residues.map(before),
        };
        self.left.extend_from_slice(&left);
        self.right.extend_from_slice(&right_residues);
    }
}

/// The residue of a left side, unless only the residue is that of the right side.
const fn hidden(left: i128, right: i128, right_residue: u32) -> u32 {
    let residue = residue(left);
    if residue == right_residue && left != right { before(residue) } else { residue }
}

/// The element of the field before this one: what stands for a left side that is wrong in any case.
const fn before(right: u32) -> u32 {
    if right == 0 { FIELD - 1 } else { right - 1 }
}

/// The bound of sums of `terms` terms, if differences within it cannot be a multiple of p.
fn narrow_bound(terms: usize, term: usize) -> Option<u32> {
    let bound = terms.checked_mul(term)?;
    if bound < FIELD as usize / 2 { u32::try_from(bound).ok() } else { None }
}

/// Check `totals` [rows, N], claimed for u8 `codes` [rows, K].
///
/// # Errors
/// Slices that do not fit the vectors.
pub fn check_u8(
    executor: &Executor,
    vectors: &Vectors,
    codes: &[u8],
    rows: usize,
    totals: &[i32],
) -> Result<Sides, ShapeError> {
    let Vectors { challenge, projection } = vectors;
    let (inputs, outputs) = expect(vectors, codes.len(), rows, totals.len())?;
    let level = executor.proven();
    let mut sides = Sides::with_rows(rows);
    let all = codes.chunks_exact(inputs).zip(totals.chunks_exact(outputs));
    if let Some(plan) = narrow_bound(inputs, U8_TERM).map(|bound| Narrow::new(bound, challenge)) {
        for (codes, totals) in all {
            sides.push_narrow(narrow_left(level, totals, &plan, challenge), narrow_right(level, codes, projection));
        }
    } else {
        let (mut wide_codes, mut wide_totals) = (vec![0u16; inputs], vec![0i64; outputs]);
        for (codes, totals) in all {
            widen(codes, &mut wide_codes);
            widen(totals, &mut wide_totals);
            sides.push_wide(wide_left(level, &wide_totals, challenge), wide_right(level, &wide_codes, projection));
        }
    }
    Ok(sides)
}

/// Check `totals` [rows, N], claimed for 16-bit `codes` [rows, K].
///
/// # Errors
/// Slices that do not fit the vectors.
pub fn check_u16(
    executor: &Executor,
    vectors: &Vectors,
    codes: &[u16],
    rows: usize,
    totals: &[i64],
) -> Result<Sides, ShapeError> {
    let (inputs, outputs) = expect(vectors, codes.len(), rows, totals.len())?;
    let level = executor.proven();
    let mut sides = Sides::with_rows(rows);
    for (codes, totals) in codes.chunks_exact(inputs).zip(totals.chunks_exact(outputs)) {
        sides.push_wide(wide_left(level, totals, &vectors.challenge), wide_right(level, codes, &vectors.projection));
    }
    Ok(sides)
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
    let level = executor.proven();
    let projection = Projection::of_keys(executor, keys, d, challenge)?;
    let mut sides = Sides::with_rows(rows);
    let plan = narrow_bound(d, SCORE_TERM).map(|bound| Narrow::new(bound, challenge));
    let mut wide_totals = vec![0i64; if plan.is_some() { 0 } else { rows }];
    for (queries, totals) in queries.chunks_exact(d).zip(totals.chunks_exact(rows.max(1))) {
        let right = signed_right(level, queries, &projection);
        if let Some(plan) = &plan {
            sides.push_narrow(narrow_left(level, totals, plan, challenge), right.map(residue));
        } else {
            widen(totals, &mut wide_totals);
            sides.push_wide(wide_left(level, &wide_totals, challenge), right);
        }
    }
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
    let level = executor.proven();
    let projection = Projection::of_values(executor, values, d, challenge)?;
    let mut sides = Sides::with_rows(rows);
    if rows > 0 {
        for (weights, totals) in weights.chunks_exact(rows).zip(totals.chunks_exact(d)) {
            sides.push_wide(wide_left(level, totals, challenge), signed_right(level, weights, &projection));
        }
    }
    Ok(sides)
}

fn expect(vectors: &Vectors, codes: usize, rows: usize, totals: usize) -> Result<(usize, usize), ShapeError> {
    let (inputs, outputs) = (vectors.projection.len(), vectors.challenge.len());
    if inputs == 0 || outputs == 0 {
        return Err(ShapeError("a layer has at least one input and one output".to_owned()));
    }
    expect_len("the codes", codes, rows, inputs)?;
    expect_len("the totals", totals, rows, outputs)?;
    Ok((inputs, outputs))
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

fn widen<T: Copy + Into<U>, U>(narrow: &[T], wide: &mut [U]) {
    for (&narrow, wide) in narrow.iter().zip(wide) {
        *wide = narrow.into();
    }
}
