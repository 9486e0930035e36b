//! A layer's compiled graph, answering products.
//!
//! 1. Calls with many rows are cut into runs, so that what a run needs is bounded.
//! 2. A run takes an idle request, or makes one: callers on several threads do not wait for each other.
//! 3. Its rows are rounded up to one of few sizes; what is added has no influence on the other rows and is
//!    thrown away.
//! 4. Each part's outputs are integers in f32; they are converted and added as integers.

use crate::openvino::{OpenVinoError, failed, lock, tensor};
use openvino::{CompiledModel, ElementType, InferRequest, Tensor};
use ostrakon_exact::simd::{Product, ProductError};
use ostrakon_exact::{Linear, ShapeError};
use std::ops::Range;
use std::sync::Mutex;

/// Most rows of a run.
const MOST_ROWS: usize = 1024;
/// Most numbers that a run gives.
const MOST_TOTALS: usize = 16 << 20;
/// Requests that are kept while nobody uses them.
const MOST_IDLE: usize = 8;

/// The product of one layer.
pub(super) struct OpenVinoProduct {
    inputs: usize,
    outputs: usize,
    parts: Vec<Range<usize>>,
    most_rows: usize,
    compiled: Mutex<CompiledModel>,
    idle: Mutex<Vec<Request>>,
}

/// A request with its input tensors, one for each part.
struct Request {
    infer: InferRequest,
    rows: usize,
    codes: Vec<Tensor>,
}

impl OpenVinoProduct {
    pub(super) fn new(layer: &Linear, parts: Vec<Range<usize>>, compiled: CompiledModel) -> Self {
        let fit = MOST_TOTALS / (layer.outputs * parts.len()).max(1);
        // A power of two is a size that rows are rounded up to. Two limbs of one row must fit.
        let most_rows = MOST_ROWS.min(1 << fit.max(2).ilog2());
        Self {
            inputs: layer.inputs,
            outputs: layer.outputs,
            parts,
            most_rows,
            compiled: Mutex::new(compiled),
            idle: Mutex::default(),
        }
    }

    fn check(&self, codes: usize, rows: usize, totals: usize) -> Result<(), ProductError> {
        let fits = |len: usize, width: usize| rows.checked_mul(width) == Some(len);
        if fits(codes, self.inputs) && fits(totals, self.outputs) {
            return Ok(());
        }
        Err(ProductError::Shape(ShapeError(format!(
            "{codes} codes and {totals} totals are not {rows} rows of {} and {}",
            self.inputs, self.outputs
        ))))
    }

    /// One run of at most `most_rows` rows: `fill` writes a part of a row's codes, `take` is given each part's totals.
    fn run(
        &self,
        rows: usize,
        fill: impl Fn(usize, &Range<usize>, &mut [u8]),
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<(), OpenVinoError> {
        let idle = lock(&self.idle).pop();
        let mut request = match idle {
            Some(request) => request,
            None => {
                let infer = lock(&self.compiled).create_infer_request().map_err(failed("make a request"))?;
                Request { infer, rows: 0, codes: Vec::new() }
            }
        };
        request.resize(round_up(rows), &self.parts)?;
        for (part, codes) in self.parts.iter().zip(&mut request.codes) {
            let codes = codes.get_raw_data_mut().map_err(failed("give a tensor's bytes"))?;
            for (row, codes) in codes.chunks_exact_mut(part.len()).take(rows).enumerate() {
                fill(row, part, codes);
            }
        }
        request.infer.infer().map_err(failed("compute a product"))?;
        for part in 0..self.parts.len() {
            let totals = request.infer.get_output_tensor_by_index(part).map_err(failed("give totals"))?;
            let totals = totals.get_raw_data().map_err(failed("give a tensor's bytes"))?;
            let floats: Option<&[f32]> = bytemuck::try_cast_slice(totals).ok();
            let floats = floats.and_then(|floats| floats.get(..rows * self.outputs));
            take(part, floats.ok_or_else(|| wrong_size(totals.len()))?);
        }
        let mut idle = lock(&self.idle);
        if idle.len() < MOST_IDLE {
            idle.push(request);
        }
        Ok(())
    }
}

fn wrong_size(bytes: usize) -> OpenVinoError {
    OpenVinoError::Call { what: "give totals", reason: format!("{bytes} bytes are not the totals of these rows") }
}

impl Request {
    /// Have input tensors of this many rows, whatever is in them.
    fn resize(&mut self, rows: usize, parts: &[Range<usize>]) -> Result<(), OpenVinoError> {
        if self.rows == rows {
            return Ok(());
        }
        self.rows = 0;
        self.codes.clear();
        for (index, part) in parts.iter().enumerate() {
            let codes = tensor(ElementType::U8, &[rows, part.len()], &vec![0; rows * part.len()])?;
            self.infer.set_input_tensor_by_index(index, &codes).map_err(failed("take a tensor"))?;
            self.codes.push(codes);
        }
        self.rows = rows;
        Ok(())
    }
}

impl Product for OpenVinoProduct {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        self.check(codes.len(), rows, totals.len())?;
        let codes = codes.chunks((self.most_rows * self.inputs).max(1));
        for (codes, totals) in codes.zip(totals.chunks_mut((self.most_rows * self.outputs).max(1))) {
            let fill = |row: usize, part: &Range<usize>, to: &mut [u8]| {
                let start = row * self.inputs;
                if let Some(from) = codes.get(start + part.start..start + part.end) {
                    to.copy_from_slice(from);
                }
            };
            self.run(codes.len() / self.inputs, fill, |part, floats| {
                for (total, &float) in totals.iter_mut().zip(floats) {
                    *total = (integer(float) as i32).wrapping_add(if part == 0 { 0 } else { *total });
                }
            })
            .map_err(unavailable)?;
        }
        Ok(())
    }

