//! The verifier: every rule of `ostrakon:plugin/verification` on the official component, and the
//! component against hostile claims. Each verdict is asked for under both compilers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic, its helpers too")]

mod support;

use ostrakon_engine::verification::{
    Accepted, Accusation, Block, Checked, Claim, Computed, Digest, Element, Evidence, Input, Judged, Observation,
    Product, Seal, Step, Verdict,
};
use ostrakon_engine::{AdmissionError, CallError, Compiler, HostFault, Limits, Plugin, Survey, Trap, Verifier, World};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use support::{host, identity, limits, runtime, shared_runtime};

const BLOCKS: [&str; 3] = ["blocks.0", "blocks.1", "blocks.2"];

/// A built component, from the directory in `OSTRAKON_PLUGINS` or from where `make plugins` leaves it.
fn built(name: &str) -> Vec<u8> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/plugins");
    let path = std::env::var_os("OSTRAKON_PLUGINS").map_or(default, PathBuf::from).join(name);
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}. Run `make plugins`, or name the directory in OSTRAKON_PLUGINS", path.display())
    })
}

/// The official component, under each compiler.
fn plugins() -> &'static [Plugin; 2] {
    static PLUGINS: OnceLock<[Plugin; 2]> = OnceLock::new();
    PLUGINS.get_or_init(|| {
        let component = built("verifier.wasm");
        [Compiler::Cranelift, Compiler::Pulley]
            .map(|compiler| runtime(compiler).admit(&component, World::Verifier).unwrap())
    })
}

/// Enough for any claim here.
fn ample() -> Limits {
    Limits { fuel: 1 << 40, memory_bytes: 1 << 30, ..limits() }
}

fn verifier(limits: Limits) -> Verifier {
    plugins()[0].verifier(limits).unwrap()
}

/// The verdict of both compilers, at the same fuel.
fn verify((claim, evidence): &(Claim, Evidence)) -> Verdict {
    let [cranelift, pulley] =
        plugins().each_ref().map(|plugin| plugin.verifier(ample()).unwrap().verify(claim, evidence).unwrap());
    assert_eq!(cranelift, pulley);
    assert!(cranelift.fuel > 0);
    cranelift.verdict
}

fn digest(text: &str) -> Digest {
    blake3::hash(text.as_bytes()).into()
}

