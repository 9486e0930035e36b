//! Ten thousand flipped bits: in weights, activations, products, digests, signatures, components, files.
//! Each is caught by the audit that should catch it, and nobody is accused of what he did not sign.
//!
//! Bits are drawn with fixed seeds; how many of each kind were caught, and how, is printed.

use ostrakon_node::audit::{Choice, Given};
use ostrakon_node::{Verdict, progress};
use ostrakon_protocol::{Digest, Signature, SignedReceipt, Transcript, decode};
use ostrakon_tests::forge::{Loose, Shape, Signers, file, operation_at, operations};
use ostrakon_tests::tiny::{BLOCKS, ENCODERS, Random, Tiny, block_name};
use ostrakon_tests::trial::{Auditors, Counts, Outcome, honest_runs};
use std::time::Instant;

/// Where it all happens.
struct Scene {
    _tiny: Tiny,
    auditors: Auditors,
    runs: Vec<Loose>,
    random: Random,
    counts: Counts,
    started: Instant,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let started = Instant::now();
        let tiny = Tiny::new();
        let package = tiny.honest(1);
        let auditors = Auditors::of(&package, &tiny.home());
        let mut random = Random(seed);
        let runs = honest_runs(&tiny, &package, &mut random, 12);
        Self { _tiny: tiny, auditors, runs, random, counts: Counts::default(), started }
    }

    /// A run and those who will sign it.
    fn draw(&mut self) -> (Loose, Signers) {
        let run = self.runs[self.random.below(self.runs.len())].clone();
        (run, Signers::three(self.random.below(BLOCKS + 1)))
    }

    /// A batch of a run.
    fn batch(&mut self, run: &Loose) -> usize {
        self.random.below(run.batches.len())
    }

    fn report(&self, what: &str) {
        println!("{what}, {:.1} s:\n{}", self.started.elapsed().as_secs_f64(), self.counts);
    }
}

fn flipped(random: &mut Random, digest: Digest) -> Digest {
    let mut bytes = *digest.as_bytes();
    random.flip(&mut bytes);
    Digest::from_bytes(bytes)
}

#[test]
fn activations() {
    let scene = &mut Scene::new(101);
    for _ in 0..1000 {
        let (mut run, signers) = scene.draw();
        let batch = scene.batch(&run);
        let place = scene.random.below(BLOCKS - 1);
        let next = run.part(batch, place + 1);
        scene.random.flip(&mut next.input);
        let digest = next.input_digest();
        run.step(batch, place + 1).input = digest;
        run.step(batch, place).output = digest;
        let name = block_name(place);
        for outcome in scene.auditors.both(&run.sign(&signers)) {
            assert!(outcome.accuses(&signers.node(place), Some(&name), None), "{name}: {outcome:?}");
            scene.counts.add("output of a block, signed by its node", outcome.word());
        }
    }
    for _ in 0..500 {
        let (mut run, signers) = scene.draw();
        let batch = scene.batch(&run);
        let place = scene.random.below(BLOCKS);
        let part = run.part(batch, place);
        scene.random.flip(&mut part.input);
        let digest = part.input_digest();
        run.step(batch, place).input = digest;
        let name = block_name(place);
        for outcome in scene.auditors.both(&run.sign(&signers)) {
            assert!(outcome.accuses(&signers.issuer_name(), Some(&name), None), "{name}: {outcome:?}");
            scene.counts.add("input of a block on its way, put together by the issuer", outcome.word());
        }
    }
    scene.report("activations");
}

#[test]
fn integer_products() {
    let scene = &mut Scene::new(102);
    for _ in 0..2500 {
        let (mut run, signers) = scene.draw();
        let batch = scene.batch(&run);
        let place = 1 + scene.random.below(ENCODERS);
        let part = run.part(batch, place);
        let bit = scene.random.below(8 * part.products.len());
        part.products[bit / 8] ^= 1 << (bit % 8);
        let operations = operations(&Shape::tiny(), &part.block, &part.lengths);
        assert_eq!(operations.last().unwrap().1.end, part.products.len());
        let operation = operation_at(&operations, bit / 8).unwrap();
        let [replayed, checked] = scene.auditors.both(&run.sign(&signers));
        assert_eq!(replayed, Outcome::Accept, "every digest is right");
        let name = block_name(place);
        assert!(checked.accuses(&signers.node(place), Some(&name), Some(operation)), "{operation}: {checked:?}");
        let kind = operation.split(',').nth(1).unwrap_or(operation.rsplit('.').next().unwrap());
        scene.counts.add(&format!("product signed by its node, {}", kind.trim()), checked.word());
    }
    for _ in 0..1000 {
        let (run, signers) = scene.draw();
        let mut claimed = run.sign(&signers);
        let (_, ranges) = Transcript::read(&claimed.transcript).unwrap();
        let with_products: Vec<_> = ranges.into_iter().filter(|range| !range.products.is_empty()).collect();
        let range = with_products[scene.random.below(with_products.len())].products.clone();
        scene.random.flip(&mut claimed.transcript[range]);
        let outcome = scene.auditors.freivalds(&claimed);
        assert!(matches!(outcome, Outcome::Indeterminate(_)), "{outcome:?}");
        scene.counts.add("product, not signed again", outcome.word());
    }
    scene.report("integer products");
}

