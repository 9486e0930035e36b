//! Those who cheat with thought: every digest and signature fits, and still each is caught, at the right place,
//! and never at the cost of somebody honest.

use ostrakon_node::audit::{Choice, Given};
use ostrakon_node::{Model, progress};
use ostrakon_package::ImportedModel;
use ostrakon_protocol::{Digest, Request, SignedReceipt};
use ostrakon_tests::forge::{Claimed, Loose, Shape, Signers, operations};
use ostrakon_tests::tiny::{BLOCKS, ENCODERS, Tiny, WIDE, WIDTH, block_bert, block_name, key, model, quick};
use ostrakon_tests::trial::{Auditors, Outcome};

struct Scene {
    tiny: Tiny,
    honest: Model,
    auditors: Auditors,
}

impl Scene {
    fn new() -> Self {
        let tiny = Tiny::new();
        let package = tiny.honest(1);
        let honest = tiny.load(&package, &quick());
        let auditors = Auditors::of(&package, &tiny.home());
        Self { tiny, honest, auditors }
    }

    fn run(&mut self, texts: &[&str], most: Option<usize>) -> Loose {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let (_, signed) = self.honest.run_with_receipt(&texts, most, &progress::unwatched, &key(0)).unwrap();
        Loose::of(&signed, &self.tiny.transcript(&self.tiny.path().join("honest-1"), &signed, &key(0)))
    }

    /// A run of another model under the name of the honest package.
    fn run_other(&mut self, model: &ImportedModel, texts: &[&str]) -> Loose {
        let package = self.tiny.package("other", model, &block_bert(), 1).unwrap();
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let mut other = self.tiny.load(&package, &quick());
        let (_, signed) = other.run_with_receipt(&texts, None, &progress::unwatched, &key(0)).unwrap();
        let mut run = Loose::of(&signed, &self.tiny.transcript(&package, &signed, &key(0)));
        run.claim_package(self.honest.digest());
        run
    }

    fn both(&mut self, run: &Loose, signers: &Signers) -> [Outcome; 2] {
        self.auditors.both(&run.sign(signers))
    }

    /// Both audits accuse the node of this block.
    fn assert_node(&mut self, run: &Loose, place: usize) {
        let signers = Signers::three(place);
        for outcome in self.both(run, &signers) {
            assert!(outcome.accuses(&signers.node(place), Some(&block_name(place)), None), "{outcome:?}");
        }
    }

    /// Both audits accuse the issuer, whoever ran the blocks.
    fn assert_issuer(&mut self, run: &Loose, place: Option<usize>) {
        let signers = Signers::three(2);
        for outcome in self.both(run, &signers) {
            assert!(outcome.accuses(&signers.issuer_name(), place.map(block_name).as_deref(), None), "{outcome:?}");
        }
    }
}

const TEXTS: [&str; 3] = ["w1 w2 w3", "w4 w5 w6", "w7 w8"];

#[test]
fn a_block_that_was_left_out() {
    let scene = &mut Scene::new();
    let honest = scene.run(&TEXTS, None);
    for place in 1..=ENCODERS {
        let mut shorter = model();
        shorter.blocks.remove(place);
        let skipped = scene.run_other(&shorter, &TEXTS);
        // As it is: the receipt has a block less.
        let signers = Signers::three(2);
        for outcome in scene.both(&skipped, &signers) {
            // What stands there is the next block.
            let found = block_name(place + 1);
            assert!(outcome.accuses(&signers.issuer_name(), Some(&found), None), "{outcome:?}");
        }
        // Said to have been run, and to have changed nothing; its products are the right ones.
        let mut run = skipped;
        let input = run.batches[0].steps[place].input;
        let mut step = honest.batches[0].steps[place].clone();
        assert_eq!(step.input, input);
        step.output = input;
        run.batches[0].steps.insert(place, step);
        run.parts.insert(place, honest.parts[place].clone());
        scene.assert_node(&run, place);
        // Likewise, and without products: nothing can be checked, so nothing is accepted.
        run.parts[place].products.clear();
        let [replayed, checked] = scene.both(&run, &Signers::three(place));
        assert!(matches!(replayed, Outcome::Reject { .. }));
        assert!(matches!(checked, Outcome::Indeterminate(_)), "{checked:?}");
    }
}

