//! An open package: everything in it verified, its weights mapped.
//!
//! [`Package::open`] goes in this order and stops at the first thing that is wrong. Nothing is parsed
//! before the signature over it holds (or the policy does without one), nothing is kept before its
//! digest is right.
//!
//! 1. `package.toml` is read, at most 4 MiB; its bytes give the package digest.
//! 2. `package.sig` is verified against that digest, and its signer against the [`TrustPolicy`].
//! 3. The manifest is parsed and validated: names, bounds, shards.
//! 4. Each file it names is opened without following links; its length, then its BLAKE3 digest, must
//!    be the manifest's. Tokenizer, template and components are read into memory; weights are mapped.
//! 5. The header of each weights file is checked, and its tensors are matched to the layers.
//!
//! The bytes that were verified are the bytes that are used: files are not opened again. A weights
//! file stays mapped while the package is open; like every mapped file it must not be written to
//! meanwhile, which the owner of the directory can see to (the content store keeps files read-only).

use std::{
    collections::HashMap,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use ostrakon_exact::Part;
use ostrakon_nn::{Encoding, LayerSource, LayerSourceError, RawGraph, RawLayer};
use ostrakon_protocol::{Context, Digest};

use crate::{
    error::PackageError,
    files,
    graphs::Tier,
    manifest::{self, Block, FileEntry, Manifest, ManifestFault},
    model::PartType,
    signature::{self, PackageSignature},
    trust::{SignatureState, TrustPolicy},
    weights::{self, TensorEntry, WeightsError, WeightsFault},
};

/// A verified package. Cheap to share behind an `Arc`.
pub struct Package {
    directory: PathBuf,
    manifest: Manifest,
    digest: Digest,
    signature: SignatureState,
    tokenizer: Option<Vec<u8>>,
    template: Option<String>,
    graphs: HashMap<String, StoredGraph>,
    components: HashMap<String, Vec<u8>>,
    layers: HashMap<String, StoredLayer>,
}

/// A layer by its full name: views into the map of its block's file.
struct StoredLayer {
    kind: String,
    activation: String,
    map: Arc<Mmap>,
    tensors: Vec<TensorEntry>,
}

/// A graph: its maps.
struct StoredGraph {
    encoding: Encoding,
    model: Arc<Mmap>,
    weights: Option<Arc<Mmap>>,
}

/// What `inspect` shows of one array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSummary {
    /// The layer's full name: `blocks.0.attention.qkv`.
    pub layer: String,
    /// The layer's kind.
    pub kind: String,
    /// `u8` or `u16` for a linear layer.
    pub activation: String,
    /// `weight`, `scale` and so on.
    pub part: String,
    /// What one element is.
    pub dtype: PartType,
    /// Its shape.
    pub dims: Vec<usize>,
}