/// What of a receipt is changed, and what an audit must say to it.
enum Expected {
    /// The node of the block at this place.
    Node(usize),
    /// The issuer, at this block if at one.
    Issuer(Option<usize>),
    /// The issuer, or nobody; never accepted.
    IssuerOrNobody,
    /// Nobody.
    Nobody,
}

const FIELDS: [&str; 12] = [
    "digest of the request",
    "digest of the package",
    "digest of lengths",
    "count of texts",
    "digest of a component",
    "digest of a block's input",
    "digest of a block's output",
    "fuel",
    "digest of an output",
    "digest of an output, answer to fit",
    "digest of the answer",
    "digests of an output and of the next input",
];

fn change(random: &mut Random, field: &str, run: &mut Loose, batch: usize) -> Expected {
    let place = random.below(BLOCKS);
    let output = random.below(run.outputs.len());
    match field {
        "digest of the request" => {
            run.request = flipped(random, run.request);
            Expected::Nobody
        }
        "digest of the package" => {
            run.package = flipped(random, run.package);
            Expected::Nobody
        }
        "digest of lengths" => {
            run.batches[batch].lengths = flipped(random, run.batches[batch].lengths);
            Expected::Issuer(Some(0))
        }
        "count of texts" => {
            run.batches[batch].texts ^= 1 << random.below(32);
            Expected::IssuerOrNobody
        }
        "digest of a component" => {
            let step = run.step(batch, place);
            step.component = flipped(random, step.component);
            Expected::Node(place)
        }
        "digest of a block's input" => {
            let step = run.step(batch, place);
            step.input = flipped(random, step.input);
            Expected::Issuer(Some(place))
        }
        "digest of a block's output" => {
            let step = run.step(batch, place);
            step.output = flipped(random, step.output);
            if place + 1 < BLOCKS { Expected::Issuer(Some(place + 1)) } else { Expected::Node(place) }
        }
        "digests of an output and of the next input" => {
            let place = place.min(BLOCKS - 2);
            let digest = flipped(random, run.step(batch, place).output);
            run.step(batch, place).output = digest;
            run.step(batch, place + 1).input = digest;
            Expected::Node(place)
        }
        "fuel" => {
            run.step(batch, place).fuel ^= 1 << random.below(64);
            Expected::Node(place)
        }
        "digest of an output" => {
            run.outputs[output] = flipped(random, run.outputs[output]);
            Expected::Issuer(None)
        }
        "digest of an output, answer to fit" => {
            run.outputs[output] = flipped(random, run.outputs[output]);
            run.set_answer();
            Expected::Issuer(None)
        }
        "digest of the answer" => {
            run.answer = flipped(random, run.answer);
            Expected::Issuer(None)
        }
        other => panic!("{other}"),
    }
}

fn assert_as_expected(expected: &Expected, signers: &Signers, outcome: &Outcome, field: &str) {
    let is_right = match expected {
        Expected::Node(place) => outcome.accuses(&signers.node(*place), Some(&block_name(*place)), None),
        Expected::Issuer(place) => outcome.accuses(&signers.issuer_name(), place.map(block_name).as_deref(), None),
        Expected::IssuerOrNobody => match outcome {
            Outcome::Reject { node, .. } => *node == signers.issuer_name(),
            outcome => outcome.is_undecided(),
        },
        Expected::Nobody => outcome.is_undecided(),
    };
    assert!(is_right, "{field}: {outcome:?}");
}

/// The receipt with the signatures of another one.
fn with_signatures(mut changed: SignedReceipt, original: &SignedReceipt) -> SignedReceipt {
    changed.signature = original.signature;
    for (changed, original) in changed.receipt.batches.iter_mut().zip(&original.receipt.batches) {
        for (changed, original) in changed.legs.iter_mut().zip(&original.legs) {
            changed.signature = original.signature;
        }
    }
    changed
}

#[test]
fn digests_and_numbers_of_a_receipt() {
    let scene = &mut Scene::new(103);
    for at in 0..1200 {
        let field = FIELDS[at % FIELDS.len()];
        let (mut run, signers) = scene.draw();
        let original = run.sign(&signers).signed;
        let batch = scene.batch(&run);
        let expected = change(&mut scene.random, field, &mut run, batch);
        let claimed = run.sign(&signers);
        for outcome in scene.auditors.both(&claimed) {
            assert_as_expected(&expected, &signers, &outcome, field);
            scene.counts.add(&format!("{field}, signed"), outcome.word());
        }
        let signed = with_signatures(claimed.signed, &original);
        let outcome = scene.auditors.replay(&signed);
        assert!(outcome.is_undecided(), "{field}: {outcome:?}");
        scene.counts.add(&format!("{field}, not signed again"), outcome.word());
    }
    scene.report("receipts");
}

