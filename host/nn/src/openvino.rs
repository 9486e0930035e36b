//! OpenVINO: found at run time, loaded once, shared by whoever runs graphs with it.
//!
//! # Why
//!
//! OpenVINO's CPU device serves exact products at hardware speed and runs whole float models. It is a
//! large library in C++ that a machine may or may not have, so nothing is linked: [`library`] finds it
//! when a backend asks for it, and its absence is an error that says how to get it.
//!
//! # How
//!
//! 1. [`OpenVino::load`] finds the libraries, starts one core for the process and keeps it.
//! 2. [`OpenVino::compile`] reads a graph from memory and compiles it for the CPU device. The core's
//!    settings are global, so they are all set, under a lock, before every compilation.
//! 3. What is compiled runs without the lock.

mod library;

pub use library::release;

use openvino::{CompiledModel, Core, DeviceType, ElementType, PropertyKey, RwPropertyKey, Shape, Tensor};
use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How to get OpenVINO, for messages.
pub const HOW_TO_GET: &str = "`make setup` fetches it; or install it with `python3 -m pip install openvino` and set \
                              OPENVINO_INSTALL_DIR to the directory `openvino` of that package";

/// The OpenVINO of this process.
pub struct OpenVino {
    core: Mutex<Core>,
    directory: PathBuf,
    version: String,
    device: String,
    capabilities: String,
}

/// How a graph is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Threads of one inference.
    pub threads: usize,
    /// What floats are computed in.
    pub floats: Floats,
}

/// What floats are computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floats {
    /// 32 bits.
    F32,
    /// bfloat16 factors and f32 sums, where the processor has instructions for it.
    Bf16,
}

/// Why OpenVINO gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenVinoError {
    /// No library.
    #[error("OpenVINO was not found: there is no openvino_c library in {searched}. {HOW_TO_GET}")]
    NotFound {
        /// Where it was looked for.
        searched: String,
    },
    /// A library that does not work.
    #[error("OpenVINO in {} does not start: {reason}. {HOW_TO_GET}", directory.display())]
    Broken {
        /// Where it lies.
        directory: PathBuf,
        /// What happened.
        reason: String,
    },
    /// `OPENVINO_INSTALL_DIR` depends on the working directory.
    #[error("OPENVINO_INSTALL_DIR is {0:?}, which is not an absolute path; give it in full")]
    Relative(PathBuf),
    /// A call failed.
    #[error("OpenVINO could not {what}: {reason}")]
    Call {
        /// Do what.
        what: &'static str,
        /// Its own words.
        reason: String,
    },
}

/// What the first attempt came to. A library cannot be unloaded, so one that is broken stays so.
static LOADED: Mutex<Option<Result<&'static OpenVino, OpenVinoError>>> = Mutex::new(None);

impl OpenVino {
    /// The OpenVINO of this process, found and started by the first call. `installed` is the directory in
    /// which `make setup` puts releases, if the caller knows one.
    ///
    /// # Errors
    /// Why there is none.
    pub fn load(installed: Option<&Path>) -> Result<&'static Self, OpenVinoError> {
        let mut loaded = lock(&LOADED);
        if let Some(known) = loaded.as_ref() {
            return known.clone();
        }
        let library = locate(installed)?;
        let started = Self::start(&library).map(|started| &*Box::leak(Box::new(started)));
        loaded.insert(started).clone()
    }

    fn start(library: &Path) -> Result<Self, OpenVinoError> {
        let directory = library.parent().unwrap_or(library).to_path_buf();
        let broken = |reason: String| OpenVinoError::Broken { directory: directory.clone(), reason };
        // The bindings panic where a library is not what its name says.
        let started = catch_unwind(AssertUnwindSafe(|| {
            openvino_sys::library::load_from(library)?;
            let core = Core::new().map_err(|error| error.to_string())?;
            let property = |key| core.get_property(&DeviceType::CPU, &key).map_err(|error| error.to_string());
            let device = property(PropertyKey::DeviceFullName)?;
            let capabilities = property(PropertyKey::DeviceCapabilities)?;
            Ok((core, openvino::version().build_number, device, capabilities))
        }));
        let (core, version, device, capabilities) = started
            .unwrap_or_else(|_| Err("it lacks functions that OpenVINO 2025.1 and later have".to_owned()))
            .map_err(broken)?;
        // The CPU's name comes padded with blanks, or with a zero byte.
        let device = device.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
        Ok(Self { core: Mutex::new(core), directory, version, device, capabilities })
    }

    /// Its version and build, such as `2026.4.1-22982-...`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where its libraries lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The processor, as the CPU device names it.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether the CPU device can compute floats so.
    pub fn has(&self, floats: Floats) -> bool {
        let name = match floats {
            Floats::F32 => "FP32",
            Floats::Bf16 => "BF16",
        };
        self.capabilities.split_whitespace().any(|capability| capability == name)
    }

    /// Read a graph (OpenVINO IR with its weights, or ONNX without) and compile it for the CPU device.
    ///
    /// # Errors
    /// OpenVINO's own words.
    pub fn compile(
        &self,
        graph: &[u8],
        weights: Option<&Tensor>,
        settings: Settings,
    ) -> Result<CompiledModel, OpenVinoError> {
        let mut core = lock(&self.core);
        for (key, value) in settings.properties() {
            core.set_property(&DeviceType::CPU, &key, &value).map_err(failed("take a setting"))?;
        }
        let model = core.read_model_from_buffer(graph, weights).map_err(failed("read a graph"))?;
        core.compile_model(&model, DeviceType::CPU).map_err(failed("compile a graph"))
    }
}

