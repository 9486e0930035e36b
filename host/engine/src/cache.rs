//! Compiled code, kept between processes, that cannot be poisoned.
//!
//! # Why
//!
//! Loading compiled code is running it: whoever can change a cache entry owns the process. And an entry made
//! for another CPU, engine or profile must never be loaded by mistake.
//!
//! # How
//!
//! 1. The directory belongs to this user and is closed to everyone else (0700), or it is not used.
//! 2. Beside the entries lies a random key (0600), made on first use. It never leaves the machine, so an
//!    entry copied from elsewhere does not verify.
//! 3. An entry's name is the BLAKE3 of everything the code depends on: the component's bytes, the profile,
//!    the compiler, and the engine's own fingerprint of its version, settings and the CPU's features.
//! 4. An entry is a keyed BLAKE3 over its name and its code, then the code. It is read into memory,
//!    verified there, and loaded from that same memory: what was checked is what runs.
//! 5. An entry that does not verify is removed, and the component compiled again.
//! 6. Entries are written to a temporary file and renamed: readers see all of it or nothing.

use crate::profile::DeterminismProfile;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Bytes of the keyed hash in front of the code.
const MAC_BYTES: usize = 32;
/// Largest entry that is read or written.
const MAX_ENTRY_BYTES: u64 = 256 << 20;
/// Most entries that are kept; the oldest go first.
const MAX_ENTRIES: usize = 256;
const KEY_FILE: &str = "key";
const ENTRY_EXTENSION: &str = "code";

/// Why a directory cannot be used as a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made, read or written.
    #[error("the cache directory {path} cannot be used: {source}")]
    Io {
        /// The directory, or a file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could change what is in it.
    #[error("{path} is not safe as a cache of compiled code: {reason}. Fix it with `chmod` or remove it")]
    Unsafe {
        /// The directory, or a file in it.
        path: PathBuf,
        /// Who could do what.
        reason: String,
    },
}

/// A directory of compiled code.
#[derive(Debug, Clone)]
pub struct CacheDir {
    path: PathBuf,
    key: [u8; 32],
}

/// The identity of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryName(blake3::Hash);

impl CacheDir {
    /// Open a cache, making the directory and its key when they are not there yet.
    ///
    /// # Errors
    /// The directory belongs to someone else, is open to others, or cannot be written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, CacheError> {
        let path = path.into();
        make_private_directory(&path).map_err(|source| CacheError::Io { path: path.clone(), source })?;
        let key = match read_key(&path)? {
            Some(key) => key,
            None => make_key(&path)?,
        };
        Ok(Self { path, key })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The component from the cache; `None` where it must be compiled.
    pub(crate) fn load(&self, engine: &Engine, name: EntryName) -> Option<Component> {
        let path = self.entry(name);
        let bytes = match read_private_file(&path, MAX_ENTRY_BYTES) {
            Ok(bytes) => bytes?,
            Err(error) => {
                self.discard(&path, &error.to_string());
                return None;
            }
        };
        let Some(code) = self.verified(name, &bytes) else {
            self.discard(&path, "its authentication code is wrong");
            return None;
        };
        match deserialize(engine, code) {
            Ok(component) => Some(component),
            Err(error) => {
                self.discard(&path, &error.to_string());
                None
            }
        }
    }

    /// Keep a compiled component. A cache that cannot be written costs time, not correctness, so failures
    /// are only logged.
    pub(crate) fn store(&self, name: EntryName, component: &Component) {
        let written = component.serialize().map_err(io::Error::other).and_then(|code| {
            if code.len() as u64 + MAC_BYTES as u64 > MAX_ENTRY_BYTES {
                return Err(io::Error::other("the compiled component is too large"));
            }
            let mac = self.mac(name, &code);
            write_atomically(&self.path, &self.entry(name), &[mac.as_bytes().as_slice(), &code])
        });
        match written {
            Ok(()) => self.evict(),
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "compiled code was not cached"),
        }
    }

    fn entry(&self, name: EntryName) -> PathBuf {
        self.path.join(format!("{}.{ENTRY_EXTENSION}", name.0.to_hex()))
    }

    fn mac(&self, name: EntryName, code: &[u8]) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.key).update(name.0.as_bytes()).update(code).finalize()
    }

    /// The code of an entry that this machine wrote under this name.
    fn verified<'a>(&self, name: EntryName, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (mac, code) = bytes.split_first_chunk::<MAC_BYTES>()?;
        // `blake3::Hash` compares in constant time.
        (self.mac(name, code) == blake3::Hash::from_bytes(*mac)).then_some(code)
    }

    fn discard(&self, path: &Path, reason: &str) {
        tracing::warn!(path = %path.display(), reason, "a cache entry is not used and removed");
        // It is not used either way.
        let _ = fs::remove_file(path);
    }

    /// Remove the oldest entries beyond the bound. Another process may be doing the same: errors are
    /// no concern.
    fn evict(&self) {
        let Ok(directory) = fs::read_dir(&self.path) else { return };
        let mut entries: Vec<_> = directory
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|e| e == ENTRY_EXTENSION))
            .filter_map(|file| Some((file.metadata().and_then(|m| m.modified()).ok()?, file.path())))
            .collect();
        entries.sort();
        let excess = entries.len().saturating_sub(MAX_ENTRIES);
        for (_, path) in entries.into_iter().take(excess) {
            let _ = fs::remove_file(path);
        }
    }
}

