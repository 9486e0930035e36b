//! GGUF files: weights, vocabulary and settings of a model in one file, as llama.cpp keeps them.
//!
//! # How
//!
//! 1. The file is mapped and its header checked (`header`): afterwards every range is known to lie
//!    inside it.
//! 2. Metadata and tensors are looked up by name. A tensor becomes floats when it is asked for
//!    (`blocks`), some rows at a time if wanted, so a large file needs little memory.
//!
//! Names and texts are the file's: whoever shows them shortens and escapes them first.

mod blocks;
mod header;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod writer;

use super::{ImportError, source};
use header::{Element, Header, List, TensorInfo, Value};
use memmap2::Mmap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What every GGUF file begins with.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";
/// Largest file.
const MAX_FILE: u64 = 64 << 30;

/// An open file.
pub(super) struct Gguf {
    file: PathBuf,
    map: Mmap,
    header: Header,
}

/// A tensor of it.
#[derive(Clone, Copy)]
pub(super) struct Tensor<'a> {
    gguf: &'a Gguf,
    info: &'a TensorInfo,
}

impl Gguf {
    /// Map a file and check its header.
    #[allow(unsafe_code)]
    pub(super) fn open(file: &Path) -> Result<Self, ImportError> {
        let refused = |source| ImportError::Read { file: file.to_owned(), source };
        let (open, bytes) = source::open(file)?;
        if bytes > MAX_FILE {
            return Err(ImportError::TooLarge { file: file.to_owned(), bytes, limit: MAX_FILE });
        }
        // SAFETY: the map is read-only and is seen only as bytes, for which every value is valid. A file
        // that another process writes to meanwhile gives other numbers, or ends this process where it is
        // cut short: packing reads files of the user's own.
        let map = unsafe { Mmap::map(&open) }.map_err(refused)?;
        let header = Header::parse(&map).map_err(|why| ImportError::Malformed { file: file.to_owned(), why })?;
        Ok(Self { file: file.to_owned(), map, header })
    }

    /// Where it lies.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// An error about the file as a whole.
    pub(super) fn malformed(&self, why: String) -> ImportError {
        ImportError::Malformed { file: self.file.clone(), why }
    }

    /// An error about what there are no operations for.
    pub(super) fn unsupported(&self, why: String) -> ImportError {
        ImportError::Unsupported { file: self.file.clone(), why }
    }

    fn wrong(&self, key: &str, wanted: &str) -> ImportError {
        self.malformed(format!("the metadata `{key}` is not {wanted}"))
    }

    fn string(&self, range: &Range<usize>) -> &str {
        // Checked when the header was read.
        self.map.get(range.clone()).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// A text, if there is one under this key.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, ImportError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(range)) => Ok(Some(self.string(range))),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, ImportError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(value)) => Ok(Some(*value)),
            Some(Value::Signed(value)) if *value >= 0 => Ok(Some(value.unsigned_abs())),
            Some(_) => Err(self.wrong(key, "a whole number")),
        }
    }

    /// A number.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "a floating-point number")),
        }
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ImportError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    fn list(&self, key: &str, element: Element, wanted: &str) -> Result<Option<(&List, &[u8])>, ImportError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::List(list)) if list.element == element => {
                Ok(Some((list, self.map.get(list.range.clone()).unwrap_or_default())))
            }
            Some(_) => Err(self.wrong(key, wanted)),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ImportError> {
        let Some((list, mut rest)) = self.list(key, Element::Text, "a list of texts")? else { return Ok(None) };
        let mut texts = Vec::with_capacity(list.count);
        // Walked once already, when the header was read.
        while let Some((length, behind)) = rest.split_first_chunk::<8>() {
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
            let Some((text, behind)) = behind.split_at_checked(length) else { break };
            texts.push(std::str::from_utf8(text).unwrap_or_default());
            rest = behind;
        }
        Ok(Some(texts))
    }

    /// A list of signed 32-bit numbers.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i32>>, ImportError> {
        let found = self.list(key, Element::I32, "a list of 32-bit integers")?;
        Ok(found.map(|(_, bytes)| bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect()))
    }

    /// The tensors, in the order of the file.
    pub(super) fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.header.tensors.iter().map(|info| Tensor { gguf: self, info })
    }

    /// The tensor with this name.
    pub(super) fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensors().find(|tensor| tensor.name() == name)
    }
}

impl Tensor<'_> {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.info.name
    }

    /// Its shape, rows first as everywhere here.
    pub(super) fn shape(&self) -> Vec<usize> {
        self.info.dims.iter().rev().copied().collect()
    }

    /// Its floats, whatever they are. Whoever asks has checked the shape.
    pub(super) fn floats(&self) -> Vec<f32> {
        let bytes = self.gguf.map.get(self.info.range.clone()).unwrap_or_default();
        let mut out = Vec::with_capacity(self.info.dims.iter().product());
        self.info.kind.floats(bytes, &mut out);
        out
    }
}
