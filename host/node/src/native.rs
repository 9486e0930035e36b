//! Which backend computes the products: one that was named, or the fastest that is exact here.
//!
//! # How `auto` chooses
//!
//! 1. Without OpenVINO's libraries there is nothing to choose: the CPU.
//! 2. What was chosen before is remembered in the cache directory, with what it depends on: the processor, the
//!    instructions and threads in use, and which OpenVINO lies where. While that is the same the choice is too, and
//!    what is not chosen is not even loaded.
//! 3. Otherwise every backend that proves itself exact is timed on two layers of a usual size, and the fastest is
//!    remembered. What is remembered is a hint and nothing more: a damaged file is measured anew, and whatever it
//!    names proves itself like any other.

use crate::options::{Arithmetic, Native};
use ostrakon_exact::simd::Executor;
use ostrakon_nn::backend::{NAMES, cpu};
use ostrakon_nn::{BackendError, ProvenBackend};
use ostrakon_package::Home;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// NVIDIA's GPUs. `auto` leaves them alone: they are somebody's to give, and not this program's to take.
const CUDA: &str = "cuda";

/// Most bytes of a memory that are read.
const MOST_BYTES: u64 = 16 * 1024;

/// Start the backend that this arithmetic asks for.
pub(crate) fn start(
    arithmetic: Arithmetic,
    executor: &Arc<Executor>,
    home: &Home,
) -> Result<ProvenBackend, BackendError> {
    match arithmetic {
        Arithmetic::Native(Native::Auto) => auto(executor, home),
        Arithmetic::Native(Native::OpenVino) => named("openvino", executor, home),
        Arithmetic::Native(Native::Cuda(index)) => named(&format!("{CUDA}:{index}"), executor, home),
        // Beneath components that compute by themselves it does nothing.
        Arithmetic::Native(Native::Cpu) | Arithmetic::Reference => named(cpu::NAME, executor, home),
    }
}

pub(crate) fn named(name: &str, executor: &Arc<Executor>, home: &Home) -> Result<ProvenBackend, BackendError> {
    ProvenBackend::start(name, executor, Some(&home.openvino()))
}

fn auto(executor: &Arc<Executor>, home: &Home) -> Result<ProvenBackend, BackendError> {
    let Some(openvino) = openvino_library(home) else { return named(cpu::NAME, executor, home) };
    let machine = Machine::of(executor, openvino);
    if let Some(choice) = recall(home).filter(|choice| choice.machine == machine)
        && let Ok(backend) = named(&choice.backend, executor, home)
    {
        return Ok(backend);
    }
    let (backend, choice) = measure(machine, executor, home)?;
    // Without a memory the next start measures again and works.
    let _ = remember(home, &choice);
    Ok(backend)
}

/// How often each backend is measured.
const ROUNDS: usize = 4;

fn measure(machine: Machine, executor: &Arc<Executor>, home: &Home) -> Result<(ProvenBackend, Choice), BackendError> {
    let mut choice = Choice { machine, backend: String::new(), times: Vec::new() };
    let mut measured: Vec<(ProvenBackend, f64)> = Vec::new();
    let mut refused = None;
    for name in NAMES.iter().filter(|&&name| name != CUDA) {
        match named(name, executor, home) {
            Ok(backend) => measured.push((backend, f64::INFINITY)),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    // In turn, so that a moment in which the machine is busy is not one backend's alone.
    for _ in 0..ROUNDS {
        measured.retain_mut(|(backend, least)| match backend.measure(executor) {
            Ok(time) => {
                *least = least.min(time.as_secs_f64() * 1e3);
                true
            }
            Err(_) => false,
        });
    }
    choice.times = measured.iter().map(|(backend, ms)| (backend.name().to_owned(), *ms)).collect();
    let fastest = measured.into_iter().min_by(|(_, a), (_, b)| a.total_cmp(b));
    match (fastest, refused) {
        (Some((backend, _)), _) => {
            backend.name().clone_into(&mut choice.backend);
            Ok((backend, choice))
        }
        (None, Some(error)) => Err(error),
        (None, None) => {
            let reason = "it does not answer".to_owned();
            Err(BackendError::Unavailable { backend: cpu::NAME, reason })
        }
    }
}

/// What `auto` would use now, for a report: its name and what the backends took in milliseconds.
pub(crate) fn remembered(executor: &Executor, home: &Home) -> Option<(String, Vec<(String, f64)>)> {
    let Some(openvino) = openvino_library(home) else { return Some((cpu::NAME.to_owned(), Vec::new())) };
    let machine = Machine::of(executor, openvino);
    recall(home).filter(|choice| choice.machine == machine).map(|choice| (choice.backend, choice.times))
}

/// The library that would be loaded; it is not loaded for that.
#[cfg(feature = "openvino")]
fn openvino_library(home: &Home) -> Option<PathBuf> {
    ostrakon_nn::openvino::locate(Some(&home.openvino())).ok()
}

#[cfg(not(feature = "openvino"))]
fn openvino_library(_: &Home) -> Option<PathBuf> {
    None
}

/// A choice, with what it depends on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Choice {
    machine: Machine,
    backend: String,
    /// Milliseconds.
    times: Vec<(String, f64)>,
}

/// What a measurement depends on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    processor: String,
    simd: String,
    threads: usize,
    host: String,
    /// The library, its size, and when it was written.
    openvino: (PathBuf, u64, u64),
}

