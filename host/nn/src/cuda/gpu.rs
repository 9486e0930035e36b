//! One GPU: its driver, its memory, its kernels.

use crate::NnError;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig,
};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::sync::Arc;

/// The kernels, compiled for every GPU from compute capability 8.0 on.
pub(super) const PTX: &str = include_str!("kernels/kernels.ptx");

/// The oldest compute capability that has the instructions.
const OLDEST: (i32, i32) = (8, 0);

/// Every kernel.
const KERNELS: [&str; 19] = [
    "add",
    "gelu",
    "swiglu",
    "embedding",
    "rotary",
    "gather",
    "layer_norm",
    "rms_norm",
    "l2_normalise",
    "mean_pool",
    "code_u8",
    "code_u16",
    "linear_few_u8",
    "linear_few_u16",
    "linear_many_u8",
    "linear_many_u16",
    "code_heads",
    "attend_1",
    "attend_4",
];

/// Why a GPU cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum GpuError {
    #[error("this machine has no CUDA driver (libcuda): install NVIDIA's driver where there is a GPU")]
    NoDriver,
    #[error("the CUDA driver finds no GPU")]
    NoGpu,
    #[error("there is no GPU {index}: this machine has {count}, counted from 0")]
    NoSuchGpu { index: usize, count: usize },
    #[error("GPU {index}, {name}, has compute capability {major}.{minor}: 8.0 (Ampere) or newer is needed")]
    TooOld { index: usize, name: String, major: i32, minor: i32 },
    #[error("{0}")]
    Driver(String),
}

/// How many GPUs there are.
fn count() -> Result<usize, GpuError> {
    // SAFETY: asks the dynamic loader for libraries by the driver's own names.
    #[allow(unsafe_code)]
    let there = unsafe { sys::is_culib_present() };
    if !there {
        return Err(GpuError::NoDriver);
    }
    match CudaContext::device_count() {
        Ok(0) => Err(GpuError::NoGpu),
        Ok(count) => usize::try_from(count).map_err(|_| GpuError::NoGpu),
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Err(GpuError::NoGpu),
        Err(error) => Err(GpuError::Driver(format!("the CUDA driver does not start: {}", words(error)))),
    }
}

/// A line for each GPU.
pub(super) fn list() -> Result<Vec<String>, GpuError> {
    (0..count()?).map(|index| Ok(describe(index, &*context(index)?))).collect()
}

fn context(index: usize) -> Result<Arc<CudaContext>, GpuError> {
    CudaContext::new(index).map_err(|error| GpuError::Driver(format!("GPU {index} cannot be opened: {}", words(error))))
}

fn describe(index: usize, context: &CudaContext) -> String {
    let name = context.name().unwrap_or_else(|_| "unnamed".to_owned());
    let memory = context.total_mem().map_or(0, |bytes| bytes >> 20);
    let (major, minor) = context.compute_capability().unwrap_or_default();
    format!("GPU {index}: {name}, {memory} MiB, compute capability {major}.{minor}")
}

/// What the driver says of an error.
fn words(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("{:?}", error.0),
    }
}

/// A GPU with the kernels loaded.
pub(super) struct Gpu {
    index: usize,
    context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    kernels: HashMap<&'static str, CudaFunction>,
}

impl Gpu {
    pub(super) fn open(index: usize) -> Result<Self, GpuError> {
        let count = count()?;
        if index >= count {
            return Err(GpuError::NoSuchGpu { index, count });
        }
        let context = context(index)?;
        let broken = |what: &str| {
            let what = what.to_owned();
            move |error| GpuError::Driver(format!("GPU {index}: {what}: {}", words(error)))
        };
        let (major, minor) = context.compute_capability().map_err(broken("its capability is not known"))?;
        if (major, minor) < OLDEST {
            let name = context.name().unwrap_or_default();
            return Err(GpuError::TooOld { index, name, major, minor });
        }
        // SAFETY: there is one stream, so nothing has to be ordered by events.
        #[allow(unsafe_code)]
        unsafe {
            context.disable_event_tracking();
        }
        let stream = context.new_stream().map_err(broken("it gives no stream"))?;
        let module = context.load_module(Ptx::from_src(PTX)).map_err(broken("its driver refuses the kernels"))?;
        let mut kernels = HashMap::with_capacity(KERNELS.len());
        for name in KERNELS {
            let kernel = module.load_function(name).map_err(broken(&format!("its driver has no kernel `{name}`")))?;
            kernels.insert(name, kernel);
        }
        Ok(Self { index, context, stream, kernels })
    }

