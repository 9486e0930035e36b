//! A graph compiled by OpenVINO.

use super::{FloatSettings, Port, RawGraph, in_order};
use crate::openvino::{Floats, OpenVino, OpenVinoError, Settings, failed, lock, tensor};
use crate::tensor::{MAX_RANK, byte_size};
use crate::{Meter, NnError, Resource, Tensor, TensorType};
use openvino::{CompiledModel, ElementType, InferRequest, Node};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Most inputs and most outputs of a graph.
const MAX_PORTS: usize = 256;
/// Longest name of a port, and longest words of OpenVINO that are repeated.
const MAX_TEXT: usize = 1024;

/// A graph ready to compute.
pub(crate) struct FloatGraph {
    compiled: Mutex<CompiledModel>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl FloatGraph {
    /// Read and compile a graph.
    ///
    /// # Errors
    /// [`NnError::InvalidEncoding`] for bytes that OpenVINO cannot read, [`NnError::Unsupported`] for a graph that it
    /// can read and not run, [`NnError::Runtime`] where there is no OpenVINO.
    pub(crate) fn open(raw: &RawGraph, settings: &FloatSettings) -> Result<Self, NnError> {
        raw.check()?;
        let openvino = OpenVino::load(settings.installed.as_deref()).map_err(|e| NnError::Runtime(e.to_string()))?;
        guarded(|| {
            let weights = raw.weights.as_ref().map(|weights| (**weights).as_ref()).filter(|bytes| !bytes.is_empty());
            let weights = weights.map(|bytes| tensor(ElementType::U8, &[bytes.len()], bytes)).transpose();
            let weights = weights.map_err(|error| NnError::Runtime(words(&error)))?;
            let how = Settings { threads: settings.threads, floats: Floats::F32 };
            let compiled = openvino.compile((*raw.model).as_ref(), weights.as_ref(), how).map_err(|e| refused(&e))?;
            let inputs = ports(compiled.get_input_size(), |at| compiled.get_input_by_index(at))?;
            let outputs = ports(compiled.get_output_size(), |at| compiled.get_output_by_index(at))?;
            if outputs.is_empty() {
                return Err(NnError::Unsupported("the graph has no outputs".to_owned()));
            }
            Ok(Self { compiled: Mutex::new(compiled), inputs, outputs })
        })
    }

    pub(crate) fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    pub(crate) fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// All outputs for these inputs.
    ///
    /// # Errors
    /// [`NnError::InvalidArgument`] for inputs that do not fit, or that the graph cannot compute with;
    /// [`NnError::TooLarge`] when the caller's quota does not leave room for the outputs.
    pub(crate) fn compute(
        &self,
        meter: &Meter,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Tensor)>, NnError> {
        let inputs = in_order(&self.inputs, inputs).map_err(NnError::InvalidArgument)?;
        // What is known beforehand is refused beforehand.
        let room = self.outputs.iter().filter_map(known_size).fold(0u64, u64::saturating_add);
        let room = meter.charge(Resource::Bytes, room)?;
        guarded(|| {
            let mut request = self.request().map_err(|error| NnError::Runtime(words(&error)))?;
            self.run(&mut request, &inputs)?;
            drop(room);
            let outputs = self.outputs.iter().enumerate();
            outputs.map(|(at, port)| Ok((port.name.clone(), taken(&request, at, port, meter)?))).collect()
        })
    }

    fn request(&self) -> Result<InferRequest, OpenVinoError> {
        lock(&self.compiled).create_infer_request().map_err(failed("prepare a call"))
    }

    fn run(&self, request: &mut InferRequest, inputs: &[Tensor]) -> Result<(), NnError> {
        for (at, (port, input)) in self.inputs.iter().zip(inputs).enumerate() {
            input.bring()?;
            if port.shape.as_deref() == Some(&[]) {
                single(request, port, input)?;
                continue;
            }
            let shape: Vec<usize> = input.dims().iter().map(|&size| size as usize).collect();
            let made =
                tensor(element(port.element), &shape, &input.bytes()).map_err(|e| NnError::Runtime(words(&e)))?;
            request
                .set_input_tensor_by_index(at, &made)
                .map_err(|e| NnError::InvalidArgument(format!("`{}`: {}", port.name, words(&e))))?;
        }
        // The graph is the package's and the inputs are the caller's: no fault of this machine that can be told.
        request
            .infer()
            .map_err(|error| NnError::InvalidArgument(format!("the graph cannot compute this: {}", words(&error))))
    }
}

/// Give a single value: it has the shape [1] in wasi-nn and no dimensions in OpenVINO, and a tensor of that kind
/// cannot be made through its C interface. The request has one already.
fn single(request: &InferRequest, port: &Port, input: &Tensor) -> Result<(), NnError> {
    let fault = |error: openvino::InferenceError| NnError::Runtime(words(&error));
    let mut own = request.get_tensor(&port.name).map_err(fault)?;
    let (to, from) = (own.get_raw_data_mut().map_err(fault)?, input.bytes());
    if to.len() != from.len() {
        return Err(NnError::Runtime(format!("OpenVINO has {} bytes for `{}`", to.len(), port.name)));
    }
    to.copy_from_slice(&from);
    Ok(())
}

/// The bytes of an output whose shape is known without computing.
fn known_size(port: &Port) -> Option<u64> {
    let sizes: Vec<u32> = port.shape.as_ref()?.iter().copied().collect::<Option<_>>()?;
    byte_size(if sizes.is_empty() { &[1] } else { &sizes }, port.element).ok()
}

/// Copy an output, after it has been charged.
fn taken(request: &InferRequest, at: usize, port: &Port, meter: &Meter) -> Result<Tensor, NnError> {
    let fault = |error: openvino::InferenceError| NnError::Runtime(words(&error));
    let made = request.get_output_tensor_by_index(at).map_err(fault)?;
    let bytes = made.get_byte_size().map_err(fault)?;
    let mut dims = Vec::new();
    match made.get_shape() {
        Ok(shape) => {
            for &size in shape.get_dimensions() {
                let too_large = || NnError::TooLarge(format!("the output `{}` has a dimension of {size}", port.name));
                dims.push(u32::try_from(size).map_err(|_| too_large())?);
            }
        }
        // Its C interface has no shape for a single value.
        Err(_) if bytes == port.element.size() => {}
        Err(error) => return Err(fault(error)),
    }
    if dims.is_empty() {
        dims.push(1);
    }
    let size = byte_size(&dims, port.element)?;
    if size != bytes as u64 {
        let text = format!("OpenVINO gave {bytes} bytes for the output `{}` of {size}", port.name);
        return Err(NnError::Runtime(text));
    }
    // An empty tensor has no memory to look at.
    let data = if bytes == 0 { &[] } else { made.get_raw_data().map_err(fault)? };
    Tensor::charged_copy(meter, dims, port.element, data)
}

fn ports(
    count: Result<usize, openvino::InferenceError>,
    node: impl Fn(usize) -> Result<Node, openvino::InferenceError>,
) -> Result<Vec<Port>, NnError> {
    let fault = |error: openvino::InferenceError| NnError::Runtime(words(&error));
    let count = count.map_err(fault)?;
    if count > MAX_PORTS {
        let text = format!("the graph has {count} inputs or outputs, at most {MAX_PORTS} are supported");
        return Err(NnError::Unsupported(text));
    }
    let mut ports: Vec<Port> = Vec::with_capacity(count);
    for at in 0..count {
        let node = node(at).map_err(fault)?;
        // A port without a name is called by its place.
        let name = node.get_name().unwrap_or_else(|_| at.to_string());
        if name.len() > MAX_TEXT || ports.iter().any(|port| port.name == name) {
            let name: String = name.chars().take(64).collect();
            return Err(NnError::Unsupported(format!("the name {name:?} is there twice, or too long")));
        }
        let ty = node.get_element_type().map_err(fault)?;
        let element = known(ty).ok_or_else(|| {
            NnError::Unsupported(format!("`{name}` is of {ty}, which wasi-nn does not have: convert it in the graph"))
        })?;
        let shape = node.get_partial_shape().map_err(fault)?;
        // Its own `is_dynamic` takes a single value's rank of 0 for an open one, whose maximum is -1.
        let rank = shape.get_rank();
        let shape = if rank.get_max() < 0 || rank.get_min() != rank.get_max() {
            None
        } else {
            let dimensions = shape.get_dimensions();
            if dimensions.len() > MAX_RANK {
                let text = format!("`{name}` has {} dimensions, at most {MAX_RANK} are supported", dimensions.len());
                return Err(NnError::Unsupported(text));
            }
            let size = |dimension: &openvino::Dimension| {
                (dimension.get_min() == dimension.get_max()).then(|| u32::try_from(dimension.get_min()).ok()).flatten()
            };
            Some(dimensions.iter().map(size).collect())
        };
        ports.push(Port { name, element, shape });
    }
    Ok(ports)
}

/// Every element type that both sides have.
const ELEMENTS: [(ElementType, TensorType); 7] = [
    (ElementType::F16, TensorType::Fp16),
    (ElementType::F32, TensorType::Fp32),
    (ElementType::F64, TensorType::Fp64),
    (ElementType::Bf16, TensorType::Bf16),
    (ElementType::U8, TensorType::U8),
    (ElementType::I32, TensorType::I32),
    (ElementType::I64, TensorType::I64),
];

fn known(ty: ElementType) -> Option<TensorType> {
    ELEMENTS.iter().find(|(theirs, _)| *theirs == ty).map(|&(_, ours)| ours)
}

fn element(ty: TensorType) -> ElementType {
    ELEMENTS.iter().find(|(_, ours)| *ours == ty).map_or(ElementType::Dynamic, |&(theirs, _)| theirs)
}

/// What a graph is refused for.
fn refused(error: &OpenVinoError) -> NnError {
    match error {
        OpenVinoError::Call { what: "read a graph", .. } => NnError::InvalidEncoding(words(error)),
        OpenVinoError::Call { what: "compile a graph", .. } => NnError::Unsupported(words(error)),
        other => NnError::Runtime(words(other)),
    }
}

/// OpenVINO's words, which may hold whatever is in a graph, cut to a length.
fn words(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let mut cut: String = text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if cut.len() < text.len() {
        cut.push_str(" ...");
    }
    cut
}

/// The bindings panic where OpenVINO gives what they do not know.
fn guarded<T>(work: impl FnOnce() -> Result<T, NnError>) -> Result<T, NnError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(NnError::Runtime("OpenVINO gave something that its bindings do not know".to_owned())))
}
