//! Graphs: the layers of a package, prepared for use.
//!
//! Preparing a layer packs its weights for the backend, which takes time and memory. It is done once
//! per [`Host`](crate::Host): every instance that loads the name gets the same [`Graph`].
//!
//! Two callers that ask for the same layer at the same time meet at its slot, and the second waits for
//! the first; callers of different layers do not wait for each other. A failure is not kept: names come
//! from guests, and a table of refused names would be theirs to fill.
//!
//! A prepared layer keeps no copy of its raw bytes beside what the backend packed. A [`Linear`] goes on
//! referring to its codes, but where they are a view of a memory map the kernel takes the pages back as
//! soon as it wants them.

use crate::device::DeviceLayer;
use crate::float::{FloatGraph, Port, RawGraph};
use crate::{Charge, Meter, NnError, Quotas, RawLayer, Resource};
use ostrakon_exact::simd::{CpuProduct, Product, ProductError};
use ostrakon_exact::{Activation, Embedding, LayerNorm, Linear, RmsNorm, Rotary};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A layer ready to compute. Cloning copies nothing.
#[derive(Clone)]
pub struct Graph(Arc<Prepared>);

struct Prepared {
    name: String,
    operation: Operation,
    on_device: OnDevice,
    /// What it takes of the host's [`GraphLimits`], and of the caller who brought it.
    _charges: Vec<Charge>,
}

pub(crate) enum Operation {
    Linear { layer: Arc<Linear>, product: Box<dyn Product> },
    Embedding(Embedding),
    LayerNorm(LayerNorm),
    RmsNorm(RmsNorm),
    Rotary(Rotary),
    Float(FloatGraph),
}

/// A layer as the backend's device holds it, if there is a device and the layer is not linear.
pub(crate) type OnDevice = Option<Box<dyn DeviceLayer>>;

/// What a graph is made from.
pub(crate) enum Raw {
    Layer(RawLayer),
    Float(RawGraph),
}

impl Raw {
    fn byte_len(&self) -> u64 {
        match self {
            Self::Layer(layer) => layer.byte_len(),
            Self::Float(graph) => graph.byte_len(),
        }
    }
}

/// What a graph computes and how wide it is: enough to know the cost of a call and the size of its
/// result before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphShape {
    /// `x` [R, inputs] to `y` [R, outputs].
    Linear {
        /// Columns of `x`.
        inputs: usize,
        /// Columns of `y`.
        outputs: usize,
        /// How `x` is coded.
        activation: Activation,
    },
    /// `ids[R]` to `y` [R, width].
    Embedding {
        /// Rows of the table.
        rows: usize,
        /// Columns of `y`.
        width: usize,
    },
    /// `x` and perhaps `residual` [R, width] to `y` [R, width].
    LayerNorm {
        /// Columns.
        width: usize,
    },
    /// `x` [R, width] to `y` [R, width].
    RmsNorm {
        /// Columns.
        width: usize,
    },
    /// `x` [R, at least heads * width] and `positions[R]` to `y` of the shape of `x`.
    Rotary {
        /// Rows of the table.
        positions: usize,
        /// Heads that are turned.
        heads: usize,
        /// Columns of a head.
        width: usize,
    },
    /// A graph in floating point: its [`Graph::inputs`] to its [`Graph::outputs`].
    Float,
}

impl Graph {
    pub(crate) fn new(name: &str, operation: Operation, on_device: OnDevice, charges: Vec<Charge>) -> Self {
        Self(Arc::new(Prepared { name: name.to_owned(), operation, on_device, _charges: charges }))
    }

    /// The full name of the layer, or the name of the graph.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it computes.
    pub fn shape(&self) -> GraphShape {
        match &self.0.operation {
            Operation::Linear { layer, .. } => {
                GraphShape::Linear { inputs: layer.inputs, outputs: layer.outputs, activation: layer.activation }
            }
            Operation::Embedding(layer) => GraphShape::Embedding { rows: layer.rows, width: layer.width },
            Operation::LayerNorm(layer) => GraphShape::LayerNorm { width: layer.gain.len() },
            Operation::RmsNorm(layer) => GraphShape::RmsNorm { width: layer.gain.len() },
            Operation::Rotary(layer) => {
                GraphShape::Rotary { positions: layer.positions, heads: layer.heads, width: layer.width }
            }
            Operation::Float(_) => GraphShape::Float,
        }
    }

    /// What goes into a graph in floating point. Empty for a layer.
    pub fn inputs(&self) -> &[Port] {
        match &self.0.operation {
            Operation::Float(graph) => graph.inputs(),
            _ => &[],
        }
    }

    /// What comes out of a graph in floating point. Empty for a layer.
    pub fn outputs(&self) -> &[Port] {
        match &self.0.operation {
            Operation::Float(graph) => graph.outputs(),
            _ => &[],
        }
    }

