//! Backends: who computes the integer product of a linear layer.
//!
//! # Why
//!
//! The product of u8 codes with int8 weights is nearly all the work of a model and the one step whose
//! result does not depend on who does it. This is the seam: this machine's CPU, OpenVINO, a GPU,
//! servers that each hold a share, or a transcript that is checked rather than computed. Coding,
//! scaling and every operation without weights stay in `ostrakon_exact::simd::Executor`, so a model
//! gives the same bytes on any of them.
//!
//! # What a backend gets
//!
//! - [`Backend::prepare`], once per layer: its full name, for reports and for servers that hold it too, and
//!   validated weights, N x K codes in [-127, 127] with `K <= 66_000`, so that sums over u8 codes fit 32
//!   bits. Scales and biases are not its business. It packs the codes as it likes; a backend that seldom
//!   looks at them may share the layer instead, whose codes are mostly a view of a memory map.
//! - `Product::product_u8` or `product_u16`, many times and from many threads at once: rows of codes,
//!   any values, any number of rows, none included.
//! - If it answers [`Backend::attention`], the two integer products of every attention operation, head by
//!   head. Most do not: the executor fuses them. Causal attention is always the executor's.
//!
//! # What it must guarantee
//!
//! - **Exact or an error.** The sums are those of `ostrakon_exact::reference::accumulate`, for every input.
//!   Kernels that saturate pairs of products in 16 bits widen first; devices that sum in f32 split K so
//!   that no partial sum reaches 2^24; a server's answer is checked before it is returned. There is no
//!   tolerance and no retry on another path that could answer otherwise.
//! - **Total.** No panic on any codes. What can fail is the machinery: no memory, a lost device, a peer
//!   that does not answer. That is an error, reported as a fault of this host and never shown to a
//!   guest.
//! - **Blind.** The answer depends on weights and codes alone: not on the number of rows, on other
//!   calls, on threads or on time.
//!
//! It may block for as long as its own time limit allows; calls come from threads meant for computing.
//!
//! # How exactness is proved
//!
//! A [`Host`](crate::Host) takes only a [`ProvenBackend`], and the way to one is [`ProvenBackend::new`],
//! which runs [`Backend::prove`]: unless the backend overrides it, a fixed adversarial self-test (every
//! product at its largest, alternating signs, K odd and at its bound) against the scalar reference. One
//! wrong element and the backend is refused. A backend overrides `prove` to test more, or because it
//! cannot answer for test weights and instead checks every single answer (shares, transcripts).

pub mod audit;
pub mod cpu;
mod measure;
#[cfg(feature = "openvino")]
pub mod openvino;
pub mod record;
pub mod shared;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Device;
use crate::{CpuBackend, NnError};
use ostrakon_exact::Linear;
use ostrakon_exact::simd::{AttentionProducts, Executor, Product, ProductError, SelfTestError, self_test};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Computes integer products. The module says what it gets and what it must guarantee.
pub trait Backend: Send + Sync {
    /// A short lower-case name: what an operator writes to choose it.
    fn name(&self) -> &'static str;

    /// Take in the weights of one layer. `name` is its full name, such as `blocks.0.attention.qkv`; in a
    /// self-test it is [`SELF_TEST`].
    ///
    /// # Errors
    /// [`NnError::Runtime`] or [`NnError::Timeout`] when the machinery fails.
    fn prepare(&self, name: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError>;

    /// How it computes on this machine and what it may not use here: for a report to the operator.
    fn detail(&self) -> String {
        String::new()
    }

    /// Who computes the integer products of attention, if it is not to be the executor.
    fn attention(&self) -> Option<&dyn AttentionProducts> {
        None
    }

    /// Who computes every operation, on tensors that it keeps, if it is not to be the executor.
    fn device(&self) -> Option<&dyn Device> {
        None
    }

    /// Show that this backend is exact on this machine, now.
    ///
    /// # Errors
    /// The first wrong element, or what kept the backend from answering.
    fn prove(&self) -> Result<(), BackendError> {
        self_test(&product_of(self)).map_err(|error| BackendError::of_self_test(self.name(), &error))
    }
}

/// How `backend` makes the products of a self-test.
pub(crate) fn product_of<B: Backend + ?Sized>(backend: &B) -> impl Fn(&Arc<Linear>) -> Box<dyn Product> {
    move |layer| backend.prepare(SELF_TEST, layer).unwrap_or_else(|error| Box::new(NotPrepared(error)))
}

/// Stands in for a product that could not be prepared, so that the self-test reports why.
struct NotPrepared(NnError);

impl Product for NotPrepared {
    fn product_u8(&self, _: &[u8], _: usize, _: &mut [i32]) -> Result<(), ProductError> {
        Err(ProductError::Unavailable(self.0.to_string()))
    }
}

/// A backend that has shown itself exact on this machine. Cloning shares it.
#[derive(Clone)]
pub struct ProvenBackend(Arc<dyn Backend>);

impl ProvenBackend {
    /// Prove `backend` and keep it.
    ///
    /// # Errors
    /// As [`Backend::prove`].
    pub fn new(backend: impl Backend + 'static) -> Result<Self, BackendError> {
        backend.prove()?;
        Ok(Self(Arc::new(backend)))
    }

