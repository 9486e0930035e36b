//! Nodes that run something else than the package they name: a bit of a weight, fewer bits of all weights,
//! another component, another setting. Each is caught at the block, and by Freivalds at the operation.

use ostrakon_node::{Model, NodeError, progress};
use ostrakon_package::{Digest, ImportedModel};
use ostrakon_tests::forge::{Loose, Shape, Signers, operations};
use ostrakon_tests::tiny::{BLOCKS, ENCODERS, Random, Tiny, block_bert, block_name, key, model, policy, quick};
use ostrakon_tests::trial::{Auditors, Counts, Outcome};
use std::path::Path;
use std::time::Instant;

struct Scene {
    tiny: Tiny,
    package: Digest,
    honest: Model,
    auditors: Auditors,
    random: Random,
}

impl Scene {
    fn new(seed: u64) -> Self {
        Self::at(Tiny::new(), seed)
    }

    fn at(tiny: Tiny, seed: u64) -> Self {
        let package = tiny.honest(1);
        let honest = tiny.load(&package, &quick());
        let auditors = Auditors::of(&package, &tiny.home());
        Self { package: honest.digest(), tiny, honest, auditors, random: Random(seed) }
    }

    /// What the honest node says to these texts.
    fn honest_run(&mut self, texts: &[String]) -> Loose {
        let (_, signed) = self.honest.run_with_receipt(texts, None, &progress::unwatched, &key(0)).unwrap();
        Loose::of_receipt(&signed)
    }

    /// Likewise, with the transcript.
    fn honest_transcript(&mut self, texts: &[String]) -> Loose {
        self.run(&self.tiny.path().join("honest-1"), texts).unwrap()
    }

    /// What a node says that runs an altered package under the name of the honest one. Its package is written
    /// once more and refused, or run, or fails.
    fn altered_run(&mut self, model: &ImportedModel, component: &[u8], texts: &[String]) -> Result<Loose, NodeError> {
        let package = self.tiny.package("altered", model, component, 1)?;
        let result = self.run(&package, texts);
        std::fs::remove_dir_all(&package).unwrap();
        result
    }

    fn run(&self, package: &Path, texts: &[String]) -> Result<Loose, NodeError> {
        // A flipped bit may make a loop that never ends: a small model needs far less than this.
        let mut options = quick();
        options.limits.fuel = 1 << 32;
        let mut altered = Model::load(package, &policy(), &self.tiny.home(), &options)?;
        let (_, signed) = altered.run_with_receipt(texts, None, &progress::unwatched, &key(0))?;
        let mut run = Loose::of(&signed, &self.tiny.transcript(package, &signed, &key(0)));
        run.claim_package(self.package);
        Ok(run)
    }
}

/// Whether two runs have the same receipt, but for signatures.
fn agree(a: &Loose, b: &Loose) -> bool {
    a.answer == b.answer && a.batches.iter().zip(&b.batches).all(|(a, b)| a.steps == b.steps)
}

/// The totals of an operation.
fn totals_of(run: &Loose, place: usize, operation: &str) -> Vec<u8> {
    let part = run.parts.iter().find(|part| part.block == block_name(place)).unwrap();
    let operations = operations(&Shape::tiny(), &part.block, &part.lengths);
    let (_, range) = operations.into_iter().find(|(name, _)| name == operation).unwrap();
    part.products[range].to_vec()
}

