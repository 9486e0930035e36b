//! Packages of the float tier: written, opened, and every contradiction in a manifest refused. Nothing here parses a
//! graph: any bytes do.

use ostrakon_nn::{Encoding, LayerSource, Port, TensorType};
use ostrakon_package::signature::{self, PackageSignature};
use ostrakon_package::{
    Context, Digest, ImportedFloatModel, ImportedGraph, NamedComponent, Package, PackageError, SigningKey, Tier,
    Tolerance, TrustPolicy, manifest, write_float_package,
};
use std::fs;
use std::path::{Path, PathBuf};

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn policy() -> TrustPolicy {
    TrustPolicy::only(key().public())
}

fn graph(name: &str, encoding: Encoding, weights: Option<&[u8]>) -> ImportedGraph {
    ImportedGraph {
        name: name.into(),
        encoding,
        model: b"a graph".to_vec(),
        weights: weights.map(<[u8]>::to_vec),
        inputs: vec![Port { name: "in/put:0".into(), element: TensorType::I64, shape: Some(vec![None, Some(3)]) }],
        outputs: vec![Port { name: "y".into(), element: TensorType::Bf16, shape: None }],
        settings: Vec::new(),
    }
}

fn model() -> ImportedFloatModel {
    ImportedFloatModel {
        name: "pieces".into(),
        licence: "MIT".into(),
        source: "made up for tests".into(),
        tolerance: Tolerance { absolute: 0.25, relative: 0.125 },
        graphs: vec![graph("first", Encoding::OpenVino, Some(b"weights")), graph("second", Encoding::Onnx, None)],
    }
}

fn component() -> NamedComponent {
    NamedComponent { name: "graph-block".into(), wasm: b"\0asm\x0d\0\x01\0 not a real one".to_vec() }
}

fn written(directory: &Path) -> (PathBuf, Digest) {
    let path = directory.join("pieces");
    let digest = write_float_package(&model(), &component(), &path, &key()).unwrap();
    (path, digest)
}

fn sign_manifest(path: &Path, text: &str) {
    fs::write(path.join(manifest::FILE), text).unwrap();
    let signed = PackageSignature::sign(&key(), &Digest::of(Context::PACKAGE, text.as_bytes())).to_text();
    fs::write(path.join(signature::FILE), signed).unwrap();
}

#[test]
fn what_is_written_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let (path, digest) = written(directory.path());
    let package = Package::open(&path, &policy()).unwrap();
    assert_eq!(package.digest(), digest);
    let manifest = package.manifest();
    assert_eq!((manifest.tier(), manifest.tolerance), (Tier::Float, Some(model().tolerance)));
    assert_eq!((package.tokenizer(), manifest.max_tokens), (None, None));
    assert_eq!(manifest.shards.len(), 2);
    for (entry, made) in manifest.graphs.iter().zip(model().graphs) {
        assert_eq!(entry.inputs[0].port(), made.inputs[0]);
        assert_eq!(entry.outputs[0].port(), made.outputs[0]);
        let raw = package.graph(&made.name).unwrap().unwrap();
        assert_eq!((raw.encoding, (*raw.model).as_ref()), (made.encoding, made.model.as_slice()));
        assert_eq!(raw.weights.map(|weights| (*weights).as_ref().to_vec()), made.weights);
    }
    assert!(package.graph("third").unwrap().is_none());
    assert!(package.raw("first").is_err());
    // Once more over itself: the same package.
    assert_eq!(written(directory.path()).1, digest);
    fs::write(path.join("graphs/first.bin"), b"weightz").unwrap();
    assert!(matches!(Package::open(&path, &policy()), Err(PackageError::Altered { .. })));
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = written(directory.path());
    let text = fs::read_to_string(path.join(manifest::FILE)).unwrap();
    let tokenizer = "[tokenizer]\nfile = \"t\"\nblake3 = \"0\"\nbytes = 1\n\n[tolerance]";
    let tokenizer = tokenizer.replace("\"0\"", &format!("\"{}\"", "0".repeat(64)));
    for (from, to, expected) in [
        ("format = 1\n", "format = 1\nmax_tokens = 5\n", "neither tokenizer nor max_tokens"),
        ("[tolerance]", tokenizer.as_str(), "neither tokenizer nor max_tokens"),
        ("absolute = 0.25", "absolute = -0.25", "must be 0 to 1"),
        ("absolute = 0.25", "absolute = nan", "must be 0 to 1"),
        ("absolute = 0.25", "absolute = 0.0", "the smallest difference that matters"),
        ("relative = 0.125", "relative = inf", "must be 0 to 1"),
        ("encoding = \"onnx\"", "encoding = \"pytorch\"", "not onnx or openvino"),
        ("encoding = \"openvino\"", "encoding = \"onnx\"", "its own file"),
        ("file = \"graphs/second.onnx\"", "file = \"../second.onnx\"", "does not stay inside"),
        ("file = \"graphs/second.onnx\"", "file = \"graphs/first.bin\"", "is there twice"),
        ("element = \"I64\"", "element = \"I8\"", "not one of wasi-nn's"),
        ("shape = [-1, 3]", "shape = [-2, 3]", "-1 for an open one"),
        ("shape = [-1, 3]", "shape = [4294967296]", "-1 for an open one"),
        ("shape = [-1, 3]", "shape = [1, 1, 1, 1, 1, 1, 1, 1, 1]", "at most 8 sizes"),
        ("name = \"in/put:0\"", "name = \"\"", "is empty"),
        ("name = \"in/put:0\"", "name = \"\\u001b[2J\"", "control character"),
        ("[\"graph\", \"second\"]", "[\"graph\", \"first\"]", "used by no block"),
        ("[\"graph\", \"second\"]", "[\"graph\", \"third\"]", "used by no block"),
        (
            "[[\"graph\", \"second\"]]",
            "[[\"graph\", \"second\"]]\n[[blocks.layers]]\nname = \"x\"\nkind = \"layer-norm\"",
            "layers",
        ),
        ("[[\"graph\", \"first\"]]", "[[\"other\", \"first\"]]", "used by no block"),
    ] {
        assert!(text.contains(from), "{from} in\n{text}");
        sign_manifest(&path, &text.replacen(from, to, 1));
        let Err(error) = Package::open(&path, &policy()) else { panic!("opened with {to}") };
        assert!(matches!(error, PackageError::Manifest { .. }), "{to}: {error}");
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
    sign_manifest(&path, &text);
    Package::open(&path, &policy()).unwrap();
}
