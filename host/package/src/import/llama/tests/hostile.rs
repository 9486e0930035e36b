//! Files that lie: each is refused with a text that names what is wrong.

use super::{Precision, import, import_with, model, options};
use crate::import::gguf::writer::Writer;
use serde_json::json;

fn refusal(spoil: impl FnOnce(&mut Writer)) -> String {
    let mut w = model::gguf(1);
    spoil(&mut w);
    import(&w, Precision::AllU8, 1).expect_err("must be refused").to_string()
}

fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn other_kinds_of_models_are_refused_by_name() {
    says(&refusal(|w| w.text("general.architecture", "mamba")), &["model.gguf", "`mamba`", "`llama`"]);
    says(&refusal(|w| w.remove("general.architecture")), &["general.architecture"]);
    says(&refusal(|w| w.number("llama.expert_count", 8)), &["llama.expert_count", "8"]);
    says(&refusal(|w| w.number("split.count", 2)), &["split.count"]);
    says(&refusal(|w| w.text("llama.rope.scaling.type", "yarn")), &["`yarn`"]);
    says(&refusal(|w| w.number("llama.rope.dimension_count", 4)), &["rope.dimension_count", "8 columns"]);
    says(&refusal(|w| w.text("tokenizer.ggml.model", "llama")), &["`llama`", "gpt2"]);
    says(&refusal(|w| w.text("tokenizer.ggml.pre", "tekken")), &["`tekken`", "smollm"]);
    says(&refusal(|w| w.remove("tokenizer.ggml.pre")), &["`missing`"]);
    says(&refusal(|w| w.floats("rope_freqs.weight", &[4], &[1.0; 4])), &["rope_freqs.weight", "no place"]);
    says(&refusal(|w| w.floats("blk.0.attn_q.bias", &[32], &[0.0; 32])), &["blk.0.attn_q.bias"]);
}

#[test]
fn absurd_numbers_are_refused_before_anything_is_made_of_them() {
    for key in [
        "embedding_length",
        "attention.head_count",
        "attention.head_count_kv",
        "feed_forward_length",
        "block_count",
        "context_length",
    ] {
        for value in [0, u32::MAX] {
            let text = refusal(|w| w.number(&format!("llama.{key}"), value));
            says(&text, &["model.gguf"]);
        }
        says(&refusal(|w| w.text(&format!("llama.{key}"), "4")), &[key, "not a whole number"]);
    }
    says(&refusal(|w| w.remove("llama.block_count")), &["llama.block_count"]);
    says(&refusal(|w| w.number("llama.attention.head_count_kv", 3)), &["no multiple"]);
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refusal(|w| w.float("llama.attention.layer_norm_rms_epsilon", bad));
        refusal(|w| w.float("llama.rope.freq_base", bad));
    }
}

#[test]
fn tensors_are_checked_one_by_one() {
    says(&refusal(|w| w.tensors.retain(|t| t.name != "blk.1.ffn_up.weight")), &["blk.1.ffn_up.weight", "is missing"]);
    says(
        &refusal(|w| w.tensor("blk.0.ffn_up.weight").dims.swap(0, 1)),
        &["blk.0.ffn_up.weight", "[32, 48]", "[48, 32]"],
    );
    says(&refusal(|w| w.number("llama.block_count", 1)), &["blk.1."]);
    says(&refusal(|w| w.number("llama.block_count", 3)), &["blk.2.", "is missing"]);
    for bad in [f32::NAN, f32::INFINITY, 3e38] {
        let text = refusal(|w| w.tensor("blk.1.attn_k.weight").data[..4].copy_from_slice(&bad.to_le_bytes()));
        says(&text, &["blk.1.attn_k.weight", "finite"]);
    }
}

#[test]
fn a_vocabulary_that_makes_no_tokenizer_is_refused() {
    let tokens = model::vocabulary;
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        refusal(|w| {
            let mut tokens = tokens();
            change(&mut tokens);
            w.texts("tokenizer.ggml.tokens", &tokens);
        })
    };
    says(&with(&|t| t[5] = t[6].clone()), &["twice"]);
    says(&with(&|t| drop(t.pop())), &["261 tokens and 262 token types"]);
    says(&with(&|t| t[260] = "x y".into()), &["the tokenizer made of its vocabulary"]);
    let merges = |merge: &str| refusal(|w| w.texts("tokenizer.ggml.merges", &[merge.to_owned()]));
    for merge in ["", "ab", " a", "a ", "a b c"] {
        says(&merges(merge), &["is not two tokens"]);
    }
    says(&merges("t zz"), &["the tokenizer made of its vocabulary"]);
    says(&refusal(|w| w.number("tokenizer.ggml.eos_token_id", 262)), &["the token 262", "262"]);
    let ends = refusal(|w| {
        w.remove("tokenizer.ggml.eos_token_id");
        w.integers("tokenizer.ggml.token_type", &[1; 262]);
    });
    says(&ends, &["eos_token_id"]);
    let begins = refusal(|w| {
        w.flag("tokenizer.ggml.add_bos_token", true);
        w.remove("tokenizer.ggml.bos_token_id");
    });
    says(&begins, &["bos_token_id"]);
    says(&refusal(|w| w.text("tokenizer.chat_template", &"x".repeat(2 << 20))), &["chat template", "1048576"]);
    // More tokens than the model has scores for.
    let more = refusal(|w| {
        w.texts("tokenizer.ggml.tokens", &[tokens(), vec!["more".into()]].concat());
        w.integers("tokenizer.ggml.token_type", &[1; 263]);
    });
    says(&more, &["the model has 262"]);
}

#[test]
fn a_directory_is_checked_likewise() {
    let w = model::gguf(1);
    let tokenizer = import(&w, Precision::AllU8, 1).unwrap().tokenizer;
    let with = |key: &str, value: serde_json::Value| {
        let directory = tempfile::tempdir().unwrap();
        let mut config = model::config();
        config[key] = value;
        model::write_directory(&w, &tokenizer, &config, directory.path());
        import_with(directory.path(), &options(Precision::AllU8, 1)).expect_err("must be refused").to_string()
    };
    says(&with("model_type", json!("mixtral")), &["config.json", "`mixtral`"]);
    says(&with("hidden_act", json!("gelu")), &["`gelu`", "silu"]);
    says(&with("attention_bias", json!(true)), &["bias"]);
    says(&with("rope_scaling", json!({"rope_type": "llama3", "factor": 32.0})), &["`llama3`"]);
    says(&with("hidden_size", json!(48)), &["tensor"]);
    says(&with("num_attention_heads", json!(0)), &["num_attention_heads"]);
    says(&with("head_dim", json!(7)), &["head_dim"]);
    says(&with("tie_word_embeddings", json!(false)), &["lm_head.weight", "is missing"]);
    says(&with("vocab_size", json!(100)), &["tokenizer.json", "100 ids"]);
    says(&with("max_position_embeddings", json!(1u64 << 40)), &["max_position_embeddings"]);
}

#[test]
fn what_is_no_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let text = |place: &std::path::Path| import_with(place, &options(Precision::AllU8, 1)).unwrap_err().to_string();
    says(&text(directory.path()), &["config.json", "cannot be read"]);
    says(&text(&directory.path().join("none.gguf")), &["none.gguf", "cannot be read"]);
    for bytes in [&b""[..], b"GG", b"GGUF", b"PK\x03\x04 something else entirely"] {
        let file = directory.path().join("x.gguf");
        std::fs::write(&file, bytes).unwrap();
        says(&text(&file), &["x.gguf"]);
    }
}
