//! A model of a few kilobytes with the shape of MiniLM, and packages made of it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use ostrakon_package::{
    Context, Digest, ImportedBlock, ImportedLayer, ImportedModel, ImportedPart, NamedComponent, SigningKey,
    TrustPolicy, manifest,
    signature::{self, PackageSignature},
    write_package,
};

pub(crate) const WIDTH: usize = 8;
const WORDS: usize = 13;
const ENCODERS: usize = 6;

/// A stream of numbers that look random and are the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn codes(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| i8::try_from(self.next() % 255).unwrap_or(0).max(-127)).collect()
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() % 1000) as f32 / 1000.0 + 0.5).collect()
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, activation: &str) -> ImportedLayer {
        let mut parts = vec![
            ImportedPart::codes("weight", vec![outputs, inputs], &self.codes(outputs * inputs)),
            ImportedPart::floats("scale", vec![outputs], &self.floats(outputs)),
            ImportedPart::floats("bias", vec![outputs], &self.floats(outputs)),
        ];
        if activation == "u16" {
            parts.push(ImportedPart::floats("prescale", vec![inputs], &self.floats(inputs)));
        }
        ImportedLayer { name: name.into(), kind: "linear".into(), activation: activation.into(), parts }
    }

    fn embedding(&mut self, name: &str, rows: usize) -> ImportedLayer {
        let parts = vec![
            ImportedPart::codes("weight", vec![rows, WIDTH], &self.codes(rows * WIDTH)),
            ImportedPart::floats("scale", vec![rows], &self.floats(rows)),
        ];
        ImportedLayer { name: name.into(), kind: "embedding".into(), activation: String::new(), parts }
    }

    fn norm(&mut self, name: &str) -> ImportedLayer {
        let parts = vec![
            ImportedPart::floats("gain", vec![WIDTH], &self.floats(WIDTH)),
            ImportedPart::floats("bias", vec![WIDTH], &self.floats(WIDTH)),
            ImportedPart::floats("epsilon", vec![1], &[1e-12]),
        ];
        ImportedLayer { name: name.into(), kind: "layer-norm".into(), activation: String::new(), parts }
    }
}

fn block(name: &str, settings: &[(&str, &str)], layers: Vec<ImportedLayer>) -> ImportedBlock {
    let settings = settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    ImportedBlock { name: name.into(), component: "block-bert".into(), settings, layers }
}

pub(crate) fn model() -> ImportedModel {
    model_with(ENCODERS)
}

pub(crate) fn model_with(encoders: usize) -> ImportedModel {
    let mut n = Numbers(1);
    let embeddings = vec![n.embedding("words", WORDS), n.embedding("positions", 5), n.norm("norm")];
    let mut blocks = vec![block("embeddings", &[("kind", "embeddings")], embeddings)];
    for i in 0..encoders {
        let layers = vec![
            n.linear("attention.qkv", 3 * WIDTH, WIDTH, "u16"),
            n.linear("attention.output", WIDTH, WIDTH, "u8"),
            n.norm("attention.norm"),
            n.linear("feed-forward.up", 4 * WIDTH, WIDTH, "u16"),
            n.linear("feed-forward.down", WIDTH, 4 * WIDTH, "u8"),
            n.norm("feed-forward.norm"),
        ];
        blocks.push(block(&format!("blocks.{i}"), &[("kind", "encoder"), ("heads", "2")], layers));
    }
    let pooling = [("kind", "pooling"), ("pool", "mean"), ("normalise", "true")];
    blocks.push(block("pooling", &pooling, Vec::new()));
    ImportedModel {
        name: "tiny".into(),
        family: "bert".into(),
        licence: "Apache-2.0".into(),
        source: "made up for tests".into(),
        max_tokens: 5,
        tokenizer: br#"{"version":"1.0"}"#.to_vec(),
        generation: None,
        blocks,
    }
}

pub(crate) fn components() -> Vec<NamedComponent> {
    vec![NamedComponent { name: "block-bert".into(), wasm: b"\0asm\x0d\0\x01\0 not a real one".to_vec() }]
}

pub(crate) fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

pub(crate) fn policy() -> TrustPolicy {
    TrustPolicy::only(key().public())
}

/// A package in a directory of its own.
pub(crate) struct Sample {
    _keep: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
}

pub(crate) fn sample() -> Sample {
    let keep = tempfile::tempdir().unwrap();
    let path = keep.path().join("tiny");
    let digest = write_package(&model(), &components(), 2, &path, &key()).unwrap();
    Sample { _keep: keep, path, digest }
}

impl Sample {
    pub(crate) fn manifest_text(&self) -> String {
        std::fs::read_to_string(self.path.join(manifest::FILE)).unwrap()
    }

    /// Put another manifest in place and sign it, as a hostile author whom someone trusts would.
    pub(crate) fn sign_manifest(&self, text: &[u8]) {
        std::fs::write(self.path.join(manifest::FILE), text).unwrap();
        let signed = PackageSignature::sign(&key(), &Digest::of(Context::PACKAGE, text)).to_text();
        std::fs::write(self.path.join(signature::FILE), signed).unwrap();
    }

    /// Replace a file and make the manifest, signed again, name the new contents.
    pub(crate) fn replace_signed(&self, name: &str, bytes: &[u8]) {
        let path = self.path.join(name);
        let old = std::fs::read(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let entry = |bytes: &[u8]| format!("blake3 = \"{}\"\nbytes = {}", Digest::of_content(bytes), bytes.len());
        let text = self.manifest_text();
        assert!(text.contains(&entry(&old)), "{name} is in the manifest");
        self.sign_manifest(text.replace(&entry(&old), &entry(bytes)).as_bytes());
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.path, Path::new(""), &mut found);
        found.sort();
        found
    }
}

fn collect(root: &Path, below: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let name = below.join(entry.unwrap().file_name());
        if root.join(&name).is_dir() {
            collect(root, &name, found);
        } else {
            found.push(name.to_str().unwrap().to_owned());
        }
    }
}
