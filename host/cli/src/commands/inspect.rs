//! `ostrakon inspect`.

use super::{grouped, home, plain, size, write_json};
use crate::args::InspectArgs;
use crate::problem::Problem;
use crate::style::Style;
use ostrakon_node::inspect::{self, ComponentReport, LimitsReport, PackageReport, SignatureReport};
use ostrakon_node::inspect_receipt::{self, FloatReceiptReport, ReceiptReport};
use ostrakon_node::{NodeError, TrustPolicy, store};
use std::io::{self, Write};
use std::path::Path;

pub(crate) fn run(args: &InspectArgs, json: bool) -> Result<(), Problem> {
    if args.target.is_file() {
        if let Some(report) = inspect_receipt::float_receipt(&args.target) {
            return if json {
                write_json(&report)
            } else {
                Ok(write_float_receipt(&mut io::stdout().lock(), &report)?)
            };
        }
        if let Some(report) = inspect_receipt::receipt(&args.target)? {
            return if json { write_json(&report) } else { Ok(write_receipt(&mut io::stdout().lock(), &report)?) };
        }
        let report = inspect::component_file(&args.target)?;
        if json {
            return write_json(&report);
        }
        let style = Style::of_stdout();
        let mut out = io::stdout().lock();
        write_component(&mut out, style, &report, "")?;
        return Ok(write_limits(&mut out, style, report.limits)?);
    }
    let home = home()?;
    let directory = store::locate(&home, &args.target)?;
    let policy = TrustPolicy::load(&home).map_err(NodeError::from)?;
    let report = match inspect::package(&directory, &policy) {
        Ok(report) => report,
        Err(error) => return Err(refused(error, &directory, &policy, json)?),
    };
    if json { write_json(&report) } else { Ok(write_package(&mut io::stdout().lock(), Style::of_stdout(), &report)?) }
}

/// A package that is refused still has a digest and a signature to show.
fn refused(error: NodeError, directory: &Path, policy: &TrustPolicy, json: bool) -> Result<Problem, Problem> {
    let problem = Problem::from(error);
    let Some(report) = inspect::refused(directory, policy) else { return Ok(problem) };
    if json {
        let signature = serde_json::to_value(&report.signature).map_err(io::Error::from)?;
        return Ok(problem.detail("path", report.path).detail("digest", report.digest).detail("signature", signature));
    }
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    for (name, value) in [("digest", report.digest), ("signature", signature(style, &report.signature))] {
        writeln!(out, "  {} {value}", style.faint(&format!("{name:<10}")))?;
    }
    Ok(problem)
}

fn write_package(out: &mut dyn Write, style: Style, report: &PackageReport) -> io::Result<()> {
    let entry = |name: &str| style.faint(&format!("{name:<10}"));
    writeln!(out, "{} {}", style.strong(&report.name), style.faint(&size(report.bytes)))?;
    writeln!(out, "  {} {}", entry("digest"), report.digest)?;
    writeln!(out, "  {} {}", entry("signature"), signature(style, &report.signature))?;
    writeln!(out, "  {} {}", entry("path"), report.path)?;
    writeln!(out, "  {} {}, {}", entry("family"), report.family, report.licence)?;
    writeln!(out, "  {} {}", entry("source"), report.source)?;
    if let Some(max_tokens) = report.max_tokens {
        writeln!(out, "  {} {max_tokens}", entry("max tokens"))?;
    }
    if let Some(generation) = &report.generation {
        let list = |tokens: &[u32]| tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(out, "  {} {} tokens, stops at {}", entry("writes"), generation.vocabulary, list(&generation.stop))?;
        if !generation.begin.is_empty() {
            write!(out, ", begins with {}", list(&generation.begin))?;
        }
        match &generation.template {
            Some(template) => writeln!(out, ", chat template of {} bytes", template.len())?,
            None => writeln!(out, ", no chat template")?,
        }
    }
    if let Some(tolerance) = report.tolerance {
        let (absolute, relative) = (tolerance.absolute, tolerance.relative);
        writeln!(out, "  {} float: machines may differ by {absolute} + {relative} x the number", entry("tier"))?;
    }
    write_limits(out, style, report.limits)?;
    for component in &report.components {
        write_component(out, style, component, "  ")?;
    }
    for shard in &report.shards {
        writeln!(out, "  {} {}", entry(&shard.name), shard.blocks.join(", "))?;
    }
    for graph in &report.graphs {
        writeln!(
            out,
            "{}  {}",
            style.strong(&graph.name),
            style.faint(&format!("{} {}", graph.encoding, size(graph.bytes)))
        )?;
        for (what, ports) in [("input", &graph.inputs), ("output", &graph.outputs)] {
            for port in ports {
                writeln!(out, "  {} {}", entry(what), plain(&port.text))?;
            }
        }
    }
    for block in &report.blocks {
        let settings: Vec<String> = block.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
        writeln!(out, "{}  {}", style.strong(&block.name), style.faint(&settings.join(" ")))?;
        for tensor in &block.tensors {
            let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
            let kind = format!("{} {}", tensor.layer, tensor.activation);
            let (name, shape) = (&tensor.name, shape.join(" x "));
            writeln!(out, "  {name:<30} {shape:<14} {}", style.faint(kind.trim_end()))?;
        }
    }
    Ok(())
}

