//! Exact layers in the form in which packages are written.

use crate::model::{ImportedLayer, ImportedPart};
use ostrakon_exact::{Embedding, LayerNorm, Linear};

fn layer(name: &str, kind: &str, activation: &str, parts: Vec<ImportedPart>) -> ImportedLayer {
    ImportedLayer { name: name.to_owned(), kind: kind.to_owned(), activation: activation.to_owned(), parts }
}

pub(super) fn linear(name: &str, l: &Linear) -> ImportedLayer {
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
