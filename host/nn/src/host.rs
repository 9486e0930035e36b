//! A host: the layers of one package, a backend and an executor, shared by all instances.

use crate::float::{Encoding, FloatGraph, FloatSettings, RawGraph};
use crate::graph::{Graphs, OnDevice, Operation, Raw};
use crate::layers::check_name;
use crate::observer::{Observer, OperationKind};
use crate::spares::Spares;
use crate::{
    Graph, GraphLimits, LayerSource, MemoryLayers, Meter, NnError, ProvenBackend, Quotas, RawLayer, Resource, Tensor,
};
use ostrakon_exact::Layer;
use ostrakon_exact::field::ShareProduct;
use ostrakon_exact::simd::Executor;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// What answers `wasi:nn` and `exact` for the instances of one package.
///
/// Put it in an [`Arc`]; all methods take `&self` and may be called from many threads. Operations are in
/// [`operations`](crate::operations).
pub struct Host {
    pub(crate) executor: Arc<Executor>,
    backend: ProvenBackend,
    layers: Arc<dyn LayerSource>,
    graphs: Graphs,
    float: FloatSettings,
    allow_load: bool,
    spares: Arc<Spares>,
    observer: Option<Arc<dyn Observer>>,
}

impl Host {
    /// A host with the default limits.
    pub fn new(executor: Arc<Executor>, backend: ProvenBackend, layers: Arc<dyn LayerSource>) -> Self {
        Self::with_limits(executor, backend, layers, GraphLimits::default())
    }

    /// A host that prepares no more than `limits`.
    pub fn with_limits(
        executor: Arc<Executor>,
        backend: ProvenBackend,
        layers: Arc<dyn LayerSource>,
        limits: GraphLimits,
    ) -> Self {
        let float = FloatSettings { installed: None, threads: executor.threads() };
        Self {
            executor,
            backend,
            layers,
            graphs: Graphs::new(limits),
            float,
            allow_load: limits.allow_load,
            spares: Arc::default(),
            observer: None,
        }
    }

    /// A host without layers: for components that only do arithmetic on tensors. Nothing is proved and nothing is
    /// prepared.
    pub fn without_layers(executor: Arc<Executor>) -> Self {
        Self::new(executor, ProvenBackend::none(), Arc::new(MemoryLayers::new()))
    }

    /// The same host, which looks for OpenVINO in the directory in which `make setup` puts releases too. It does so
    /// when the first graph in floating point is asked for.
    #[must_use]
    pub fn with_openvino(mut self, installed: PathBuf) -> Self {
        self.float.installed = Some(installed);
        self
    }

    /// A meter for a new caller.
    pub fn meter(&self, quotas: Quotas) -> Meter {
        Meter::with_spares(quotas, &self.spares)
    }

    /// The same host, with somebody who is told of every operation.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    pub(crate) const fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// Hand the result of an operation over, telling the observer if there is one, who sees tensors of the host.
    pub(crate) fn done(
        &self,
        kind: impl FnOnce() -> OperationKind,
        inputs: &[(&str, &Tensor)],
        output: Tensor,
    ) -> Result<Tensor, NnError> {
        if let Some(observer) = &self.observer {
            inputs.iter().try_for_each(|(_, input)| input.bring())?;
            output.bring()?;
            observer.operation(&kind(), inputs, &output);
        }
        Ok(output)
    }

    /// The parts of a layer as the package stores them, whether or not it has been prepared.
    ///
    /// # Errors
    /// A name that is none or reaches outside the package, no such layer, bytes that cannot be read.
    pub fn raw(&self, name: &str) -> Result<RawLayer, NnError> {
        check_name(name)?;
        Ok(self.layers.raw(name)?)
    }

    /// The layer or graph called `name`, prepared. The first call prepares it; later calls, from any instance,
    /// share it.
    ///
    /// # Errors
    /// As [`Host::raw`]; parts that do not make a layer, bytes that do not make a graph; limits of the host; a
    /// backend that fails.
    pub fn graph(&self, name: &str) -> Result<Graph, NnError> {
        check_name(name)?;
        let read = || {
            Ok(match self.layers.graph(name)? {
                Some(graph) => Raw::Float(graph),
                None => Raw::Layer(self.layers.raw(name)?),
            })
        };
        self.graphs.get(name, read, |raw| match raw {
            Raw::Float(raw) => Ok((self.open(name, &raw)?, None)),
            Raw::Layer(raw) => {
                let layer = Layer::from_parts(&raw.kind, &raw.activation, raw.parts)
                    .map_err(|error| NnError::InvalidEncoding(format!("layer `{name}`: {error}")))?;
                self.pack(name, layer)
            }
        })
    }

    fn pack(&self, name: &str, layer: Layer) -> Result<(Operation, OnDevice), NnError> {
        let on_device = match self.backend.device().filter(|_| !matches!(layer, Layer::Linear(_))) {
            Some(device) => Some(device.place(&layer).map_err(|error| error.before(&format!("layer `{name}`: ")))?),
            None => None,
        };
        let operation = match layer {
            Layer::Linear(layer) => {
                let layer = Arc::new(layer);
                let product = self.backend.prepare(name, &layer)?;
                Operation::Linear { layer, product }
            }
            Layer::Embedding(layer) => Operation::Embedding(layer),
            Layer::LayerNorm(layer) => Operation::LayerNorm(layer),
            Layer::RmsNorm(layer) => Operation::RmsNorm(layer),
            Layer::Rotary(layer) => Operation::Rotary(layer),
        };
        Ok((operation, on_device))
    }

