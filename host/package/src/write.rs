//! Writing a package: the same model gives the same bytes, whole or not at all.
//!
//! 1. The blocks are cut into shards; only the manifest's shard list knows about that.
//! 2. Everything goes into a temporary directory next to the output.
//! 3. What was written is opened and verified like any package, and every layer is built from it, so
//!    a package that cannot run is never left behind.
//! 4. The directory gets its name in one step. An older package of that name is replaced, anything
//!    else is left alone.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use ostrakon_exact::Layer;
use ostrakon_nn::LayerSource;
use ostrakon_protocol::{Context, Digest, SigningKey};

use crate::{
    error::PackageError,
    generation::Generation,
    manifest::{self, Block, ComponentEntry, FileEntry, Manifest, Shard},
    model::{ImportedBlock, ImportedGeneration, ImportedModel, NamedComponent, PartType},
    package::Package,
    signature::{self, PackageSignature},
    trust::TrustPolicy,
    weights,
    write_float::GRAPHS,
};

const TOKENIZER: &str = "tokenizer.json";
const TEMPLATE: &str = "template.jinja";
const WEIGHTS: &str = "weights";
const COMPONENTS: &str = "components";

/// Write `model` as a package signed by `signer` to the directory `out`, cut into `shards` runs.
///
/// `components` are the ones that the model's blocks name, and any others that should travel along.
/// Encoder and decoder blocks are spread over the shards as evenly as can be; what comes before the
/// first of them stays with it, what comes after the last stays with that.
///
/// # Errors
/// The model contradicts itself, the shards do not fit it, or `out` is something else's.
pub fn write_package(
    model: &ImportedModel,
    components: &[NamedComponent],
    shards: usize,
    out: &Path,
    signer: &SigningKey,
) -> Result<Digest, PackageError> {
    let shards = cut(model.blocks.iter().map(|b| (b.name.as_str(), b.settings.as_slice())), shards)?;
    write_directory(out, signer, |staging| write_files(model, components, shards, staging, signer))
}

/// Write `package` to the directory `out` once more, cut into `shards` runs and signed by `signer`.
///
/// Only the shard list of the manifest changes; every other file stays as it is.
///
/// # Errors
/// The shards do not fit the model, or `out` is something else's.
pub fn reshard(package: &Package, shards: usize, out: &Path, signer: &SigningKey) -> Result<Digest, PackageError> {
    let mut manifest = package.manifest().clone();
    manifest.shards = cut(manifest.blocks.iter().map(|b| (b.name.as_str(), b.settings.as_slice())), shards)?;
    write_directory(out, signer, |staging| {
        make_directories(staging)?;
        for (file, _, _) in package.manifest().files() {
            let from = package.directory().join(file);
            let to = staging.join(file);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(PackageError::io(parent, "make the directory"))?;
            }
            fs::copy(&from, to).map_err(PackageError::io(&from, "copy the file"))?;
        }
        write_manifest(&manifest, staging, signer)
    })
}

/// Let `write` fill a temporary directory, verify what it wrote, and give it the name `out`.
pub(crate) fn write_directory(
    out: &Path,
    signer: &SigningKey,
    write: impl FnOnce(&Path) -> Result<Digest, PackageError>,
) -> Result<Digest, PackageError> {
    check_replaceable(out)?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(PackageError::io(parent, "make the directory"))?;
    let staging = tempfile::Builder::new()
        .prefix(".ostrakon-")
        .tempdir_in(parent)
        .map_err(PackageError::io(parent, "make a temporary directory in it"))?;

    let digest = write(staging.path())?;
    check_written(staging.path(), signer)?;
    publish(staging, out)?;
    Ok(digest)
}

/// The blocks, each with its settings, as `count` runs.
fn cut<'a>(
    blocks: impl Iterator<Item = (&'a str, &'a [(String, String)])> + Clone,
    count: usize,
) -> Result<Vec<Shard>, PackageError> {
    let is_coder = |settings: &[(String, String)]| {
        settings.iter().any(|(k, v)| k == "kind" && matches!(v.as_str(), "encoder" | "decoder"))
    };
    let coders = blocks.clone().filter(|(_, settings)| is_coder(settings)).count();
    let most = coders.max(1);
    if !(1..=most).contains(&count) {
        return Err(PackageError::Shards { shards: count, blocks: coders, most });
    }
    let mut shards: Vec<Shard> = (0..count).map(|i| Shard { name: format!("shard-{i}"), blocks: Vec::new() }).collect();
    let mut seen = 0;
    let mut shard = 0;
    for (name, settings) in blocks {
        if is_coder(settings) {
            shard = seen * count / most;
            seen += 1;
        }
        if let Some(shard) = shards.get_mut(shard) {
            shard.blocks.push(name.to_owned());
        }
    }
    Ok(shards)
}

