//! `ostrakon dispute`.

use super::{expect_other_file, home, policy, write_json};
use crate::args::DisputeArgs;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::style::Style;
use ostrakon_node::dispute::{Decision, DisputeOptions, Finding, SignedDispute, dispute};
use ostrakon_node::{RunOptions, load_or_create_key, receipt};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Exit status of receipts that agree.
const AGREE: u8 = 0;
/// When somebody is wrong.
const WRONG: u8 = 1;
/// When that cannot be told.
const UNDECIDED: u8 = 2;

pub(crate) fn run(args: &DisputeArgs, json: bool) -> Result<ExitCode, Problem> {
    // Whatever keeps a dispute from being held is no finding about anybody.
    held(args, json).map_err(Problem::undecided)
}

fn held(args: &DisputeArgs, json: bool) -> Result<ExitCode, Problem> {
    let start = Instant::now();
    if let Some(out) = &args.out {
        let traces = [&args.trace_a, &args.trace_b].into_iter().flatten();
        let read: Vec<&Path> = [&args.first, &args.second].into_iter().chain(traces).map(PathBuf::as_path).collect();
        expect_other_file(out, &read)?;
    }
    let home = home()?;
    let options = DisputeOptions {
        run: RunOptions::default(),
        policy: policy(&home, &args.trust)?,
        package: args.package.clone(),
        traces: [args.trace_a.clone(), args.trace_b.clone()],
    };
    let key = load_or_create_key(&home)?;
    let progress = Progress::new(json);
    let result = dispute([&args.first, &args.second], &home, &options, &key, &|event| progress.show(event));
    progress.finish();
    let (signed, decision) = result?;
    if let Some(path) = &args.out {
        receipt::write(path, &signed)?;
    }
    if json {
        write_json(&Document::new(&signed, &decision, start.elapsed()))?;
    } else {
        show(args, &signed, &decision, start.elapsed())?;
    }
    Ok(ExitCode::from(match signed.dispute.finding {
        Finding::NoDifference => AGREE,
        Finding::Right { .. } | Finding::BothWrong { .. } => WRONG,
        Finding::Undecided { .. } => UNDECIDED,
    }))
}

/// The decision, for programs.
#[derive(Serialize)]
struct Document {
    finding: &'static str,
    receipts: [String; 2],
    sides: [String; 2],
    batch: Option<u32>,
    block: Option<String>,
    operation: Option<Operation>,
    claimed: Option<[String; 2]>,
    exact: Option<String>,
    right: Option<String>,
    wrong: Vec<String>,
    reason: Option<String>,
    asked: Vec<Asked>,
    notes: Vec<String>,
    referee: String,
    timing_ms: f64,
}

/// The operation on which the sides part.
#[derive(Serialize)]
struct Operation {
    at: u32,
    name: String,
}

/// What was asked of both sides.
#[derive(Serialize)]
struct Asked {
    operations: u32,
    same: bool,
}

impl Document {
    fn new(signed: &SignedDispute, decision: &Decision, time: Duration) -> Self {
        let dispute = &signed.dispute;
        Self {
            finding: name(&dispute.finding),
            receipts: dispute.receipts.map(|digest| digest.to_string()),
            sides: decision.sides.map(|node| node.to_string()),
            batch: dispute.batch,
            block: dispute.block.clone(),
            operation: dispute.operation.as_ref().map(|of| Operation { at: of.at, name: of.name.clone() }),
            claimed: dispute.claimed.map(|claimed| claimed.map(|digest| digest.to_string())),
            exact: dispute.exact.map(|digest| digest.to_string()),
            right: match &dispute.finding {
                Finding::Right { node, .. } => Some(node.to_string()),
                _ => None,
            },
            wrong: decision.wrong.iter().map(ToString::to_string).collect(),
            reason: reason(&dispute.finding).map(str::to_owned),
            asked: dispute.asked.iter().map(|q| Asked { operations: q.count, same: q.a == q.b }).collect(),
            notes: decision.notes.clone(),
            referee: signed.referee.to_string(),
            timing_ms: super::answer::ms(time),
        }
    }
}