/// A part of a map, kept alive by it.
struct MappedRange {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for MappedRange {
    fn as_ref(&self) -> &[u8] {
        // In bounds since the header was checked; an empty slice would be refused as a wrong length.
        self.map.get(self.range.clone()).unwrap_or_default()
    }
}

impl Package {
    /// Open and verify the package in `directory`, in the order that the module describes.
    ///
    /// # Errors
    /// Whatever is wrong first; see [`PackageError`].
    pub fn open(directory: &Path, policy: &TrustPolicy) -> Result<Self, PackageError> {
        let bytes = read_manifest(directory)?;
        let digest = Digest::of(Context::PACKAGE, &bytes);
        let signature = check_signature(directory, &digest, policy)?;
        let manifest = parse_manifest(directory, &bytes)?;

        let read = |entry: &FileEntry| read_verified(directory, &entry.file, entry.blake3, entry.bytes);
        let tokenizer = manifest.tokenizer.as_ref().map(read).transpose()?;
        let template = manifest.generation.as_ref().and_then(|g| g.template.as_ref());
        let template = template.map(|entry| as_text(directory, &entry.file, read(entry)?)).transpose()?;
        let mut components = HashMap::new();
        for entry in &manifest.components {
            let wasm = read_verified(directory, &entry.file, entry.blake3, entry.bytes)?;
            components.insert(entry.name.clone(), wasm);
        }
        let mut layers = HashMap::new();
        for block in &manifest.blocks {
            if let Some(entry) = &block.weights {
                let map = Arc::new(map_verified(directory, entry)?);
                layers.extend(block_layers(block, &entry.file, &map)?);
            }
        }
        let mut graphs = HashMap::new();
        for graph in &manifest.graphs {
            let map = |entry: &FileEntry| map_verified(directory, entry).map(Arc::new);
            let model = FileEntry { file: graph.file.clone(), blake3: graph.blake3, bytes: graph.bytes };
            let (model, weights) = (map(&model)?, graph.weights.as_ref().map(map).transpose()?);
            graphs.insert(graph.name.clone(), StoredGraph { encoding: graph.encoding(), model, weights });
        }
        let directory = directory.to_owned();
        tracing::debug!(package = %manifest.name, %digest, %signature, "opened a package");
        Ok(Self { directory, manifest, digest, signature, tokenizer, template, graphs, components, layers })
    }

    /// Where it was opened.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it is made of.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its name for the rest of the world: two packages with one digest are the same to the byte.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// What its signature says. Never [`SignatureState::Failed`]: such a package does not open.
    pub const fn signature_state(&self) -> &SignatureState {
        &self.signature
    }

    /// The component with this name.
    pub fn component(&self, name: &str) -> Option<&[u8]> {
        self.components.get(name).map(Vec::as_slice)
    }

    /// `tokenizer.json`. None in a package with graphs.
    pub fn tokenizer(&self) -> Option<&[u8]> {
        self.tokenizer.as_deref()
    }

    /// The chat template (Jinja) of a model that writes text, if it has one.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// All arrays, in the order of the manifest.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSummary> {
        let names = self.manifest.blocks.iter().flat_map(|b| b.layers.iter().map(move |l| full_name(b, &l.name)));
        names.filter_map(|name| self.layers.get(&name).map(|layer| (name, layer))).flat_map(|(name, layer)| {
            layer.tensors.iter().map(move |t| TensorSummary {
                layer: name.clone(),
                kind: layer.kind.clone(),
                activation: layer.activation.clone(),
                part: part_of(&t.name).1.to_owned(),
                dtype: t.dtype,
                dims: t.dims.clone(),
            })
        })
    }
}

impl LayerSource for Package {
    fn raw(&self, name: &str) -> Result<RawLayer, LayerSourceError> {
        let layer = self.layers.get(name).ok_or_else(|| LayerSourceError::NotFound { name: name.to_owned() })?;
        let parts = layer.tensors.iter().map(|t| Part {
            name: part_of(&t.name).1.to_owned(),
            dimensions: t.dims.clone(),
            data: Box::new(MappedRange { map: Arc::clone(&layer.map), range: t.range.clone() }),
        });
        Ok(RawLayer { kind: layer.kind.clone(), activation: layer.activation.clone(), parts: parts.collect() })
    }

    fn graph(&self, name: &str) -> Result<Option<RawGraph>, LayerSourceError> {
        let whole = |map: &Arc<Mmap>| {
            Box::new(MappedRange { map: Arc::clone(map), range: 0..map.len() }) as Box<dyn AsRef<[u8]> + Send + Sync>
        };
        Ok(self.graphs.get(name).map(|graph| RawGraph {
            encoding: graph.encoding,
            model: whole(&graph.model),
            weights: graph.weights.as_ref().map(whole),
        }))
    }
}

/// What the signature of the package in `directory` says, whatever any policy allows: for `inspect`.
///
/// # Errors
/// There is no package, or a file cannot be read.
pub fn signature_state(directory: &Path, policy: &TrustPolicy) -> Result<SignatureState, PackageError> {
    let digest = Digest::of(Context::PACKAGE, &read_manifest(directory)?);
    read_signature(directory, &digest, policy)
}

