//! One digest, however the model is run: threads, batches, shards, SIMD level, compiler, and the
//! reference arithmetic in plain WebAssembly.

use ostrakon_exact::simd::Level;
use ostrakon_nn::Tensor;
use ostrakon_node::{Answer, Arithmetic, Compiler, Model, Native, RunOptions};
use ostrakon_tests::native::NativeBert;
use ostrakon_tests::packed::{load, minilm, openvino};
use std::path::Path;

/// Committed on purpose: another digest is another arithmetic, and every node would have to change.
pub(super) const GOLDEN_FEW: &str = include_str!("../../data/golden-few.txt");
pub(super) const GOLDEN_ONE: &str = include_str!("../../data/golden-one.txt");

pub(super) const FEW: [&str; 9] = [
    "A man is eating food.",
    "x",
    "",
    "Ein Mann isst etwas.",
    "一个男人在吃东西。",
    "fn main() { println!(\"{}\", 1 + 1); }",
    "The quick brown fox jumps over the lazy dog, twice, and then once more because it can.",
    "🦊🦊",
    "3.14159 2.71828",
];
pub(super) const ONE: [&str; 1] = ["Ostrakon"];

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn run(model: &mut Model, list: &[&str], batch: Option<usize>) -> Answer {
    model.run(&texts(list), batch, &|_| {}).unwrap()
}

#[test]
fn native_arithmetic_gives_one_digest() {
    for shards in [1, 2, 3, 6] {
        let mut fuels = Vec::new();
        for simd in Level::available() {
            for compiler in [Compiler::Cranelift, Compiler::Pulley] {
                for threads in [1, 2] {
                    let options =
                        RunOptions { compiler, threads: Some(threads), simd: Some(simd), ..RunOptions::default() };
                    let mut model = load(&minilm(shards), &options);
                    for batch in [Some(1), Some(4), Some(8), None] {
                        let answer = run(&mut model, &FEW, batch);
                        assert_eq!(
                            answer.digest.to_string(),
                            GOLDEN_FEW.trim(),
                            "{shards} shards, {simd}, {compiler:?}, {threads} threads, batches of {batch:?}"
                        );
                        if batch.is_none() {
                            fuels.push(answer.fuel);
                        }
                    }
                }
            }
        }
        // Fuel is a fact of request, component and shards; of nothing that this machine chose.
        assert!(fuels.iter().all(|&fuel| fuel == fuels[0]), "{shards} shards: {fuels:?}");
    }
}

#[test]
fn a_text_does_not_see_its_neighbours() {
    let mut model = load(&minilm(1), &RunOptions::default());
    let together = run(&mut model, &FEW, None);
    for (text, output) in FEW.iter().zip(&together.outputs) {
        assert_eq!(run(&mut model, &[text], None).outputs[0].digest, output.digest, "{text:?}");
    }
    let mut backwards = FEW;
    backwards.reverse();
    let reversed = run(&mut model, &backwards, Some(2));
    assert!(reversed.outputs.iter().rev().map(|o| o.digest).eq(together.outputs.iter().map(|o| o.digest)));
}

#[test]
fn openvino_gives_the_same_digest() {
    if !openvino() {
        return;
    }
    for threads in [1, 2] {
        let arithmetic = Arithmetic::Native(Native::OpenVino);
        let options = RunOptions { arithmetic, threads: Some(threads), ..RunOptions::default() };
        let mut model = load(&minilm(2), &options);
        assert_eq!(model.backend(), "openvino");
        for batch in [Some(1), Some(4), None] {
            let digest = run(&mut model, &FEW, batch).digest.to_string();
            assert_eq!(digest, GOLDEN_FEW.trim(), "{threads} threads, batches of {batch:?}");
        }
        assert_eq!(run(&mut model, &ONE, None).digest.to_string(), GOLDEN_ONE.trim());
    }
}

#[test]
fn reference_arithmetic_gives_the_same_digest() {
    let native = run(&mut load(&minilm(1), &RunOptions::default()), &ONE, None);
    assert_eq!(native.digest.to_string(), GOLDEN_ONE.trim());
    for (shards, compiler) in [(1, Compiler::Cranelift), (3, Compiler::Cranelift), (1, Compiler::Pulley)] {
        let options = RunOptions {
            arithmetic: Arithmetic::Reference,
            compiler,
            plugins: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/plugins")),
            ..RunOptions::default()
        };
        let answer = run(&mut load(&minilm(shards), &options), &ONE, None);
        assert_eq!(answer.digest.to_string(), GOLDEN_ONE.trim(), "reference, {shards} shards, {compiler:?}");
    }
}

#[test]
fn the_component_computes_what_direct_calls_compute() {
    let mut model = load(&minilm(1), &RunOptions::default());
    let native = NativeBert::open(model.host(), model.manifest()).unwrap();
    let lengths = [1, 7, 256, 3, 64];
    let ids: Vec<i32> = (0..lengths.iter().sum::<i32>()).map(|i| 1000 + i * 37 % 20_000).collect();
    let tensor = |values: Vec<i32>| Tensor::from_i32(vec![values.len() as u32], values).unwrap();
    let (ids, lengths) = (tensor(ids), tensor(lengths.to_vec()));
    let component = model.forward(ids.clone(), &lengths).unwrap();
    let direct = native.forward(ids, &lengths).unwrap();
    assert_eq!(component.dims(), [5, 384]);
    assert_eq!(component.to_bytes(), direct.to_bytes());
}
