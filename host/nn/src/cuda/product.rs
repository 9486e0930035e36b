//! A linear layer's weights on a GPU.

use super::gpu::{Gpu, NULL, blocks, grid, int, launch};
use crate::NnError;
use cudarc::driver::{CudaSlice, DeviceRepr};
use ostrakon_exact::simd::{Product, ProductError};
use ostrakon_exact::{Activation, Linear, ShapeError};
use std::any::Any;
use std::sync::Arc;

/// K is padded with zeros to a multiple of this, what the kernels take at a time.
const DEPTH: usize = 64;
/// Up to so many rows, weights are what takes time and not sums.
const FEW_ROWS: usize = 16;
/// Threads of the kernel that codes a row.
const CODE_THREADS: u32 = 256;

/// The weights of a layer, and what its sums are scaled with.
pub(super) struct CudaProduct {
    gpu: Arc<Gpu>,
    inputs: usize,
    outputs: usize,
    activation: Activation,
    /// [N, K padded].
    weights: CudaSlice<i8>,
    row_sum: CudaSlice<i32>,
    scale: CudaSlice<f32>,
    bias: CudaSlice<f32>,
    prescale: Option<CudaSlice<f32>>,
}

/// Where a product's sums go, [rows, N]: scaled by what these addresses lead to into `y`, or, if there is no `y`, as they
/// are into `totals`. It is `Sink` of `linear.cuh`.
#[derive(Default)]
struct Sink {
    scales: u64,
    zeros: u64,
    row_sum: u64,
    weight_scale: u64,
    bias: u64,
    y: u64,
    totals: u64,
}

/// The kernel for a number of rows and a precision: how it is called and what one block of it computes.
struct Shape {
    kernel: &'static str,
    rows: usize,
    columns: usize,
    threads: u32,
}

impl Shape {
    const fn of(rows: usize, activation: Activation) -> Self {
        let few = rows <= FEW_ROWS;
        let (columns, threads) = if few { (64, 128) } else { (128, 256) };
        let (kernel, rows) = match (activation, few) {
            (Activation::U8, true) => ("linear_few_u8", 16),
            (Activation::U8, false) => ("linear_many_u8", 128),
            (Activation::U16, true) => ("linear_few_u16", 16),
            (Activation::U16, false) => ("linear_many_u16", 64),
        };
        Self { kernel, rows, columns, threads }
    }
}

const fn limbs(activation: Activation) -> usize {
    match activation {
        Activation::U8 => 1,
        Activation::U16 => 2,
    }
}

impl CudaProduct {
    pub(super) fn new(gpu: &Arc<Gpu>, layer: &Linear) -> Result<Self, NnError> {
        let stride = layer.inputs.next_multiple_of(DEPTH);
        let mut padded = vec![0i8; layer.outputs.saturating_mul(stride)];
        let rows = padded.chunks_exact_mut(stride).zip(layer.weight.as_slice().chunks_exact(layer.inputs));
        for (to, from) in rows {
            to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
        }
        Ok(Self {
            inputs: layer.inputs,
            outputs: layer.outputs,
            activation: layer.activation,
            weights: gpu.bring(&padded)?,
            row_sum: gpu.bring(&layer.row_sum)?,
            scale: gpu.bring(&layer.scale)?,
            bias: gpu.bring(&layer.bias)?,
            prescale: layer.prescale.as_deref().map(|prescale| gpu.bring(prescale)).transpose()?,
            gpu: Arc::clone(gpu),
        })
    }

    fn stride(&self) -> usize {
        self.inputs.next_multiple_of(DEPTH)
    }

    /// The whole layer: `x` [rows, K] to [rows, N]. There is at least one row.
    pub(super) fn linear(&self, x: &CudaSlice<f32>, rows: usize) -> Result<CudaSlice<f32>, NnError> {
        let (gpu, stride) = (&*self.gpu, self.stride());
        let mut codes = gpu.room::<u8>(rows.saturating_mul(stride).saturating_mul(limbs(self.activation)))?;
        let (mut scales, mut zeros) = (gpu.room::<f32>(rows)?, gpu.room::<i32>(rows)?);
        launch!(
            gpu,
            if limbs(self.activation) == 2 { "code_u16" } else { "code_u8" },
            blocks(rows, CODE_THREADS)?,
            x,
            &self.prescale.as_ref().map_or(NULL, |prescale| gpu.address(prescale)),
            &int(self.inputs)?,
            &int(stride)?,
            &mut codes,
            &mut scales,
            &mut zeros
        );
        let y = gpu.room::<f32>(rows.saturating_mul(self.outputs))?;
        let scaled = Sink {
            scales: gpu.address(&scales),
            zeros: gpu.address(&zeros),
            row_sum: gpu.address(&self.row_sum),
            weight_scale: gpu.address(&self.scale),
            bias: gpu.address(&self.bias),
            y: gpu.address(&y),
            ..Sink::default()
        };
        self.multiply(&codes, rows, self.activation, scaled)?;
        Ok(y)
    }

    /// Queue the product of codes [limbs][rows][K padded].
    fn multiply(&self, codes: &CudaSlice<u8>, rows: usize, activation: Activation, sink: Sink) -> Result<(), NnError> {
        let shape = Shape::of(rows, activation);
        launch!(
            &*self.gpu,
            shape.kernel,
            grid(self.outputs.div_ceil(shape.columns), rows.div_ceil(shape.rows), shape.threads)?,
            codes,
            &self.weights,
            &int(rows)?,
            &int(self.outputs)?,
            &int(self.stride())?,
            &sink.scales,
            &sink.zeros,
            &sink.row_sum,
            &sink.weight_scale,
            &sink.bias,
            &sink.y,
            &sink.totals
        );
        Ok(())
    }

    /// Totals of `codes` [limbs][rows][K] of host memory.
    fn totals<T: DeviceRepr>(
        &self,
        planes: &[&[u8]],
        rows: usize,
        activation: Activation,
        totals: &mut [T],
    ) -> Result<(), ProductError> {
        if self.inputs.checked_mul(rows) != planes.first().map(|plane| plane.len())
            || self.outputs.checked_mul(rows) != Some(totals.len())
        {
            let (n, k) = (self.outputs, self.inputs);
            return Err(ShapeError(format!("codes or totals are not those of {rows} rows of {k} and {n}")).into());
        }
        if totals.is_empty() {
            return Ok(());
        }
        let stride = self.stride();
        let mut padded = vec![0u8; planes.len().saturating_mul(rows).saturating_mul(stride)];
        let lines = planes.iter().flat_map(|plane| plane.chunks_exact(self.inputs));
        for (to, from) in padded.chunks_exact_mut(stride).zip(lines) {
            to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
        }
        let done = |totals: &mut [T]| -> Result<(), NnError> {
            let gpu = &*self.gpu;
            let codes = gpu.bring(&padded)?;
            let sums = gpu.room::<T>(totals.len())?;
            self.multiply(&codes, rows, activation, Sink { totals: gpu.address(&sums), ..Sink::default() })?;
            gpu.fetch(&sums, totals)
        };
        done(totals).map_err(|error| ProductError::Unavailable(error.text().to_owned()))
    }
}

impl Product for CudaProduct {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        self.totals(&[codes], rows, Activation::U8, totals)
    }

    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        let plane = |shift: u32| -> Vec<u8> { codes.iter().map(|&code| (code >> shift) as u8).collect() };
        self.totals(&[&plane(8), &plane(0)], rows, Activation::U16, totals)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
