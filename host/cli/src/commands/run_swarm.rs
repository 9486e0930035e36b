//! `ostrakon run --swarm`.

use super::answer::ms;
use super::{home, plain, policy, run_tensors, write_json};
use crate::args::RunArgs;
use crate::input::{self, Input};
use crate::problem::Problem;
use crate::runtime::runtime;
use crate::style::Style;
use crate::table;
use ostrakon_node::swarm::client::{FleetNode, SwarmAnswer, SwarmClient, SwarmRequest};
use ostrakon_node::swarm::known::KnownPackage;
use ostrakon_node::{Digest, Home, Request, receipt, store};
use ostrakon_protocol::{Document, Finding, PublicKey, Receipt, SignedPlan, SigningKey, Snapshot, Verify, encode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{timeout, timeout_at};

/// What the swarm did, for showing.
struct Outcome {
    answer: SwarmAnswer,
    fleet: Vec<FleetNode>,
    package: Digest,
    /// From the submission to the checked answer.
    job: Duration,
    took: Duration,
}

pub(crate) fn run(mut args: RunArgs, json: bool, start: Instant) -> Result<(), Problem> {
    run_tensors::expect_none(&args)?;
    expect_apart(&args)?;
    let home = home()?;
    let known = known(&home, &args)?;
    let input = input::gather(std::mem::take(&mut args.text), args.input.as_deref())?;
    let (outcome, plans) = runtime()?.block_on(ask(&args, known, input.texts.clone(), start))?;
    let written = plans.and(write_receipt(&args, &outcome.answer));
    let kept = written.is_ok();
    if json {
        write_json(&document(&args, &input.texts, &outcome))?;
    } else {
        show(&args, &input, &outcome, kept)?;
    }
    // What was computed is shown first: it is not lost because a file cannot be written.
    written
}

/// The receipt, the plan and its snapshot must not replace one another.
fn expect_apart(args: &RunArgs) -> Result<(), Problem> {
    let (Some(receipt), Some(plan)) = (&args.receipt, &args.plan) else { return Ok(()) };
    let snapshot = with_suffix(plan, ".snapshot");
    match [plan, &snapshot].into_iter().find(|other| same_place(receipt, other)) {
        None => Ok(()),
        Some(other) => Err(Problem::usage(format!("--receipt and --plan would both write {}", other.display()))
            .hint("give each a file of its own; the plan's snapshot is written beside it as FILE.snapshot")),
    }
}

/// Whether two names are those of one file, there or not.
fn same_place(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        path.canonicalize().ok().or_else(|| {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Some(folder.canonicalize().ok()?.join(path.file_name()?))
        })
    };
    one == other || place(one).is_some_and(|one| Some(one) == place(other))
}

fn write_receipt(args: &RunArgs, answer: &SwarmAnswer) -> Result<(), Problem> {
    let Some(path) = &args.receipt else { return Ok(()) };
    let mut signed = answer.signed.clone();
    signed.request = signed.request.take().filter(|_| !args.texts_apart);
    Ok(receipt::write_receipt(path, &signed)?)
}

/// The package, if it is at hand: then its own tokens and borders are compared with what comes back.
fn known(home: &Home, args: &RunArgs) -> Result<Option<Arc<KnownPackage>>, Problem> {
    let Ok(directory) = store::locate(home, &args.package) else { return Ok(None) };
    let options = super::run::options(args)?;
    Ok(Some(Arc::new(KnownPackage::open(&directory, &policy(home, &args.trust)?, home, &options)?)))
}

