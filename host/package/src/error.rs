//! What can go wrong with a package, and what to do about it.
//!
//! Every text names the file and the remedy. Text that comes out of a hostile file is shortened and
//! escaped before it reaches a terminal.

use std::{io, path::PathBuf};

use crate::weights::WeightsError;
use ostrakon_protocol::{Digest, PublicKey};

/// A package was refused, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The directory holds no package.
    #[error(
        "{directory}: not a package: there is no package.toml in it; give the directory that `ostrakon pack` wrote"
    )]
    NotAPackage {
        /// What was opened.
        directory: PathBuf,
    },
    /// A file that the manifest names is not there.
    #[error("{file}: the file is missing; copy the package again or pack it anew")]
    Missing {
        /// Which.
        file: PathBuf,
    },
    /// Something other than a plain file stands where a file should.
    #[error("{file}: {what} where a plain file should be; a package holds no links and no special files")]
    NotPlain {
        /// Which.
        file: PathBuf,
        /// What stands there.
        what: &'static str,
    },
    /// The operating system refused.
    #[error("{file}: cannot {action}: {source}")]
    Io {
        /// Which file or directory.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is larger than any of its kind may be.
    #[error("{file}: {bytes} bytes, at most {limit} are read; this is not a file that ostrakon wrote")]
    TooLarge {
        /// Which.
        file: PathBuf,
        /// How large.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A file has another length than the manifest says: cut short or grown.
    #[error("{file}: {found} bytes, package.toml says {expected}; copy the package again")]
    WrongLength {
        /// Which.
        file: PathBuf,
        /// The manifest's length.
        expected: u64,
        /// The file's.
        found: u64,
    },
    /// A file has other bytes than the manifest says.
    #[error("{file}: the contents were changed: BLAKE3 {found}, package.toml says {expected}; copy the package again")]
    Altered {
        /// Which.
        file: PathBuf,
        /// The manifest's digest.
        expected: Digest,
        /// The file's.
        found: Digest,
    },
    /// The manifest has a format that this version does not know.
    #[error("{file}: format {found}, this ostrakon reads format {known}; update ostrakon or pack the model again")]
    UnknownFormat {
        /// The manifest.
        file: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        known: u32,
    },
    /// The manifest does not describe a package.
    #[error("{file}: {why}; pack the model again")]
    Manifest {
        /// The manifest.
        file: PathBuf,
        /// What is wrong and where.
        why: String,
    },
    /// There is no signature, and the policy wants one.
    #[error(
        "{directory}: the package is not signed; sign it by packing it yourself, or allow unsigned packages for this run"
    )]
    NotSigned {
        /// The package.
        directory: PathBuf,
    },
    /// The signature does not hold. No policy allows this.
    #[error(
        "{file}: {why}; the package was changed after it was signed or damaged on the way: get it again from its author"
    )]
    SignatureFailed {
        /// The signature file.
        file: PathBuf,
        /// What about it.
        why: String,
    },
    /// The signature holds, but nobody vouches for its key.
    #[error(
        "{directory}: signed by {key}, who is not in your trust file; if you trust this signer add\n\n    [[signer]]\n    \
         name = \"who it is\"\n    key = \"{key}\"\n\nto trust.toml in the configuration directory, or allow unknown signers \
         for this run"
    )]
    UnknownSigner {
        /// The package.
        directory: PathBuf,
        /// Whose key signed it.
        key: PublicKey,
    },
    /// A weights file is malformed.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The number of shards does not fit the model.
    #[error("{shards} shards for {blocks} encoder or decoder blocks: choose between 1 and {most}")]
    Shards {
        /// What was asked for.
        shards: usize,
        /// How many encoder and decoder blocks there are.
        blocks: usize,
        /// The largest number that fits.
        most: usize,
    },
    /// The model given to the writer is not one.
    #[error("the model cannot be packed: {0}")]
    Model(String),
    /// The output directory holds something that is not ours to replace.
    #[error("{directory}: exists and {why}; choose another directory or remove it yourself")]
    WouldOverwrite {
        /// The output directory.
        directory: PathBuf,
        /// What is in it.
        why: String,
    },
}

impl PackageError {
    /// For `map_err`: the operating system refused `action` on `file`.
    pub(crate) fn io(file: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { file, action, source }
    }
}

/// Most characters of foreign text in a message.
const QUOTED: usize = 120;

/// Foreign text, escaped and shortened, in backticks.
pub(crate) fn quote(text: &str) -> String {
    ["`", &escaped(text), "`"].concat()
}

/// Foreign text, escaped and shortened.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    for c in characters.by_ref().take(QUOTED) {
        match c {
            ' ' => out.push(' '),
            c if c.is_control() || c.is_whitespace() || is_invisible(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    if characters.next().is_some() {
        out.push_str("...");
    }
    out
}

/// Characters that change how their neighbours are shown: the directional marks and their like.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Where and why a TOML text was refused. The parser's own text would repeat whole lines of the file.
pub(crate) fn toml_fault(error: &toml::de::Error, text: &str) -> String {
    let message = escaped(error.message());
    match error.span() {
        Some(span) => {
            let line = text.bytes().take(span.start).filter(|&b| b == b'\n').count() + 1;
            format!("line {line}: {message}")
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_move_the_cursor_or_fill_the_screen() {
        assert_eq!(quote("plain text"), "`plain text`");
        assert_eq!(quote("a\u{1b}[2Jb\n"), "`a\\u{1b}[2Jb\\u{a}`");
        assert_eq!(quote("\u{202e}abc"), "`\\u{202e}abc`");
        assert!(quote(&"x".repeat(1 << 20)).len() < 200);
    }
}
