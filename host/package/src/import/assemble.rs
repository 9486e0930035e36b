//! The quantised model in the form in which packages are written.

use super::{
    BertOptions,
    config::Config,
    exact::{ExactBlock, ExactEmbeddings, ExactModel},
};
use crate::model::{ImportedBlock, ImportedLayer, ImportedModel, ImportedPart};
use ostrakon_exact::{Embedding, LayerNorm, Linear};

/// The component that runs the blocks of this family.
const COMPONENT: &str = "block-bert";

pub(super) fn assemble(
    options: &BertOptions,
    config: &Config,
    model: &ExactModel,
    tokenizer: Vec<u8>,
) -> ImportedModel {
    let mut blocks = vec![embeddings(&model.embeddings)];
    blocks.extend(model.blocks.iter().enumerate().map(|(i, b)| encoder(i, b, config.heads)));
    blocks.push(block(
        "pooling",
        &[
            ("kind", "pooling"),
            ("pool", config.pooling.name()),
            ("normalise", if config.normalise { "true" } else { "false" }),
        ],
        Vec::new(),
    ));
    ImportedModel {
        name: options.name.clone(),
        family: "bert".to_owned(),
        licence: options.licence.clone(),
        source: options.source.clone(),
        max_tokens: config.max_tokens,
        tokenizer,
        generation: None,
        blocks,
    }
}

fn block(name: &str, settings: &[(&str, &str)], layers: Vec<ImportedLayer>) -> ImportedBlock {
    ImportedBlock {
        name: name.to_owned(),
        component: COMPONENT.to_owned(),
        settings: settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
        layers,
    }
}

fn embeddings(e: &ExactEmbeddings) -> ImportedBlock {
    let layers = vec![table("words", &e.words), table("positions", &e.positions), norm("norm", &e.norm)];
    block("embeddings", &[("kind", "embeddings")], layers)
}

fn encoder(i: usize, b: &ExactBlock, heads: usize) -> ImportedBlock {
    block(
        &format!("blocks.{i}"),
        &[("kind", "encoder"), ("heads", &heads.to_string())],
        vec![
            linear("attention.qkv", &b.qkv.layer),
            linear("attention.output", &b.output.layer),
            norm("attention.norm", &b.attention_norm),
            linear("feed-forward.up", &b.up.layer),
            linear("feed-forward.down", &b.down.layer),
            norm("feed-forward.norm", &b.norm),
        ],
    )
}

fn layer(name: &str, kind: &str, activation: &str, parts: Vec<ImportedPart>) -> ImportedLayer {
    ImportedLayer { name: name.to_owned(), kind: kind.to_owned(), activation: activation.to_owned(), parts }
}

fn linear(name: &str, l: &Linear) -> ImportedLayer {
    let mut parts = vec![
        ImportedPart::codes("weight", vec![l.outputs, l.inputs], l.weight.as_slice()),
        ImportedPart::floats("scale", vec![l.outputs], &l.scale),
        ImportedPart::floats("bias", vec![l.outputs], &l.bias),
    ];
    if let Some(prescale) = &l.prescale {
        parts.push(ImportedPart::floats("prescale", vec![l.inputs], prescale));
    }
    layer(name, "linear", l.activation.name(), parts)
}

fn table(name: &str, e: &Embedding) -> ImportedLayer {
    let parts = vec![
        ImportedPart::codes("weight", vec![e.rows, e.width], e.table.as_slice()),
        ImportedPart::floats("scale", vec![e.rows], &e.scale),
    ];
    layer(name, "embedding", "", parts)
}

fn norm(name: &str, n: &LayerNorm) -> ImportedLayer {
    let parts = vec![
        ImportedPart::floats("gain", vec![n.gain.len()], &n.gain),
        ImportedPart::floats("bias", vec![n.bias.len()], &n.bias),
        ImportedPart::floats("epsilon", vec![1], &[n.epsilon]),
    ];
    layer(name, "layer-norm", "", parts)
}
