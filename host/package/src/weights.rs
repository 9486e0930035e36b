//! Weights files: safetensors, read strictly.
//!
//! A file is `u64` header length, JSON header, data. [`read`] decides from the bytes alone, before
//! anything is built from them, that
//! 1. the header is inside the file and under [`MAX_HEADER`],
//! 2. it is a list of tensors with different names, each I8 or F32, each of at most 8 dimensions,
//! 3. the shape of each, multiplied out without overflow, is the length of its bytes,
//! 4. the tensors lie in the data one after another: no overlap, no gap, no byte left over.
//!
//! So whatever is accepted is also what any other safetensors reader sees, and memory use is bounded
//! by the header. [`write`] is deterministic: the same layers give the same bytes.

use std::{fmt, ops::Range};

use safetensors::{Dtype, tensor::TensorView};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use crate::{
    error::{escaped, quote},
    model::{ImportedLayer, PartType},
    names::check_name,
};

/// Longest header.
pub const MAX_HEADER: u64 = 4 << 20;
/// Most tensors of a file.
pub const MAX_TENSORS: usize = 1 << 15;
/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// Bytes of the header length.
const PREFIX: usize = 8;

/// One array of a weights file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// `<layer>.<part>`.
    pub name: String,
    /// What one element is.
    pub dtype: PartType,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Where its bytes lie in the file.
    pub range: Range<usize>,
}

/// A weights file was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightsError {
    /// The file.
    pub file: String,
    /// The tensor at fault, if it is one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub fault: WeightsFault,
}

impl fmt::Display for WeightsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {}: ", quote(tensor))?;
        }
        write!(f, "{}; pack the model again", self.fault)
    }
}

impl std::error::Error for WeightsError {}

/// What is wrong with a weights file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsFault {
    /// Not even a header length.
    #[error("{0} bytes are no safetensors file")]
    TooShort(usize),
    /// The header is longer than any we read.
    #[error("the header has {0} bytes, at most {MAX_HEADER} are read")]
    HeaderTooLong(u64),
    /// The header is longer than the file.
    #[error("the header has {header} bytes, the file only {file}")]
    HeaderCut {
        /// As the file says.
        header: u64,
        /// As it is.
        file: usize,
    },
    /// The header is not the JSON it should be.
    #[error("the header is malformed: {0}")]
    Header(String),
    /// The name is not allowed.
    #[error("{0}")]
    Name(String),
    /// The name is there already.
    #[error("the name is there twice")]
    Repeated,
    /// Not I8 or F32.
    #[error("the type {0} is not I8 or F32")]
    Type(String),
    /// Too many dimensions.
    #[error("{0} dimensions, at most {MAX_RANK} are allowed")]
    Rank(usize),
    /// A dimension of zero, or a product beyond all memory.
    #[error("the shape {0:?} is empty or too large")]
    Shape(Vec<u64>),
    /// The place in the file does not fit the shape.
    #[error("{found} bytes at {start}..{end}, the shape needs {expected}")]
    Length {
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// How many there are.
        found: u64,
        /// How many there should be.
        expected: u64,
    },
    /// The end lies before the start.
    #[error("its bytes end at {end}, before they start at {start}")]
    Reversed {
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
    },
    /// It shares bytes with the tensor before it.
    #[error("its bytes start at {start}, where the tensor before it still has some (to {before})")]
    Overlap {
        /// First byte.
        start: u64,
        /// End of the tensor before.
        before: u64,
    },
    /// Bytes belong to no tensor.
    #[error("the bytes {from}..{to} belong to no tensor")]
    Gap {
        /// First such byte.
        from: u64,
        /// Byte after the last.
        to: u64,
    },
    /// It lies beyond the end.
    #[error("its bytes end at {end}, the data at {data}")]
    Outside {
        /// Byte after the last.
        end: u64,
        /// Length of the data.
        data: u64,
    },
    /// The manifest lists no layer that it could belong to.
    #[error("it belongs to no layer of the block in package.toml")]
    Unclaimed,
    /// A layer of the manifest has no tensors here.
    #[error("there are no weights for the layer `{0}`, which package.toml lists")]
    Unfilled(String),
    /// A part has another type than it always has.
    #[error("it is {found}, in a layer it must be {expected}")]
    PartType {
        /// As it is.
        found: &'static str,
        /// As it should be.
        expected: &'static str,
    },
}

