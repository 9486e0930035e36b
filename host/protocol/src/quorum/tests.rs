//! Every kind of message in every order.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn key(seed: usize) -> SigningKey {
    SigningKey::from_seed(&[u8::try_from(seed).unwrap() + 1; 32])
}

fn digest(of: u8) -> Digest {
    Digest::from_bytes([of; 32])
}

const JOB: Digest = Digest::from_bytes([0xaa; 32]);

fn vote(output: u8, nonce: u8) -> Vote {
    Vote { job: JOB, output: digest(output), nonce: digest(nonce) }
}

fn nodes(count: usize) -> Vec<PublicKey> {
    (0..count).map(|node| key(node).public()).collect()
}

fn quorum(count: usize, needed: usize) -> Quorum {
    Quorum::new(JOB, &nodes(count), needed).unwrap()
}

/// A commitment that a node puts its name under, whoever made it.
fn commit_to(node: usize, commitment: Digest) -> Commit {
    let (key, node) = (key(node), key(node).public());
    let signature = key.sign(Purpose::BALLOT, &commit_digest(&JOB, &node, &commitment));
    Commit { job: JOB, node, commitment, signature }
}

#[test]
fn half_is_no_quorum() {
    for (count, needed) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (3, 4)] {
        assert!(Quorum::new(JOB, &nodes(count), needed).is_err(), "{needed} of {count}");
    }
    // The same node twice is one node.
    let twice = [nodes(1), nodes(1)].concat();
    assert!(Quorum::new(JOB, &twice, 2).is_err());
    assert!(Quorum::new(JOB, &twice, 1).is_ok());
}

#[test]
fn all_honest() {
    let mut quorum = quorum(3, 2);
    let votes: Vec<Vote> = (0..3).map(|_| Vote::new(JOB, digest(7)).unwrap()).collect();
    for (node, vote) in votes.iter().enumerate() {
        assert_eq!(quorum.reveal(&vote.reveal(&key(node))), Err(Ignored::Phase));
        assert_eq!((quorum.phase(), quorum.outcome()), (Phase::Commit, None));
        quorum.commit(&vote.commit(&key(node))).unwrap();
        quorum.commit(&vote.commit(&key(node))).unwrap();
    }
    for (node, vote) in votes.iter().enumerate() {
        assert_eq!((quorum.phase(), quorum.outcome()), (Phase::Reveal, None));
        quorum.reveal(&vote.reveal(&key(node))).unwrap();
        quorum.reveal(&vote.reveal(&key(node))).unwrap();
    }
    let outcome = quorum.outcome().unwrap();
    assert_eq!((outcome.accepted, outcome.agreed.len()), (Some(digest(7)), 3));
    let Outcome { differed, not_committed, not_revealed, mismatched, .. } = outcome;
    assert!(differed.is_empty() && not_committed.is_empty() && not_revealed.is_empty() && mismatched.is_empty());
}

#[test]
fn a_copied_commitment_cannot_be_revealed() {
    let mut quorum = quorum(3, 2);
    let original = vote(7, 1);
    quorum.commit(&original.commit(&key(0))).unwrap();
    quorum.commit(&commit_to(1, original.commit(&key(0)).commitment)).unwrap();
    quorum.commit(&vote(7, 2).commit(&key(2))).unwrap();
    quorum.reveal(&original.reveal(&key(0))).unwrap();
    assert_eq!(quorum.reveal(&original.reveal(&key(1))), Err(Ignored::Mismatch));
    quorum.reveal(&vote(7, 2).reveal(&key(2))).unwrap();
    quorum.deadline();
    let outcome = quorum.outcome().unwrap();
    assert_eq!((outcome.accepted, outcome.mismatched), (Some(digest(7)), vec![key(1).public()]));
    assert!(outcome.not_revealed.is_empty());
}