    pub(super) fn describe(&self) -> String {
        describe(self.index, &self.context)
    }

    /// The kernel of this name; there is no other one than those of [`KERNELS`].
    pub(super) fn kernel(&self, name: &'static str) -> Result<&CudaFunction, NnError> {
        self.kernels.get(name).ok_or_else(|| NnError::Runtime(format!("there is no kernel `{name}`")))
    }

    /// Memory for so many elements, with whatever is in it.
    pub(super) fn room<T: DeviceRepr>(&self, elements: usize) -> Result<CudaSlice<T>, NnError> {
        if elements.checked_mul(size_of::<T>()).is_none() {
            return Err(NnError::Runtime(format!("{elements} elements are too many for a GPU: use smaller batches")));
        }
        // SAFETY: the size in bytes does not wrap, and whoever takes it has a kernel or a copy write every element before
        // one is read.
        #[allow(unsafe_code)]
        let room = unsafe { self.stream.alloc(elements.max(1)) };
        room.map_err(|error| match error {
            DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => NnError::Runtime(format!(
                "GPU {} has no memory for {} more bytes",
                self.index,
                elements.saturating_mul(size_of::<T>())
            )),
            other => self.failed("memory", other),
        })
    }

    /// A copy of host memory.
    pub(super) fn bring<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>, NnError> {
        let mut there = self.room(values.len())?;
        if !values.is_empty() {
            self.stream.memcpy_htod(values, &mut there).map_err(|error| self.failed("a copy to it", error))?;
        }
        Ok(there)
    }

    /// Copy to host memory, when all that was queued before is done.
    pub(super) fn fetch<T: DeviceRepr>(&self, values: &impl DevicePtr<T>, to: &mut [T]) -> Result<(), NnError> {
        let copied = self.stream.memcpy_dtoh(values, to).and_then(|()| self.stream.synchronize());
        copied.map_err(|error| self.failed("a computation", error))
    }

    /// Where it is: what a kernel is given in place of the memory, which must live until the kernel is done.
    pub(super) fn address<T>(&self, memory: &CudaSlice<T>) -> u64 {
        memory.device_ptr(&self.stream).0
    }

    /// What to say of a failure.
    pub(super) fn failed(&self, what: &str, error: DriverError) -> NnError {
        NnError::Runtime(format!("GPU {}: {what} failed: {}", self.index, words(error)))
    }
}

/// So many blocks of threads, in one row.
pub(super) fn blocks(blocks: usize, threads: u32) -> Result<LaunchConfig, NnError> {
    grid(blocks, 1, threads)
}

/// So many blocks of threads, in rows.
pub(super) fn grid(x: usize, y: usize, threads: u32) -> Result<LaunchConfig, NnError> {
    match (i32::try_from(x), u16::try_from(y)) {
        (Ok(x), Ok(y)) => Ok(LaunchConfig {
            grid_dim: (x.unsigned_abs(), y.into(), 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        }),
        _ => Err(NnError::Runtime(format!("{x} by {y} blocks are too many for a GPU: use smaller batches"))),
    }
}

/// A size as kernels take it, with room for a kernel's counter to step past it.
pub(super) fn int(size: usize) -> Result<i32, NnError> {
    match i32::try_from(size) {
        Ok(size) if size <= i32::MAX / 2 => Ok(size),
        _ => Err(NnError::Runtime(format!("{size} is too large for a GPU: use smaller batches"))),
    }
}

/// In place of the address of something that a kernel can do without.
pub(super) const NULL: u64 = 0;

/// Queue a kernel. Arguments are references, in the order in which the kernel declares them.
macro_rules! launch {
    ($gpu:expr, $kernel:expr, $config:expr, $($argument:expr),+ $(,)?) => {{
        use cudarc::driver::PushKernelArg;
        let (gpu, kernel): (&$crate::cuda::gpu::Gpu, &'static str) = ($gpu, $kernel);
        let config = $config;
        let kernel_of = gpu.kernel(kernel)?;
        // SAFETY: the arguments have the types, and the slices the sizes, that the kernel's declaration says; each call
        // stands beside what makes them so.
        #[allow(unsafe_code)]
        let queued = unsafe { gpu.stream.launch_builder(kernel_of)$(.arg($argument))+.launch(config) };
        queued.map_err(|error| gpu.failed(kernel, error))?;
    }};
}
pub(super) use launch;