#[test]
fn an_old_answer_for_a_new_request() {
    let scene = &mut Scene::new();
    let old = scene.run(&TEXTS, None);
    for new in [["w9 w2 w3", "w4 w5 w6", "w7 w8"], ["w1 w2", "w3 w4 w5 w6", "w7 w8"], ["w4 w5 w6", "w1 w2 w3", "w7 w8"]]
    {
        let asked = Request::of_texts(old.package, new.map(str::to_owned).to_vec());
        let mut run = old.clone();
        run.request = asked.digest();
        run.asked = Some(asked);
        // Everybody signs again, for the new request.
        scene.assert_issuer(&run, Some(0));
        // The nodes do not sign again: their legs are of another request, so nobody is accused of anything.
        let signers = Signers::three(2);
        let taken = old.sign(&signers).signed.receipt.batches;
        let mut receipt = run.sign(&signers).signed.receipt;
        receipt.batches = taken;
        let signed = SignedReceipt::sign(&signers.issuer, receipt, run.asked.clone());
        let outcome = scene.auditors.replay(&signed);
        assert!(matches!(outcome, Outcome::Indeterminate(_)), "{outcome:?}");
    }
}

#[test]
fn an_answer_computed_for_another_input_of_the_same_length() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, None);
    let mut run = scene.run(&["w1 w2 w9", "w4 w5 w6", "w7 w8"], None);
    (run.request, run.asked) = (right.request, right.asked.clone());
    scene.assert_issuer(&run, Some(0));
    // The node says that it was given the right tokens.
    run.step(0, 0).input = right.batches[0].steps[0].input;
    run.part(0, 0).input.clone_from(&right.parts[0].input);
    scene.assert_node(&run, 0);
    // The node says so of a block in the middle.
    for place in 1..BLOCKS {
        let mut run = run.clone();
        for before in 0..place {
            *run.step(0, before) = right.batches[0].steps[before].clone();
            *run.part(0, before) = right.parts[before].clone();
        }
        run.step(0, place).input = right.batches[0].steps[place].input;
        run.part(0, place).input.clone_from(&right.parts[place].input);
        let signers = Signers::three(place);
        let [replayed, checked] = scene.both(&run, &signers);
        let (node, block) = (signers.node(place), block_name(place));
        assert!(replayed.accuses(&node, Some(&block), None), "{replayed:?}");
        let operation = (place <= ENCODERS).then(|| format!("{block}.attention.qkv"));
        assert!(checked.accuses(&node, Some(&block), operation.as_deref()), "{checked:?}");
    }
}

fn add_i64(bytes: &mut [u8], at: usize, more: i64) {
    let word = bytes[at * 8..at * 8 + 8].as_mut_array::<8>().unwrap();
    *word = i64::from_le_bytes(*word).wrapping_add(more).to_le_bytes();
}

fn add_i32(bytes: &mut [u8], at: usize, more: i32) {
    let word = bytes[at * 4..at * 4 + 4].as_mut_array::<4>().unwrap();
    *word = i32::from_le_bytes(*word).wrapping_add(more).to_le_bytes();
}

/// Every digest on the receipt is right, so a replay accepts, and rightly so: nothing wrong was answered. But the
/// products in the transcript are wrong, and Freivalds says which.
#[test]
fn errors_that_cancel() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, None);
    let lengths = right.parts[1].lengths.clone();
    for place in 1..=ENCODERS {
        let block = block_name(place);
        for (operation, range) in operations(&Shape::tiny(), &block, &lengths) {
            let columns = match operation.rsplit('.').next().unwrap() {
                "qkv" => 3 * WIDTH,
                "up" => WIDE,
                "output" | "down" => WIDTH,
                _ if operation.contains("weighted") => WIDTH / 2,
                // Scores: as many as the sequence has rows; two at least in these texts.
                _ => 2,
            };
            let wide = !(operation.contains("scores") || operation.ends_with("output") || operation.ends_with("down"));
            // The sum of the row stays; the sum of a column stays; most of the bits of a side stay.
            let mut cancelling = vec![vec![(0, 1), (1, -1)], vec![(0, 1), (columns, -1)]];
            if wide {
                cancelling.extend([vec![(1, 1 << 31)], vec![(0, -1 << 32)], vec![(0, 1 << 62), (1, -1 << 62)]]);
                cancelling.extend([vec![(0, i64::MIN)], vec![(0, i64::MIN), (1, i64::MIN)], vec![(2, 1 << 40)]]);
            } else {
                cancelling.extend([vec![(0, -1 << 30)], vec![(0, i64::from(i32::MIN))]]);
                cancelling.push(vec![(0, i64::from(i32::MIN)), (1, i64::from(i32::MIN))]);
            }
            for changes in cancelling {
                let mut run = right.clone();
                let totals = &mut run.part(0, place).products[range.clone()];
                for (at, more) in changes {
                    if wide {
                        add_i64(totals, at, more);
                    } else {
                        add_i32(totals, at, i32::try_from(more).unwrap());
                    }
                }
                let signers = Signers::three(place);
                let [replayed, checked] = scene.both(&run, &signers);
                assert_eq!(replayed, Outcome::Accept);
                assert!(
                    checked.accuses(&signers.node(place), Some(&block), Some(&operation)),
                    "{operation}: {checked:?}"
                );
            }
        }
    }
}

