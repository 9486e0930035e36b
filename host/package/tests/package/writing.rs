//! Packages that are written can be opened, say what went in, and are the same every time.

use std::fs;

use crate::sample::{components, key, model, model_with, policy, sample};
use ostrakon_exact::Layer;
use ostrakon_nn::{LayerSource, LayerSourceError};
use ostrakon_package::{ImportedGeneration, Package, PackageError, SignatureState, SigningKey, reshard, write_package};
use proptest::prelude::*;

#[test]
fn what_goes_in_comes_out() {
    let sample = sample();
    let package = Package::open(&sample.path, &policy()).unwrap();
    let model = model();
    assert_eq!(package.digest(), sample.digest);
    let by_you = SignatureState::VerifiedBy { key: key().public(), name: "you".into() };
    assert_eq!(package.signature_state(), &by_you);
    assert_eq!(package.tokenizer(), Some(model.tokenizer.as_slice()));
    assert_eq!(package.component("block-bert"), Some(components()[0].wasm.as_slice()));
    assert_eq!(package.component("other"), None);
    let manifest = package.manifest();
    assert_eq!((manifest.name.as_str(), manifest.max_tokens, manifest.blocks.len()), ("tiny", Some(5), 8));
    assert_eq!(manifest.block("blocks.3").unwrap().setting("heads"), Some("2"));

    let mut arrays = 0;
    for block in &model.blocks {
        for layer in &block.layers {
            let raw = package.raw(&format!("{}.{}", block.name, layer.name)).unwrap();
            assert_eq!((&raw.kind, &raw.activation), (&layer.kind, &layer.activation));
            assert_eq!(raw.parts.len(), layer.parts.len());
            for part in &layer.parts {
                let found = raw.parts.iter().find(|p| p.name == part.name).unwrap();
                assert_eq!(found.dimensions, part.dims);
                assert_eq!((*found.data).as_ref(), part.bytes);
                arrays += 1;
            }
            Layer::from_parts(&raw.kind, &raw.activation, raw.parts).unwrap();
        }
    }
    assert_eq!(package.tensors().count(), arrays);
}

/// A model that writes text, made of one that does not.
fn writer() -> ostrakon_package::ImportedModel {
    let template = Some("{{ messages }}".into());
    let generation = ImportedGeneration { vocabulary: 13, stop: vec![2, 5], begin: vec![1], template };
    ostrakon_package::ImportedModel { generation: Some(generation), ..model() }
}

#[test]
fn how_a_model_writes_text_comes_out() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("p");
    write_package(&writer(), &components(), 1, &out, &key()).unwrap();
    let package = Package::open(&out, &policy()).unwrap();
    let generation = package.manifest().generation.clone().unwrap();
    assert_eq!((generation.vocabulary, generation.stop, generation.begin), (13, vec![2, 5], vec![1]));
    assert_eq!(package.template(), Some("{{ messages }}"));
    // It travels along when the package is cut anew, and goes with an older package.
    let anew = directory.path().join("anew");
    reshard(&package, 2, &anew, &key()).unwrap();
    assert_eq!(Package::open(&anew, &policy()).unwrap().template(), Some("{{ messages }}"));
    write_package(&model(), &components(), 1, &out, &key()).unwrap();
    assert!(!out.join("template.jinja").exists());
    let plain = Package::open(&out, &policy()).unwrap();
    assert!(plain.manifest().generation.is_none() && plain.template().is_none());
    // It is read as text or not at all, and only as it was written.
    fs::write(anew.join("template.jinja"), "{{ other }}").unwrap();
    assert!(matches!(Package::open(&anew, &policy()), Err(PackageError::WrongLength { .. })));
    fs::write(anew.join("template.jinja"), "{{ Messages }}").unwrap();
    assert!(matches!(Package::open(&anew, &policy()), Err(PackageError::Altered { .. })));
}

