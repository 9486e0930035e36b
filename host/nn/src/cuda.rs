//! NVIDIA GPUs.
//!
//! # Why
//!
//! Tensor cores multiply bytes and add in 32-bit integers, exactly. Everything else here is integer sums, maxima, and
//! float operations rounded one by one, which a GPU does as any processor does if its compiler is told to.
//!
//! # How
//!
//! 1. [`Gpu`](gpu::Gpu) is one GPU: found when the host runs (a machine without a driver is told so), with the kernels of
//!    `kernels/kernels.cu` loaded. They are shipped as PTX, compiled without contraction and with IEEE division and
//!    roots ([`PTX`](gpu::PTX); `ptx.py` makes and checks it); the driver turns it into code for the GPU at hand.
//! 2. [`CudaProduct`](product::CudaProduct) has the weights of a linear layer: the product by itself for those that look at
//!    products, and the whole layer (code, multiply, scale) on tensors that stay on the GPU.
//! 3. [`operations`] has every other operation, [`past`] the keys and values of earlier rows.
//! 4. At start all of it is put to a test against the scalar reference ([`prove`]): a GPU, driver or kernel that gives one
//!    other bit is refused.
//!
//! All work of a GPU goes through one stream, in the order in which it was asked for, so memory that is given back is
//! used again only by work that comes after. Calls return when the work is queued; reading a tensor waits for it.

mod gpu;
mod operations;
mod past;
mod product;
mod prove;

use crate::device::Device;
use crate::{Backend, BackendError, NnError, ProvenBackend};
use gpu::{Gpu, GpuError};
use operations::CudaDevice;
use ostrakon_exact::Linear;
use ostrakon_exact::simd::Product;
use product::CudaProduct;
use std::sync::Arc;

/// Its name. `cuda:1` is the second GPU.
pub const NAME: &str = "cuda";

/// Products, and everything else, on a GPU.
pub struct CudaBackend {
    device: CudaDevice,
}

impl CudaBackend {
    /// The GPU of this index, proved exact.
    ///
    /// # Errors
    /// There is none or it cannot be used, or it is not exact.
    pub fn start(index: usize) -> Result<ProvenBackend, BackendError> {
        let gpu = Gpu::open(index).map_err(|error| unavailable(&error))?;
        ProvenBackend::new(Self { device: CudaDevice::new(Arc::new(gpu)) })
    }

    /// The index in a backend's name: `cuda` is the first GPU, `cuda:1` the second.
    pub fn index_in(name: &str) -> Option<usize> {
        match name.strip_prefix(NAME)? {
            "" => Some(0),
            rest => rest.strip_prefix(':')?.parse().ok(),
        }
    }
}

/// What GPUs this machine has: a line for each.
///
/// # Errors
/// Why there are none.
pub fn gpus() -> Result<Vec<String>, BackendError> {
    gpu::list().map_err(|error| unavailable(&error))
}

fn unavailable(error: &GpuError) -> BackendError {
    BackendError::Unavailable { backend: NAME, reason: error.to_string() }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn detail(&self) -> String {
        self.device.gpu().describe()
    }

    fn prepare(&self, name: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        match CudaProduct::new(self.device.gpu(), layer) {
            Ok(product) => Ok(Box::new(product)),
            Err(error) => Err(error.before(&format!("layer `{name}`: "))),
        }
    }

    fn device(&self) -> Option<&dyn Device> {
        Some(&self.device)
    }

    fn prove(&self) -> Result<(), BackendError> {
        prove::prove(self)
    }
}