/// The second result is whether the plans could be written.
async fn ask(
    args: &RunArgs,
    known: Option<Arc<KnownPackage>>,
    texts: Vec<String>,
    start: Instant,
) -> Result<(Outcome, Result<(), Problem>), Problem> {
    // A key for this run only: this machine's own may be that of a node, and nobody need know who asks.
    let key = SigningKey::generate().map_err(|e| Problem::failed(format!("there is no randomness for a key: {e}")))?;
    let within = Duration::from_secs(args.within);
    let until = Instant::now() + within;
    let late = |_| Problem::failed(format!("no node of the swarm answered within {} s", args.within));
    let client = timeout(within, SwarmClient::connect(&args.swarm, key)).await.map_err(late)??;
    let done = async {
        let fleet = timeout_at(until.into(), client.fleet()).await.map_err(late)??;
        let package = match &known {
            Some(known) => known.digest(),
            None => find(&args.package.display().to_string(), &fleet)?,
        };
        let asked = SwarmRequest {
            request: Request::of_texts(package, texts),
            verify: args.verify.unwrap_or(Verify::None),
            batch: args.batch.unwrap_or(0),
            package: known,
            within: until.saturating_duration_since(Instant::now()),
        };
        let submitted = Instant::now();
        let answer = client.run(&asked).await?;
        let job = submitted.elapsed();
        let plans = match &args.plan {
            Some(path) => write_plans(&client, &answer, path).await,
            None => Ok(()),
        };
        Ok::<_, Problem>((Outcome { answer, fleet, package, job, took: start.elapsed() }, plans))
    };
    let outcome = done.await;
    client.close().await;
    outcome
}

/// The package of a name or a digest among those that the fleet serves.
fn find(word: &str, fleet: &[FleetNode]) -> Result<Digest, Problem> {
    if let Ok(digest) = word.parse() {
        return Ok(digest);
    }
    let served = || fleet.iter().flat_map(|node| &node.status.status.served);
    let digests: BTreeSet<Digest> = served().filter(|s| s.name == word).map(|s| s.package).collect();
    let mut all = digests.iter();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(*only),
        (Some(_), Some(_)) => {
            let list: Vec<String> = digests.iter().map(ToString::to_string).collect();
            Err(Problem::usage(format!("the swarm serves {} packages called {}", list.len(), plain(word)))
                .hint(format!("name one by its digest: {}", list.join(", "))))
        }
        _ => {
            let names: BTreeSet<&str> = served().map(|s| s.name.as_str()).collect();
            let names =
                if names.is_empty() { "nothing".into() } else { names.into_iter().collect::<Vec<_>>().join(", ") };
            Err(Problem::usage(format!("there is no package `{}` here, and the swarm serves {names}", plain(word))))
        }
    }
}

/// The plans in the order in which they were made, each with the snapshot that it follows from beside it.
async fn write_plans(client: &SwarmClient, answer: &SwarmAnswer, path: &Path) -> Result<(), Problem> {
    for (at, plan) in answer.plans.iter().enumerate() {
        let to = numbered(path, at);
        let snapshot = client.snapshot(answer.coordinator, plan.record.snapshot).await?;
        write::<SignedPlan>(&to, plan)?;
        write::<Snapshot>(&with_suffix(&to, ".snapshot"), &snapshot)?;
    }
    Ok(())
}

fn write<T: Document>(path: &Path, document: &T) -> Result<(), Problem> {
    std::fs::write(path, encode(document)).map_err(|e| Problem::failed(format!("cannot write {}: {e}", path.display())))
}

