//! Packages that are not what they should be are refused, each with its own error.

use std::fs;

use crate::sample::{Sample, key, policy, sample};
use ostrakon_package::{
    Package, PackageError, SignatureState, SigningKey, TrustPolicy,
    signature::PackageSignature,
    signature_state,
    weights::{WeightsError, WeightsFault},
};

#[track_caller]
fn refused(sample: &Sample) -> PackageError {
    match Package::open(&sample.path, &policy()) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

/// The error that a change of any byte of this file must give.
fn is_expected(file: &str, error: &PackageError) -> bool {
    match file {
        "package.toml" | "package.sig" => matches!(error, PackageError::SignatureFailed { .. }),
        _ => matches!(error, PackageError::Altered { file: f, .. } if f.ends_with(file)),
    }
}

fn assert_flip_refused(sample: &Sample, file: &str, original: &[u8], bit: usize) {
    let mut bytes = original.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(sample.path.join(file), &bytes).unwrap();
    let error = refused(sample);
    assert!(is_expected(file, &error), "{file} bit {bit}: {error}");
}

#[test]
fn any_flipped_bit_is_refused() {
    let sample = sample();
    for file in sample.files() {
        let original = fs::read(sample.path.join(&file)).unwrap();
        let bits = original.len() * 8;
        // Every bit of short files, a sample of long ones that meets every bit of a byte.
        let step = (bits / 300).max(1) | 1;
        for bit in (0..bits).step_by(step) {
            assert_flip_refused(&sample, &file, &original, bit);
        }
        fs::write(sample.path.join(&file), &original).unwrap();
    }
    Package::open(&sample.path, &policy()).unwrap();
}

#[test]
fn without_a_signature_a_flipped_bit_is_refused_or_another_package() {
    let sample = sample();
    fs::remove_file(sample.path.join("package.sig")).unwrap();
    let policy = TrustPolicy { allow_unsigned: true, ..TrustPolicy::default() };
    assert_eq!(Package::open(&sample.path, &policy).unwrap().digest(), sample.digest);
    for file in sample.files() {
        let original = fs::read(sample.path.join(&file)).unwrap();
        for bit in (0..original.len() * 8).step_by(37) {
            let mut bytes = original.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(sample.path.join(&file), &bytes).unwrap();
            match Package::open(&sample.path, &policy) {
                Ok(package) => {
                    assert_eq!(file, "package.toml");
                    assert_ne!(package.digest(), sample.digest);
                }
                Err(error) => assert!(file == "package.toml" || is_expected(&file, &error), "{file}: {error}"),
            }
        }
        fs::write(sample.path.join(&file), &original).unwrap();
    }
}

#[test]
fn any_truncated_grown_or_missing_file_is_refused() {
    let sample = sample();
    for file in sample.files() {
        let path = sample.path.join(&file);
        let original = fs::read(&path).unwrap();
        for length in [0, 1, original.len() / 2, original.len() - 1, original.len() + 1] {
            let mut bytes = original.clone();
            bytes.resize(length, b'\n');
            fs::write(&path, &bytes).unwrap();
            let error = refused(&sample);
            let fits = match file.as_str() {
                "package.toml" | "package.sig" => matches!(error, PackageError::SignatureFailed { .. }),
                _ => matches!(&error, PackageError::WrongLength { file: f, .. } if *f == path),
            };
            assert!(fits, "{file} cut to {length}: {error}");
        }
        fs::remove_file(&path).unwrap();
        let error = refused(&sample);
        let fits = match file.as_str() {
            "package.toml" => matches!(error, PackageError::NotAPackage { .. }),
            "package.sig" => matches!(error, PackageError::NotSigned { .. }),
            _ => matches!(&error, PackageError::Missing { file: f } if *f == path),
        };
        assert!(fits, "{file} removed: {error}");
        fs::write(&path, &original).unwrap();
    }
}

#[test]
fn oversized_files_are_refused_unread() {
    let sample = sample();
    for file in sample.files() {
        let path = sample.path.join(&file);
        let original = fs::read(&path).unwrap();
        // A terabyte that takes no space: reading it would take forever, mapping it nearly so.
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let error = refused(&sample);
        let fits = match file.as_str() {
            "package.toml" | "package.sig" => matches!(error, PackageError::TooLarge { bytes: 0x100_0000_0000, .. }),
            _ => matches!(error, PackageError::WrongLength { .. }),
        };
        assert!(fits, "{file}: {error}");
        fs::write(&path, &original).unwrap();
    }
}

#[test]
fn signers_are_told_apart() {
    let sample = sample();
    let stranger = TrustPolicy::only(SigningKey::from_seed(&[9; 32]).public());
    match Package::open(&sample.path, &stranger) {
        Err(error @ PackageError::UnknownSigner { .. }) => {
            assert!(error.to_string().contains(&key().public().to_string()))
        }
        _ => panic!("an unknown signer"),
    }
    let lenient = TrustPolicy { allow_unknown: true, ..stranger.clone() };
    let package = Package::open(&sample.path, &lenient).unwrap();
    assert_eq!(package.signature_state(), &SignatureState::UnknownSigner { key: key().public() });
    // Allowing unsigned packages is not allowing unknown signers, nor the other way round.
    let unsigned = TrustPolicy { allow_unsigned: true, ..stranger };
    assert!(matches!(Package::open(&sample.path, &unsigned), Err(PackageError::UnknownSigner { .. })));

    // A good signature of another package.
    let other =
        PackageSignature::sign(&key(), &ostrakon_package::Digest::of(ostrakon_package::Context::PACKAGE, b"another"))
            .to_text();
    fs::write(sample.path.join("package.sig"), other).unwrap();
    let anything = TrustPolicy { allow_unknown: true, allow_unsigned: true, ..policy() };
    for policy in [policy(), anything.clone()] {
        assert!(matches!(Package::open(&sample.path, &policy), Err(PackageError::SignatureFailed { .. })));
        assert!(matches!(signature_state(&sample.path, &policy), Ok(SignatureState::Failed(_))));
    }
    // The right signature under another name.
    let text = PackageSignature::sign(&key(), &sample.digest).to_text();
    let forged = text.replace(&key().public().to_string(), &SigningKey::from_seed(&[9; 32]).public().to_string());
    fs::write(sample.path.join("package.sig"), forged).unwrap();
    assert!(matches!(Package::open(&sample.path, &anything), Err(PackageError::SignatureFailed { .. })));

    fs::remove_file(sample.path.join("package.sig")).unwrap();
    assert!(matches!(refused(&sample), PackageError::NotSigned { .. }));
    let unknown = TrustPolicy { allow_unknown: true, ..policy() };
    assert!(matches!(Package::open(&sample.path, &unknown), Err(PackageError::NotSigned { .. })));
    assert_eq!(Package::open(&sample.path, &anything).unwrap().signature_state(), &SignatureState::NotSigned);
}

#[test]
fn a_key_that_signs_anything_is_refused() {
    // The identity point with a zero signature passes the lenient ed25519 equation for every message.
    let sample = sample();
    let key = format!("01{}", "00".repeat(31));
    let text = format!("key = \"ed25519:{key}\"\nsignature = \"{key}{}\"\n", "00".repeat(32));
    fs::write(sample.path.join("package.sig"), text).unwrap();
    let anyone = TrustPolicy { allow_unknown: true, ..TrustPolicy::default() };
    assert!(matches!(Package::open(&sample.path, &anyone), Err(PackageError::SignatureFailed { .. })));
}

#[cfg(unix)]
#[test]
fn links_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    for name in
        ["package.toml", "package.sig", "tokenizer.json", "weights", "weights/blocks.0.safetensors", "components"]
    {
        let sample = sample();
        let (path, moved) = (sample.path.join(name), outside.path().join(name.replace('/', "-")));
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        let error = refused(&sample);
        assert!(matches!(error, PackageError::NotPlain { what: "a symbolic link", .. }), "{name}: {error}");
    }
    // The way to the package is the user's own business.
    let sample = sample();
    let link = outside.path().join("link");
    symlink(&sample.path, &link).unwrap();
    Package::open(&link, &policy()).unwrap();
}

