//! Receipts of generated answers: made afterwards, right for everybody who looks, and no lie gets through.

use ostrakon_node::audit::{Choice, Method};
use ostrakon_node::dispute::{self, Finding};
use ostrakon_node::generate::{GenerateRequest, Generator, Limits, Piece, Pieces, Sampling};
use ostrakon_node::{Arithmetic, Model, RunOptions, SignedReceipt, progress};
use ostrakon_protocol::{Digest, Generated};
use ostrakon_tests::forge::{Loose, Signers};
use ostrakon_tests::tiny::{Random, Tiny, expect, key, policy, quick};
use ostrakon_tests::tiny_writer::{BEGIN, CONTEXT, END, VOCABULARY, package};
use ostrakon_tests::trial::{Auditors, Outcome, auditing};
use std::path::PathBuf;

struct Scene {
    tiny: Tiny,
    package: PathBuf,
    generator: Generator,
    model: Model,
    auditors: Auditors,
}

fn warm(seed: u64) -> Sampling {
    Sampling { temperature: 1.2, seed, top_p: 0.95, repetition_penalty: 1.2, ..Sampling::default() }
}

impl Scene {
    fn new(shards: usize) -> Self {
        let tiny = Tiny::new();
        let package = package(tiny.path(), shards);
        let generator = expect(Generator::open(&package, &policy(), &tiny.home(), &quick(), Limits::default()));
        let model = tiny.load(&package, &quick());
        let auditors = Auditors::of(&package, &tiny.home());
        Self { tiny, package, generator, model, auditors }
    }

    fn ask(&self, prompt: &[u32], sampling: &Sampling, stop: &[u32], max_tokens: u32) -> Pieces {
        let request = GenerateRequest {
            client: 0,
            prompt: prompt.to_vec(),
            max_tokens,
            sampling: sampling.clone(),
            stop: stop.to_vec(),
            likelihoods: None,
            prompt_likelihoods: false,
            reuse: true,
        };
        self.generator.ask(request).unwrap()
    }

    /// An answer, token by token.
    fn answer(&self, prompt: &[u32], sampling: &Sampling, stop: &[u32], max_tokens: u32) -> Generated {
        let mut pieces = self.ask(prompt, sampling, stop, max_tokens);
        let mut answer = Vec::new();
        loop {
            match pieces.blocking_next().unwrap() {
                Piece::Token { token, .. } => answer.push(token),
                Piece::Done(_) => break,
                other => panic!("{other:?}"),
            }
        }
        Generated { prompt: prompt.to_vec(), answer, choice: sampling.into(), stop: stop.to_vec(), max_tokens }
    }

    fn receipt(&mut self, generated: &Generated) -> SignedReceipt {
        self.model.receipt_of_answer(generated.clone(), &key(0)).unwrap()
    }

    /// An honest receipt with its transcript, taken apart.
    fn run(&mut self, generated: &Generated) -> Loose {
        let signed = self.receipt(generated);
        Loose::of(&signed, &self.tiny.transcript(&self.package, &signed, &key(0)))
    }

    fn both(&mut self, run: &Loose, signers: &Signers) -> [Outcome; 2] {
        self.auditors.both(&run.sign(signers))
    }

    fn assert_accepted(&mut self, run: &Loose) {
        assert_eq!(self.both(run, &Signers::three(2)), [Outcome::Accept, Outcome::Accept]);
    }

    /// Both audits accuse the issuer, whoever ran the blocks.
    fn assert_issuer(&mut self, run: &Loose, block: Option<&str>) {
        let signers = Signers::three(2);
        for outcome in self.both(run, &signers) {
            assert!(outcome.accuses(&signers.issuer_name(), block, None), "{outcome:?}");
        }
    }
}

/// The same run, claimed to be that of another answer.
fn claim(run: &Loose, change: impl FnOnce(&mut Generated)) -> Loose {
    let mut run = run.clone();
    let mut asked = run.asked.clone().unwrap();
    let mut generated = asked.generation.unwrap();
    change(&mut generated);
    run.outputs = vec![generated.claimed()];
    run.set_answer();
    asked.texts.clear();
    asked.generation = Some(generated);
    run.request = asked.digest();
    run.asked = Some(asked);
    run
}

