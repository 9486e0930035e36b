//! SmolLM2: the file that `ostrakon pack smollm2` fetched, and the package that it made of it. `make test` puts
//! both into `build`; nothing here downloads or packs.

use super::{Config, Gguf, Text, Weights, exact::Exact, float};
use crate::import::matrix::Matrix;
use crate::{Package, TrustPolicy};
use ostrakon_exact::Layer;
use ostrakon_nn::LayerSource;
use std::path::{Path, PathBuf};

fn built(place: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build").join(place);
    assert!(place.exists(), "{} is not there: run `make test-data` first", place.display());
    place
}

fn open() -> (Gguf, Config) {
    let gguf = Gguf::open(&built("home/cache/sources/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let config = Config::of_gguf(&gguf).unwrap();
    (gguf, config)
}

/// Ids by an independent encoder in Python, written from the definition.
#[test]
fn texts_become_the_golden_ids() {
    let (gguf, config) = open();
    let text = Text::of_gguf(&gguf, &config).unwrap();
    let golden: Vec<(String, Vec<u32>)> = serde_json::from_str(include_str!("smollm2-ids.json")).unwrap();
    for (words, ids) in golden {
        let got = text.tokenizer.encode(words.as_str(), false).unwrap();
        assert_eq!(got.get_ids(), ids, "{words}");
        assert_eq!(text.tokenizer.decode(got.get_ids(), false).unwrap(), words);
    }
    assert_eq!((text.generation.stop, text.generation.begin), (vec![0, 2], vec![]));
    assert!(text.generation.template.unwrap().contains("<|im_start|>assistant"));
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap()
}

/// The logarithm of the probability of a token.
fn log_probability(row: &[f32], token: usize) -> f64 {
    let max = f64::from(row[best(row)]);
    let total: f64 = row.iter().map(|&v| (f64::from(v) - max).exp()).sum();
    f64::from(row[token]) - max - total.ln()
}

#[test]
fn the_package_writes_what_the_published_model_writes() {
    let (gguf, config) = open();
    let text = Text::of_gguf(&gguf, &config).unwrap();
    let policy = TrustPolicy { allow_unknown: true, ..TrustPolicy::default() };
    let package = Package::open(&built("packages/smollm2-1"), &policy).unwrap();
    assert_eq!(package.tokenizer().unwrap(), text.file);
    let layer = |name: &str| {
        let raw = package.raw(name).unwrap();
        Layer::from_parts(&raw.kind, &raw.activation, raw.parts).unwrap()
    };
    let exact = Exact { layer: Box::new(layer), blocks: config.blocks, heads: config.heads, kv_heads: config.kv_heads };
    // Plain prose, an answer in a chat, code.
    let texts: Vec<Vec<i32>> = include_str!("smollm2-texts.txt")
        .split("\n%\n")
        .map(|t| text.tokenizer.encode(t, false).unwrap().get_ids().iter().map(|&id| id as i32).collect())
        .collect();
    let lengths: Vec<i32> = texts.iter().map(|t| i32::try_from(t.len()).unwrap()).collect();
    let ids = texts.concat();
    let weights = Weights::Gguf(gguf);
    let want = float::logits(&weights, &config, &ids, &lengths);
    let got = exact.logits(&ids, &lengths);

    let (mut positions, mut agree, mut widest, mut ratios) = (0, 0, 0.0f32, Vec::new());
    let mut start = 0;
    for text in &texts {
        let mut logs = [0.0f64; 2];
        for (i, &next) in text.iter().skip(1).enumerate() {
            let rows: [&[f32]; 2] = [want.row(start + i), got.row(start + i)];
            for (log, row) in logs.iter_mut().zip(rows) {
                *log += log_probability(row, usize::try_from(next).unwrap());
            }
            let [wanted, chosen] = rows.map(best);
            positions += 1;
            if wanted == chosen {
                agree += 1;
            } else {
                widest = widest.max(rows[0][wanted] - rows[0][chosen]);
            }
        }
        let perplexity = logs.map(|log| (-log / (text.len() - 1) as f64).exp());
        println!("{} tokens: perplexity {:.3} against {:.3}", text.len(), perplexity[1], perplexity[0]);
        ratios.push(perplexity[1] / perplexity[0]);
        start += text.len();
    }
    let share = f64::from(agree) / f64::from(positions);
    println!(
        "{positions} positions: {:.1} % agree, where not the f32 model prefers its choice by at most {widest:.2}; perplexities {ratios:.4?} times its own",
        100.0 * share,
    );
    assert!(positions > 300 && ratios.len() >= 3);
    assert!(share >= 0.95 && widest <= 0.5 && ratios.iter().all(|&ratio| ratio <= 1.03));
    golden(&want, &texts, 0.02);
    golden(&got, &texts, 0.5);
}

/// The first text begins with `The capital of France is`: by how much the published model, in f32, prefers
/// ` Paris` to the next best. Scores as a whole may be higher or lower: that changes no probability.
fn golden(logits: &Matrix<f32>, texts: &[Vec<i32>], most: f32) {
    assert_eq!(texts[0][..5], [504, 3575, 282, 4649, 314]);
    let row = logits.row(4);
    assert_eq!(best(row), 7042);
    for (token, want) in [(260, 14.889), (4528, 13.245), (2250, 13.009), (1315, 12.952)] {
        let (got, want) = (row[7042] - row[token], 17.371 - want);
        assert!((got - want).abs() < most, "{token}: {got} {want}");
    }
}
