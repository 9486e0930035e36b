//! Graphs in floating point: whole models, ONNX or OpenVINO IR, run by OpenVINO.
//!
//! # Why
//!
//! Many models are published as graphs and nobody needs their answers to the bit. The `wasi:nn` that serves exact
//! layers serves them too: found by name in the package, run by `compute`, with the names of their own tensors.
//! What they give differs in its last digits from machine to machine, so nothing here is exact.
//!
//! # How
//!
//! 1. A [`LayerSource`](crate::LayerSource) gives a [`RawGraph`]: bytes, and which encoding they are in.
//! 2. The bytes are looked at before OpenVINO sees them: an encoding that is not what it is called, and ONNX that
//!    reads other files, are refused (`onnx`).
//! 3. OpenVINO compiles the graph once (`run`); its [`Port`]s say what goes in and what comes out.
//! 4. Inputs are checked against the ports before anything is computed. Every call has a request of its own, so
//!    that nothing of one call is seen by another. Outputs are charged to the caller before they are copied.
//!
//! # What this cannot do
//!
//! OpenVINO parses and runs the graph in this process, in C++. What it refuses is an error. What it does not
//! survive, and memory that it takes while it computes, is the process's: so graphs come from signed packages only,
//! unless the operator decides otherwise ([`GraphLimits::allow_load`](crate::GraphLimits)).

mod files;
mod onnx;
#[cfg(feature = "openvino")]
mod run;
#[cfg(not(feature = "openvino"))]
#[path = "float/absent.rs"]
mod run;

pub use files::GraphFiles;
pub(crate) use run::FloatGraph;

use crate::{NnError, Tensor, TensorType};
use std::fmt;
use std::path::PathBuf;

/// How a graph is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// ONNX: one file.
    Onnx,
    /// OpenVINO's IR: XML, and weights beside it.
    OpenVino,
}

impl Encoding {
    /// Its name in wasi-nn.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::OpenVino => "openvino",
        }
    }

    /// The encoding of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Onnx, Self::OpenVino].into_iter().find(|encoding| encoding.name() == name)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that somebody keeps.
pub type Bytes = Box<dyn AsRef<[u8]> + Send + Sync>;

/// A graph as it is stored.
pub struct RawGraph {
    /// How it is written down.
    pub encoding: Encoding,
    /// The graph; with ONNX, its weights too.
    pub model: Bytes,
    /// The weights of OpenVINO's IR, if it has any.
    pub weights: Option<Bytes>,
}

impl RawGraph {
    /// A graph from the buffers of wasi-nn's `load`.
    ///
    /// # Errors
    /// Another number of buffers than the encoding has.
    pub fn from_parts(encoding: Encoding, parts: Vec<Vec<u8>>) -> Result<Self, NnError> {
        let count = parts.len();
        let mut parts = parts.into_iter().map(|part| Box::new(part) as Bytes);
        match (encoding, count, parts.next(), parts.next()) {
            (Encoding::Onnx, 1, Some(model), None) => Ok(Self { encoding, model, weights: None }),
            (Encoding::OpenVino, 1 | 2, Some(model), weights) => Ok(Self { encoding, model, weights }),
            (Encoding::Onnx, ..) => Err(NnError::InvalidArgument(format!("an ONNX graph is 1 buffer, not {count}"))),
            (Encoding::OpenVino, ..) => Err(NnError::InvalidArgument(format!(
                "an OpenVINO graph is 2 buffers, the XML and the weights, not {count}"
            ))),
        }
    }

    /// The bytes of all parts together.
    pub fn byte_len(&self) -> u64 {
        let weights = self.weights.as_ref().map_or(0, |weights| (**weights).as_ref().len());
        ((*self.model).as_ref().len() as u64).saturating_add(weights as u64)
    }

    /// Refuse what must not get to OpenVINO.
    fn check(&self) -> Result<(), NnError> {
        let model = (*self.model).as_ref();
        match self.encoding {
            Encoding::Onnx => onnx::check(model).map_err(NnError::InvalidEncoding),
            Encoding::OpenVino => {
                let start = model.trim_ascii_start();
                if !(start.starts_with(b"<?xml") || start.starts_with(b"<net")) {
                    let text = "this is not an OpenVINO graph: its first part must be XML";
                    return Err(NnError::InvalidEncoding(text.to_owned()));
                }
                match UNCHECKED.iter().find(|word| model.windows(word.len()).any(|found| found == word.as_bytes())) {
                    None => Ok(()),
                    Some(word) => Err(NnError::InvalidEncoding(format!(
                        "the OpenVINO graph has {word} in it: operations of that name can reach memory outside of \
                         their tensors here"
                    ))),
                }
            }
        }
    }
}

/// What must not be in a graph's XML: operations as in `onnx`, and the references that could hide a name.
const UNCHECKED: [&str; 4] = ["\"GatherND\"", "'GatherND'", "Scatter", "&#"];

/// One of a graph's inputs or outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// The type of its elements.
    pub element: TensorType,
    /// Its dimensions, none where it is open for each. `None`: even their number is open.
    pub shape: Option<Vec<Option<u32>>>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.element, Shape(self.shape.as_deref()))
    }
}

/// A shape, `?` where it is open.
struct Shape<'a>(Option<&'a [Option<u32>]>);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(sizes) = self.0 else { return f.write_str("[...]") };
        let sizes: Vec<String> =
            sizes.iter().map(|size| size.map_or_else(|| "?".to_owned(), |size| size.to_string())).collect();
        write!(f, "[{}]", sizes.join(", "))
    }
}