    /// High and low bytes as rows of one run.
    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        self.check(codes.len(), rows, totals.len())?;
        let most_rows = self.most_rows / 2;
        let codes = codes.chunks((most_rows * self.inputs).max(1));
        for (codes, totals) in codes.zip(totals.chunks_mut((most_rows * self.outputs).max(1))) {
            let rows = codes.len() / self.inputs;
            let fill = |row: usize, part: &Range<usize>, to: &mut [u8]| {
                let (start, shift) = if row < rows { (row * self.inputs, 8) } else { ((row - rows) * self.inputs, 0) };
                if let Some(from) = codes.get(start + part.start..start + part.end) {
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = (from >> shift) as u8;
                    }
                }
            };
            self.run(2 * rows, fill, |part, floats| {
                let (high, low) = floats.split_at(floats.len() / 2);
                for ((total, &high), &low) in totals.iter_mut().zip(high).zip(low) {
                    let sum = (integer(high) << 8).wrapping_add(integer(low));
                    *total = sum.wrapping_add(if part == 0 { 0 } else { *total });
                }
            })
            .map_err(unavailable)?;
        }
        Ok(())
    }
}

fn unavailable(error: OpenVinoError) -> ProductError {
    ProductError::Unavailable(error.to_string())
}

/// The integer that a float is. Added to 1.5 x 2^52 its last bit is worth one, so that the sum's bits are the integer: a
/// conversion that compiles to vector instructions, which a cast with its rules for large numbers does not. Anything
/// but an integer below 2^51 gives some number.
fn integer(float: f32) -> i64 {
    const WHOLE: f64 = 6_755_399_441_055_744.0;
    ((f64::from(float) + WHOLE).to_bits() as i64).wrapping_sub(WHOLE.to_bits() as i64)
}

/// The next of few sizes: each up to 16, then 8 between a power of two and the next. At most an eighth more.
fn round_up(rows: usize) -> usize {
    if rows <= 16 { rows } else { rows.next_multiple_of(rows.next_power_of_two() / 16) }
}

#[cfg(test)]
mod tests {
    use super::{integer, round_up};
    use std::collections::BTreeSet;

    #[test]
    fn floats_that_are_integers_become_them() {
        for at in (0..1 << 24).step_by(997).chain([(1 << 24) - 1, 1 << 24]) {
            assert_eq!((integer(at as f32), integer(-(at as f32))), (at, -at));
        }
        // Nothing that OpenVINO could give makes it stop.
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.5] {
            integer(odd);
        }
    }

    #[test]
    fn rows_are_rounded_up_to_few_sizes_that_are_little_larger() {
        let sizes: BTreeSet<usize> = (1..=super::MOST_ROWS).map(round_up).collect();
        assert!(sizes.len() <= 64, "{}", sizes.len());
        for rows in 1..=super::MOST_ROWS {
            let rounded = round_up(rows);
            assert!(rounded >= rows && rounded <= rows + rows / 8 && rounded <= super::MOST_ROWS, "{rows}: {rounded}");
        }
    }
}
