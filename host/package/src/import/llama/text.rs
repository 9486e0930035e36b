//! How the model reads and writes text: tokenizer, chat template, the tokens that begin and end.
//!
//! A directory has them in files of their own, in a form that is kept. A GGUF file has a vocabulary,
//! merges and the name of a rule that cuts text into words; here the three become a `tokenizer.json`.

use super::{ImportError, config::Config, gguf::Gguf, source, tokenizer};
use crate::error::quote;
use crate::generation::{MAX_SPECIAL, MAX_TEMPLATE};
use crate::model::ImportedGeneration;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;
use tokenizers::Tokenizer;

/// A token that never stands for text.
const CONTROL: i32 = 3;
/// A token that stands for its own text and is never made of others.
const USER_DEFINED: i32 = 4;
/// Control tokens that end an answer in the models that have them, whatever else their files say.
const ENDINGS: [&str; 5] = ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>"];

/// Tokenizer and settings.
pub(super) struct Text {
    pub(super) tokenizer: Tokenizer,
    /// `tokenizer.json`.
    pub(super) file: Vec<u8>,
    pub(super) generation: ImportedGeneration,
}

impl Text {
    /// From the metadata of a GGUF file.
    pub(super) fn of_gguf(gguf: &Gguf, config: &Config) -> Result<Self, ImportError> {
        match gguf.text("tokenizer.ggml.model")? {
            Some("gpt2") => {}
            Some(other) => {
                return Err(gguf.unsupported(format!(
                    "its tokenizer is `{}`: only `gpt2` (byte-level pairs) can be imported",
                    source::shorten(other)
                )));
            }
            None => return Err(gguf.malformed("it has no `tokenizer.ggml.model`".to_owned())),
        }
        let words = match gguf.text("tokenizer.ggml.pre")? {
            Some("smollm") => json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Digits", "individual_digits": true },
                byte_level(false),
            ]}),
            Some("gpt-2") => byte_level(false),
            other => {
                return Err(gguf.unsupported(format!(
                    "its rule for words, `tokenizer.ggml.pre`, is `{}`: only `smollm` and `gpt-2` can be imported",
                    source::shorten(other.unwrap_or("missing"))
                )));
            }
        };
        let missing = |key: &str| gguf.malformed(format!("it has no `{key}`"));
        let tokens = gguf.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
        let merges = gguf.texts("tokenizer.ggml.merges")?.ok_or_else(|| missing("tokenizer.ggml.merges"))?;
        let types = gguf.integers("tokenizer.ggml.token_type")?.ok_or_else(|| missing("tokenizer.ggml.token_type"))?;
        if types.len() != tokens.len() {
            return Err(gguf.malformed(format!("it has {} tokens and {} token types", tokens.len(), types.len())));
        }
        let value = assemble(&tokens, &types, &merges, &words).map_err(|why| gguf.malformed(why))?;
        let (tokenizer, file) = tokenizer::parse(&value, config.vocabulary)
            .map_err(|why| gguf.malformed(format!("the tokenizer made of its vocabulary: {why}")))?;
        let mut stop = Vec::new();
        for key in ["eos", "eot", "eom"] {
            stop.extend(gguf.number(&format!("tokenizer.ggml.{key}_token_id"))?);
        }
        let control = tokens.iter().zip(&types).zip(0..).filter(|((_, kind), _)| **kind == CONTROL);
        stop.extend(control.filter(|((token, _), _)| ENDINGS.contains(token)).map(|(_, id)| id));
        let begin = match gguf.flag("tokenizer.ggml.add_bos_token")? {
            Some(true) => {
                let key = "tokenizer.ggml.bos_token_id";
                vec![gguf.number(key)?.ok_or_else(|| missing(key))?]
            }
            _ => Vec::new(),
        };
        let template = gguf.text("tokenizer.chat_template")?.map(ToOwned::to_owned);
        let generation = settings(config, stop, begin, template).map_err(|why| gguf.malformed(why))?;
        Ok(Self { tokenizer, file, generation })
    }

    /// From `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json` and
    /// `config.json`, of which only the first and the last must be there.
    pub(super) fn of_directory(directory: &Path, config: &Config) -> Result<Self, ImportError> {
        let (tokenizer, file) = tokenizer::read(directory, config.vocabulary)?;
        let mut stop = Vec::new();
        for name in ["config.json", "generation_config.json"] {
            let ends = source::optional_json::<Ends>(&directory.join(name))?;
            stop.extend(ends.and_then(|ends| ends.eos_token_id).map_or_else(Vec::new, Ids::list));
        }
        stop.extend(ENDINGS.into_iter().filter_map(|token| tokenizer.token_to_id(token)).map(u64::from));
        let place = directory.join("tokenizer.json");
        let malformed = |why: String| ImportError::Malformed { file: place.clone(), why };
        let empty = tokenizer.encode("", true).map_err(|e| malformed(format!("does not take an empty text: {e}")))?;
        let begin = empty.get_ids().iter().map(|&id| id.into()).collect();
        let generation = settings(config, stop, begin, template(directory)?).map_err(malformed)?;
        Ok(Self { tokenizer, file, generation })
    }
}

