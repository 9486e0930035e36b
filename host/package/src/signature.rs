//! Signatures: who answers for a package.
//!
//! 1. A [`SigningKey`] is made on first use and kept in the user's key directory, for the owner alone.
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
    str::FromStr,
};

use ed25519_dalek::{Signer, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    digest::{Digest, decode_hex},
    error::toml_fault,
    home::Home,
};

/// The signature's file name.
pub const FILE: &str = "package.sig";
/// Largest signature file.
pub const MAX_SIGNATURE: u64 = 4096;

/// Signed before the digest.
const CONTEXT: &[u8] = b"ostrakon package signature v1\0";
/// Before the digits of a public key.
const KEY_PREFIX: &str = "ed25519:";
/// Before the digits in a key file.
const SEED_PREFIX: &str = "ostrakon-ed25519-seed:";

/// Whom a signature comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_PREFIX}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix(KEY_PREFIX)
            .and_then(decode_hex)
            .map(Self)
            .ok_or_else(|| format!("a public key is `{KEY_PREFIX}` and 64 lower-case hexadecimal digits"))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

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

/// The secret half. It is never shown and is wiped when dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(KeyError::Randomness)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key with this seed: the same every time.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// This user's key, if one was made before.
    ///
    /// # Errors
    /// The file cannot be read, is not a key, or can be read by others.
    pub fn load(home: &Home) -> Result<Option<Self>, KeyError> {
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
        Ok(Some(Self::from_seed(&seed)))
    }

    /// This user's key; made now if there is none. Two processes that do this at once get the same key.
    ///
    /// # Errors
    /// As [`SigningKey::load`], or the file cannot be written.
    pub fn load_or_create(home: &Home) -> Result<Self, KeyError> {
        if let Some(key) = Self::load(home)? {
            return Ok(key);
        }
        let path = home.signing_key();
        let directory = path.parent().unwrap_or(&home.config);
        create_private_directory(directory).map_err(KeyError::io(directory, "make the key directory"))?;
        let key = Self::generate()?;
        // A temporary file has mode 0600 from the start; it gets its name only when it is whole.
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(KeyError::io(&path, "write the key"))?;
        writeln!(file, "{SEED_PREFIX}{}", hex::encode(key.0.as_bytes()))
            .and_then(|()| file.as_file().sync_all())
            .map_err(KeyError::io(&path, "write the key"))?;
        match file.persist_noclobber(&path) {
            Ok(_) => {
                tracing::info!(key = %key.public(), file = %path.display(), "made a signing key");
                Ok(key)
            }
            Err(e) if e.error.kind() == ErrorKind::AlreadyExists => {
                Self::load(home)?.ok_or(KeyError::Malformed { file: path })
            }
            Err(e) => Err(KeyError::io(&path, "write the key")(e.error)),
        }
    }

    /// The half that others know.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Sign a package.
    pub fn sign(&self, package: &Digest) -> PackageSignature {
        PackageSignature { key: self.public(), signature: Signature(self.0.sign(&message(package)).to_bytes()) }
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

fn message(package: &Digest) -> Vec<u8> {
    [CONTEXT, package.as_bytes()].concat()
}

/// The 64 bytes of an ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Signature([u8; 64]);

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        decode_hex(&String::deserialize(deserializer)?)
            .map(Self)
            .ok_or_else(|| de::Error::custom("a signature is 128 lower-case hexadecimal digits"))
    }
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

    /// The one text of this signature.
    pub fn to_text(&self) -> String {
        format!("key = \"{}\"\nsignature = \"{}\"\n", self.key, hex::encode(self.signature.0))
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
        VerifyingKey::from_bytes(&self.key.0)
            .and_then(|key| {
                key.verify_strict(&message(package), &ed25519_dalek::Signature::from_bytes(&self.signature.0))
            })
            .map_err(|_| format!("the signature by {} does not fit package.toml", self.key))
    }
}
