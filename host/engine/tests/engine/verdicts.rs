//! Every rule of `ostrakon:plugin/verification` on the official component. Each verdict is asked for under both
//! compilers.

use crate::support::claims::{
    BLOCKS, assert_accepted, assert_indeterminate, assert_rejected, but, checked, digest, hex, honest, verify,
};
use ostrakon_engine::verification::{Claim, Computed, Element, Evidence, Observation, Product, Seal, Verdict};

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