    /// The server's side of the linear layer called `name`, for products of secret shares, over the backend. Where the layer
    /// has one part, which is nearly always, it shares the weights that the backend has packed; otherwise each part is
    /// packed once more.
    ///
    /// # Errors
    /// As [`Host::graph`]; a layer that is not linear.
    pub fn share_product(&self, name: &str) -> Result<ShareProduct, NnError> {
        let graph = self.graph(name)?;
        let Operation::Linear { layer, .. } = graph.operation() else {
            return Err(NnError::InvalidArgument(format!("layer `{name}` is not linear: it has no product")));
        };
        ShareProduct::new(Arc::clone(&self.executor), layer, |part| {
            if Arc::ptr_eq(part, layer) { Ok(Box::new(graph.clone())) } else { self.backend.prepare(name, part) }
        })
    }

    fn open(&self, name: &str, raw: &RawGraph) -> Result<Operation, NnError> {
        let graph = FloatGraph::open(raw, &self.float).map_err(|error| error.before(&format!("graph `{name}`: ")))?;
        Ok(Operation::Float(graph))
    }

    /// Whether a component may bring a graph as bytes.
    ///
    /// # Errors
    /// The operator does not allow it.
    pub fn may_load(&self) -> Result<(), NnError> {
        if self.allow_load {
            return Ok(());
        }
        Err(NnError::Security(
            "graphs made of raw bytes are not loaded here: use load-by-name with a layer of the package".to_owned(),
        ))
    }

    /// A graph in floating point that a caller brings as bytes: the `load` of wasi-nn. The bytes are charged to the
    /// caller for as long as the graph is there.
    ///
    /// # Errors
    /// As [`Host::may_load`]; a number of buffers that the encoding does not have; the caller's quota; as
    /// [`Host::graph`].
    pub fn load(&self, meter: &Meter, encoding: Encoding, parts: Vec<Vec<u8>>) -> Result<Graph, NnError> {
        self.may_load()?;
        let raw = RawGraph::from_parts(encoding, parts)?;
        let bytes = raw.byte_len();
        let mut charges = vec![meter.charge(Resource::Bytes, bytes)?];
        charges.extend(self.graphs.room("loaded", bytes)?);
        Ok(Graph::new("loaded", self.open("loaded", &raw)?, None, charges))
    }

    /// The backend.
    pub const fn backend(&self) -> &ProvenBackend {
        &self.backend
    }

    /// The executor.
    pub const fn executor(&self) -> &Arc<Executor> {
        &self.executor
    }

    #[cfg(test)]
    pub(crate) fn known_names(&self) -> usize {
        self.graphs.slots()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({}, {} threads)", self.backend.name(), self.executor.threads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CpuBackend, MemoryLayers};
    use ostrakon_exact::field::{Field, Parts, reference};
    use ostrakon_exact::simd::{Level, Product};

    #[test]
    fn shares_are_multiplied_whole_or_in_parts() {
        const ROWS: usize = 3;
        let executor = Arc::new(Executor::new(Level::detect(), 2).unwrap());
        let backend = ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))).unwrap();
        let mut layers = MemoryLayers::new();
        // Only the last one has more than one part.
        for (name, activation, inputs, weight) in [
            ("b.eight", "u8", 40, -3),
            ("b.sixteen", "u16", 40, 5),
            ("b.large", "u16", 40, 100),
            ("b.wide", "u16", 600, -127),
        ] {
            let weight: Vec<i8> = (0..2 * inputs).map(|k| if k % 7 == 0 { 1 } else { weight }).collect();
            layers.insert_linear(name, activation, &weight, &[1.0, 1.0], &[], &[]);
        }
        layers.insert_layer_norm("b.norm", &[1.0], &[0.0], 1e-5);
        let host = Host::new(executor, backend, Arc::new(layers));
        for (name, field, columns) in [
            ("b.eight", Field::P24, 2),
            ("b.sixteen", Field::P24, 2),
            ("b.large", Field::P31, 2),
            ("b.wide", Field::P31, 4),
        ] {
            let graph = host.graph(name).unwrap();
            let Operation::Linear { layer, .. } = graph.operation() else { panic!("{graph:?}") };
            let product = host.share_product(name).unwrap();
            assert_eq!((product.field(), product.inputs(), product.columns()), (field, layer.inputs, columns));
            let share: Vec<u32> =
                (0..ROWS * layer.inputs).map(|k| field.prime() - 1 - k as u32 * 1_000_003 % 4096).collect();
            let (mut out, mut expected) = (vec![0; ROWS * columns], vec![0; ROWS * columns]);
            product.multiply(&share, ROWS, &mut out).unwrap();
            reference::multiply(layer, &Parts::of(layer), &share, ROWS, &mut expected).unwrap();
            assert_eq!(out, expected, "{name}");
        }
        let error = host.share_product("b.norm").unwrap_err();
        assert!(matches!(error, NnError::InvalidArgument(_)), "{error}");
        assert!(matches!(host.share_product("b.none"), Err(NnError::NotFound(_))));
        // A graph that is not linear has no product.
        let norm = host.graph("b.norm").unwrap();
        assert!(norm.product_u16(&[1], 1, &mut [0]).is_err() && norm.as_cpu().is_none());
    }

    #[test]
    fn refused_names_leave_nothing_behind() {
        let executor = Arc::new(Executor::new(Level::Scalar, 1).unwrap());
        let backend = ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))).unwrap();
        let mut layers = MemoryLayers::new();
        layers.insert_layer_norm("b.norm", &[1.0], &[0.0], 1e-5);
        let host = Host::new(executor, backend, Arc::new(layers));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..200 {
                        assert!(host.graph(&format!("b.{i}")).is_err());
                        assert!(host.graph("b.same").is_err());
                        assert!(host.graph("../x").is_err());
                    }
                });
            }
        });
        assert_eq!(host.known_names(), 0);
        host.graph("b.norm").unwrap();
        assert_eq!(host.known_names(), 1);
    }
}