fn write_files(
    model: &ImportedModel,
    components: &[NamedComponent],
    shards: Vec<Shard>,
    directory: &Path,
    signer: &SigningKey,
) -> Result<Digest, PackageError> {
    // Names become file names below, so they are checked before the manifest is.
    let names = components.iter().map(|c| &c.name).chain(model.blocks.iter().map(|b| &b.name));
    for name in names {
        crate::names::check_name("component or block", name).map_err(PackageError::Model)?;
    }
    make_directories(directory)?;
    let tokenizer = write_file(directory, TOKENIZER, &model.tokenizer)?;
    let generation = model.generation.as_ref().map(|g| write_generation(g, directory)).transpose()?;
    let mut entries = Vec::new();
    for component in components {
        let FileEntry { file, blake3, bytes } =
            write_file(directory, &format!("{COMPONENTS}/{}.wasm", component.name), &component.wasm)?;
        entries.push(ComponentEntry { name: component.name.clone(), file, blake3, bytes });
    }
    let blocks = model.blocks.iter().map(|b| write_block(b, directory)).collect::<Result<_, _>>()?;
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: model.name.clone(),
        family: model.family.clone(),
        licence: model.licence.clone(),
        source: model.source.clone(),
        max_tokens: Some(model.max_tokens),
        tokenizer: Some(tokenizer),
        generation,
        tolerance: None,
        components: entries,
        graphs: Vec::new(),
        blocks,
        shards,
    };
    write_manifest(&manifest, directory, signer)
}

fn write_generation(model: &ImportedGeneration, directory: &Path) -> Result<Generation, PackageError> {
    let write = |text: &String| write_file(directory, TEMPLATE, text.as_bytes());
    Ok(Generation {
        vocabulary: model.vocabulary,
        stop: model.stop.clone(),
        begin: model.begin.clone(),
        template: model.template.as_ref().map(write).transpose()?,
    })
}

pub(crate) fn make_directories(directory: &Path) -> Result<(), PackageError> {
    [WEIGHTS, COMPONENTS].into_iter().try_for_each(|sub| {
        let sub = directory.join(sub);
        fs::create_dir(&sub).map_err(PackageError::io(&sub, "make the directory"))
    })
}

/// Write the manifest and its signature.
pub(crate) fn write_manifest(
    manifest: &Manifest,
    directory: &Path,
    signer: &SigningKey,
) -> Result<Digest, PackageError> {
    let text = manifest.to_text().map_err(PackageError::Model)?;
    write_file(directory, manifest::FILE, text.as_bytes())?;
    let digest = Digest::of(Context::PACKAGE, text.as_bytes());
    write_file(directory, signature::FILE, PackageSignature::sign(signer, &digest).to_text().as_bytes())?;
    Ok(digest)
}

fn write_block(block: &ImportedBlock, directory: &Path) -> Result<Block, PackageError> {
    let refuse = |why: String| PackageError::Model(format!("block `{}`: {why}", block.name));
    let mut seen = HashMap::new();
    for layer in &block.layers {
        for part in &layer.parts {
            if PartType::of_part(&part.name) != Some(part.dtype) {
                let (name, dtype) = (&part.name, part.dtype.name());
                return Err(refuse(format!("layer `{}`: no layer has a part `{name}` of type {dtype}", layer.name)));
            }
            if seen.insert((&layer.name, &part.name), ()).is_some() {
                return Err(refuse(format!("layer `{}`: the part `{}` is there twice", layer.name, part.name)));
            }
        }
    }
    let weights = if block.layers.is_empty() {
        None
    } else {
        let bytes = weights::write(&block.layers).map_err(refuse)?;
        Some(write_file(directory, &format!("{WEIGHTS}/{}.safetensors", block.name), &bytes)?)
    };
    let layers = block.layers.iter().map(|l| manifest::Layer {
        name: l.name.clone(),
        kind: l.kind.clone(),
        activation: l.activation.clone(),
    });
    Ok(Block {
        name: block.name.clone(),
        component: block.component.clone(),
        settings: block.settings.clone(),
        weights,
        layers: layers.collect(),
    })
}

pub(crate) fn write_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<FileEntry, PackageError> {
    let path = directory.join(name);
    fs::write(&path, bytes).map_err(PackageError::io(&path, "write the file"))?;
    Ok(FileEntry { file: name.to_owned(), blake3: Digest::of_content(bytes), bytes: bytes.len() as u64 })
}

