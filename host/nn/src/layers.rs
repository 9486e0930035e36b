//! Where the parts of a layer come from, and which names may be asked for.

use crate::{NnError, RawGraph};
use ostrakon_exact::Part;

/// Longest name of a layer.
pub const MAX_NAME: usize = 128;

/// A layer as a package stores it. Parts may be views of a memory map: nothing is copied to make one.
pub struct RawLayer {
    /// `linear`, `embedding`, `layer-norm`, `rms-norm` or `rotary`.
    pub kind: String,
    /// For `linear`: `u8` or `u16`. Empty otherwise.
    pub activation: String,
    /// Its arrays.
    pub parts: Vec<Part>,
}

impl RawLayer {
    /// The bytes of all parts together.
    pub fn byte_len(&self) -> u64 {
        self.parts.iter().fold(0u64, |sum, part| sum.saturating_add((*part.data).as_ref().len() as u64))
    }
}

/// The layers of one package.
///
/// A source knows only the layers of its own package; no name leads to another package or to a file. It
/// gets names that [`check_name`] has let through. Asked twice for a name it gives the same
/// bytes. It validates nothing about the parts: `ostrakon_exact::Layer::from_parts` does.
pub trait LayerSource: Send + Sync {
    /// The layer called `name`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    fn raw(&self, name: &str) -> Result<RawLayer, LayerSourceError>;

    /// The graph in floating point called `name`, if the package has one. No layer has its name.
    ///
    /// # Errors
    /// It is there and cannot be read.
    fn graph(&self, name: &str) -> Result<Option<RawGraph>, LayerSourceError> {
        let _ = name;
        Ok(None)
    }
}

/// Why a source could not give a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerSourceError {
    /// The package has no such layer.
    #[error("the package has no layer called `{name}`: names are <block>.<layer>, for example blocks.0.attention.qkv")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// The package lists the layer but its bytes cannot be had.
    #[error("the bytes of layer `{name}` cannot be read: {reason}")]
    Unreadable {
        /// What was asked for.
        name: String,
        /// What stood in the way.
        reason: String,
    },
}

/// Check the name of a layer: 1 to [`MAX_NAME`] characters of `a-z`, `0-9`, `-` and `.`, where dots
/// separate segments and no segment is empty.
///
/// # Errors
/// [`NnError::Security`] for the forms by which other systems name files, other packages or versions
/// (`/`, `\`, `:`, `@`, `..`); [`NnError::InvalidArgument`] for any other name that breaks the rule.
pub fn check_name(name: &str) -> Result<(), NnError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(NnError::InvalidArgument(format!(
            "the name of a layer has 1 to {MAX_NAME} characters, not {}",
            name.len()
        )));
    }
    if name.contains(['/', '\\', ':', '@']) || name.contains("..") {
        return Err(NnError::Security(format!(
            "{name:?} reaches outside the package: only the package's own layers can be loaded, by names such as \
             blocks.0.attention.qkv"
        )));
    }
    let fits = |segment: &str| {
        !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.split('.').all(fits) {
        Ok(())
    } else {
        Err(NnError::InvalidArgument(format!(
            "{name:?} is not the name of a layer: segments of a-z, 0-9 and `-`, separated by single dots"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers_pass() {
        for name in
            ["embeddings.words", "blocks.0.attention.qkv", "blocks.11.feed-forward.up", "x", &"a".repeat(MAX_NAME)]
        {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_reach_outside_are_a_matter_of_security() {
        for name in ["/etc/passwd", "../other.layer", "a..b", "other:blocks.0", "c:\\x", "pkg@1.0", "https://x", ".."] {
            assert!(matches!(check_name(name), Err(NnError::Security(_))), "{name}");
        }
    }

    #[test]
    fn other_names_are_invalid() {
        for name in ["", ".", ".a", "a.", "Blocks.0", "a b", "a_b", "a\0b", "é", "a\n", &"a".repeat(MAX_NAME + 1)] {
            assert!(matches!(check_name(name), Err(NnError::InvalidArgument(_))), "{name}");
        }
    }
}
