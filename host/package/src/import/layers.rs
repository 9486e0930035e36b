//! Exact layers in the form in which packages are written.

use crate::model::{ImportedLayer, ImportedPart};
use ostrakon_exact::{Embedding, LayerNorm, Linear, RmsNorm, Rotary};

fn layer(name: &str, kind: &str, activation: &str, parts: Vec<ImportedPart>) -> ImportedLayer {
    ImportedLayer { name: name.to_owned(), kind: kind.to_owned(), activation: activation.to_owned(), parts }
}

pub(super) fn linear(name: &str, l: &Linear) -> ImportedLayer {
    let mut parts = vec![
        ImportedPart::codes("weight", vec![l.outputs, l.inputs], l.weight.as_slice()),
        ImportedPart::floats("scale", vec![l.outputs], &l.scale),
    ];
    // Left out where there is none: that is what a missing part means.
    if l.bias.iter().any(|&b| b != 0.0) {
        parts.push(ImportedPart::floats("bias", vec![l.outputs], &l.bias));
    }
    if let Some(prescale) = &l.prescale {
        parts.push(ImportedPart::floats("prescale", vec![l.inputs], prescale));
    }
    layer(name, "linear", l.activation.name(), parts)
}

pub(super) fn table(name: &str, e: &Embedding) -> ImportedLayer {
    let parts = vec![
        ImportedPart::codes("weight", vec![e.rows, e.width], e.table.as_slice()),
        ImportedPart::floats("scale", vec![e.rows], &e.scale),
    ];
    layer(name, "embedding", "", parts)
}

pub(super) fn layer_norm(name: &str, n: &LayerNorm) -> ImportedLayer {
    let parts = vec![
        ImportedPart::floats("gain", vec![n.gain.len()], &n.gain),
        ImportedPart::floats("bias", vec![n.bias.len()], &n.bias),
        ImportedPart::floats("epsilon", vec![1], &[n.epsilon]),
    ];
    layer(name, "layer-norm", "", parts)
}

pub(super) fn rms_norm(name: &str, n: &RmsNorm) -> ImportedLayer {
    let parts = vec![
        ImportedPart::floats("gain", vec![n.gain.len()], &n.gain),
        ImportedPart::floats("epsilon", vec![1], &[n.epsilon]),
    ];
    layer(name, "rms-norm", "", parts)
}

pub(super) fn rotary(name: &str, r: &Rotary) -> ImportedLayer {
    let parts = vec![
        ImportedPart::floats("table", vec![r.positions, r.width], &r.table),
        ImportedPart::floats("heads", vec![1], &[r.heads as f32]),
    ];
    layer(name, "rotary", "", parts)
}
