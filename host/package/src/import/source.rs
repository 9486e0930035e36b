//! Files from outside, read whole and never beyond a bound.

use super::ImportError;
use serde::de::DeserializeOwned;
use std::{fs::File, io::Read, path::Path};

/// Longest JSON file but for the tokenizer.
const MAX_JSON: u64 = 1 << 20;

/// `file`, open for reading, and how many bytes it has.
pub(super) fn open(file: &Path) -> Result<(File, u64), ImportError> {
    let refused = |source| ImportError::Read { file: file.to_owned(), source };
    // Before it is opened: opening a pipe waits for a writer.
    if !std::fs::metadata(file).map_err(refused)?.is_file() {
        return Err(refused(std::io::Error::other("this is not a plain file")));
    }
    let open = File::open(file).map_err(refused)?;
    let bytes = open.metadata().map_err(refused)?.len();
    Ok((open, bytes))
}

/// All bytes of `file`, at most `limit`.
pub(super) fn read(file: &Path, limit: u64) -> Result<Vec<u8>, ImportError> {
    let (open, bytes) = open(file)?;
    if bytes > limit {
        return Err(ImportError::TooLarge { file: file.to_owned(), bytes, limit });
    }
    let mut data = Vec::new();
    // The file may have grown since.
    let read = open.take(limit).read_to_end(&mut data);
    read.map_err(|source| ImportError::Read { file: file.to_owned(), source })?;
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
