use super::*;
use ostrakon_exact::Activation;
use ostrakon_exact::simd::Executor;
use std::path::PathBuf;

/// OpenVINO, or nothing where it is missing and may be.
fn openvino() -> Option<&'static OpenVino> {
    let installed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../build/home/data/openvino"));
    match OpenVino::load(Some(&installed)) {
        Ok(found) => Some(found),
        Err(error) if std::env::var_os("OSTRAKON_REQUIRE_OPENVINO").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("NOT TESTED: {error}");
            None
        }
    }
}

fn backend(openvino: &'static OpenVino, precision: Precision, part: u32) -> OpenVinoBackend {
    OpenVinoBackend { openvino, threads: 2, precision, part, refused: Vec::new() }
}

#[test]
fn a_backend_starts_and_says_what_it_may_not_use() {
    let Some(openvino) = openvino() else { return };
    let started = std::time::Instant::now();
    let proven = OpenVinoBackend::start(None, 2).unwrap();
    eprintln!("{:?} {}", started.elapsed(), proven.detail());
    assert_eq!(proven.name(), NAME);
    assert!(proven.detail().contains(openvino.version()), "{}", proven.detail());
    let executor = Executor::new(ostrakon_exact::simd::Level::detect(), 2).unwrap();
    eprintln!("{:?}", proven.measure(&executor).unwrap());
    let cpu =
        ProvenBackend::start("cpu", &Arc::new(Executor::new(ostrakon_exact::simd::Level::detect(), 2).unwrap()), None)
            .unwrap();
    eprintln!("cpu {:?}", cpu.measure(&executor).unwrap());
    let _ = Activation::U8;
}

#[test]
fn a_part_that_is_too_long_is_caught() {
    let Some(openvino) = openvino() else { return };
    for times in [2, 4, 1000] {
        let error = backend(openvino, Precision::F32, EXACT_PART * times).prove().unwrap_err();
        assert!(matches!(error, BackendError::NotExact { .. }), "{times}: {error}");
        eprintln!("{error}");
    }
    backend(openvino, Precision::F32, EXACT_PART).prove().unwrap();
}