impl Port {
    /// Whether a tensor fits, and if not why.
    fn check(&self, tensor: &Tensor) -> Result<(), String> {
        let fits = |sizes: &[Option<u32>]| {
            // Tensors of wasi-nn have a dimension at least; a single value has the shape [1].
            let wanted = if sizes.is_empty() { &[Some(1)] } else { sizes };
            wanted.len() == tensor.dims().len()
                && wanted.iter().zip(tensor.dims()).all(|(wanted, got)| wanted.is_none_or(|wanted| wanted == *got))
        };
        if tensor.ty() != self.element || !self.shape.as_deref().is_none_or(fits) {
            let (name, element, shape) = (&self.name, self.element, Shape(self.shape.as_deref()));
            return Err(format!("`{name}` is {} {:?}: needs {element} {shape}", tensor.ty(), tensor.dims()));
        }
        if tensor.dims().contains(&0) {
            return Err(format!("`{}` is empty", self.name));
        }
        Ok(())
    }
}

/// The inputs in the order of the ports: each there once, and no others.
fn in_order(ports: &[Port], inputs: Vec<(String, Tensor)>) -> Result<Vec<Tensor>, String> {
    let mut slots: Vec<Option<Tensor>> = ports.iter().map(|_| None).collect();
    for (name, tensor) in inputs {
        let place = ports.iter().position(|port| port.name == name);
        let (Some(port), Some(slot)) = (place.and_then(|at| ports.get(at)), place.and_then(|at| slots.get_mut(at)))
        else {
            let known: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            let name: String = name.chars().take(128).collect();
            return Err(format!("there is no input {name:?}: the inputs are {}", known.join(", ")));
        };
        port.check(&tensor)?;
        if slot.replace(tensor).is_some() {
            return Err(format!("`{name}` is given twice"));
        }
    }
    let all = ports.iter().zip(slots).map(|(port, slot)| slot.ok_or_else(|| format!("the input `{port}` is missing")));
    all.collect()
}

/// How a host runs graphs.
#[derive(Debug, Clone, Default)]
pub(crate) struct FloatSettings {
    /// Where `make setup` puts OpenVINO.
    pub(crate) installed: Option<PathBuf>,
    /// Threads of one inference.
    pub(crate) threads: usize,
}

/// The inputs and the outputs of a graph, as OpenVINO understands it. `installed` as for
/// [`Host::with_openvino`](crate::Host::with_openvino).
///
/// # Errors
/// Bytes that are no graph, or none that this host could run; no OpenVINO.
pub fn ports(raw: &RawGraph, installed: Option<PathBuf>) -> Result<(Vec<Port>, Vec<Port>), NnError> {
    let graph = FloatGraph::open(raw, &FloatSettings { installed, threads: 1 })?;
    Ok((graph.inputs().to_vec(), graph.outputs().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Vec<Port> {
        vec![
            Port { name: "x".into(), element: TensorType::Fp32, shape: Some(vec![None, Some(2)]) },
            Port { name: "rate".into(), element: TensorType::I64, shape: Some(vec![]) },
        ]
    }

    fn x(dims: &[u32]) -> (String, Tensor) {
        let count = dims.iter().product::<u32>() as usize;
        ("x".into(), Tensor::from_f32(dims.to_vec(), vec![0.0; count]).unwrap())
    }

    fn rate() -> (String, Tensor) {
        ("rate".into(), Tensor::new(vec![1], TensorType::I64, vec![0; 8]).unwrap())
    }

    #[test]
    fn inputs_are_put_in_order() {
        let inputs = in_order(&ports(), vec![rate(), x(&[3, 2])]).unwrap();
        assert_eq!(inputs[0].dims(), [3, 2]);
        assert_eq!(inputs[1].ty(), TensorType::I64);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (inputs, text) in [
            (vec![rate()], "`x FP32 [?, 2]` is missing"),
            (vec![x(&[3, 2]), rate(), x(&[3, 2])], "`x` is given twice"),
            (vec![("z".into(), rate().1)], "no input \"z\": the inputs are x, rate"),
            (vec![x(&[3, 3])], "`x` is FP32 [3, 3]: needs FP32 [?, 2]"),
            (vec![x(&[6])], "needs FP32 [?, 2]"),
            (vec![x(&[0, 2])], "`x` is empty"),
            (vec![("x".into(), rate().1)], "`x` is I64 [1]: needs FP32 [?, 2]"),
            (vec![("rate".into(), x(&[1, 1]).1)], "needs I64 []"),
        ] {
            let error = in_order(&ports(), inputs).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn parts_and_encoding_must_fit() {
        let graph = |encoding, parts: &[&[u8]]| {
            RawGraph::from_parts(encoding, parts.iter().map(|part| part.to_vec()).collect())
        };
        assert!(graph(Encoding::Onnx, &[]).is_err());
        assert!(graph(Encoding::Onnx, &[b"a", b"b"]).is_err());
        assert!(graph(Encoding::OpenVino, &[b"a", b"b", b"c"]).is_err());
        assert!(graph(Encoding::OpenVino, &[b"\x08\x07", b""]).unwrap().check().is_err());
        assert!(graph(Encoding::Onnx, &[b"<?xml version=\"1.0\"?>"]).unwrap().check().is_err());
        assert!(graph(Encoding::OpenVino, &[b"\n<?xml version=\"1.0\"?>", b""]).unwrap().check().is_ok());
        for word in ["type=\"GatherND\"", "type='GatherND'", "type=\"ScatterNDUpdate\"", "type=\"&#71;ather\""] {
            let error = graph(Encoding::OpenVino, &[format!("<net {word}/>").as_bytes()]).unwrap().check().unwrap_err();
            assert!(matches!(error, NnError::InvalidEncoding(_)));
        }
    }
}
