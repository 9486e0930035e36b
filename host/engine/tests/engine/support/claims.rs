//! A claim with its evidence, changes to it, and verdicts of the official verifier under both compilers.

use crate::support::{limits, runtime};
use ostrakon_engine::verification::{
    Accepted, Accusation, Block, Checked, Claim, Computed, Digest, Evidence, Input, Observation, Product, Seal, Step,
    Verdict,
};
use ostrakon_engine::{Compiler, Limits, Plugin, Verifier, World};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) const BLOCKS: [&str; 3] = ["blocks.0", "blocks.1", "blocks.2"];

/// A built component, from the directory in `OSTRAKON_PLUGINS` or from where `make plugins` leaves it.
pub(crate) fn built(name: &str) -> Vec<u8> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/plugins");
    let path = std::env::var_os("OSTRAKON_PLUGINS").map_or(default, PathBuf::from).join(name);
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}. Run `make plugins`, or name the directory in OSTRAKON_PLUGINS", path.display())
    })
}

/// The official component, under each compiler.
pub(crate) fn plugins() -> &'static [Plugin; 2] {
    static PLUGINS: OnceLock<[Plugin; 2]> = OnceLock::new();
    PLUGINS.get_or_init(|| {
        let component = built("verifier.wasm");
        [Compiler::Cranelift, Compiler::Pulley]
            .map(|compiler| runtime(compiler).admit(&component, World::Verifier).unwrap())
    })
}

/// Enough for any claim here.
pub(crate) fn ample() -> Limits {
    Limits { fuel: 1 << 40, memory_bytes: 1 << 30, ..limits() }
}

pub(crate) fn verifier(limits: Limits) -> Verifier {
    plugins()[0].verifier(limits).unwrap()
}

/// The verdict of both compilers, at the same fuel.
pub(crate) fn verify((claim, evidence): &(Claim, Evidence)) -> Verdict {
    let [cranelift, pulley] =
        plugins().each_ref().map(|plugin| plugin.verifier(ample()).unwrap().verify(claim, evidence).unwrap());
    assert_eq!(cranelift, pulley);
    assert!(cranelift.fuel > 0);
    cranelift.verdict
}

pub(crate) fn digest(text: &str) -> Digest {
    blake3::hash(text.as_bytes()).into()
}

pub(crate) fn hex(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Two batches through three blocks, each block run by a node of its own, and an auditor who ran it all
/// again and found the same.
pub(crate) fn honest() -> (Claim, Evidence) {
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
pub(crate) fn but(change: impl FnOnce(&mut Claim, &mut Evidence)) -> Verdict {
    let mut case = honest();
    change(&mut case.0, &mut case.1);
    verify(&case)
}

/// As it is if the auditor checked step 1 by a transcript.
pub(crate) fn checked(change: impl FnOnce(&mut Claim, &mut Checked)) -> Verdict {
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

pub(crate) fn assert_accepted(verdict: &Verdict, looked_at: u32) {
    assert_eq!(*verdict, Verdict::Accept(Accepted { looked_at, steps: 6 }));
}

/// Rejected, with this accusation, for a reason that has these words in it.
pub(crate) fn assert_rejected(
    verdict: &Verdict,
    who: &str,
    place: Option<(u32, &str)>,
    operation: Option<&str>,
    words: &[&str],
) {
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
pub(crate) fn assert_indeterminate(verdict: &Verdict, words: &[&str]) {
    let Verdict::Indeterminate(reasons) = verdict else { panic!("{verdict:?}") };
    assert_eq!(reasons.len(), words.len(), "{reasons:?}");
    for (reason, words) in reasons.iter().zip(words) {
        assert!(reason.contains(words), "`{words}` is not in: {reason}");
    }
}