fn signature(style: Style, report: &SignatureReport) -> String {
    let key = report.key.as_deref().unwrap_or_default();
    match (report.by.as_deref(), report.reason.as_deref()) {
        (Some(by), _) => format!("{} {by} {}", style.good("verified by"), style.faint(key)),
        (_, Some(reason)) => format!("{} {reason}", style.bad("failed:")),
        _ if key.is_empty() => style.warn(report.state),
        _ => format!("{} {key}", style.warn(report.state)),
    }
}

fn write_receipt(out: &mut dyn Write, report: &ReceiptReport) -> io::Result<()> {
    let style = Style::of_stdout();
    let entry = |name: &str| style.faint(&format!("{name:<10}"));
    let holds = |signed: bool| if signed { style.good("signed by") } else { style.bad("not signed by") };
    writeln!(out, "{} {}", style.strong("receipt"), report.digest)?;
    writeln!(out, "  {} {} {}", entry("issuer"), holds(report.signed), report.issuer)?;
    for (name, digest) in [
        ("request", &report.request),
        ("package", &report.package),
        ("profile", &report.profile),
        ("answer", &report.answer),
    ] {
        writeln!(out, "  {} {digest}", entry(name))?;
    }
    if let Some(answer) = &report.generated {
        let tokens = format!("{} tokens to a prompt of {}", answer.answer, answer.prompt);
        let how = if answer.temperature > 0.0 { format!("seed {}", answer.seed) } else { "the likeliest".to_owned() };
        writeln!(out, "  {} {tokens}, at most {}, {how}", entry("generated"), answer.max_tokens)?;
    }
    match &report.texts {
        Some(texts) => writeln!(out, "  {} {}, in the file", entry("texts"), texts.len())?,
        None => writeln!(out, "  {} {}, not in the file", entry("texts"), report.outputs.len())?,
    }
    for step in &report.steps {
        let short = |digest: &str| digest.get(..16).unwrap_or_default().to_owned();
        writeln!(
            out,
            "  {} {:<14} {} -> {}  {} fuel",
            entry(&format!("batch {}", step.batch)),
            plain(&step.block),
            short(&step.input),
            short(&step.output),
            grouped(step.fuel)
        )?;
    }
    let mut nodes: Vec<(&str, bool, &str)> =
        report.steps.iter().map(|step| (step.node.as_str(), step.signed, step.backend.as_str())).collect();
    nodes.sort_unstable();
    nodes.dedup();
    for (node, signed, backend) in nodes {
        writeln!(out, "  {} {} {node}, on {}", entry("blocks"), holds(signed), plain(backend))?;
    }
    Ok(())
}

fn write_float_receipt(out: &mut dyn Write, report: &FloatReceiptReport) -> io::Result<()> {
    let style = Style::of_stdout();
    let entry = |name: &str| style.faint(&format!("{name:<10}"));
    let holds = if report.signed { style.good("signed by") } else { style.bad("not signed by") };
    writeln!(
        out,
        "{} {}",
        style.strong("receipt of the float tier: numbers that can be compared, not proved"),
        report.digest
    )?;
    writeln!(out, "  {} {holds} {}", entry("issuer"), report.issuer)?;
    writeln!(out, "  {} {}", entry("package"), report.package)?;
    writeln!(out, "  {} {}", entry("profile"), report.profile)?;
    for (what, tensors) in [("input", &report.inputs), ("output", &report.outputs)] {
        for tensor in tensors {
            let (name, element) = (plain(&tensor.name), tensor.element.unwrap_or("?"));
            writeln!(out, "  {} {name} {element} {:?} {}", entry(what), tensor.shape, style.faint(&tensor.digest))?;
        }
    }
    writeln!(out, "  {} {}", entry("fuel"), grouped(report.fuel))
}

fn write_component(out: &mut dyn Write, style: Style, report: &ComponentReport, indent: &str) -> io::Result<()> {
    let entry = |name: &str| style.faint(&format!("{name:<10}"));
    let world = report.world.unwrap_or("no known world");
    writeln!(out, "{indent}{} {}, {world}", style.strong(&report.name), size(report.bytes as u64))?;
    writeln!(out, "{indent}  {} {}", entry("digest"), report.digest)?;
    match &report.refusal {
        None => writeln!(out, "{indent}  {} {}", entry("admission"), style.good("let in"))?,
        Some(why) => writeln!(out, "{indent}  {} {} {why}", entry("admission"), style.bad("refused:"))?,
    }
    for (name, list) in [("imports", &report.imports), ("exports", &report.exports)] {
        let shown = if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
        writeln!(out, "{indent}  {} {shown}", entry(name))?;
    }
    for declared in &report.declares {
        let (found, limit) = (grouped(declared.found), grouped(declared.limit));
        writeln!(
            out,
            "{indent}  {} {found} {} {}",
            entry("declares"),
            declared.what,
            style.faint(&format!("of {limit}"))
        )?;
    }
    Ok(())
}

fn write_limits(out: &mut dyn Write, style: Style, limits: LimitsReport) -> io::Result<()> {
    writeln!(
        out,
        "  {} a call: {} fuel; an instance: {} memory, {} table elements, {} of tensors, {} tensor handles",
        style.faint(&format!("{:<10}", "limits")),
        grouped(limits.fuel),
        size(limits.memory_bytes),
        grouped(limits.table_elements),
        size(limits.tensor_bytes),
        grouped(u64::from(limits.tensor_handles)),
    )
}
