//! OpenVINO's CPU device.
//!
//! # Why
//!
//! Where a processor multiplies bytes in tiles (AMX) or in fours (VNNI), OpenVINO's kernels run near its
//! peak. Its sums come out as f32, and some of its kernels saturate, so exactness is built in and then
//! proved.
//!
//! # How
//!
//! 1. Each layer becomes a small [`graph`] with one matrix product for each part of K. A part is so short
//!    that, whatever the codes, no sum inside it reaches 2^24: every partial sum is an integer that f32 holds
//!    exactly, in any order. Parts are added here, as integers.
//! 2. There are three ways to run such a graph ([`Precision`]). At start each is put to the self-test, the
//!    fastest first, until one passes. On processors without VNNI, OpenVINO's 8-bit kernels add pairs of
//!    products in 16 bits, which saturate: the test shows it, and that way is refused there.
//! 3. [`product`] runs what was compiled, with rows rounded up to a few dozen sizes, so that OpenVINO
//!    prepares itself for few shapes and keeps few of them.
//!
//! Compiled graphs are kept in memory, with their layer. None is kept on disk: what is read back from there
//! could not be told from what somebody else has put there.

mod graph;
mod product;

use crate::openvino::{Floats, OpenVino, OpenVinoError, Settings, tensor};
use crate::{Backend, BackendError, NnError, ProvenBackend};
use graph::{EXACT_PART, Ir, parts};
use openvino::ElementType;
use ostrakon_exact::Linear;
use ostrakon_exact::simd::{Product, Sizes, self_test, self_test_of};
use product::OpenVinoProduct;
use std::fmt;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

/// Its name.
pub const NAME: &str = "openvino";

/// Products by OpenVINO.
pub struct OpenVinoBackend {
    openvino: &'static OpenVino,
    threads: usize,
    precision: Precision,
    /// Largest sum of a row's weights, without their signs, in one part.
    part: u32,
    /// The faster ways, and why they are not used.
    refused: Vec<(Precision, String)>,
}

/// What the factors of a product are computed as. Sums are exact in each, or it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// u8 times i8, added in 32-bit integers.
    Int8,
    /// bfloat16, which holds every code and every weight, added in f32.
    Bf16,
    /// f32.
    F32,
}

impl Precision {
    /// Every one, the fastest first.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Bf16, Self::F32];

    /// A short lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    const fn floats(self) -> Floats {
        match self {
            Self::Bf16 => Floats::Bf16,
            Self::Int8 | Self::F32 => Floats::F32,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Shapes beyond those of the common self-test: kernels are chosen by the number of rows, and by whether
/// sizes are multiples of a register. The last ones fill a part to its bound over a long K.
const SIZES: [Sizes; 6] = [
    Sizes { rows: 1, inputs: 384, outputs: 64, largest: 127 },
    Sizes { rows: 64, inputs: 512, outputs: 48, largest: 127 },
    Sizes { rows: 160, inputs: 192, outputs: 64, largest: 127 },
    Sizes { rows: 16, inputs: 1536, outputs: 32, largest: 42 },
    Sizes { rows: 1, inputs: 1536, outputs: 32, largest: 42 },
    Sizes { rows: 33, inputs: 4096, outputs: 16, largest: 16 },
];

impl OpenVinoBackend {
    /// Load OpenVINO, if that was not done yet, and prove the fastest way of computing that is exact here.
    /// `installed` is where `make setup` puts releases.
    ///
    /// # Errors
    /// OpenVINO is missing or broken, or nothing it does is exact.
    pub fn start(installed: Option<&Path>, threads: usize) -> Result<ProvenBackend, BackendError> {
        let unavailable = |reason| BackendError::Unavailable { backend: NAME, reason };
        let openvino = OpenVino::load(installed).map_err(|error| unavailable(error.to_string()))?;
        let mut refused = Vec::new();
        for precision in Precision::ALL {
            match Self::with(openvino, threads, precision, refused.clone()) {
                Ok(proven) => return Ok(proven),
                Err(error) => refused.push((precision, reason(error))),
            }
        }
        Err(BackendError::NotExact { backend: NAME, reason: listed(&refused) })
    }

    /// Prove one way of computing.
    ///
    /// # Errors
    /// This machine has not got it, or it is not exact.
    pub fn with(
        openvino: &'static OpenVino,
        threads: usize,
        precision: Precision,
        refused: Vec<(Precision, String)>,
    ) -> Result<ProvenBackend, BackendError> {
        // OpenVINO would compute in f32 without a word, and the report would name what is not so.
        if !openvino.has(precision.floats()) {
            let reason = format!("this processor has no {precision} instructions");
            return Err(BackendError::Unavailable { backend: NAME, reason });
        }
        ProvenBackend::new(Self { openvino, threads, precision, part: EXACT_PART, refused })
    }

    fn compile(&self, layer: &Linear) -> Result<OpenVinoProduct, OpenVinoError> {
        let parts = parts(layer, self.part);
        let ir = Ir::of(layer, &parts, self.precision == Precision::Int8);
        let weights = tensor(ElementType::U8, &[ir.weights.len()], &ir.weights)?;
        let settings = Settings { threads: self.threads, floats: self.precision.floats() };
        let compiled = self.openvino.compile(ir.xml.as_bytes(), Some(&weights), settings)?;
        Ok(OpenVinoProduct::new(layer, parts, compiled))
    }
}

impl Backend for OpenVinoBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn detail(&self) -> String {
        let mut text =
            format!("{} on {}, OpenVINO {}", self.precision, self.openvino.device(), self.openvino.version());
        if !self.refused.is_empty() {
            text.push_str("; not ");
            text.push_str(&listed(&self.refused));
        }
        text
    }

    fn prepare(&self, name: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        match self.compile(layer) {
            Ok(product) => Ok(Box::new(product)),
            Err(error) => Err(NnError::Runtime(format!("layer `{name}`: {error}"))),
        }
    }

    fn prove(&self) -> Result<(), BackendError> {
        let product_of = super::product_of(self);
        self_test(&product_of).map_err(|error| BackendError::of_self_test(NAME, &error))?;
        for sizes in SIZES {
            self_test_of(sizes, &product_of).map_err(|error| BackendError::of_self_test(NAME, &error))?;
        }
        if keeps_small_numbers() {
            return Ok(());
        }
        let reason = "it leaves threads that round the smallest floats to zero".to_owned();
        Err(BackendError::NotExact { backend: NAME, reason })
    }
}

/// Whether this thread still computes with the smallest floats, as every operation outside of products must.
fn keeps_small_numbers() -> bool {
    black_box(f32::MIN_POSITIVE) * black_box(0.5) != 0.0 && black_box(f32::from_bits(2)) * black_box(0.5) != 0.0
}

/// The reason alone: the backend's name is said once.
fn reason(error: BackendError) -> String {
    match error {
        BackendError::NotExact { reason, .. } | BackendError::Unavailable { reason, .. } => reason,
        unknown @ BackendError::Unknown { .. } => unknown.to_string(),
    }
}

fn listed(refused: &[(Precision, String)]) -> String {
    let each: Vec<String> = refused.iter().map(|(precision, why)| format!("{precision}: {why}")).collect();
    each.join("; ")
}

#[cfg(test)]
mod tests;
