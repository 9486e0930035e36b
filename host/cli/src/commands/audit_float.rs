//! `ostrakon audit` of a receipt of the float tier: run again, and compare with a tolerance.

use super::audit::{ACCEPT, INDETERMINATE, REJECT, options};
use super::run_tensors::input;
use super::{home, policy, write_json};
use crate::args::AuditArgs;
use crate::problem::Problem;
use crate::style::Style;
use ostrakon_node::float::FloatModel;
use ostrakon_node::float_receipt::{FloatReport, FloatVerdict, REJECT_AT};
use ostrakon_node::{SignedFloatReceipt, store};
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

/// What such an audit shows, and what not.
const MEANING: &str = "float: not exact. It shows that the numbers are as near as the package promises; whoever cheats may \
                       move each of them within that. Nothing of it can be disputed";

pub(super) fn judged(args: &AuditArgs, signed: &SignedFloatReceipt, json: bool) -> Result<ExitCode, Problem> {
    expect_no_exact_options(args)?;
    let home = home()?;
    let inputs = args.tensor.iter().map(|given| input(given)).collect::<Result<Vec<_>, _>>()?;
    let directory = store::locate_or_find(&home, args.package.as_deref(), &signed.receipt.package)?;
    let model = FloatModel::load(&directory, &policy(&home, &args.trust)?, &home, &options(&home, args)?.run)?;
    let report = model.audit(signed, inputs)?;
    if json {
        write_json(&Document::new(&report))?;
    } else {
        show(&report)?;
    }
    Ok(ExitCode::from(match report.verdict {
        FloatVerdict::Accept => ACCEPT,
        FloatVerdict::Reject(_) => REJECT,
        FloatVerdict::Indeterminate(_) => INDETERMINATE,
    }))
}

fn expect_no_exact_options(args: &AuditArgs) -> Result<(), Problem> {
    let given = [
        (args.freivalds, "--freivalds"),
        (args.reference, "--reference"),
        (args.transcript.is_some(), "--transcript"),
        (!args.blocks.is_empty(), "--blocks"),
        (args.sample.is_some(), "--sample"),
        (!args.texts.text.is_empty(), "--text"),
        (args.texts.input.is_some(), "--input"),
    ];
    match given.iter().find(|(is_given, _)| *is_given) {
        None => Ok(()),
        Some((_, option)) => Err(Problem::usage(format!(
            "{option} is for exact receipts; this one is of the float tier, where nothing is the same to the bit"
        ))
        .hint("give the request's tensors with --tensor NAME=FILE.npy: it is run again and compared")),
    }
}

/// The report, for programs.
#[derive(Serialize)]
struct Document {
    verdict: &'static str,
    tier: &'static str,
    receipt: String,
    issuer: String,
    reasons: Vec<String>,
    /// As a multiple of the tolerance; none where a number was compared with none.
    largest_difference: Option<f64>,
    reject_at: f64,
    absolute: f64,
    relative: f64,
    compared: u64,
}

impl Document {
    fn new(report: &FloatReport) -> Self {
        let (verdict, reasons) = words(report);
        Self {
            verdict,
            tier: "float",
            receipt: report.receipt.to_string(),
            issuer: report.issuer.clone(),
            reasons,
            largest_difference: Some(report.largest).filter(|largest| largest.is_finite()),
            reject_at: REJECT_AT,
            absolute: report.tolerance.absolute,
            relative: report.tolerance.relative,
            compared: report.compared,
        }
    }
}

fn words(report: &FloatReport) -> (&'static str, Vec<String>) {
    match &report.verdict {
        FloatVerdict::Accept => ("accept", Vec::new()),
        FloatVerdict::Reject(reason) => ("reject", vec![reason.clone()]),
        FloatVerdict::Indeterminate(reasons) => ("indeterminate", reasons.clone()),
    }
}

fn show(report: &FloatReport) -> io::Result<()> {
    let style = Style::of_stdout();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let entry = |name: &str| style.faint(&format!("{name:<8}"));
    let (verdict, reasons) = words(report);
    let shown = match report.verdict {
        FloatVerdict::Accept => style.good(verdict),
        FloatVerdict::Reject(_) => style.bad(verdict),
        FloatVerdict::Indeterminate(_) => style.warn(verdict),
    };
    writeln!(out, "{shown} {}", style.faint("(float)"))?;
    for reason in reasons {
        writeln!(out, "  {reason}")?;
    }
    let (absolute, relative) = (report.tolerance.absolute, report.tolerance.relative);
    writeln!(
        out,
        "{} {} numbers, largest difference {:.3} of the tolerance",
        entry("compared"),
        report.compared,
        report.largest
    )?;
    writeln!(out, "{} {absolute} + {relative} x the number; wrong beyond {REJECT_AT} times that", entry("allowed"))?;
    writeln!(out, "{} {}", entry("receipt"), report.receipt)?;
    writeln!(out, "{} {}", entry("issuer"), report.issuer)?;
    writeln!(out, "{} {MEANING}", entry("meaning"))?;
    out.flush()
}