/// Checked settings: every token exists, none twice, smallest first.
fn settings(
    config: &Config,
    mut stop: Vec<u64>,
    begin: Vec<u64>,
    template: Option<String>,
) -> Result<ImportedGeneration, String> {
    let vocabulary = u32::try_from(config.vocabulary).map_err(|_| "its vocabulary is too large".to_owned())?;
    stop.sort_unstable();
    stop.dedup();
    let ids = |ids: Vec<u64>| -> Result<Vec<u32>, String> {
        let id = |id: u64| u32::try_from(id).ok().filter(|&id| id < vocabulary);
        let id = |given| id(given).ok_or_else(|| format!("it names the token {given}, the model has {vocabulary}"));
        ids.into_iter().map(id).collect()
    };
    let (stop, begin) = (ids(stop)?, ids(begin)?);
    if stop.is_empty() {
        return Err("it names no token that ends an answer (`eos_token_id`)".to_owned());
    }
    if stop.len() > MAX_SPECIAL || begin.len() > MAX_SPECIAL {
        return Err(format!("it names over {MAX_SPECIAL} tokens that begin or end a text"));
    }
    match template {
        Some(text) if text.len() as u64 > MAX_TEMPLATE => {
            Err(format!("its chat template has {} bytes, at most {MAX_TEMPLATE} are read", text.len()))
        }
        template => {
            let template = template.filter(|text| !text.is_empty());
            Ok(ImportedGeneration { vocabulary, stop, begin, template })
        }
    }
}

fn byte_level(add_prefix_space: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true })
}

/// `tokenizer.json` of a vocabulary whose tokens are written byte by byte in printable characters.
fn assemble(tokens: &[&str], types: &[i32], merges: &[&str], words: &Value) -> Result<Value, String> {
    let mut vocabulary = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocabulary.insert((*token).to_owned(), id.into()).is_some() {
            return Err(format!("it has the token {} twice", quote(token)));
        }
    }
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                pairs.push(json!([left, right]));
            }
            _ => return Err(format!("its merge {} is not two tokens", quote(merge))),
        }
    }
    let added = tokens.iter().zip(types).enumerate().filter(|(_, (_, kind))| [CONTROL, USER_DEFINED].contains(kind));
    let added: Vec<Value> = added
        .map(|(id, (token, &kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL,
            })
        })
        .collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": words, "post_processor": null, "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": pairs,
        },
    }))
}

/// One id or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u64),
    Many(Vec<u64>),
}

impl Ids {
    fn list(self) -> Vec<u64> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

#[derive(Deserialize)]
struct Ends {
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// The chat template of a directory: a file of its own, or an entry of `tokenizer_config.json`.
fn template(directory: &Path) -> Result<Option<String>, ImportError> {
    let file = directory.join("chat_template.jinja");
    match source::read(&file, MAX_TEMPLATE) {
        Ok(text) => {
            return String::from_utf8(text)
                .map(Some)
                .map_err(|_| ImportError::Malformed { file, why: "not UTF-8".to_owned() });
        }
        Err(ImportError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let config = source::optional_json::<TokenizerConfig>(&directory.join("tokenizer_config.json"))?;
    Ok(match config.and_then(|config| config.chat_template) {
        None => None,
        Some(Templates::One(text)) => Some(text),
        Some(Templates::Named(all)) => all.into_iter().find(|t| t.name == "default").map(|t| t.template),
    })
}
