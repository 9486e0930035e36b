//! The program that holds a backend against the reference, as it is carried to another machine.

use ostrakon_exact::simd::Level;
use ostrakon_tests::packed::openvino;
use std::process::Command;

fn run(args: &[&str]) -> (Option<i32>, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_conformance")).args(args).output().unwrap();
    (done.status.code(), [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap()).concat())
}

fn conforms(args: &[&str]) {
    let (status, text) = run(&[&["--quick", "--seed", "7"], args].concat());
    assert_eq!(status, Some(0), "{args:?}: {text}");
    assert!(text.contains("elements have the bits of the scalar reference"), "{text}");
    assert!(text.lines().filter(|line| line.ends_with("  equal")).count() >= 12, "{text}");
}

#[test]
fn the_cpu_conforms_at_every_level() {
    for level in Level::available() {
        conforms(&["--simd", level.name(), "--threads", "2"]);
    }
}

#[test]
fn openvino_conforms() {
    if openvino() {
        conforms(&["--backend", "openvino", "--threads", "2"]);
    }
}

#[test]
fn what_cannot_be_tried_is_said() {
    let (status, text) = run(&["--backend", "abacus"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("abacus"), "{text}");
}
