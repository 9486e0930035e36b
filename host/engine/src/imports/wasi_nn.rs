//! `wasi:nn`: tensors, errors, graphs, and their execution.
//!
//! `tensor` has a constructor, which cannot return an error: a length that does not fit the shape ends
//! the call as a trap, a quota as a host fault. `compute` takes its inputs over, so they are gone
//! whether or not it succeeds. `load` is refused unless the operator allows it: then OpenVINO parses bytes that a
//! component made.

use crate::admission::interface::{ERRORS, GRAPH, INFERENCE, TENSOR};
use crate::cost;
use crate::state::{ContextEntry, ErrorEntry, GraphEntry, NnView, TensorEntry, charge, stop, visible};
use ostrakon_nn::{Encoding as GraphEncoding, GraphShape, NnError, Tensor, TensorType};
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType, WasmList};
use wasmtime::{Result, StoreContextMut};

/// `tensor.tensor-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum ElementType {
    #[component(name = "FP16")]
    Fp16,
    #[component(name = "FP32")]
    Fp32,
    #[component(name = "FP64")]
    Fp64,
    #[component(name = "BF16")]
    Bf16,
    #[component(name = "U8")]
    U8,
    #[component(name = "I32")]
    I32,
    #[component(name = "I64")]
    I64,
}

impl From<ElementType> for TensorType {
    fn from(ty: ElementType) -> Self {
        match ty {
            ElementType::Fp16 => Self::Fp16,
            ElementType::Fp32 => Self::Fp32,
            ElementType::Fp64 => Self::Fp64,
            ElementType::Bf16 => Self::Bf16,
            ElementType::U8 => Self::U8,
            ElementType::I32 => Self::I32,
            ElementType::I64 => Self::I64,
        }
    }
}

impl From<TensorType> for ElementType {
    fn from(ty: TensorType) -> Self {
        match ty {
            TensorType::Fp16 => Self::Fp16,
            TensorType::Fp32 => Self::Fp32,
            TensorType::Fp64 => Self::Fp64,
            TensorType::Bf16 => Self::Bf16,
            TensorType::U8 => Self::U8,
            TensorType::I32 => Self::I32,
            TensorType::I64 => Self::I64,
        }
    }
}

/// `errors.error-code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
enum ErrorCode {
    #[component(name = "invalid-argument")]
    InvalidArgument,
    #[component(name = "invalid-encoding")]
    InvalidEncoding,
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "runtime-error")]
    RuntimeError,
    #[component(name = "unsupported-operation")]
    UnsupportedOperation,
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "not-found")]
    NotFound,
    #[component(name = "security")]
    Security,
    #[component(name = "unknown")]
    Unknown,
}

impl From<&NnError> for ErrorCode {
    fn from(error: &NnError) -> Self {
        match error {
            NnError::InvalidArgument(_) => Self::InvalidArgument,
            NnError::InvalidEncoding(_) => Self::InvalidEncoding,
            NnError::Timeout(_) => Self::Timeout,
            NnError::Runtime(_) => Self::RuntimeError,
            NnError::Unsupported(_) => Self::UnsupportedOperation,
            NnError::TooLarge(_) => Self::TooLarge,
            NnError::NotFound(_) => Self::NotFound,
            NnError::Security(_) => Self::Security,
            NnError::Unknown(_) => Self::Unknown,
        }
    }
}

/// `graph.graph-encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "the component chooses the variant")]
enum Encoding {
    #[component(name = "openvino")]
    Openvino,
    #[component(name = "onnx")]
    Onnx,
    #[component(name = "tensorflow")]
    Tensorflow,
    #[component(name = "pytorch")]
    Pytorch,
    #[component(name = "tensorflowlite")]
    Tensorflowlite,
    #[component(name = "ggml")]
    Ggml,
    #[component(name = "autodetect")]
    Autodetect,
}

impl Encoding {
    /// As the host knows it.
    fn known(self) -> std::result::Result<GraphEncoding, NnError> {
        match self {
            Self::Openvino => Ok(GraphEncoding::OpenVino),
            Self::Onnx => Ok(GraphEncoding::Onnx),
            other => {
                let text = format!("graphs in the encoding {other:?} are not run here: only openvino and onnx are");
                Err(NnError::InvalidEncoding(text))
            }
        }
    }
}

