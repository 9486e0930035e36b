//! From published float weights to a model in exact integers.
//!
//! # Why
//!
//! Models are published as floats; Ostrakon runs 8-bit weights and 8- or 16-bit activations. How the
//! floats are rounded decides how far the answers are from the original's, and it is done once, here,
//! so it may take its time.
//!
//! # How
//!
//! 1. A family has an importer: [`bert`] for encoders, [`llama`] for models that write text. It checks the
//!    published files before use: safetensors and JSON, or a `gguf` file.
//! 2. The importer runs the model on built-in texts, layer by layer. For each linear layer `smooth` moves
//!    outliers into the weights and `rounding` chooses the codes.
//! 3. It gives 16-bit activations to as few layers as keep the answers close to the original's, and hands
//!    over the result (`layers`).
//!
//! The result depends on the input alone: not on threads, instruction set or machine (`matrix`).

mod bert;
mod exact;
mod floats;
mod gguf;
mod layers;
mod llama;
mod matrix;
mod rounding;
mod smooth;
mod source;
mod tokenizer;

pub use bert::{BertOptions, Pooling, bert};
pub use llama::{LlamaOptions, llama};

use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Texts to calibrate on, one a line: languages, scripts, code, numbers, single characters, long passages.
const CALIBRATION: &str = include_str!("calibration.txt");

/// Which linear layers code their activations in 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// As few as keep the answers on the calibration texts close enough to those in floating point.
    Auto,
    /// None.
    AllU8,
    /// All.
    AllU16,
}

/// A model could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The operating system refused.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is larger than any of its kind.
    #[error("{file}: {bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// Which.
        file: PathBuf,
        /// How large.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A file is not what its name says.
    #[error("{file}: {why}")]
    Malformed {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The model is of a kind that has no exact operations here.
    #[error("{file}: {why}")]
    Unsupported {
        /// Which.
        file: PathBuf,
        /// What, and what would do.
        why: String,
    },
    /// A tensor is missing, misshapen or holds numbers that no weight can be.
    #[error("{file}: tensor `{tensor}` {why}")]
    Tensor {
        /// The weights file.
        file: PathBuf,
        /// Which.
        tensor: String,
        /// What is wrong.
        why: String,
    },
    /// An option does not fit the model.
    #[error("{0}")]
    Option(String),
    /// The exact operations refused what was made: a bug here, or weights beyond all bounds.
    #[error("the quantised model does not run: {0}")]
    Exact(String),
}

/// Which importer reads a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// [`bert`].
    Bert,
    /// [`llama`].
    Llama,
}

#[derive(Deserialize)]
struct ModelType {
    model_type: Option<String>,
}

/// The family of a GGUF file or of a directory with a `config.json`.
///
/// # Errors
/// It is neither, or no importer reads it.
pub fn family(source: &Path) -> Result<Family, ImportError> {
    if is_gguf(source) {
        return Ok(Family::Llama);
    }
    let file = source.join("config.json");
    match source::json::<ModelType>(&file)?.model_type.as_deref() {
        Some("bert") | None => Ok(Family::Bert),
        Some("llama") => Ok(Family::Llama),
        Some(other) => {
            let why = format!("model_type is `{}`: only `bert` and `llama` can be imported", source::shorten(other));
            Err(ImportError::Unsupported { file, why })
        }
    }
}

/// Whether this is a file that begins as GGUF files do.
pub fn is_gguf(file: &Path) -> bool {
    let mut first = [0; gguf::MAGIC.len()];
    // Opening anything but a plain file could wait for a writer.
    file.is_file()
        && File::open(file).is_ok_and(|mut open| open.read_exact(&mut first).is_ok())
        && first == *gguf::MAGIC
}

/// Called with (stage, done, total) as the work goes on.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);
