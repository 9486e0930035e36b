//! A model of a few kilobytes, run by the real component, for tests that need thousands of runs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops where it is wrong")]

use ostrakon_node::{Home, Model, Rerun, RunOptions, SignedReceipt, TrustPolicy, progress, transcript};
use ostrakon_package::{
    ImportedBlock, ImportedLayer, ImportedModel, ImportedPart, NamedComponent, PackageError, SigningKey, write_package,
};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

/// Columns of a hidden state.
pub const WIDTH: usize = 16;
/// Heads of an encoder.
pub const HEADS: usize = 2;
/// Columns inside of the feed-forward network.
pub const WIDE: usize = 24;
/// Encoders, between embeddings and pooling.
pub const ENCODERS: usize = 3;
/// Blocks in all.
pub const BLOCKS: usize = ENCODERS + 2;
/// Words that the tokenizer knows, beside the one for all others.
pub const WORDS: usize = 40;
/// Most tokens of a text.
pub const MAX_TOKENS: usize = 10;

/// Numbers that look random and are the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `n`.
    pub const fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Flip one bit.
    pub fn flip(&mut self, bytes: &mut [u8]) {
        let bit = self.below(8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
    }

    /// So many texts of words that the tokenizer knows, and some that it does not.
    pub fn texts(&mut self, count: usize) -> Vec<String> {
        let mut word = || format!("w{}", self.below(WORDS + 3));
        let mut counts = Random(word().len() as u64 + count as u64);
        (0..count).map(|_| (0..=counts.below(MAX_TOKENS + 1)).map(|_| word()).collect::<Vec<_>>().join(" ")).collect()
    }

    fn codes(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| (self.next() % 255) as u8 as i8).map(|code| code.max(-127)).collect()
    }

    fn floats(&mut self, n: usize, least: f32, most: f32) -> Vec<f32> {
        (0..n).map(|_| least + (most - least) * (self.below(1000) as f32 / 999.0)).collect()
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, activation: &str) -> ImportedLayer {
        let scale = 1.0 / (127.0 * (inputs as f32).sqrt());
        let mut parts = vec![
            ImportedPart::codes("weight", vec![outputs, inputs], &self.codes(outputs * inputs)),
            ImportedPart::floats("scale", vec![outputs], &self.floats(outputs, scale, 3.0 * scale)),
            ImportedPart::floats("bias", vec![outputs], &self.floats(outputs, -0.5, 0.5)),
        ];
        if activation == "u16" {
            parts.push(ImportedPart::floats("prescale", vec![inputs], &self.floats(inputs, 0.5, 2.0)));
        }
        ImportedLayer { name: name.into(), kind: "linear".into(), activation: activation.into(), parts }
    }

    fn embedding(&mut self, name: &str, rows: usize) -> ImportedLayer {
        let parts = vec![
            ImportedPart::codes("weight", vec![rows, WIDTH], &self.codes(rows * WIDTH)),
            ImportedPart::floats("scale", vec![rows], &self.floats(rows, 0.005, 0.01)),
        ];
        ImportedLayer { name: name.into(), kind: "embedding".into(), activation: String::new(), parts }
    }

    fn norm(&mut self, name: &str) -> ImportedLayer {
        let parts = vec![
            ImportedPart::floats("gain", vec![WIDTH], &self.floats(WIDTH, 0.5, 1.5)),
            ImportedPart::floats("bias", vec![WIDTH], &self.floats(WIDTH, -0.5, 0.5)),
            ImportedPart::floats("epsilon", vec![1], &[1e-12]),
        ];
        ImportedLayer { name: name.into(), kind: "layer-norm".into(), activation: String::new(), parts }
    }
}

fn block(name: &str, settings: &[(&str, &str)], layers: Vec<ImportedLayer>) -> ImportedBlock {
    let settings = settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    ImportedBlock { name: name.into(), component: "block-bert".into(), settings, layers }
}

