//! Where two receipts part, and which operation of a block is the first that differs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use ostrakon_protocol::dispute::{
    Bisection, Dispute, Finding, Incomparable, SignedDispute, first_difference, other_fuel,
};
use ostrakon_protocol::{Batch, Digest, Leg, Operation, Place, Receipt, SignedReceipt, SigningKey, Step, Trace};
use proptest::prelude::*;

fn digest(of: u8) -> Digest {
    Digest::from_bytes([of; 32])
}

/// Two batches of four blocks, run by two nodes.
fn receipt() -> Receipt {
    let (request, package, profile, lengths) = (digest(2), digest(3), digest(4), digest(9));
    let step = |at: u8| Step {
        block: format!("blocks.{at}"),
        component: digest(1),
        input: digest(10 + at),
        output: digest(11 + at),
        fuel: 5,
    };
    let batch = |batch: u32| {
        let place = Place { request, package, profile, batch, lengths };
        let leg = |seed: u8, range: std::ops::Range<u8>| {
            Leg::sign(&SigningKey::from_seed(&[seed; 32]), &place, "cpu", range.map(step).collect())
        };
        Batch { texts: 2, lengths, legs: vec![leg(1, 0..2), leg(2, 2..4)] }
    };
    let batches = vec![batch(0), batch(1)];
    Receipt { request, package, profile, batches, outputs: vec![digest(7)], answer: digest(8), swarm: None }
}

#[test]
fn the_first_block_that_differs_is_found_with_who_ran_it() {
    let a = receipt();
    assert_eq!(first_difference(&a, &a), Ok(None));
    for batch in 0..2 {
        for block in 0..4 {
            let changes: [fn(&mut Step); 2] = [|s| s.output = digest(99), |s| s.component = digest(98)];
            for change in changes {
                let mut b = a.clone();
                change(&mut b.batches[batch].legs[block / 2].steps[block % 2]);
                let found = first_difference(&a, &b).unwrap().unwrap();
                assert_eq!((found.batch as usize, found.block), (batch, format!("blocks.{block}")));
                let nodes = found.sides.map(|(node, _)| node);
                assert_eq!(nodes, [a.batches[batch].legs[block / 2].node; 2]);
            }
        }
    }
}

#[test]
fn receipts_that_cannot_be_compared() {
    let a = receipt();
    let mut cases: Vec<(Receipt, Incomparable)> = Vec::new();
    let mut case = |change: &dyn Fn(&mut Receipt), why| {
        let mut b = a.clone();
        change(&mut b);
        cases.push((b, why));
    };
    case(&|b| b.request = digest(50), Incomparable::Request);
    case(&|b| b.package = digest(50), Incomparable::Package);
    case(&|b| b.batches.truncate(1), Incomparable::Split);
    case(&|b| b.batches[1].legs.truncate(1), Incomparable::Split);
    case(&|b| b.batches[0].texts = 3, Incomparable::Split);
    case(&|b| b.batches[0].legs[0].steps.swap(0, 1), Incomparable::Split);
    case(&|b| b.batches[1].lengths = digest(50), Incomparable::Input { batch: 1 });
    case(&|b| b.batches[1].legs[0].steps[0].input = digest(50), Incomparable::Input { batch: 1 });
    let broken = Incomparable::Broken { batch: 0, block: "blocks.2".to_owned() };
    case(&|b| b.batches[0].legs[1].steps[0].input = digest(50), broken);
    for (b, why) in cases {
        assert_eq!(first_difference(&a, &b), Err(why.clone()));
        assert_eq!(first_difference(&b, &a), Err(why));
    }
}

#[test]
fn fuel_is_no_difference_and_hides_none() {
    let a = receipt();
    let mut b = Receipt { profile: digest(50), ..a.clone() };
    assert_eq!(other_fuel(&a, &b), None);
    b.batches[0].legs[0].steps[0].fuel += 1;
    assert_eq!(first_difference(&a, &b), Ok(None));
    assert_eq!(other_fuel(&a, &b), Some((0, "blocks.0".to_owned(), [5, 6])));
    b.batches[0].legs[0].steps[1].output = digest(50);
    assert_eq!(first_difference(&a, &b).unwrap().unwrap().block, "blocks.1");
}

