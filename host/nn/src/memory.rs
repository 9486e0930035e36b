//! Layers that live in memory: for tests and for models made on the spot.

use crate::{LayerSource, LayerSourceError, RawLayer};
use ostrakon_exact::Part;
use std::collections::HashMap;
use std::sync::Arc;

/// A [`LayerSource`] over owned bytes. Every [`LayerSource::raw`] shares them.
#[derive(Default)]
pub struct MemoryLayers(HashMap<String, Stored>);

struct Stored {
    kind: String,
    activation: String,
    parts: Vec<StoredPart>,
}

struct StoredPart {
    name: String,
    dimensions: Vec<usize>,
    data: Arc<[u8]>,
}

impl MemoryLayers {
    /// No layers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Add a layer of any kind, replacing one of the same name. Nothing is checked here: a wrong layer
    /// is refused when it is loaded, as one from a package would be.
    pub fn insert(&mut self, name: &str, kind: &str, activation: &str, parts: Vec<(&str, Vec<usize>, Vec<u8>)>) {
        let parts = parts
            .into_iter()
            .map(|(name, dimensions, data)| StoredPart { name: name.to_owned(), dimensions, data: Arc::from(data) })
            .collect();
        let stored = Stored { kind: kind.to_owned(), activation: activation.to_owned(), parts };
        self.0.insert(name.to_owned(), stored);
    }

    /// Add a linear layer of `scale.len()` outputs: `weight` is [N, K]; an empty `bias` or `prescale` is
    /// left out.
    pub fn insert_linear(
        &mut self,
        name: &str,
        activation: &str,
        weight: &[i8],
        scale: &[f32],
        bias: &[f32],
        prescale: &[f32],
    ) {
        let mut parts = vec![codes(weight, scale.len()), floats("scale", scale)];
        parts.extend((!bias.is_empty()).then(|| floats("bias", bias)));
        parts.extend((!prescale.is_empty()).then(|| floats("prescale", prescale)));
        self.insert(name, "linear", activation, parts);
    }

    /// Add an embedding table of `scale.len()` rows.
    pub fn insert_embedding(&mut self, name: &str, table: &[i8], scale: &[f32]) {
        self.insert(name, "embedding", "", vec![codes(table, scale.len()), floats("scale", scale)]);
    }

    /// Add a layer norm of `gain.len()` columns.
    pub fn insert_layer_norm(&mut self, name: &str, gain: &[f32], bias: &[f32], epsilon: f32) {
        let parts = vec![floats("gain", gain), floats("bias", bias), floats("epsilon", &[epsilon])];
        self.insert(name, "layer-norm", "", parts);
    }

    /// Add an RMS norm of `gain.len()` columns.
    pub fn insert_rms_norm(&mut self, name: &str, gain: &[f32], epsilon: f32) {
        self.insert(name, "rms-norm", "", vec![floats("gain", gain), floats("epsilon", &[epsilon])]);
    }

    /// Add a rotary embedding of so many heads; `table` has a row of `width` for each position.
    pub fn insert_rotary(&mut self, name: &str, table: &[f32], width: usize, heads: usize) {
        let rows = table.len().checked_div(width).unwrap_or(0);
        let (_, _, bytes) = floats("table", table);
        let parts = vec![("table", vec![rows, width], bytes), floats("heads", &[heads as f32])];
        self.insert(name, "rotary", "", parts);
    }
}

impl LayerSource for MemoryLayers {
    fn raw(&self, name: &str) -> Result<RawLayer, LayerSourceError> {
        let stored = self.0.get(name).ok_or_else(|| LayerSourceError::NotFound { name: name.to_owned() })?;
        let parts = stored.parts.iter().map(|part| Part {
            name: part.name.clone(),
            dimensions: part.dimensions.clone(),
            data: Box::new(Arc::clone(&part.data)),
        });
        Ok(RawLayer { kind: stored.kind.clone(), activation: stored.activation.clone(), parts: parts.collect() })
    }
}

fn codes(values: &[i8], rows: usize) -> (&'static str, Vec<usize>, Vec<u8>) {
    let columns = values.len().checked_div(rows).unwrap_or(0);
    ("weight", vec![rows, columns], bytemuck::cast_slice(values).to_vec())
}

fn floats(name: &'static str, values: &[f32]) -> (&'static str, Vec<usize>, Vec<u8>) {
    (name, vec![values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
}
