//! Layers as they will run, from codes that have just been chosen.

use super::{ImportError, matrix::Matrix, rounding::Rounded};
use crate::model::{ImportedPart, PartType};
use ostrakon_exact::{
    Activation, Embedding, Layer, Linear, Part,
    simd::{CpuProduct, Executor},
};

/// A linear layer, ready to run.
pub(super) struct ExactLinear {
    pub(super) layer: Linear,
    product: CpuProduct,
}

impl ExactLinear {
    /// From codes for inputs that are multiplied by `prescale`.
    pub(super) fn new(
        executor: &Executor,
        weight: Rounded,
        bias: Option<&[f32]>,
        prescale: &[f32],
        activation: Activation,
    ) -> Result<Self, ImportError> {
        let (outputs, inputs) = (weight.scale.len(), prescale.len());
        let mut parts = vec![
            part(ImportedPart::codes("weight", vec![outputs, inputs], &weight.codes)),
            part(ImportedPart::floats("scale", vec![outputs], &weight.scale)),
            part(ImportedPart::floats("prescale", vec![inputs], prescale)),
        ];
        parts.extend(bias.map(|bias| part(ImportedPart::floats("bias", vec![outputs], bias))));
        match Layer::from_parts("linear", activation.name(), parts).map_err(refused)? {
            Layer::Linear(layer) => Ok(Self { product: CpuProduct::new(&layer, executor), layer }),
            _ => Err(refused("not a linear layer")),
        }
    }

    pub(super) fn run(&self, executor: &Executor, x: &Matrix<f32>) -> Result<Matrix<f32>, ImportError> {
        let mut out = Matrix::zeros(x.rows, self.layer.outputs);
        executor.linear(&self.layer, &self.product, &x.data, x.rows, &mut out.data).map_err(refused)?;
        Ok(out)
    }
}

/// An embedding table from its codes.
pub(super) fn embedding(table: Rounded, width: usize) -> Result<Embedding, ImportError> {
    let rows = table.scale.len();
    let parts = vec![
        part(ImportedPart::codes("weight", vec![rows, width], &table.codes)),
        part(ImportedPart::floats("scale", vec![rows], &table.scale)),
    ];
    match Layer::from_parts("embedding", "", parts).map_err(refused)? {
        Layer::Embedding(layer) => Ok(layer),
        _ => Err(refused("not an embedding")),
    }
}

pub(super) fn refused(error: impl std::fmt::Display) -> ImportError {
    ImportError::Exact(error.to_string())
}

fn part(part: ImportedPart) -> Part {
    debug_assert!(PartType::of_part(&part.name) == Some(part.dtype));
    Part { name: part.name, dimensions: part.dims, data: Box::new(part.bytes) }
}
