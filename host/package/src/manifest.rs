//! `package.toml`: what a package is made of, every file by name, length and digest.
//!
//! Parsing gives a [`Manifest`] only when all of it makes sense: names are plain and unique, every
//! number is under its bound, every block has its component, and the shards are the blocks, in
//! order, cut into runs. Whoever holds a `Manifest` need not check again.

use std::collections::HashSet;

use ostrakon_protocol::Digest;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{
    error::{quote, toml_fault},
    generation::{Generation, MAX_TEMPLATE},
    graphs::{GraphEntry, Tolerance},
    names::{MAX_NAME, check_file, check_name, check_text, check_unique},
};

/// The format that this version reads and writes.
pub const FORMAT: u32 = 1;
/// The manifest's file name.
pub const FILE: &str = "package.toml";
/// Largest manifest.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Most blocks, shards, and layers of one block.
pub const MAX_COUNT: usize = 4096;
/// Most components.
pub const MAX_COMPONENTS: usize = 64;
/// Most settings of a block.
pub const MAX_SETTINGS: usize = 64;
/// Longest value of a setting, in bytes.
pub const MAX_SETTING: usize = 1024;
/// Longest licence or source text, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Largest tokenizer and largest component: these are read into memory.
pub const MAX_READ: u64 = 64 << 20;
/// Largest weights file: these are mapped.
pub const MAX_WEIGHTS: u64 = 64 << 30;
/// Most tokens that a text may have, in any model.
pub const MAX_TOKENS: u32 = 1 << 20;

/// The contents of `package.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The package's name: `minilm`.
    pub name: String,
    /// The model family: `bert`, `llama`.
    pub family: String,
    /// The licence of the weights.
    pub licence: String,
    /// Where the weights came from.
    pub source: String,
    /// The most tokens one text may have. None in a package with graphs, which takes no texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The tokenizer. None in a package with graphs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<FileEntry>,
    /// How it writes text. None in a package of a model that does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// How far machines may differ, in a package with graphs; the default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Tolerance>,
    /// The components that run the blocks.
    pub components: Vec<ComponentEntry>,
    /// The graphs in floating point, if it is of the float tier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graphs: Vec<GraphEntry>,
    /// The blocks in the order in which they run.
    pub blocks: Vec<Block>,
    /// The blocks again, cut into runs that are placed together.
    pub shards: Vec<Shard>,
}

/// A file of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name inside the package directory.
    pub file: String,
    /// BLAKE3 of its bytes.
    pub blake3: Digest,
    /// Its length.
    pub bytes: u64,
}

/// A component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentEntry {
    /// What blocks call it.
    pub name: String,
    /// Its file's name inside the package directory.
    pub file: String,
    /// BLAKE3 of its bytes.
    pub blake3: Digest,
    /// Its length.
    pub bytes: u64,
}

/// The smallest unit with a session of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// `embeddings`, `blocks.0`, `pooling`.
    pub name: String,
    /// The component that runs it.
    pub component: String,
    /// What the component is opened with.
    #[serde(deserialize_with = "pairs")]
    pub settings: Vec<(String, String)>,
    /// The file with its layers; none when it has no layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<FileEntry>,
    /// Its layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

/// The weights of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Its name inside the block: `attention.qkv`.
    pub name: String,
    /// `linear`, `embedding`, `layer-norm`, `rms-norm` or `rotary`.
    pub kind: String,
    /// `u8` or `u16` for a linear layer, nothing for the others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub activation: String,
}

/// A run of blocks that are placed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// `shard-0`.
    pub name: String,
    /// The names of its blocks, in order.
    pub blocks: Vec<String>,
}

/// Settings, strictly: a tuple would let a third element of a pair pass unseen.
fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    let lists = Vec::<Vec<String>>::deserialize(deserializer)?;
    let pair = |list| <[String; 2]>::try_from(list).map(|[name, value]| (name, value));
    lists
        .into_iter()
        .map(|list| pair(list).map_err(|_| de::Error::custom("a setting is a pair: a name and a value")))
        .collect()
}

/// Why a text is not a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestFault {
    /// It has a format that this version does not know.
    Format(i64),
    /// It is malformed or contradicts itself.
    Malformed(String),
}

impl From<String> for ManifestFault {
    fn from(why: String) -> Self {
        Self::Malformed(why)
    }
}

