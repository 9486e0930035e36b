//! The files that a node gives away: those of packages it serves or stores, and its components.

use super::{GROUP_BYTES, TransferError, disk, root, tree};
use bao_tree::io::outboard::PreOrderOutboard;
use ostrakon_package::{manifest, package, signature};
use ostrakon_protocol::Digest;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

/// Most files on a shelf.
const MAX_FILES: usize = 1 << 20;

/// The files that a node gives away.
#[derive(Debug)]
pub struct Shelf {
    /// Where hash trees are kept, so that a file is hashed once.
    trees: PathBuf,
    content: RwLock<Content>,
    /// One tree is made at a time: two requests for a new file do not hash it twice.
    making: Mutex<()>,
}

#[derive(Debug, Default)]
struct Content {
    files: HashMap<Digest, Lying>,
    packages: BTreeMap<Digest, OnShelf>,
}

/// A package on a shelf.
#[derive(Debug, Clone)]
pub struct OnShelf {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
}

/// A file, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lying {
    /// Where.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

impl Shelf {
    /// An empty shelf that keeps hash trees in a directory.
    pub fn new(trees: PathBuf) -> Self {
        Self { trees, content: RwLock::default(), making: Mutex::default() }
    }

    /// Put these packages and component files on it, in place of what was there. What cannot be read is left out: it is
    /// said in the log.
    pub fn fill(&self, packages: &[PathBuf], components: &[PathBuf]) {
        let mut content = Content::default();
        for directory in packages {
            match package::claimed_manifest(directory) {
                Ok((manifest, digest)) => {
                    for (name, file, bytes) in manifest.files() {
                        content.put(file, Lying { path: directory.join(name), bytes });
                    }
                    content
                        .packages
                        .insert(digest, OnShelf { name: manifest.name.clone(), directory: directory.clone() });
                }
                Err(error) => tracing::warn!(directory = %directory.display(), %error, "a package is not given away"),
            }
        }
        for path in components {
            match component(path) {
                Ok((digest, bytes)) => content.put(digest, Lying { path: path.clone(), bytes }),
                Err(error) => tracing::warn!(path = %path.display(), %error, "a component is not given away"),
            }
        }
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = content;
    }

    /// Where a file lies.
    pub fn file(&self, digest: &Digest) -> Option<Lying> {
        self.content.read().unwrap_or_else(PoisonError::into_inner).files.get(digest).cloned()
    }

    /// A package by its digest.
    pub fn package(&self, digest: &Digest) -> Option<OnShelf> {
        self.content.read().unwrap_or_else(PoisonError::into_inner).packages.get(digest).cloned()
    }

    /// All packages, in the order of their digests.
    pub fn packages(&self) -> Vec<(Digest, OnShelf)> {
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        content.packages.iter().map(|(digest, package)| (*digest, package.clone())).collect()
    }

    /// The manifest and the signature of a package, as they are in its directory.
    ///
    /// # Errors
    /// The package is not here or cannot be read.
    pub fn manifest(&self, digest: &Digest) -> Result<(Vec<u8>, Option<Vec<u8>>), TransferError> {
        let package = self.package(digest).ok_or_else(|| TransferError::Nobody { wanted: digest.to_string() })?;
        let read = |name: &str, limit: u64| {
            let path = package.directory.join(name);
            bounded(&path, limit).map_err(disk("read", &path))
        };
        let bytes = read(manifest::FILE, manifest::MAX_MANIFEST)?;
        let signature = match read(signature::FILE, signature::MAX_SIGNATURE) {
            Ok(bytes) => Some(bytes),
            Err(TransferError::Disk { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            Err(other) => return Err(other),
        };
        Ok((bytes, signature))
    }

    /// The hash tree of a file, made and kept when it is first asked for.
    pub(super) fn tree(&self, digest: &Digest, lying: &Lying) -> Result<PreOrderOutboard<File>, TransferError> {
        let geometry = tree(lying.bytes);
        let path = self.trees.join(format!("{digest}.tree"));
        let opened = |data| PreOrderOutboard { root: root(digest), tree: geometry, data };
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(file) = File::open(&path)
            && file.metadata().is_ok_and(|m| m.len() == geometry.outboard_size())
        {
            return Ok(opened(file));
        }
        fs::create_dir_all(&self.trees).map_err(disk("make the directory", &self.trees))?;
        let file = tempfile::NamedTempFile::new_in(&self.trees).map_err(disk("write to", &self.trees))?;
        file.as_file().set_len(geometry.outboard_size()).map_err(disk("write", &path))?;
        let mut made = opened(file.reopen().map_err(disk("open", &path))?);
        let data = File::open(&lying.path).map_err(disk("read", &lying.path))?;
        let found = bao_tree::io::sync::outboard(data.take(lying.bytes), geometry, &mut made)
            .map_err(disk("read", &lying.path))?;
        if found != root(digest) {
            return Err(disk("give", &lying.path)(std::io::Error::other("the file is not what its digest says")));
        }
        file.persist(&path).map_err(|e| disk("write", &path)(e.error))?;
        Ok(made)
    }
}

impl Content {
    fn put(&mut self, digest: Digest, lying: Lying) {
        if self.files.len() < MAX_FILES {
            self.files.insert(digest, lying);
        }
    }
}

fn component(path: &Path) -> std::io::Result<(Digest, u64)> {
    let bytes = bounded(path, manifest::MAX_READ)?;
    Ok((Digest::of_content(&bytes), bytes.len() as u64))
}

fn bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

/// A range as it may be asked for: it begins at a group and has something in it, or the file is empty.
pub(super) fn range(from: u64, to: u64, bytes: u64) -> Option<std::ops::Range<u64>> {
    let to = to.min(bytes);
    let aligned = from.is_multiple_of(GROUP_BYTES) && (to == bytes || to.is_multiple_of(GROUP_BYTES));
    (aligned && (from < to || bytes == 0)).then_some(from..to)
}