/// The model: embeddings, encoders, pooling.
pub fn model() -> ImportedModel {
    let n = &mut Random(1);
    let embeddings = vec![n.embedding("words", WORDS + 1), n.embedding("positions", MAX_TOKENS), n.norm("norm")];
    let mut blocks = vec![block("embeddings", &[("kind", "embeddings")], embeddings)];
    for i in 0..ENCODERS {
        let layers = vec![
            n.linear("attention.qkv", 3 * WIDTH, WIDTH, "u16"),
            n.linear("attention.output", WIDTH, WIDTH, "u8"),
            n.norm("attention.norm"),
            n.linear("feed-forward.up", WIDE, WIDTH, "u16"),
            n.linear("feed-forward.down", WIDTH, WIDE, "u8"),
            n.norm("feed-forward.norm"),
        ];
        blocks.push(block(&format!("blocks.{i}"), &[("kind", "encoder"), ("heads", &HEADS.to_string())], layers));
    }
    let pooling = [("kind", "pooling"), ("pool", "mean"), ("normalise", "true")];
    blocks.push(block("pooling", &pooling, Vec::new()));
    let vocabulary: Vec<String> = (0..WORDS).map(|word| format!(r#""w{word}":{}"#, word + 1)).collect();
    let tokenizer = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{{"type":"WhitespaceSplit"}},"post_processor":null,"decoder":null,
        "model":{{"type":"WordLevel","vocab":{{"[UNK]":0,{}}},"unk_token":"[UNK]"}}}}"#,
        vocabulary.join(",")
    );
    ImportedModel {
        name: "tiny".into(),
        family: "bert".into(),
        licence: "Apache-2.0".into(),
        source: "made up for tests".into(),
        max_tokens: u32::try_from(MAX_TOKENS).unwrap(),
        tokenizer: tokenizer.into_bytes(),
        generation: None,
        blocks,
    }
}

/// The name of a block, by its place.
pub fn block_name(place: usize) -> String {
    match place {
        0 => "embeddings".to_owned(),
        place if place <= ENCODERS => format!("blocks.{}", place - 1),
        _ => "pooling".to_owned(),
    }
}

/// The component that `make plugins` built.
pub fn block_bert() -> Vec<u8> {
    plugin("block-bert")
}

/// A component that `make plugins` built.
///
/// # Panics
/// When it is not there.
pub fn plugin(name: &str) -> Vec<u8> {
    let path = crate::packed::plugins().join(format!("{name}.wasm"));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}: run `make plugins` first", path.display()))
}

/// A directory with packages and with a home of its own; only the cache of compiled code is shared.
pub struct Tiny {
    directory: tempfile::TempDir,
    shares_cache: bool,
}

impl Default for Tiny {
    fn default() -> Self {
        Self::new()
    }
}

impl Tiny {
    /// An empty one.
    pub fn new() -> Self {
        Self { directory: expect(tempfile::tempdir()), shares_cache: true }
    }

    /// Likewise, with a cache of its own: for components that nobody else runs.
    pub fn apart() -> Self {
        Self { shares_cache: false, ..Self::new() }
    }

    /// Where everything is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Whose vectors and keys are used.
    pub fn home(&self) -> Home {
        let home = Home::under(&self.path().join("home"));
        if self.shares_cache { Home { cache: crate::packed::home().cache, ..home } } else { home }
    }

    /// Write a package of `model`, run by `component`.
    ///
    /// # Errors
    /// A model that is none.
    pub fn package(
        &self,
        name: &str,
        model: &ImportedModel,
        component: &[u8],
        shards: usize,
    ) -> Result<PathBuf, PackageError> {
        let out = self.path().join(name);
        let name = model.blocks.first().map_or_else(String::new, |block| block.component.clone());
        let components = [NamedComponent { name, wasm: component.to_vec() }];
        write_package(model, &components, shards, &out, &key(0))?;
        Ok(out)
    }

    /// The package as it should be.
    pub fn honest(&self, shards: usize) -> PathBuf {
        expect(self.package(&format!("honest-{shards}"), &model(), &block_bert(), shards))
    }

    /// A package made ready.
    pub fn load(&self, package: &Path, options: &RunOptions) -> Model {
        expect(Model::load(package, &policy(), &self.home(), options))
    }

    /// The transcript of all blocks of a run, signed by `key`, who signed the receipt.
    pub fn transcript(&self, package: &Path, signed: &SignedReceipt, key: &SigningKey) -> Vec<u8> {
        self.transcript_of(package, signed, key, &|_| true)
    }

    /// The transcript of some blocks.
    pub fn transcript_of(
        &self,
        package: &Path,
        signed: &SignedReceipt,
        key: &SigningKey,
        wanted: transcript::Blocks<'_>,
    ) -> Vec<u8> {
        let file = expect(tempfile::NamedTempFile::new_in(self.path()));
        let rerun = Rerun {
            signed: signed.clone(),
            directory: package.to_owned(),
            policy: policy(),
            home: self.home(),
            options: quick(),
            key: SigningKey::from_seed(key.seed()),
        };
        expect(transcript::write(&rerun, wanted, file.path(), &progress::unwatched));
        expect(fs::read(file.path()))
    }
}

/// One of a few keys.
pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

/// Whoever signed.
pub fn policy() -> TrustPolicy {
    TrustPolicy { allow_unknown: true, ..TrustPolicy::default() }
}

/// One thread: the products are too small for more.
pub fn quick() -> RunOptions {
    RunOptions { threads: Some(1), plugins: Some(crate::packed::plugins()), ..RunOptions::default() }
}

/// A value, or the end of the test.
///
/// # Panics
/// When there is none.
pub fn expect<T, E: Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:?}"),
    }
}
