//! How fast a backend is, to choose among those that are exact.
//!
//! Layers are timed as a model runs them, coding and scaling included, because backends differ in what they can do
//! in the same pass. Two of a usual size in turn, one with wide results and 16-bit codes, one with wide rows and 8-bit
//! codes; the best of several times, because other work on the machine only ever adds.

use super::cpu::{scattered, test_layer};
use super::{ProvenBackend, SELF_TEST};
use crate::NnError;
use ostrakon_exact::Activation;
use ostrakon_exact::simd::Executor;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROWS: usize = 128;
const TIMES: usize = 4;

pub(super) fn measure(backend: &ProvenBackend, executor: &Executor) -> Result<Duration, NnError> {
    let mut total = Duration::ZERO;
    for (activation, inputs, outputs) in [(Activation::U16, 384, 1536), (Activation::U8, 1536, 384)] {
        let layer = Arc::new(test_layer(activation, inputs, outputs, scattered).map_err(NnError::Runtime)?);
        let product = backend.prepare(SELF_TEST, &layer)?;
        let x: Vec<f32> = (0..ROWS * inputs).map(|at| f32::from(scattered(at % inputs, at / inputs))).collect();
        let mut out = vec![0.0; ROWS * outputs];
        let mut best = Duration::MAX;
        for _ in 0..TIMES {
            let start = Instant::now();
            executor
                .linear(&layer, product.as_ref(), &x, ROWS, &mut out)
                .map_err(|error| NnError::Runtime(error.to_string()))?;
            best = best.min(start.elapsed());
        }
        total += best;
    }
    Ok(total)
}