/// Open what was written and build every layer from it.
fn check_written(directory: &Path, signer: &SigningKey) -> Result<(), PackageError> {
    let package = Package::open(directory, &TrustPolicy::only(signer.public()))?;
    for block in &package.manifest().blocks {
        for layer in &block.layers {
            let name = format!("{}.{}", block.name, layer.name);
            let refuse = |why: String| PackageError::Model(format!("layer `{name}`: {why}"));
            let raw = package.raw(&name).map_err(|e| refuse(e.to_string()))?;
            Layer::from_parts(&raw.kind, &raw.activation, raw.parts).map_err(|e| refuse(e.to_string()))?;
        }
    }
    Ok(())
}

/// Whether `out` is free, empty or a package: refused otherwise.
fn check_replaceable(out: &Path) -> Result<(), PackageError> {
    let refuse = |why: String| PackageError::WouldOverwrite { directory: out.to_owned(), why };
    match fs::symlink_metadata(out) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(PackageError::io(out, "look at the output directory")(e)),
        Ok(seen) if seen.is_dir() => {}
        Ok(_) => return Err(refuse("is not a directory".to_owned())),
    }
    let found = files_below(out)?;
    if found.is_empty() {
        return Ok(());
    }
    // Only what an older package lists may go with it.
    let text = out.join(manifest::FILE);
    let readable = fs::symlink_metadata(&text).is_ok_and(|f| f.is_file() && f.len() <= manifest::MAX_MANIFEST);
    let text = if readable { fs::read(&text).ok() } else { None };
    let Some(old) = text.and_then(|text| Manifest::parse(&text).ok()) else {
        return Err(refuse("is not empty and holds no package".to_owned()));
    };
    let mut ours: HashSet<PathBuf> = old.files().map(|(file, _, _)| PathBuf::from(file)).collect();
    ours.extend([manifest::FILE, signature::FILE].map(PathBuf::from));
    match found.into_iter().find(|file| !ours.contains(file)) {
        Some(file) => Err(refuse(format!("holds {file:?}, which does not belong to the package in it"))),
        None => Ok(()),
    }
}

/// Everything in a package's directory and its folders but the folders of a package. Stops early:
/// one file too many is enough to know.
fn files_below(out: &Path) -> Result<Vec<PathBuf>, PackageError> {
    let mut found = Vec::new();
    for folder in ["", WEIGHTS, COMPONENTS, GRAPHS] {
        let directory = out.join(folder);
        if !fs::symlink_metadata(&directory).is_ok_and(|seen| seen.is_dir()) {
            continue;
        }
        for entry in fs::read_dir(&directory).map_err(PackageError::io(&directory, "list the directory"))? {
            let entry = entry.map_err(PackageError::io(&directory, "list the directory"))?;
            let name = Path::new(folder).join(entry.file_name());
            let folder_of_ours = [WEIGHTS, COMPONENTS, GRAPHS].iter().any(|ours| name == **ours)
                && entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !folder_of_ours {
                found.push(name);
            }
            if found.len() > 2 * manifest::MAX_COUNT {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Give the finished directory its name.
fn publish(staging: tempfile::TempDir, out: &Path) -> Result<(), PackageError> {
    let parent: PathBuf = staging.path().parent().map(Path::to_owned).unwrap_or_default();
    readable(staging.path())?;
    // An older package steps aside first: a directory cannot be renamed onto a full one.
    let old = match fs::symlink_metadata(out) {
        Ok(_) => {
            let aside = tempfile::Builder::new()
                .prefix(".ostrakon-old-")
                .tempdir_in(&parent)
                .map_err(PackageError::io(&parent, "make a temporary directory in it"))?;
            fs::rename(out, aside.path().join("package"))
                .map_err(PackageError::io(out, "move the old package away"))?;
            Some(aside)
        }
        Err(_) => None,
    };
    if let Err(e) = fs::rename(staging.path(), out) {
        if let Some(old) = &old {
            fs::rename(old.path().join("package"), out).map_err(PackageError::io(out, "put the old package back"))?;
        }
        return Err(PackageError::io(out, "give the new package its name")(e));
    }
    // It has its name now: nothing temporary is left to remove.
    let _ = staging.keep();
    Ok(())
}

/// Temporary directories are for their owner alone; a package is for whoever may read its parent.
#[cfg(unix)]
fn readable(directory: &Path) -> Result<(), PackageError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
        .map_err(PackageError::io(directory, "make the directory readable"))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> Result<(), PackageError> {
    Ok(())
}