#[test]
fn late_missing_changed_and_foreign_messages() {
    let mut quorum = quorum(4, 3);
    let mut forged = vote(7, 0).commit(&key(0));
    forged.commitment = digest(1);
    assert_eq!(quorum.commit(&forged), Err(Ignored::Signature));
    assert_eq!(quorum.commit(&vote(7, 0).commit(&key(9))), Err(Ignored::Stranger));
    let other_job = Vote { job: digest(3), ..vote(7, 0) };
    assert_eq!(quorum.commit(&other_job.commit(&key(0))), Err(Ignored::Job));
    for node in 0..3 {
        quorum.commit(&vote(7, 0).commit(&key(node))).unwrap();
    }
    assert_eq!(quorum.commit(&vote(8, 0).commit(&key(0))), Err(Ignored::Repeated));
    quorum.deadline();
    assert_eq!(quorum.commit(&vote(7, 0).commit(&key(3))), Err(Ignored::Phase));
    assert_eq!(quorum.reveal(&vote(7, 0).reveal(&key(3))), Err(Ignored::NotCommitted));
    assert_eq!(quorum.reveal(&other_job.reveal(&key(0))), Err(Ignored::Job));
    assert_eq!(quorum.reveal(&vote(7, 0).reveal(&key(9))), Err(Ignored::Stranger));
    let mut forged = vote(7, 0).reveal(&key(0));
    forged.output = digest(8);
    assert_eq!(quorum.reveal(&forged), Err(Ignored::Signature));
    assert_eq!(quorum.reveal(&vote(8, 0).reveal(&key(0))), Err(Ignored::Mismatch));
    // Having erred does not keep a node from being right.
    quorum.reveal(&vote(7, 0).reveal(&key(0))).unwrap();
    quorum.reveal(&vote(7, 0).reveal(&key(1))).unwrap();
    quorum.deadline();
    assert_eq!(quorum.reveal(&vote(7, 0).reveal(&key(2))), Err(Ignored::Phase));
    let outcome = quorum.outcome().unwrap();
    // Two of three that are needed.
    assert_eq!(outcome.accepted, None);
    assert!(outcome.agreed.is_empty() && outcome.mismatched.is_empty());
    assert_eq!(outcome.differed.len(), 2);
    assert_eq!(outcome.not_committed, [key(3).public()]);
    assert_eq!(outcome.not_revealed, [key(2).public()]);
}

#[test]
fn nobody_came() {
    let mut quorum = quorum(3, 2);
    quorum.deadline();
    let outcome = quorum.outcome().unwrap();
    assert_eq!((outcome.accepted, outcome.not_committed.len()), (None, 3));
}

/// What a node may send, good or bad.
#[derive(Debug, Clone)]
enum Act {
    Commit { node: usize, output: u8, nonce: u8 },
    Copy { node: usize, from: usize, output: u8, nonce: u8 },
    Reveal { node: usize, output: u8, nonce: u8 },
    Stolen { node: usize, by: usize, output: u8, nonce: u8 },
    Deadline,
}

fn act(nodes: std::ops::Range<usize>) -> impl Strategy<Value = Act> {
    let (n, o) = (move || nodes.clone(), || 0..3u8);
    prop_oneof![
        4 => (n(), o(), o()).prop_map(|(node, output, nonce)| Act::Commit { node, output, nonce }),
        1 => (n(), 0..6usize, o(), o()).prop_map(|(node, from, output, nonce)| Act::Copy { node, from, output, nonce }),
        4 => (n(), o(), o()).prop_map(|(node, output, nonce)| Act::Reveal { node, output, nonce }),
        1 => (0..8usize, n(), o(), o()).prop_map(|(node, by, output, nonce)| Act::Stolen { node, by, output, nonce }),
    ]
}

fn take(quorum: &mut Quorum, act: &Act) {
    let _ = match *act {
        Act::Commit { node, output, nonce } => quorum.commit(&vote(output, nonce).commit(&key(node))),
        Act::Copy { node, from, output, nonce } => {
            quorum.commit(&commit_to(node, vote(output, nonce).commit(&key(from)).commitment))
        }
        Act::Reveal { node, output, nonce } => quorum.reveal(&vote(output, nonce).reveal(&key(node))),
        // In the name of another node, with the own signature.
        Act::Stolen { node, by, output, nonce } => {
            let node = key(node).public();
            let _ = quorum.commit(&Commit { node, ..vote(output, nonce).commit(&key(by)) });
            quorum.reveal(&Reveal { node, ..vote(output, nonce).reveal(&key(by)) })
        }
        Act::Deadline => {
            quorum.deadline();
            Ok(())
        }
    };
}

