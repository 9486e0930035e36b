//! From a recipe or a directory to a signed package.
//!
//! # How
//!
//! 1. A recipe's files are fetched and verified (see [`fetch`](crate::fetch)); a directory is taken as
//!    it is.
//! 2. The importer of the model's family quantises and calibrates.
//! 3. The component that runs its blocks is taken from the built plugins and travels in the package.
//! 4. The package is written, signed with this machine's key (made now, if there is none), and put
//!    where it was asked for; without a place, into the store under its name.

use crate::error::{NodeError, file_error};
use crate::fetch;
use crate::pack_float::{self, FloatSource, Piece};
use crate::plugins::{BLOCK_BERT, Plugins};
use crate::progress::{Event, Watcher};
use crate::recipe::{Recipe, Source};
use ostrakon_package::{
    Digest, Home, NamedComponent, Package, PackageError, SigningKey, Store, Tolerance, TrustPolicy, import,
    load_or_create_key, manifest, reshard, write_package,
};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What to pack, and how.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Where the package goes; into the store without it.
    pub out: Option<PathBuf>,
    /// How many shards.
    pub shards: usize,
    /// Where built plugins are.
    pub plugins: Option<PathBuf>,
    /// Cut a package anew that nobody signed.
    pub allow_unsigned: bool,
    /// Cut a package anew whose signer is not in the trust file.
    pub allow_unknown: bool,
}

/// A package that was made.
#[derive(Debug, Clone, Serialize)]
pub struct Packed {
    /// The model's name.
    pub model: String,
    /// The package's digest.
    pub package: String,
    /// Its directory.
    pub path: String,
    /// Who signed it.
    pub signed_by: String,
    /// All its files together.
    pub bytes: u64,
    /// How many shards it has.
    pub shards: usize,
    /// Milliseconds.
    pub took_ms: f64,
}

/// A model and how to read it.
struct Found {
    directory: PathBuf,
    options: import::BertOptions,
}

/// Pack `source`: a recipe's name, a recipe file, or a directory with a model. A directory with a
/// package is cut into shards anew: nothing else of it changes, so nothing is calibrated again.
///
/// # Errors
/// When it is none of these, its files cannot be had, or the package cannot be made or written.
pub fn pack(source: &Path, options: &PackOptions, home: &Home, watch: Watcher<'_>) -> Result<Packed, NodeError> {
    let start = Instant::now();
    if source.join(manifest::FILE).is_file() {
        let policy = TrustPolicy {
            allow_unsigned: options.allow_unsigned,
            allow_unknown: options.allow_unknown,
            ..TrustPolicy::load(home)?
        };
        let package = Package::open(source, &policy)?;
        let signer = load_or_create_key(home)?;
        watch(Event::Step("writing and checking the package".into()));
        let name = package.manifest().name.clone();
        let path = place(&name, options, home, &signer, &|out| reshard(&package, options.shards, out, &signer))?;
        return describe(&path, &signer, start);
    }
    let recipe = recipe(source)?;
    if let Some(recipe) = recipe.as_ref().filter(|recipe| recipe.is_graph()) {
        let directory = fetch::fetch(recipe, &home.cache.join("sources"), watch)?;
        return pack_float::pack(&of_graph(recipe, &directory), options, home, watch);
    }
    // What is missing here is found before anything is downloaded.
    let block = Plugins::find(options.plugins.as_deref())?.read(BLOCK_BERT)?;
    let signer = load_or_create_key(home)?;
    let found = find(source, recipe.as_ref(), home, watch)?;
    let mut stage = String::new();
    let model = import::bert(&found.directory, &found.options, &mut |now, done, total| {
        if stage != now {
            now.clone_into(&mut stage);
            watch(Event::Step(format!("importing {}: {now}", found.options.name)));
        }
        watch(Event::Done { done, total });
    })?;
    watch(Event::Step("writing and checking the package".into()));
    let components = [NamedComponent { name: BLOCK_BERT.into(), wasm: block }];
    let write = |out: &Path| write_package(&model, &components, options.shards, out, &signer);
    let path = place(&model.name, options, home, &signer, &write)?;
    describe(&path, &signer, start)
}

