//! Files that lie: each is refused with a text that names what is wrong.

use super::{import, model::Tiny};
use crate::import::{BertOptions, Precision, bert};
use serde_json::json;

/// What importing says.
fn refusal(tiny: &Tiny) -> String {
    import(tiny, Precision::AllU8, 1).expect_err("must be refused").to_string()
}

fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn other_kinds_of_models_are_refused_by_name() {
    let with = |key: &str, value: serde_json::Value| {
        let mut tiny = Tiny::new(1);
        tiny.config[key] = value;
        refusal(&tiny)
    };
    says(&with("model_type", json!("llama")), &["config.json", "`llama`", "bert"]);
    says(&with("hidden_act", json!("gelu_new")), &["hidden_act", "`gelu_new`"]);
    says(&with("hidden_act", json!("relu")), &["`relu`"]);
    says(&with("position_embedding_type", json!("relative_key")), &["`relative_key`", "absolute"]);
    says(&with("layer_norm_eps", json!(0.0)), &["layer_norm_eps"]);
    says(&with("num_attention_heads", json!(5)), &["5 heads", "32"]);
    let mut tiny = Tiny::new(1);
    tiny.config = json!({ "model_type": "gpt2", "n_embd": 768 });
    says(&refusal(&tiny), &["`gpt2`"]);
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let directory = Tiny::new(1).write();
        let file = directory.path().join(name);
        std::fs::remove_file(&file).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        let error = bert(directory.path(), &BertOptions::new("tiny"), &mut |_, _, _| {}).unwrap_err();
        says(&error.to_string(), &[name, "not a plain file"]);
    }
}

#[test]
fn absurd_numbers_are_refused_before_anything_is_made_of_them() {
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
    ] {
        for value in [json!(0), json!(u64::MAX), json!(1u64 << 40)] {
            let mut tiny = Tiny::new(1);
            tiny.config[key] = value;
            let text = refusal(&tiny);
            assert!(text.contains(key), "{text}");
        }
        for value in [json!(-1), json!("32"), json!(1.5), json!(null)] {
            let mut tiny = Tiny::new(1);
            tiny.config[key] = value;
            says(&refusal(&tiny), &["config.json", "not the JSON expected"]);
        }
    }
}

#[test]
fn tensors_are_checked_one_by_one() {
    let mut tiny = Tiny::new(1);
    tiny.tensors.retain(|t| t.0 != "encoder.layer.1.output.dense.bias");
    says(&refusal(&tiny), &["`encoder.layer.1.output.dense.bias`", "is missing"]);

    let mut tiny = Tiny { prefix: "model.", ..Tiny::new(1) };
    says(&refusal(&tiny), &["word_embeddings", "is missing"]);
    tiny.prefix = "";

    let tensor = tiny.tensor("encoder.layer.0.intermediate.dense.weight");
    tensor.1.swap(0, 1);
    says(&refusal(&tiny), &["intermediate.dense.weight", "[32, 64]", "[64, 32]"]);

    for bad in [f32::NAN, f32::INFINITY, -f32::INFINITY, 3e38] {
        let mut tiny = Tiny::new(1);
        tiny.tensor("encoder.layer.0.attention.self.key.weight").2[17] = bad;
        says(&refusal(&tiny), &["attention.self.key.weight", "finite"]);
    }

    let mut tiny = Tiny::new(1);
    tiny.config["num_hidden_layers"] = json!(3);
    says(&refusal(&tiny), &["encoder.layer.2", "is missing"]);
}

#[test]
fn weights_without_any_size_or_sense_still_import() {
    // All zero: nothing can be scaled by its largest value, and no covariance has a factor.
    let mut tiny = Tiny::new(1);
    for (_, _, data) in &mut tiny.tensors {
        data.fill(0.0);
    }
    import(&tiny, Precision::Auto, 1).unwrap();
    // As large as is allowed.
    let mut tiny = Tiny::new(1);
    for (_, _, data) in &mut tiny.tensors {
        for v in data {
            *v = if *v < 0.0 { -1e9 } else { 1e9 };
        }
    }
    import(&tiny, Precision::Auto, 1).unwrap();
    // As small as floats are.
    let mut tiny = Tiny::new(1);
    for (_, _, data) in &mut tiny.tensors {
        for v in data {
            *v *= 1e-40;
        }
    }
    import(&tiny, Precision::Auto, 1).unwrap();
}

#[test]
fn a_weights_file_may_be_anything() {
    let tiny = Tiny::new(1);
    let good = tiny.weights();
    let directory = tiny.write();
    let file = directory.path().join("model.safetensors");
    let options = BertOptions { threads: 1, precision: Precision::AllU8, ..BertOptions::new("tiny") };
    let refused = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let text = bert(directory.path(), &options, &mut |_, _, _| {}).expect_err("must be refused").to_string();
        says(&text, &["model.safetensors"]);
    };
    for cut in [0, 1, 7, 8, 9, 100, good.len() / 2, good.len() - 1] {
        refused(&good[..cut]);
    }
    let mut long = good.clone();
    long.extend([0; 4]);
    refused(&long);
    let mut header = good.clone();
    header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&header);
    refused(b"\x02\0\0\0\0\0\0\0{}");
    let absurd = br#"{"embeddings.word_embeddings.weight":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
    refused(&[&(absurd.len() as u64).to_le_bytes()[..], absurd].concat());
}

#[test]
fn missing_and_broken_files_are_named() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let directory = Tiny::new(1).write();
        std::fs::remove_file(directory.path().join(name)).unwrap();
        let text = bert(directory.path(), &BertOptions::new("tiny"), &mut |_, _, _| {})
            .expect_err("must be refused")
            .to_string();
        says(&text, &[name, "cannot be read"]);
    }
    let mut tiny = Tiny::new(1);
    tiny.tokenizer = json!({ "model": 1 });
    says(&refusal(&tiny), &["tokenizer.json", "not a tokenizer"]);
    tiny.tokenizer = json!([]);
    says(&refusal(&tiny), &["tokenizer.json"]);
    let mut tiny = Tiny::new(1);
    tiny.tokenizer["model"]["vocab"]["zebra"] = json!(48);
    says(&refusal(&tiny), &["`zebra`", "48"]);
    let mut tiny = Tiny::new(1);
    tiny.pooling = Some(json!({ "pooling_mode_max_tokens": true }));
    says(&refusal(&tiny), &["1_Pooling", "mean"]);
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let directory = Tiny::new(1).write();
    let refused = |options: BertOptions| {
        bert(directory.path(), &options, &mut |_, _, _| {}).expect_err("must be refused").to_string()
    };
    says(&refused(BertOptions { max_tokens: Some(25), ..BertOptions::new("t") }), &["25", "24 positions"]);
    says(&refused(BertOptions { max_tokens: Some(0), ..BertOptions::new("t") }), &["3 to 24"]);
    says(&refused(BertOptions { threads: 0, ..BertOptions::new("t") }), &["0 threads"]);
    says(&refused(BertOptions { threads: 100_000, ..BertOptions::new("t") }), &["100000 threads"]);
}
