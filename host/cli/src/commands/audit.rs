//! `ostrakon audit`.

use super::{audit_float, audit_plan, grouped, home, plain, policy, texts, write_json};
use crate::args::{AuditArgs, EngineArg};
use crate::problem::Problem;
use crate::progress::Progress;
use crate::style::Style;
use ostrakon_node::audit::{AuditOptions, AuditReport, Auditing, Choice, Evidence, Given, Method};
use ostrakon_node::progress::Event;
use ostrakon_node::receipt::{self, AnyReceipt};
use ostrakon_node::{Arithmetic, Compiler, Home, RunOptions, Verdict, store};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use utoipa::ToSchema;

/// Exit status of a receipt that is right.
pub(super) const ACCEPT: u8 = 0;
/// Of one that is wrong.
pub(super) const REJECT: u8 = 1;
/// Of one of which that cannot be told.
pub(super) const INDETERMINATE: u8 = 2;

pub(crate) fn run(args: AuditArgs, json: bool) -> Result<ExitCode, Problem> {
    // Whatever keeps an audit from being made is no verdict on anybody.
    judged(args, json).map_err(|problem| problem.undecided().detail("verdict", "indeterminate"))
}

fn judged(args: AuditArgs, json: bool) -> Result<ExitCode, Problem> {
    let Some(path) = &args.receipt else {
        // The command line was refused without either.
        return audit_plan::judged(&args, args.plan.as_deref().unwrap_or(Path::new("")), json);
    };
    let signed = match receipt::read_any(path)? {
        AnyReceipt::Exact(signed) => signed,
        AnyReceipt::Float(signed) => return audit_float::judged(&args, &signed, json),
    };
    let home = home()?;
    if !args.tensor.is_empty() {
        return Err(Problem::usage("--tensor is for receipts of the float tier, this one is of texts".into()));
    }
    let directory = store::locate_or_find(&home, args.package.as_deref(), &signed.receipt.package)?;
    let transcript = args.transcript.as_deref().map(|path| Evidence::open(path, &signed.receipt)).transpose()?;
    let texts = texts(&args.texts)?;
    let choice = match (args.sample, args.blocks.as_slice()) {
        (Some(probability), _) => Choice::Sample(probability),
        (None, []) => Choice::All,
        (None, blocks) => Choice::Blocks(blocks.to_vec()),
    };

    let progress = Progress::new(json);
    let watch = |event| progress.show(event);
    watch(Event::Step("opening the package".into()));
    let report = Auditing::open(&directory, &home, &options(&home, &args)?).and_then(|mut auditing| {
        let given = Given { texts: texts.as_deref(), transcript: transcript.as_ref() };
        auditing.audit(&signed, &given, &choice, &watch)
    });
    progress.finish();
    let report = report?;
    if json {
        write_json(&Document::new(&report))?;
    } else {
        show(&report)?;
    }
    Ok(ExitCode::from(match report.verdict {
        Verdict::Accept(_) => ACCEPT,
        Verdict::Reject(_) => REJECT,
        Verdict::Indeterminate(_) => INDETERMINATE,
    }))
}

pub(super) fn options(home: &Home, args: &AuditArgs) -> Result<AuditOptions, Problem> {
    Ok(AuditOptions {
        run: RunOptions {
            arithmetic: if args.reference { Arithmetic::Reference } else { Arithmetic::default() },
            compiler: match args.engine {
                EngineArg::Cranelift => Compiler::Cranelift,
                EngineArg::Pulley => Compiler::Pulley,
            },
            threads: args.threads.map(usize::from),
            plugins: args.plugins.plugins.clone(),
            ..RunOptions::default()
        },
        policy: policy(home, &args.trust)?,
        method: if args.freivalds { Method::Freivalds } else { Method::Replay },
    })
}

/// The report, for programs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditReport)]
pub(crate) struct Document {
    /// `accept`, `reject` or `indeterminate`.
    verdict: &'static str,
    /// The receipt's digest.
    receipt: String,
    /// Who signed it.
    issuer: String,
    /// `replay` or `freivalds`.
    method: &'static str,
    /// Blocks on the receipt, on every batch.
    steps: usize,
    /// Of these, looked at.
    looked_at: usize,
    /// Outputs on the receipt.
    outputs: usize,
    /// Of these, computed again.
    outputs_looked_at: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    accused: Option<Accused>,
    /// Why the verdict is not to accept.
    reasons: Vec<String>,
    /// What may be wrong all the same.
    error_bound: String,
    /// Integer products that were checked.
    products: u64,
    /// Multiply-adds of these products.
    multiply_adds: u64,
    /// Multiply-adds that checking them took.
    checking_multiply_adds: u64,
    /// The verifier's digest.
    verifier: String,
    /// What its call cost.
    verifier_fuel: u64,
    /// Worth knowing, not decisive.
    notes: Vec<String>,
    timing_ms: Timing,
}

/// Who is wrong, and where.
#[derive(Debug, Serialize, ToSchema)]
struct Accused {
    node: String,
    batch: Option<u32>,
    block: Option<String>,
    operation: Option<String>,
    reason: String,
}

/// Where the time went, in milliseconds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditTiming)]
struct Timing {
    load: f64,
    audit: f64,
    audit_cpu: f64,
}

