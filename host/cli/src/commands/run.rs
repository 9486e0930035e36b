//! `ostrakon run`.

use super::answer::{Document, ms};
use super::{grouped, home, policy, run_private, run_swarm, run_tensors, write_json};
use crate::args::{EngineArg, RunArgs};
use crate::input::{self, Input};
use crate::problem::Problem;
use crate::progress::Progress;
use crate::style::Style;
use crate::table;
use ostrakon_node::{Answer, Compiler, Model, RunOptions, Tier, float, load_or_create_key, receipt, simd_level, store};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) fn run(args: RunArgs, json: bool, start: Instant) -> Result<(), Problem> {
    if args.private {
        return run_private::run(args, json, start);
    }
    if !args.swarm.is_empty() {
        return run_swarm::run(args, json, start);
    }
    let home = home()?;
    // A package that is not there is said before anyone types texts.
    let directory = store::locate(&home, &args.package)?;
    match float::tier(&directory) {
        Ok(Tier::Float) => return run_tensors::run(args, json, start, &directory),
        Ok(Tier::Exact) => run_tensors::expect_none(&args)?,
        Err(error) if !args.tensor.is_empty() => return Err(error.into()),
        // Why it cannot be read is said when it is loaded.
        Err(_) => {}
    }
    let options = options(&args)?;
    let policy = policy(&home, &args.trust)?;
    let key = args.receipt.is_some().then(|| load_or_create_key(&home)).transpose()?;
    let input = input::gather(args.text, args.input.as_deref())?;

    let mut model = Model::load(&directory, &policy, &home, &options)?;
    let most = args.batch.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let progress = Progress::new(json);
    let watch = |event| progress.show(event);
    let answer = match &key {
        Some(key) => {
            model.run_with_receipt(&input.texts, most, &watch, key).map(|(answer, signed)| (answer, Some(signed)))
        }
        None => model.run(&input.texts, most, &watch).map(|answer| (answer, None)),
    };
    progress.finish();
    let (answer, mut signed) = answer?;
    let written = match (&args.receipt, &mut signed) {
        (Some(path), Some(signed)) => {
            signed.request = signed.request.take().filter(|_| !args.texts_apart);
            receipt::write_receipt(path, signed)
        }
        _ => Ok(()),
    };

    notes(&input, &answer);
    let times = Times::of(&model, &answer, start.elapsed());
    if json {
        let receipt = signed.as_ref().map(|signed| signed.receipt.digest());
        write_json(&Document::new(&model, &input.texts, &answer, &times, receipt))?;
    } else {
        show(&model, &input, &answer, &times, args.receipt.as_deref().filter(|_| written.is_ok()))?;
    }
    // What was computed is shown first: it is not lost because a file cannot be written.
    Ok(written?)
}

pub(super) fn options(args: &RunArgs) -> Result<RunOptions, Problem> {
    let simd = args.simd.as_deref().map(simd_level).transpose()?;
    Ok(RunOptions {
        arithmetic: args.backend,
        compiler: match args.engine {
            EngineArg::Cranelift => Compiler::Cranelift,
            EngineArg::Pulley => Compiler::Pulley,
        },
        threads: args.threads.map(usize::from),
        simd,
        plugins: args.plugins.plugins.clone(),
        ..RunOptions::default()
    })
}

/// What happened to the texts that nobody asked for, on standard error.
fn notes(input: &Input, answer: &Answer) {
    let style = Style::of_stderr();
    let mut lines = Vec::new();
    if input.empty_lines > 0 {
        lines.push(format!("{} empty lines were left out", input.empty_lines));
    }
    let cut: Vec<String> =
        answer.outputs.iter().enumerate().filter(|(_, o)| o.truncated).map(|(at, _)| (at + 1).to_string()).collect();
    if let Some(tokens) = answer.outputs.iter().find(|o| o.truncated).map(|o| o.tokens) {
        let (which, more) = match cut.get(..8) {
            Some(first) if cut.len() > 8 => (first.join(", "), format!(" and {} more", cut.len() - 8)),
            _ => (cut.join(", "), String::new()),
        };
        lines.push(format!("cut to {tokens} tokens, the most this model reads: text {which}{more}"));
    }
    for line in lines {
        // A note that cannot be shown is not worth failing for.
        let _ = writeln!(io::stderr().lock(), "{} {line}", style.warn("note:"));
    }
}

/// Where the time went.
pub(super) struct Times {
    pub(super) total: Duration,
    pub(super) load: Duration,
    pub(super) tokenise: Duration,
    /// By kind of block.
    pub(super) kinds: BTreeMap<String, Duration>,
    /// Steps of loading; they overlap.
    pub(super) steps: [(&'static str, Duration); 5],
}

impl Times {
    fn of(model: &Model, answer: &Answer, total: Duration) -> Self {
        let mut kinds = BTreeMap::new();
        for block in &answer.blocks {
            *kinds.entry(block.kind.clone()).or_default() += block.time;
        }
        let load = model.load_times();
        let steps = [
            ("verify", load.verify),
            ("self_test", load.arithmetic),
            ("tokenizer", load.tokenizer),
            ("components", load.components),
            ("open", load.open),
        ];
        Self { total, load: load.total, tokenise: answer.tokenise, kinds, steps }
    }
}

fn show(model: &Model, input: &Input, answer: &Answer, times: &Times, receipt: Option<&Path>) -> Result<(), Problem> {
    let style = Style::of_stdout();
    let mut out = io::BufWriter::new(io::stdout().lock());
    match (input.texts.as_slice(), answer.outputs.as_slice()) {
        ([text], [output]) => {
            let values = &output.values;
            writeln!(out, "{}  {}", table::shorten(text), style.faint(&format!("{} tokens", output.tokens)))?;
            let first: Vec<String> = values.iter().take(6).map(|v| format!("{v:.6}")).collect();
            writeln!(out, "[{}, … {} numbers]", first.join(", "), values.len())?;
        }
        _ => table::outputs(&mut out, style, &input.texts, &answer.outputs)?,
    }
    let entry = |name: &str| style.faint(&format!("{name:<8}"));
    writeln!(out)?;
    writeln!(out, "{} {}", entry("digest"), style.strong(&answer.digest.to_string()))?;
    writeln!(out, "{} {} {}", entry("package"), model.digest(), style.faint(model.name()))?;
    writeln!(out, "{} {}", entry("profile"), model.profile())?;
    writeln!(out, "{} {}", entry("fuel"), grouped(answer.fuel))?;
    let mut parts = vec![format!("load {:.0}", ms(times.load)), format!("tokenise {:.1}", ms(times.tokenise))];
    parts.extend(times.kinds.iter().map(|(kind, &time)| format!("{kind} {:.1}", ms(time))));
    if let Some(path) = receipt {
        writeln!(
            out,
            "{} {} {}",
            entry("receipt"),
            path.display(),
            style.faint(
                "check it with `ostrakon audit` and this file (and --package, for one that is not in the store)"
            )
        )?;
    }
    writeln!(out, "{} {:.0} ms: {}", entry("time"), ms(times.total), parts.join(", "))?;
    Ok(out.flush()?)
}