/// `graph.execution-target`. The host decides where it computes.
#[derive(Debug, Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "the component chooses the variant")]
enum Target {
    #[component(name = "cpu")]
    Cpu,
    #[component(name = "gpu")]
    Gpu,
    #[component(name = "tpu")]
    Tpu,
}

type Store<'a, T> = StoreContextMut<'a, T>;
type OrError<T> = std::result::Result<T, Resource<ErrorEntry>>;
type Named = (String, Resource<TensorEntry>);

pub(crate) fn link<T: NnView>(linker: &mut Linker<T>) -> Result<()> {
    link_tensor(linker)?;
    link_errors(linker)?;
    link_inference(linker)?;
    link_graph(linker)
}

fn link_tensor<T: NnView>(linker: &mut Linker<T>) -> Result<()> {
    let mut interface = linker.instance(TENSOR)?;
    interface.resource("tensor", ResourceType::host::<TensorEntry>(), dropped::<T, TensorEntry>)?;
    interface.func_wrap(
        "[constructor]tensor",
        |mut store: Store<'_, T>, (dims, ty, data): (Vec<u32>, ElementType, WasmList<u8>)| {
            charge(&mut store, cost::copy(data.len() as u64))?;
            let meter = store.data().nn().meter.clone();
            let tensor = Tensor::charged_copy(&meter, dims, ty.into(), data.as_le_slice(&store));
            let handle =
                tensor.and_then(|tensor| store.data_mut().nn_mut().keep(tensor)).map_err(|error| stop(&error))?;
            Ok((handle,))
        },
    )?;
    interface.func_wrap("[method]tensor.dimensions", |mut store: Store<'_, T>, (x,): (Resource<TensorEntry>,)| {
        charge(&mut store, cost::call())?;
        Ok((store.data().nn().get(&x)?.tensor.dims().to_vec(),))
    })?;
    interface.func_wrap("[method]tensor.ty", |mut store: Store<'_, T>, (x,): (Resource<TensorEntry>,)| {
        charge(&mut store, cost::call())?;
        Ok((ElementType::from(store.data().nn().get(&x)?.tensor.ty()),))
    })?;
    interface.func_wrap("[method]tensor.data", |mut store: Store<'_, T>, (x,): (Resource<TensorEntry>,)| {
        let tensor = store.data().nn().tensor(&x)?;
        charge(&mut store, cost::copy(tensor.byte_len() as u64))?;
        tensor.bring().map_err(|error| stop(&error))?;
        Ok((tensor.to_bytes(),))
    })
}

fn link_errors<T: NnView>(linker: &mut Linker<T>) -> Result<()> {
    let mut interface = linker.instance(ERRORS)?;
    interface.resource("error", ResourceType::host::<ErrorEntry>(), dropped::<T, ErrorEntry>)?;
    interface.func_wrap("[method]error.code", |mut store: Store<'_, T>, (error,): (Resource<ErrorEntry>,)| {
        charge(&mut store, cost::call())?;
        Ok((ErrorCode::from(&store.data().nn().get(&error)?.error),))
    })?;
    interface.func_wrap("[method]error.data", |mut store: Store<'_, T>, (error,): (Resource<ErrorEntry>,)| {
        let text = store.data().nn().get(&error)?.error.text().to_owned();
        charge(&mut store, cost::copy(text.len() as u64))?;
        Ok((text,))
    })
}

fn link_graph<T: NnView>(linker: &mut Linker<T>) -> Result<()> {
    let mut interface = linker.instance(GRAPH)?;
    interface.resource("graph", ResourceType::host::<GraphEntry>(), dropped::<T, GraphEntry>)?;
    interface.func_wrap(
        "load",
        |mut store: Store<'_, T>, (parts, encoding, _): (Vec<WasmList<u8>>, Encoding, Target)| {
            let bytes = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.len() as u64));
            charge(&mut store, cost::lookup("").saturating_add(cost::copy(bytes)))?;
            let loaded = load(&mut store, &parts, encoding);
            Ok((or_error(&mut store, loaded)?,))
        },
    )?;
    interface.func_wrap("load-by-name", |mut store: Store<'_, T>, (name,): (String,)| {
        charge(&mut store, cost::lookup(&name))?;
        let loaded = store.data().nn().host.graph(&name).and_then(|graph| store.data_mut().nn_mut().keep_graph(graph));
        Ok((or_error(&mut store, loaded)?,))
    })?;
    interface.func_wrap(
        "[method]graph.init-execution-context",
        |mut store: Store<'_, T>, (graph,): (Resource<GraphEntry>,)| {
            charge(&mut store, cost::call())?;
            let graph = store.data().nn().get(&graph)?.graph.clone();
            let context = store.data_mut().nn_mut().keep_context(graph);
            Ok((or_error(&mut store, context)?,))
        },
    )
}

