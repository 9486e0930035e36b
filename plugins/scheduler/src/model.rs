//! How long a node takes: learnt from what was measured, in fixed point.
//!
//! # How
//!
//! 1. What is predicted is `y = log2(nanoseconds) - log2(multiply-adds)`: what one multiply-add costs.
//! 2. [`features`] describe a node and its task. `y` is about `w . x`; the weights `w` are those of a ridge regression
//!    over all samples of all nodes, newer ones counting more ([`Shared`]): `(A + k I) w = b + k w0`.
//! 3. For each node the means of its `y` and `x` are kept, again newer ones counting more ([`Known`]). What its mean is
//!    off the regression is carried over to what is predicted for it, the more the more samples there are.
//!
//! All values have 16 fractional bits. Every state that comes in is brought within bounds first: no state and no
//! sample can overflow anything.

use crate::fixed::{BITS, ONE, log2, mul, narrow};

/// Features of a node and its task.
pub(crate) const FEATURES: usize = 8;
/// Sums of products of features: the upper triangle.
const PRODUCTS: usize = FEATURES * (FEATURES + 1) / 2;

/// Values of `FEATURES`.
pub(crate) type Vector = [i64; FEATURES];

/// What is believed before anything was measured: a node of four threads with AVX2 does about 2^7 multiply-adds in a
/// nanosecond, twice the threads nearly twice that, a full node half of it.
const PRIOR: Vector = [-7 * ONE, 0, -ONE * 4 / 5, -ONE / 2, -ONE / 2, -3 * ONE, ONE, 0];
/// So many samples the belief weighs.
const RIDGE: i64 = 2 * ONE;
/// Of the sums, 1/2^8 is forgotten with each sample.
const FORGET: u32 = 8;
/// A new sample moves a node's mean by at least a quarter of the way.
const LEAST_STEP: i64 = 4;
/// No prediction is beyond 2^±24 nanoseconds a multiply-add.
const MOST: i64 = 24 * ONE;
/// One sample is off its node's mean by at most a factor of 16.
const MOST_SURPRISE: i64 = 4 * ONE;
/// No sum is beyond this.
const MOST_SUM: i64 = 1 << 48;
/// No weight is beyond this.
const MOST_WEIGHT: i64 = 32 * ONE;
/// Samples of a node that are counted.
const MOST_SAMPLES: u8 = 64;
/// The layout of the states.
const LAYOUT: u8 = 1;

/// A node at a task.
pub(crate) struct Task<'a> {
    pub(crate) threads: u32,
    pub(crate) simd: &'a str,
    pub(crate) backend: &'a str,
    pub(crate) slots: u32,
    pub(crate) used: u32,
    /// Multiply-adds of a batch.
    pub(crate) work: u128,
    /// Its rows.
    pub(crate) rows: u64,
}

/// What is taken into account of a task, each about as large as the others.
pub(crate) fn features(task: &Task<'_>) -> Vector {
    let load = i64::from(task.used.min(task.slots)) * ONE / i64::from(task.slots.max(1));
    [
        ONE,
        (log2(task.work) - 28 * ONE) >> 2,
        threads(task.threads) - 2 * ONE,
        simd(task.simd) - 2 * ONE,
        if task.backend.starts_with("openvino") { ONE } else { 0 },
        if task.backend.starts_with("cuda") { ONE } else { 0 },
        load,
        (log2(task.rows.into()) - 6 * ONE) >> 2,
    ]
    .map(|x| x.clamp(-MOST, MOST))
}

/// More than 256 threads are not told apart.
pub(crate) fn threads(threads: u32) -> i64 {
    log2(threads.clamp(1, 256).into())
}

/// How wide the integers are that are multiplied at once, in powers of two.
fn simd(name: &str) -> i64 {
    ONE * match name {
        "scalar" => 0,
        "avx2" => 2,
        "avx512" => 3,
        "amx" => 4,
        // NEON, and whatever is not known.
        _ => 1,
    }
}

/// Both are bounded, so that no sum leaves 64 bits.
fn dot(a: &Vector, b: &Vector) -> i64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>() >> BITS
}

/// What one multiply-add costs, measured.
pub(crate) fn cost(nanoseconds: u128, work: u128) -> i64 {
    (log2(nanoseconds) - log2(work)).clamp(-MOST, MOST)
}

/// What was learnt of all nodes.
#[derive(Clone)]
pub(crate) struct Shared {
    /// `A`: row by row, from the diagonal on.
    products: [i64; PRODUCTS],
    /// `b`.
    sums: Vector,
}

