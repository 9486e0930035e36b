//! This machine's CPU.
//!
//! The executor knows this backend's products and works on them tile by tile, coding and scaling while
//! a tile is in cache. That path is proved too, beside the product by itself.

use crate::{Backend, BackendError, NnError};
use ostrakon_exact::layer::MAX_WIDTH;
use ostrakon_exact::simd::{CpuProduct, Executor, Product, self_test};
use ostrakon_exact::{Activation, Layer, Linear, Part, reference};
use std::sync::Arc;

/// Its name.
pub const NAME: &str = "cpu";

/// Products on the threads and with the instructions of an executor.
pub struct CpuBackend {
    executor: Arc<Executor>,
}

impl CpuBackend {
    /// For layers that `executor` will run. Make it usable with
    /// [`ProvenBackend::new`](crate::ProvenBackend::new).
    pub const fn new(executor: Arc<Executor>) -> Self {
        Self { executor }
    }

    fn not_exact(reason: String) -> BackendError {
        BackendError::NotExact { backend: NAME, reason }
    }

    /// Whole linear layers, as a model runs them, against the reference. Small, because every start of
    /// a node waits for it.
    fn prove_layers(&self) -> Result<(), BackendError> {
        let cases: [(usize, usize, usize, Weight); 5] = [
            (1, MAX_WIDTH, 1, |_, _| 127),
            (3, 1026, 17, alternating),
            (5, 515, 35, |_, _| -127),
            (13, 131, 33, scattered),
            (97, 64, 16, scattered),
        ];
        for activation in [Activation::U8, Activation::U16] {
            for (rows, inputs, outputs, weight) in cases {
                let layer = test_layer(activation, inputs, outputs, weight).map_err(Self::not_exact)?;
                self.prove_layer(&layer, rows)?;
            }
        }
        Ok(())
    }

    fn prove_layer(&self, layer: &Linear, rows: usize) -> Result<(), BackendError> {
        // In turn: every code at its largest, codes all over their range, zeros.
        let value = |r: usize, k: usize| match r % 3 {
            0 => 1.0,
            1 => f32::from(scattered(k, r)),
            _ => 0.0,
        };
        let x: Vec<f32> = (0..rows).flat_map(|r| (0..layer.inputs).map(move |k| value(r, k))).collect();
        let mut want = vec![0.0; rows * layer.outputs];
        let mut got = want.clone();
        reference::linear(layer, &x, rows, &mut want).map_err(|error| Self::not_exact(error.to_string()))?;
        let product = CpuProduct::new(layer, &self.executor);
        self.executor
            .linear(layer, &product, &x, rows, &mut got)
            .map_err(|error| BackendError::Unavailable { backend: NAME, reason: error.to_string() })?;
        match got.iter().zip(&want).position(|(got, want)| got.to_bits() != want.to_bits()) {
            None => Ok(()),
            Some(at) => Err(Self::not_exact(format!(
                "a layer of {} inputs and {} outputs, coded as {}, differs from the reference in row {}, column {}",
                layer.inputs,
                layer.outputs,
                layer.activation.name(),
                at / layer.outputs,
                at % layer.outputs
            ))),
        }
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn detail(&self) -> String {
        self.executor.level().name().to_owned()
    }

    fn prepare(&self, _name: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        Ok(Box::new(CpuProduct::new(layer, &self.executor)))
    }

    fn prove(&self) -> Result<(), BackendError> {
        self_test(&|layer| Box::new(CpuProduct::new(layer, &self.executor)))
            .map_err(|error| Self::not_exact(error.to_string()))?;
        self.prove_layers()
    }
}

/// The weight of an output and an input.
pub(super) type Weight = fn(usize, usize) -> i8;

fn alternating(n: usize, k: usize) -> i8 {
    if (n + k).is_multiple_of(2) { 127 } else { -127 }
}

pub(super) fn scattered(n: usize, k: usize) -> i8 {
    (((n * 131 + k * 89 + n * k * 7) % 255) as i16 - 127) as i8
}

pub(super) fn test_layer(
    activation: Activation,
    inputs: usize,
    outputs: usize,
    weight: Weight,
) -> Result<Linear, String> {
    let part = |name: &str, dimensions: Vec<usize>, data: Vec<u8>| Part {
        name: name.to_owned(),
        dimensions,
        data: Box::new(data),
    };
    let codes = (0..outputs).flat_map(|n| (0..inputs).map(move |k| weight(n, k) as u8)).collect();
    let scale = (1..=outputs).flat_map(|n| (1.0 / n as f32).to_le_bytes()).collect();
    let parts = vec![part("weight", vec![outputs, inputs], codes), part("scale", vec![outputs], scale)];
    match Layer::from_parts("linear", activation.name(), parts).map_err(|error| error.to_string())? {
        Layer::Linear(layer) => Ok(layer),
        other => Err(format!("a linear layer came out as {}", other.kind())),
    }
}
