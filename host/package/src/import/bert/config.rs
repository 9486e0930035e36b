//! What kind of encoder the files hold, and whether there are exact operations for it.

use super::{BertOptions, ImportError, source};
use ostrakon_exact::{layer::MAX_WIDTH, layer::MIN_EPSILON, reference::MAX_HEAD_WIDTH};
use serde::Deserialize;
use std::path::Path;

/// How the rows of a text become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first.
    First,
}

impl Pooling {
    /// Its name in a package: `mean` or `first`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::First => "first",
        }
    }
}

/// Most encoder blocks.
const MAX_BLOCKS: u64 = 256;
/// Most ids.
const MAX_VOCABULARY: u64 = 1 << 22;
/// Most positions.
const MAX_POSITIONS: u64 = 1 << 16;
/// Most tokens of a text where nothing says how many.
const DEFAULT_TOKENS: u32 = 512;

/// A checked configuration.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) blocks: usize,
    pub(super) inner: usize,
    pub(super) vocabulary: usize,
    pub(super) positions: usize,
    pub(super) types: usize,
    pub(super) epsilon: f32,
    pub(super) max_tokens: u32,
    pub(super) pooling: Pooling,
    pub(super) normalise: bool,
}

#[derive(Deserialize)]
struct Published {
    model_type: Option<String>,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    hidden_size: u64,
    num_attention_heads: u64,
    num_hidden_layers: u64,
    intermediate_size: u64,
    vocab_size: u64,
    max_position_embeddings: u64,
    type_vocab_size: u64,
    layer_norm_eps: Option<f64>,
}

/// Which family a configuration belongs to: read first, so that another family's configuration is
/// refused by its name and not for the first key that it lacks.
#[derive(Deserialize)]
struct Family {
    model_type: Option<String>,
}

#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the published format")]
struct PublishedPooling {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
}

#[derive(Deserialize)]
struct SentenceBert {
    max_seq_length: Option<u32>,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
}

impl Config {
    pub(super) fn read(directory: &Path, options: &BertOptions) -> Result<Self, ImportError> {
        let file = directory.join("config.json");
        let unsupported = |why: String| ImportError::Unsupported { file: file.clone(), why };
        let bounded = |what: &str, value: u64, most: u64| match usize::try_from(value) {
            Ok(v) if value >= 1 && value <= most => Ok(v),
            _ => Err(unsupported(format!("{what} is {value}: needs 1 to {most}"))),
        };
        match source::json::<Family>(&file)?.model_type.as_deref() {
            Some("bert") | None => {}
            Some(other) => {
                return Err(unsupported(format!(
                    "model_type is `{}`: only `bert` can be imported",
                    source::shorten(other)
                )));
            }
        }
        let published: Published = source::json(&file)?;
        debug_assert!(published.model_type.as_deref().is_none_or(|kind| kind == "bert"));
        match published.hidden_act.as_deref() {
            Some("gelu") | None => {}
            Some(other) => {
                return Err(unsupported(format!(
                    "hidden_act is `{}`: only `gelu` (by the error function) has an exact operation",
                    source::shorten(other)
                )));
            }
        }
        match published.position_embedding_type.as_deref() {
            Some("absolute") | None => {}
            Some(other) => {
                return Err(unsupported(format!(
                    "position_embedding_type is `{}`: only `absolute` can be imported",
                    source::shorten(other)
                )));
            }
        }
        let epsilon = published.layer_norm_eps.unwrap_or(1e-12) as f32;
        if !(MIN_EPSILON..=1.0).contains(&epsilon) {
            return Err(unsupported(format!("layer_norm_eps is {epsilon}: needs {MIN_EPSILON} to 1")));
        }
        let width = bounded("hidden_size", published.hidden_size, MAX_WIDTH as u64 / 3)?;
        let heads = bounded("num_attention_heads", published.num_attention_heads, published.hidden_size)?;
        let head = width / heads;
        if head * heads != width || head > MAX_HEAD_WIDTH {
            return Err(unsupported(format!(
                "{heads} heads cannot share a hidden_size of {width}: equal heads of 1 to {MAX_HEAD_WIDTH} columns"
            )));
        }
        let positions = bounded("max_position_embeddings", published.max_position_embeddings, MAX_POSITIONS)?;
        Ok(Self {
            width,
            heads,
            blocks: bounded("num_hidden_layers", published.num_hidden_layers, MAX_BLOCKS)?,
            inner: bounded("intermediate_size", published.intermediate_size, MAX_WIDTH as u64)?,
            vocabulary: bounded("vocab_size", published.vocab_size, MAX_VOCABULARY)?,
            positions,
            types: bounded("type_vocab_size", published.type_vocab_size, 1 << 16)?,
            epsilon,
            max_tokens: max_tokens(directory, options, positions)?,
            pooling: pooling(directory, options)?,
            normalise: normalise(directory, options)?,
        })
    }
}

fn max_tokens(directory: &Path, options: &BertOptions, positions: usize) -> Result<u32, ImportError> {
    let most = u32::try_from(positions).unwrap_or(u32::MAX);
    let file = directory.join("sentence_bert_config.json");
    let wanted = match options.max_tokens {
        Some(wanted) => Some(wanted),
        None => source::optional_json::<SentenceBert>(&file)?.and_then(|c| c.max_seq_length),
    };
    match wanted {
        // Two tokens frame a text; a third is the least that says anything.
        Some(wanted) if (3..=most).contains(&wanted) => Ok(wanted),
        Some(wanted) => Err(ImportError::Option(format!(
            "at most {wanted} tokens a text: the model has {most} positions, so choose 3 to {most}"
        ))),
        None => Ok(DEFAULT_TOKENS.min(most)),
    }
}

fn pooling(directory: &Path, options: &BertOptions) -> Result<Pooling, ImportError> {
    if let Some(pooling) = options.pooling {
        return Ok(pooling);
    }
    let file = directory.join("1_Pooling/config.json");
    let Some(p) = source::optional_json::<PublishedPooling>(&file)? else { return Ok(Pooling::Mean) };
    let other = p.pooling_mode_max_tokens
        || p.pooling_mode_mean_sqrt_len_tokens
        || p.pooling_mode_weightedmean_tokens
        || p.pooling_mode_lasttoken;
    match (p.pooling_mode_mean_tokens, p.pooling_mode_cls_token, other) {
        (true, false, false) => Ok(Pooling::Mean),
        (false, true, false) => Ok(Pooling::First),
        _ => Err(ImportError::Unsupported {
            file,
            why: "only pooling by the mean alone or by the first token alone can be imported".to_owned(),
        }),
    }
}

fn normalise(directory: &Path, options: &BertOptions) -> Result<bool, ImportError> {
    if let Some(normalise) = options.normalise {
        return Ok(normalise);
    }
    let modules = source::optional_json::<Vec<Module>>(&directory.join("modules.json"))?;
    Ok(modules.is_none_or(|modules| modules.iter().any(|m| m.kind.ends_with(".Normalize"))))
}