#[test]
fn a_writer_whose_tokens_do_not_exist_is_not_packed() {
    type Edit = fn(&mut ImportedGeneration);
    let edits: [(&str, Edit); 7] = [
        ("`stop` is empty", |g| g.stop.clear()),
        ("`stop` has the token 13", |g| g.stop.push(13)),
        ("`begin` has the token 4294967295", |g| g.begin.push(u32::MAX)),
        ("`begin` has 5 tokens, `max_tokens` is 5", |g| g.begin = vec![1; 5]),
        ("`stop` has 65 tokens", |g| g.stop = vec![1; 65]),
        ("the vocabulary is 0", |g| g.vocabulary = 0),
        ("has 0 bytes", |g| g.template = Some(String::new())),
    ];
    for (text, edit) in edits {
        let directory = tempfile::tempdir().unwrap();
        let mut model = writer();
        edit(model.generation.as_mut().unwrap());
        let error = write_package(&model, &components(), 1, &directory.path().join("p"), &key()).unwrap_err();
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
}

#[test]
fn only_its_own_layers_resolve() {
    let sample = sample();
    let package = Package::open(&sample.path, &policy()).unwrap();
    let names =
        ["", "pooling.x", "attention.qkv", "blocks.0", "blocks.0.attention.qkv.weight", "../tiny/blocks.0.norm"];
    for name in names {
        assert!(matches!(package.raw(name), Err(LayerSourceError::NotFound { .. })), "{name}");
    }
}

#[test]
fn layers_outlive_the_package() {
    let sample = sample();
    let package = Package::open(&sample.path, &policy()).unwrap();
    let raw = package.raw("blocks.0.attention.qkv").unwrap();
    drop(package);
    drop(sample);
    Layer::from_parts(&raw.kind, &raw.activation, raw.parts).unwrap();
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let (a, b) = (sample(), sample());
    assert_eq!(a.digest, b.digest);
    assert_eq!(a.files(), b.files());
    for file in a.files() {
        assert_eq!(fs::read(a.path.join(&file)).unwrap(), fs::read(b.path.join(&file)).unwrap(), "{file}");
    }
    // The digest is a promise to the world: it changes only with the format.
    assert_eq!(a.digest.to_string(), include_str!("golden-digest.txt").trim());
}

#[test]
fn an_author_changes_nothing_but_the_signature() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("p");
    let digest = write_package(&model(), &components(), 2, &out, &SigningKey::from_seed(&[8; 32])).unwrap();
    assert_eq!(digest, sample().digest);
}