#[test]
fn a_bit_of_a_weight() {
    let started = Instant::now();
    let scene = &mut Scene::new(201);
    let mut counts = Counts::default();
    let honest_model = model();
    for at in 0..600 {
        let mut altered = honest_model.clone();
        // Blocks with weights; codes of linear layers more often than the few floats.
        let place = if at % 10 == 0 { 0 } else { 1 + scene.random.below(ENCODERS) };
        let layers = &mut altered.blocks[place].layers;
        let layer = scene.random.below(layers.len());
        let layer = &mut layers[layer];
        let part = if at % 3 == 0 { scene.random.below(layer.parts.len()) } else { 0 };
        let part = &mut layer.parts[part];
        scene.random.flip(&mut part.bytes);
        let is_product = layer.kind == "linear" && part.name == "weight";
        let kind = format!("{} of a layer of kind {}", part.name, layer.kind);
        let operation = format!("{}.{}", block_name(place), layer.name);
        let texts = scene.random.texts(2);
        let run = match scene.altered_run(&altered, &block_bert(), &texts) {
            Ok(run) => run,
            Err(error) => {
                counts.add(&kind, &format!("no such package: {}", last_cause(&error)));
                continue;
            }
        };
        let changes_digests = !agree(&run, &scene.honest_run(&texts));
        let signers = Signers::three(scene.random.below(BLOCKS + 1));
        let [replayed, checked] = scene.auditors.both(&run.sign(&signers));
        if !changes_digests {
            // Whatever was changed, this request does not show it in any block's output: the answer is right.
            assert_eq!(replayed, Outcome::Accept, "{operation}");
            match &checked {
                Outcome::Accept => counts.add(&kind, "changes nothing for this request: accepted"),
                Outcome::Reject { node, block, operation: Some(found), .. } => {
                    assert_eq!((node, block), (&signers.node(place), &Some(block_name(place))));
                    // A float shows in the products after it.
                    assert!(!is_product || *found == operation, "{operation}: {checked:?}");
                    counts.add(&kind, "changes only products: rejected by Freivalds, operation named");
                }
                checked => panic!("{operation}: {checked:?}"),
            }
            continue;
        }
        let (node, block) = (signers.node(place), block_name(place));
        assert!(replayed.accuses(&node, Some(&block), None), "{operation}: {replayed:?}");
        counts.add(&format!("{kind}, replay"), replayed.word());
        let Outcome::Reject { node: accused, block: at, operation: found, .. } = &checked else {
            panic!("{operation}: {checked:?}")
        };
        assert_eq!((accused, at.as_ref()), (&node, Some(&block)), "{operation}");
        if is_product && found.as_deref() != Some(&operation) {
            // All activations that meet this weight have the code 0: the product is right, what is made of it is not.
            let right = scene.honest_transcript(&texts);
            let totals = |run: &Loose| totals_of(run, place, &operation);
            assert_eq!(totals(&run), totals(&right), "{operation}: {checked:?}");
            counts.add(&kind, "of these, with a right product: what follows is named");
        }
        counts.add(&format!("{kind}, Freivalds"), checked.word());
    }
    println!("weights, {:.1} s:\n{counts}", started.elapsed().as_secs_f64());
}