/// A profile that this machine does not have: whatever can be computed is right, and fuel cannot be compared,
/// which a note says. It is not counted among what is caught.
#[test]
fn an_unknown_profile_leaves_fuel_unchecked_and_says_so() {
    let scene = &mut Scene::new(104);
    for _ in 0..20 {
        let (mut run, signers) = scene.draw();
        run.profile = flipped(&mut scene.random, run.profile);
        let signed = run.sign(&signers).signed;
        let report = scene.auditors.replay.audit(&signed, &Given::default(), &Choice::All, &progress::unwatched);
        let report = report.unwrap();
        assert!(matches!(report.verdict, Verdict::Accept(_)));
        assert!(report.notes.iter().any(|note| note.contains("fuel was not compared")), "{:?}", report.notes);
    }
}

fn flipped_signature(random: &mut Random, signature: Signature) -> Signature {
    // Its digits are all that can be had of it.
    let mut digits = signature.to_hex().into_bytes();
    let at = random.below(digits.len());
    let digit = char::from(digits[at]).to_digit(16).unwrap() ^ (1 << random.below(4));
    digits[at] = char::from_digit(digit, 16).unwrap() as u8;
    serde_json::from_value(String::from_utf8(digits).unwrap().into()).unwrap()
}

#[test]
fn signatures_and_keys() {
    let scene = &mut Scene::new(105);
    for at in 0..800 {
        let (run, signers) = scene.draw();
        let mut claimed = run.sign(&signers);
        let batch = scene.batch(&run);
        let random = &mut scene.random;
        let signed = &mut claimed.signed;
        let legs = &mut signed.receipt.batches[batch].legs;
        let leg = random.below(legs.len());
        let mut key = |bytes: &[u8; 32]| {
            let mut bytes = *bytes;
            random.flip(&mut bytes);
            ostrakon_protocol::PublicKey::from_bytes(bytes)
        };
        let kind = match at % 4 {
            0 => {
                signed.issuer = key(signed.issuer.as_bytes());
                "the issuer's key"
            }
            1 => {
                legs[leg].node = key(legs[leg].node.as_bytes());
                // The issuer signs what he has put together, so only the node's signature fails.
                *signed = SignedReceipt::sign(&signers.issuer, signed.receipt.clone(), signed.request.clone());
                "a node's key"
            }
            2 => {
                signed.signature = flipped_signature(random, signed.signature);
                "the issuer's signature"
            }
            _ => {
                legs[leg].signature = flipped_signature(random, legs[leg].signature);
                *signed = SignedReceipt::sign(&signers.issuer, signed.receipt.clone(), signed.request.clone());
                "a node's signature"
            }
        };
        let outcome = scene.auditors.replay(&claimed.signed);
        assert!(matches!(outcome, Outcome::Indeterminate(_)), "{kind}: {outcome:?}");
        scene.counts.add(kind, outcome.word());
    }
    scene.report("signatures");
}

#[test]
fn files() {
    let scene = &mut Scene::new(106);
    for _ in 0..1500 {
        let (run, signers) = scene.draw();
        let mut bytes = file(&run.sign(&signers).signed);
        scene.random.flip(&mut bytes);
        let outcome = match decode::<SignedReceipt>(&bytes) {
            Err(error) => Outcome::Refused(error.to_string()),
            Ok(signed) => scene.auditors.replay(&signed),
        };
        assert!(outcome.is_undecided(), "{outcome:?}");
        scene.counts.add("receipt's file", outcome.word());
    }
    for _ in 0..1500 {
        let (run, signers) = scene.draw();
        let mut claimed = run.sign(&signers);
        let (_, ranges) = Transcript::read(&claimed.transcript).unwrap();
        let bit = scene.random.below(8 * claimed.transcript.len());
        claimed.transcript[bit / 8] ^= 1 << (bit % 8);
        let outcome = scene.auditors.freivalds(&claimed);
        let kind = if ranges.iter().any(|range| range.products.contains(&(bit / 8))) {
            assert!(matches!(outcome, Outcome::Indeterminate(_)), "{outcome:?}");
            "transcript's file, products"
        } else if let Some(at) = ranges.iter().position(|range| range.input.contains(&(bit / 8))) {
            // When all blocks are looked at, inputs are those of the blocks before: nobody reads these.
            assert_eq!(outcome, Outcome::Accept);
            let alone = scene.auditors.freivalds_of(&claimed, &Choice::Blocks(vec![at % BLOCKS]));
            if at % BLOCKS == 0 {
                assert_eq!(alone, Outcome::Accept, "ids are made of the request");
            } else {
                assert!(matches!(alone, Outcome::Indeterminate(_)), "{alone:?}");
            }
            scene.counts.add("transcript's file, input of a block looked at alone", alone.word());
            "transcript's file, input that is not read"
        } else {
            assert!(!matches!(outcome, Outcome::Reject { .. }), "{outcome:?}");
            "transcript's file, before the products"
        };
        scene.counts.add(kind, outcome.word());
    }
    scene.report("files");
}
