//! `ostrakon audit --plan`.

use super::audit::{ACCEPT, INDETERMINATE, REJECT};
use super::run_swarm::with_suffix;
use super::{home, plain, write_json};
use crate::args::AuditArgs;
use crate::problem::Problem;
use crate::style::Style;
use ostrakon_node::RunOptions;
use ostrakon_node::plugins::{Plugins, SCHEDULER};
use ostrakon_node::swarm::plan_audit::{PlanVerdict, audit_plan};
use ostrakon_node::swarm::schedule::Scheduler;
use ostrakon_protocol::{Document, SignedPlan, Snapshot, decode};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Make the plan again from its snapshot and say whether it is the same.
pub(super) fn judged(args: &AuditArgs, path: &Path, json: bool) -> Result<ExitCode, Problem> {
    let signed: SignedPlan = read("plan", path)?;
    let beside = with_suffix(path, ".snapshot");
    let snapshot: Snapshot = read("snapshot", args.snapshot.as_deref().unwrap_or(&beside))?;
    let component = Plugins::find(args.plugins.plugins.as_deref()).and_then(|plugins| plugins.read(SCHEDULER));
    let component = component.map_err(ostrakon_node::NodeError::from)?;
    let scheduler = Scheduler::load(&component, &home()?, &RunOptions::default())?;
    let verdict = audit_plan(&scheduler, &signed, &snapshot);
    let (word, why, status) = match &verdict {
        PlanVerdict::Follows => ("follows", None, ACCEPT),
        PlanVerdict::DoesNot { why } => ("does not follow", Some(why), REJECT),
        PlanVerdict::Indeterminate { why } => ("indeterminate", Some(why), INDETERMINATE),
    };
    let record = &signed.record;
    if json {
        write_json(&json!({
            "verdict": word,
            "why": why,
            "plan": record.digest().to_string(),
            "scheduler": record.scheduler.to_string(),
            "component": record.component.to_string(),
            "snapshot": record.snapshot.to_string(),
            "nodes": snapshot.statuses.len(),
        }))?;
    } else {
        let style = Style::of_stdout();
        let mut out = io::stdout().lock();
        let said = plain(&verdict.to_string());
        let said = if status == ACCEPT { style.good(&said) } else { style.bad(&said) };
        let entry = |name: &str| style.faint(&format!("{name:<10}"));
        writeln!(out, "{said}")?;
        writeln!(out, "{} {}", entry("plan"), record.digest())?;
        writeln!(out, "{} {}", entry("scheduler"), record.scheduler)?;
        writeln!(out, "{} {}", entry("component"), record.component)?;
        writeln!(
            out,
            "{} {} {}",
            entry("snapshot"),
            record.snapshot,
            style.faint(&format!("{} nodes", snapshot.statuses.len()))
        )?;
    }
    Ok(ExitCode::from(status))
}

fn read<T: Document>(what: &str, path: &Path) -> Result<T, Problem> {
    let failed = |why: String| Problem::usage(format!("cannot read the {what} {}: {why}", path.display()));
    let length = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if length > T::LIMIT as u64 {
        return Err(failed(format!("{length} bytes, at most {} are read", T::LIMIT)));
    }
    let bytes = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    decode(&bytes).map_err(|e| failed(e.to_string()))
}