const PROMPT: [u32; 6] = [BEGIN, 3, 5, 9, END, BEGIN];
const BLOCKS: [&str; 5] = ["embeddings", "blocks.0", "blocks.1", "blocks.2", "head"];

type Change<'a> = &'a dyn Fn(&mut Generated);

#[test]
fn honest_answers_are_accepted() {
    for shards in 1..=3 {
        let scene = &mut Scene::new(shards);
        let random = &mut Random(shards as u64);
        let mut sampled = warm(random.next());
        sampled.bias.insert(7, 1.5);
        for (sampling, prompt, most) in [
            (Sampling::default(), PROMPT.to_vec(), 40),
            (sampled, vec![4; 60], 25),
            (warm(1), vec![1], 1),
            (Sampling { presence_penalty: 0.5, frequency_penalty: 0.1, ..warm(2) }, vec![1, 2], CONTEXT as u32),
        ] {
            let generated = scene.answer(&prompt, &sampling, &[], most);
            let signed = scene.receipt(&generated);
            assert_eq!(signed.request.as_ref().unwrap().generation.as_ref(), Some(&generated));
            assert_eq!(signed.receipt.outputs, [generated.claimed()]);
            let run = scene.run(&generated);
            scene.assert_accepted(&run);
            // With the first token that ends it.
            let stop = generated.answer[generated.answer.len() / 2];
            let ended = scene.answer(&prompt, &sampling, &[stop], most);
            assert_eq!(ended.answer.last(), Some(&stop));
            let run = scene.run(&ended);
            scene.assert_accepted(&run);
        }
    }
}

#[test]
fn a_generator_makes_the_same_receipt_between_the_tokens_of_others() {
    let scene = &mut Scene::new(2);
    let generated = scene.answer(&PROMPT, &warm(5), &[], 30);
    let alone = scene.receipt(&generated);
    let others: Vec<Pieces> = (0..8).map(|at| scene.ask(&[at], &warm(u64::from(at)), &[], 150)).collect();
    let made = [0; 3].map(|_| scene.generator.receipt(generated.clone()).unwrap());
    for making in made {
        // Fuel too: the instances that ran others' tokens have no part in it.
        assert_eq!(making.blocking_signed(&key(0)).unwrap(), alone);
    }
    for mut other in others {
        while let Some(piece) = other.blocking_next() {
            assert!(!matches!(piece, Piece::Failed(_)), "{piece:?}");
        }
    }
    let lie = Generated { answer: vec![1; 30], ..generated };
    let error = scene.generator.receipt(lie).unwrap().blocking_signed(&key(0)).unwrap_err().to_string();
    assert!(error.contains("token 1 of the answer is 1"), "{error}");
    let other = scene.answer(&[1], &warm(1), &[], 3);
    assert_eq!(other, scene.answer(&[1], &warm(1), &[], 3));
}

#[test]
fn tokens_that_do_not_follow_accuse_the_issuer() {
    let scene = &mut Scene::new(1);
    let sampling = warm(3);
    let generated = scene.answer(&PROMPT, &sampling, &[], 30);
    let run = scene.run(&generated);
    scene.assert_accepted(&claim(&run, |_| ()));
    // The last token is not run: every block is right.
    let lie = claim(&run, |g| *g.answer.last_mut().unwrap() ^= 1);
    scene.assert_issuer(&lie, None);
    // Chosen in another way than is said.
    let changed: [&dyn Fn(&mut Generated); 6] = [
        &|g| g.choice.seed ^= 1,
        &|g| g.choice.temperature = 0,
        &|g| g.choice.top_k = 1,
        &|g| g.choice.top_p = 0.01f32.to_bits(),
        &|g| g.choice.repetition_penalty = 5f32.to_bits(),
        &|g| g.choice.bias = vec![(11, 100f32.to_bits())],
    ];
    for change in changed {
        let lie = claim(&run, change);
        scene.assert_issuer(&lie, None);
    }
    // Another number of tokens than the run was for, or other tokens than it was given.
    let lie = claim(&run, |g| g.answer.truncate(29));
    scene.assert_issuer(&lie, Some("embeddings"));
    let lie = claim(&run, |g| g.answer[4] ^= 1);
    scene.assert_issuer(&lie, Some("embeddings"));
    let lie = claim(&run, |g| g.prompt[1] ^= 1);
    scene.assert_issuer(&lie, Some("embeddings"));
    // The border between both does not move.
    let lie = claim(&run, |g| g.prompt.push(g.answer.remove(0)));
    scene.assert_issuer(&lie, Some("embeddings"));
    // Outputs that are not those of the claimed answer.
    for output in [Digest::of_tokens(&[1], true), Digest::of_tokens(&generated.answer, false)] {
        let mut lie = run.clone();
        lie.outputs = vec![output];
        lie.set_answer();
        scene.assert_issuer(&lie, None);
    }
}