/// Only the format: a manifest of the future may have fields that we do not know.
#[derive(Deserialize)]
struct Format {
    format: i64,
}

impl Manifest {
    /// Parse and validate.
    ///
    /// # Errors
    /// See [`ManifestFault`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestFault> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(format!("{} bytes, at most {MAX_MANIFEST} are read", bytes.len()).into());
        }
        let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
        let Format { format } = toml::from_str(text).map_err(|e| toml_fault(&e, text))?;
        if format != i64::from(FORMAT) {
            return Err(ManifestFault::Format(format));
        }
        let manifest: Self = toml::from_str(text).map_err(|e| toml_fault(&e, text))?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The text of `package.toml`: the same manifest always gives the same bytes.
    pub fn to_text(&self) -> Result<String, String> {
        self.validate()?;
        let text = toml::to_string(self).map_err(|e| e.to_string())?;
        if text.len() as u64 > MAX_MANIFEST {
            return Err(format!("its package.toml would have {} bytes, at most {MAX_MANIFEST} are read", text.len()));
        }
        Ok(text)
    }

    /// The block with this name.
    pub fn block(&self, name: &str) -> Option<&Block> {
        self.blocks.iter().find(|b| b.name == name)
    }

    /// The component with this name.
    pub fn component(&self, name: &str) -> Option<&ComponentEntry> {
        self.components.iter().find(|c| c.name == name)
    }

    /// Every file but the manifest and the signature: name, digest, length.
    pub fn files(&self) -> impl Iterator<Item = (&str, Digest, u64)> {
        let components = self.components.iter().map(|c| (c.file.as_str(), c.blake3, c.bytes));
        let weights = self.blocks.iter().filter_map(|b| b.weights.as_ref());
        let graphs = self.graphs.iter().map(GraphEntry::parts);
        let graph_weights = self.graphs.iter().filter_map(|g| g.weights.as_ref());
        let template = self.generation.iter().filter_map(|g| g.template.as_ref());
        let others = self.tokenizer.iter().chain(template).map(FileEntry::parts);
        others.chain(components).chain(weights.chain(graph_weights).map(FileEntry::parts)).chain(graphs)
    }

    fn validate(&self) -> Result<(), String> {
        check_name("package", &self.name)?;
        check_name("family", &self.family)?;
        check_text("the licence", &self.licence, MAX_TEXT)?;
        check_text("the source", &self.source, MAX_TEXT)?;
        self.max_tokens.map_or(Ok(()), |most| check_range("max_tokens", most as usize, MAX_TOKENS as usize))?;
        check_range("number of components", self.components.len(), MAX_COMPONENTS)?;
        check_range("number of blocks", self.blocks.len(), MAX_COUNT)?;
        check_range("number of shards", self.shards.len(), MAX_COUNT)?;
        self.check_components()?;
        self.check_blocks()?;
        self.check_files()?;
        self.check_shards()?;
        self.check_generation()?;
        self.check_tier()
    }

    fn check_components(&self) -> Result<(), String> {
        self.components.iter().try_for_each(|c| check_name("component", &c.name))?;
        check_unique("component", self.components.iter().map(|c| c.name.as_str()))
    }

    fn check_blocks(&self) -> Result<(), String> {
        let components: HashSet<&str> = self.components.iter().map(|c| c.name.as_str()).collect();
        for block in &self.blocks {
            check_name("block", &block.name)?;
            block.validate(&components).map_err(|why| format!("block `{}`: {why}", block.name))?;
        }
        check_unique("block", self.blocks.iter().map(|b| b.name.as_str()))?;
        // `a` with the layer `b.c` and `a.b` with the layer `c` are different blocks with one layer name.
        let full: Vec<String> =
            self.blocks.iter().flat_map(|b| b.layers.iter().map(|l| format!("{}.{}", b.name, l.name))).collect();
        if let Some(long) = full.iter().find(|name| name.len() > MAX_NAME) {
            return Err(format!("the layer name `{long}` has {} bytes, at most {MAX_NAME} are allowed", long.len()));
        }
        check_unique("layer", full.iter().map(String::as_str))
    }

    fn check_files(&self) -> Result<(), String> {
        for (file, ..) in self.files() {
            check_file(file)?;
            if file == FILE || file == crate::signature::FILE {
                return Err(format!("the file name `{file}` is taken"));
            }
        }
        check_unique("file", self.files().map(|(file, ..)| file))?;
        self.tokenizer.iter().try_for_each(|t| check_length(&t.file, t.bytes, MAX_READ))?;
        self.generation
            .iter()
            .filter_map(|g| g.template.as_ref())
            .try_for_each(|t| check_length(&t.file, t.bytes, MAX_TEMPLATE))?;
        self.components.iter().try_for_each(|c| check_length(&c.file, c.bytes, MAX_READ))?;
        self.blocks
            .iter()
            .filter_map(|b| b.weights.as_ref())
            .chain(self.graphs.iter().filter_map(|g| g.weights.as_ref()))
            .try_for_each(|w| check_length(&w.file, w.bytes, MAX_WEIGHTS))?;
        self.graphs.iter().try_for_each(|g| check_length(&g.file, g.bytes, MAX_WEIGHTS))
    }

    fn check_shards(&self) -> Result<(), String> {
        self.shards.iter().try_for_each(|s| check_name("shard", &s.name))?;
        check_unique("shard", self.shards.iter().map(|s| s.name.as_str()))?;
        if let Some(empty) = self.shards.iter().find(|s| s.blocks.is_empty()) {
            return Err(format!("the shard `{}` has no blocks", empty.name));
        }
        let mut blocks = self.blocks.iter().map(|b| b.name.as_str());
        for shard in &self.shards {
            for name in &shard.blocks {
                match blocks.next() {
                    Some(next) if next == name => {}
                    Some(next) => {
                        return Err(format!(
                            "the shard `{}` has the block {} where `{next}` should come: shards are the blocks, in \
                             order, cut into runs",
                            shard.name,
                            quote(name)
                        ));
                    }
                    None => return Err(format!("the shard `{}` has one block too many: {}", shard.name, quote(name))),
                }
            }
        }
        match blocks.next() {
            Some(left) => Err(format!("the block `{left}` is in no shard")),
            None => Ok(()),
        }
    }
}

