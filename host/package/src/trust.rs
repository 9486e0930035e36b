//! Trust: whose signatures count on this machine.
//!
//! `trust.toml` in the configuration directory lists names and public keys:
//!
//! ```toml
//! [[signer]]
//! name = "Ada"
//! key = "ed25519:..."
//! ```
//!
//! The user's own key is trusted without being listed. A file that cannot be read or understood is
//! an error, never an empty list.

use std::{
    collections::HashSet,
    io::{self, ErrorKind},
    path::PathBuf,
};

use ostrakon_protocol::PublicKey;
use serde::{Deserialize, Serialize};

use crate::{
    error::toml_fault,
    home::Home,
    names::check_text,
    signature::{KeyError, load_key},
};

/// Largest trust file.
pub const MAX_TRUST: u64 = 1 << 20;
/// What the user's own key is called.
pub const OWN: &str = "you";

/// Someone whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trusted {
    /// What this user calls them.
    pub name: String,
    /// Their key.
    pub key: PublicKey,
}

/// Which packages may be opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustPolicy {
    /// Whose signatures count.
    pub trusted: Vec<Trusted>,
    /// Open packages without a signature.
    pub allow_unsigned: bool,
    /// Open packages signed by someone who is not in `trusted`.
    pub allow_unknown: bool,
}

/// What the signature of a package says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureState {
    /// There is none.
    NotSigned,
    /// There is one and it does not hold: never acceptable.
    Failed(String),
    /// It holds, and its key is trusted under this name.
    VerifiedBy {
        /// The key.
        key: PublicKey,
        /// What this user calls its owner.
        name: String,
    },
    /// It holds, and nobody vouches for its key.
    UnknownSigner {
        /// The key.
        key: PublicKey,
    },
}

impl std::fmt::Display for SignatureState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSigned => f.write_str("not signed"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::VerifiedBy { key, name } => write!(f, "verified by {name} ({key})"),
            Self::UnknownSigner { key } => write!(f, "signed by an unknown key ({key})"),
        }
    }
}

/// The trust of this user cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The trust file is not a list of signers.
    #[error("{file}: {why}; each signer is written as [[signer]] with a name and a key")]
    Malformed {
        /// The trust file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The trust file cannot be read.
    #[error("{file}: cannot read the trust file: {source}")]
    Io {
        /// The trust file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The user's own key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrustFile {
    #[serde(default)]
    signer: Vec<Trusted>,
}

impl TrustPolicy {
    /// This user's policy: the trust file and the own key, nothing else allowed.
    ///
    /// # Errors
    /// The trust file or the own key is there and cannot be used.
    pub fn load(home: &Home) -> Result<Self, TrustError> {
        let path = home.trust_file();
        let mut trusted = match crate::files::read_regular(&path, MAX_TRUST) {
            Ok(bytes) => parse(&bytes).map_err(|why| TrustError::Malformed { file: path.clone(), why })?,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(TrustError::Io { file: path, source }),
        };
        if let Some(own) = load_key(home)? {
            trusted.push(Trusted { name: OWN.to_owned(), key: own.public() });
        }
        Ok(Self { trusted, allow_unsigned: false, allow_unknown: false })
    }

    /// Only this key.
    pub fn only(key: PublicKey) -> Self {
        Self { trusted: vec![Trusted { name: OWN.to_owned(), key }], ..Self::default() }
    }

    /// The name of a trusted key.
    pub fn name_of(&self, key: &PublicKey) -> Option<&str> {
        self.trusted.iter().find(|t| t.key == *key).map(|t| t.name.as_str())
    }
}

/// The signers of a trust file.
pub fn parse(bytes: &[u8]) -> Result<Vec<Trusted>, String> {
    if bytes.len() as u64 > MAX_TRUST {
        return Err(format!("{} bytes, at most {MAX_TRUST} are read", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
    let file: TrustFile = toml::from_str(text).map_err(|e| toml_fault(&e, text))?;
    let mut keys = HashSet::new();
    for signer in &file.signer {
        check_text("a signer's name", &signer.name, 256)?;
        if signer.name.trim().is_empty() {
            return Err(format!("the signer with the key {} has no name", signer.key));
        }
        if !keys.insert(signer.key) {
            return Err(format!("the key {} is there twice", signer.key));
        }
    }
    Ok(file.signer)
}