/// A fault with the tensor it concerns.
type Fault = (Option<String>, WeightsFault);

/// The tensors of a file, by where they lie. `file` is its name for messages.
///
/// # Errors
/// See [`WeightsFault`].
pub fn read(file: &str, bytes: &[u8]) -> Result<Vec<TensorEntry>, WeightsError> {
    parse(bytes).map_err(|(tensor, fault)| WeightsError { file: file.to_owned(), tensor, fault })
}

fn parse(bytes: &[u8]) -> Result<Vec<TensorEntry>, Fault> {
    let whole = |fault| (None, fault);
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX>().ok_or(whole(WeightsFault::TooShort(bytes.len())))?;
    let length = u64::from_le_bytes(*prefix);
    if length > MAX_HEADER {
        return Err(whole(WeightsFault::HeaderTooLong(length)));
    }
    let cut = || whole(WeightsFault::HeaderCut { header: length, file: bytes.len() });
    let (header, data) = usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n)).ok_or_else(cut)?;
    let Header(mut entries) =
        serde_json::from_slice(header).map_err(|e| whole(WeightsFault::Header(escaped(&e.to_string()))))?;

    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let base = PREFIX + header.len();
    let mut end = 0_u64;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let tensor = entry.place(&name, end, data.len() as u64, base).map_err(|fault| (Some(name), fault))?;
        end = (tensor.range.end - base) as u64;
        tensors.push(tensor);
    }
    if end < data.len() as u64 {
        return Err(whole(WeightsFault::Gap { from: end, to: data.len() as u64 }));
    }
    let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find_map(|pair| pair.first().filter(|n| Some(*n) == pair.last())) {
        Some(&repeated) => Err((Some(repeated.to_owned()), WeightsFault::Repeated)),
        None => Ok(tensors),
    }
}

/// One tensor as the header describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Entry {
    /// Check everything about this tensor. The one before it ended at `before`, the data has `data`
    /// bytes and starts at `base` in the file.
    fn place(&self, name: &str, before: u64, data: u64, base: usize) -> Result<TensorEntry, WeightsFault> {
        check_name("tensor", name).map_err(WeightsFault::Name)?;
        let dtype = [PartType::I8, PartType::F32]
            .into_iter()
            .find(|t| t.name() == self.dtype)
            .ok_or_else(|| WeightsFault::Type(quote(&self.dtype)))?;
        if self.shape.len() > MAX_RANK {
            return Err(WeightsFault::Rank(self.shape.len()));
        }
        let shape = || WeightsFault::Shape(self.shape.clone());
        if self.shape.contains(&0) {
            return Err(shape());
        }
        let expected = self.shape.iter().try_fold(dtype.size() as u64, |n, &d| n.checked_mul(d)).ok_or_else(shape)?;
        let dims = self.shape.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>().map_err(|_| shape())?;

        let (start, end) = self.data_offsets;
        let found = end.checked_sub(start).ok_or(WeightsFault::Reversed { start, end })?;
        if end > data {
            return Err(WeightsFault::Outside { end, data });
        }
        if found != expected {
            return Err(WeightsFault::Length { start, end, found, expected });
        }
        match start {
            start if start < before => Err(WeightsFault::Overlap { start, before }),
            start if start > before => Err(WeightsFault::Gap { from: before, to: start }),
            // No larger than the file, which is in memory: the casts lose nothing.
            _ => Ok(TensorEntry {
                name: name.to_owned(),
                dtype,
                dims,
                range: base + start as usize..base + end as usize,
            }),
        }
    }
}

/// The header as a list: a map would silently keep the last of two tensors with one name.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == MAX_TENSORS {
                        return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    entries.push(entry);
                }
                Ok(Header(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// The bytes of a weights file with these layers, in an order that depends on nothing but them.
pub(crate) fn write(layers: &[ImportedLayer]) -> Result<Vec<u8>, String> {
    let mut tensors = Vec::new();
    for layer in layers {
        for part in &layer.parts {
            let name = format!("{}.{}", layer.name, part.name);
            let dtype = match part.dtype {
                PartType::I8 => Dtype::I8,
                PartType::F32 => Dtype::F32,
            };
            let view = TensorView::new(dtype, part.dims.clone(), &part.bytes).map_err(|e| format!("{name}: {e}"))?;
            tensors.push((name, view));
        }
    }
    safetensors::serialize(tensors, None).map_err(|e| e.to_string())
}
