//! What an audit costs beside the run it checks, in user CPU time of one process, on one thread.
//!
//! usage: audit-cost PACKAGE [PLUGINS]
//!
//! For texts of several lengths: the run, the run with a receipt, a replay, and an audit by Freivalds from the
//! transcript, in turn, many times; means. Vectors are made before. `kernel` costs are those of
//! `cargo run --release -p ostrakon-exact --example audit_speed`.
#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use nix::sys::resource::{UsageWho, getrusage};
use ostrakon_node::audit::{AuditOptions, Auditing, Choice, Evidence, Given, Method};
use ostrakon_node::{
    Home, Model, NodeError, Rerun, RunOptions, SignedReceipt, TrustPolicy, Verdict, progress, transcript,
};
use ostrakon_package::SigningKey;
use std::path::Path;

/// Times that everything is done.
const ROUNDS: usize = 40;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let package = arguments.next().ok_or("usage: audit-cost PACKAGE [PLUGINS]")?;
    let package = Path::new(&package);
    let home = Home::from_env()?;
    let policy = TrustPolicy { allow_unknown: true, ..TrustPolicy::default() };
    let run = RunOptions { threads: Some(1), plugins: arguments.next().map(Into::into), ..RunOptions::default() };
    let key = SigningKey::from_seed(&[7; 32]);
    let mut model = Model::load(package, &policy, &home, &run)?;
    let options = |method| AuditOptions { run: run.clone(), policy: policy.clone(), method };
    let mut replay = Auditing::open(package, &home, &options(Method::Replay))?;
    let mut freivalds = Auditing::open(package, &home, &options(Method::Freivalds))?;
    let directory = tempfile::tempdir()?;

    println!("user CPU milliseconds on one thread, means of {ROUNDS} in turn; in brackets: beside the run\n");
    println!(
        "{:>7} {:>9} {:>18} {:>18} {:>18} {:>12}",
        "tokens", "run", "with receipt", "replay", "freivalds", "transcript"
    );
    for words in [14, 62, 126, 254] {
        let texts = [vec!["word"; words].join(" ")];
        let (answer, signed) = model.run_with_receipt(&texts, None, &progress::unwatched, &key)?;
        let file = directory.path().join(format!("{words}.transcript"));
        let rerun = Rerun {
            signed,
            directory: package.to_owned(),
            policy: policy.clone(),
            home: home.clone(),
            options: run.clone(),
            key: SigningKey::from_seed(key.seed()),
        };
        let written = transcript::write(&rerun, &|_| true, &file, &progress::unwatched)?;
        let signed = &rerun.signed;
        let evidence = Evidence::open(&file, &signed.receipt)?;
        let given = Given { transcript: Some(&evidence), ..Given::default() };
        let mut times = [0.0; 4];
        for _ in 0..ROUNDS {
            let mut one = |at: usize,
                           work: &mut dyn FnMut() -> Result<(), NodeError>|
             -> Result<(), Box<dyn std::error::Error>> {
                let start = user_ms()?;
                work()?;
                if let Some(time) = times.get_mut(at) {
                    *time += (user_ms()? - start) / ROUNDS as f64;
                }
                Ok(())
            };
            one(0, &mut || model.run(&texts, None, &progress::unwatched).map(drop))?;
            one(1, &mut || model.run_with_receipt(&texts, None, &progress::unwatched, &key).map(drop))?;
            one(2, &mut || accepted(&mut replay, signed, &Given::default()))?;
            one(3, &mut || accepted(&mut freivalds, signed, &given))?;
        }
        let [run, receipt, replay, freivalds] = times;
        let beside = |ms: f64| format!("{ms:.2} ({:.3})", ms / run);
        println!(
            "{:>7} {run:>9.2} {:>18} {:>18} {:>18} {:>9.1} MB",
            answer.outputs.first().map_or(0, |output| output.tokens),
            beside(receipt),
            beside(replay),
            beside(freivalds),
            written.bytes as f64 / 1e6,
        );
    }
    Ok(())
}

fn accepted(auditing: &mut Auditing, signed: &SignedReceipt, given: &Given<'_>) -> Result<(), NodeError> {
    let report = auditing.audit(signed, given, &Choice::All, &progress::unwatched)?;
    match report.verdict {
        Verdict::Accept(_) => Ok(()),
        other => Err(NodeError::NotReproduced(format!("{other:?}"))),
    }
}

/// User CPU time of this process.
fn user_ms() -> Result<f64, nix::Error> {
    let time = getrusage(UsageWho::RUSAGE_SELF)?.user_time();
    Ok(time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3)
}
