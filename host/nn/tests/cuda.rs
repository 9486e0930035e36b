//! The CUDA backend: proved where there is a GPU, refused in words where there is none.

#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

use ostrakon_nn::cuda::{CudaBackend, NAME, gpus};
use ostrakon_nn::{BackendError, ProvenBackend};
use std::io::{Write, stderr};

/// A GPU where there is one; with `OSTRAKON_REQUIRE_CUDA=1` there must be one.
fn gpu() -> Option<ProvenBackend> {
    match CudaBackend::start(0) {
        Ok(backend) => Some(backend),
        Err(error) if std::env::var_os("OSTRAKON_REQUIRE_CUDA").is_some() => panic!("{error}"),
        Err(error) => {
            assert!(matches!(error, BackendError::Unavailable { backend: NAME, .. }), "{error}");
            // Not captured, so that a run says what it left out.
            let _ = writeln!(stderr(), "NOT TESTED: {error}");
            None
        }
    }
}

#[test]
fn a_gpu_is_exact_or_there_is_none() {
    let Some(backend) = gpu() else { return };
    assert_eq!(backend.name(), NAME);
    assert!(!gpus().unwrap().is_empty());
    let error = CudaBackend::start(99).unwrap_err().to_string();
    assert!(error.contains("no GPU 99"), "{error}");
}

#[test]
fn names_say_which_gpu() {
    assert_eq!(["cuda", "cuda:0", "cuda:3"].map(CudaBackend::index_in), [Some(0), Some(0), Some(3)]);
    assert_eq!(["cuda:", "cuda:x", "cuda3", "cpu"].map(CudaBackend::index_in), [None; 4]);
}
