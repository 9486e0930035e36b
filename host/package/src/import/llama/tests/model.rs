//! A decoder of a few kilobytes, written as a GGUF file and as a directory of safetensors and JSON.

use crate::import::gguf::writer::Writer;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use std::path::Path;

pub(super) const WIDTH: usize = 32;
pub(super) const HEADS: usize = 4;
pub(super) const KV_HEADS: usize = 2;
pub(super) const HEAD: usize = 8;
pub(super) const INNER: usize = 48;
pub(super) const BLOCKS: usize = 2;
pub(super) const POSITIONS: usize = 128;

/// The model in GGUF's order, which every other form is made from.
pub(super) fn gguf(seed: u64) -> Writer {
    let mut numbers = Numbers(seed);
    let tokens = vocabulary();
    let mut w = Writer::new();
    w.text("general.architecture", "llama");
    for (key, value) in [
        ("embedding_length", WIDTH),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("rope.dimension_count", HEAD),
        ("feed_forward_length", INNER),
        ("block_count", BLOCKS),
        ("context_length", POSITIONS),
    ] {
        w.number(&format!("llama.{key}"), u32::try_from(value).unwrap());
    }
    w.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    w.float("llama.rope.freq_base", 10_000.0);
    w.text("tokenizer.ggml.model", "gpt2");
    w.text("tokenizer.ggml.pre", "smollm");
    w.integers("tokenizer.ggml.token_type", &types(tokens.len()));
    w.texts("tokenizer.ggml.merges", &["t h".to_owned(), "th e".to_owned(), "\u{120} the".to_owned()]);
    w.number("tokenizer.ggml.bos_token_id", 1);
    w.number("tokenizer.ggml.eos_token_id", 2);
    w.text("tokenizer.chat_template", "{{ messages }}");
    w.floats("token_embd.weight", &[tokens.len(), WIDTH], &numbers.many(tokens.len() * WIDTH, 1.0));
    w.floats("output_norm.weight", &[WIDTH], &numbers.gains());
    for i in 0..BLOCKS {
        let (queries, keys) = (HEADS * HEAD, KV_HEADS * HEAD);
        for (name, rows, columns) in [
            ("attn_q", queries, WIDTH),
            ("attn_k", keys, WIDTH),
            ("attn_v", keys, WIDTH),
            ("attn_output", WIDTH, queries),
            ("ffn_gate", INNER, WIDTH),
            ("ffn_up", INNER, WIDTH),
            ("ffn_down", WIDTH, INNER),
        ] {
            let values = numbers.many(rows * columns, 1.0 / (columns as f32).sqrt());
            w.floats(&format!("blk.{i}.{name}.weight"), &[rows, columns], &values);
        }
        for name in ["attn_norm", "ffn_norm"] {
            w.floats(&format!("blk.{i}.{name}.weight"), &[WIDTH], &numbers.gains());
        }
    }
    w.texts("tokenizer.ggml.tokens", &tokens);
    w
}

fn types(tokens: usize) -> Vec<i32> {
    (0..tokens).map(|id| if id < 3 { 3 } else { 1 }).collect()
}

/// Three control tokens, every byte as byte-level tokenizers write it, three merged tokens.
pub(super) fn vocabulary() -> Vec<String> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256..;
    let bytes = (0..=255u8).map(|b| if printable(b) { u32::from(b) } else { others.next().unwrap() });
    let control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(ToOwned::to_owned);
    let merged = ["th", "the", "\u{120}the"].map(ToOwned::to_owned);
    control.into_iter().chain(bytes.map(|c| char::from_u32(c).unwrap().to_string())).chain(merged).collect()
}

/// The same model as the other world publishes it; `tokenizer` is its `tokenizer.json`.
pub(super) fn write_directory(w: &Writer, tokenizer: &[u8], config: &Value, directory: &Path) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for t in &w.tensors {
        let shape: Vec<usize> = t.dims.iter().rev().map(|&d| usize::try_from(d).unwrap()).collect();
        let name = published_name(&t.name);
        let pairs = name.contains("q_proj") || name.contains("k_proj");
        let data = if pairs { parted(&t.data, 4 * WIDTH) } else { t.data.clone() };
        tensors.push((name, shape, data));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, data)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    std::fs::write(directory.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    std::fs::write(directory.join("tokenizer.json"), tokenizer).unwrap();
    std::fs::write(directory.join("generation_config.json"), r#"{"eos_token_id": [2]}"#).unwrap();
    std::fs::write(directory.join("tokenizer_config.json"), r#"{"chat_template": "{{ messages }}"}"#).unwrap();
}

pub(super) fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_act": "silu", "hidden_size": WIDTH, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "intermediate_size": INNER, "num_hidden_layers": BLOCKS,
        "vocab_size": vocabulary().len(), "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": true, "eos_token_id": 2,
    })
}

fn published_name(name: &str) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => return "model.norm.weight".to_owned(),
        "output.weight" => return "lm_head.weight".to_owned(),
        _ => {}
    }
    let mut parts = name.splitn(3, '.').skip(1);
    let (i, rest) = (parts.next().unwrap(), parts.next().unwrap());
    let rest = match rest.trim_end_matches(".weight") {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => panic!("{other}"),
    };
    format!("model.layers.{i}.{rest}.weight")
}

/// Even rows of each head, then its odd ones.
fn parted(data: &[u8], row: usize) -> Vec<u8> {
    let rows: Vec<&[u8]> = data.chunks_exact(row).collect();
    let halves = |head: &[&[u8]]| {
        let pick = |first: usize| head.iter().skip(first).step_by(2).flat_map(|r| r.to_vec()).collect::<Vec<u8>>();
        [pick(0), pick(1)].concat()
    };
    rows.chunks_exact(HEAD).flat_map(halves).collect()
}

/// Numbers that look random and are the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn many(&mut self, n: usize, size: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * size).collect()
    }

    fn gains(&mut self) -> Vec<f32> {
        (0..WIDTH).map(|_| 1.0 + 0.5 * self.next()).collect()
    }
}