#[test]
fn a_signed_manifest_is_still_checked() {
    let edits: &[(&str, &str, &str)] = &[
        ("file = \"tokenizer.json\"", "file = \"../tokenizer.json\"", "does not stay inside"),
        ("file = \"tokenizer.json\"", "file = \"/etc/passwd\"", "does not stay inside"),
        ("file = \"tokenizer.json\"", "file = \"weights/../../x\"", "does not stay inside"),
        ("file = \"tokenizer.json\"", "file = 'weights\\x'", "does not stay inside"),
        ("file = \"tokenizer.json\"", "file = \"package.toml\"", "is taken"),
        ("file = \"tokenizer.json\"", "file = \"components/block-bert.wasm\"", "is there twice"),
        ("format = 1\n", "format = 1\nextra = 2\n", "line 2: unknown field"),
        ("format = 1\n", "", "missing field"),
        ("name = \"tiny\"", "name = \"Tiny\"", "is not allowed"),
        ("name = \"tiny\"", "name = \"../tiny\"", "is not allowed"),
        ("max_tokens = 5", "max_tokens = 0", "max_tokens is 0"),
        ("max_tokens = 5", "max_tokens = -1", "line"),
        ("licence = \"Apache-2.0\"", "licence = \"\\u001b[2J\"", "control character"),
        ("name = \"blocks.1\"", "name = \"blocks.0\"", "is there twice"),
        ("component = \"block-bert\"", "component = \"other\"", "is not in the package"),
        ("\"heads\"", "\"kind\"", "is there twice"),
        ("kind = \"linear\"", "kind = \"conv\"", "is not linear"),
        ("activation = \"u8\"", "activation = \"u4\"", "is not u8 or u16"),
        ("kind = \"embedding\"", "kind = \"embedding\"\nactivation = \"u8\"", "only a linear layer"),
        ("[\"blocks.3\", ", "[\"blocks.4\", \"blocks.3\", ", "where `blocks.3` should come"),
        ("\"blocks.5\", \"pooling\"]", "\"blocks.5\"]", "is in no shard"),
        ("\"blocks.5\", \"pooling\"]", "\"blocks.5\", \"pooling\", \"pooling\"]", "one block too many"),
        ("\"encoder\"]", "\"encoder\", \"x\"]", "a setting is a pair"),
        ("name = \"shard-1\"", "name = \"shard-0\"", "is there twice"),
    ];
    let sample = sample();
    let text = sample.manifest_text().replace("    ", "").replace("[\n", "[").replace(",\n", ", ").replace(", ]", "]");
    sample.sign_manifest(text.as_bytes());
    Package::open(&sample.path, &policy()).unwrap();
    for (from, to, expected) in edits {
        assert!(text.contains(from), "{from} in\n{text}");
        sample.sign_manifest(text.replacen(from, to, 1).as_bytes());
        let Err(error) = Package::open(&sample.path, &policy()) else { panic!("opened with {to}") };
        assert!(matches!(error, PackageError::Manifest { .. }), "{to}: {error}");
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
    sample.sign_manifest(text.replacen("format = 1", "format = 2\nnew = true", 1).as_bytes());
    assert!(matches!(refused(&sample), PackageError::UnknownFormat { found: 2, known: 1, .. }));
}

/// A weights file with this header and so many bytes of data.
fn weights(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn signed_weights_are_still_checked() {
    let tensor = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
    };
    let one = |name, dtype, shape, offsets| format!("{{{}}}", tensor(name, dtype, shape, offsets));
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    let huge = u64::MAX.to_le_bytes().to_vec();
    type Expected = fn(&WeightsFault) -> bool;
    let files: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("short", b"1234567".to_vec(), |f| matches!(f, WeightsFault::TooShort(7))),
        ("huge header", huge, |f| matches!(f, WeightsFault::HeaderTooLong(u64::MAX))),
        ("cut header", 99_u64.to_le_bytes().to_vec(), |f| matches!(f, WeightsFault::HeaderCut { header: 99, file: 8 })),
        ("no JSON", weights("{\"a\":", 0), |f| matches!(f, WeightsFault::Header(_))),
        ("deep JSON", weights(&"[".repeat(1 << 16), 0), |f| matches!(f, WeightsFault::Header(_))),
        ("metadata", weights(r#"{"__metadata__":{"a":"b"}}"#, 0), |f| matches!(f, WeightsFault::Header(_))),
        (
            "overflowing shape",
            weights(&one("norm.gain", "F32", "[4294967296,4294967296,4294967296]", "[0,4]"), 4),
            |f| matches!(f, WeightsFault::Shape(_)),
        ),
        ("zero", weights(&one("norm.gain", "F32", "[0]", "[0,0]"), 0), |f| matches!(f, WeightsFault::Shape(_))),
        ("huge", weights(&one("norm.gain", "F32", "[1000000000]", "[0,4000000000]"), 4), |f| {
            matches!(f, WeightsFault::Outside { end: 4_000_000_000, data: 4 })
        }),
        ("short data", weights(&one("norm.gain", "F32", "[2]", "[0,4]"), 4), |f| {
            matches!(f, WeightsFault::Length { found: 4, expected: 8, .. })
        }),
        ("reversed", weights(&one("norm.gain", "F32", "[1]", "[4,0]"), 4), |f| {
            matches!(f, WeightsFault::Reversed { start: 4, end: 0 })
        }),
        ("left over", weights(&one("norm.gain", "F32", "[1]", "[0,4]"), 5), |f| {
            matches!(f, WeightsFault::Gap { from: 4, to: 5 })
        }),
        ("gap", weights(&one("norm.gain", "F32", "[1]", "[1,5]"), 5), |f| {
            matches!(f, WeightsFault::Gap { from: 0, to: 1 })
        }),
        (
            "overlap",
            weights(&two(tensor("a.gain", "F32", "[1]", "[0,4]"), tensor("a.bias", "F32", "[1]", "[3,7]")), 7),
            |f| matches!(f, WeightsFault::Overlap { start: 3, before: 4 }),
        ),
        (
            "repeated",
            weights(&two(tensor("a.gain", "F32", "[1]", "[0,4]"), tensor("a.gain", "F32", "[1]", "[4,8]")), 8),
            |f| matches!(f, WeightsFault::Repeated),
        ),
        ("type", weights(&one("norm.gain", "F16", "[2]", "[0,4]"), 4), |f| matches!(f, WeightsFault::Type(_))),
        ("rank", weights(&one("norm.gain", "I8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1), |f| {
            matches!(f, WeightsFault::Rank(9))
        }),
        ("name", weights(&one("../x", "I8", "[1]", "[0,1]"), 1), |f| matches!(f, WeightsFault::Name(_))),
        ("part type", weights(&one("norm.gain", "I8", "[1]", "[0,1]"), 1), |f| {
            matches!(f, WeightsFault::PartType { found: "I8", expected: "F32" })
        }),
        ("unknown part", weights(&one("norm.code", "I8", "[1]", "[0,1]"), 1), |f| matches!(f, WeightsFault::Unclaimed)),
        ("unfilled", weights("{}", 0), |f| matches!(f, WeightsFault::Unfilled(l) if l == "embeddings.words")),
    ];
    let sample = sample();
    let name = "weights/embeddings.safetensors";
    for (what, bytes, expected) in files {
        sample.replace_signed(name, &bytes);
        match refused(&sample) {
            PackageError::Weights(error @ WeightsError { .. }) => {
                assert!(error.file == name && expected(&error.fault), "{what}: {error}");
            }
            other => panic!("{what}: {other}"),
        }
    }
}

#[test]
fn weights_of_no_layer_are_refused() {
    let sample = sample();
    let extra = fs::read(sample.path.join("weights/blocks.0.safetensors")).unwrap();
    sample.replace_signed("weights/embeddings.safetensors", &extra);
    assert!(matches!(refused(&sample), PackageError::Weights(WeightsError { fault: WeightsFault::Unfilled(_), .. })));
    let manifest = sample.manifest_text();
    let layer = "[[blocks.layers]]\nname = \"feed-forward.norm\"\nkind = \"layer-norm\"\n";
    assert!(manifest.contains(layer), "{manifest}");
    let other = self::sample();
    other.sign_manifest(other.manifest_text().replacen(layer, "", 1).as_bytes());
    match refused(&other) {
        PackageError::Weights(WeightsError { tensor: Some(t), fault: WeightsFault::Unclaimed, .. }) => {
            assert_eq!(t, "feed-forward.norm.bias");
        }
        error => panic!("{error}"),
    }
}
