//! The verifier against hostile claims and evidence, at its limits, and as a component that may be damaged or of
//! another type. Its rules are tested in `verdicts.rs`.

use crate::support;
use crate::support::claims::{
    BLOCKS, ample, assert_accepted, assert_indeterminate, assert_rejected, built, but, digest, honest, plugins,
    verifier, verify,
};
use crate::support::{host, identity, limits, shared_runtime};
use ostrakon_engine::verification::{
    Accepted, Accusation, Checked, Claim, Digest, Element, Evidence, Judged, Observation, Product, Step, Verdict,
};
use ostrakon_engine::{AdmissionError, CallError, HostFault, Limits, Survey, Trap, World};
use std::fmt::Write as _;
use std::time::Duration;

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
