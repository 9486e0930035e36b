//! `ostrakon doctor`.

use super::{home, write_json};
use crate::args::DoctorArgs;
use crate::problem::Problem;
use crate::style::Style;
use ostrakon_node::doctor::{self, State};
use serde_json::json;
use std::io::{self, Write};

pub(crate) fn run(args: &DoctorArgs, json: bool) -> Result<(), Problem> {
    let checks = doctor::examine(&home()?, args.plugins.plugins.as_deref());
    let bad: Vec<&str> = checks.iter().filter(|c| c.state == State::Bad).map(|c| c.name).collect();
    if json {
        return write_json(&json!({ "ok": bad.is_empty(), "checks": checks }));
    }
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    for check in &checks {
        let mark = match check.state {
            State::Good => style.good("+"),
            State::Absent => style.warn("-"),
            State::Bad => style.bad("!"),
        };
        writeln!(out, "{mark} {:<12} {}", check.name, check.found)?;
        if let Some(advice) = &check.advice {
            writeln!(out, "  {:<12} {}", "", style.faint(&format!("-> {advice}")))?;
        }
    }
    Ok(())
}
