//! How a package is run here. None of it changes a byte of an answer.

use crate::NodeError;
use ostrakon_engine::{Compiler, Limits};
use ostrakon_exact::simd::Level;
use std::path::PathBuf;
use std::time::Duration;

/// What does the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Native code, with the integer products by this backend.
    Native(Native),
    /// The reference in plain WebAssembly, composed with the package's blocks.
    Reference,
}

impl Default for Arithmetic {
    fn default() -> Self {
        Self::Native(Native::default())
    }
}

/// A native backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Native {
    /// The fastest one that is exact on this machine, measured once.
    Auto,
    /// This machine's CPU.
    #[default]
    Cpu,
    /// OpenVINO, or an error.
    OpenVino,
    /// The NVIDIA GPU of this number, counted from 0, or an error.
    Cuda(u16),
}

impl Native {
    /// The names of [`Native::from_name`], for an error.
    pub const NAMES: &str = "auto, cpu, openvino, cuda, or cuda:N for the GPU of number N, counted from 0";

    /// What an operator calls it.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "openvino" => Some(Self::OpenVino),
            "cuda" => Some(Self::Cuda(0)),
            other => {
                let index = other.strip_prefix("cuda:")?.parse().ok()?;
                // One GPU has one name: not `cuda:01`.
                (other == format!("cuda:{index}")).then_some(Self::Cuda(index))
            }
        }
    }
}

/// The choices of a run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// What does the arithmetic.
    pub arithmetic: Arithmetic,
    /// What runs WebAssembly.
    pub compiler: Compiler,
    /// Threads of the arithmetic; all cores without it.
    pub threads: Option<usize>,
    /// SIMD level; the best one without it.
    pub simd: Option<Level>,
    /// Where built plugins are, for [`Arithmetic::Reference`].
    pub plugins: Option<PathBuf>,
    /// What one instance may use.
    pub limits: Limits,
}

impl Default for RunOptions {
    fn default() -> Self {
        // A person waits here and can stop a run by hand; the interpreter may need long.
        let limits = Limits { wall_time: Duration::from_secs(24 * 3600), ..Limits::default() };
        Self {
            arithmetic: Arithmetic::default(),
            compiler: Compiler::Cranelift,
            threads: None,
            simd: None,
            plugins: None,
            limits,
        }
    }
}

impl RunOptions {
    /// How many threads that is on this machine.
    pub fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

/// The name of the SIMD level that these options give on this machine.
pub fn simd_name(options: &RunOptions) -> &'static str {
    options.simd.unwrap_or_else(Level::detect).name()
}

/// The SIMD level called `name`, if this machine has it.
///
/// # Errors
/// When there is no such level or not on this machine.
pub fn simd_level(name: &str) -> Result<Level, NodeError> {
    let available = Level::available();
    Level::from_name(name).filter(|level| available.contains(level)).ok_or_else(|| {
        let names: Vec<_> = available.iter().map(|level| level.name()).collect();
        NodeError::Setting(format!("the SIMD level `{name}` is not available here: {}", names.join(", ")))
    })
}
