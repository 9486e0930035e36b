//! A model of a few kilobytes that writes text, run by the real component: every byte is a token, and what it writes is noise
//! unless it is told by biases what to write.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops where it is wrong")]

use crate::tiny::{Random, key, plugin};
use ostrakon_package::{
    ImportedBlock, ImportedGeneration, ImportedLayer, ImportedModel, ImportedPart, NamedComponent, write_package,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Most tokens of a prompt and its answer.
pub const CONTEXT: usize = 256;
/// The token that begins a message; those below are bytes.
pub const BEGIN: u32 = 256;
/// The token that ends one, and an answer.
pub const END: u32 = 257;
/// Tokens.
pub const VOCABULARY: usize = 258;
const DECODERS: usize = 3;
const WIDTH: usize = 32;
const HEADS: usize = 2;
const KV_HEADS: usize = 1;
const HEAD_WIDTH: usize = 16;
const WIDE: usize = 48;

const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
    '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

struct Weights(Random);

impl Weights {
    fn codes(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| (self.0.below(255) as i16 - 127) as i8).collect()
    }

    fn floats(&mut self, count: usize, least: f32, most: f32) -> Vec<f32> {
        (0..count).map(|_| least + (most - least) * (self.0.below(1001) as f32 / 1000.0)).collect()
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, activation: &str) -> ImportedLayer {
        let scale = 1.0 / (127.0 * (inputs as f32).sqrt());
        let parts = vec![
            ImportedPart::codes("weight", vec![outputs, inputs], &self.codes(outputs * inputs)),
            ImportedPart::floats("scale", vec![outputs], &self.floats(outputs, scale, 3.0 * scale)),
            ImportedPart::floats("bias", vec![outputs], &self.floats(outputs, -0.1, 0.1)),
        ];
        ImportedLayer { name: name.into(), kind: "linear".into(), activation: activation.into(), parts }
    }

    fn norm(&mut self, name: &str) -> ImportedLayer {
        let parts = vec![
            ImportedPart::floats("gain", vec![WIDTH], &self.floats(WIDTH, 0.5, 1.5)),
            ImportedPart::floats("epsilon", vec![1], &[1e-5]),
        ];
        ImportedLayer { name: name.into(), kind: "rms-norm".into(), activation: String::new(), parts }
    }

    fn words(&mut self) -> ImportedLayer {
        let parts = vec![
            ImportedPart::codes("weight", vec![VOCABULARY, WIDTH], &self.codes(VOCABULARY * WIDTH)),
            ImportedPart::floats("scale", vec![VOCABULARY], &self.floats(VOCABULARY, 0.005, 0.02)),
        ];
        ImportedLayer { name: "words".into(), kind: "embedding".into(), activation: String::new(), parts }
    }
}

fn rotary() -> ImportedLayer {
    let mut table = Vec::new();
    for position in 0..CONTEXT {
        for pair in 0..HEAD_WIDTH / 2 {
            let angle = position as f64 / 100f64.powf(2.0 * pair as f64 / HEAD_WIDTH as f64);
            table.extend([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    let parts = vec![
        ImportedPart::floats("table", vec![CONTEXT, HEAD_WIDTH], &table),
        ImportedPart::floats("heads", vec![1], &[(HEADS + KV_HEADS) as f32]),
    ];
    ImportedLayer { name: "attention.rotary".into(), kind: "rotary".into(), activation: String::new(), parts }
}

fn block(name: &str, settings: &[(&str, String)], layers: Vec<ImportedLayer>) -> ImportedBlock {
    let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    ImportedBlock { name: name.into(), component: "block-llama".into(), settings, layers }
}

/// The characters that stand for bytes, as GPT-2 has them.
fn vocabulary() -> Value {
    let plain = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let words = (0..256u32).map(|byte| {
        let character = if plain(byte) { byte } else { others.next().unwrap() };
        (char::from_u32(character).unwrap().to_string(), json!(byte))
    });
    Value::Object(words.collect())
}

fn tokenizer() -> Vec<u8> {
    let mark = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [mark(BEGIN, "<|im_start|>"), mark(END, "<|im_end|>")],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary(), "merges": []},
    });
    tokenizer.to_string().into_bytes()
}

/// The model: embeddings, decoders, head.
pub fn model() -> ImportedModel {
    let w = &mut Weights(Random(7));
    let kind = |kind: &str| ("kind", kind.to_owned());
    let mut blocks = vec![block("embeddings", &[kind("embeddings")], vec![w.words()])];
    for i in 0..DECODERS {
        let layers = vec![
            w.norm("attention.norm"),
            w.linear("attention.qkv", (HEADS + 2 * KV_HEADS) * HEAD_WIDTH, WIDTH, "u8"),
            rotary(),
            w.linear("attention.output", WIDTH, HEADS * HEAD_WIDTH, "u8"),
            w.norm("feed-forward.norm"),
            w.linear("feed-forward.gate-up", 2 * WIDE, WIDTH, "u8"),
            w.linear("feed-forward.down", WIDTH, WIDE, "u16"),
        ];
        let settings = [kind("decoder"), ("heads", HEADS.to_string()), ("kv-heads", KV_HEADS.to_string())];
        blocks.push(block(&format!("blocks.{i}"), &settings, layers));
    }
    blocks.push(block("head", &[kind("head")], vec![w.norm("norm"), w.linear("head", VOCABULARY, WIDTH, "u16")]));
    ImportedModel {
        name: "tiny-writer".into(),
        family: "llama".into(),
        licence: "Apache-2.0".into(),
        source: "made up for tests".into(),
        max_tokens: u32::try_from(CONTEXT).unwrap(),
        tokenizer: tokenizer(),
        generation: Some(ImportedGeneration {
            vocabulary: u32::try_from(VOCABULARY).unwrap(),
            stop: vec![END],
            begin: Vec::new(),
            template: Some(TEMPLATE.into()),
        }),
        blocks,
    }
}

/// Write its package into this directory.
///
/// # Panics
/// When it cannot be: `make plugins` builds the component.
pub fn package(directory: &Path, shards: usize) -> PathBuf {
    let out = directory.join(format!("tiny-writer-{shards}"));
    let components = [NamedComponent { name: "block-llama".into(), wasm: plugin("block-llama") }];
    write_package(&model(), &components, shards, &out, &key(0)).unwrap_or_else(|e| panic!("{e:?}"));
    out
}
