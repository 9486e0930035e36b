//! Audits of MiniLM: every way to audit accepts what was honestly run, however it was run; and flipped bits are
//! found where they are.

use ostrakon_node::audit::{Choice, Method};
use ostrakon_node::{Arithmetic, Compiler, Home, Rerun, RunOptions, SignedReceipt, progress, transcript};
use ostrakon_tests::forge::{Loose, Shape, Signers, operation_at, operations};
use ostrakon_tests::packed::{load, minilm};
use ostrakon_tests::tiny::{Random, key, policy, quick};
use ostrakon_tests::trial::{Auditors, Counts, Outcome, audit, auditing};
use std::path::Path;
use std::time::Instant;

const BLOCKS: usize = 8;
const TEXTS: [&str; 9] = [
    "A man is eating food.",
    "x",
    "",
    "Ein Mann isst etwas.",
    "一个男人在吃东西。",
    "fn main() {}",
    "The quick brown fox jumps over the lazy dog.",
    "🦊🦊",
    "3.14159",
];

fn block_name(place: usize) -> String {
    match place {
        0 => "embeddings".to_owned(),
        7 => "pooling".to_owned(),
        place => format!("blocks.{}", place - 1),
    }
}

/// A home of its own for vectors; the cache of compiled code is shared.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn home(&self) -> Home {
        Home { cache: ostrakon_tests::packed::home().cache, ..Home::under(self.0.path()) }
    }

    fn transcript(&self, package: &Path, signed: &SignedReceipt, wanted: &[usize]) -> Vec<u8> {
        let rerun = Rerun {
            signed: signed.clone(),
            directory: package.to_owned(),
            policy: policy(),
            home: self.home(),
            options: RunOptions::default(),
            key: key(0),
        };
        let out = self.0.path().join("transcript");
        transcript::write(&rerun, &|place| wanted.contains(&place), &out, &progress::unwatched).unwrap();
        std::fs::read(out).unwrap()
    }
}

fn run(package: &Path, texts: &[&str], most: Option<usize>) -> SignedReceipt {
    let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
    load(package, &RunOptions::default()).run_with_receipt(&texts, most, &progress::unwatched, &key(0)).unwrap().1
}