impl Document {
    pub(crate) fn new(report: &AuditReport) -> Self {
        let (accused, reasons) = match &report.verdict {
            Verdict::Accept(_) => (None, Vec::new()),
            Verdict::Reject(a) => {
                let accused = Accused {
                    node: a.node.clone(),
                    batch: a.batch,
                    block: a.block.clone(),
                    operation: a.operation.clone(),
                    reason: a.reason.clone(),
                };
                (Some(accused), vec![a.reason.clone()])
            }
            Verdict::Indeterminate(reasons) => (None, reasons.clone()),
        };
        let (looked_at, steps) = report.looked_at;
        Self {
            verdict: name(&report.verdict),
            receipt: report.receipt.to_string(),
            issuer: report.issuer.clone(),
            method: match report.method {
                Method::Replay => "replay",
                Method::Freivalds => "freivalds",
            },
            steps,
            looked_at,
            outputs: report.outputs.1,
            outputs_looked_at: report.outputs.0,
            accused,
            reasons,
            error_bound: bound(report),
            products: report.cost.products,
            multiply_adds: report.cost.multiply_adds,
            checking_multiply_adds: report.cost.checking,
            verifier: report.verifier.to_string(),
            verifier_fuel: report.verifier_fuel,
            notes: report.notes.clone(),
            timing_ms: Timing {
                load: super::answer::ms(report.cost.load),
                audit: super::answer::ms(report.cost.audit),
                audit_cpu: super::answer::ms(report.cost.cpu),
            },
        }
    }
}

const fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Accept(_) => "accept",
        Verdict::Reject(_) => "reject",
        Verdict::Indeterminate(_) => "indeterminate",
    }
}

/// What an accepted receipt may still hide.
fn bound(report: &AuditReport) -> String {
    let (looked_at, steps) = report.looked_at;
    let what = match report.method {
        Method::Replay => "none: every byte was computed again".to_owned(),
        Method::Freivalds => report.cost.error_bits.map_or_else(
            || "no product was checked".to_owned(),
            |bits| format!("a wrong row of a product passes with a probability of at most 2^-{bits}"),
        ),
    };
    if looked_at == steps {
        what
    } else if looked_at == 0 {
        format!("unknown: none of {steps} blocks were looked at")
    } else {
        format!("{what}; {} of {steps} blocks were not looked at", steps - looked_at)
    }
}

fn show(report: &AuditReport) -> Result<(), Problem> {
    let style = Style::of_stdout();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let entry = |name: &str| style.faint(&format!("{name:<9}"));
    let verdict = name(&report.verdict);
    let verdict = match &report.verdict {
        Verdict::Accept(_) => style.good(verdict),
        Verdict::Reject(_) => style.bad(verdict),
        Verdict::Indeterminate(_) => style.warn(verdict),
    };
    writeln!(out, "{} {verdict}", entry("verdict"))?;
    match &report.verdict {
        Verdict::Accept(_) => {}
        Verdict::Reject(accused) => {
            writeln!(out, "{} {}", entry("node"), style.strong(&plain(&accused.node)))?;
            let place = [
                accused.batch.map(|batch| format!("batch {batch}")),
                accused.block.as_ref().map(|block| format!("block {block}")),
                accused.operation.as_ref().map(|operation| format!("operation {operation}")),
            ];
            let place: Vec<String> = place.into_iter().flatten().collect();
            if !place.is_empty() {
                writeln!(out, "{} {}", entry("where"), plain(&place.join(", ")))?;
            }
            writeln!(out, "{} {}", entry("reason"), plain(&accused.reason))?;
        }
        Verdict::Indeterminate(reasons) => {
            for reason in reasons {
                writeln!(out, "{} {}", entry("because"), plain(reason))?;
            }
        }
    }
    let (looked_at, steps) = report.looked_at;
    let how = match report.method {
        Method::Replay => "run again",
        Method::Freivalds => "checked against the transcript",
    };
    writeln!(out, "{} {looked_at} of {steps} blocks {how}", entry("checked"))?;
    match report.outputs {
        (known, outputs) if known == outputs => {}
        (known, outputs) => writeln!(
            out,
            "{} {}",
            entry(""),
            style.warn(&format!("{known} of {outputs} outputs: the last block of the others was not looked at"))
        )?,
    }
    if report.cost.products > 0 {
        let share = 100.0 * report.cost.checking as f64 / report.cost.multiply_adds.max(1) as f64;
        writeln!(
            out,
            "{} {} integer products of {} multiply-adds, with {} ({share:.2} %)",
            entry(""),
            grouped(report.cost.products),
            grouped(report.cost.multiply_adds),
            grouped(report.cost.checking),
        )?;
    }
    writeln!(out, "{} {}", entry("error"), bound(report))?;
    let ms = super::answer::ms;
    writeln!(
        out,
        "{} load {:.0} ms, audit {:.1} ms ({:.1} ms of CPU)",
        entry("time"),
        ms(report.cost.load),
        ms(report.cost.audit),
        ms(report.cost.cpu)
    )?;
    writeln!(out, "{} {} {}", entry("receipt"), report.receipt, style.faint(&format!("by {}", report.issuer)))?;
    writeln!(out, "{} {}", entry("verifier"), report.verifier)?;
    for note in &report.notes {
        writeln!(out, "{} {note}", style.warn("note:"))?;
    }
    Ok(out.flush()?)
}
