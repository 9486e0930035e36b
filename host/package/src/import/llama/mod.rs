//! Models of the Llama family: text in, scores of the next token out.
//!
//! # How
//!
//! 1. `config` and `weights`: a GGUF file, or `config.json` and `model.safetensors`, checked before use.
//! 2. `text`: the tokenizer, the chat template, the tokens that begin and end a text.
//! 3. `quantise`: block by block on the built-in texts (`calibration`), the exact model running as far
//!    as it is finished (`decoder`).
//! 4. `assemble` hands over each block as soon as it is finished.

mod assemble;
mod calibration;
mod config;
mod decoder;
mod quantise;
#[cfg(test)]
mod tests;
mod text;
mod weights;

use super::{
    CALIBRATION, ImportError, Precision, Progress, exact, floats, gguf, layers, matrix, rounding, smooth, source,
    tokenizer,
};
use crate::model::ImportedModel;
use calibration::Batch;
use config::Config;
use gguf::Gguf;
use std::path::Path;
use text::Text;
use weights::{Mapped, Weights};

/// What to make of a model that writes text.
#[derive(Debug, Clone)]
pub struct LlamaOptions {
    /// The package's name.
    pub name: String,
    /// The licence of the weights, as an SPDX expression.
    pub licence: String,
    /// Where the weights came from, for people.
    pub source: String,
    /// The most tokens of a text and its answer; as many as the model has positions without it.
    pub max_tokens: Option<u32>,
    /// Which layers get 16-bit activations.
    pub precision: Precision,
    /// How many threads work; the result does not depend on it.
    pub threads: usize,
}

impl LlamaOptions {
    /// The defaults for a model of this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            licence: String::new(),
            source: String::new(),
            max_tokens: None,
            precision: Precision::Auto,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Import a model of the Llama family: a GGUF file, or a directory with `config.json`,
/// `model.safetensors`, `tokenizer.json` and, if they are there, `tokenizer_config.json`,
/// `chat_template.jinja` and `generation_config.json`.
///
/// # Errors
/// See [`ImportError`]. Files are bounded and checked before memory is spent on them.
pub fn llama(source: &Path, options: &LlamaOptions, progress: Progress<'_>) -> Result<ImportedModel, ImportError> {
    progress("read", 0, 1);
    let (config, weights, text) = if source.is_dir() {
        let config = Config::of_directory(source)?;
        let weights = Weights::Safetensors(Mapped::open(source.join("model.safetensors"))?);
        let text = Text::of_directory(source, &config)?;
        (config, weights, text)
    } else {
        let gguf = Gguf::open(source)?;
        let config = Config::of_gguf(&gguf)?;
        let text = Text::of_gguf(&gguf, &config)?;
        (config, Weights::Gguf(gguf), text)
    };
    weights.check_names(&config)?;
    let positions = positions(options, &config, &text)?;
    progress("read", 1, 1);
    if !(1..=1024).contains(&options.threads) {
        return Err(ImportError::Option(format!("{} threads: choose 1 to 1024", options.threads)));
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|error| ImportError::Option(format!("the worker threads did not start: {error}")))?;
    let run = decoder::Run::new(options.threads, &config, positions)?;
    let batch = Batch::new(&text, &config, positions);
    let work = quantise::Work { pool: &pool, run: &run, config: &config, batch: &batch, precision: options.precision };
    let mut blocks = Vec::new();
    // The first piece is the embeddings, so the next one is block 0.
    work.quantise(&weights, progress, &mut |piece| {
        blocks.push(assemble::block(&piece, blocks.len().saturating_sub(1), &config, &run));
    })?;
    Ok(ImportedModel {
        name: options.name.clone(),
        family: "llama".to_owned(),
        licence: options.licence.clone(),
        source: options.source.clone(),
        max_tokens: u32::try_from(positions).unwrap_or(u32::MAX),
        tokenizer: text.file,
        generation: Some(text.generation),
        blocks,
    })
}

/// How many positions the package gets.
fn positions(options: &LlamaOptions, config: &Config, text: &Text) -> Result<usize, ImportError> {
    // What begins a text, one token that says something, one that answers.
    let least = text.generation.begin.len() + 2;
    let wanted = options.max_tokens.map_or(Some(config.positions), |wanted| usize::try_from(wanted).ok());
    match wanted {
        Some(wanted) if (least..=config.positions).contains(&wanted) => Ok(wanted),
        _ => Err(ImportError::Option(format!(
            "at most {} tokens a text: the model has {} positions, so choose {least} to {}",
            options.max_tokens.unwrap_or_default(),
            config.positions,
            config.positions
        ))),
    }
}
