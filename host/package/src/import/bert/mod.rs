//! BERT-family encoders: sentences in, one row of numbers out.
//!
//! # How
//!
//! 1. `config` and `checkpoint`: the files of the encoder, checked before use.
//! 2. `tokens`: the tokenizer, freed of padding and truncation, and the built-in calibration texts with random ids beside them.
//! 3. `quantise`: layer by layer, the f32 model and the exact one side by side on those texts; `tables` does the embeddings.
//! 4. `precision`: which layers get 16-bit activations: as few as reach the wanted accuracy, since they
//!    cost twice. It is measured on a trial whose weights have not seen the texts that it is judged by.
//! 5. `quantise` again, on all texts and with the activations chosen. `assemble` hands over the result.

mod assemble;
mod checkpoint;
mod config;
mod correction;
mod encoder;
mod float;
mod precision;
mod quantise;
mod tables;
#[cfg(test)]
mod tests;
mod tokens;

pub use config::Pooling;

use super::{
    CALIBRATION, ImportError, Precision, Progress, exact, floats, layers, matrix, rounding, smooth, source, tokenizer,
};
use crate::model::ImportedModel;
use ostrakon_exact::Activation;
use quantise::Calibration;
use std::path::Path;

/// What to make of an encoder.
#[derive(Debug, Clone)]
pub struct BertOptions {
    /// The package's name.
    pub name: String,
    /// The licence of the weights, as an SPDX expression.
    pub licence: String,
    /// Where the weights came from, for people.
    pub source: String,
    /// The most tokens of a text; else that of `sentence_bert_config.json`, else 512 or as many as the
    /// model has positions.
    pub max_tokens: Option<u32>,
    /// How rows become one; else that of `1_Pooling/config.json`, else the mean.
    pub pooling: Option<Pooling>,
    /// Whether the pooled row gets length 1; else what `modules.json` says, else yes.
    pub normalise: Option<bool>,
    /// Which layers get 16-bit activations.
    pub precision: Precision,
    /// How many threads work; the result does not depend on it.
    pub threads: usize,
}

impl BertOptions {
    /// The defaults for a model of this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            licence: String::new(),
            source: String::new(),
            max_tokens: None,
            pooling: None,
            normalise: None,
            precision: Precision::Auto,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Import a BERT-family encoder from the files of its directory: `config.json`, `model.safetensors`,
/// `tokenizer.json`, and, if they are there, `1_Pooling/config.json`, `sentence_bert_config.json` and
/// `modules.json`.
///
/// # Errors
/// See [`ImportError`]. Files are bounded and checked before memory is spent on them.
pub fn bert(directory: &Path, options: &BertOptions, progress: Progress<'_>) -> Result<ImportedModel, ImportError> {
    progress("read", 0, 1);
    let config = config::Config::read(directory, options)?;
    let float = checkpoint::read(directory, &config)?;
    let tokens = tokens::Tokens::read(directory, &config)?;
    progress("read", 1, 1);
    if !(1..=1024).contains(&options.threads) {
        return Err(ImportError::Option(format!("{} threads: choose 1 to 1024", options.threads)));
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|error| ImportError::Option(format!("the worker threads did not start: {error}")))?;
    let run = encoder::Run::new(options.threads, &config)?;
    let calibration = tokens.calibration(&config);
    // Work is handed to the pool piece by piece: the callback stays on the caller's thread.
    let quantise = |fitted: usize, activations: &[[Activation; 4]], progress: Progress<'_>| {
        let calibration = Calibration { batch: &calibration, fitted };
        quantise::quantise(&pool, &run, &config, &float, calibration, activations, progress)
    };
    let all = |activation| vec![[activation; 4]; config.blocks];
    let activations = match options.precision {
        Precision::AllU8 => all(Activation::U8),
        Precision::AllU16 => all(Activation::U16),
        Precision::Auto => {
            let mut trial = quantise(calibration.unjudged_rows(), &all(Activation::U8), progress)?;
            precision::choose(&run, &mut trial, &calibration, progress)?
        }
    };
    let model = quantise(calibration.ids.len(), &activations, progress)?;
    Ok(assemble::assemble(options, &config, &model, tokens.cleaned))
}