#[test]
fn products_of_another_block_or_text() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, Some(1));
    let signers = Signers::three(2);
    let mut run = right.clone();
    run.part(0, 1).products = right.parts[2].products.clone();
    let [_, checked] = scene.both(&run, &signers);
    assert!(checked.accuses(&signers.node(1), Some("blocks.0"), Some("blocks.0.attention.qkv")), "{checked:?}");
    let mut run = right.clone();
    // The first two texts have as many tokens.
    run.part(1, 3).products = right.parts[3].products.clone();
    let [_, checked] = scene.both(&run, &signers);
    assert!(checked.accuses(&signers.node(3), Some("blocks.2"), Some("blocks.2.attention.qkv")), "{checked:?}");
    // Too few, and too many.
    for change in [|products: &mut Vec<u8>| products.truncate(100), |products: &mut Vec<u8>| products.push(0)] {
        let mut run = right.clone();
        change(&mut run.part(2, 2).products);
        let [replayed, checked] = scene.both(&run, &signers);
        assert_eq!(replayed, Outcome::Accept);
        assert!(matches!(checked, Outcome::Indeterminate(_)), "{checked:?}");
    }
}

#[test]
fn fuel_that_was_not_spent() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, Some(2));
    for place in 0..BLOCKS {
        for fuel in [0, 1, u64::MAX] {
            let mut run = right.clone();
            run.step(1, place).fuel = fuel;
            scene.assert_node(&run, place);
        }
        let mut run = right.clone();
        run.step(0, place).fuel += 1;
        scene.assert_node(&run, place);
    }
}

#[test]
fn an_issuer_who_puts_it_together_wrongly() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, Some(1));
    // Outputs in another order, one twice, one too many, one too few, none.
    let reordered: [fn(&mut Vec<Digest>); 5] = [
        |outputs| outputs.swap(0, 1),
        |outputs| outputs[2] = outputs[0],
        |outputs| outputs.push(outputs[0]),
        |outputs| outputs.truncate(2),
        |outputs| outputs.clear(),
    ];
    for change in reordered {
        let mut run = right.clone();
        change(&mut run.outputs);
        // The answer still says what it was: it does not fit.
        scene.assert_issuer(&run, None);
        run.set_answer();
        scene.assert_issuer(&run, None);
    }
    let mut run = right.clone();
    run.answer = right.outputs[0];
    scene.assert_issuer(&run, None);
    // Batches in another order: each is of another text than its place says.
    let mut run = right.clone();
    run.batches.swap(0, 1);
    scene.assert_issuer(&run, Some(0));
    // One of them twice.
    let mut run = right.clone();
    run.batches[1] = run.batches[0].clone();
    scene.assert_issuer(&run, Some(0));
    // A block twice.
    let mut run = right.clone();
    let step = run.batches[0].steps[2].clone();
    run.batches[0].steps.insert(2, step);
    let outcome = scene.auditors.replay(&run.sign(&Signers::three(2)).signed);
    assert!(
        matches!(&outcome, Outcome::Reject { node, .. } if *node == Signers::three(2).issuer_name()),
        "{outcome:?}"
    );
    // Of such a batch no step is looked at.
    let given = Given::default();
    let report = |scene: &mut Scene, choice| {
        let claimed = run.sign(&Signers::three(2));
        scene.auditors.replay.audit(&claimed.signed, &given, &choice, &progress::unwatched).unwrap()
    };
    let steps = TEXTS.len() * BLOCKS + 1;
    assert_eq!(report(scene, Choice::All).looked_at, (0, steps));
    assert_eq!(report(scene, Choice::Blocks(vec![BLOCKS])).looked_at, (0, steps));
    // No blocks, no batches.
    let mut run = right.clone();
    run.batches[2].steps.clear();
    let outcome = scene.auditors.replay(&run.sign(&Signers::three(2)).signed);
    assert!(
        matches!(&outcome, Outcome::Reject { node, .. } if *node == Signers::three(2).issuer_name()),
        "{outcome:?}"
    );
    let mut run = right.clone();
    run.batches.clear();
    let outcome = scene.auditors.replay(&run.sign(&Signers::three(2)).signed);
    assert!(!matches!(outcome, Outcome::Accept), "{outcome:?}");
}