    /// Whether both are the same prepared layer.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn operation(&self) -> &Operation {
        &self.0.operation
    }

    /// The layer on the device of the host's backend.
    pub(crate) fn on_device(&self) -> Result<&dyn DeviceLayer, NnError> {
        let missing = || NnError::Runtime(format!("layer `{}` is not on the device", self.name()));
        self.0.on_device.as_deref().ok_or_else(missing)
    }

    fn product(&self) -> Result<&dyn Product, ProductError> {
        match self.operation() {
            Operation::Linear { product, .. } => Ok(product.as_ref()),
            _ => Err(ProductError::Unavailable(format!("layer `{}` is not linear", self.name()))),
        }
    }
}

/// The product of a linear layer, for whoever multiplies something else than codes of activations. Other graphs have none.
impl Product for Graph {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        self.product()?.product_u8(codes, rows, totals)
    }

    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        self.product()?.product_u16(codes, rows, totals)
    }

    fn as_cpu(&self) -> Option<&CpuProduct> {
        self.product().ok()?.as_cpu()
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} {:?})", self.name(), self.shape())
    }
}

/// How much a host prepares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphLimits {
    /// Layers.
    pub layers: u32,
    /// Bytes of their parts as the package stores them. What a backend makes of them is in proportion:
    /// about twice as much where a CPU packs codes as pairs of 16 bits, several times as much with OpenVINO in f32.
    pub bytes: u64,
    /// Whether a component may bring a graph in floating point as bytes (wasi-nn's `load`). OpenVINO would parse
    /// them in this process, so whoever allows it trusts the components not to attack OpenVINO.
    pub allow_load: bool,
}

impl Default for GraphLimits {
    /// More than the largest model this machine could run; no graphs but those of the package.
    fn default() -> Self {
        Self { layers: 16_384, bytes: 64 << 30, allow_load: false }
    }
}

/// The prepared layers of a host.
pub(crate) struct Graphs {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    meter: Meter,
}

type Slot = Mutex<Option<Graph>>;

impl Graphs {
    pub(crate) fn new(limits: GraphLimits) -> Self {
        let quotas = Quotas { bytes: limits.bytes, graphs: limits.layers, ..Quotas::default() };
        Self { slots: Mutex::default(), meter: Meter::new(quotas) }
    }

    /// The graph called `name`. If it is not there yet, `read` finds what it is made from and `pack` makes it
    /// ready; the limits are charged between the two.
    pub(crate) fn get(
        &self,
        name: &str,
        read: impl FnOnce() -> Result<Raw, NnError>,
        pack: impl FnOnce(Raw) -> Result<(Operation, OnDevice), NnError>,
    ) -> Result<Graph, NnError> {
        let slot = Arc::clone(lock(&self.slots).entry(name.to_owned()).or_default());
        let mut graph = lock(&slot);
        if let Some(graph) = &*graph {
            return Ok(graph.clone());
        }
        match self.prepare(name, read, pack) {
            Ok(made) => {
                *graph = Some(made.clone());
                Ok(made)
            }
            Err(error) => {
                drop(graph);
                let mut slots = lock(&self.slots);
                drop(slot);
                // Slots are taken under this lock and, after a failure, given back under it. So a slot
                // that only the table owns is one that nobody waits for.
                let abandoned = |slot: &Arc<Slot>| Arc::strong_count(slot) == 1 && lock(slot).is_none();
                if slots.get(name).is_some_and(abandoned) {
                    slots.remove(name);
                }
                Err(error)
            }
        }
    }

    fn prepare(
        &self,
        name: &str,
        read: impl FnOnce() -> Result<Raw, NnError>,
        pack: impl FnOnce(Raw) -> Result<(Operation, OnDevice), NnError>,
    ) -> Result<Graph, NnError> {
        let raw = read()?;
        let charges = self.room(name, raw.byte_len())?;
        let (operation, on_device) = pack(raw)?;
        Ok(Graph::new(name, operation, on_device, charges))
    }

    /// Room for a graph of so many bytes.
    pub(crate) fn room(&self, name: &str, bytes: u64) -> Result<Vec<Charge>, NnError> {
        let room = |resource, amount| {
            // What fits depends on what else the host has loaded, so it is not the caller's fault.
            self.meter.charge(resource, amount).map_err(|error| {
                NnError::Runtime(format!("the host has no room to prepare layer `{name}`: {}", error.text()))
            })
        };
        Ok(vec![room(Resource::Graphs, 1)?, room(Resource::Bytes, bytes)?])
    }

    #[cfg(test)]
    pub(crate) fn slots(&self) -> usize {
        lock(&self.slots).len()
    }
}

/// A panic while a slot was locked leaves it empty, so what it guards is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
