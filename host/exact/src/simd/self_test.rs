//! The start-up self-test: a backend proves itself before it is used.
//!
//! The values are those that break kernels which are exact on random data: every product at its
//! largest (16-bit pair sums that saturate), signs that alternate, K odd and K at its bound (32-bit
//! sums and 24-bit float mantissas that overflow).

use super::product::{Product, ProductError};
use crate::layer::{Activation, Layer, LayerError, Linear, MAX_WIDTH, Part};
use crate::reference::accumulate;
use core::fmt;
use std::sync::Arc;

/// Why a backend is refused.
#[derive(Debug)]
pub enum SelfTestError {
    /// The test's own weights were refused: a fault of this program.
    Layer(LayerError),
    /// The backend gave no answer.
    NoAnswer {
        /// Which test.
        case: String,
        /// Why.
        error: ProductError,
    },
    /// The backend's answer differs from the reference.
    Wrong {
        /// Which test.
        case: String,
        /// Row of the first wrong element.
        row: usize,
        /// Column of the first wrong element.
        column: usize,
        /// What the backend gave.
        got: i64,
        /// What the reference gives.
        want: i64,
    },
}

impl fmt::Display for SelfTestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(error) => write!(f, "the self-test's own layer was refused: {error}"),
            Self::NoAnswer { case, error } => write!(f, "self-test `{case}`: {error}"),
            Self::Wrong { case, row, column, got, want } => {
                write!(f, "self-test `{case}`: row {row}, column {column} is {got} where exactly {want} is right")
            }
        }
    }
}

impl core::error::Error for SelfTestError {}

impl From<LayerError> for SelfTestError {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

struct Case<'a> {
    name: &'a str,
    rows: usize,
    inputs: usize,
    outputs: usize,
    /// Code of row r, column k, as a share of the largest code in 1/255.
    code: fn(usize, usize) -> u8,
    weight: &'a dyn Fn(usize, usize) -> i8,
}

/// A shape that a backend wants tested beyond the common ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of codes.
    pub rows: usize,
    /// K.
    pub inputs: usize,
    /// N.
    pub outputs: usize,
    /// The largest weight, 1 to 127.
    pub largest: i8,
}

