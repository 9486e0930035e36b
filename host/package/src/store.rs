//! The content store: files by their digest, packages by name.
//!
//! `blobs/<2 digits>/<digest>` holds each file once, however many packages have it, read-only.
//! `packages/<name>` is a package directory like any other, made of hard links to blobs (copies where
//! the file system has no links), so it opens as it stands. Everything gets its final name in one
//! step: a crash leaves at most a temporary file.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use ostrakon_protocol::Digest;

use crate::{
    error::{PackageError, quote},
    files,
    home::Home,
    manifest, names,
    package::{self, Package},
    signature,
    trust::TrustPolicy,
};

/// Largest blob: the largest file of a package.
pub const MAX_BLOB: u64 = manifest::MAX_WEIGHTS;

/// The store cannot give or take something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No package has this name.
    #[error("there is no package {name}; {known}, and a directory that holds a package.toml works too")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is, in words.
        known: String,
    },
    /// The blob is not there.
    #[error("the store has no file {digest}; add the package again")]
    NoBlob {
        /// Which.
        digest: Digest,
    },
    /// The blob has other bytes than its name says.
    #[error("{file}: the stored file was changed or damaged; remove it and add the package again")]
    Damaged {
        /// The blob.
        file: PathBuf,
    },
    /// The blob is larger than the caller takes.
    #[error("{bytes} bytes are too many for the store, at most {limit} are taken")]
    TooLarge {
        /// How many.
        bytes: u64,
        /// How many at most.
        limit: u64,
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
    /// The package itself was refused.
    #[error(transparent)]
    Package(#[from] PackageError),
}

impl StoreError {
    fn io(file: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, action, source }
    }
}

/// A package in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPackage {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// Its directory.
    pub directory: PathBuf,
}