impl Settings {
    /// Every setting that matters: what another compilation has set must not stay.
    fn properties(self) -> [(RwPropertyKey, Cow<'static, str>); 8] {
        let other = |name| RwPropertyKey::Other(Cow::Borrowed(name));
        let floats = match self.floats {
            Floats::F32 => "f32",
            Floats::Bf16 => "bf16",
        };
        [
            (RwPropertyKey::HintPerformanceMode, "LATENCY".into()),
            (RwPropertyKey::NumStreams, "1".into()),
            (RwPropertyKey::InferenceNumThreads, self.threads.max(1).to_string().into()),
            // Graphs share the threads' cores; pinned, they would all sit on the same ones.
            (RwPropertyKey::HintEnableCpuPinning, "NO".into()),
            (RwPropertyKey::HintInferencePrecision, floats.into()),
            // Floats must not be rounded to 8 bits on the way.
            (other("DYNAMIC_QUANTIZATION_GROUP_SIZE"), "0".into()),
            // No compiled code on disk: whoever could write there could change what is computed.
            (RwPropertyKey::CacheDir, "".into()),
            (RwPropertyKey::EnableProfiling, "NO".into()),
        ]
    }
}

/// The C library that [`OpenVino::load`] would load.
///
/// # Errors
/// There is none.
pub fn locate(installed: Option<&Path>) -> Result<PathBuf, OpenVinoError> {
    library::find(&library::places(installed)?)
}

/// A tensor with these bytes.
///
/// # Errors
/// No memory, or bytes that are not those of this shape.
pub fn tensor(of: ElementType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, OpenVinoError> {
    let sizes: Option<Vec<i64>> = shape.iter().map(|&size| i64::try_from(size).ok()).collect();
    let shape = Shape::new(&sizes.ok_or_else(|| too_large(shape))?).map_err(failed("make a shape"))?;
    let mut tensor = Tensor::new(of, &shape).map_err(failed("make a tensor"))?;
    let data = tensor.get_raw_data_mut().map_err(failed("give a tensor's bytes"))?;
    if data.len() != bytes.len() {
        let reason = format!("it has {} bytes and {} were given", data.len(), bytes.len());
        return Err(OpenVinoError::Call { what: "fill a tensor", reason });
    }
    data.copy_from_slice(bytes);
    Ok(tensor)
}

fn too_large(shape: &[usize]) -> OpenVinoError {
    OpenVinoError::Call { what: "make a shape", reason: format!("{shape:?} is too large") }
}

/// Says which call failed.
pub(crate) fn failed(what: &'static str) -> impl Fn(openvino::InferenceError) -> OpenVinoError {
    move |error| OpenVinoError::Call { what, reason: error.to_string() }
}

/// A panic elsewhere leaves nothing half done behind these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for OpenVino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenVino({}, {})", self.version, self.directory.display())
    }
}
