//! Ten thousand honest runs: none is rejected, none is even doubted. Texts, batches, shards, threads, SIMD levels
//! and compilers are drawn with fixed seeds.

use ostrakon_exact::simd::Level;
use ostrakon_node::audit::{Auditing, Choice, Method};
use ostrakon_node::{Compiler, Model, RunOptions, SignedReceipt, progress};
use ostrakon_tests::tiny::{Random, Tiny, key, quick};
use ostrakon_tests::trial::{Outcome, audit, auditing};
use std::path::PathBuf;
use std::time::Instant;

/// Ways to run a package: nothing of it may show.
fn any_options(random: &mut Random) -> RunOptions {
    RunOptions {
        threads: Some(1 + random.below(2)),
        simd: Some(random.one_of(&Level::available())),
        compiler: random.one_of(&[Compiler::Cranelift, Compiler::Pulley]),
        ..quick()
    }
}

/// A package, those who run it and those who audit it.
struct Shards {
    package: PathBuf,
    executors: Vec<Model>,
    auditors: Vec<Auditing>,
}

impl Shards {
    fn new(tiny: &Tiny, shards: usize, method: Method, random: &mut Random) -> Self {
        let package = tiny.honest(shards);
        let executors = (0..3).map(|_| tiny.load(&package, &any_options(random))).collect();
        let auditors = (0..3).map(|_| auditing(&package, &tiny.home(), method, any_options(random))).collect();
        Self { package, executors, auditors }
    }

    fn run(&mut self, random: &mut Random) -> SignedReceipt {
        let count = 1 + random.below(5);
        let texts = random.texts(count);
        let most = random.one_of(&[None, Some(1), Some(2), Some(3)]);
        let at = random.below(self.executors.len());
        self.executors[at].run_with_receipt(&texts, most, &progress::unwatched, &key(0)).unwrap().1
    }
}

/// So many runs by one method.
fn accepted(seed: u64, method: Method, runs: usize) {
    let started = Instant::now();
    let tiny = Tiny::new();
    let random = &mut Random(seed);
    let mut all = [1, 2, 3].map(|shards| Shards::new(&tiny, shards, method, random));
    for _ in 0..runs {
        let shards = &mut all[random.below(3)];
        let signed = shards.run(random);
        let transcript = (method == Method::Freivalds).then(|| tiny.transcript(&shards.package, &signed, &key(0)));
        let auditor = random.below(3);
        let outcome = audit(&mut shards.auditors[auditor], &signed, transcript.as_deref(), &Choice::All);
        assert_eq!(outcome, Outcome::Accept, "{signed:?}");
    }
    println!("{runs} honest runs by {method:?}: all accepted, {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn thousands_by_replay() {
    accepted(301, Method::Replay, 7000);
}

#[test]
fn thousands_by_freivalds() {
    accepted(302, Method::Freivalds, 3000);
}