#[test]
fn an_answer_ends_where_it_must() {
    let scene = &mut Scene::new(1);
    let sampling = Sampling::default();
    let generated = scene.answer(&PROMPT, &sampling, &[], 20);
    let run = scene.run(&generated);
    // A token that ends answers, in the middle.
    let stop = generated.answer[7];
    let lie = claim(&run, |g| g.stop = vec![stop]);
    scene.assert_issuer(&lie, None);
    // Cut: more was asked for, and no token ended it.
    let lie = claim(&run, |g| g.max_tokens = 21);
    scene.assert_issuer(&lie, None);
    let lie = claim(&run, |g| g.max_tokens = u32::MAX);
    scene.assert_issuer(&lie, None);
    // More than was asked for.
    let lie = claim(&run, |g| g.max_tokens = 19);
    scene.assert_issuer(&lie, None);
    let lie = claim(&run, |g| g.max_tokens = 0);
    scene.assert_issuer(&lie, None);
    // Nothing was asked for, though the token that ends it came.
    let ended = scene.answer(&PROMPT, &sampling, &[stop], 20);
    let run = scene.run(&ended);
    scene.assert_accepted(&run);
    let lie = claim(&run, |g| g.max_tokens = 0);
    scene.assert_issuer(&lie, None);
    // With the model's context it does end, whatever was asked for.
    let full = scene.answer(&[1; CONTEXT - 9], &sampling, &[], 9);
    let run = scene.run(&full);
    scene.assert_accepted(&claim(&run, |g| g.max_tokens = 4000));
}

#[test]
fn a_wrong_block_accuses_its_node() {
    let scene = &mut Scene::new(3);
    let generated = scene.answer(&PROMPT, &warm(8), &[], 12);
    let run = scene.run(&generated);
    for (place, block) in BLOCKS.into_iter().enumerate() {
        let signers = Signers::three(place);
        let named = |outcome: &Outcome| outcome.accuses(&signers.node(place), Some(block), None);
        let mut lie = run.clone();
        lie.step(0, place).output = Digest::from_bytes([9; 32]);
        if place + 1 < BLOCKS.len() {
            // From one to the next.
            lie.step(0, place + 1).input = Digest::from_bytes([9; 32]);
        }
        assert!(scene.both(&lie, &signers).iter().all(named), "{block}");
        let mut lie = run.clone();
        lie.step(0, place).fuel += 1;
        assert!(scene.both(&lie, &signers).iter().all(named), "{block}");
        // A product of its transcript.
        let mut lie = run.clone();
        let products = &mut lie.part(0, place).products;
        if let Some(middle) = products.len().checked_sub(1).map(|last| last / 2) {
            products[middle] ^= 4;
            let outcome = scene.auditors.freivalds(&lie.sign(&signers));
            let Outcome::Reject { node, block: Some(at), operation: Some(_), .. } = &outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!((node, at.as_str()), (&signers.node(place), block));
            // One block alone, by its transcript.
            let alone = scene.auditors.freivalds_of(&run.sign(&signers), &Choice::Blocks(vec![place]));
            assert_eq!(alone, Outcome::Accept);
        }
        // A transcript of other rows than those that were run.
        let mut lie = run.clone();
        lie.part(0, place).lengths[2] -= 1;
        let signed = lie.sign(&signers);
        let outcome = scene.auditors.freivalds_of(&signed, &Choice::Blocks(vec![place]));
        let first = place == 0;
        assert!(if first { outcome == Outcome::Accept } else { outcome.is_undecided() || outcome == Outcome::Accept });
    }
}

