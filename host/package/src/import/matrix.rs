//! Matrix products and Cholesky factors that give the same bytes on every machine.
//!
//! # Why
//!
//! The bytes of a package must not depend on where it was packed, so no sum here may depend on the
//! number of threads or on the instruction set.
//!
//! # How
//!
//! Every element of a result is one sum in the order of its index, a multiplication and an addition
//! each rounded by itself. Lanes and threads work on different elements, never on parts of one sum.

use rayon::prelude::*;
use std::ops::{Add, AddAssign, Mul, Sub};

/// f32 or f64.
pub(super) trait Number:
    Copy + Default + Send + Sync + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + AddAssign
{
}
impl Number for f32 {}
impl Number for f64 {}

/// Rows one after another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix<T> {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) data: Vec<T>,
}

impl<T: Number> Matrix<T> {
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, data: vec![T::default(); rows * columns] }
    }

    /// Row `r`; empty if there is none.
    pub(super) fn row(&self, r: usize) -> &[T] {
        self.data.get(r * self.columns..(r + 1) * self.columns).unwrap_or_default()
    }

    pub(super) fn iter_rows(&self) -> std::slice::ChunksExact<'_, T> {
        self.data.chunks_exact(self.columns.max(1))
    }

    /// At most the first `rows` rows.
    pub(super) fn first_rows(&self, rows: usize) -> Self {
        let rows = rows.min(self.rows);
        Self { rows, columns: self.columns, data: self.data.iter().take(rows * self.columns).copied().collect() }
    }

    pub(super) fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.columns, self.rows);
        let rows = self.rows.max(1);
        out.data.par_chunks_mut(rows).enumerate().for_each(|(c, out)| {
            for (y, row) in out.iter_mut().zip(self.iter_rows()) {
                *y = row.get(c).copied().unwrap_or_default();
            }
        });
        out
    }

    /// Each row by its own factor.
    pub(super) fn map_columns(&self, factors: &[T]) -> Self {
        let data = self.iter_rows().flat_map(|row| row.iter().zip(factors).map(|(&v, &f)| v * f)).collect();
        Self { data, ..*self }
    }
}

/// Columns of a tile.
const LANES: usize = 8;
/// Rows of a tile.
const ROWS: usize = 4;

/// A right operand, in panels of [`LANES`] of its rows.
pub(super) struct Packed<T> {
    rows: usize,
    columns: usize,
    steps: Vec<[T; LANES]>,
}

impl<T: Number> Packed<T> {
    /// `w` is [N, K]: a product with it is `x . w^T`.
    pub(super) fn new(w: &Matrix<T>) -> Self {
        let columns = w.columns.max(1);
        let mut steps = vec![[T::default(); LANES]; w.rows.div_ceil(LANES) * columns];
        steps.par_chunks_mut(columns).zip(w.data.par_chunks(LANES * columns)).for_each(|(panel, rows)| {
            for (lane, row) in rows.chunks_exact(columns).enumerate() {
                for (step, &v) in panel.iter_mut().zip(row) {
                    if let Some(slot) = step.get_mut(lane) {
                        *slot = v;
                    }
                }
            }
        });
        Self { rows: w.rows, columns: w.columns, steps }
    }

    /// `x . w^T`, [rows of x, N].
    pub(super) fn product(&self, x: &Matrix<T>) -> Matrix<T> {
        self.tiles(x, false)
    }

    /// `x . w^T` on and left of the diagonal; elements right of it may be anything.
    pub(super) fn lower_product(&self, x: &Matrix<T>) -> Matrix<T> {
        self.tiles(x, true)
    }

    fn tiles(&self, x: &Matrix<T>, lower: bool) -> Matrix<T> {
        let mut out = Matrix::zeros(x.rows, self.rows);
        let columns = self.columns.max(1);
        let blocks = out.data.par_chunks_mut(ROWS * self.rows.max(1)).zip(x.data.par_chunks(ROWS * columns));
        blocks.enumerate().for_each(|(block, (out, x))| {
            let mut rows = x.chunks_exact(columns);
            let first = rows.next().unwrap_or_default();
            // Rows that are not there repeat the first and are not written.
            let tile_rows =
                [first, rows.next().unwrap_or(first), rows.next().unwrap_or(first), rows.next().unwrap_or(first)];
            for (panel, steps) in self.steps.chunks_exact(columns).enumerate() {
                let start = panel * LANES;
                if lower && start >= (block + 1) * ROWS {
                    break;
                }
                for (sums, out) in tile(tile_rows, steps).iter().zip(out.chunks_exact_mut(self.rows)) {
                    for (y, &sum) in out.iter_mut().skip(start).zip(sums) {
                        *y = sum;
                    }
                }
            }
        });
        out
    }
}

/// Four rows times eight: one running sum each.
#[inline(always)]
fn tile<T: Number>(x: [&[T]; ROWS], panel: &[[T; LANES]]) -> [[T; LANES]; ROWS] {
    let [a, b, c, d] = x;
    let [mut p, mut q, mut r, mut s] = [[T::default(); LANES]; ROWS];
    for ((((w, &a), &b), &c), &d) in panel.iter().zip(a).zip(b).zip(c).zip(d) {
        add_scaled(&mut p, a, w);
        add_scaled(&mut q, b, w);
        add_scaled(&mut r, c, w);
        add_scaled(&mut s, d, w);
    }
    [p, q, r, s]
}