    /// For a host without layers: it prepares nothing, so it has nothing to prove.
    pub(crate) fn none() -> Self {
        Self(Arc::new(NoBackend))
    }

    /// The backend called `name`, for layers that `executor` will run. `openvino` is where `make setup` puts
    /// releases of OpenVINO.
    ///
    /// # Errors
    /// No backend of that name in this build, or why it cannot be used here.
    pub fn start(name: &str, executor: &Arc<Executor>, openvino: Option<&Path>) -> Result<Self, BackendError> {
        match name {
            cpu::NAME => Self::new(CpuBackend::new(Arc::clone(executor))),
            #[cfg(feature = "openvino")]
            openvino::NAME => openvino::OpenVinoBackend::start(openvino, executor.threads()),
            #[cfg(not(feature = "openvino"))]
            "openvino" => Err(BackendError::Unavailable { backend: "openvino", reason: not_built(openvino) }),
            other => Self::start_on_gpu(other),
        }
    }

    #[cfg(feature = "cuda")]
    fn start_on_gpu(name: &str) -> Result<Self, BackendError> {
        match cuda::CudaBackend::index_in(name) {
            Some(index) => cuda::CudaBackend::start(index),
            None => Err(BackendError::unknown(name)),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn start_on_gpu(name: &str) -> Result<Self, BackendError> {
        Err(BackendError::unknown(name))
    }

    /// How long two layers of a usual size take, 128 rows between widths 384 and 1536, after a first time.
    ///
    /// # Errors
    /// The backend does not answer.
    pub fn measure(&self, executor: &Executor) -> Result<Duration, NnError> {
        measure::measure(self, executor)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// How it computes here.
    pub fn detail(&self) -> String {
        self.0.detail()
    }

    pub(crate) fn prepare(&self, name: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        self.0.prepare(name, layer)
    }

    pub(crate) fn attention(&self) -> Option<&dyn AttentionProducts> {
        self.0.attention()
    }

    pub(crate) fn device(&self) -> Option<&dyn Device> {
        self.0.device()
    }
}

impl fmt::Debug for ProvenBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProvenBackend({})", self.name())
    }
}

/// Computes no products.
struct NoBackend;

impl Backend for NoBackend {
    fn name(&self) -> &'static str {
        "none"
    }

    fn prepare(&self, name: &str, _: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        Err(NnError::Runtime(format!("this host computes no products, so none of layer `{name}`")))
    }
}

#[cfg(not(feature = "openvino"))]
fn not_built(_: Option<&Path>) -> String {
    "this build leaves it out: build with the cargo feature `openvino`".to_owned()
}

/// What layers of a self-test are called; no layer of a package has such a name.
pub const SELF_TEST: &str = "self-test layer";

/// Every backend of this build.
pub const NAMES: &[&str] = &[
    cpu::NAME,
    #[cfg(feature = "openvino")]
    openvino::NAME,
    #[cfg(feature = "cuda")]
    cuda::NAME,
];

/// Why a backend cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// This build has no such backend.
    #[error("this build has no backend called `{name}`: choose {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It computed something wrong: it must not be used on this machine.
    #[error("backend `{backend}` is not exact on this machine: {reason}")]
    NotExact {
        /// Its name.
        backend: &'static str,
        /// The first wrong element.
        reason: String,
    },
    /// It gave no answer.
    #[error("backend `{backend}` cannot be used: {reason}")]
    Unavailable {
        /// Its name.
        backend: &'static str,
        /// What stood in the way.
        reason: String,
    },
}

impl BackendError {
    fn unknown(name: &str) -> Self {
        Self::Unknown { name: name.to_owned(), known: NAMES.join(", ") }
    }

    pub(crate) fn of_self_test(backend: &'static str, error: &SelfTestError) -> Self {
        let reason = error.to_string();
        match error {
            SelfTestError::Wrong { .. } => Self::NotExact { backend, reason },
            _ => Self::Unavailable { backend, reason },
        }
    }
}