impl EntryName {
    /// Everything that compiled code depends on.
    pub(crate) fn new(engine: &Engine, profile: DeterminismProfile, component: &[u8]) -> Self {
        let mut name = Fingerprint(blake3::Hasher::new_derive_key("ostrakon compiled code v1"));
        blake3::hash(component).as_bytes().hash(&mut name);
        profile.digest().as_bytes().hash(&mut name);
        profile.compiler().name().hash(&mut name);
        engine.precompile_compatibility_hash().hash(&mut name);
        Self(name.0.finalize())
    }
}

/// Collects what the engine hashes, without shortening it to 64 bits.
struct Fingerprint(blake3::Hasher);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Asked for by nobody: the name is the whole hash.
    fn finish(&self) -> u64 {
        0
    }
}

#[allow(unsafe_code)]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` was verified in this same memory by a key that only this user can read, so it is what
    // `Component::serialize` gave this user for an engine of the same version, settings and CPU features;
    // wasmtime checks those three again.
    unsafe { Component::deserialize(engine, code) }
}

fn unsafe_to_use(path: &Path, reason: impl Into<String>) -> CacheError {
    CacheError::Unsafe { path: path.to_owned(), reason: reason.into() }
}

fn make_private_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// The key, if there is one. Checks on the way that directory and key are this user's alone.
fn read_key(directory: &Path) -> Result<Option<[u8; 32]>, CacheError> {
    check_private_directory(directory)?;
    let path = directory.join(KEY_FILE);
    let bytes = read_private_file(&path, 33).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => unsafe_to_use(&path, source.to_string()),
        _ => CacheError::Io { path: path.clone(), source },
    })?;
    match bytes {
        None => Ok(None),
        Some(bytes) => match <[u8; 32]>::try_from(bytes) {
            Ok(key) => Ok(Some(key)),
            Err(_) => Err(unsafe_to_use(&path, "the key does not have 32 bytes")),
        },
    }
}

/// Make the key. When two processes do so at once, the first one's key holds.
fn make_key(directory: &Path) -> Result<[u8; 32], CacheError> {
    let path = directory.join(KEY_FILE);
    let failed = |source| CacheError::Io { path: path.clone(), source };
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| failed(io::Error::other(error)))?;
    let temporary = temporary_name(directory).map_err(failed)?;
    let written = write_new(&temporary, &[&key]).and_then(|()| fs::hard_link(&temporary, &path));
    // Best effort: a stray temporary file harms nobody.
    let _ = fs::remove_file(&temporary);
    match written {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => read_key(directory)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into())),
    }
}

#[cfg(unix)]
fn check_private_directory(path: &Path) -> Result<(), CacheError> {
    use std::os::unix::fs::MetadataExt;
    let failed = |source| CacheError::Io { path: path.to_owned(), source };
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(unsafe_to_use(path, "it is not a directory (symbolic links are not followed)"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(unsafe_to_use(
            path,
            format!("its mode is {:o}, so that others can enter it", metadata.mode() & 0o777),
        ));
    }
    // Who this user is shows in the owner of a file that it makes.
    let probe = temporary_name(path).map_err(failed)?;
    let owner = write_new(&probe, &[]).and_then(|()| fs::symlink_metadata(&probe)).map(|m| m.uid());
    let _ = fs::remove_file(&probe);
    if owner.map_err(failed)? != metadata.uid() {
        return Err(unsafe_to_use(path, format!("it belongs to user {}", metadata.uid())));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_private_directory(path: &Path) -> Result<(), CacheError> {
    Err(unsafe_to_use(path, "this system's permissions cannot be checked"))
}

/// The bytes of a regular file that is closed to others; `None` where there is none.
fn read_private_file(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let refused = |reason: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    if !metadata.is_file() {
        return refused("it is not a regular file");
    }
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::mode(&metadata) & 0o077 != 0 {
        return refused("others can read or write it");
    }
    if metadata.len() > limit {
        return refused("it is too large");
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn write_new(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    Ok(())
}

fn write_atomically(directory: &Path, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = temporary_name(directory)?;
    let written = write_new(&temporary, parts).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn temporary_name(directory: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(directory.join(format!(".{:016x}.tmp", u64::from_le_bytes(random))))
}