impl Machine {
    fn of(executor: &Executor, openvino: PathBuf) -> Self {
        let metadata = fs::metadata(&openvino).ok();
        let size = metadata.as_ref().map_or(0, fs::Metadata::len);
        let written = metadata.and_then(|m| m.modified().ok()).and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        Self {
            processor: processor(),
            simd: executor.level().name().to_owned(),
            threads: executor.threads(),
            host: env!("CARGO_PKG_VERSION").to_owned(),
            openvino: (openvino, size, written.map_or(0, |t| t.as_secs())),
        }
    }
}

/// What the system calls its processor, if it says so.
fn processor() -> String {
    let mut text = Vec::new();
    // The first processor's lines come first, and a machine has many.
    let read = File::open("/proc/cpuinfo").and_then(|file| file.take(MOST_BYTES).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let named = |line: &&str| ["model name", "CPU implementer", "CPU part"].iter().any(|name| line.starts_with(name));
    let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).filter(named).collect();
    if read.is_err() || lines.is_empty() { std::env::consts::ARCH.to_owned() } else { lines.join(", ") }
}

fn file(home: &Home) -> PathBuf {
    home.cache.join("backend.json")
}

fn recall(home: &Home) -> Option<Choice> {
    let mut bytes = Vec::new();
    File::open(file(home)).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn remember(home: &Home, choice: &Choice) -> io::Result<()> {
    fs::create_dir_all(&home.cache)?;
    let mut new = tempfile::NamedTempFile::new_in(&home.cache)?;
    serde_json::to_writer(&mut new, choice)?;
    new.flush()?;
    new.persist(file(home)).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostrakon_exact::simd::Level;

    fn choice(executor: &Executor, backend: &str) -> Choice {
        let machine = Machine::of(executor, "/nowhere/libopenvino_c.so".into());
        Choice { machine, backend: backend.to_owned(), times: vec![("cpu".to_owned(), 1.5)] }
    }

    #[test]
    fn a_choice_is_remembered_until_the_machine_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::under(directory.path());
        let executor = |threads| Executor::new(Level::Scalar, threads).unwrap();
        assert_eq!(recall(&home), None);
        remember(&home, &choice(&executor(1), "cpu")).unwrap();
        assert_eq!(recall(&home), Some(choice(&executor(1), "cpu")));
        assert_ne!(recall(&home).unwrap().machine, choice(&executor(2), "cpu").machine);
        assert!(!processor().is_empty());
    }

    #[test]
    fn a_damaged_memory_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::under(directory.path());
        remember(&home, &choice(&Executor::new(Level::Scalar, 1).unwrap(), "cpu")).unwrap();
        let whole = fs::read(file(&home)).unwrap();
        for damaged in [&whole[..whole.len() - 1], b"", b"null", &[b'['; 100_000]] {
            fs::write(file(&home), damaged).unwrap();
            assert_eq!(recall(&home), None);
        }
    }
}
