//! Files from outside, read whole and never beyond a bound.

use super::ImportError;
use serde::de::DeserializeOwned;
use std::{fs::File, io::Read, path::Path};

/// Longest JSON file but for the tokenizer.
const MAX_JSON: u64 = 1 << 20;

/// All bytes of `file`, at most `limit`.
pub(super) fn read(file: &Path, limit: u64) -> Result<Vec<u8>, ImportError> {
    let refused = |source| ImportError::Read { file: file.to_owned(), source };
    let open = File::open(file).map_err(refused)?;
    let bytes = open.metadata().map_err(refused)?.len();
    if bytes > limit {
        return Err(ImportError::TooLarge { file: file.to_owned(), bytes, limit });
    }
    let mut data = Vec::new();
    // The file may have grown since, or be a device without a length.
    open.take(limit).read_to_end(&mut data).map_err(refused)?;
    Ok(data)
}

/// A small JSON file.
pub(super) fn json<T: DeserializeOwned>(file: &Path) -> Result<T, ImportError> {
    let data = read(file, MAX_JSON)?;
    serde_json::from_slice(&data).map_err(|error| ImportError::Malformed {
        file: file.to_owned(),
        why: format!("not the JSON expected: {error}"),
    })
}

/// Likewise, `None` if there is no such file.
pub(super) fn optional_json<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, ImportError> {
    match json(file) {
        Ok(value) => Ok(Some(value)),
        Err(ImportError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Foreign text for a message.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_default).collect()
}
