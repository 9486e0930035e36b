//! The importer on a tiny encoder that the tests make themselves, and on files that lie.

mod hostile;
mod model;

use super::{BertOptions, ImportError, Precision, bert};
use crate::model::ImportedModel;
use model::{Tiny, angle, exact, float};
use ostrakon_exact::{Layer, Part};

fn import(tiny: &Tiny, precision: Precision, threads: usize) -> Result<ImportedModel, ImportError> {
    let directory = tiny.write();
    let options = BertOptions { precision, threads, ..BertOptions::new("tiny") };
    bert(directory.path(), &options, &mut |_, _, _| {})
}

fn worst_cosine(tiny: &Tiny, imported: &ImportedModel) -> f64 {
    let texts: [&[i32]; 4] = [&[2, 5, 9, 30, 3], &[2, 3], &[2, 40, 41, 40, 41, 7, 8, 20, 21, 22, 3], &[2, 11, 3]];
    texts.iter().map(|ids| angle(&exact(imported, ids), &float(tiny, ids))).fold(1.0, f64::min)
}

#[test]
fn what_runs_is_close_to_what_was_published() {
    let tiny = Tiny::new(7);
    let model = import(&tiny, Precision::AllU8, 2).unwrap();
    assert!(worst_cosine(&tiny, &model) > 0.999, "{}", worst_cosine(&tiny, &model));
    let model = import(&tiny, Precision::AllU16, 2).unwrap();
    assert!(worst_cosine(&tiny, &model) > 0.9995, "{}", worst_cosine(&tiny, &model));
}

#[test]
fn blocks_layers_and_settings_are_what_the_component_expects() {
    let model = import(&Tiny::new(1), Precision::AllU16, 1).unwrap();
    let names: Vec<&str> = model.blocks.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["embeddings", "blocks.0", "blocks.1", "pooling"]);
    let layers: Vec<&str> = model.blocks[1].layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(
        layers,
        [
            "attention.qkv",
            "attention.output",
            "attention.norm",
            "feed-forward.up",
            "feed-forward.down",
            "feed-forward.norm"
        ]
    );
    assert_eq!(model.blocks[1].settings, [("kind".into(), "encoder".into()), ("heads".into(), "4".into())]);
    assert_eq!(
        model.blocks[3].settings,
        [("kind".into(), "pooling".into()), ("pool".into(), "mean".into()), ("normalise".into(), "true".into())]
    );
    assert_eq!(model.max_tokens, 24);
    for layer in model.blocks.iter().flat_map(|b| &b.layers) {
        let parts = layer.parts.iter().map(|p| Part {
            name: p.name.clone(),
            dimensions: p.dims.clone(),
            data: Box::new(p.bytes.clone()),
        });
        let built = Layer::from_parts(&layer.kind, &layer.activation, parts.collect()).unwrap();
        assert_eq!(built.kind(), layer.kind);
        assert_eq!(layer.activation, if layer.kind == "linear" { "u16" } else { "" });
    }
}

#[test]
fn the_same_bytes_at_any_number_of_threads() {
    let tiny = Tiny::new(3);
    for precision in [Precision::Auto, Precision::AllU8] {
        let one = import(&tiny, precision, 1).unwrap();
        assert!(one == import(&tiny, precision, 1).unwrap());
        assert!(one == import(&tiny, precision, 3).unwrap());
    }
}

#[test]
fn the_tokenizer_neither_pads_nor_cuts() {
    let model = import(&Tiny::new(3), Precision::AllU8, 1).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&model.tokenizer).unwrap();
    assert!(json["padding"].is_null() && json["truncation"].is_null());
    assert_eq!(json["model"]["vocab"].as_object().unwrap().len(), 48);
}

#[test]
fn prefixes_old_names_and_half_floats_mean_the_same() {
    let plain = Tiny::new(5);
    let want = import(&plain, Precision::AllU8, 2).unwrap();
    let prefixed = Tiny { prefix: "bert.", ..plain.clone() };
    assert!(want == import(&prefixed, Precision::AllU8, 2).unwrap());
    let mut old = plain.clone();
    for (name, _, _) in &mut old.tensors {
        *name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    }
    assert!(want == import(&old, Precision::AllU8, 2).unwrap());
    let short = Tiny { bf16: true, ..plain.clone() };
    let model = import(&short, Precision::AllU16, 2).unwrap();
    assert!(worst_cosine(&plain, &model) > 0.999);
}

#[test]
fn progress_ends_where_it_said_it_would() {
    let directory = Tiny::new(2).write();
    let mut last = std::collections::BTreeMap::new();
    let options = BertOptions { threads: 1, ..BertOptions::new("tiny") };
    bert(directory.path(), &options, &mut |stage, done, total| {
        assert!(done <= total);
        last.insert(stage.to_owned(), (done, total));
    })
    .unwrap();
    assert_eq!(last.keys().collect::<Vec<_>>(), ["precision", "quantise", "read"]);
    assert!(last.values().all(|(done, total)| done == total), "{last:?}");
}