/// Every node is in one list only, and what was accepted has enough votes of its own.
fn sound(outcome: &Outcome, count: usize, needed: usize) {
    let Outcome { accepted, agreed, differed, not_committed, not_revealed, mismatched } = outcome;
    let all: Vec<PublicKey> = [agreed, not_committed, not_revealed, mismatched]
        .into_iter()
        .flatten()
        .copied()
        .chain(differed.iter().map(|(node, _)| *node))
        .collect();
    assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), nodes(count).into_iter().collect());
    assert_eq!(all.len(), count);
    assert_eq!(accepted.is_some(), agreed.len() >= needed);
    for (_, output) in differed {
        assert_ne!(Some(*output), *accepted);
        assert!(differed.iter().filter(|(_, other)| other == output).count() < needed, "two outputs could win");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever is sent: no panic, one decision that never changes, every node accounted for.
    #[test]
    fn one_outcome_at_most(
        (count, needed) in (1..6usize).prop_flat_map(|count| (Just(count), count / 2 + 1..=count)),
        acts in prop::collection::vec(prop_oneof![12 => act(0..7), 1 => Just(Act::Deadline)], 0..40),
    ) {
        let mut quorum = quorum(count, needed);
        let mut decided: Option<Outcome> = None;
        for act in &acts {
            take(&mut quorum, act);
            let outcome = quorum.outcome();
            prop_assert_eq!(outcome.is_some(), quorum.phase() == Phase::Decided);
            if let Some(outcome) = &outcome {
                sound(outcome, count, needed);
            }
            if decided.is_some() {
                prop_assert_eq!(&outcome, &decided);
            }
            decided = outcome;
        }
        quorum.deadline();
        quorum.deadline();
        sound(&quorum.outcome().unwrap(), count, needed);
    }

    /// Enough honest nodes are accepted in every order, whatever the others send.
    #[test]
    fn an_honest_majority_is_accepted(
        (count, needed) in (1..6usize).prop_flat_map(|count| (Just(count), count / 2 + 1..=count)),
        first in prop::collection::vec((act(0..7), any::<prop::sample::Index>()), 0..15),
        second in prop::collection::vec((act(0..7), any::<prop::sample::Index>()), 0..15),
        order in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        const RIGHT: u8 = 100;
        // Nodes from 0 on are honest; only the rest acts.
        let evil = |act: &Act| match act {
            Act::Commit { node, .. } | Act::Copy { node, .. } | Act::Reveal { node, .. } => *node >= needed,
            Act::Stolen { by, .. } => *by >= needed,
            Act::Deadline => false,
        };
        let honest = |node: usize| vote(RIGHT, 50 + u8::try_from(node).unwrap());
        let mut quorum = quorum(count, needed);
        for (phase, noise) in [(Phase::Commit, first), (Phase::Reveal, second)] {
            // `None` for a message of an honest node; each is sent once or more.
            let mut messages: Vec<(usize, Option<Act>)> = Vec::new();
            for (place, node) in order.iter().zip(0..needed) {
                messages.insert(place.index(messages.len() + 1), (node, None));
            }
            for (act, place) in noise.into_iter().filter(|(act, _)| evil(act)) {
                messages.insert(place.index(messages.len() + 1), (0, Some(act)));
            }
            for (node, act) in messages {
                match (act, phase) {
                    (Some(act), _) => take(&mut quorum, &act),
                    (None, Phase::Commit) => prop_assert_eq!(quorum.commit(&honest(node).commit(&key(node))), Ok(())),
                    (None, _) => prop_assert_eq!(quorum.reveal(&honest(node).reveal(&key(node))), Ok(())),
                }
            }
            if quorum.phase() == phase {
                quorum.deadline();
            }
        }
        let outcome = quorum.outcome().unwrap();
        sound(&outcome, count, needed);
        prop_assert_eq!(outcome.accepted, Some(digest(RIGHT)));
        for node in 0..needed {
            prop_assert!(outcome.agreed.contains(&key(node).public()));
        }
    }
}
