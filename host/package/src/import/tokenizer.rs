//! `tokenizer.json`, checked against the model and freed of what is the caller's business.

use super::{ImportError, source};
use std::path::Path;
use tokenizers::Tokenizer;

/// Longest file.
const MAX_FILE: u64 = 64 << 20;

/// The file of a directory, without padding and truncation, and what it parses to. No token may have an
/// id of `vocabulary` or more.
pub(super) fn read(directory: &Path, vocabulary: usize) -> Result<(Tokenizer, Vec<u8>), ImportError> {
    let file = directory.join("tokenizer.json");
    let malformed = |why: String| ImportError::Malformed { file: file.clone(), why };
    let data = source::read(&file, MAX_FILE)?;
    let mut value: serde_json::Value =
        serde_json::from_slice(&data).map_err(|error| malformed(format!("not JSON: {error}")))?;
    let object = value.as_object_mut().ok_or_else(|| malformed("not a JSON object".to_owned()))?;
    for key in ["truncation", "padding"] {
        object.insert(key.to_owned(), serde_json::Value::Null);
    }
    parse(&value, vocabulary).map_err(malformed)
}

/// A tokenizer as it is and as the bytes of its file.
pub(super) fn parse(value: &serde_json::Value, vocabulary: usize) -> Result<(Tokenizer, Vec<u8>), String> {
    let cleaned = serde_json::to_vec(value).map_err(|error| format!("cannot be written again: {error}"))?;
    let tokenizer = Tokenizer::from_bytes(&cleaned).map_err(|error| format!("not a tokenizer: {error}"))?;
    let outside = |id: &u32| usize::try_from(*id).map_or(true, |id| id >= vocabulary);
    let last = tokenizer.get_vocab(true).into_iter().max_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    match last.filter(|(_, id)| outside(id)) {
        Some((token, id)) => {
            let token = source::shorten(&token);
            Err(format!("gives `{token}` the id {id}, the model has {vocabulary} ids"))
        }
        None => Ok((tokenizer, cleaned)),
    }
}