/// A text of the request of which nothing was computed, and of which the receipt is silent.
#[test]
fn a_text_that_was_left_out() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, Some(1));
    for left_out in [1, 2] {
        let mut run = right.clone();
        for _ in 0..left_out {
            run.batches.pop();
            run.outputs.pop();
            run.parts.truncate(run.parts.len() - BLOCKS);
        }
        run.set_answer();
        scene.assert_issuer(&run, None);
    }
}

/// More texts in the last batch than the request has.
#[test]
fn texts_that_were_never_asked() {
    let scene = &mut Scene::new();
    for most in [None, Some(1), Some(2)] {
        let mut run = scene.run(&TEXTS, most);
        run.batches.last_mut().unwrap().texts += 2;
        for outcome in scene.both(&run, &Signers::three(2)) {
            assert!(!matches!(outcome, Outcome::Accept), "{outcome:?}");
        }
    }
}

/// The request names the package that was asked for: another one was run.
#[test]
fn another_package_than_the_request_names() {
    let scene = &mut Scene::new();
    let mut run = scene.run(&TEXTS, None);
    let asked = run.asked.as_mut().unwrap();
    asked.package = Digest::of_content(b"a larger model");
    run.request = asked.digest();
    for outcome in scene.both(&run, &Signers::three(2)) {
        let Outcome::Indeterminate(reasons) = &outcome else { panic!("{outcome:?}") };
        assert!(reasons.iter().any(|reason| reason.contains("the request is for the package")), "{reasons:?}");
    }
}

/// Whatever others do, a node that was honest is not accused.
#[test]
fn nobody_is_accused_for_another() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, Some(2));
    let signers = Signers::three(2);
    let both = |scene: &mut Scene, claimed: &Claimed| {
        for outcome in scene.auditors.both(claimed) {
            assert!(matches!(outcome, Outcome::Indeterminate(_)), "{outcome:?}");
        }
    };
    // Legs of another run, though of the same texts in the same package.
    let other = scene.run(&TEXTS, Some(1)).sign(&signers);
    let mut claimed = right.sign(&signers);
    claimed.signed.receipt.batches[0].legs[0] = other.signed.receipt.batches[0].legs[0].clone();
    claimed.signed = SignedReceipt::sign(&signers.issuer, claimed.signed.receipt, claimed.signed.request);
    claimed.transcript = right.sign_transcript(&claimed.signed.receipt.digest(), &signers);
    both(scene, &claimed);
    // A leg of another batch.
    let mut claimed = right.sign(&signers);
    claimed.signed.receipt.batches[0].legs[1] = claimed.signed.receipt.batches[1].legs[1].clone();
    claimed.signed = SignedReceipt::sign(&signers.issuer, claimed.signed.receipt, claimed.signed.request);
    claimed.transcript = right.sign_transcript(&claimed.signed.receipt.digest(), &signers);
    both(scene, &claimed);
    // A wrong step in the name of somebody who did not sign it.
    let mut wrong = right.clone();
    wrong.step(0, 3).fuel += 1;
    let mut claimed = wrong.sign(&Signers { nodes: [key(11), key(13)], ..Signers::three(2) });
    for batch in &mut claimed.signed.receipt.batches {
        batch.legs[1].node = key(12).public();
    }
    claimed.signed = SignedReceipt::sign(&signers.issuer, claimed.signed.receipt, claimed.signed.request);
    claimed.transcript = wrong.sign_transcript(&claimed.signed.receipt.digest(), &signers);
    both(scene, &claimed);
    // A transcript with wrong products in the name of the node, signed by another one or for another receipt.
    let mut wrong = right.clone();
    wrong.part(0, 3).products[5] ^= 1;
    let mut claimed = right.sign(&signers);
    let id = claimed.signed.receipt.digest();
    for transcript in [
        wrong.sign_transcript(&id, &Signers { nodes: [key(11), key(13)], ..Signers::three(2) }),
        wrong.sign_transcript(&id, &Signers::three(4)),
    ] {
        claimed.transcript = transcript;
        let outcome = scene.auditors.freivalds(&claimed);
        assert!(matches!(outcome, Outcome::Indeterminate(_)), "{outcome:?}");
    }
    claimed.transcript = wrong.sign_transcript(&Digest::of_content(b"another receipt"), &signers);
    assert!(matches!(scene.auditors.freivalds(&claimed), Outcome::Refused(_)));
}

