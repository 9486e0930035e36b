//! What a manifest says of graphs in floating point.
//!
//! A package that has graphs is of the float tier: its blocks use them, it takes tensors instead of texts, and it
//! promises a tolerance instead of equal bytes. Nothing else says so, so nothing can contradict it.

use ostrakon_nn::tensor::MAX_RANK;
use ostrakon_nn::{Encoding, Port, TensorType};
use ostrakon_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    error::quote,
    manifest::{Block, FileEntry, Manifest},
    names::{check_name, check_text, check_unique},
};

/// Most graphs of a package.
pub const MAX_GRAPHS: usize = 256;
/// Most inputs and most outputs of a graph.
pub const MAX_PORTS: usize = 256;
/// Longest name of an input or an output, in bytes.
pub const MAX_PORT_NAME: usize = 1024;
/// The setting of a block that names its graph.
pub const SETTING: &str = "graph";

/// Whether a package gives the same bytes everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Layers: the same bytes everywhere.
    Exact,
    /// Graphs in floating point: nearly the same.
    Float,
}

impl Tier {
    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Float => "float",
        }
    }
}

/// A graph in floating point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphEntry {
    /// What blocks call it.
    pub name: String,
    /// `onnx` or `openvino`.
    pub encoding: String,
    /// The graph's file: ONNX with its weights, or OpenVINO's XML.
    pub file: String,
    /// BLAKE3 of its bytes.
    pub blake3: Digest,
    /// Its length.
    pub bytes: u64,
    /// The weights, for OpenVINO's XML that has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<FileEntry>,
    /// What goes in.
    pub inputs: Vec<PortEntry>,
    /// What comes out.
    pub outputs: Vec<PortEntry>,
}

/// An input or an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortEntry {
    /// Its name in the graph.
    pub name: String,
    /// The type of its elements, as wasi-nn spells it: `FP32`.
    pub element: String,
    /// Its dimensions, -1 where a dimension is open. Left out: their number is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<i64>>,
}

/// How far two machines may differ: the author's promise.
///
/// Two numbers are the same when they differ by no more than `absolute + relative * |the other one|`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// Whatever the numbers.
    pub absolute: f64,
    /// In proportion to the number.
    pub relative: f64,
}

impl Default for Tolerance {
    /// What float engines differ by on models of usual depth.
    fn default() -> Self {
        Self { absolute: 1e-4, relative: 1e-3 }
    }
}

impl Tolerance {
    fn validate(self) -> Result<(), String> {
        for (name, value) in [("absolute", self.absolute), ("relative", self.relative)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("the tolerance `{name}` is {value}, it must be 0 to 1"));
            }
        }
        if self.absolute == 0.0 {
            // Near zero every difference would be beyond it, and honest machines would be accused.
            return Err(
                "the tolerance `absolute` is 0: give the smallest difference that matters, such as 1e-6".to_owned()
            );
        }
        Ok(())
    }
}

impl GraphEntry {
    /// The graph's own file.
    pub(crate) fn parts(&self) -> (&str, Digest, u64) {
        (&self.file, self.blake3, self.bytes)
    }

    /// How it is written down. The manifest was validated: it is one of the two.
    pub fn encoding(&self) -> Encoding {
        Encoding::from_name(&self.encoding).unwrap_or(Encoding::Onnx)
    }

    fn validate(&self) -> Result<(), String> {
        match (Encoding::from_name(&self.encoding), &self.weights) {
            (None, _) => return Err(format!("the encoding {} is not onnx or openvino", quote(&self.encoding))),
            (Some(Encoding::Onnx), Some(_)) => return Err("an ONNX graph has its weights in its own file".to_owned()),
            _ => {}
        }
        for (what, ports) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            if ports.len() > MAX_PORTS {
                return Err(format!("{} {what}, at most {MAX_PORTS} are allowed", ports.len()));
            }
            ports.iter().try_for_each(PortEntry::validate)?;
            check_unique(what, ports.iter().map(|port| port.name.as_str()))?;
        }
        Ok(())
    }
}