impl FileEntry {
    fn parts(&self) -> (&str, Digest, u64) {
        (&self.file, self.blake3, self.bytes)
    }
}

impl Block {
    /// The value of a setting.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    fn validate(&self, components: &HashSet<&str>) -> Result<(), String> {
        if !components.contains(self.component.as_str()) {
            return Err(format!("the component {} is not in the package", quote(&self.component)));
        }
        if self.settings.len() > MAX_SETTINGS {
            return Err(format!("{} settings, at most {MAX_SETTINGS} are allowed", self.settings.len()));
        }
        for (key, value) in &self.settings {
            check_name("setting", key)?;
            check_text(&format!("the setting `{key}`"), value, MAX_SETTING)?;
        }
        check_unique("setting", self.settings.iter().map(|(k, _)| k.as_str()))?;
        if self.layers.len() > MAX_COUNT {
            return Err(format!("{} layers, at most {MAX_COUNT} are allowed", self.layers.len()));
        }
        if self.layers.is_empty() != self.weights.is_none() {
            return Err("a block has a weights file exactly when it has layers".to_owned());
        }
        for layer in &self.layers {
            check_name("layer", &layer.name)?;
            layer.validate().map_err(|why| format!("layer `{}`: {why}", layer.name))?;
        }
        Ok(())
    }
}

impl Layer {
    fn validate(&self) -> Result<(), String> {
        match (self.kind.as_str(), self.activation.as_str()) {
            ("linear", "u8" | "u16") | ("embedding" | "layer-norm" | "rms-norm" | "rotary", "") => Ok(()),
            ("linear", other) => Err(format!("the activation {} is not u8 or u16", quote(other))),
            ("embedding" | "layer-norm" | "rms-norm" | "rotary", _) => {
                Err("only a linear layer has an activation".to_owned())
            }
            (other, _) => {
                Err(format!("the kind {} is not linear, embedding, layer-norm, rms-norm or rotary", quote(other)))
            }
        }
    }
}

fn check_range(what: &str, value: usize, most: usize) -> Result<(), String> {
    if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{what} is {value}, it must be 1 to {most}")) }
}

fn check_length(file: &str, bytes: u64, most: u64) -> Result<(), String> {
    if (1..=most).contains(&bytes) {
        Ok(())
    } else {
        Err(format!("the file `{file}` has {bytes} bytes, it must have 1 to {most}"))
    }
}
