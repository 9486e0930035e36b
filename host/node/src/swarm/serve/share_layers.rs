//! The linear layers of a package that shares are multiplied with.
//!
//! # How
//!
//! 1. When the package is loaded, the layers of the served blocks are listed with their sizes. Peers add nothing to the list:
//!    a name that is not in it is refused.
//! 2. A layer's product is made when it is first wanted, and kept. Mostly it shares what the backend has packed for the
//!    blocks.

use crate::error::NodeError;
use crate::load::Model;
use ostrakon_exact::Activation;
use ostrakon_exact::field::{Field, ShareProduct};
use ostrakon_nn::{Host, NnError};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The layers, by their full names.
pub(super) struct ShareLayers {
    host: Arc<Host>,
    layers: HashMap<String, ShareLayer>,
}

/// One layer.
pub(super) struct ShareLayer {
    /// Whose it is.
    block: u32,
    /// Columns of a share.
    pub(super) inputs: usize,
    /// Columns of the product, at most.
    pub(super) most_columns: usize,
    product: Mutex<Option<Arc<ShareProduct>>>,
}

impl ShareLayers {
    /// Those of these blocks.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub(super) fn of(model: &Model, blocks: &Range<u32>) -> Result<Self, NodeError> {
        let host = model.host();
        let mut layers = HashMap::new();
        for (at, open) in (0u32..).zip(&model.blocks).filter(|(at, _)| blocks.contains(at)) {
            let Some(block) = model.manifest().block(&open.name) else { continue };
            for layer in block.layers.iter().filter(|layer| layer.kind == "linear") {
                let name = format!("{}.{}", block.name, layer.name);
                let wrong = |why: &str| NodeError::Setting(format!("the layer `{name}` of the package: {why}"));
                let raw = host.raw(&name).map_err(|error| wrong(error.text()))?;
                let weight = raw.parts.iter().find(|part| part.name == "weight").map(|part| part.dimensions.as_slice());
                let Some(&[outputs, inputs]) = weight else { return Err(wrong("it has no matrix of weights")) };
                let activation = Activation::from_name(&raw.activation).ok_or_else(|| wrong("it has no activation"))?;
                let most_columns = outputs.saturating_mul(most_parts(activation, inputs));
                layers.insert(name, ShareLayer { block: at, inputs, most_columns, product: Mutex::default() });
            }
        }
        Ok(Self { host, layers })
    }

    /// What computes.
    pub(super) const fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The layer of this name, if it is of one of these blocks.
    pub(super) fn find(&self, name: &str, blocks: &Range<u32>) -> Option<&ShareLayer> {
        self.layers.get(name).filter(|layer| blocks.contains(&layer.block))
    }

    /// The layers of these blocks.
    pub(super) fn of_blocks(&self, blocks: &Range<u32>) -> impl Iterator<Item = &ShareLayer> {
        self.layers.values().filter(|layer| blocks.contains(&layer.block))
    }

    /// What multiplies with this layer.
    ///
    /// # Errors
    /// It cannot be made ready.
    pub(super) fn product(&self, name: &str) -> Result<Arc<ShareProduct>, NnError> {
        let layer = self.layers.get(name).ok_or_else(|| NnError::NotFound(name.to_owned()))?;
        let mut product = layer.product.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(product) = &*product {
            return Ok(Arc::clone(product));
        }
        let made = Arc::new(self.host.share_product(name)?);
        *product = Some(Arc::clone(&made));
        Ok(made)
    }
}

/// Parts of a layer, at most: in the larger field, each but the last has at least as many columns as fit with the largest weights.
const fn most_parts(activation: Activation, inputs: usize) -> usize {
    let least_columns = (Field::P31.prime() - 1) as usize / (activation.max_code() as usize * 127);
    inputs.div_ceil(least_columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_layer_has_more_parts() {
        assert_eq!(most_parts(Activation::U8, 66_000), 1);
        assert_eq!(most_parts(Activation::U16, 258), 1);
        assert_eq!(most_parts(Activation::U16, 259), 2);
    }
}
