use super::*;
use ostrakon_exact::Activation;
use std::io::{Write, stderr};

/// OpenVINO, or nothing where it is missing and may be.
fn openvino() -> Option<&'static OpenVino> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/home/data/openvino");
    match OpenVino::load(Some(&installed)) {
        Ok(found) => Some(found),
        Err(error) if std::env::var_os("OSTRAKON_REQUIRE_OPENVINO").is_some() => panic!("{error}"),
        Err(error) => {
            // Straight to the terminal: the harness keeps what passing tests print.
            let _ = writeln!(stderr(), "NOT TESTED: {error}");
            None
        }
    }
}

fn prove(openvino: &'static OpenVino, precision: Precision, part: u32) -> Result<(), BackendError> {
    OpenVinoBackend { openvino, threads: 2, precision, part, refused: Vec::new() }.prove()
}

/// Whether kernels for bytes need not saturate on this processor.
fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512vnni") || std::is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

#[test]
fn parts_are_as_long_as_their_sums_allow() {
    let layer = |inputs, weight| super::super::cpu::test_layer(Activation::U8, inputs, 3, weight).unwrap();
    assert_eq!(EXACT_PART, 127 * 518 + 7);
    assert!(u64::from(EXACT_PART) * 255 < 1 << 24 && u64::from(EXACT_PART + 1) * 255 >= 1 << 24);
    assert_eq!(parts(&layer(1, |_, _| 127), EXACT_PART).len(), 1);
    assert_eq!(parts(&layer(1100, |_, _| -127), EXACT_PART), [0..512, 512..1024, 1024..1100]);
    // One output decides for all.
    assert_eq!(parts(&layer(600, |n, _| if n == 2 { 127 } else { 0 }), EXACT_PART), [0..512, 512..600]);
    assert_eq!(parts(&layer(1536, |_, _| 42), EXACT_PART).len(), 1);
    let uneven = layer(5000, super::super::cpu::scattered);
    let cut = parts(&uneven, EXACT_PART);
    assert!(cut.len() > 2 && cut.first().unwrap().start == 0 && cut.last().unwrap().end == 5000);
    assert!(cut.windows(2).all(|two| two[0].end == two[1].start));
    for row in uneven.weight.as_slice().chunks(5000) {
        for part in &cut {
            let sum: u64 = row[part.clone()].iter().map(|&w| u64::from(w.unsigned_abs())).sum();
            assert!(sum * 255 < 1 << 24, "{part:?}: {sum}");
        }
    }
}

#[test]
fn a_wrong_cut_of_k_is_caught() {
    let Some(openvino) = openvino() else { return };
    prove(openvino, Precision::F32, EXACT_PART).unwrap();
    // Parts of 1088, of 2048, and K as a whole.
    for part in [EXACT_PART + 127 * 576, 127 * 2048, u32::MAX / 2] {
        let error = prove(openvino, Precision::F32, part).unwrap_err();
        assert!(matches!(error, BackendError::NotExact { .. }), "{part}: {error}");
    }
}

#[test]
fn a_way_that_saturates_is_refused_and_the_report_says_so() {
    let Some(openvino) = openvino() else { return };
    let started = OpenVinoBackend::start(None, 2).unwrap();
    assert!(started.detail().contains(openvino.version()), "{}", started.detail());
    if has_vnni() {
        return;
    }
    let error = prove(openvino, Precision::Int8, EXACT_PART).unwrap_err();
    assert!(matches!(error, BackendError::NotExact { .. }), "{error}");
    assert!(error.to_string().contains("255 x 127"), "{error}");
    let detail = started.detail();
    assert!(!detail.starts_with("int8") && detail.contains("not int8: self-test"), "{detail}");
}

/// Two products of 255 and 64 fit 16 bits: any wrong sum would be the graph's fault.
#[test]
fn bytes_are_exact_on_any_processor_where_nothing_can_saturate() {
    let Some(openvino) = openvino() else { return };
    let backend =
        OpenVinoBackend { openvino, threads: 2, precision: Precision::Int8, part: EXACT_PART, refused: Vec::new() };
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (1, 384, 64),
        (7, 512, 33),
        (13, 515, 67),
        (33, 70, 1),
        (160, 192, 64),
        (64, 1536, 48),
        (2, 66_000, 3),
    ] {
        let sizes = Sizes { rows, inputs, outputs, largest: 64 };
        self_test_of(sizes, &super::super::product_of(&backend)).unwrap();
    }
}

#[test]
fn a_way_that_the_processor_has_not_got_is_refused() {
    let Some(openvino) = openvino() else { return };
    if !openvino.has(Floats::Bf16) {
        let error = OpenVinoBackend::with(openvino, 1, Precision::Bf16, Vec::new()).unwrap_err();
        assert!(error.to_string().contains("bf16"), "{error}");
    }
}