fn hex(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Two batches through three blocks, each block run by a node of its own, and an auditor who ran it all
/// again and found the same.
fn honest() -> (Claim, Evidence) {
    let mut steps = Vec::new();
    for batch in 0..2 {
        for (at, block) in BLOCKS.into_iter().enumerate() {
            steps.push(Step {
                batch,
                block: block.to_owned(),
                component: digest("component"),
                node: format!("node {at}"),
                input: digest(&format!("{batch} before {at}")),
                output: digest(&format!("{batch} before {}", at + 1)),
                fuel: 1000 + at as u64,
            });
        }
    }
    let outputs = vec![digest("text 0"), digest("text 1"), digest("text 2")];
    let lengths = |batch: u32| digest(&format!("lengths {batch}"));
    let seal = |subject: &str, signer: &str, batch, block: Option<&str>| Seal {
        subject: subject.to_owned(),
        signer: signer.to_owned(),
        valid: true,
        batch,
        block: block.map(str::to_owned),
    };
    let evidence = Evidence {
        missing: Vec::new(),
        seals: vec![
            seal("the receipt", "issuer", None, None),
            seal("all legs of node 0", "node 0", None, None),
            seal("the leg of node 1 on batch 0", "node 1", Some(0), None),
            seal("the leg of node 1 on batch 1", "node 1", Some(1), Some("blocks.1")),
            seal("the block of node 2", "node 2", None, Some("blocks.2")),
        ],
        blocks: BLOCKS.map(|name| Block { name: name.to_owned(), component: digest("component") }).into(),
        texts: Some(3),
        inputs: (0..2).map(|b| Some(Input { rows: digest(&format!("{b} before 0")), lengths: lengths(b) })).collect(),
        steps: steps
            .iter()
            .map(|step| Observation::Computed(Computed { output: step.output, fuel: Some(step.fuel) }))
            .collect(),
        outputs: outputs.iter().copied().map(Some).collect(),
        answer: digest("answer"),
    };
    let lengths = (0..2).map(lengths).collect();
    (
        Claim { issuer: "issuer".to_owned(), steps, texts: vec![2, 1], lengths, outputs, answer: digest("answer") },
        evidence,
    )
}

/// Honest, but for what `change` does to it.
fn but(change: impl FnOnce(&mut Claim, &mut Evidence)) -> Verdict {
    let mut case = honest();
    change(&mut case.0, &mut case.1);
    verify(&case)
}

/// As it is if the auditor checked step 1 by a transcript.
fn checked(change: impl FnOnce(&mut Claim, &mut Checked)) -> Verdict {
    but(|claim, evidence| {
        let product = |operation: &str| Product {
            operation: operation.to_owned(),
            left: vec![1, 2, 3, 4],
            right: vec![1, 2, 3, 4],
            wrong: None,
        };
        let mut checked = Checked {
            products: vec![product("qkv"), product("scores"), product("up")],
            output: Some(claim.steps[1].output),
            fuel: Some(claim.steps[1].fuel),
        };
        change(claim, &mut checked);
        evidence.steps[1] = Observation::Checked(checked);
    })
}

fn assert_accepted(verdict: &Verdict, looked_at: u32) {
    assert_eq!(*verdict, Verdict::Accept(Accepted { looked_at, steps: 6 }));
}

/// Rejected, with this accusation, for a reason that has these words in it.
fn assert_rejected(verdict: &Verdict, who: &str, place: Option<(u32, &str)>, operation: Option<&str>, words: &[&str]) {
    let Verdict::Reject(Accusation { node, batch, block, operation: found, reason }) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(node, who, "{verdict:?}");
    assert_eq!((*batch, block.as_deref()), (place.map(|p| p.0), place.map(|p| p.1)), "{verdict:?}");
    assert_eq!(found.as_deref(), operation, "{verdict:?}");
    for words in words {
        assert!(reason.contains(words), "`{words}` is not in: {reason}");
    }
}

/// Indeterminate, with one reason for each of these, in order, that has it in it.
fn assert_indeterminate(verdict: &Verdict, words: &[&str]) {
    let Verdict::Indeterminate(reasons) = verdict else { panic!("{verdict:?}") };
    assert_eq!(reasons.len(), words.len(), "{reasons:?}");
    for (reason, words) in reasons.iter().zip(words) {
        assert!(reason.contains(words), "`{words}` is not in: {reason}");
    }
}

#[test]
fn an_honest_receipt_is_accepted() {
    assert_accepted(&verify(&honest()), 6);
    assert_accepted(&checked(|_, _| ()), 6);
    assert_accepted(&checked(|_, checked| checked.products.clear()), 6);
}

#[test]
fn steps_outside_of_the_choice_are_counted_and_do_not_prevent_acceptance() {
    let verdict = but(|_, evidence| {
        for at in [0, 1, 3, 5] {
            evidence.steps[at] = Observation::NotLookedAt;
        }
        evidence.outputs.fill(None);
    });
    assert_accepted(&verdict, 2);
}

#[test]
fn fuel_that_cannot_be_compared_is_not() {
    let verdict = but(|claim, evidence| {
        evidence.steps[2] = Observation::Computed(Computed { output: claim.steps[2].output, fuel: None });
    });
    assert_accepted(&verdict, 6);
    assert_accepted(&checked(|_, checked| checked.fuel = None), 6);
}

#[test]
fn evidence_of_another_shape_is_the_host_s_mistake() {
    // Even where the claim is wrong in itself.
    for (change, words) in [
        (&(|e: &mut Evidence| e.steps.truncate(5)) as &dyn Fn(&mut Evidence), "about 5 steps, the claim has 6"),
        (&|e| e.steps.push(Observation::NotLookedAt), "about 7 steps"),
        (&|e| e.steps.clear(), "about 0 steps"),
        (&|e| e.inputs.push(None), "about 3 inputs of batches, the claim has 2"),
        (&|e| e.inputs.clear(), "about 0 inputs"),
        (&|e| e.blocks.clear(), "which blocks the package has"),
    ] {
        let verdict = but(|claim, evidence| {
            claim.answer = digest("another");
            evidence.seals.clear();
            change(evidence);
        });
        assert_indeterminate(&verdict, &[words]);
    }
}

#[test]
fn nobody_is_accused_of_what_he_did_not_sign() {
    let wrong = |claim: &mut Claim| {
        claim.steps[4].output = digest("wrong");
        claim.answer = digest("wrong");
    };
    for at in 0..5 {
        let verdict = but(|claim, evidence| {
            wrong(claim);
            evidence.seals[at].valid = false;
        });
        let (_, evidence) = honest();
        let Seal { subject, signer, .. } = &evidence.seals[at];
        assert_indeterminate(&verdict, &[&format!("{subject} is not signed by `{signer}`")]);
    }
    // A signature that is not there, or that covers something else, is no better.
    assert_indeterminate(
        &but(|claim, evidence| {
            wrong(claim);
            evidence.seals.remove(0);
        }),
        &["whole receipt by its issuer `issuer`"],
    );
    assert_indeterminate(
        &but(|_, evidence| evidence.seals[0].batch = Some(0)),
        &["whole receipt by its issuer `issuer`"],
    );
    assert_indeterminate(
        &but(|_, evidence| evidence.seals[3].block = Some("blocks.2".to_owned())),
        &["block `blocks.1` on batch 1 is not signed by its node `node 1`"],
    );
    assert_indeterminate(
        &but(|_, evidence| evidence.seals[1].signer = "issuer".to_owned()),
        &["block `blocks.0` on batch 0 is not", "block `blocks.0` on batch 1 is not"],
    );
    assert_indeterminate(
        &but(|claim, _| claim.steps[3].node = "victim".to_owned()),
        &["block `blocks.0` on batch 1 is not signed by its node `victim`"],
    );
}

#[test]
fn an_issuer_may_be_the_only_node() {
    let verdict = but(|claim, evidence| {
        claim.steps.iter_mut().for_each(|step| step.node = "issuer".to_owned());
        evidence.seals.truncate(1);
    });
    assert_accepted(&verdict, 6);
}

#[test]
fn broken_order_is_the_issuer_s() {
    type Change = fn(&mut Claim);
    let cases: [(Change, u32, &str, &str); 11] = [
        (|c| c.steps[1].input = digest("x"), 0, BLOCKS[1], "but block `blocks.0` before it gave"),
        (|c| c.steps[5].input = digest("x"), 1, BLOCKS[2], "but block `blocks.1` before it gave"),
        // A block left out, though the rest fits together.
        (
            |c| {
                c.steps[2].input = c.steps[1].input;
                c.steps[1] = c.steps[2].clone();
                c.steps[2] = c.steps[3].clone();
            },
            0,
            BLOCKS[2],
            "block `blocks.2` on batch 0 is where block `blocks.1` on batch 0 should be",
        ),
        (|c| c.steps.swap(0, 1), 0, BLOCKS[1], "is where"),
        (|c| c.steps.swap(2, 3), 1, BLOCKS[0], "is where"),
        (|c| c.steps.rotate_left(3), 1, BLOCKS[0], "is where"),
        (|c| c.steps[0].batch = 1, 1, BLOCKS[0], "is where"),
        (|c| c.steps[3..].iter_mut().for_each(|s| s.batch = 2), 2, BLOCKS[0], "is where"),
        (|c| c.steps[3..].iter_mut().for_each(|s| s.batch = 0), 0, BLOCKS[0], "is where"),
        (|c| c.lengths.truncate(1), 1, BLOCKS[0], "comes after the last batch"),
        (|c| c.lengths.push(digest("x")), 2, BLOCKS[0], "the receipt ends before block `blocks.0` on batch 2"),
    ];
    for (change, batch, block, words) in cases {
        let verdict = but(|claim, evidence| {
            change(claim);
            // Whoever they are that ran it, they signed.
            evidence.seals.extend(["node 0", "node 1", "node 2"].map(|node| Seal {
                subject: "all".to_owned(),
                signer: node.to_owned(),
                valid: true,
                batch: None,
                block: None,
            }));
            evidence.inputs.resize(claim.lengths.len(), None);
            claim.texts.resize(claim.lengths.len(), 0);
        });
        assert_rejected(&verdict, "issuer", Some((batch, block)), None, &[words]);
    }
}

#[test]
fn an_answer_that_is_not_of_its_outputs_is_the_issuer_s() {
    let verdict = but(|claim, _| claim.answer = digest("another"));
    assert_rejected(&verdict, "issuer", None, None, &[&hex("another"), &hex("answer")]);
}

#[test]
fn an_answer_to_a_part_of_the_request_is_the_issuer_s() {
    let verdict = but(|_, evidence| {
        evidence.texts = Some(4);
        evidence.outputs.fill(None);
    });
    assert_rejected(&verdict, "issuer", None, None, &["4 texts", "outputs for 3"]);
}

#[test]
fn an_answer_for_another_input_is_the_issuer_s() {
    let verdict = but(|_, evidence| evidence.inputs[1].as_mut().unwrap().rows = digest("asked"));
    let words = ["another input", &hex("asked"), &hex("1 before 0"), "rows"];
    assert_rejected(&verdict, "issuer", Some((1, BLOCKS[0])), None, &words);
    // The rows alone do not make an input: which of them belong together counts too.
    let verdict = but(|claim, _| claim.lengths[0] = digest("otherwise"));
    let words = ["another input", &hex("otherwise"), "lengths"];
    assert_rejected(&verdict, "issuer", Some((0, BLOCKS[0])), None, &words);
}

#[test]
fn another_component_is_the_node_s() {
    let verdict = but(|claim, evidence| {
        claim.steps[4].component = digest("older");
        evidence.steps[4] = Observation::NotLookedAt;
    });
    assert_rejected(&verdict, "node 1", Some((1, BLOCKS[1])), None, &[&hex("older"), &hex("component")]);
}

#[test]
fn a_wrong_output_is_the_node_s_and_the_first_one_decides() {
    let output = |evidence: &mut Evidence, at: usize| {
        let Observation::Computed(computed) = &mut evidence.steps[at] else { panic!() };
        computed.output = digest("exact");
    };
    for (at, node, batch) in [(0, "node 0", 0), (2, "node 2", 0), (4, "node 1", 1), (5, "node 2", 1)] {
        let verdict = but(|_, evidence| (at..6).for_each(|at| output(evidence, at)));
        let words = ["its output is", &hex("exact"), "the receipt says"];
        assert_rejected(&verdict, node, Some((batch, BLOCKS[at % 3])), None, &words);
    }
    // An output outranks fuel of the same step, and what is wrong outranks what is missing.
    let verdict = but(|_, evidence| {
        evidence.missing.push("the internet".to_owned());
        evidence.inputs[0] = None;
        evidence.steps[0] = Observation::Unavailable("gone".to_owned());
        evidence.steps[3] = Observation::Computed(Computed { output: digest("exact"), fuel: Some(1) });
        evidence.outputs.fill(None);
    });
    assert_rejected(&verdict, "node 0", Some((1, BLOCKS[0])), None, &["its output is"]);
}

#[test]
fn wrong_fuel_is_the_node_s() {
    let verdict = but(|claim, _| claim.steps[2].fuel = 7);
    assert_rejected(&verdict, "node 2", Some((0, BLOCKS[2])), None, &["1002 of fuel", "says 7"]);
    let verdict = checked(|_, checked| checked.fuel = Some(u64::MAX));
    assert_rejected(&verdict, "node 1", Some((0, BLOCKS[1])), None, &["18446744073709551615 of fuel", "says 1001"]);
}

#[test]
fn a_wrong_product_is_the_node_s_and_the_first_one_decides() {
    let verdict = checked(|_, checked| {
        for product in &mut checked.products[1..] {
            product.left[3] = 5;
            product.wrong = Some(Element { row: 1, column: 9, claimed: -7, exact: i64::MIN });
        }
        checked.output = None;
    });
    let words = ["row 1, column 9", "-9223372036854775808", "-7"];
    assert_rejected(&verdict, "node 1", Some((0, BLOCKS[1])), Some("scores"), &words);
}

#[test]
fn right_products_with_a_wrong_output_are_the_node_s() {
    let verdict = checked(|_, checked| checked.output = Some(digest("exact")));
    let words = ["every integer product is right", &hex("exact")];
    assert_rejected(&verdict, "node 1", Some((0, BLOCKS[1])), None, &words);
}

#[test]
fn a_check_that_proves_nothing_accuses_nobody() {
    type Change = fn(&mut Product);
    let element = |row, claimed, exact| Some(Element { row, column: 0, claimed, exact });
    let cases: [(Change, Option<Element>, &str); 10] = [
        (|p| p.left[0] = 9, None, "the auditor's own vectors do not fit its weights"),
        (|p| p.left[0] = 9, element(0, 3, 3), "does not explain"),
        (|p| p.left[0] = 9, element(1, 3, 4), "does not explain"),
        (|p| p.left[0] = 9, element(2, 3, 4), "does not explain"),
        (|p| p.left[0] = 9, element(u32::MAX, 3, 4), "does not explain"),
        (|_| (), element(0, 3, 4), "the check finds all right"),
        (|p| p.left.truncate(2), None, "two values for each of the same rows"),
        (|p| p.right.clear(), element(0, 3, 4), "two values for each of the same rows"),
        (
            |p| {
                p.left.pop();
                p.right.pop();
            },
            None,
            "two values for each of the same rows",
        ),
        (|p| (p.left, p.right) = (Vec::new(), Vec::new()), None, "no rows"),
    ];
    for (change, wrong, words) in cases {
        // Not even of the output: it may be wrong because of the same damage.
        let verdict = checked(|_, checked| {
            change(&mut checked.products[0]);
            checked.products[0].wrong = wrong;
            checked.output = Some(digest("another"));
        });
        assert_indeterminate(&verdict, &[words]);
        let Verdict::Indeterminate(reasons) = verdict else { unreachable!() };
        assert!(reasons[0].starts_with("block `blocks.1` on batch 0, operation `qkv`: "), "{reasons:?}");
    }
    // But a product after it can be wrong all the same.
    let verdict = checked(|_, checked| {
        checked.products[0].left[0] = 9;
        checked.products[2].right[2] = 9;
        checked.products[2].wrong = element(1, 3, 4);
    });
    assert_rejected(&verdict, "node 1", Some((0, BLOCKS[1])), Some("up"), &["row 1, column 0"]);
}

#[test]
fn wrong_outputs_of_texts_are_the_issuer_s() {
    let verdict = but(|_, evidence| evidence.outputs[2] = Some(digest("exact")));
    assert_rejected(&verdict, "issuer", None, None, &["text 2", &hex("exact"), &hex("text 2")]);
    // One that is known is enough.
    let verdict = but(|_, evidence| {
        evidence.outputs.fill(None);
        evidence.outputs[0] = Some(digest("exact"));
        evidence.steps[5] = Observation::NotLookedAt;
    });
    assert_rejected(&verdict, "issuer", None, None, &["text 0", &hex("exact")]);
    let verdict = but(|claim, evidence| {
        claim.texts[1] = 2;
        evidence.texts = None;
    });
    assert_rejected(&verdict, "issuer", None, None, &["batches have 4 texts", "outputs for 3"]);
    let verdict = but(|claim, evidence| {
        claim.outputs.truncate(2);
        evidence.outputs.truncate(2);
        evidence.texts = None;
    });
    assert_rejected(&verdict, "issuer", None, None, &["batches have 3 texts", "outputs for 2"]);
}

#[test]
fn what_is_missing_is_listed() {
    let verdict = but(|_, evidence| {
        evidence.missing = vec!["the package".to_owned(), "the profile".to_owned()];
        evidence.inputs[1] = None;
        evidence.steps[0] = Observation::Unavailable("the transcript is damaged".to_owned());
        evidence.outputs.fill(None);
    });
    assert_indeterminate(
        &verdict,
        &[
            "block `blocks.0` on batch 0: the transcript is damaged",
            "the package",
            "the profile",
            "the input of batch 1",
            "the outputs of the texts",
        ],
    );
    assert_indeterminate(&checked(|_, checked| checked.output = None), &["output is not known"]);
    assert_indeterminate(&but(|_, evidence| evidence.outputs.fill(None)), &["the outputs of the texts"]);
    let nothing = but(|_, evidence| {
        evidence.steps.fill(Observation::NotLookedAt);
        evidence.outputs.fill(None);
    });
    assert_indeterminate(&nothing, &["no step was looked at"]);
}

#[test]
fn no_flipped_bit_of_a_claim_is_accepted() {
    let flip = |digest: &mut Digest, bit: usize| {
        let mut bytes = <[u8; 32]>::from(*digest);
        bytes[bit / 8] ^= 1 << (bit % 8);
        *digest = bytes.into();
    };
    let mut verifier = verifier(limits());
    let (claim, evidence) = honest();
    let mut assert_rejected_for = |change: &dyn Fn(&mut Claim), node: &str| {
        let mut claim = claim.clone();
        change(&mut claim);
        let verdict = verifier.verify(&claim, &evidence).unwrap().verdict;
        assert!(matches!(&verdict, Verdict::Reject(accusation) if accusation.node == node), "{verdict:?}");
    };
    for bit in (0..256).step_by(17) {
        for (at, step) in claim.steps.iter().enumerate() {
            assert_rejected_for(&|claim| flip(&mut claim.steps[at].component, bit), &step.node);
            assert_rejected_for(&|claim| flip(&mut claim.steps[at].input, bit), "issuer");
            // Between two blocks it shows as a break of the chain before anything is computed.
            let whose = if at % 3 == 2 { &step.node } else { "issuer" };
            assert_rejected_for(&|claim| flip(&mut claim.steps[at].output, bit), whose);
            assert_rejected_for(&|claim| claim.steps[at].fuel ^= 1 << (bit % 64), &step.node);
        }
        for at in 0..2 {
            assert_rejected_for(&|claim| flip(&mut claim.lengths[at], bit), "issuer");
            assert_rejected_for(&|claim| flip(&mut claim.outputs[at], bit), "issuer");
        }
        assert_rejected_for(&|claim| flip(&mut claim.answer, bit), "issuer");
    }
}

#[test]
fn an_empty_claim_is_not_accepted() {
    let verdict = but(|claim, evidence| {
        claim.steps.clear();
        claim.texts.clear();
        claim.lengths.clear();
        claim.outputs.clear();
        evidence.steps.clear();
        evidence.inputs.clear();
        evidence.outputs.clear();
        evidence.texts = None;
    });
    assert_indeterminate(&verdict, &["no step was looked at"]);
}

#[test]
fn long_lists_and_long_texts_are_shown_in_part() {
    let long = "ä".repeat(1 << 20);
    let verdict = but(|_, evidence| evidence.missing = vec![long.clone(); 100]);
    let Verdict::Indeterminate(reasons) = verdict else { panic!("{verdict:?}") };
    assert_eq!(reasons.len(), 65);
    assert_eq!(reasons[64], "and 36 more");
    assert!(reasons.iter().all(|reason| reason.len() < 1024));

    let verdict = but(|claim, evidence| {
        claim.issuer = long.clone();
        evidence.seals[0].signer = long.clone();
        claim.answer = digest("another");
    });
    let Verdict::Reject(Accusation { node, .. }) = verdict else { panic!("{verdict:?}") };
    assert!(long.starts_with(node.trim_end_matches(" ...")) && node.len() > 4000, "{}", node.len());
}

/// Whatever the claim, there is a verdict or a typed error, and the next verifier works.
fn assert_survives(case: &(Claim, Evidence), limits: Limits) -> Result<Judged, CallError> {
    let mut verifier = verifier(limits);
    let result = verifier.verify(&case.0, &case.1);
    assert_eq!(verifier.is_spent(), result.is_err());
    if result.is_err() {
        let (claim, evidence) = honest();
        let again = verifier.verify(&claim, &evidence).unwrap_err();
        assert!(matches!(again, CallError::Host(HostFault::Spent(_))), "{again}");
    }
    assert_accepted(&verify(&honest()), 6);
    result
}

/// 200,000 of them.
fn many_steps() -> (Claim, Evidence) {
    let (mut claim, mut evidence) = honest();
    claim.steps = claim.steps.iter().cycle().take(200_000).cloned().collect();
    evidence.steps = evidence.steps.iter().cycle().take(200_000).cloned().collect();
    (claim, evidence)
}

#[test]
fn huge_claims_end_at_a_limit_or_in_a_verdict() {
    let many = many_steps();

    let memory = assert_survives(&many, Limits { fuel: 1 << 40, ..limits() });
    assert!(matches!(memory, Err(CallError::Host(HostFault::Memory { .. }))), "{memory:?}");
    let fuel = assert_survives(&many, Limits { fuel: 1_000_000, ..ample() });
    assert!(matches!(fuel, Err(CallError::Trap(Trap::OutOfFuel { budget: 1_000_000 }))), "{fuel:?}");
    let verdict = assert_survives(&many, ample()).unwrap().verdict;
    assert_rejected(&verdict, "issuer", Some((0, BLOCKS[0])), None, &["comes after the last batch"]);

    let mut texts = honest();
    texts.0.issuer = "x".repeat(64 << 20);
    texts.1.seals[0].subject = "\u{10ffff}".repeat(1 << 20);
    assert!(matches!(assert_survives(&texts, limits()), Err(CallError::Host(HostFault::Memory { .. }))));
    let verdict = assert_survives(&texts, ample()).unwrap().verdict;
    assert_indeterminate(&verdict, &["whole receipt by its issuer"]);
    texts.1.seals[0].signer = texts.0.issuer.clone();
    texts.0.answer = digest("another");
    let transfer = assert_survives(&texts, Limits { transfer_bytes: 1 << 20, ..ample() });
    assert_eq!(transfer, Err(HostFault::Transfer { limit: 1 << 20 }.into()));
    assert!(matches!(assert_survives(&texts, ample()).unwrap().verdict, Verdict::Reject(_)));

    let mut rows = honest();
    let sides = vec![u64::MAX; 1 << 20];
    let wrong = Some(Element { row: u32::MAX, column: u32::MAX, claimed: i64::MIN, exact: i64::MAX });
    let product = Product { operation: String::new(), left: sides.clone(), right: sides, wrong };
    rows.1.steps[0] = Observation::Checked(Checked { products: vec![product], output: None, fuel: None });
    assert_indeterminate(&assert_survives(&rows, ample()).unwrap().verdict, &["the check finds all right"]);

    let strange = ["", "\0", "`", "\u{202e}", "a\nb"];
    let mut names = honest();
    names.0.steps.iter_mut().zip(strange.into_iter().cycle()).for_each(|(step, name)| step.node = name.to_owned());
    assert!(matches!(assert_survives(&names, limits()).unwrap().verdict, Verdict::Indeterminate(_)));
}

#[test]
fn work_is_in_proportion_to_the_claim() {
    let fuel = |batches: u32| {
        let (mut claim, mut evidence) = honest();
        let (steps, observations) = (claim.steps[..3].to_vec(), evidence.steps[..3].to_vec());
        (claim.steps, evidence.steps) = (Vec::new(), Vec::new());
        for batch in 0..batches {
            claim.steps.extend(steps.iter().cloned().map(|step| Step { batch, ..step }));
            evidence.steps.extend(observations.iter().cloned());
        }
        claim.lengths = vec![claim.lengths[0]; batches as usize];
        claim.texts = vec![0; batches as usize];
        claim.texts[0] = 3;
        evidence.inputs = vec![evidence.inputs[0]; batches as usize];
        for seal in &mut evidence.seals {
            (seal.batch, seal.block) = (None, None);
        }
        let Judged { verdict, fuel } = verifier(ample()).verify(&claim, &evidence).unwrap();
        assert_eq!(verdict, Verdict::Accept(Accepted { looked_at: 3 * batches, steps: 3 * batches }));
        fuel
    };
    let (few, many) = (fuel(100), fuel(1000));
    assert!(many < few * 12, "{few} {many}");
}

#[test]
fn each_world_is_called_as_what_it_is() {
    let block = support::admit(shared_runtime(), &identity());
    let error = block.verifier(limits()).unwrap_err();
    assert_eq!(error, HostFault::WrongWorld { wanted: "a verifier", world: "model-block" }.into());
    assert_eq!(error.to_string(), "the component is of the world `model-block` and cannot be called as a verifier");
    let error = plugins()[0].instantiate(host(), limits()).unwrap_err();
    assert_eq!(error, HostFault::WrongWorld { wanted: "a block", world: "verifier" }.into());
}

#[test]
fn the_official_component_is_a_verifier_and_nothing_else() {
    let component = built("verifier.wasm");
    let survey = Survey::read(&component).unwrap();
    assert!(survey.imports.is_empty());
    assert_eq!(World::of(&survey), Some(World::Verifier));
    let name = "ostrakon:plugin/block@0.1.0";
    let error = shared_runtime().admit(&component, World::ModelBlock).unwrap_err();
    assert_eq!(error, AdmissionError::MissingExport { name, world: "model-block" });
    let block = wat::parse_str(identity()).unwrap();
    let error = shared_runtime().admit(&block, World::Verifier).unwrap_err();
    assert!(matches!(error, AdmissionError::Import { world: "verifier", .. }), "{error}");
    assert!(error.to_string().ends_with("it offers nothing"), "{error}");
}

/// A verifier by hand. `types` of `verify`, its core type, and its body.
fn by_hand(parameters: &str, result: &str, core: &str, body: &str) -> String {
    format!(
        r#"(component
  (core module $m (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "verify") {core} {body}))
  (core instance $i (instantiate $m))
  (func $verify {parameters} {result} (canon lift (core func $i "verify") (memory (core memory $i "memory"))
    (realloc (core func $i "realloc"))))
  (instance $verification (export "verify" (func $verify)))
  (export "ostrakon:plugin/verification@0.1.0" (instance $verification)))"#
    )
}

