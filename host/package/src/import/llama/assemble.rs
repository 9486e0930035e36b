//! The quantised model in the form in which packages are written.

use super::{
    config::Config,
    decoder::Run,
    layers::{linear, rms_norm, rotary, table},
    quantise::Piece,
};
use crate::model::{ImportedBlock, ImportedLayer};

/// The component that runs the blocks of this family.
const COMPONENT: &str = "block-llama";

/// The block that a finished piece becomes; `number` counts decoder blocks.
pub(super) fn block(piece: &Piece, number: usize, c: &Config, run: &Run) -> ImportedBlock {
    match piece {
        Piece::Embeddings(words) => named("embeddings", &[("kind", "embeddings")], vec![table("words", words)]),
        Piece::Block(b) => named(
            &format!("blocks.{number}"),
            &[("kind", "decoder"), ("heads", &c.heads.to_string()), ("kv-heads", &c.kv_heads.to_string())],
            vec![
                rms_norm("attention.norm", &b.attention_norm),
                linear("attention.qkv", &b.qkv.layer),
                rotary("attention.rotary", &run.rotary),
                linear("attention.output", &b.output.layer),
                rms_norm("feed-forward.norm", &b.norm),
                linear("feed-forward.gate-up", &b.gate_up.layer),
                linear("feed-forward.down", &b.down.layer),
            ],
        ),
        Piece::Head(norm, head) => {
            named("head", &[("kind", "head")], vec![rms_norm("norm", norm), linear("head", &head.layer)])
        }
    }
}

fn named(name: &str, settings: &[(&str, &str)], layers: Vec<ImportedLayer>) -> ImportedBlock {
    ImportedBlock {
        name: name.to_owned(),
        component: COMPONENT.to_owned(),
        settings: settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
        layers,
    }
}
