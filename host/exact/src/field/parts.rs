//! Where a layer's columns are cut, so that totals are known from their class modulo p.

use super::Field;
use crate::layer::Linear;
use core::ops::Range;

/// The parts of a layer: ranges of its input columns. See the [module](super).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    field: Field,
    ranges: Vec<Range<usize>>,
    least: Vec<i64>,
    inputs: usize,
    outputs: usize,
}

impl Parts {
    /// Choose the field of `layer` and cut it.
    pub fn of(layer: &Linear) -> Self {
        let most = Self::most(layer, Field::P24);
        let mut rows = layer.weight.as_slice().chunks_exact(layer.inputs.max(1));
        let whole = rows.all(|row| reach(row, most) == row.len());
        Self::cut(layer, if whole { Field::P24 } else { Field::P31 })
    }

    /// The largest sum of magnitudes of weights that a part may have for one output.
    fn most(layer: &Linear, field: Field) -> u64 {
        u64::from((field.prime() - 1) / layer.activation.max_code().unsigned_abs().max(1))
    }

    fn cut(layer: &Linear, field: Field) -> Self {
        let code = layer.activation.max_code().unsigned_abs();
        let most = Self::most(layer, field);
        let rows = || layer.weight.as_slice().chunks_exact(layer.inputs.max(1));
        let mut ranges = Vec::new();
        let mut start = 0;
        while start < layer.inputs {
            // As far as the output goes that can go least far.
            let end = rows().fold(layer.inputs, |end, row| reach(row.get(start..end).unwrap_or(&[]), most) + start);
            // One column always fits.
            let end = end.max(start + 1);
            ranges.push(start..end);
            start = end;
        }
        let negative = |row: &[i8]| row.iter().map(|&w| i64::from(w.min(0))).sum::<i64>();
        let least = ranges
            .iter()
            .flat_map(|range| rows().map(|row| i64::from(code) * negative(row.get(range.clone()).unwrap_or(&[]))))
            .collect();
        Self { field, ranges, least, inputs: layer.inputs, outputs: layer.outputs }
    }

    /// The field in which the layer is multiplied.
    pub const fn field(&self) -> Field {
        self.field
    }

    /// The columns of each part, in order.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// Columns of a share's product: `parts * N`.
    pub fn columns(&self) -> usize {
        self.least.len()
    }

    /// The least total of each column of a share's product.
    pub fn least(&self) -> &[i64] {
        &self.least
    }

    /// Whether these may be parts of `layer`.
    pub(super) fn fit(&self, layer: &Linear) -> bool {
        (self.inputs, self.outputs) == (layer.inputs, layer.outputs)
    }
}

/// How many of the first weights have magnitudes that add up to at most `most`.
fn reach(weights: &[i8], most: u64) -> usize {
    let mut sum = 0;
    weights
        .iter()
        .position(|w| {
            sum += u64::from(w.unsigned_abs());
            sum > most
        })
        .unwrap_or(weights.len())
}
