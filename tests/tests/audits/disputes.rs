//! Disputes over the real model: whoever cheats is found at the operation where it did, and an honest node is
//! never found wrong, whatever the other side sends.

mod cheating;

use cheating::{
    BATCH, CHEATER, Court, Forge, HONEST, OTHER, court, digest, is_right, key, parts, sign, texts, trace_file,
};
use ostrakon_nn::Tensor;
use ostrakon_node::NodeError;
use ostrakon_node::dispute::{Decision, Finding, Side, decide, settle};
use ostrakon_protocol::dispute::{Incomparable, SignedDispute};
use ostrakon_protocol::{Digest, Operation, SignedReceipt, Trace, TraceFile};

fn undecided(decision: &Decision) -> &str {
    match &decision.dispute.finding {
        Finding::Undecided { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// The cheater's receipt and trace against the honest ones.
fn against_honest(court: &mut Court, block: &str, cheater: (&SignedReceipt, Option<&[u8]>)) -> Decision {
    let (honest, trace) = (court.honest.clone(), court.honest_trace(block));
    court.decide((&honest, Some(&trace)), cheater)
}

#[test]
fn honest_nodes_agree() {
    let mut court = court();
    let (_, other) = court.model.run_with_receipt(&texts(), Some(2), &|_| {}, &key(OTHER)).unwrap();
    let honest = court.honest.clone();
    let decision = court.decide((&honest, None), (&other, None));
    assert_eq!(decision.dispute.finding, Finding::NoDifference);
    assert!(decision.wrong.is_empty());
    // Other fuel is noted: whether it is wrong, an audit finds out.
    let cheap = court.receipt_with(OTHER, "blocks.4", |step| step.fuel -= 1);
    let decision = court.decide((&honest, None), (&cheap, None));
    assert_eq!(decision.dispute.finding, Finding::NoDifference);
    assert!(decision.notes[0].contains("fuel"), "{:?}", decision.notes);
}

#[test]
fn receipts_that_do_not_belong_together_are_told_apart() {
    let mut court = court();
    let honest = court.honest.clone();
    let (_, split) = court.model.run_with_receipt(&texts(), Some(1), &|_| {}, &key(OTHER)).unwrap();
    let (_, others) = court.model.run_with_receipt(&["something else".to_owned()], None, &|_| {}, &key(OTHER)).unwrap();
    for (other, why) in [(&split, Incomparable::Split), (&others, Incomparable::Request)] {
        let error = decide(&mut court.model, [&honest, other], [None, None], &|_| {}).unwrap_err();
        assert!(matches!(&error, NodeError::Incomparable(found) if *found == why), "{error}");
    }
    // The same batches with other lengths: one of the two was told something else than the request.
    let mut receipt = honest.receipt.clone();
    receipt.batches[BATCH as usize].lengths = Digest::of_content(b"x");
    let error = decide(&mut court.model, [&honest, &sign(OTHER, receipt, None)], [None, None], &|_| {}).unwrap_err();
    assert!(matches!(error, NodeError::Incomparable(Incomparable::Input { batch: BATCH })), "{error}");
}

#[test]
fn a_cheater_is_found_at_the_operation_where_it_cheated() {
    let mut court = court();
    for (block, kinds) in [
        ("embeddings", vec!["layer embeddings.words", "layer embeddings.positions", "layer embeddings.norm"]),
        (
            "blocks.0",
            vec![
                "layer blocks.0.attention.qkv",
                "attention 12",
                "layer blocks.0.attention.output",
                "layer blocks.0.attention.norm",
                "layer blocks.0.feed-forward.up",
                "gelu",
                "layer blocks.0.feed-forward.down",
                "layer blocks.0.feed-forward.norm",
            ],
        ),
        ("pooling", vec!["mean-pool", "l2-normalise"]),
    ] {
        for (at, kind) in kinds.iter().enumerate() {
            let (receipt, trace) = court.cheat(CHEATER, block, at, Forge::Output(1.0));
            let decision = against_honest(&mut court, block, (&receipt, Some(&trace)));
            assert!(is_right(&decision, HONEST, CHEATER), "{kind}: {decision:#?}");
            let dispute = &decision.dispute;
            let operation = dispute.operation.as_ref().unwrap();
            assert_eq!((operation.at as usize, operation.name.as_str()), (at, *kind));
            assert_eq!((dispute.batch, dispute.block.as_deref()), (Some(BATCH), Some(block)));
            let [honest, forged] = dispute.claimed.unwrap();
            assert!(dispute.exact == Some(honest) && honest != forged);
            let most = (kinds.len() as f64).log2().ceil() as usize + 2;
            assert!(dispute.asked.len() <= most, "{kind}: {} questions", dispute.asked.len());
            assert!(decision.notes.is_empty(), "{:?}", decision.notes);
        }
    }
}

#[test]
fn one_bit_is_enough() {
    let mut court = court();
    let honest = court.honest.clone();
    let output = |signed: &SignedReceipt| signed.receipt.batches[BATCH as usize].legs[0].steps[6].output;
    for at in 0..8 {
        let (receipt, trace) = court.cheat(CHEATER, "blocks.5", at, Forge::LastBit);
        let decision = against_honest(&mut court, "blocks.5", (&receipt, Some(&trace)));
        if output(&receipt) == output(&honest) {
            // It was rounded away before the block's output, so the receipts agree; never in the last operation.
            assert!(at < 7 && decision.dispute.finding == Finding::NoDifference);
        } else {
            assert!(is_right(&decision, HONEST, CHEATER), "{decision:#?}");
            assert_eq!(decision.dispute.operation.unwrap().at, at as u32);
        }
    }
}

#[test]
fn two_cheaters_are_both_found() {
    let mut court = court();
    let (a, trace_a) = court.cheat(CHEATER, "blocks.1", 4, Forge::Output(1.0));
    let (b, trace_b) = court.cheat(OTHER, "blocks.1", 4, Forge::Output(2.0));
    let both = court.decide((&a, Some(&trace_a)), (&b, Some(&trace_b)));
    assert!(matches!(both.dispute.finding, Finding::BothWrong { .. }), "{both:#?}");
    assert_eq!(both.wrong.len(), 2);
    assert_eq!(both.dispute.operation.unwrap().at, 4);
    // Without traces the block as a whole says the same.
    let both = court.decide((&a, None), (&b, None));
    assert!(matches!(both.dispute.finding, Finding::BothWrong { .. }), "{both:#?}");
    // Where only one of them cheated so far, it is that one: the other was right about this operation.
    let (b, trace_b) = court.cheat(OTHER, "blocks.1", 6, Forge::Output(2.0));
    let first = court.decide((&a, Some(&trace_a)), (&b, Some(&trace_b)));
    assert!(is_right(&first, OTHER, CHEATER), "{first:#?}");
}

#[test]
fn without_a_trace_the_block_is_run() {
    let mut court = court();
    let (receipt, trace) = court.cheat(CHEATER, "blocks.2", 3, Forge::Output(1.0));
    let decision = against_honest(&mut court, "blocks.2", (&receipt, None));
    assert!(is_right(&decision, HONEST, CHEATER), "{decision:#?}");
    assert!(decision.dispute.operation.is_none() && decision.dispute.asked.is_empty());

    // Without the request, the input in one trace is enough. It may be the cheater's: its digest decides.
    let bare = |signed: &SignedReceipt| SignedReceipt { request: None, ..signed.clone() };
    let (honest, cheater) = (bare(&court.honest), bare(&receipt));
    let decision = court.decide((&honest, None), (&cheater, Some(&trace)));
    assert!(is_right(&decision, HONEST, CHEATER), "{decision:#?}");
    // With nothing, nobody is accused.
    let decision = court.decide((&honest, None), (&cheater, None));
    assert!(undecided(&decision).contains("neither receipt has the request"));
}

#[test]
fn traces_that_do_not_help_are_said_to() {
    let mut court = court();
    let block = "blocks.3";
    let honest = court.honest_trace(block);
    let (receipt, trace) = court.cheat(CHEATER, block, 1, Forge::Output(1.0));
    let (operations, tensors) = parts(&trace);
    let mut wrong_end = operations.clone();
    wrong_end.last_mut().unwrap().output = Digest::of_content(b"x");
    let longer = [operations.as_slice(), &operations].concat();
    let mut torn = trace.clone();
    // In the document's signature or operations.
    torn[200] ^= 1;
    let signed_by =
        |seed, of: &SignedReceipt, block: &str| trace_file(&key(seed), of, block, operations.clone(), &tensors);
    let mut unsigned = TraceFile::read(&trace).unwrap().0;
    let document = unsigned.head().len();
    unsigned.signed.signature = TraceFile::read(&honest).unwrap().0.signed.signature;
    let unsigned = [unsigned.head(), trace[document..].to_vec()].concat();
    let cases = [
        (unsigned, "did not sign it"),
        (honest.clone(), "it is for the receipt"),
        (signed_by(CHEATER, &court.honest.clone(), block), "it is for the receipt"),
        (signed_by(OTHER, &receipt, block), "ran the block"),
        (signed_by(CHEATER, &receipt, "blocks.4"), "make one of `blocks.3`"),
        (trace_file(&key(CHEATER), &receipt, block, wrong_end, &tensors), "the receipt says"),
        (trace_file(&key(CHEATER), &receipt, block, vec![], &tensors), "no operations"),
        (torn, "trace does not help"),
        (trace[..trace.len() / 2].to_vec(), "cut off"),
        (trace[..7].to_vec(), "cut off"),
        (vec![], "trace does not help"),
        ([trace.as_slice(), &[0]].concat(), "too many"),
        (b"not a trace at all, but long enough".to_vec(), "trace does not help"),
    ];
    for (trace, why) in cases {
        let decision = against_honest(&mut court, block, (&receipt, Some(&trace)));
        assert!(is_right(&decision, HONEST, CHEATER), "{why}: {decision:#?}");
        assert!(decision.dispute.operation.is_none(), "{why}");
        assert!(decision.notes.iter().any(|note| note.contains(why)), "{why}: {:?}", decision.notes);
    }
    // More operations than the block has: the first that differs settles it all the same.
    let trace = trace_file(&key(CHEATER), &receipt, block, longer, &tensors);
    let decision = against_honest(&mut court, block, (&receipt, Some(&trace)));
    assert!(is_right(&decision, HONEST, CHEATER) && decision.dispute.operation.unwrap().at == 1);
    // A trace without tensors: the honest one has them.
    let trace = trace_file(&key(CHEATER), &receipt, block, operations.clone(), &Default::default());
    let decision = against_honest(&mut court, block, (&receipt, Some(&trace)));
    assert!(is_right(&decision, HONEST, CHEATER) && decision.dispute.operation.unwrap().at == 1);
    // A trace that is not there.
    let missing = court.files.path().join("missing");
    let honest = court.honest.clone();
    let decision = decide(&mut court.model, [&honest, &receipt], [None, Some(&missing)], &|_| {}).unwrap();
    assert!(is_right(&decision, HONEST, CHEATER) && decision.notes[0].contains("missing"), "{decision:#?}");
}

#[test]
fn what_a_component_did_itself_is_settled_by_the_block() {
    let mut court = court();
    for (block, at) in [("embeddings", 1), ("blocks.0", 7)] {
        let (receipt, trace) = court.cheat(CHEATER, block, at, Forge::Input);
        let decision = against_honest(&mut court, block, (&receipt, Some(&trace)));
        assert!(is_right(&decision, HONEST, CHEATER), "{decision:#?}");
        assert!(decision.dispute.operation.is_none() && !decision.dispute.asked.is_empty());
        assert!(decision.notes[0].contains("what the component did itself"), "{:?}", decision.notes);
    }
}

/// A side that answers over a wire, and may lie.
struct Remote {
    trace: Trace,
    /// Instead of the right answer.
    prefix: fn(&Trace, u32) -> Result<Digest, String>,
    operation: fn(&Trace, u32) -> Result<Operation, String>,
}

impl Remote {
    fn honest(trace: &Trace) -> Self {
        Self {
            trace: trace.clone(),
            prefix: |trace, count| Ok(trace.prefix(count as usize)),
            operation: |trace, at| trace.operations.get(at as usize).cloned().ok_or_else(|| "no such".to_owned()),
        }
    }
}

impl Side for Remote {
    fn count(&self) -> u32 {
        self.trace.operations.len() as u32
    }

    fn prefix(&self, count: u32) -> Result<Digest, String> {
        (self.prefix)(&self.trace, count)
    }

    fn operation(&self, at: u32) -> Result<Operation, String> {
        (self.operation)(&self.trace, at)
    }
}

#[test]
fn a_side_that_lies_while_it_is_asked_gains_nothing() {
    let mut court = court();
    let block = "blocks.1";
    let honest = court.honest.clone();
    let (operations, tensors) = parts(&court.honest_trace(block));
    let (receipt, forged) = court.cheat(CHEATER, block, 3, Forge::Output(1.0));
    let (wrong_operations, more) = parts(&forged);
    let trace = |operations: &[Operation]| Trace {
        receipt: Digest::of_content(b""),
        batch: BATCH,
        block: block.to_owned(),
        operations: operations.to_vec(),
    };
    let good = Remote::honest(&trace(&operations));
    let told = trace(&wrong_operations);
    let swapped = trace(&[operations.as_slice(), &operations[..1]].concat());
    let liars = [
        Remote::honest(&told),
        Remote { prefix: |_, count| Ok(Digest::of_content(&count.to_le_bytes())), ..Remote::honest(&told) },
        Remote { prefix: |_, _| Err("no answer".to_owned()), ..Remote::honest(&told) },
        Remote { operation: |_, _| Err("no answer".to_owned()), ..Remote::honest(&told) },
        Remote { operation: |trace, _| Ok(trace.operations[0].clone()), ..Remote::honest(&told) },
        Remote::honest(&trace(&operations)),
        Remote::honest(&trace(&[])),
        Remote::honest(&swapped),
    ];
    for (at, liar) in liars.iter().enumerate() {
        // Tensors under the digest of others: they are not taken.
        for lying in [false, true] {
            let tensor = |digest: &Digest| {
                let of = if lying { operations.first().map(|operation| operation.output)? } else { *digest };
                tensors.get(&of).or_else(|| more.get(&of)).cloned()
            };
            let [one, other]: [&dyn Side; 2] = [&good, liar];
            let decision = settle(&mut court.model, [&honest, &receipt], [Some(one), Some(other)], &tensor).unwrap();
            assert!(is_right(&decision, HONEST, CHEATER), "{at}: {decision:#?}");
            let decision = settle(&mut court.model, [&receipt, &honest], [Some(other), Some(one)], &tensor).unwrap();
            assert!(is_right(&decision, HONEST, CHEATER), "{at}: {decision:#?}");
        }
    }
}

/// Two who agree on something that would cost the referee its memory: it is not computed.
#[test]
fn sequences_longer_than_any_run_are_not_computed() {
    let mut court = court();
    let block = "blocks.1";
    let long = court.model.manifest().max_tokens.unwrap() + 1;
    let zeros = |width: u32| Tensor::from_f32(vec![long, width], vec![0.0; (long * width) as usize]).unwrap();
    let lengths = Tensor::from_i32(vec![1], vec![long as i32]).unwrap();
    let (qkv, hidden) = (zeros(3), zeros(384));
    let tensors = [&lengths, &qkv, &hidden].map(|tensor| (digest(tensor), tensor.clone()));
    let tensor = |of: &Digest| tensors.iter().find(|(known, _)| known == of).map(|(_, tensor)| tensor.clone());

    // As the input of an operation.
    let output = |seed: u8| Digest::of_content(&[seed]);
    let side = |seed: u8| {
        let inputs = vec![("qkv".to_owned(), digest(&qkv)), ("lengths".to_owned(), digest(&lengths))];
        let operations = vec![Operation { name: "attention 1".to_owned(), inputs, output: output(seed) }];
        Remote::honest(&Trace { receipt: output(0), batch: BATCH, block: block.to_owned(), operations })
    };
    let receipt = |court: &Court, seed: u8| court.receipt_with(seed, block, |step| step.output = output(seed));
    let (a, b) = (receipt(&court, CHEATER), receipt(&court, OTHER));
    let (side_a, side_b) = (side(CHEATER), side(OTHER));
    let sides: [Option<&dyn Side>; 2] = [Some(&side_a), Some(&side_b)];
    let decision = settle(&mut court.model, [&a, &b], sides, &tensor).unwrap();
    assert!(decision.dispute.operation.is_none(), "{decision:#?}");
    assert!(decision.notes[0].contains(&format!("not 1 to {} tokens", long - 1)), "{:?}", decision.notes);

    // As the lengths of the batch.
    let forge = |seed: u8| {
        let mut receipt = receipt(&court, seed).receipt;
        let batch = &mut receipt.batches[BATCH as usize];
        batch.lengths = digest(&lengths);
        let steps = &mut batch.legs[0].steps;
        (steps[1].output, steps[2].input) = (digest(&hidden), digest(&hidden));
        sign(seed, receipt, None)
    };
    let (a, b) = (forge(CHEATER), forge(OTHER));
    let decision = settle(&mut court.model, [&a, &b], [None, None], &tensor).unwrap();
    assert!(undecided(&decision).contains(&format!("not 1 to {} tokens", long - 1)), "{decision:#?}");
}

#[test]
fn texts_longer_than_any_run_are_not_tokenised() {
    let mut court = court();
    let text = "a ".repeat(1 << 19) + "b";
    let (_, long) = court.model.run_with_receipt(&[text], None, &|_| {}, &key(HONEST)).unwrap();
    let out = court.files.path().join("of-a-long-text");
    for error in [court.trace(&long, 0, "blocks.0", &out).err(), court.transcript(&long, &out).err()] {
        let error = error.unwrap().to_string();
        assert!(error.contains("text 1 of the request is longer than"), "{error}");
    }
    let mut other = long.receipt.clone();
    other.batches[0].legs[0].steps[3].output = Digest::of_content(b"x");
    other.batches[0].legs[0].steps[4].input = Digest::of_content(b"x");
    let other = sign(CHEATER, other, long.request.clone());
    let decision = court.decide((&long, None), (&other, None));
    assert!(undecided(&decision).contains("text 1 of the request is longer than"), "{decision:#?}");
}

#[test]
fn damaged_bytes_accuse_nobody_who_was_right() {
    let mut court = court();
    let block = "pooling";
    let honest = court.honest.clone();
    let good = court.honest_trace(block);
    let (receipt, trace) = court.cheat(CHEATER, block, 0, Forge::Output(1.0));
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut damaged = good.clone();
        damaged[at] ^= 1 << (at % 8);
        let decision = court.decide((&honest, Some(&damaged)), (&receipt, Some(&trace)));
        assert!(is_right(&decision, HONEST, CHEATER), "byte {at}: {decision:#?}");
    }
    for at in (0..trace.len()).step_by(trace.len() / 20) {
        let mut damaged = trace.clone();
        damaged[at] ^= 1 << (at % 8);
        let decision = court.decide((&honest, Some(&good)), (&receipt, Some(&damaged)));
        assert!(is_right(&decision, HONEST, CHEATER), "byte {at}: {decision:#?}");
    }
}

#[test]
fn components_and_outputs_are_settled_too() {
    let mut court = court();
    let honest = court.honest.clone();
    let another = court.receipt_with(CHEATER, "blocks.4", |step| step.component = Digest::of_content(b"old version"));
    let decision = court.decide((&honest, None), (&another, None));
    assert!(is_right(&decision, HONEST, CHEATER), "{decision:#?}");
    assert!(decision.dispute.exact.is_none());

    let mut receipt = honest.receipt.clone();
    receipt.outputs[0] = Digest::of_content(b"another answer");
    let unsound = sign(CHEATER, receipt.clone(), honest.request.clone());
    let decision = court.decide((&honest, None), (&unsound, None));
    assert!(is_right(&decision, HONEST, CHEATER), "{decision:#?}");
    receipt.answer = Digest::of_outputs(&receipt.outputs);
    let sound = sign(CHEATER, receipt, honest.request.clone());
    let decision = court.decide((&honest, None), (&sound, None));
    assert!(is_right(&decision, HONEST, CHEATER), "{decision:#?}");
    assert_eq!(decision.dispute.exact, Some(honest.receipt.answer));
}

#[test]
fn cheaters_who_agree_before_they_part_are_found_too() {
    let mut court = court();
    let same = Digest::of_content(b"agreed");
    let forge = |seed: u8| {
        let mut signed = court.receipt_with(seed, "blocks.0", |step| step.output = same);
        let steps = &mut signed.receipt.batches[BATCH as usize].legs[0].steps;
        let last = Digest::of_content(&[seed]);
        steps[2].input = same;
        steps[2].output = last;
        steps[3].input = last;
        sign(seed, signed.receipt, signed.request)
    };
    let (a, b) = (forge(CHEATER), forge(OTHER));
    let decision = court.decide((&a, None), (&b, None));
    assert!(matches!(&decision.dispute.finding, Finding::BothWrong { reason } if reason.contains("blocks.0")));
    assert_eq!(decision.wrong.len(), 2);
}

#[test]
fn nobody_answers_for_what_is_not_signed() {
    let mut court = court();
    let honest = court.honest.clone();
    let (receipt, trace) = court.cheat(CHEATER, "blocks.0", 0, Forge::Output(1.0));
    let mut unsigned = receipt.clone();
    unsigned.receipt.batches[BATCH as usize].legs[0].steps[1].fuel += 1;
    let decision = court.decide((&honest, None), (&unsigned, Some(&trace)));
    assert!(undecided(&decision).contains("did not sign the whole"));
    let resigned = SignedReceipt::sign(&key(CHEATER), unsigned.receipt, unsigned.request);
    let decision = court.decide((&honest, None), (&resigned, Some(&trace)));
    assert!(undecided(&decision).contains("did not sign what it ran from `embeddings` on in batch 1"));
}

#[test]
fn the_record_is_a_signed_document() {
    let mut court = court();
    let (receipt, trace) = court.cheat(CHEATER, "blocks.0", 5, Forge::Output(1.0));
    let decision = against_honest(&mut court, "blocks.0", (&receipt, Some(&trace)));
    let signed = SignedDispute::sign(&key(9), decision.dispute);
    let bytes = ostrakon_protocol::encode(&signed);
    let read: SignedDispute = ostrakon_protocol::decode(&bytes).unwrap();
    assert!(read.is_signed() && read == signed && read.referee == key(9).public());
    let mut other = read;
    other.dispute.operation = None;
    assert!(!other.is_signed());
}
