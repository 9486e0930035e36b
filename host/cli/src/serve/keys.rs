//! Who may ask: keys, of which only digests are kept.

use super::limits::KEY_FILE;
use crate::problem::Problem;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// Fewest characters of a key: what is shorter can be tried out.
const SHORTEST: usize = 16;

/// The keys that are let in.
pub(super) struct Keys(Vec<blake3::Hash>);

impl Keys {
    /// Of a file with one key a line. Empty lines and lines that begin with `#` are left out.
    pub(super) fn read(path: &Path) -> Result<Self, Problem> {
        let wrong = |why: String| Problem::usage(format!("the keys in {} cannot be used: {why}", path.display()));
        let mut text = Zeroizing::new(String::new());
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        file.take(KEY_FILE.0 + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
        if text.len() as u64 > KEY_FILE.0 {
            return Err(wrong(format!("the file has more than {} bytes", KEY_FILE.0)));
        }
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (line, key) in (1..).zip(text.lines()).map(|(line, key)| (line, key.trim())) {
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if key.len() < SHORTEST || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!(
                    "line {line}: a key has at least {SHORTEST} characters, of ASCII and without spaces"
                ));
            }
            keys.push(blake3::hash(key.as_bytes()));
        }
        match keys.len() {
            0 => Err("there is none: write one a line".into()),
            count if count > KEY_FILE.1 => Err(format!("there are {count}, at most {}", KEY_FILE.1)),
            _ => Ok(Self(keys)),
        }
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// A number for whoever has this key; none if it is not let in. Digests are compared in constant time, and all of them.
    pub(super) fn holder(&self, key: &str) -> Option<u64> {
        let digest = blake3::hash(key.as_bytes());
        let known = self.0.iter().fold(false, |known, other| known | (*other == digest));
        known.then(|| number(&digest))
    }
}

/// A number for a client, of what it is known by.
pub(super) fn number(digest: &blake3::Hash) -> u64 {
    digest.as_bytes().iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_open() {
        let keys = Keys::parse("# of the house\n\nsk-0123456789abcdef \nsk-fedcba9876543210\n").unwrap();
        assert_eq!(keys.len(), 2);
        let first = keys.holder("sk-0123456789abcdef");
        assert!(first.is_some() && first != keys.holder("sk-fedcba9876543210"));
        for wrong in ["", "sk-0123456789abcde", "sk-0123456789abcdef ", "sk-0123456789abcdeF", "# of the house"] {
            assert_eq!(keys.holder(wrong), None);
        }
    }

    #[test]
    fn a_file_without_keys_is_refused() {
        assert!(Keys::parse("\n#\n").is_err());
        assert!(Keys::parse("short\n").err().unwrap().contains("line 1"));
        assert!(Keys::parse("with a space in the middle").is_err());
        let problem = Keys::read(Path::new("/nothing/there")).err().unwrap();
        assert!(problem.to_string().contains("/nothing/there"));
    }
}
