//! A tiny random encoder: its files, an f64 forward that shares nothing with the importer, and the
//! exact forward of what was imported.

use crate::model::ImportedModel;
use ostrakon_exact::{Layer, LayerNorm, Lengths, Part, reference};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;

pub(super) const WIDTH: usize = 32;
const INNER: usize = 64;
const HEADS: usize = 4;
const WORDS: usize = 48;

#[derive(Clone)]
pub(super) struct Tiny {
    pub(super) tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    pub(super) config: serde_json::Value,
    pub(super) pooling: Option<serde_json::Value>,
    pub(super) tokenizer: serde_json::Value,
    pub(super) prefix: &'static str,
    pub(super) bf16: bool,
}

impl Tiny {
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut normal = move || {
            (0..6)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
                })
                .sum::<f32>()
                / 1.4
        };
        let mut tensors = Vec::new();
        let mut add = |name: &str, shape: &[usize], mean: f32, spread: f32| {
            let n = shape.iter().product();
            tensors.push((name.to_owned(), shape.to_vec(), (0..n).map(|_| mean + spread * normal()).collect()));
        };
        add("embeddings.word_embeddings.weight", &[WORDS, WIDTH], 0.0, 0.05);
        add("embeddings.position_embeddings.weight", &[24, WIDTH], 0.0, 0.02);
        add("embeddings.token_type_embeddings.weight", &[2, WIDTH], 0.0, 0.1);
        add("embeddings.LayerNorm.weight", &[WIDTH], 0.8, 0.2);
        add("embeddings.LayerNorm.bias", &[WIDTH], 0.0, 0.1);
        for i in 0..2 {
            let mut dense = |name: &str, n: usize, k: usize| {
                add(&format!("encoder.layer.{i}.{name}.weight"), &[n, k], 0.0, 1.0 / (k as f32).sqrt());
                add(&format!("encoder.layer.{i}.{name}.bias"), &[n], 0.0, 0.1);
            };
            dense("attention.self.query", WIDTH, WIDTH);
            dense("attention.self.key", WIDTH, WIDTH);
            dense("attention.self.value", WIDTH, WIDTH);
            dense("attention.output.dense", WIDTH, WIDTH);
            dense("intermediate.dense", INNER, WIDTH);
            dense("output.dense", WIDTH, INNER);
            for norm in ["attention.output.LayerNorm", "output.LayerNorm"] {
                add(&format!("encoder.layer.{i}.{norm}.weight"), &[WIDTH], 0.9, 0.2);
                add(&format!("encoder.layer.{i}.{norm}.bias"), &[WIDTH], 0.0, 0.1);
            }
        }
        Self {
            tensors,
            config: serde_json::json!({
                "model_type": "bert", "hidden_act": "gelu", "hidden_size": WIDTH, "num_attention_heads": HEADS,
                "num_hidden_layers": 2, "intermediate_size": INNER, "vocab_size": WORDS,
                "max_position_embeddings": 24, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
                "position_embedding_type": "absolute"
            }),
            pooling: Some(serde_json::json!({ "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false })),
            tokenizer: tokenizer(),
            prefix: "",
            bf16: false,
        }
    }

    pub(super) fn tensor(&mut self, name: &str) -> &mut (String, Vec<usize>, Vec<f32>) {
        self.tensors.iter_mut().find(|t| t.0 == name).unwrap()
    }

    pub(super) fn weights(&self) -> Vec<u8> {
        let (dtype, size) = if self.bf16 { (Dtype::BF16, 2) } else { (Dtype::F32, 4) };
        let bytes: Vec<(String, &[usize], Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, shape, data)| {
                let bytes = data.iter().flat_map(|v| v.to_le_bytes()[4 - size..].to_vec()).collect();
                (format!("{}{name}", self.prefix), shape.as_slice(), bytes)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, b)| (name, TensorView::new(dtype, shape.to_vec(), b).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    pub(super) fn write(&self) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("model.safetensors"), self.weights()).unwrap();
        std::fs::write(at("config.json"), self.config.to_string()).unwrap();
        std::fs::write(at("tokenizer.json"), self.tokenizer.to_string()).unwrap();
        if let Some(pooling) = &self.pooling {
            std::fs::create_dir(at("1_Pooling")).unwrap();
            std::fs::write(at("1_Pooling/config.json"), pooling.to_string()).unwrap();
        }
        directory
    }

    fn get(&self, name: &str) -> &[f32] {
        &self.tensors.iter().find(|t| t.0 == name).unwrap().2
    }
}

/// WordPiece over single letters and a few marks, with padding and truncation as hubs publish them.
fn tokenizer() -> serde_json::Value {
    let mut vocab = serde_json::Map::new();
    let mut words: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(String::from).to_vec();
    words.extend(('a'..='v').map(String::from));
    words.extend(('a'..='v').map(|c| format!("##{c}")));
    for (id, word) in words.into_iter().enumerate() {
        vocab.insert(word, id.into());
    }
    serde_json::json!({
        "version": "1.0",
        "truncation": { "max_length": 128, "strategy": "LongestFirst", "stride": 0 },
        "padding": {
            "strategy": { "Fixed": 128 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"
        },
        "added_tokens": [],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2] },
        "decoder": null,
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab }
    })
}

type Rows = Vec<Vec<f64>>;