fn load<T: NnView>(
    store: &mut Store<'_, T>,
    parts: &[WasmList<u8>],
    encoding: Encoding,
) -> std::result::Result<Resource<GraphEntry>, NnError> {
    let host = std::sync::Arc::clone(&store.data().nn().host);
    host.may_load()?;
    let encoding = encoding.known()?;
    let bytes = parts.iter().map(|part| part.as_le_slice(&*store).to_vec()).collect();
    let graph = host.load(&store.data().nn().meter, encoding, bytes)?;
    store.data_mut().nn_mut().keep_graph(graph)
}

fn link_inference<T: NnView>(linker: &mut Linker<T>) -> Result<()> {
    let mut interface = linker.instance(INFERENCE)?;
    interface.resource("graph-execution-context", ResourceType::host::<ContextEntry>(), dropped::<T, ContextEntry>)?;
    interface.func_wrap(
        "[method]graph-execution-context.compute",
        |mut store: Store<'_, T>, (context, inputs): (Resource<ContextEntry>, Vec<Named>)| {
            let outputs = compute(&mut store, &context, inputs)?;
            Ok((or_error(&mut store, outputs)?,))
        },
    )
}

fn compute<T: NnView>(
    store: &mut Store<'_, T>,
    context: &Resource<ContextEntry>,
    inputs: Vec<Named>,
) -> Result<std::result::Result<Vec<Named>, NnError>> {
    let graph = store.data().nn().get(context)?.graph.clone();
    let mut taken = Vec::with_capacity(inputs.len());
    for (name, handle) in inputs {
        taken.push((name, store.data_mut().nn_mut().take(handle)?.tensor));
    }
    let fuel = taken.iter().fold(cost::call(), |sum, (_, x)| sum.saturating_add(work(graph.shape(), x)));
    let is_float = graph.shape() == GraphShape::Float;
    charge(store, fuel.saturating_add(if is_float { cost::graph() } else { 0 }))?;
    let state = store.data_mut().nn_mut();
    let computed = state.host.compute(&state.meter, &graph, taken);
    if let (true, Ok(outputs)) = (is_float, &computed) {
        let bytes = outputs.iter().fold(0u64, |sum, (_, y)| sum.saturating_add(y.byte_len() as u64));
        charge(store, cost::copy(bytes))?;
    }
    let state = store.data_mut().nn_mut();
    Ok(computed.and_then(|outputs| outputs.into_iter().map(|(name, tensor)| Ok((name, state.keep(tensor)?))).collect()))
}

/// What a layer costs for one of its inputs.
fn work(shape: GraphShape, input: &Tensor) -> u64 {
    match shape {
        GraphShape::Linear { inputs, outputs, activation } => {
            let limbs = if activation.max_code() > 255 { 2 } else { 1 };
            cost::linear(input, inputs as u64, outputs as u64, limbs)
        }
        GraphShape::Embedding { width, .. } => cost::embedding(input, width as u64),
        GraphShape::LayerNorm { .. } => cost::layer_norm(input),
        GraphShape::RmsNorm { .. } => cost::rms_norm(input),
        GraphShape::Rotary { .. } => cost::rotary(input),
        GraphShape::Float => cost::copy(input.byte_len() as u64),
    }
}

/// The result as the component shall see it.
fn or_error<T: NnView, V>(store: &mut Store<'_, T>, result: std::result::Result<V, NnError>) -> Result<OrError<V>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => {
            let error = visible(error)?;
            Ok(Err(store.data_mut().nn_mut().keep_error(error)?))
        }
    }
}

/// The component dropped its handle.
fn dropped<T: NnView, E: Send + 'static>(mut store: Store<'_, T>, rep: u32) -> Result<()> {
    store.data_mut().nn_mut().take(Resource::<E>::new_own(rep))?;
    Ok(())
}