fn last_cause(error: &NodeError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    text.rsplit(": ").next().unwrap_or_default().chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

#[test]
fn a_bit_of_a_file_of_the_package() {
    let started = Instant::now();
    let scene = &mut Scene::new(202);
    let mut counts = Counts::default();
    let package = scene.tiny.path().join("honest-1");
    for file in ["components/block-bert.wasm", "weights", "tokenizer.json", "package.toml", "package.sig"] {
        let path = package.join(file);
        let files: Vec<_> = if path.is_dir() {
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect()
        } else {
            vec![path]
        };
        for _ in 0..120 {
            let path = &files[scene.random.below(files.len())];
            let right = std::fs::read(path).unwrap();
            let mut wrong = right.clone();
            scene.random.flip(&mut wrong);
            std::fs::write(path, &wrong).unwrap();
            let policy = ostrakon_node::TrustPolicy::only(key(0).public());
            let result = Model::load(&package, &policy, &scene.tiny.home(), &quick());
            std::fs::write(path, &right).unwrap();
            assert!(result.is_err(), "{}", path.display());
            counts.add(file, "refused");
        }
    }
    println!("files of a package, {:.1} s:\n{counts}", started.elapsed().as_secs_f64());
}

/// A node that runs a component with a flipped bit. Most do not compile or trap; of those that run, the digest
/// of the component tells, or, where the node lies about that too, what it computed or what it cost.
#[test]
fn a_bit_of_a_component_that_still_runs() {
    let started = Instant::now();
    let scene = &mut Scene::at(Tiny::apart(), 203);
    let mut counts = Counts::default();
    let honest = block_bert();
    let digest = Digest::of_content(&honest);
    for _ in 0..120 {
        let mut component = honest.clone();
        scene.random.flip(&mut component);
        let texts = scene.random.texts(2);
        let mut run = match scene.altered_run(&model(), &component, &texts) {
            Ok(run) => run,
            Err(NodeError::Admission { .. }) => {
                counts.add("component", "not admitted");
                continue;
            }
            Err(_) => {
                counts.add("component", "fails");
                continue;
            }
        };
        let signers = Signers::three(BLOCKS);
        for outcome in scene.auditors.both(&run.sign(&signers)) {
            assert!(outcome.accuses(&signers.node(0), Some(&block_name(0)), None), "{outcome:?}");
            counts.add("component that runs, its digest on the receipt", outcome.word());
        }
        for step in run.batches.iter_mut().flat_map(|batch| &mut batch.steps) {
            step.component = digest;
        }
        let is_right = agree(&run, &scene.honest_run(&texts));
        for outcome in scene.auditors.both(&run.sign(&signers)) {
            assert_eq!(outcome == Outcome::Accept, is_right, "{outcome:?}");
            assert!(is_right || matches!(outcome, Outcome::Reject { .. }), "{outcome:?}");
            let kind = "component that runs, the right digest on the receipt";
            counts.add(kind, if is_right { "computes the same for the same fuel: accepted" } else { outcome.word() });
        }
    }
    println!("components, {:.1} s:\n{counts}", started.elapsed().as_secs_f64());
}

/// Asserts that both audits name this block, and Freivalds this operation.
fn assert_caught(scene: &mut Scene, run: &Loose, place: usize, operation: Option<&str>) {
    let signers = Signers::three(place);
    let [replayed, checked] = scene.auditors.both(&run.sign(&signers));
    let (node, block) = (signers.node(place), block_name(place));
    assert!(replayed.accuses(&node, Some(&block), None), "{replayed:?}");
    assert!(checked.accuses(&node, Some(&block), operation), "{checked:?}");
}

#[test]
fn lower_precision() {
    let scene = &mut Scene::new(204);
    let texts = scene.random.texts(3);
    for place in 1..=ENCODERS {
        for layer in ["attention.qkv", "attention.output", "feed-forward.up", "feed-forward.down"] {
            // Seven, six and four bits of the codes are kept.
            for mask in [0xfe, 0xfc, 0xf0] {
                let mut altered = model();
                let of_block = &mut altered.blocks[place].layers;
                let codes = &mut of_block.iter_mut().find(|l| l.name == layer).unwrap().parts[0].bytes;
                for code in codes {
                    // Towards zero, so that no code leaves its range.
                    let magnitude = (*code as i8).unsigned_abs() & mask;
                    *code = if (*code as i8) < 0 { magnitude.wrapping_neg() } else { magnitude };
                }
                let run = scene.altered_run(&altered, &block_bert(), &texts).unwrap();
                assert_caught(scene, &run, place, Some(&format!("{}.{layer}", block_name(place))));
            }
        }
    }
    // 8 bits of activations instead of 16: the record is of another length, so there is nothing to check.
    let mut altered = model();
    altered.blocks[2].layers[0].activation = "u8".into();
    altered.blocks[2].layers[0].parts.truncate(3);
    let run = scene.altered_run(&altered, &block_bert(), &texts).unwrap();
    let signers = Signers::three(2);
    let [replayed, checked] = scene.auditors.both(&run.sign(&signers));
    assert!(replayed.accuses(&signers.node(2), Some("blocks.1"), None), "{replayed:?}");
    assert!(!matches!(checked, Outcome::Accept), "{checked:?}");
}

#[test]
fn other_settings_of_the_same_component() {
    let scene = &mut Scene::new(205);
    let texts = scene.random.texts(3);
    // One wide head instead of two, 4 instead of 2.
    for heads in ["1", "4"] {
        let mut altered = model();
        altered.blocks[1].settings[1].1 = heads.into();
        let run = scene.altered_run(&altered, &block_bert(), &texts).unwrap();
        let signers = Signers::three(1);
        let [replayed, checked] = scene.auditors.both(&run.sign(&signers));
        assert!(replayed.accuses(&signers.node(1), Some("blocks.0"), None), "{replayed:?}");
        // The products up to the heads are right; the first score is none, or the record is of another length.
        assert!(!matches!(checked, Outcome::Accept), "{checked:?}");
        if let Outcome::Reject { node, block, operation, .. } = &checked {
            assert_eq!((node, block.as_deref()), (&signers.node(1), Some("blocks.0")));
            assert!(operation.as_ref().unwrap().starts_with("attention 1 of the block"), "{operation:?}");
        }
    }
    for (setting, value) in [(1, "first"), (2, "false")] {
        let mut altered = model();
        altered.blocks[BLOCKS - 1].settings[setting].1 = value.into();
        let run = scene.altered_run(&altered, &block_bert(), &texts).unwrap();
        assert_caught(scene, &run, BLOCKS - 1, None);
    }
}

#[test]
fn encoders_in_another_order() {
    let scene = &mut Scene::new(206);
    let texts = scene.random.texts(3);
    let mut altered = model();
    let layers = altered.blocks[2].layers.clone();
    altered.blocks[2].layers = std::mem::replace(&mut altered.blocks[3].layers, layers);
    let run = scene.altered_run(&altered, &block_bert(), &texts).unwrap();
    assert_caught(scene, &run, 2, Some("blocks.1.attention.qkv"));
}
