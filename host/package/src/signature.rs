//! Signatures: who answers for a package.
//!
//! 1. A [`SigningKey`] is made ([`load_or_create_key`]) on first use and kept in the user's key directory, for the owner alone.
//! 2. It signs the package digest under a context of its own, so that a signature made here means
//!    nothing anywhere else.
//! 3. `package.sig` holds the public key and the signature, in exactly one spelling: a file that
//!    says the same in other bytes is refused.
//! 4. Verification is strict: no weak keys, no second encoding of a signature.

use std::{
    fmt,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use ostrakon_protocol::{Digest, PublicKey, Purpose, Signature, SigningKey, digest::decode_hex};
use serde::{Deserialize, Serialize};

use crate::{error::toml_fault, home::Home};

/// The signature's file name.
pub const FILE: &str = "package.sig";
/// Largest signature file.
pub const MAX_SIGNATURE: u64 = 4096;

/// Before the digits in a key file.
const SEED_PREFIX: &str = "ostrakon-ed25519-seed:";

/// The key file cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operating system refused.
    #[error("{file}: cannot {action}: {source}")]
    Io {
        /// The key file or its directory.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Others can read the key.
    #[error("{file}: other users can read this key (mode {mode:o}); run `chmod 600 {file}`")]
    Exposed {
        /// The key file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is not a key.
    #[error("{file}: not a signing key; move it away and a new one is made, then trust the old public key by hand")]
    Malformed {
        /// The key file.
        file: PathBuf,
    },
    /// The operating system has no randomness.
    #[error("no randomness for a new key: {0}")]
    Randomness(getrandom::Error),
}

impl KeyError {
    fn io(file: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, action, source }
    }
}

/// This user's key, if one was made before.
///
/// # Errors
/// The file cannot be read, is not a key, or can be read by others.
pub fn load_key(home: &Home) -> Result<Option<SigningKey>, KeyError> {
    let path = home.signing_key();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(KeyError::io(&path, "open the key")(e)),
    };
    let metadata = file.metadata().map_err(KeyError::io(&path, "look at the key"))?;
    check_private(&path, &metadata)?;
    let malformed = || KeyError::Malformed { file: path.clone() };
    let bytes = crate::files::read_open(file, metadata.len(), 256, &path).map_err(|_| malformed())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
    let seed = text.trim_end().strip_prefix(SEED_PREFIX).and_then(decode_hex).ok_or_else(malformed)?;
    Ok(Some(SigningKey::from_seed(&seed)))
}

/// This user's key; made now if there is none. Two processes that do this at once get the same key.
///
/// # Errors
/// As [`load_key`], or the file cannot be written.
pub fn load_or_create_key(home: &Home) -> Result<SigningKey, KeyError> {
    if let Some(key) = load_key(home)? {
        return Ok(key);
    }
    let path = home.signing_key();
    let directory = path.parent().unwrap_or(&home.config);
    create_private_directory(directory).map_err(KeyError::io(directory, "make the key directory"))?;
    let key = SigningKey::generate().map_err(KeyError::Randomness)?;
    // A temporary file has mode 0600 from the start; it gets its name only when it is whole.
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(KeyError::io(&path, "write the key"))?;
    writeln!(file, "{SEED_PREFIX}{}", hex::encode(key.seed()))
        .and_then(|()| file.as_file().sync_all())
        .map_err(KeyError::io(&path, "write the key"))?;
    match file.persist_noclobber(&path) {
        Ok(_) => {
            tracing::info!(key = %key.public(), file = %path.display(), "made a signing key");
            Ok(key)
        }
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => {
            load_key(home)?.ok_or(KeyError::Malformed { file: path })
        }
        Err(e) => Err(KeyError::io(&path, "write the key")(e.error)),
    }
}

#[cfg(unix)]
fn check_private(path: &Path, metadata: &fs::Metadata) -> Result<(), KeyError> {
    use std::os::unix::fs::PermissionsExt;
    match metadata.permissions().mode() & 0o777 {
        mode if mode & 0o077 != 0 => Err(KeyError::Exposed { file: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn check_private(_: &Path, _: &fs::Metadata) -> Result<(), KeyError> {
    Ok(())
}

fn create_private_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// The contents of `package.sig`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageSignature {
    key: PublicKey,
    signature: Signature,
}

impl fmt::Debug for PackageSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackageSignature by {}", self.key)
    }
}

impl PackageSignature {
    /// Who signed.
    pub const fn key(&self) -> PublicKey {
        self.key
    }

    /// Sign a package.
    pub fn sign(key: &SigningKey, package: &Digest) -> Self {
        Self { key: key.public(), signature: key.sign(Purpose::PACKAGE, package) }
    }

    /// The one text of this signature.
    pub fn to_text(&self) -> String {
        format!("key = \"{}\"\nsignature = \"{}\"\n", self.key, self.signature.to_hex())
    }

    /// Read the text of a signature.
    ///
    /// # Errors
    /// Too long, not such a text, or the same said in other bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_SIGNATURE {
            return Err(format!("the signature has {} bytes, at most {MAX_SIGNATURE} are read", bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "the signature is not text".to_owned())?;
        let signature: Self =
            toml::from_str(text).map_err(|e| format!("the signature is malformed: {}", toml_fault(&e, text)))?;
        if signature.to_text() != text {
            return Err("the signature is not written as ostrakon writes it".to_owned());
        }
        Ok(signature)
    }

    /// Whether the key named here signed this package.
    ///
    /// # Errors
    /// It did not, or the key is one that signs anything.
    pub fn verify(&self, package: &Digest) -> Result<(), String> {
        match self.key.signed(Purpose::PACKAGE, package, &self.signature) {
            true => Ok(()),
            false => Err(format!("the signature by {} does not fit package.toml", self.key)),
        }
    }
}
