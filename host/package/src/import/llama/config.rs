//! What kind of decoder the files hold, and whether there are exact operations for it.

use super::{ImportError, gguf::Gguf, source};
use ostrakon_exact::layer::{MAX_HEAD_WIDTH, MAX_HEADS, MAX_POSITIONS, MAX_WIDTH, MIN_EPSILON};
use serde::Deserialize;
use std::path::Path;

/// Most decoder blocks.
const MAX_BLOCKS: u64 = 1024;
/// Most tokens.
const MAX_VOCABULARY: u64 = 1 << 20;
/// Most weights of one tensor: one at a time is made into floats.
const MAX_WEIGHTS: usize = 1 << 31;
/// The base of the rotary angles where nothing says otherwise.
const BASE: f64 = 10_000.0;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Columns of a head.
    pub(super) head: usize,
    pub(super) inner: usize,
    pub(super) blocks: usize,
    pub(super) vocabulary: usize,
    pub(super) positions: usize,
    pub(super) base: f64,
    pub(super) epsilon: f32,
    /// The head is the embedding table, if the file has none of its own.
    pub(super) tied: bool,
}

/// The numbers as published, not yet checked. Names are those of the file, for messages.
struct Published<'a> {
    names: &'a [&'static str; 8],
    numbers: [u64; 8],
    base: f64,
    epsilon: f64,
    tied: bool,
}

/// In a GGUF file, without `llama.`.
const GGUF: [&str; 8] = [
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "feed_forward_length",
    "block_count",
    "vocab_size",
    "context_length",
];

/// In `config.json`.
const JSON: [&str; 8] = [
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "num_hidden_layers",
    "vocab_size",
    "max_position_embeddings",
];

impl Published<'_> {
    fn check(&self) -> Result<Config, String> {
        let [width_name, heads_name, kv_name, head_name, inner_name, blocks_name, vocabulary_name, context_name] =
            *self.names;
        let [width, heads, kv_heads, head, inner, blocks, vocabulary, context] = self.numbers;
        let bounded = |what: &str, value: u64, most: u64| match usize::try_from(value) {
            Ok(v) if value >= 1 && value <= most => Ok(v),
            _ => Err(format!("{what} is {value}: needs 1 to {most}")),
        };
        let config = Config {
            width: bounded(width_name, width, MAX_WIDTH as u64)?,
            heads: bounded(heads_name, heads, MAX_HEADS as u64)?,
            kv_heads: bounded(kv_name, kv_heads, heads)?,
            head: bounded(head_name, head, MAX_HEAD_WIDTH as u64)?,
            inner: bounded(inner_name, inner, MAX_WIDTH as u64)?,
            blocks: bounded(blocks_name, blocks, MAX_BLOCKS)?,
            vocabulary: bounded(vocabulary_name, vocabulary, MAX_VOCABULARY)?,
            positions: bounded(context_name, context, MAX_POSITIONS as u64)?,
            base: self.base,
            epsilon: self.epsilon as f32,
            tied: self.tied,
        };
        if !config.heads.is_multiple_of(config.kv_heads) {
            return Err(format!("{heads_name} is {heads}, which is no multiple of {kv_name}, {kv_heads}"));
        }
        if config.heads + config.kv_heads > MAX_HEADS || config.heads * config.head > MAX_WIDTH {
            return Err(format!("{heads} heads and {kv_heads} for keys, {head} wide, are too many"));
        }
        if !config.head.is_multiple_of(2) {
            return Err(format!("{head_name} is {head}: positions turn pairs of columns, so it must be even"));
        }
        if !(MIN_EPSILON..=1.0).contains(&config.epsilon) {
            return Err(format!("the epsilon of its norms is {}: needs {MIN_EPSILON} to 1", self.epsilon));
        }
        if !(self.base.is_finite() && self.base > 1.0) {
            return Err(format!("the base of its rotary angles is {}: needs a number over 1", self.base));
        }
        let largest = [config.vocabulary, config.inner, config.columns()].into_iter().max().unwrap_or_default();
        match largest.checked_mul(config.width).filter(|&n| n <= MAX_WEIGHTS) {
            Some(_) => Ok(config),
            None => Err(format!("a tensor of {largest} x {width} weights is too large to be imported")),
        }
    }
}

impl Config {
    /// Columns of queries, keys and values together.
    pub(super) const fn columns(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head
    }

