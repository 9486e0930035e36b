//! A model between its importer and [`write_package`](crate::write_package): quantised weights and
//! settings, in memory, not yet files.
//!
//! Every importer ends in these types and the writer begins with them, so a new model family needs
//! nothing but an importer.

use std::fmt;

/// A whole model, ready to be written as a package.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedModel {
    /// The package's name: `minilm`. Lower-case letters, digits, `-` and `.`.
    pub name: String,
    /// The model family: `bert`, `llama`.
    pub family: String,
    /// The licence of the weights, as an SPDX expression.
    pub licence: String,
    /// Where the weights came from, for people: a hub address, a registry package and version.
    pub source: String,
    /// The most tokens one text may have.
    pub max_tokens: u32,
    /// `tokenizer.json`, as published, with padding and truncation switched off.
    pub tokenizer: Vec<u8>,
    /// How it writes text, if it does.
    pub generation: Option<ImportedGeneration>,
    /// The blocks in the order in which they run.
    pub blocks: Vec<ImportedBlock>,
}

/// How a model that writes text is used; see [`Generation`](crate::Generation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedGeneration {
    /// Number of tokens.
    pub vocabulary: u32,
    /// Tokens that end an answer.
    pub stop: Vec<u32>,
    /// Tokens put before every text.
    pub begin: Vec<u32>,
    /// The chat template (Jinja), as published.
    pub template: Option<String>,
}

/// One block: what one component session runs.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedBlock {
    /// `embeddings`, `blocks.0`, `pooling`.
    pub name: String,
    /// Which of the components given to the writer runs it: `block-bert`.
    pub component: String,
    /// What the component is opened with; `kind` is always there.
    pub settings: Vec<(String, String)>,
    /// Its layers, possibly none.
    pub layers: Vec<ImportedLayer>,
}

/// The weights of one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedLayer {
    /// Its name inside the block: `attention.qkv`, which the package calls `blocks.0.attention.qkv`.
    pub name: String,
    /// `linear`, `embedding`, `layer-norm`, `rms-norm` or `rotary`.
    pub kind: String,
    /// `u8` or `u16` for a linear layer, empty for the others.
    pub activation: String,
    /// Its arrays.
    pub parts: Vec<ImportedPart>,
}

/// One array of a layer.
#[derive(Clone, PartialEq, Eq)]
pub struct ImportedPart {
    /// `weight`, `scale`, `bias`, `prescale`, `gain`, `epsilon`, `table` or `heads`.
    pub name: String,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Little-endian, row-major.
    pub bytes: Vec<u8>,
    /// What one element is.
    pub dtype: PartType,
}

/// What an element of a stored array is: the only two types a package holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartType {
    /// Signed 8-bit codes.
    I8,
    /// IEEE 754 binary32.
    F32,
}

impl PartType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::I8 => 1,
            Self::F32 => 4,
        }
    }

    /// Its name in a safetensors header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::I8 => "I8",
            Self::F32 => "F32",
        }
    }

    /// The type that a part with this name has in every layer: codes are I8, all else is F32.
    pub fn of_part(name: &str) -> Option<Self> {
        match name {
            "weight" => Some(Self::I8),
            "scale" | "bias" | "prescale" | "gain" | "epsilon" | "table" | "heads" => Some(Self::F32),
            _ => None,
        }
    }
}

impl ImportedPart {
    /// Signed 8-bit codes.
    pub fn codes(name: &str, dims: Vec<usize>, codes: &[i8]) -> Self {
        Self { name: name.to_owned(), dims, bytes: bytemuck::cast_slice(codes).to_vec(), dtype: PartType::I8 }
    }

    /// Floats.
    pub fn floats(name: &str, dims: Vec<usize>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.to_owned(), dims, bytes, dtype: PartType::F32 }
    }
}

impl fmt::Debug for ImportedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} ({} bytes)", self.name, self.dtype.name(), self.dims, self.bytes.len())
    }
}

/// A component to be put into a package.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedComponent {
    /// What blocks call it: `block-bert`.
    pub name: String,
    /// The WebAssembly component.
    pub wasm: Vec<u8>,
}

impl fmt::Debug for NamedComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.wasm.len())
    }
}