/// Let `write` make the package where it was asked for, or in the store.
pub(crate) fn place(
    name: &str,
    options: &PackOptions,
    home: &Home,
    signer: &SigningKey,
    write: &dyn Fn(&Path) -> Result<Digest, PackageError>,
) -> Result<PathBuf, NodeError> {
    if let Some(out) = &options.out {
        write(out)?;
        return Ok(out.clone());
    }
    home.make_data().map_err(file_error("make the directory", &home.data))?;
    let staging = tempfile::tempdir_in(&home.data).map_err(file_error("write to", &home.data))?;
    let made = staging.path().join(name);
    write(&made)?;
    Ok(Store::open(home).add_package(&made, &TrustPolicy::only(signer.public()))?.directory)
}

pub(crate) fn describe(path: &Path, signer: &SigningKey, start: Instant) -> Result<Packed, NodeError> {
    let package = Package::open(path, &TrustPolicy::only(signer.public()))?;
    Ok(Packed {
        model: package.manifest().name.clone(),
        package: package.digest().to_string(),
        path: path.display().to_string(),
        signed_by: signer.public().to_string(),
        bytes: package.manifest().files().map(|(_, _, bytes)| bytes).sum(),
        shards: package.manifest().shards.len(),
        took_ms: start.elapsed().as_secs_f64() * 1e3,
    })
}

/// The recipe that `source` means, unless it is a directory.
fn recipe(source: &Path) -> Result<Option<Recipe>, NodeError> {
    if source.is_dir() {
        return Ok(None);
    }
    if source.is_file() {
        return Ok(Some(Recipe::read(source)?));
    }
    let name = source.display().to_string();
    let known = || NodeError::NoRecipe { name: name.clone(), known: Recipe::known().map(Into::into).collect() };
    Ok(Some(Recipe::by_name(&name).ok_or_else(known)??))
}

fn find(source: &Path, recipe: Option<&Recipe>, home: &Home, watch: Watcher<'_>) -> Result<Found, NodeError> {
    let Some(recipe) = recipe else {
        return Ok(Found { directory: source.to_owned(), options: of_directory(source)? });
    };
    let directory = fetch::fetch(recipe, &home.cache.join("sources"), watch)?;
    Ok(Found { directory, options: of_recipe(recipe)? })
}

/// The graphs of a recipe, in its order.
fn of_graph(recipe: &Recipe, directory: &Path) -> FloatSource {
    let places: Vec<String> = recipe.sources.iter().map(Source::describe).collect();
    let pieces = recipe.graphs().map(|file| Piece { file: directory.join(&file.name), settings: Vec::new() });
    FloatSource {
        name: recipe.name.clone(),
        licence: recipe.licence.clone(),
        source: format!("{}: {}", recipe.title, places.join(", ")),
        tolerance: Tolerance::default(),
        pieces: pieces.collect(),
    }
}

/// A directory says little about its model: it gets the directory's name, and the rest from its files.
fn of_directory(directory: &Path) -> Result<import::BertOptions, NodeError> {
    let full = directory.canonicalize().map_err(file_error("find", directory))?;
    let name = full.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    let options = import::BertOptions::new(name.trim_matches(['-', '.']));
    Ok(import::BertOptions { licence: "unknown".into(), source: "a directory".into(), ..options })
}

/// The source is the same whichever place the files came from: their hashes are, so the package is.
fn of_recipe(recipe: &Recipe) -> Result<import::BertOptions, NodeError> {
    let pooling = match recipe.pooling.as_deref() {
        Some("mean") => import::Pooling::Mean,
        Some("first") => import::Pooling::First,
        other => return Err(NodeError::Setting(format!("the recipe's pooling {other:?} is not mean or first"))),
    };
    let places: Vec<String> = recipe.sources.iter().map(Source::describe).collect();
    Ok(import::BertOptions {
        licence: recipe.licence.clone(),
        source: format!("{}: {}", recipe.title, places.join(", ")),
        max_tokens: recipe.max_tokens,
        pooling: Some(pooling),
        normalise: recipe.normalise,
        ..import::BertOptions::new(&recipe.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_a_plain_name() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("All MiniLM_L6 (v2)");
        std::fs::create_dir(&directory).unwrap();
        assert_eq!(of_directory(&directory).unwrap().name, "all-minilm-l6--v2");
    }

    #[test]
    fn known_recipes_have_options() {
        for name in Recipe::known() {
            let recipe = Recipe::by_name(name).unwrap().unwrap();
            if !recipe.is_graph() {
                of_recipe(&recipe).unwrap();
            }
        }
    }

    #[test]
    fn an_unknown_word_names_the_recipes() {
        let error = recipe(Path::new("no-such-recipe")).unwrap_err();
        assert!(error.hint().unwrap().contains("minilm"), "{error}");
    }
}