    /// From the metadata of a GGUF file.
    pub(super) fn of_gguf(gguf: &Gguf) -> Result<Self, ImportError> {
        match gguf.text("general.architecture")? {
            Some("llama") => {}
            Some(other) => {
                return Err(gguf.unsupported(format!(
                    "its architecture is `{}`: only `llama` can be imported",
                    source::shorten(other)
                )));
            }
            None => return Err(gguf.malformed("it has no `general.architecture`".to_owned())),
        }
        for (key, harmless) in [("split.count", 1), ("llama.expert_count", 0), ("llama.attention.sliding_window", 0)] {
            if let Some(value) = gguf.number(key)?.filter(|&value| value > harmless) {
                return Err(gguf.unsupported(format!("`{key}` is {value}: such models cannot be imported")));
            }
        }
        if let Some(kind) = gguf.text("llama.rope.scaling.type")?.filter(|&kind| kind != "none") {
            return Err(gguf.unsupported(format!(
                "its rotary angles are scaled (`{}`): only plain ones can be imported",
                source::shorten(kind)
            )));
        }
        let number = |key: &str| gguf.number(&format!("llama.{key}"));
        let needed =
            |key: &str| number(key)?.ok_or_else(|| gguf.malformed(format!("it has no metadata `llama.{key}`")));
        let [width, heads, kv_heads, head, inner, blocks, vocabulary, context] = GGUF;
        let (width, heads) = (needed(width)?, needed(heads)?);
        let default = width.checked_div(heads).filter(|head| head * heads == width);
        let head = number(head)?.or(default).unwrap_or_default();
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(value) = number(key)?.filter(|&value| value != head) {
                return Err(gguf.unsupported(format!(
                    "`llama.{key}` is {value}, but a head has {head} columns: both must be the same"
                )));
            }
        }
        // The embedding table is the last word on the vocabulary.
        let rows = gguf.tensor("token_embd.weight").and_then(|t| t.shape().first().copied());
        let vocabulary = match (number(vocabulary)?, rows) {
            (_, Some(rows)) => rows as u64,
            (Some(number), None) => number,
            (None, None) => 0,
        };
        let published = Published {
            names: &GGUF,
            numbers: [
                width,
                heads,
                number(kv_heads)?.unwrap_or(heads),
                head,
                needed(inner)?,
                needed(blocks)?,
                vocabulary,
                needed(context)?,
            ],
            base: gguf.float("llama.rope.freq_base")?.unwrap_or(BASE),
            epsilon: gguf.float("llama.attention.layer_norm_rms_epsilon")?.ok_or_else(|| {
                gguf.malformed("it has no metadata `llama.attention.layer_norm_rms_epsilon`".to_owned())
            })?,
            tied: true,
        };
        published.check().map_err(|why| gguf.unsupported(why))
    }

    /// From `config.json`.
    pub(super) fn of_directory(directory: &Path) -> Result<Self, ImportError> {
        let file = directory.join("config.json");
        let unsupported = |why: String| ImportError::Unsupported { file: file.clone(), why };
        match source::json::<Family>(&file)?.model_type.as_deref() {
            Some("llama") => {}
            other => {
                let other = source::shorten(other.unwrap_or("missing"));
                return Err(unsupported(format!("model_type is `{other}`: only `llama` can be imported")));
            }
        }
        let p: Llama = source::json(&file)?;
        if let Some(other) = p.hidden_act.as_deref().filter(|&act| act != "silu") {
            let other = source::shorten(other);
            return Err(unsupported(format!("hidden_act is `{other}`: only `silu` has an exact operation")));
        }
        if p.attention_bias.unwrap_or(false) || p.mlp_bias.unwrap_or(false) {
            return Err(unsupported("its linear layers have a bias: only those without can be imported".to_owned()));
        }
        let base = rotary_base(&p).map_err(unsupported)?;
        let heads = p.num_attention_heads;
        let default = p.hidden_size.checked_div(heads).filter(|head| head.checked_mul(heads) == Some(p.hidden_size));
        let published = Published {
            names: &JSON,
            numbers: [
                p.hidden_size,
                heads,
                p.num_key_value_heads.unwrap_or(heads),
                p.head_dim.or(default).unwrap_or_default(),
                p.intermediate_size,
                p.num_hidden_layers,
                p.vocab_size,
                p.max_position_embeddings,
            ],
            base,
            epsilon: p.rms_norm_eps.unwrap_or(1e-6),
            tied: p.tie_word_embeddings.unwrap_or(false),
        };
        published.check().map_err(|why| ImportError::Unsupported { file: file.clone(), why })
    }
}

/// The base of the rotary angles: newer files keep it in `rope_parameters`.
fn rotary_base(p: &Llama) -> Result<f64, String> {
    let mut base = p.rope_theta;
    for rope in [&p.rope_scaling, &p.rope_parameters].into_iter().flatten() {
        let kind = rope.rope_type.as_deref().or(rope.kind.as_deref()).unwrap_or("default");
        if kind != "default" {
            let kind = source::shorten(kind);
            return Err(format!("its rotary angles are scaled (`{kind}`): only plain ones can be imported"));
        }
        base = base.or(rope.rope_theta);
    }
    Ok(base.unwrap_or(BASE))
}

#[derive(Deserialize)]
struct Family {
    model_type: Option<String>,
}

#[derive(Deserialize)]
struct Llama {
    hidden_act: Option<String>,
    hidden_size: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    intermediate_size: u64,
    num_hidden_layers: u64,
    vocab_size: u64,
    max_position_embeddings: u64,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
}

#[derive(Deserialize)]
struct Rope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f64>,
}
