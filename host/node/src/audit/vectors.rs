//! The auditor's secret vectors, kept between audits.
//!
//! # Why
//!
//! A challenge costs one pass over a layer's weights to prepare, so it is drawn once and used for many audits.
//! Whoever knows it can make wrong products that pass. So it stays on this machine, in files that only this user
//! can read, one directory for each package, and is thrown away as soon as a node was caught with it.
//!
//! # Trust in the files
//!
//! A damaged file must not lead to an accusation. A file lies under the digest of its package and the name of its
//! layer, which name the weights, and carries a digest of its content: where something does not fit, the vectors
//! are drawn anew. And before anyone is accused, the row in question is computed from the weights.

use crate::error::{NodeError, file_error};
use crate::private_file::PrivateFile;
use ostrakon_exact::Linear;
use ostrakon_exact::freivalds::Vectors;
use ostrakon_exact::simd::Executor;
use ostrakon_nn::LayerVectors;
use ostrakon_package::Home;
use ostrakon_protocol::Digest;
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Before the digest of a file's content.
const MAGIC: &[u8; 8] = b"OSTRVEC2";

/// Vectors in files under this user's data directory.
pub struct KeptVectors {
    directory: PathBuf,
    executor: Arc<Executor>,
}

impl KeptVectors {
    pub(super) fn new(home: &Home, package: &Digest, executor: Arc<Executor>) -> Self {
        Self { directory: directory(home, package), executor }
    }

    /// Throw them away.
    pub(super) fn forget(&self) {
        // Files that cannot be removed were caught reading: their challenge is still secret from everyone else.
        let _ = fs::remove_dir_all(&self.directory);
    }

    fn draw(&self, layer: &Linear) -> Result<Vectors, String> {
        let mut failed = None;
        let vectors = Vectors::random(&self.executor, layer, |bytes| {
            if let Err(error) = getrandom::fill(bytes) {
                failed = Some(error.to_string());
            }
        });
        match failed {
            Some(error) => Err(format!("no randomness for secret vectors: {error}")),
            None => vectors.map_err(|error| error.to_string()),
        }
    }
}

/// Where the vectors for a package are kept.
pub fn directory(home: &Home, package: &Digest) -> PathBuf {
    home.data.join("audit").join(package.to_string())
}

impl LayerVectors for KeptVectors {
    fn vectors(&self, name: &str, layer: &Linear) -> Result<Arc<Vectors>, String> {
        // Names of layers are names of files: letters, digits, dots and dashes, checked when the package was opened.
        let path = self.directory.join(format!("{name}.vectors"));
        if let Some(vectors) = load(&self.executor, &path, name, layer) {
            return Ok(Arc::new(vectors));
        }
        let vectors = self.draw(layer)?;
        // An audit without a place for its vectors is slower next time and no less right.
        if let Err(error) = store(&path, name, layer, &vectors) {
            tracing::warn!(%error, "secret vectors cannot be kept");
        }
        Ok(Arc::new(vectors))
    }
}

/// Of the content and the layer it is for, so that no file stands in for another.
fn checksum(name: &str, layer: &Linear, content: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("ostrakon 2026 audit vectors v2");
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.update(&(layer.outputs as u64).to_le_bytes());
    hasher.update(&(layer.inputs as u64).to_le_bytes());
    hasher.update(content);
    *hasher.finalize().as_bytes()
}

fn load(executor: &Executor, path: &Path, name: &str, layer: &Linear) -> Option<Vectors> {
    let mut bytes = Vec::new();
    // Two vectors of each length in 8 bytes at most, and room for what is before them.
    let limit = (layer.outputs as u64 + layer.inputs as u64) * 32 + 4096;
    let file = fs::File::open(path).ok()?;
    if !is_private(&file) {
        return None;
    }
    file.take(limit).read_to_end(&mut bytes).ok()?;
    let (digest, content) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if *digest != checksum(name, layer, content) {
        return None;
    }
    Vectors::from_bytes(executor, layer, content).ok()
}

/// Vectors that others could read are no secret.
fn is_private(file: &fs::File) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o077 == 0)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        true
    }
}

fn store(path: &Path, name: &str, layer: &Linear, vectors: &Vectors) -> Result<(), NodeError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    private_directory(directory).map_err(file_error("make", directory))?;
    let content = vectors.to_bytes();
    PrivateFile::at(path)?.write(|to| {
        to.write_all(MAGIC)?;
        to.write_all(&checksum(name, layer, &content))?;
        to.write_all(&content)
    })?;
    Ok(())
}

fn private_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    // One that somebody opened to others since is closed again.
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}