#[inline(always)]
fn add_scaled<T: Number>(sums: &mut [T; LANES], factor: T, w: &[T; LANES]) {
    for (sum, &w) in sums.iter_mut().zip(w) {
        *sum += factor * w;
    }
}

/// `x^T . x / rows`, all of it.
pub(super) fn covariance(x: &Matrix<f32>) -> Matrix<f64> {
    let t = x.transposed();
    let lower = Packed::new(&t).lower_product(&t);
    let n = x.rows.max(1) as f64;
    let mut out = Matrix::zeros(x.columns, x.columns);
    let width = x.columns.max(1);
    out.data.par_chunks_mut(width).enumerate().for_each(|(i, out)| {
        for (j, y) in out.iter_mut().enumerate() {
            let (r, c) = if j <= i { (i, j) } else { (j, i) };
            *y = lower.row(r).get(c).map_or(0.0, |&v| f64::from(v)) / n;
        }
    });
    out
}

/// Columns factored at once.
const BLOCK: usize = 64;

/// The lower triangular `L` with `L . L^T = a`, of which only the lower triangle is read. `None` if
/// `a` is not positive definite as far as f64 can tell. Right of the diagonal are zeros.
pub(super) fn cholesky(a: &Matrix<f64>) -> Option<Matrix<f64>> {
    let n = a.rows;
    let mut l = a.clone();
    let mut start = 0;
    while start < n {
        let end = (start + BLOCK).min(n);
        let (above, below) = l.data.split_at_mut(end * n);
        let diagonal = above.get_mut(start * n..)?;
        factor_block(diagonal, n, start, end)?;
        let diagonal = &*diagonal;
        below.par_chunks_mut(n).for_each(|row| {
            let Some(row) = row.get_mut(start..end) else { return };
            solve_row(diagonal, n, start, row);
        });
        // The trailing matrix loses what the columns just found explain.
        let panel = Matrix {
            rows: n - end,
            columns: end - start,
            data: below.chunks_exact(n).flat_map(|row| row.iter().take(end).skip(start).copied()).collect(),
        };
        let explained = Packed::new(&panel).lower_product(&panel);
        below.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            for (v, &e) in row.iter_mut().skip(end).zip(explained.row(i).iter().take(i + 1)) {
                *v -= e;
            }
        });
        start = end;
    }
    for (i, row) in l.data.chunks_exact_mut(n.max(1)).enumerate() {
        for v in row.iter_mut().skip(i + 1) {
            *v = 0.0;
        }
    }
    Some(l)
}

/// Factor rows `start..end` within their own columns; `rows` begins at row `start`.
fn factor_block(rows: &mut [f64], n: usize, start: usize, end: usize) -> Option<()> {
    for i in 0..end - start {
        let (done, rest) = rows.split_at_mut(i * n);
        let row = rest.get_mut(start..start + i + 1)?;
        let (row, pivot) = row.split_at_mut(i);
        solve_row(done, n, start, row);
        let [pivot] = pivot else { return None };
        let left = row.iter().fold(*pivot, |left, &v| left - v * v);
        // Anything but a positive number, NaN included.
        if !(left > 0.0 && left.is_finite()) {
            return None;
        }
        *pivot = libm::sqrt(left);
    }
    Some(())
}

/// `row` becomes `row . D^-T`, D the factored diagonal block whose rows `rows` holds.
fn solve_row(rows: &[f64], n: usize, start: usize, row: &mut [f64]) {
    for (j, d) in rows.chunks_exact(n).enumerate().take(row.len()) {
        let Some(d) = d.get(start..start + j + 1) else { return };
        let (found, rest) = row.split_at_mut(j);
        let (Some(v), Some(&pivot)) = (rest.first_mut(), d.last()) else { return };
        let left = found.iter().zip(d).fold(*v, |left, (&a, &b)| left - a * b);
        *v = left / pivot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn products_are_the_plain_sums() {
        for (r, n, k) in [(1, 1, 1), (5, 9, 7), (4, 8, 16), (13, 3, 65), (0, 3, 4)] {
            let x = Matrix { rows: r, columns: k, data: numbers(r * k, 1) };
            let w = Matrix { rows: n, columns: k, data: numbers(n * k, 2) };
            let y = Packed::new(&w).product(&x);
            for i in 0..r {
                for j in 0..n {
                    let want = x.row(i).iter().zip(w.row(j)).fold(0.0f32, |s, (a, b)| s + a * b);
                    assert_eq!(y.row(i)[j].to_bits(), want.to_bits());
                }
            }
        }
    }

    #[test]
    fn the_factor_gives_the_matrix_back() {
        for n in [1, 3, 64, 65, 150] {
            let x = Matrix { rows: 2 * n, columns: n, data: numbers(2 * n * n, 3) };
            let a = covariance(&x);
            let l = cholesky(&a).unwrap();
            let back = Packed::new(&l).product(&l);
            for (p, q) in a.data.iter().zip(&back.data) {
                assert!((p - q).abs() < 1e-5, "{n}: {p} {q}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        assert!(cholesky(&Matrix { rows: 2, columns: 2, data: vec![1.0, 2.0, 2.0, 1.0] }).is_none());
        assert!(cholesky(&Matrix { rows: 1, columns: 1, data: vec![f64::NAN] }).is_none());
        assert!(cholesky(&Matrix { rows: 1, columns: 1, data: vec![0.0] }).is_none());
    }
}
