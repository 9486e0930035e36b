//! Names that may stand in a manifest. They become file names, map keys and terminal output, so
//! only characters that are harmless in all three are allowed.

use std::collections::HashSet;

use crate::error::quote;

/// Longest name, in bytes.
pub const MAX_NAME: usize = 128;
/// Most pieces of a file name.
const MAX_PIECES: usize = 4;

/// A name of a package, block, layer, component, shard or setting: lower-case letters, digits, `-`
/// and `.`, beginning with a letter or digit, no two dots in a row, no dot at the end.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let fine = bytes.len() <= MAX_NAME
        && bytes.first().copied().is_some_and(plain)
        && bytes.iter().all(|&b| plain(b) || matches!(b, b'-' | b'.'))
        && !name.contains("..")
        && !name.ends_with('.');
    if fine {
        return Ok(());
    }
    Err(format!(
        "the {what} name {} is not allowed: use 1 to {MAX_NAME} lower-case letters, digits, `-` and single dots, \
         beginning with a letter or digit",
        quote(name)
    ))
}

/// A file inside a package directory.
pub fn check_file(name: &str) -> Result<(), String> {
    let pieces = name.split('/');
    if pieces.clone().count() > MAX_PIECES {
        return Err(format!("the file name {} has more than {MAX_PIECES} pieces", quote(name)));
    }
    for piece in pieces {
        check_name("file", piece)
            .map_err(|_| format!("the file name {} does not stay inside the package or is not plain", quote(name)))?;
    }
    Ok(())
}

/// Free text that is shown to people.
pub(crate) fn check_text(what: &str, text: &str, limit: usize) -> Result<(), String> {
    if text.len() > limit {
        return Err(format!("{what} has {} bytes, at most {limit} are allowed", text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(_) => Err(format!("{what} {} holds a control character", quote(text))),
        None => Ok(()),
    }
}

/// No name twice.
pub(crate) fn check_unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("the {what} {} is there twice", quote(name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_only() {
        for name in ["minilm", "blocks.0", "attention.qkv", "block-bert", "feed-forward.up", "0"] {
            assert_eq!(check_name("block", name), Ok(()));
        }
        let long = "a".repeat(MAX_NAME + 1);
        for name in ["", ".", "..", "a..b", "a.", ".a", "-a", "A", "a b", "a_b", "a/b", "a\\b", "a\0", "ä", &long] {
            assert!(check_name("block", name).is_err(), "{name}");
        }
        assert!(check_file("a/b/c/d").is_ok());
        assert!(check_file("a/b/c/d/e").is_err());
    }
}