/// The digest of the package in `directory` as it names itself; nothing else is verified.
///
/// # Errors
/// There is no package, or its manifest cannot be read.
pub fn claimed_digest(directory: &Path) -> Result<Digest, PackageError> {
    Ok(Digest::of(Context::PACKAGE, &read_manifest(directory)?))
}

/// The tier of the package in `directory` as its manifest has it; nothing else is verified.
///
/// # Errors
/// There is no package, or its manifest is none.
pub fn claimed_tier(directory: &Path) -> Result<Tier, PackageError> {
    Ok(claimed_manifest(directory)?.0.tier())
}

/// What the package in `directory` claims to be, if its signature is good enough for `policy`: its files are not
/// looked at, and need not be there yet.
///
/// # Errors
/// There is no package, its signature does not hold or does not count, or its manifest is none.
pub fn signed_manifest(directory: &Path, policy: &TrustPolicy) -> Result<(Manifest, Digest), PackageError> {
    let bytes = read_manifest(directory)?;
    let digest = Digest::of(Context::PACKAGE, &bytes);
    check_signature(directory, &digest, policy)?;
    Ok((parse_manifest(directory, &bytes)?, digest))
}

/// Read and validate only the manifest, to list what is there; nothing is verified.
///
/// # Errors
/// There is no package, or its manifest is none.
pub fn claimed_manifest(directory: &Path) -> Result<(Manifest, Digest), PackageError> {
    let bytes = read_manifest(directory)?;
    Ok((parse_manifest(directory, &bytes)?, Digest::of(Context::PACKAGE, &bytes)))
}

fn read_manifest(directory: &Path) -> Result<Vec<u8>, PackageError> {
    files::read(directory, manifest::FILE, manifest::MAX_MANIFEST).map_err(|e| match e {
        PackageError::Missing { .. } => PackageError::NotAPackage { directory: directory.to_owned() },
        other => other,
    })
}

fn parse_manifest(directory: &Path, bytes: &[u8]) -> Result<Manifest, PackageError> {
    let file = directory.join(manifest::FILE);
    Manifest::parse(bytes).map_err(|fault| match fault {
        ManifestFault::Format(found) => PackageError::UnknownFormat { file, found, known: manifest::FORMAT },
        ManifestFault::Malformed(why) => PackageError::Manifest { file, why },
    })
}

fn read_signature(directory: &Path, digest: &Digest, policy: &TrustPolicy) -> Result<SignatureState, PackageError> {
    let bytes = match files::read(directory, signature::FILE, signature::MAX_SIGNATURE) {
        Ok(bytes) => bytes,
        Err(PackageError::Missing { .. }) => return Ok(SignatureState::NotSigned),
        Err(other) => return Err(other),
    };
    let verified = PackageSignature::parse(&bytes).and_then(|s| s.verify(digest).map(|()| s.key()));
    Ok(match verified {
        Err(why) => SignatureState::Failed(why),
        Ok(key) => match policy.name_of(&key) {
            Some(name) => SignatureState::VerifiedBy { key, name: name.to_owned() },
            None => SignatureState::UnknownSigner { key },
        },
    })
}

fn check_signature(directory: &Path, digest: &Digest, policy: &TrustPolicy) -> Result<SignatureState, PackageError> {
    let state = read_signature(directory, digest, policy)?;
    match &state {
        SignatureState::Failed(why) => {
            Err(PackageError::SignatureFailed { file: directory.join(signature::FILE), why: why.clone() })
        }
        SignatureState::NotSigned if !policy.allow_unsigned => {
            Err(PackageError::NotSigned { directory: directory.to_owned() })
        }
        SignatureState::UnknownSigner { key } if !policy.allow_unknown => {
            Err(PackageError::UnknownSigner { directory: directory.to_owned(), key: *key })
        }
        _ => Ok(state),
    }
}