/// Numbers without a pattern that a kernel could share.
fn scrambled(a: usize, b: usize) -> u64 {
    let x = (a as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (b as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
}

fn scrambled_weight(n: usize, k: usize) -> i8 {
    ((scrambled(n, k) % 255) as i16 - 127) as i8
}

fn alternating(n: usize, k: usize) -> i8 {
    if (n + k).is_multiple_of(2) { 127 } else { -127 }
}

const CASES: [Case<'static>; 10] = [
    Case { name: "all 255 x 127", rows: 7, inputs: 512, outputs: 33, code: |_, _| 255, weight: &|_, _| 127 },
    Case { name: "all 255 x -127", rows: 7, inputs: 512, outputs: 33, code: |_, _| 255, weight: &|_, _| -127 },
    Case { name: "alternating signs", rows: 5, inputs: 514, outputs: 40, code: |_, _| 255, weight: &alternating },
    Case {
        name: "alternating codes",
        rows: 6,
        inputs: 1030,
        outputs: 17,
        code: |r, k| if (r + k).is_multiple_of(2) { 255 } else { 0 },
        weight: &alternating,
    },
    Case {
        name: "odd shapes",
        rows: 13,
        inputs: 515,
        outputs: 67,
        code: |r, k| scrambled(r + 77, k) as u8,
        weight: &scrambled_weight,
    },
    // Enough rows for what a backend does only for many.
    Case { name: "many rows", rows: 53, inputs: 131, outputs: 37, code: |_, _| 255, weight: &alternating },
    Case {
        name: "many odd rows",
        rows: 61,
        inputs: 67,
        outputs: 21,
        code: |r, k| scrambled(r + 5, k) as u8,
        weight: &scrambled_weight,
    },
    Case { name: "one by one", rows: 1, inputs: 1, outputs: 1, code: |_, _| 255, weight: &|_, _| -127 },
    Case { name: "K at its bound", rows: 2, inputs: MAX_WIDTH, outputs: 3, code: |_, _| 255, weight: &|_, _| 127 },
    Case {
        name: "K at its bound, negative",
        rows: 1,
        inputs: MAX_WIDTH,
        outputs: 2,
        code: |_, _| 255,
        weight: &|_, _| -127,
    },
];

/// Compare the products that `product_of` makes with [`accumulate`], for both codings.
///
/// # Errors
/// The first wrong element, or what kept the backend from answering.
pub fn self_test(product_of: &dyn Fn(&Arc<Linear>) -> Box<dyn Product>) -> Result<(), SelfTestError> {
    for case in &CASES {
        let layer = Arc::new(case.layer()?);
        let product = product_of(&layer);
        case.check(&layer, product.as_ref())?;
    }
    Ok(())
}

/// Likewise for one shape. Its columns have, in turn, only the largest weight, only the least, both in turn, and
/// weights all over the range; its rows have, in turn, only the largest code, that and zero, and codes all over the
/// range.
///
/// # Errors
/// As [`self_test`].
pub fn self_test_of(sizes: Sizes, product_of: &dyn Fn(&Arc<Linear>) -> Box<dyn Product>) -> Result<(), SelfTestError> {
    let Sizes { rows, inputs, outputs, largest } = sizes;
    let largest = largest.max(1);
    let case = Case {
        name: &format!("{rows} x {inputs} x {outputs}, weights up to {largest}"),
        rows,
        inputs,
        outputs,
        code: |r, k| match (r % 3, (r + k) % 2) {
            (0, _) | (1, 0) => 255,
            (1, _) => 0,
            _ => scrambled(r + 77, k) as u8,
        },
        weight: &|n, k| match (n % 4, (n / 4 + k) % 2) {
            (0, _) | (2, 0) => largest,
            (1, _) | (2, _) => -largest,
            _ => (i16::from(scrambled_weight(n, k)) % (i16::from(largest) + 1)) as i8,
        },
    };
    let layer = Arc::new(case.layer()?);
    case.check(&layer, product_of(&layer).as_ref())
}

impl Case<'_> {
    fn layer(&self) -> Result<Linear, SelfTestError> {
        let mut weight = Vec::with_capacity(self.outputs * self.inputs);
        for n in 0..self.outputs {
            weight.extend((0..self.inputs).map(|k| (self.weight)(n, k) as u8));
        }
        let scale: Vec<u8> = core::iter::repeat_n(1.0f32.to_le_bytes(), self.outputs).flatten().collect();
        let part = |name: &str, dimensions: &[usize], data: Vec<u8>| Part {
            name: name.to_owned(),
            dimensions: dimensions.to_vec(),
            data: Box::new(data),
        };
        let parts = vec![part("weight", &[self.outputs, self.inputs], weight), part("scale", &[self.outputs], scale)];
        match Layer::from_parts("linear", Activation::U16.name(), parts)? {
            Layer::Linear(layer) => Ok(layer),
            other => Err(LayerError(format!("a linear layer came out as {}", other.kind())).into()),
        }
    }

    fn check(&self, layer: &Linear, product: &dyn Product) -> Result<(), SelfTestError> {
        let wide = |scale: u16| -> Vec<u16> {
            let row = |r: usize| (0..self.inputs).map(move |k| u16::from((self.code)(r, k)) * scale);
            (0..self.rows).flat_map(row).collect()
        };
        let no_answer = |error| SelfTestError::NoAnswer { case: self.name.to_owned(), error };

        let codes = wide(1);
        let narrow: Vec<u8> = codes.iter().map(|&c| c as u8).collect();
        let mut totals = vec![i32::MIN; self.rows * self.outputs];
        product.product_u8(&narrow, self.rows, &mut totals).map_err(no_answer)?;
        self.compare(layer, &codes, totals.iter().map(|&t| i64::from(t)), "u8")?;

        let codes = wide(257);
        let mut totals = vec![i64::MIN; self.rows * self.outputs];
        product.product_u16(&codes, self.rows, &mut totals).map_err(no_answer)?;
        self.compare(layer, &codes, totals.iter().copied(), "u16")
    }

    fn compare(
        &self,
        layer: &Linear,
        codes: &[u16],
        mut totals: impl Iterator<Item = i64>,
        coding: &str,
    ) -> Result<(), SelfTestError> {
        for (row, codes) in codes.chunks_exact(self.inputs).enumerate() {
            for (column, weight) in layer.weight.as_slice().chunks_exact(self.inputs).enumerate() {
                let want = accumulate(codes, weight);
                let got = totals.next().unwrap_or(i64::MIN);
                if got != want {
                    let case = format!("{}, {coding}", self.name);
                    return Err(SelfTestError::Wrong { case, row, column, got, want });
                }
            }
        }
        Ok(())
    }
}