/// The first plan's file has the name that was given, the others a number after it.
fn numbered(path: &Path, at: usize) -> PathBuf {
    if at == 0 { path.to_owned() } else { with_suffix(path, &format!(".{at}")) }
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// How an answer was verified, in words.
fn verified(answer: &SwarmAnswer, verify: Verify) -> String {
    let found = || answer.attestations.iter().map(|a| format!("{} by {}", finding(&a.finding), short(&a.auditor)));
    let audited = || match found().collect::<Vec<_>>() {
        none if none.is_empty() => "the verdict comes later".to_owned(),
        all => all.join(", "),
    };
    match verify {
        Verify::None => "by nobody; the receipt allows an audit".into(),
        Verify::Quorum { needed, nodes } => format!("{needed} of {nodes} nodes agree on every leg"),
        Verify::Audit { per_mille, .. } => format!("audit of {}.{} %: {}", per_mille / 10, per_mille % 10, audited()),
        Verify::Full => format!("audit of everything: {}", audited()),
    }
}

fn finding(finding: &Finding) -> String {
    match finding {
        Finding::Accept => "accepted".into(),
        Finding::Reject { reason, .. } => format!("rejected ({})", plain(reason)),
        Finding::Indeterminate { reason } => format!("undecided ({})", plain(reason)),
    }
}

/// A key as it is short enough for a table.
pub(super) fn short(key: &PublicKey) -> String {
    let text = key.to_string();
    text.trim_start_matches("ed25519:").chars().take(12).collect()
}

fn operators(fleet: &[FleetNode]) -> BTreeMap<PublicKey, &str> {
    fleet.iter().map(|node| (node.status.status.node, node.status.status.operator.as_str())).collect()
}

/// Who ran which blocks, the last excluded, as the receipt says. A plan names who was to: a shadow may have stepped in.
fn done_by(receipt: &Receipt) -> BTreeMap<(usize, usize), BTreeSet<PublicKey>> {
    let mut done: BTreeMap<(usize, usize), BTreeSet<PublicKey>> = BTreeMap::new();
    let mut witnesses: BTreeMap<(u32, u32), Vec<PublicKey>> = BTreeMap::new();
    for witness in receipt.swarm.iter().flat_map(|swarm| &swarm.witnesses) {
        witnesses.entry((witness.batch, witness.leg)).or_default().push(witness.node);
    }
    for (batch, legs) in (0..).zip(receipt.batches.iter().map(|batch| &batch.legs)) {
        let mut from = 0;
        for (number, leg) in (0..).zip(legs) {
            let to = from + leg.steps.len();
            let others = witnesses.remove(&(batch, number)).unwrap_or_default();
            done.entry((from, to)).or_default().extend(others.into_iter().chain([leg.node]));
            from = to;
        }
    }
    done
}

fn show(args: &RunArgs, input: &Input, outcome: &Outcome, kept: bool) -> Result<(), Problem> {
    let Outcome { answer, fleet, package, job, took } = outcome;
    let style = Style::of_stdout();
    let mut out = io::BufWriter::new(io::stdout().lock());
    table::outputs(&mut out, style, &input.texts, &answer.outputs)?;
    let names = operators(fleet);
    writeln!(out, "\n{}", style.strong("done by"))?;
    for ((from, to), nodes) in done_by(&answer.signed.receipt) {
        let nodes = nodes.iter().map(|key| {
            let operator = names.get(key).copied().unwrap_or("?");
            format!("{} {}", short(key), style.faint(&plain(operator)))
        });
        let blocks = format!("{from}-{}", to.saturating_sub(1));
        writeln!(out, "  blocks {blocks:<9} {}", nodes.collect::<Vec<_>>().join(", "))?;
    }
    let entry = |name: &str| style.faint(&format!("{name:<8}"));
    writeln!(out)?;
    writeln!(out, "{} {}", entry("digest"), style.strong(&answer.digest.to_string()))?;
    writeln!(out, "{} {package}", entry("package"))?;
    writeln!(
        out,
        "{} {} {}",
        entry("job"),
        answer.job,
        style.faint(&format!("led by {}", short(&answer.coordinator)))
    )?;
    writeln!(out, "{} {}", entry("verified"), verified(answer, args.verify.unwrap_or(Verify::None)))?;
    if answer.plans.len() > 1 {
        writeln!(out, "{} {}, all but the last were given up", entry("plans"), answer.plans.len())?;
    }
    for note in &answer.notes {
        writeln!(out, "{} {}", entry("note"), plain(note))?;
    }
    for (name, path) in [("receipt", &args.receipt), ("plan", &args.plan)] {
        if let Some(path) = path.as_ref().filter(|_| kept) {
            let how = if name == "plan" { " --plan" } else { "" };
            let hint = format!("check it with `ostrakon audit{how}` and this file");
            writeln!(out, "{} {} {}", entry(name), path.display(), style.faint(&hint))?;
        }
    }
    let whole = style.faint(&format!("({:.0} ms with getting ready)", ms(*took)));
    writeln!(out, "{} {:.0} ms {whole}", entry("time"), ms(*job))?;
    Ok(out.flush()?)
}

fn document(args: &RunArgs, texts: &[String], outcome: &Outcome) -> Value {
    let Outcome { answer, fleet, package, job, took } = outcome;
    let names = operators(fleet);
    let node = |key: &PublicKey| json!({ "node": key.to_string(), "operator": names.get(key) });
    let nodes = |keys: &[PublicKey]| keys.iter().map(node).collect::<Vec<_>>();
    let plans = answer.plans.iter().map(|plan| {
        let record = &plan.record;
        let legs = record.plan.legs.iter().map(|leg| {
            json!({ "from": leg.from, "to": leg.to, "replicas": nodes(&leg.replicas), "shadows": nodes(&leg.shadows) })
        });
        json!({
            "digest": record.digest().to_string(),
            "scheduler": record.scheduler.to_string(),
            "component": record.component.to_string(),
            "snapshot": record.snapshot.to_string(),
            "attempt": record.request.attempt,
            "legs": legs.collect::<Vec<_>>(),
            "auditors": nodes(&record.plan.auditors),
        })
    });
    let done_by = done_by(&answer.signed.receipt).into_iter().map(
        |((from, to), done)| json!({ "from": from, "to": to, "nodes": done.iter().map(node).collect::<Vec<_>>() }),
    );
    let attestations = answer
        .attestations
        .iter()
        .map(|a| json!({ "auditor": a.auditor.to_string(), "finding": finding(&a.finding), "looked_at": a.looked_at }));
    let outputs = texts.iter().zip(&answer.outputs).map(|(text, output)| {
        json!({
            "text": text, "tokens": output.tokens, "embedding": output.values, "digest": output.digest.to_string(),
        })
    });
    json!({
        "package": package.to_string(),
        "profile": answer.signed.receipt.profile.to_string(),
        "job": answer.job.to_string(),
        "coordinator": answer.coordinator.to_string(),
        "outputs": outputs.collect::<Vec<_>>(),
        "digest": answer.digest.to_string(),
        "receipt": answer.signed.receipt.digest().to_string(),
        "plans": plans.collect::<Vec<_>>(),
        "done_by": done_by.collect::<Vec<_>>(),
        "verified": verified(answer, args.verify.unwrap_or(Verify::None)),
        "attestations": attestations.collect::<Vec<_>>(),
        "notes": answer.notes,
        "timing_ms": { "total": ms(*took), "job": ms(*job) },
    })
}

/// `--verify`.
pub(crate) fn verify(text: &str) -> Result<Verify, String> {
    let usage = || "none, quorum:K/N, audit:P% (audit:P%:later does not wait for the verdict) or full".to_owned();
    let verify = match text.split_once(':') {
        None if text == "none" => Verify::None,
        None if text == "full" => Verify::Full,
        Some(("quorum", numbers)) => {
            let (needed, nodes) = numbers.split_once('/').ok_or_else(usage)?;
            Verify::Quorum { needed: needed.parse().map_err(|_| usage())?, nodes: nodes.parse().map_err(|_| usage())? }
        }
        Some(("audit", share)) => {
            let (share, before) = share.strip_suffix(":later").map_or((share, true), |share| (share, false));
            let percent: f64 = share.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(usage)?;
            // In thousandths: a smaller share would be another one than was asked for.
            if !(0.1..=100.0).contains(&percent) {
                return Err("an audit of at least 0.1% and at most 100%".into());
            }
            let per_mille = (percent * 10.0).round() as u32;
            Verify::Audit { per_mille, before }
        }
        _ => return Err(usage()),
    };
    verify.check().map(|()| verify)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verification_is_read_or_refused() {
        assert_eq!(verify("none"), Ok(Verify::None));
        assert_eq!(verify("quorum:2/3"), Ok(Verify::Quorum { needed: 2, nodes: 3 }));
        assert_eq!(verify("audit:10%"), Ok(Verify::Audit { per_mille: 100, before: true }));
        assert_eq!(verify("audit:0.5%:later"), Ok(Verify::Audit { per_mille: 5, before: false }));
        assert_eq!(verify("audit:0.1%"), Ok(Verify::Audit { per_mille: 1, before: true }));
        assert_eq!(verify("full"), Ok(Verify::Full));
        for wrong in [
            "",
            "some",
            "quorum",
            "quorum:1/3",
            "quorum:4/3",
            "quorum:9/17",
            "audit:0%",
            "audit:0.0001%",
            "audit:0.09%",
            "audit:101%",
            "audit:NaN%",
            "audit:10",
            "full:1",
        ] {
            assert!(verify(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn plans_have_files_of_their_own() {
        let at = |n| numbered(Path::new("a/p.plan"), n).display().to_string();
        assert_eq!((at(0), at(2)), ("a/p.plan".into(), "a/p.plan.2".into()));
    }
}
