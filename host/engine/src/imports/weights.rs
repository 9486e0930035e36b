//! `ostrakon:plugin/weights`: the bytes of a layer, for components that do their own arithmetic.

use crate::admission::interface::WEIGHTS;
use crate::cost;
use crate::state::{State, charge, visible};
use ostrakon_nn::RawLayer;
use wasmtime::component::{ComponentType, Linker, Lower};
use wasmtime::{Result, StoreContextMut};

/// `weights.part`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Part {
    name: String,
    dimensions: Vec<u32>,
    data: Vec<u8>,
}

/// `weights.layer`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Layer {
    kind: String,
    activation: String,
    parts: Vec<Part>,
}

pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(WEIGHTS)?.func_wrap("read", |mut store: StoreContextMut<'_, State>, (name,): (String,)| {
        charge(&mut store, cost::lookup(&name))?;
        let layer = match store.data().host.raw(&name) {
            Ok(raw) => {
                // The package's own bytes: their number is the same on every machine.
                charge(&mut store, cost::copy(raw.byte_len()))?;
                layer(raw)
            }
            Err(error) => Err(visible(error)?.text().to_owned()),
        };
        Ok((layer,))
    })
}

fn layer(raw: RawLayer) -> std::result::Result<Layer, String> {
    let mut parts = Vec::with_capacity(raw.parts.len());
    for part in raw.parts {
        let dimensions = part.dimensions.iter().map(|&n| u32::try_from(n)).collect::<std::result::Result<_, _>>();
        let dimensions = dimensions.map_err(|_| format!("part `{}` has a dimension beyond 32 bits", part.name))?;
        parts.push(Part { name: part.name, dimensions, data: (*part.data).as_ref().to_vec() });
    }
    Ok(Layer { kind: raw.kind, activation: raw.activation, parts })
}