#[test]
fn sharding_changes_nothing_but_the_shard_list() {
    let directory = tempfile::tempdir().unwrap();
    let mut seen: Option<Vec<_>> = None;
    for shards in [1, 2, 3, 6] {
        let out = directory.path().join(shards.to_string());
        write_package(&model(), &components(), shards, &out, &key()).unwrap();
        let package = Package::open(&out, &policy()).unwrap();
        assert_eq!(package.manifest().shards.len(), shards);
        let files: Vec<_> = package.manifest().files().map(|(n, d, b)| (n.to_owned(), d, b)).collect();
        assert_eq!(seen.get_or_insert(files.clone()), &files);
        // Cutting the finished package anew is the same as having packed it so.
        let anew = directory.path().join(format!("anew-{shards}"));
        let digest = reshard(&Package::open(&sample().path, &policy()).unwrap(), shards, &anew, &key()).unwrap();
        assert_eq!(digest, package.digest());
    }
    let refused = reshard(&Package::open(&sample().path, &policy()).unwrap(), 99, &directory.path().join("x"), &key());
    assert!(matches!(refused, Err(PackageError::Shards { shards: 99, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn shards_are_even_runs_of_all_blocks(encoders in 0_usize..20, shards in 0_usize..24) {
        let model = model_with(encoders);
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("p");
        let most = encoders.max(1);
        match write_package(&model, &components(), shards, &out, &key()) {
            Ok(_) => {
                prop_assert!((1..=most).contains(&shards));
                let package = Package::open(&out, &policy()).unwrap();
                let cut = &package.manifest().shards;
                let names: Vec<&str> = cut.iter().flat_map(|s| s.blocks.iter().map(String::as_str)).collect();
                let expected: Vec<&str> = model.blocks.iter().map(|b| b.name.as_str()).collect();
                prop_assert_eq!(names, expected);
                prop_assert!(cut[0].blocks.contains(&"embeddings".to_owned()));
                prop_assert!(cut[shards - 1].blocks.contains(&"pooling".to_owned()));
                let sizes: Vec<usize> =
                    cut.iter().map(|s| s.blocks.iter().filter(|b| b.starts_with("blocks.")).count()).collect();
                prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            }
            Err(PackageError::Shards { most: m, .. }) => {
                prop_assert!(!(1..=most).contains(&shards));
                prop_assert_eq!(m, most);
                prop_assert!(!out.exists());
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn an_older_package_is_replaced_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("deep/er/p");
    let write = |shards| write_package(&model(), &components(), shards, &out, &key());
    write(1).unwrap();
    let second = write(3).unwrap();
    assert_eq!(Package::open(&out, &policy()).unwrap().digest(), second);

    fs::write(out.join("notes.txt"), "mine").unwrap();
    assert!(matches!(write(2), Err(PackageError::WouldOverwrite { .. })));
    assert_eq!(fs::read(out.join("notes.txt")).unwrap(), b"mine");
    fs::remove_file(out.join("notes.txt")).unwrap();
    fs::remove_file(out.join("package.toml")).unwrap();
    assert!(matches!(write(2), Err(PackageError::WouldOverwrite { .. })));

    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    write_package(&model(), &components(), 1, &empty, &key()).unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let refused = write_package(&model(), &components(), 1, &file, &key());
    assert!(matches!(refused, Err(PackageError::WouldOverwrite { .. })));

    // Nothing temporary is left, whether it went well or not.
    for place in [directory.path(), out.parent().unwrap()] {
        for entry in fs::read_dir(place).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(!name.to_str().unwrap().starts_with('.'), "{name:?}");
        }
    }

    // A package's own files may go with it; a stranger's in its folders may not.
    let package = directory.path().join("package");
    write_package(&model(), &components(), 1, &package, &key()).unwrap();
    write_package(&model(), &components(), 2, &package, &key()).unwrap();
    let stranger = package.join("weights/notes.txt");
    fs::write(&stranger, "mine").unwrap();
    let refused = write_package(&model(), &components(), 1, &package, &key());
    assert!(matches!(refused, Err(PackageError::WouldOverwrite { .. })), "{refused:?}");
    assert_eq!(fs::read(&stranger).unwrap(), b"mine");
    // Any old package.toml does not make a package.
    let project = directory.path().join("project");
    fs::create_dir_all(project.join("weights")).unwrap();
    fs::write(project.join("package.toml"), "[package]").unwrap();
    assert!(write_package(&model(), &components(), 1, &project, &key()).is_err());
    assert!(project.join("weights").is_dir());
}

#[test]
fn a_model_that_cannot_run_is_not_packed() {
    type Edit = fn(&mut ostrakon_package::ImportedModel);
    let edits: [(&str, &str, Edit); 9] = [
        ("a code of -128", "holds -128", |m| m.blocks[1].layers[0].parts[0].bytes[3] = 0x80),
        ("a NaN scale", "holds NaN", |m| m.blocks[1].layers[0].parts[1].bytes[..4].copy_from_slice(&[255; 4])),
        ("a missing part", "`scale` is missing", |m| drop(m.blocks[1].layers[0].parts.remove(1))),
        ("a repeated part", "there twice", |m| {
            let again = m.blocks[1].layers[0].parts[0].clone();
            m.blocks[1].layers[0].parts.push(again);
        }),
        ("a wrong type", "of type F32", |m| m.blocks[1].layers[0].parts[0].dtype = ostrakon_package::PartType::F32),
        ("a shape that does not fit", "attention.qkv.weight", |m| m.blocks[1].layers[0].parts[0].dims[0] += 1),
        ("a name that escapes", "is not allowed", |m| m.blocks[0].name = "../x".into()),
        ("an unknown component", "is not in the package", |m| m.blocks[0].component = "block-llama".into()),
        ("an unknown kind", "linear, embedding, layer-norm, rms-norm or rotary", |m| {
            m.blocks[1].layers[0].kind = "conv".into()
        }),
    ];
    for (what, text, edit) in edits {
        let directory = tempfile::tempdir().unwrap();
        let mut model = model();
        edit(&mut model);
        let error = write_package(&model, &components(), 1, &directory.path().join("p"), &key()).unwrap_err();
        assert!(error.to_string().contains(text), "{what}: {error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{what}");
    }
}