/// Who was given something wrong and computed it rightly is not accused; who gave it is.
#[test]
fn the_first_who_is_wrong_is_accused_and_not_who_comes_after() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, None);
    for place in 1..=ENCODERS {
        // From this block on everything was computed from a wrong weight's result.
        let mut altered = model();
        altered.blocks[place].layers[0].parts[0].bytes[7] ^= 0x40;
        let run = scene.run_other(&altered, &TEXTS);
        assert_ne!(run.answer, right.answer);
        let signers = Signers::three(place + 1);
        let claimed = run.sign(&signers);
        for outcome in scene.auditors.both(&claimed) {
            let Outcome::Reject { node, block, .. } = &outcome else { panic!("{outcome:?}") };
            assert_eq!((node, block.as_deref()), (&signers.node(place), Some(block_name(place).as_str())));
        }
        // The second node's blocks, looked at alone from its own transcript, are right.
        let after: Vec<usize> = (place + 1..BLOCKS).collect();
        assert_eq!(scene.auditors.freivalds_of(&claimed, &Choice::Blocks(after)), Outcome::Accept);
    }
}

/// An auditor who audits on after a rejection uses other vectors than those by which somebody was caught.
#[test]
fn nobody_learns_the_vectors_in_use() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, None);
    let signers = Signers::three(2);
    let directory = ostrakon_node::audit::vectors::directory(&scene.tiny.home(), &scene.honest.digest());
    let vectors = || -> Option<Vec<Vec<u8>>> {
        let mut paths: Vec<_> = std::fs::read_dir(&directory).ok()?.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        Some(paths.iter().map(|path| std::fs::read(path).unwrap()).collect())
    };
    let honest = right.sign(&signers);
    assert_eq!(scene.auditors.freivalds(&honest), Outcome::Accept);
    let before = vectors().unwrap();
    assert_eq!(before.len(), 4 * ENCODERS);
    assert_eq!(scene.auditors.freivalds(&honest), Outcome::Accept);
    assert_eq!(vectors().unwrap(), before, "kept from audit to audit");
    let mut wrong = right.clone();
    wrong.part(0, 1).products[3] ^= 1;
    assert!(matches!(scene.auditors.freivalds(&wrong.sign(&signers)), Outcome::Reject { .. }));
    assert_eq!(vectors(), None, "gone after a rejection");
    assert_eq!(scene.auditors.freivalds(&honest), Outcome::Accept);
    let after = vectors().unwrap();
    assert_eq!(after.len(), before.len());
    assert!(after.iter().zip(&before).all(|(after, before)| after != before));
}

/// A leg without blocks in the name of a node that had no part in it.
#[test]
fn a_part_that_nobody_took() {
    let scene = &mut Scene::new();
    let right = scene.run(&TEXTS, None);
    let signers = Signers::three(2);
    let mut receipt = right.sign(&signers).signed.receipt;
    let mut empty = receipt.batches[0].legs[0].clone();
    empty.node = key(77).public();
    empty.steps.clear();
    receipt.batches[0].legs.push(empty);
    let signed = SignedReceipt::sign(&signers.issuer, receipt, right.asked.clone());
    let outcome = scene.auditors.replay(&signed);
    assert!(matches!(outcome, Outcome::Indeterminate(_)), "{outcome:?}");
}