/// The published model, in f64, mean-pooled.
pub(super) fn float(tiny: &Tiny, ids: &[i32]) -> Vec<f64> {
    let row = |name: &str, r: usize| -> Vec<f64> {
        tiny.get(name)[r * WIDTH..(r + 1) * WIDTH].iter().map(|&v| f64::from(v)).collect()
    };
    let add = |a: &Rows, b: &Rows| -> Rows {
        a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(x, y)| x + y).collect()).collect()
    };
    let norm = |x: &Rows, name: &str| -> Rows {
        let (gain, bias) = (tiny.get(&format!("{name}.weight")), tiny.get(&format!("{name}.bias")));
        x.iter()
            .map(|x| {
                let mean = x.iter().sum::<f64>() / x.len() as f64;
                let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
                (0..x.len())
                    .map(|i| (x[i] - mean) / (variance + 1e-12).sqrt() * f64::from(gain[i]) + f64::from(bias[i]))
                    .collect()
            })
            .collect()
    };
    let dense = |x: &Rows, name: &str| -> Rows {
        let (w, b) = (tiny.get(&format!("{name}.weight")), tiny.get(&format!("{name}.bias")));
        x.iter()
            .map(|x| {
                w.chunks(x.len())
                    .zip(b)
                    .map(|(w, &b)| w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>() + f64::from(b))
                    .collect()
            })
            .collect()
    };
    let words: Rows = ids.iter().map(|&id| row("embeddings.word_embeddings.weight", id as usize)).collect();
    let positions: Rows = (0..ids.len()).map(|i| row("embeddings.position_embeddings.weight", i)).collect();
    let types: Rows = ids.iter().map(|_| row("embeddings.token_type_embeddings.weight", 0)).collect();
    let mut x = norm(&add(&add(&words, &positions), &types), "embeddings.LayerNorm");
    for i in 0..2 {
        let name = |rest: &str| format!("encoder.layer.{i}.{rest}");
        let [q, k, v] = ["query", "key", "value"].map(|p| dense(&x, &name(&format!("attention.self.{p}"))));
        let d = WIDTH / HEADS;
        let mut mixed = vec![vec![0.0; WIDTH]; ids.len()];
        for head in 0..HEADS {
            let columns = head * d..(head + 1) * d;
            for (q, out) in q.iter().zip(&mut mixed) {
                let e: Vec<f64> = k
                    .iter()
                    .map(|k| (columns.clone().map(|c| q[c] * k[c]).sum::<f64>() / (d as f64).sqrt()).exp())
                    .collect();
                let total: f64 = e.iter().sum();
                for c in columns.clone() {
                    out[c] = e.iter().zip(&v).map(|(e, v)| e / total * v[c]).sum();
                }
            }
        }
        x = norm(&add(&dense(&mixed, &name("attention.output.dense")), &x), &name("attention.output.LayerNorm"));
        let mut inner = dense(&x, &name("intermediate.dense"));
        for v in inner.iter_mut().flatten() {
            *v *= 0.5 * (1.0 + libm::erf(*v / 2f64.sqrt()));
        }
        x = norm(&add(&dense(&inner, &name("output.dense")), &x), &name("output.LayerNorm"));
    }
    (0..WIDTH).map(|c| x.iter().map(|row| row[c]).sum::<f64>() / ids.len() as f64).collect()
}

/// The imported model through the scalar reference of the exact operations.
pub(super) fn exact(model: &ImportedModel, ids: &[i32]) -> Vec<f64> {
    let layers: HashMap<String, Layer> = model
        .blocks
        .iter()
        .flat_map(|b| b.layers.iter().map(move |l| (format!("{}.{}", b.name, l.name), l)))
        .map(|(name, l)| {
            let parts = l.parts.iter().map(|p| Part {
                name: p.name.clone(),
                dimensions: p.dims.clone(),
                data: Box::new(p.bytes.clone()),
            });
            (name, Layer::from_parts(&l.kind, &l.activation, parts.collect()).unwrap())
        })
        .collect();
    let rows = ids.len();
    let lengths = Lengths::new(&[rows as i32], rows).unwrap();
    let table = |name: &str, ids: &[i32]| {
        let Layer::Embedding(layer) = &layers[name] else { panic!("{name}") };
        let mut out = vec![0.0; ids.len() * layer.width];
        reference::embedding(layer, ids, &mut out).unwrap();
        out
    };
    let norm = |name: &str, x: &[f32], residual: &[f32]| {
        let Layer::LayerNorm(layer) = &layers[name] else { panic!("{name}") };
        let layer: &LayerNorm = layer;
        let mut out = vec![0.0; x.len()];
        reference::layer_norm(layer, x, Some(residual), rows, &mut out).unwrap();
        out
    };
    let linear = |name: &str, x: &[f32]| {
        let Layer::Linear(layer) = &layers[name] else { panic!("{name}") };
        let mut out = vec![0.0; rows * layer.outputs];
        reference::linear(layer, x, rows, &mut out).unwrap();
        out
    };
    let positions: Vec<i32> = (0..rows as i32).collect();
    let words = table("embeddings.words", ids);
    let mut x = norm("embeddings.norm", &words, &table("embeddings.positions", &positions));
    for i in 0..2 {
        let name = |rest: &str| format!("blocks.{i}.{rest}");
        let qkv = linear(&name("attention.qkv"), &x);
        let mut mixed = vec![0.0; rows * WIDTH];
        reference::attention(&qkv, &lengths, WIDTH, HEADS, &mut mixed).unwrap();
        x = norm(&name("attention.norm"), &linear(&name("attention.output"), &mixed), &x);
        let up = linear(&name("feed-forward.up"), &x);
        let mut inner = vec![0.0; up.len()];
        reference::gelu(&up, &mut inner).unwrap();
        x = norm(&name("feed-forward.norm"), &linear(&name("feed-forward.down"), &inner), &x);
    }
    let mut out = vec![0.0; WIDTH];
    reference::mean_pool(&x, &lengths, WIDTH, &mut out).unwrap();
    out.into_iter().map(f64::from).collect()
}

pub(super) fn angle(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
