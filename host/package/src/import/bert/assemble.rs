//! The quantised model in the form in which packages are written.

use super::{
    BertOptions,
    config::Config,
    encoder::{ExactBlock, ExactEmbeddings, ExactModel},
    layers::{layer_norm, linear, table},
};
use crate::model::{ImportedBlock, ImportedLayer, ImportedModel};

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
    let layers = vec![table("words", &e.words), table("positions", &e.positions), layer_norm("norm", &e.norm)];
    block("embeddings", &[("kind", "embeddings")], layers)
}

fn encoder(i: usize, b: &ExactBlock, heads: usize) -> ImportedBlock {
    block(
        &format!("blocks.{i}"),
        &[("kind", "encoder"), ("heads", &heads.to_string())],
        vec![
            linear("attention.qkv", &b.qkv.layer),
            linear("attention.output", &b.output.layer),
            layer_norm("attention.norm", &b.attention_norm),
            linear("feed-forward.up", &b.up.layer),
            linear("feed-forward.down", &b.down.layer),
            layer_norm("feed-forward.norm", &b.norm),
        ],
    )
}