#[test]
fn the_record_is_signed_as_a_whole() {
    let dispute = Dispute {
        receipts: [digest(1), digest(2)],
        batch: Some(1),
        block: None,
        asked: Vec::new(),
        operation: None,
        claimed: None,
        exact: None,
        finding: Finding::NoDifference,
    };
    let signed = SignedDispute::sign(&SigningKey::from_seed(&[1; 32]), dispute);
    assert!(signed.is_signed());
    let mut other = signed.clone();
    other.dispute.receipts.swap(0, 1);
    assert!(!other.is_signed());
    let mut other = signed;
    other.dispute.finding = Finding::Undecided { reason: String::new() };
    assert!(!other.is_signed());
}

fn trace(outputs: &[u8]) -> Trace {
    let operation = |output: &u8| Operation { name: "gelu".to_owned(), inputs: Vec::new(), output: digest(*output) };
    Trace { receipt: digest(1), batch: 0, block: "b".to_owned(), operations: outputs.iter().map(operation).collect() }
}

fn bisect(a: &Trace, b: &Trace) -> Bisection {
    let count = |trace: &Trace| u32::try_from(trace.operations.len()).unwrap();
    let mut bisection = Bisection::new([count(a), count(b)]);
    while let Some(question) = bisection.question() {
        assert_eq!(bisection.found(), None);
        let count = question as usize;
        assert!(count <= a.operations.len().min(b.operations.len()));
        bisection.answer(a.prefix(count), b.prefix(count));
        assert!(bisection.asked().len() < 100, "it does not end");
    }
    bisection
}

proptest! {
    #[test]
    fn the_first_difference_is_found_in_few_questions(
        a in prop::collection::vec(0..2u8, 0..70),
        b in prop::collection::vec(0..2u8, 0..70),
        same in 0..70usize,
    ) {
        // A common beginning, or nearly all would part at once.
        let b: Vec<u8> = a.iter().copied().take(same).chain(b).collect();
        let shorter = a.len().min(b.len());
        let expected = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(shorter);
        let bisection = bisect(&trace(&a), &trace(&b));
        prop_assert_eq!(bisection.found(), Some(u32::try_from(expected).unwrap()));
        prop_assert!(bisection.asked().len() <= shorter.max(1).next_power_of_two().ilog2() as usize + 1);
    }

    /// Answers that contradict each other still end the questions, where the sides differ.
    #[test]
    fn liars_do_not_keep_it_going(counts in any::<[u32; 2]>(), answers in prop::collection::vec(any::<bool>(), 40)) {
        let [a, b] = counts;
        let mut bisection = Bisection::new(counts);
        for (asked, same) in answers.iter().enumerate() {
            let Some(question) = bisection.question() else { break };
            prop_assert!(asked < 34 && question >= 1 && question <= a.min(b));
            bisection.answer(digest(0), digest(u8::from(!same)));
        }
        let found = bisection.found().unwrap();
        let differs = bisection.asked().iter().find(|asked| asked.count == found.wrapping_add(1));
        prop_assert!(found == a.min(b) || differs.is_some_and(|asked| asked.a != asked.b));
        // An answer that nobody asked for changes nothing.
        let asked = bisection.asked().len();
        bisection.answer(digest(0), digest(1));
        prop_assert_eq!(bisection.asked().len(), asked);
    }
}

#[test]
fn every_seal_stands_for_what_it_covers() {
    let issuer = SigningKey::from_seed(&[3; 32]);
    let broken = |change: &dyn Fn(&mut SignedReceipt)| -> Vec<usize> {
        let mut signed = SignedReceipt::sign(&issuer, receipt(), None);
        change(&mut signed);
        let seals: Vec<_> = signed.seals().collect();
        assert_eq!(seals.len(), 5);
        assert!(seals[0].leg.is_none() && seals[0].signer == signed.issuer);
        for (at, seal) in seals[1..].iter().enumerate() {
            let (batch, leg) = seal.leg.unwrap();
            assert_eq!(
                (batch as usize, leg, seal.signer),
                (at / 2, &signed.receipt.batches[at / 2].legs[at % 2], leg.node)
            );
        }
        (0..5).filter(|&at| !seals[at].valid).collect()
    };
    assert!(broken(&|_| {}).is_empty());
    assert_eq!(broken(&|s| s.issuer = SigningKey::from_seed(&[4; 32]).public()), [0]);
    assert_eq!(broken(&|s| s.receipt.answer = digest(1)), [0]);
    assert_eq!(broken(&|s| s.receipt.batches[1].legs[0].steps[1].fuel += 1), [0, 3]);
    assert_eq!(broken(&|s| s.receipt.batches[0].lengths = digest(1)), [0, 1, 2]);
    assert_eq!(broken(&|s| s.receipt.profile = digest(1)), [0, 1, 2, 3, 4]);
}