/// Open a file of the manifest and check its length.
fn open_exact(directory: &Path, name: &str, bytes: u64) -> Result<File, PackageError> {
    let (file, found) = files::open(directory, name)?;
    if found != bytes {
        return Err(PackageError::WrongLength { file: directory.join(name), expected: bytes, found });
    }
    Ok(file)
}

fn check_digest(directory: &Path, name: &str, expected: Digest, found: Digest) -> Result<(), PackageError> {
    if found == expected { Ok(()) } else { Err(PackageError::Altered { file: directory.join(name), expected, found }) }
}

fn read_verified(directory: &Path, name: &str, digest: Digest, bytes: u64) -> Result<Vec<u8>, PackageError> {
    let file = open_exact(directory, name, bytes)?;
    let contents = files::read_open(file, bytes, bytes, &directory.join(name))?;
    check_digest(directory, name, digest, Digest::of_content(&contents))?;
    Ok(contents)
}

fn as_text(directory: &Path, name: &str, bytes: Vec<u8>) -> Result<String, PackageError> {
    String::from_utf8(bytes).map_err(|e| PackageError::Manifest {
        file: directory.join(name),
        why: format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()),
    })
}

#[allow(unsafe_code)]
fn map_verified(directory: &Path, entry: &FileEntry) -> Result<Mmap, PackageError> {
    let file = open_exact(directory, &entry.file, entry.bytes)?;
    let full = directory.join(&entry.file);
    let length = usize::try_from(entry.bytes).map_err(|_| PackageError::TooLarge {
        file: full.clone(),
        bytes: entry.bytes,
        limit: usize::MAX as u64,
    })?;
    // SAFETY: the map is read-only and is seen only as bytes, for which every value is valid. Another
    // process that writes to the file meanwhile is excluded by the contract in the module's text.
    let map = unsafe { memmap2::MmapOptions::new().len(length).map(&file) }
        .map_err(PackageError::io(&full, "map the file"))?;
    check_digest(directory, &entry.file, entry.blake3, Digest::of_content(&map))?;
    Ok(map)
}

/// Match the tensors of a block's file to its layers: none missing, none left over.
fn block_layers(block: &Block, file: &str, map: &Arc<Mmap>) -> Result<Vec<(String, StoredLayer)>, PackageError> {
    let fault = |tensor, fault| WeightsError { file: file.to_owned(), tensor, fault };
    let mut by_layer: HashMap<String, Vec<TensorEntry>> = HashMap::new();
    for tensor in weights::read(file, map)? {
        let (layer, part) = part_of(&tensor.name);
        let expected =
            PartType::of_part(part).ok_or_else(|| fault(Some(tensor.name.clone()), WeightsFault::Unclaimed))?;
        if tensor.dtype != expected {
            let (found, expected) = (tensor.dtype.name(), expected.name());
            return Err(fault(Some(tensor.name.clone()), WeightsFault::PartType { found, expected }).into());
        }
        by_layer.entry(layer.to_owned()).or_default().push(tensor);
    }
    let mut layers = Vec::with_capacity(block.layers.len());
    for layer in &block.layers {
        let tensors = by_layer
            .remove(&layer.name)
            .ok_or_else(|| fault(None, WeightsFault::Unfilled(full_name(block, &layer.name))))?;
        let (kind, activation) = (layer.kind.clone(), layer.activation.clone());
        layers.push((full_name(block, &layer.name), StoredLayer { kind, activation, map: Arc::clone(map), tensors }));
    }
    match by_layer.into_values().flatten().map(|t| t.name).min() {
        Some(extra) => Err(fault(Some(extra), WeightsFault::Unclaimed).into()),
        None => Ok(layers),
    }
}

fn full_name(block: &Block, layer: &str) -> String {
    format!("{}.{layer}", block.name)
}

/// The layer and the part that a tensor's name stands for.
fn part_of(tensor: &str) -> (&str, &str) {
    tensor.rsplit_once('.').unwrap_or(("", tensor))
}
