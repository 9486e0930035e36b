//! A model of a few kilobytes that writes text, run by the real component.

use crate::tiny::{Random, Tiny, expect, plugin};
use ostrakon_package::{ImportedBlock, ImportedGeneration, ImportedLayer, ImportedModel, ImportedPart};
use std::path::PathBuf;

/// Columns of a hidden state.
const WIDTH: usize = 24;
/// Columns inside of the feed-forward network.
const WIDE: usize = 32;
/// Heads of queries, of keys and values, and their columns.
const HEADS: (usize, usize, usize) = (4, 2, 8);
/// Decoders, between embeddings and head.
const DECODERS: usize = 3;
/// Tokens: the words `w0`, `w1` and so on, then the marks.
pub const WORDS: u32 = 60;
/// The mark that ends an answer.
pub const END: u32 = WORDS + 1;
/// Most tokens of a text and its answer.
pub const CONTEXT: u32 = 200;

/// Says who speaks, and what; ends with who speaks next.
const TEMPLATE: &str = "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('nobody tells this \
    model what to do') }}{% endif %}<{{ message.role }}> {{ message.content }} </s> {% endfor %}<assistant>";

fn norm(n: &mut Random, name: &str) -> ImportedLayer {
    let parts = vec![
        ImportedPart::floats("gain", vec![WIDTH], &n.floats(WIDTH, 0.5, 1.5)),
        ImportedPart::floats("epsilon", vec![1], &[1e-5]),
    ];
    ImportedLayer { name: name.into(), kind: "rms-norm".into(), activation: String::new(), parts }
}

fn rotary() -> ImportedLayer {
    let (heads, kv_heads, width) = HEADS;
    let mut table = Vec::new();
    for position in 0..CONTEXT {
        for pair in 0..width / 2 {
            let angle = f64::from(position) / 100f64.powf(2.0 * pair as f64 / width as f64);
            table.extend([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    let parts = vec![
        ImportedPart::floats("table", vec![CONTEXT as usize, width], &table),
        ImportedPart::floats("heads", vec![1], &[(heads + kv_heads) as f32]),
    ];
    ImportedLayer { name: "attention.rotary".into(), kind: "rotary".into(), activation: String::new(), parts }
}

fn block(name: &str, settings: &[(&str, String)], layers: Vec<ImportedLayer>) -> ImportedBlock {
    let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    ImportedBlock { name: name.into(), component: "block-llama".into(), settings, layers }
}

fn tokenizer() -> Vec<u8> {
    let words: Vec<String> = (0..WORDS).map(|word| format!(r#""w{word}":{word}"#)).collect();
    let marks = ["<user>", "</s>", "<assistant>"];
    let named: Vec<String> = marks.iter().zip(WORDS..).map(|(mark, id)| format!(r#""{mark}":{id}"#)).collect();
    let added = marks.iter().zip(WORDS..).map(|(mark, id)| {
        format!(
            r#"{{"id":{id},"content":"{mark}","single_word":false,"lstrip":true,"rstrip":true,"normalized":false,"special":true}}"#
        )
    });
    let added: Vec<String> = added.collect();
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{}],"normalizer":null,
        "pre_tokenizer":{{"type":"WhitespaceSplit"}},"post_processor":null,"decoder":null,
        "model":{{"type":"WordLevel","vocab":{{{},{}}},"unk_token":"w0"}}}}"#,
        added.join(","),
        words.join(","),
        named.join(",")
    )
    .into_bytes()
}

/// The model: embeddings, decoders, head.
pub fn model() -> ImportedModel {
    let n = &mut Random(11);
    let vocabulary = WORDS as usize + 3;
    let (heads, kv_heads, width) = HEADS;
    let words = ImportedLayer {
        name: "words".into(),
        kind: "embedding".into(),
        activation: String::new(),
        parts: vec![
            ImportedPart::codes("weight", vec![vocabulary, WIDTH], &n.codes(vocabulary * WIDTH)),
            ImportedPart::floats("scale", vec![vocabulary], &n.floats(vocabulary, 0.005, 0.02)),
        ],
    };
    let mut blocks = vec![block("embeddings", &[("kind", "embeddings".into())], vec![words])];
    for i in 0..DECODERS {
        let layers = vec![
            norm(n, "attention.norm"),
            n.linear("attention.qkv", (heads + 2 * kv_heads) * width, WIDTH, "u8"),
            rotary(),
            n.linear("attention.output", WIDTH, heads * width, "u8"),
            norm(n, "feed-forward.norm"),
            n.linear("feed-forward.gate-up", 2 * WIDE, WIDTH, "u16"),
            n.linear("feed-forward.down", WIDTH, WIDE, "u8"),
        ];
        let settings = [("kind", "decoder".into()), ("heads", heads.to_string()), ("kv-heads", kv_heads.to_string())];
        blocks.push(block(&format!("blocks.{i}"), &settings, layers));
    }
    let head = vec![norm(n, "norm"), n.linear("head", vocabulary, WIDTH, "u16")];
    blocks.push(block("head", &[("kind", "head".into())], head));
    ImportedModel {
        name: "tiny-llama".into(),
        family: "llama".into(),
        licence: "Apache-2.0".into(),
        source: "made up for tests".into(),
        max_tokens: CONTEXT,
        tokenizer: tokenizer(),
        generation: Some(ImportedGeneration {
            vocabulary: vocabulary as u32,
            stop: vec![END],
            begin: Vec::new(),
            template: Some(TEMPLATE.into()),
        }),
        blocks,
    }
}

/// A package of it.
pub fn package(tiny: &Tiny, shards: usize) -> PathBuf {
    expect(tiny.package(&format!("tiny-llama-{shards}"), &model(), &plugin("block-llama"), shards))
}