impl Shared {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let mut values = Values::new(bytes, PRODUCTS + FEATURES, 8);
        let mut next = || values.next().unwrap_or_default().clamp(-MOST_SUM, MOST_SUM);
        Self { products: std::array::from_fn(|_| next()), sums: std::array::from_fn(|_| next()) }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let values = self.products.iter().chain(&self.sums);
        std::iter::once(LAYOUT).chain(values.flat_map(|value| value.to_le_bytes())).collect()
    }

    fn learn(&mut self, x: &Vector, y: i64) {
        let keep = |old: i64, new: i64| (old - (old >> FORGET)).saturating_add(new).clamp(-MOST_SUM, MOST_SUM);
        let pairs = x.iter().enumerate().flat_map(|(at, a)| x.iter().skip(at).map(move |b| mul(*a, *b)));
        for (product, new) in self.products.iter_mut().zip(pairs) {
            *product = keep(*product, new);
        }
        for (sum, x) in self.sums.iter_mut().zip(x) {
            *sum = keep(*sum, mul(*x, y));
        }
    }

    /// The weights: elimination without pivots, since `A + k I` is positive definite for every honest state; for any other
    /// pivots are kept above `k / 2`. 32 fractional bits inside.
    #[allow(
        clippy::indexing_slicing,
        clippy::needless_range_loop,
        reason = "all indices are below FEATURES, the length of every array"
    )]
    pub(crate) fn weights(&self) -> Vector {
        const MORE: u32 = 32 - BITS;
        const MOST_INSIDE: i128 = 1 << 80;
        let mut a = [[0_i128; FEATURES]; FEATURES];
        let mut products = self.products.iter();
        for row in 0..FEATURES {
            for column in row..FEATURES {
                let value = i128::from(products.next().copied().unwrap_or_default()) << MORE;
                a[row][column] = value;
                a[column][row] = value;
            }
            a[row][row] += i128::from(RIDGE) << MORE;
        }
        let mut b: [i128; FEATURES] = std::array::from_fn(|at| {
            (i128::from(self.sums[at]) << MORE) + ((i128::from(RIDGE) * i128::from(PRIOR[at])) >> BITS << MORE)
        });
        for pivot in 0..FEATURES {
            let least = i128::from(RIDGE) << (MORE - 1);
            a[pivot][pivot] = a[pivot][pivot].max(least);
            for row in pivot + 1..FEATURES {
                let factor = ((a[row][pivot] << 32) / a[pivot][pivot]).clamp(-(1 << 40), 1 << 40);
                for column in pivot..FEATURES {
                    let value = a[row][column] - ((factor * a[pivot][column]) >> 32);
                    a[row][column] = value.clamp(-MOST_INSIDE, MOST_INSIDE);
                }
                b[row] = (b[row] - ((factor * b[pivot]) >> 32)).clamp(-MOST_INSIDE, MOST_INSIDE);
            }
        }
        let mut weights = [0; FEATURES];
        for row in (0..FEATURES).rev() {
            let known: i128 = (row + 1..FEATURES).map(|at| (a[row][at] * i128::from(weights[at])) >> BITS).sum();
            let rest = (b[row] - known).clamp(-MOST_INSIDE, MOST_INSIDE);
            let weight = (rest << BITS) / a[row][row].max(1);
            weights[row] = narrow(weight).clamp(-MOST_WEIGHT, MOST_WEIGHT);
        }
        weights
    }
}

/// What was learnt of one node.
#[derive(Clone, Default)]
pub(crate) struct Known {
    samples: u8,
    y: i64,
    x: Vector,
}

impl Known {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let Some((samples, rest)) = bytes.split_last() else { return Self::default() };
        let mut values = Values::new(rest, 1 + FEATURES, 4);
        let mut next = || values.next().map(|value| value.clamp(-MOST, MOST));
        let Some(y) = next() else { return Self::default() };
        let x = std::array::from_fn(|_| next().unwrap_or_default());
        Self { samples: (*samples).min(MOST_SAMPLES), y, x }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let values = std::iter::once(&self.y).chain(&self.x);
        let narrow = |value: &i64| i32::try_from(*value).unwrap_or_default().to_le_bytes();
        std::iter::once(LAYOUT).chain(values.flat_map(narrow)).chain([self.samples]).collect()
    }

    pub(crate) const fn is_measured(&self) -> bool {
        self.samples > 0
    }

    /// What one multiply-add costs it, in logarithms.
    pub(crate) fn predict(&self, weights: &Vector, x: &Vector) -> i64 {
        let predicted = dot(weights, x);
        // One sample counts for four fifths already: legs vary by less than nodes do.
        let samples = 4 * i64::from(self.samples);
        let off = self.y.saturating_sub(dot(weights, &self.x));
        predicted.saturating_add(off.saturating_mul(samples) / (samples + 1)).clamp(-MOST, MOST)
    }

    fn learn(&mut self, x: &Vector, y: i64) {
        self.samples = self.samples.saturating_add(1).min(MOST_SAMPLES);
        let parts = i64::from(self.samples).min(LEAST_STEP);
        let first = self.samples == 1;
        let surprise = y - self.y;
        self.y += if first { surprise } else { surprise.clamp(-MOST_SURPRISE, MOST_SURPRISE) } / parts;
        for (mean, x) in self.x.iter_mut().zip(x) {
            *mean += (*x - *mean) / parts;
        }
    }
}

/// Learn from one sample.
pub(crate) fn learn(shared: &[u8], node: &[u8], task: &Task<'_>, nanoseconds: u64) -> (Vec<u8>, Vec<u8>) {
    let (mut all, mut one) = (Shared::read(shared), Known::read(node));
    let (x, y) = (features(task), cost(nanoseconds.into(), task.work));
    all.learn(&x, y);
    one.learn(&x, y);
    (all.write(), one.write())
}

/// Little-endian integers behind the layout's number; none where the bytes are not of this layout.
struct Values<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl<'a> Values<'a> {
    fn new(bytes: &'a [u8], count: usize, width: usize) -> Self {
        match bytes.split_first() {
            Some((&LAYOUT, bytes)) if bytes.len() == count * width => Self { bytes, width },
            _ => Self { bytes: &[], width },
        }
    }
}

impl Iterator for Values<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        let (value, rest) = self.bytes.split_at_checked(self.width)?;
        self.bytes = rest;
        match value.len() {
            4 => value.try_into().ok().map(i32::from_le_bytes).map(i64::from),
            _ => value.try_into().ok().map(i64::from_le_bytes),
        }
    }
}