/// This user's store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store under this home. Nothing is created before something is added.
    pub fn open(home: &Home) -> Self {
        Self { root: home.data.clone() }
    }

    /// Verify the package in `directory` under `policy` and keep it under its name, in place of any
    /// other with that name.
    ///
    /// # Errors
    /// The package is refused, or the store cannot be written.
    pub fn add_package(&self, directory: &Path, policy: &TrustPolicy) -> Result<StoredPackage, StoreError> {
        let package = Package::open(directory, policy)?;
        let manifest = package.manifest();
        let packages = self.packages();
        create_all(&packages)?;
        let staging = tempfile::Builder::new()
            .prefix(".adding-")
            .tempdir_in(&packages)
            .map_err(StoreError::io(&packages, "make a temporary directory in it"))?;

        for (name, digest, bytes) in manifest.files() {
            let (file, length) = files::open(directory, name)?;
            if length != bytes {
                return Err(
                    PackageError::WrongLength { file: directory.join(name), expected: bytes, found: length }.into()
                );
            }
            let blob = self.put_verified(file, bytes, digest, &directory.join(name))?;
            link(&blob, &staging.path().join(name))?;
        }
        for (name, limit) in [(manifest::FILE, manifest::MAX_MANIFEST), (signature::FILE, signature::MAX_SIGNATURE)] {
            match files::read(directory, name, limit) {
                Ok(bytes) => {
                    let path = staging.path().join(name);
                    fs::write(&path, bytes).map_err(StoreError::io(&path, "write the file"))?;
                }
                Err(PackageError::Missing { .. }) if name == signature::FILE => {}
                Err(e) => return Err(e.into()),
            }
        }
        // The directory may have been changed since it was verified: what counts is what was kept.
        let kept = package::claimed_digest(staging.path())?;
        if kept != package.digest() {
            let (file, expected) = (directory.join(manifest::FILE), package.digest());
            return Err(PackageError::Altered { file, expected, found: kept }.into());
        }
        let directory = packages.join(&manifest.name);
        if let Err(e) = fs::remove_dir_all(&directory)
            && e.kind() != ErrorKind::NotFound
        {
            return Err(StoreError::io(&directory, "remove the old package")(e));
        }
        fs::rename(staging.path(), &directory).map_err(StoreError::io(&directory, "give the package its name"))?;
        let _ = staging.keep();
        Ok(StoredPackage { name: manifest.name.clone(), digest: kept, directory })
    }

    /// The directory of the package with this name.
    ///
    /// # Errors
    /// There is none.
    pub fn resolve(&self, name: &str) -> Result<PathBuf, StoreError> {
        let directory = self.packages().join(name);
        if names::check_name("package", name).is_ok() && directory.join(manifest::FILE).is_file() {
            return Ok(directory);
        }
        let known: Vec<String> = self.list()?.into_iter().map(|p| p.name).collect();
        let known = if known.is_empty() {
            "the store is empty: pack one with `ostrakon pack`".to_owned()
        } else {
            format!("the store has {}", known.join(", "))
        };
        Err(StoreError::Unknown { name: quote(name), known })
    }

    /// The package that a user means by a word: a directory with a `package.toml` if there is one,
    /// otherwise a name in the store.
    ///
    /// # Errors
    /// It is neither.
    pub fn locate(&self, word: &OsStr) -> Result<PathBuf, StoreError> {
        let path = Path::new(word);
        if path.join(manifest::FILE).is_file() {
            return Ok(path.to_owned());
        }
        match word.to_str() {
            Some(name) if names::check_name("package", name).is_ok() => self.resolve(name),
            _ => Err(PackageError::NotAPackage { directory: path.to_owned() }.into()),
        }
    }

    /// All packages, by name. Directories that hold none are passed over.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<StoredPackage>, StoreError> {
        let packages = self.packages();
        let entries = match fs::read_dir(&packages) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StoreError::io(&packages, "list the packages")(e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let directory = entry.map_err(StoreError::io(&packages, "list the packages"))?.path();
            let Some(name) = directory.file_name().and_then(OsStr::to_str).map(str::to_owned) else { continue };
            match package::claimed_manifest(&directory) {
                Ok((manifest, digest)) if manifest.name == name => {
                    found.push(StoredPackage { name, digest, directory })
                }
                _ => tracing::debug!(directory = %directory.display(), "no package"),
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Keep some bytes.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of_content(bytes);
        if !self.has(&digest, bytes.len() as u64) {
            self.keep(&digest, |file| file.write_all(bytes))?;
        }
        Ok(digest)
    }

    /// The bytes with this digest, at most `limit` of them, verified.
    ///
    /// # Errors
    /// They are not there, too many or not the ones.
    pub fn get(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.blob(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(StoreError::NoBlob { digest: *digest }),
            Err(e) => return Err(StoreError::io(&path, "open the file")(e)),
        };
        let length = file.metadata().map_err(StoreError::io(&path, "read the length"))?.len();
        if length > limit {
            return Err(StoreError::TooLarge { bytes: length, limit });
        }
        let bytes = files::read_open(file, length, limit, &path)?;
        if Digest::of_content(&bytes) == *digest { Ok(bytes) } else { Err(StoreError::Damaged { file: path }) }
    }

    fn packages(&self) -> PathBuf {
        self.root.join("packages")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("blobs").join(name.get(..2).unwrap_or_default()).join(name)
    }

    /// Whether a blob is there with the right length. Its bytes are verified whenever it is read.
    fn has(&self, digest: &Digest, bytes: u64) -> bool {
        fs::symlink_metadata(self.blob(digest)).is_ok_and(|m| m.is_file() && m.len() == bytes)
    }

    /// Keep an open file of `bytes` bytes that must have this digest; it streams through, whatever its
    /// size.
    fn put_verified(&self, file: File, bytes: u64, digest: Digest, path: &Path) -> Result<PathBuf, StoreError> {
        if bytes > MAX_BLOB {
            return Err(StoreError::TooLarge { bytes, limit: MAX_BLOB });
        }
        let blob = self.blob(&digest);
        if self.has(&digest, bytes) && hash_file(&blob)? == digest {
            return Ok(blob);
        }
        let mut found = digest;
        self.keep(&digest, |out| {
            let mut source = io::Read::take(file, bytes.saturating_add(1));
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                let read = io::Read::read(&mut source, &mut buffer)?;
                let Some(piece) = buffer.get(..read).filter(|p| !p.is_empty()) else { break };
                hasher.update(piece);
                out.write_all(piece)?;
            }
            found = Digest::from_bytes(*hasher.finalize().as_bytes());
            if found == digest { Ok(()) } else { Err(io::Error::other("the contents were changed")) }
        })
        .map_err(|e| match e {
            _ if found != digest => PackageError::Altered { file: path.to_owned(), expected: digest, found }.into(),
            other => other,
        })?;
        Ok(blob)
    }

    /// Write a blob and give it its name when it is whole.
    fn keep(&self, digest: &Digest, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), StoreError> {
        let path = self.blob(digest);
        let directory = path.parent().unwrap_or(&self.root);
        create_all(directory)?;
        let write = |e| StoreError::io(&path, "write the file")(e);
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(write)?;
        fill(file.as_file_mut()).map_err(write)?;
        let mut permissions = file.as_file().metadata().map_err(write)?.permissions();
        set_read_only(&mut permissions);
        file.as_file().set_permissions(permissions).map_err(write)?;
        file.persist(&path).map_err(|e| write(e.error))?;
        Ok(())
    }
}

#[cfg(unix)]
fn set_read_only(permissions: &mut fs::Permissions) {
    std::os::unix::fs::PermissionsExt::set_mode(permissions, 0o444);
}

#[cfg(not(unix))]
fn set_read_only(permissions: &mut fs::Permissions) {
    permissions.set_readonly(true);
}

fn create_all(directory: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(directory).map_err(StoreError::io(directory, "make the directory"))
}

fn hash_file(path: &Path) -> Result<Digest, StoreError> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(StoreError::io(path, "open the file"))?;
    hasher.update_reader(file).map_err(StoreError::io(path, "read the file"))?;
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

fn link(blob: &Path, to: &Path) -> Result<(), StoreError> {
    if let Some(parent) = to.parent() {
        create_all(parent)?;
    }
    fs::hard_link(blob, to)
        .or_else(|_| fs::copy(blob, to).map(|_| ()))
        .map_err(StoreError::io(to, "link or copy the stored file"))
}
