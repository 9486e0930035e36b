//! The importer on a tiny decoder that the tests make themselves, on files that lie, and on SmolLM2.

mod exact;
mod float;
mod hostile;
mod model;
mod smollm2;

use super::{Batch, Config, Gguf, ImportError, LlamaOptions, Precision, Text, Weights, llama};
use crate::import::gguf::writer::Writer;
use crate::model::ImportedModel;
use exact::Exact;
use ostrakon_exact::{Layer, Part};
use std::path::Path;

fn import_with(source: &Path, options: &LlamaOptions) -> Result<ImportedModel, ImportError> {
    llama(source, options, &mut |_, _, _| {})
}

fn options(precision: Precision, threads: usize) -> LlamaOptions {
    LlamaOptions { precision, threads, ..LlamaOptions::new("tiny") }
}

fn import(w: &Writer, precision: Precision, threads: usize) -> Result<ImportedModel, ImportError> {
    let directory = tempfile::tempdir().unwrap();
    import_with(&w.write(directory.path()), &options(precision, threads))
}

fn exact(imported: &ImportedModel) -> Exact<'_> {
    let layer = |name: &str| {
        let block = imported.blocks.iter().find(|b| name.starts_with(&format!("{}.", b.name))).unwrap();
        let layer = block.layers.iter().find(|l| name == format!("{}.{}", block.name, l.name)).unwrap();
        let part = |p: &crate::model::ImportedPart| Part {
            name: p.name.clone(),
            dimensions: p.dims.clone(),
            data: Box::new(p.bytes.clone()),
        };
        Layer::from_parts(&layer.kind, &layer.activation, layer.parts.iter().map(part).collect()).unwrap()
    };
    Exact { layer: Box::new(layer), blocks: model::BLOCKS, heads: model::HEADS, kv_heads: model::KV_HEADS }
}

/// The largest difference to the scores of the published model, as a share of their spread.
fn worst(w: &Writer, imported: &ImportedModel) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&w.write(directory.path())).unwrap();
    let config = Config::of_gguf(&gguf).unwrap();
    let lengths = [40, 1, 23];
    let ids: Vec<i32> = (0..64).map(|i| i * 37 % 262).collect();
    let want = float::logits(&Weights::Gguf(gguf), &config, &ids, &lengths);
    let got = exact(imported).logits(&ids, &lengths);
    let spread = (want.data.iter().map(|v| f64::from(v * v)).sum::<f64>() / want.data.len() as f64).sqrt();
    want.data.iter().zip(&got.data).map(|(a, b)| f64::from((a - b).abs()) / spread).fold(0.0, f64::max)
}

#[test]
fn what_runs_is_close_to_what_was_published() {
    let w = model::gguf(7);
    for (precision, most) in [(Precision::AllU16, 0.1), (Precision::Auto, 0.12), (Precision::AllU8, 0.2)] {
        let model = import(&w, precision, 2).unwrap();
        assert!(worst(&w, &model) < most, "{precision:?}: {}", worst(&w, &model));
    }
}

#[test]
fn blocks_layers_and_settings_are_what_the_component_expects() {
    let model = import(&model::gguf(1), Precision::AllU8, 1).unwrap();
    let names: Vec<&str> = model.blocks.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["embeddings", "blocks.0", "blocks.1", "head"]);
    let layers: Vec<&str> = model.blocks[1].layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(
        layers,
        [
            "attention.norm",
            "attention.qkv",
            "attention.rotary",
            "attention.output",
            "feed-forward.norm",
            "feed-forward.gate-up",
            "feed-forward.down"
        ]
    );
    let settings =
        |i: usize| -> Vec<String> { model.blocks[i].settings.iter().map(|(k, v)| format!("{k}={v}")).collect() };
    assert_eq!(settings(0), ["kind=embeddings"]);
    assert_eq!(settings(1), ["kind=decoder", "heads=4", "kv-heads=2"]);
    assert_eq!(settings(3), ["kind=head"]);
    assert!(model.blocks.iter().all(|b| b.component == "block-llama"));
    assert_eq!((model.family.as_str(), model.max_tokens), ("llama", 128));
    let generation = model.generation.unwrap();
    assert_eq!((generation.vocabulary, generation.stop, generation.begin), (262, vec![0, 2], vec![]));
    assert_eq!(generation.template.as_deref(), Some("{{ messages }}"));
}

#[test]
fn both_forms_of_a_model_give_the_same_package() {
    let mut w = model::gguf(3);
    for own_head in [false, true] {
        if own_head {
            let words = w.tensor("token_embd.weight").clone();
            let data = words.data.iter().rev().copied().collect::<Vec<u8>>();
            // Any floats will do, but not these bytes in reverse: they would be no sane floats.
            let floats: Vec<f32> = data.iter().step_by(4).map(|&b| f32::from(b) / 256.0).collect();
            w.floats("output.weight", &[262, model::WIDTH], &floats);
        }
        let of_gguf = import(&w, Precision::Auto, 2).unwrap();
        let directory = tempfile::tempdir().unwrap();
        model::write_directory(&w, &of_gguf.tokenizer, &model::config(), directory.path());
        let of_directory = import_with(directory.path(), &options(Precision::Auto, 1)).unwrap();
        assert!(of_gguf == of_directory, "own head: {own_head}");
    }
}

#[test]
fn threads_do_not_change_the_result() {
    let w = model::gguf(5);
    assert!(import(&w, Precision::Auto, 1).unwrap() == import(&w, Precision::Auto, 3).unwrap());
}

#[test]
fn weights_without_any_size_or_sense_still_import() {
    for factor in [0.0, 1e-40, 1e8] {
        let mut w = model::gguf(1);
        for t in &mut w.tensors {
            for v in t.data.as_chunks_mut::<4>().0 {
                *v = (f32::from_le_bytes(*v) * factor).to_le_bytes();
            }
        }
        import(&w, Precision::Auto, 1).unwrap();
    }
}

#[test]
fn texts_are_calibrated_on_as_they_are_run() {
    let mut w = model::gguf(1);
    w.flag("tokenizer.ggml.add_bos_token", true);
    let directory = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&w.write(directory.path())).unwrap();
    let config = Config::of_gguf(&gguf).unwrap();
    let text = Text::of_gguf(&gguf, &config).unwrap();
    assert_eq!(text.generation.begin, [1]);
    let batch = Batch::new(&text, &config, 100);
    assert_eq!(batch.lengths.iter().sum::<i32>(), i32::try_from(batch.ids.len()).unwrap());
    let mut start = 0;
    for &length in &batch.lengths {
        assert!(length <= 100 && batch.ids[start] == 1, "{length}");
        start += usize::try_from(length).unwrap();
    }
    assert!(batch.ids.len() > 4000);
}

#[test]
fn a_shorter_limit_cuts_the_table_of_angles() {
    let directory = tempfile::tempdir().unwrap();
    let file = model::gguf(1).write(directory.path());
    let with =
        |max_tokens| import_with(&file, &LlamaOptions { max_tokens: Some(max_tokens), ..options(Precision::AllU8, 1) });
    let model = with(50).unwrap();
    assert_eq!(model.max_tokens, 50);
    assert_eq!(model.blocks[1].layers[2].parts[0].dims, [50, model::HEAD]);
    for wrong in [0, 1, 129, u32::MAX] {
        let text = with(wrong).unwrap_err().to_string();
        assert!(text.contains("128 positions"), "{text}");
    }
}