#[test]
fn a_verifier_of_the_wrong_type_is_refused_by_name() {
    let runtime = shared_runtime();
    let of = |types: &str, ty: &str| {
        let verify = by_hand(&format!("(param \"claim\" {ty})"), "", "(param i32 i32)", "");
        verify.replacen("(component", &format!("(component {types}"), 1)
    };
    // Exponential if all of it were read: each type is a tuple of sixteen of the one before.
    let mut exponential = "(type $t0 (tuple u64 u64))".to_owned();
    for at in 1..5 {
        write!(exponential, "(type $t{at} (tuple {}))", format!("$t{} ", at - 1).repeat(16)).unwrap();
    }
    let wide = format!("(type $t (tuple {}))", "string ".repeat(900));
    let mut deep = "(type $t0 (list string))".to_owned();
    for at in 1..60 {
        write!(deep, "(type $t{at} (list $t{}))", at - 1).unwrap();
    }
    let cases = [
        (by_hand("", "(result u32)", "(result i32)", "(i32.const 0)"), "as () -> (u32)"),
        (
            by_hand("(param \"claim\" string) (param \"evidence\" bool)", "", "(param i32 i32 i32)", ""),
            "as (string, bool) -> ()",
        ),
        (of(&exponential, "$t4").replace("(param i32 i32)", "(param i32)"), "..."),
        (of(&wide, "$t").replace("(param i32 i32)", "(param i32)"), "..."),
        (of(&deep, "$t59"), "list<list<..."),
    ];
    for (wat, words) in cases {
        let error = runtime.admit(&wat::parse_str(&wat).unwrap(), World::Verifier).unwrap_err();
        let AdmissionError::Types { world: "verifier", reason } = &error else { panic!("{error}") };
        assert!(reason.contains("verification@0.1.0` has `verify`") && reason.contains(words), "{reason}");
        assert!(reason.len() < 8192);
    }
    let other = by_hand("", "", "", "").replace("\"verify\" (func $verify)", "\"judge\" (func $verify)");
    let error = runtime.admit(&wat::parse_str(&other).unwrap(), World::Verifier).unwrap_err();
    assert!(
        matches!(&error, AdmissionError::Types { reason, .. } if reason.contains("no function `verify`")),
        "{error}"
    );
}

#[test]
fn an_impatient_host_is_a_host_fault() {
    let many = many_steps();
    let limits = Limits { wall_time: Duration::ZERO, ..ample() };
    let result = assert_survives(&many, limits);
    assert!(matches!(result, Ok(_) | Err(CallError::Host(HostFault::TimedOut { .. }))), "{result:?}");
}

#[test]
fn a_damaged_verifier_never_harms_the_host() {
    let component = built("verifier.wasm");
    let (claim, evidence) = honest();
    let mut ran = 0;
    for at in (8..component.len()).step_by(1777) {
        let mut bytes = component.clone();
        bytes[at] ^= 1 << (at % 8);
        // Whatever it says now: it is refused, or stopped, or gives a verdict.
        let Ok(plugin) = shared_runtime().admit(&bytes, World::Verifier) else { continue };
        let Ok(mut verifier) = plugin.verifier(limits()) else { continue };
        ran += 1;
        let result = verifier.verify(&claim, &evidence);
        assert_eq!(verifier.is_spent(), result.is_err());
    }
    assert!(ran > 0);
    assert_accepted(&verify(&honest()), 6);
}