#[test]
fn batches_and_shards() {
    let started = Instant::now();
    let place = Place::new();
    for shards in [1, 2, 3, 6] {
        let package = minilm(shards);
        let mut auditors = Auditors::of(&package, &place.home());
        for most in [Some(1), Some(8), None] {
            let signed = run(&package, &TEXTS, most);
            assert_eq!(auditors.replay(&signed), Outcome::Accept, "{shards} shards, batches of {most:?}");
            let transcript = place.transcript(&package, &signed, &[0, 1, 2, 3, 4, 5, 6, 7]);
            let outcome = audit(&mut auditors.freivalds, &signed, Some(&transcript), &Choice::All);
            assert_eq!(outcome, Outcome::Accept, "{shards} shards, batches of {most:?}");
        }
    }
    println!("batches and shards, {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn engines_and_arithmetics() {
    let started = Instant::now();
    let (place, package) = (Place::new(), minilm(1));
    let signed = run(&package, &TEXTS[..2], None);
    let transcript = place.transcript(&package, &signed, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let pulley = RunOptions { compiler: Compiler::Pulley, ..quick() };
    for (method, transcript) in [(Method::Replay, None), (Method::Freivalds, Some(transcript.as_slice()))] {
        let mut auditor = auditing(&package, &place.home(), method, pulley.clone());
        assert_eq!(audit(&mut auditor, &signed, transcript, &Choice::All), Outcome::Accept, "{method:?}");
    }
    let signed = run(&package, &["Ostrakon"], None);
    let reference = RunOptions { arithmetic: Arithmetic::Reference, ..quick() };
    let mut auditor = auditing(&package, &place.home(), Method::Replay, reference);
    assert_eq!(audit(&mut auditor, &signed, None, &Choice::All), Outcome::Accept);
    // The reference finds a wrong block as well; only fuel it cannot compare.
    let mut run = Loose::of_receipt(&signed);
    let digest = run.batches[0].lengths;
    run.batches[0].steps[3].output = digest;
    run.batches[0].steps[4].input = digest;
    let signers = Signers::three(3);
    let outcome = audit(&mut auditor, &run.sign(&signers).signed, None, &Choice::All);
    assert!(outcome.accuses(&signers.node(3), Some("blocks.2"), None), "{outcome:?}");
    println!("engines and arithmetics, {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn some_of_the_blocks() {
    let (place, package) = (Place::new(), minilm(2));
    let mut auditors = Auditors::of(&package, &place.home());
    let signed = run(&package, &TEXTS[..4], Some(3));
    let partial = place.transcript(&package, &signed, &[2, 5]);
    for choice in [Choice::Blocks(vec![0, 2]), Choice::Blocks(vec![7]), Choice::Sample(0.2), Choice::Sample(1.0)] {
        assert_eq!(audit(&mut auditors.replay, &signed, None, &choice), Outcome::Accept, "{choice:?}");
        // Inputs are taken from the transcript where it has them.
        assert_eq!(audit(&mut auditors.replay, &signed, Some(&partial), &choice), Outcome::Accept, "{choice:?}");
    }
    for blocks in [vec![2, 5], vec![5]] {
        let outcome = audit(&mut auditors.freivalds, &signed, Some(&partial), &Choice::Blocks(blocks));
        assert_eq!(outcome, Outcome::Accept);
    }
    for choice in [Choice::All, Choice::Blocks(vec![1, 2])] {
        let outcome = audit(&mut auditors.freivalds, &signed, Some(&partial), &choice);
        assert!(matches!(outcome, Outcome::Indeterminate(_)), "{outcome:?}");
    }
    assert!(matches!(audit(&mut auditors.replay, &signed, None, &Choice::Blocks(vec![8])), Outcome::Refused(_)));
    // Who is wrong in a block that nobody looks at is not found, and who looks at it finds him.
    let mut run = Loose::of(&signed, &partial);
    let digest = run.batches[0].lengths;
    run.batches[1].steps[6].output = digest;
    run.batches[1].steps[7].input = digest;
    let signers = Signers::three(5);
    let claimed = run.sign(&signers);
    let outcome = auditors.freivalds_of(&claimed, &Choice::Blocks(vec![2, 5]));
    assert_eq!(outcome, Outcome::Accept);
    for choice in [Choice::All, Choice::Blocks(vec![6]), Choice::Blocks(vec![7])] {
        let outcome = audit(&mut auditors.replay, &claimed.signed, None, &choice);
        assert!(outcome.accuses(&signers.node(6), Some("blocks.5"), None), "{choice:?}: {outcome:?}");
    }
}

#[test]
fn the_request_apart() {
    let (place, package) = (Place::new(), minilm(1));
    let mut auditors = Auditors::of(&package, &place.home());
    let mut signed = run(&package, &TEXTS[..2], None);
    signed.request = None;
    let outcome = auditors.replay(&signed);
    assert!(matches!(outcome, Outcome::Indeterminate(_)), "{outcome:?}");
    let mut with = |texts: &[&str]| -> Outcome {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let given = ostrakon_node::audit::Given { texts: Some(&texts), transcript: None };
        auditors.replay.audit(&signed, &given, &Choice::All, &progress::unwatched).map(|report| report.verdict).into()
    };
    assert_eq!(with(&TEXTS[..2]), Outcome::Accept);
    for wrong in [&TEXTS[..1], &TEXTS[..3], &TEXTS[1..3]] {
        assert!(matches!(with(wrong), Outcome::Indeterminate(_)));
    }
}

#[test]
fn flipped_bits() {
    let started = Instant::now();
    let (place, package) = (Place::new(), minilm(3));
    let mut auditors = Auditors::of(&package, &place.home());
    let random = &mut Random(401);
    let mut counts = Counts::default();
    let shape = Shape::minilm(load(&package, &RunOptions::default()).manifest());
    let signed = run(&package, &TEXTS[..2], None);
    let right = Loose::of(&signed, &place.transcript(&package, &signed, &[0, 1, 2, 3, 4, 5, 6, 7]));
    for _ in 0..200 {
        let mut run = right.clone();
        let at = 1 + random.below(6);
        let part = &mut run.parts[at];
        let bit = random.below(8 * part.products.len());
        part.products[bit / 8] ^= 1 << (bit % 8);
        let operations = operations(&shape, &part.block, &part.lengths);
        assert_eq!(operations.last().unwrap().1.end, part.products.len());
        let operation = operation_at(&operations, bit / 8).unwrap();
        let signers = Signers::three(random.below(BLOCKS + 1));
        let outcome = auditors.freivalds(&run.sign(&signers));
        assert!(outcome.accuses(&signers.node(at), Some(&block_name(at)), Some(operation)), "{operation}: {outcome:?}");
        counts.add("product signed by its node", outcome.word());
    }
    for _ in 0..100 {
        let mut run = right.clone();
        let at = random.below(BLOCKS - 1);
        random.flip(&mut run.parts[at + 1].input);
        let digest = run.parts[at + 1].input_digest();
        run.batches[0].steps[at].output = digest;
        run.batches[0].steps[at + 1].input = digest;
        let signers = Signers::three(random.below(BLOCKS + 1));
        for outcome in auditors.both(&run.sign(&signers)) {
            assert!(outcome.accuses(&signers.node(at), Some(&block_name(at)), None), "{at}: {outcome:?}");
            counts.add("output of a block, signed by its node", outcome.word());
        }
    }
    println!("MiniLM, {:.1} s:\n{counts}", started.elapsed().as_secs_f64());
}