impl PortEntry {
    fn validate(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("a name of an input or an output is empty".to_owned());
        }
        check_text("the name of an input or an output", &self.name, MAX_PORT_NAME)?;
        if TensorType::from_name(&self.element).is_none() {
            return Err(format!("the element type {} is not one of wasi-nn's", quote(&self.element)));
        }
        let shape = self.shape.as_deref().unwrap_or_default();
        if shape.len() > MAX_RANK || shape.iter().any(|&size| size != -1 && u32::try_from(size).is_err()) {
            return Err(format!(
                "`{}` has the shape {shape:?}: at most {MAX_RANK} sizes, -1 for an open one",
                self.name
            ));
        }
        Ok(())
    }

    /// As wasi-nn has it. The manifest was validated.
    pub fn port(&self) -> Port {
        let size = |&size: &i64| u32::try_from(size).ok();
        Port {
            name: self.name.clone(),
            element: TensorType::from_name(&self.element).unwrap_or(TensorType::Fp32),
            shape: self.shape.as_ref().map(|shape| shape.iter().map(size).collect()),
        }
    }
}

impl From<&Port> for PortEntry {
    fn from(port: &Port) -> Self {
        let size = |size: &Option<u32>| size.map_or(-1, i64::from);
        Self {
            name: port.name.clone(),
            element: port.element.name().to_owned(),
            shape: port.shape.as_ref().map(|shape| shape.iter().map(size).collect()),
        }
    }
}

impl Manifest {
    /// Whether it gives the same bytes everywhere: it does, unless it has graphs.
    pub const fn tier(&self) -> Tier {
        if self.graphs.is_empty() { Tier::Exact } else { Tier::Float }
    }

    /// The graph with this name.
    pub fn graph(&self, name: &str) -> Option<&GraphEntry> {
        self.graphs.iter().find(|graph| graph.name == name)
    }

    /// The graph that a block uses.
    pub fn graph_of(&self, block: &Block) -> Option<&GraphEntry> {
        self.graph(block.setting(SETTING)?)
    }

    /// What the tier asks for and what it excludes.
    pub(crate) fn check_tier(&self) -> Result<(), String> {
        match self.tier() {
            Tier::Exact if self.tokenizer.is_none() => Err("missing field `tokenizer`".to_owned()),
            Tier::Exact if self.max_tokens.is_none() => Err("missing field `max_tokens`".to_owned()),
            Tier::Exact if self.tolerance.is_some() => {
                Err("only a package with graphs has a tolerance: layers give the same bytes everywhere".to_owned())
            }
            Tier::Exact => Ok(()),
            Tier::Float => self.check_float(),
        }
    }

    fn check_float(&self) -> Result<(), String> {
        if self.tokenizer.is_some() || self.max_tokens.is_some() || self.generation.is_some() {
            return Err("a package with graphs takes tensors: it has neither tokenizer nor max_tokens nor generation"
                .to_owned());
        }
        if self.graphs.len() > MAX_GRAPHS {
            return Err(format!("{} graphs, at most {MAX_GRAPHS} are allowed", self.graphs.len()));
        }
        for graph in &self.graphs {
            check_name("graph", &graph.name)?;
            graph.validate().map_err(|why| format!("graph `{}`: {why}", graph.name))?;
            if !self.blocks.iter().any(|block| block.setting(SETTING) == Some(&graph.name)) {
                return Err(format!("the graph `{}` is used by no block", graph.name));
            }
        }
        check_unique("graph", self.graphs.iter().map(|graph| graph.name.as_str()))?;
        for block in &self.blocks {
            if !block.layers.is_empty() {
                return Err(format!("block `{}` has layers: a package with graphs has no layers", block.name));
            }
            if self.graph_of(block).is_none() {
                return Err(format!("block `{}` needs the setting `{SETTING}`, the name of a graph", block.name));
            }
        }
        self.tolerance.map_or(Ok(()), Tolerance::validate)
    }
}