const fn name(finding: &Finding) -> &'static str {
    match finding {
        Finding::NoDifference => "no difference",
        Finding::Right { .. } => "one is wrong",
        Finding::BothWrong { .. } => "both are wrong",
        Finding::Undecided { .. } => "undecided",
    }
}

const fn reason(finding: &Finding) -> Option<&str> {
    match finding {
        Finding::NoDifference => None,
        Finding::Right { reason, .. } | Finding::BothWrong { reason } | Finding::Undecided { reason } => {
            Some(reason.as_str())
        }
    }
}

fn show(args: &DisputeArgs, signed: &SignedDispute, decision: &Decision, time: Duration) -> Result<(), Problem> {
    let style = Style::of_stdout();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let entry = |name: &str| style.faint(&format!("{name:<9}"));
    let dispute = &signed.dispute;
    let finding = name(&dispute.finding);
    let finding = match &dispute.finding {
        Finding::NoDifference => style.good(finding),
        Finding::Right { .. } | Finding::BothWrong { .. } => style.bad(finding),
        Finding::Undecided { .. } => style.warn(finding),
    };
    writeln!(out, "{} {finding}", entry("finding"))?;
    for node in &decision.wrong {
        writeln!(out, "{} {}", entry("wrong"), style.strong(&node.to_string()))?;
    }
    if let Finding::Right { node, .. } = &dispute.finding {
        writeln!(out, "{} {node} {}", entry("right"), style.faint("here; what it did afterwards was not looked at"))?;
    }
    if let (Some(batch), Some(block)) = (dispute.batch, &dispute.block) {
        let operation = dispute.operation.as_ref();
        let operation = operation.map(|of| format!(", operation {} `{}`", of.at, of.name)).unwrap_or_default();
        // Names come from the receipts, and may be anything where nothing could be decided.
        let place: String = format!("batch {batch}, block {block}{operation}").escape_debug().collect();
        writeln!(out, "{} {place}", entry("where"))?;
    }
    if let Some([a, b]) = &dispute.claimed {
        let mark = |claimed| match dispute.exact.map(|exact| exact == claimed) {
            Some(true) => style.good("right"),
            Some(false) => style.bad("wrong"),
            None => String::new(),
        };
        writeln!(out, "{} {a} {}", entry("first"), mark(*a))?;
        writeln!(out, "{} {b} {}", entry("second"), mark(*b))?;
    }
    if let Some(exact) = &dispute.exact {
        writeln!(out, "{} {exact}", entry("exact"))?;
    }
    if let Some(reason) = reason(&dispute.finding) {
        writeln!(out, "{} {reason}", entry("because"))?;
    }
    if !dispute.asked.is_empty() {
        let prefixes: Vec<String> = dispute
            .asked
            .iter()
            .map(|asked| format!("{} {}", asked.count, if asked.a == asked.b { "same" } else { "differ" }))
            .collect();
        let hashes = dispute.asked.len() * 2;
        writeln!(out, "{} {hashes} digests, of the first operations: {}", entry("asked"), prefixes.join(", "))?;
    }
    let [a, b] = &dispute.receipts;
    let [node_a, node_b] = &decision.sides;
    writeln!(out, "{} {a} {}", entry("receipts"), style.faint(&format!("{} by {node_a}", args.first.display())))?;
    writeln!(out, "{} {b} {}", entry(""), style.faint(&format!("{} by {node_b}", args.second.display())))?;
    if let Some(path) = &args.out {
        writeln!(out, "{} {} {}", entry("record"), path.display(), style.faint(&format!("by {}", signed.referee)))?;
    }
    writeln!(out, "{} {:.0} ms", entry("time"), super::answer::ms(time))?;
    for note in &decision.notes {
        writeln!(out, "{} {note}", style.warn("note:"))?;
    }
    Ok(out.flush()?)
}