#[test]
fn what_is_no_answer_is_not_run() {
    let scene = &mut Scene::new(1);
    let generated = scene.answer(&PROMPT, &warm(8), &[], 12);
    let run = scene.run(&generated);
    let changed: [(Change<'_>, &str); 5] = [
        (&|g| g.prompt[0] = VOCABULARY as u32, "none of the model's"),
        (&|g| g.answer[0] = u32::MAX, "none of the model's"),
        (&|g| g.prompt = vec![1; CONTEXT], "pass the model's context"),
        (&|g| g.choice.temperature = f32::NAN.to_bits(), "temperature"),
        (&|g| g.choice.bias = vec![(0, 1e9f32.to_bits())], "logit_bias"),
    ];
    for (change, why) in changed {
        let lie = claim(&run, change);
        for outcome in scene.both(&lie, &Signers::three(2)) {
            assert!(matches!(&outcome, Outcome::Refused(reason) if reason.contains(why)), "{outcome:?}");
        }
    }
    // Texts for people must be those of the tokens.
    let mut lie = claim(&run, |_| ());
    let mut asked = lie.asked.take().unwrap();
    asked.texts = vec!["w1".into(), "w2".into()];
    lie.request = asked.digest();
    lie.asked = Some(asked);
    for outcome in scene.both(&lie, &Signers::three(2)) {
        assert!(matches!(&outcome, Outcome::Refused(reason) if reason.contains("texts")), "{outcome:?}");
    }
    // Texts are no answer: what such a package gives for them is not one row for each.
    let error = scene.model.run(&["w1 w2".into()], None, &progress::unwatched).unwrap_err().to_string();
    assert!(error.contains("ostrakon chat"), "{error}");
    // The other way round.
    let bert = scene.tiny.honest(1);
    let error = scene.tiny.load(&bert, &quick()).receipt_of_answer(generated, &key(0)).unwrap_err().to_string();
    assert!(error.contains("generates no text"), "{error}");
}

#[test]
fn plain_webassembly_and_disputes_come_to_the_same() {
    let scene = &mut Scene::new(2);
    let generated = scene.answer(&PROMPT, &warm(4), &[], 10);
    let run = scene.run(&generated);
    let [honest, liar] = [Signers::three(2), Signers { nodes: [key(21), key(22)], ..Signers::three(2) }];
    let right = run.sign(&honest).signed;
    let reference = RunOptions { arithmetic: Arithmetic::Reference, ..quick() };
    let mut plain = auditing(&scene.package, &scene.tiny.home(), Method::Replay, reference);
    let report = plain.audit(&right, &Default::default(), &Choice::All, &progress::unwatched).unwrap();
    assert!(matches!(report.verdict, ostrakon_node::Verdict::Accept(_)), "{:?}", report.verdict);

    let mut lie = run.clone();
    lie.step(0, 3).output = Digest::from_bytes([9; 32]);
    lie.step(0, 4).input = Digest::from_bytes([9; 32]);
    let wrong = lie.sign(&liar).signed;
    let decision = dispute::decide(&mut scene.model, [&right, &wrong], [None, None], &progress::unwatched).unwrap();
    assert!(matches!(decision.dispute.finding, Finding::Right { .. }), "{:?}", decision.dispute.finding);
    assert_eq!(decision.wrong, [key(22).public()]);
    // Of the same blocks, another answer.
    let mut lie = run;
    lie.outputs = vec![Digest::of_tokens(&[1], true)];
    lie.set_answer();
    let wrong = lie.sign(&Signers { issuer: key(20), ..liar }).signed;
    let decision = dispute::decide(&mut scene.model, [&right, &wrong], [None, None], &progress::unwatched).unwrap();
    assert_eq!(decision.wrong, [key(20).public()]);
}
