//! How close the exact embeddings are to the float model, and to human judgement.

use ostrakon_node::{Arithmetic, Model, Native, RunOptions};
use ostrakon_tests::packed::{data, load, minilm, openvino};
use serde_json::Value;

const GOLDEN: &str = include_str!("../../data/golden-quality.txt");

fn embed(model: &mut Model, texts: &[String]) -> Vec<Vec<f32>> {
    model.run(texts, None, &|_| {}).unwrap().outputs.into_iter().map(|o| o.values).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Texts with the embeddings of the float model, computed in f32 by other software.
fn reference() -> Vec<(String, Vec<i32>, Vec<f32>)> {
    let json: Value = serde_json::from_str(include_str!("../../data/quality.json")).unwrap();
    let sentences = json["sentences"].as_array().unwrap();
    let one = |s: &Value| {
        let ids = s["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
        (s["text"].as_str().unwrap().to_owned(), ids, floats(s["embedding"].as_str().unwrap()))
    };
    sentences.iter().map(one).collect()
}

/// Base64 of little-endian f32.
fn floats(base64: &str) -> Vec<f32> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in base64.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0u32, |bits, &c| bits << 6 | u32::from(value(c))) << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn embeddings_are_close_to_the_float_model() {
    let set = reference();
    assert!(set.len() >= 40);
    let texts: Vec<String> = set.iter().map(|(text, _, _)| text.clone()).collect();
    let mut model = load(&minilm(1), &RunOptions::default());
    let answer = model.run(&texts, None, &|_| {}).unwrap();
    let mut cosines = Vec::new();
    for ((text, ids, float), output) in set.iter().zip(&answer.outputs) {
        assert_eq!(output.tokens, ids.len(), "{text:?}");
        assert_eq!(output.values.len(), float.len());
        cosines.push(cosine(float, &output.values));
    }
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let least = cosines.iter().copied().fold(1.0, f64::min);
    eprintln!("{} sentences: cosine with f32 mean {mean:.6}, least {least:.6}", cosines.len());
    assert!(mean >= 0.9995, "mean {mean}");
    assert!(least >= 0.998, "least {least}");
    assert_eq!(answer.digest.to_string(), GOLDEN.trim(), "the bytes of the quality set are committed");
}

#[test]
fn openvino_gives_the_bytes_of_the_quality_set() {
    if !openvino() {
        return;
    }
    let texts: Vec<String> = reference().into_iter().map(|(text, _, _)| text).collect();
    let options = RunOptions { arithmetic: Arithmetic::Native(Native::OpenVino), ..RunOptions::default() };
    let answer = load(&minilm(1), &options).run(&texts, None, &|_| {}).unwrap();
    assert_eq!(answer.digest.to_string(), GOLDEN.trim());
}

#[test]
fn similarities_follow_human_judgement_like_the_float_model() {
    let latin1 = |name: &str| -> String { data(name).into_iter().map(char::from).collect() };
    let documents: Vec<String> = latin1("lee.cor").lines().map(str::to_owned).collect();
    let human: Vec<f64> = latin1("similarities0-1.txt").split_whitespace().map(|x| x.parse().unwrap()).collect();
    assert_eq!((documents.len(), human.len()), (50, 2500));
    let vectors = embed(&mut load(&minilm(1), &RunOptions::default()), &documents);
    let pairs: Vec<(usize, usize)> = (0..50).flat_map(|i| (i + 1..50).map(move |j| (i, j))).collect();
    let ours: Vec<f64> = pairs.iter().map(|&(i, j)| cosine(&vectors[i], &vectors[j])).collect();
    let theirs: Vec<f64> = pairs.iter().map(|&(i, j)| human[i * 50 + j]).collect();
    let correlation = pearson(&ours, &theirs);
    eprintln!("Lee: Pearson {correlation:.4} over {} pairs (float model: 0.656)", pairs.len());
    assert!((correlation - 0.656).abs() <= 0.005, "{correlation}");
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| f(a - ma, b - mb)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}
