//! From a recipe or a directory to a signed package.
//!
//! # How
//!
//! 1. A recipe's files are fetched and verified (see [`fetch`](crate::fetch)); a directory is taken as
//!    it is.
//! 2. The importer of the model's family quantises and calibrates. A directory's family is that of its
//!    `config.json`; a GGUF file, alone or in a directory without one, has its own.
//! 3. The component that runs its blocks is taken from the built plugins and travels in the package.
//! 4. The package is written, signed with this machine's key (made now, if there is none), and put
//!    where it was asked for; without a place, into the store under its name.

use crate::error::{NodeError, file_error};
use crate::fetch;
use crate::pack_float::{self, FloatSource, Piece};
use crate::plugins::{BLOCK_BERT, BLOCK_LLAMA, Plugins};
use crate::progress::{Event, Watcher};
use crate::recipe::{Recipe, Source};
use crate::tokenizer_admission;
use ostrakon_package::{
    Digest, Home, ImportedModel, NamedComponent, Package, PackageError, SigningKey, Store, Tolerance, TrustPolicy,
    import, load_or_create_key, manifest, reshard, write_package,
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
    /// Whether it writes text.
    pub generates: bool,
    /// Milliseconds.
    pub took_ms: f64,
}

/// How to read a model, by its family.
enum Importer {
    Bert(import::BertOptions),
    Llama(import::LlamaOptions),
}

/// Pack `source`: a recipe's name, a recipe file, a GGUF file, or a directory with a model. A directory with a
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
    let importer = match &recipe {
        Some(recipe) => of_recipe(recipe)?,
        None => of_files(&model_of(source))?,
    };
    let name = importer.component();
    let components =
        [NamedComponent { name: name.into(), wasm: Plugins::find(options.plugins.as_deref())?.read(name)? }];
    let signer = load_or_create_key(home)?;
    let files = match &recipe {
        Some(recipe) => {
            let directory = fetch::fetch(recipe, &home.cache.join("sources"), watch)?;
            recipe.gguf().map_or_else(|| directory.clone(), |file| directory.join(&file.name))
        }
        None => model_of(source),
    };
    let model = importer.import(&files, watch)?;
    // Whoever opens the package holds the tokenizer to this.
    tokenizer_admission::check(&model.tokenizer)?;
    watch(Event::Step("writing and checking the package".into()));
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
        generates: package.manifest().generation.is_some(),
        took_ms: start.elapsed().as_secs_f64() * 1e3,
    })
}

impl Importer {
    /// The component that runs what it makes.
    const fn component(&self) -> &'static str {
        match self {
            Self::Bert(_) => BLOCK_BERT,
            Self::Llama(_) => BLOCK_LLAMA,
        }
    }

    fn import(&self, files: &Path, watch: Watcher<'_>) -> Result<ImportedModel, NodeError> {
        let mut stage = String::new();
        let (Self::Bert(import::BertOptions { name, .. }) | Self::Llama(import::LlamaOptions { name, .. })) = self;
        let mut progress = |now: &str, done, total| {
            if stage != now {
                now.clone_into(&mut stage);
                watch(Event::Step(format!("importing {name}: {now}")));
            }
            watch(Event::Done { done, total });
        };
        Ok(match self {
            Self::Bert(options) => import::bert(files, options, &mut progress)?,
            Self::Llama(options) => import::llama(files, options, &mut progress)?,
        })
    }
}

/// The recipe that `source` means, unless it is a directory or a GGUF file.
fn recipe(source: &Path) -> Result<Option<Recipe>, NodeError> {
    if source.is_dir() || import::is_gguf(source) {
        return Ok(None);
    }
    if source.is_file() {
        return Ok(Some(Recipe::read(source)?));
    }
    let name = source.display().to_string();
    let known = || NodeError::NoRecipe { name: name.clone(), known: Recipe::known().map(Into::into).collect() };
    Ok(Some(Recipe::by_name(&name).ok_or_else(known)??))
}

/// Where the model lies that `source` means: a directory without `config.json` and with one GGUF file means that.
fn model_of(source: &Path) -> PathBuf {
    if !source.is_dir() || source.join("config.json").exists() {
        return source.to_owned();
    }
    let entries = std::fs::read_dir(source).into_iter().flatten();
    let mut files = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| import::is_gguf(path));
    match (files.next(), files.next()) {
        (Some(only), None) => only,
        _ => source.to_owned(),
    }
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

/// Files say little about where they came from: the package gets their name, and the rest from what they hold.
fn of_files(files: &Path) -> Result<Importer, NodeError> {
    let full = files.canonicalize().map_err(file_error("find", files))?;
    let (name, source) =
        if full.is_dir() { (full.file_name(), "a directory") } else { (full.file_stem(), "a GGUF file") };
    let name = name.map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    let name = name.trim_matches(['-', '.']);
    let (licence, source) = ("unknown".to_owned(), source.to_owned());
    Ok(match import::family(&full)? {
        import::Family::Bert => {
            Importer::Bert(import::BertOptions { licence, source, ..import::BertOptions::new(name) })
        }
        import::Family::Llama => {
            Importer::Llama(import::LlamaOptions { licence, source, ..import::LlamaOptions::new(name) })
        }
    })
}

/// The source is the same whichever place the files came from: their hashes are, so the package is.
fn of_recipe(recipe: &Recipe) -> Result<Importer, NodeError> {
    let places: Vec<String> = recipe.sources.iter().map(Source::describe).collect();
    let (licence, source) = (recipe.licence.clone(), format!("{}: {}", recipe.title, places.join(", ")));
    let (name, max_tokens) = (recipe.name.as_str(), recipe.max_tokens);
    if recipe.family == "llama" {
        let options = import::LlamaOptions { licence, source, max_tokens, ..import::LlamaOptions::new(name) };
        return Ok(Importer::Llama(options));
    }
    let pooling = match recipe.pooling.as_deref() {
        Some("mean") => import::Pooling::Mean,
        Some("first") => import::Pooling::First,
        other => return Err(NodeError::Setting(format!("the recipe's pooling {other:?} is not mean or first"))),
    };
    Ok(Importer::Bert(import::BertOptions {
        licence,
        source,
        max_tokens,
        pooling: Some(pooling),
        normalise: recipe.normalise,
        ..import::BertOptions::new(name)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_a_plain_name() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("All MiniLM_L6 (v2)");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("config.json"), r#"{"model_type": "bert"}"#).unwrap();
        let Importer::Bert(options) = of_files(&directory).unwrap() else { panic!("not bert") };
        assert_eq!(options.name, "all-minilm-l6--v2");
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
