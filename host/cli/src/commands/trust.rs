//! `ostrakon trust`.

use super::{home, write_json};
use crate::args::TrustCommand;
use crate::problem::Problem;
use crate::style::Style;
use ostrakon_node::trust::{self, TrustReport};
use std::io::{self, Write};

pub(crate) fn run(command: TrustCommand, json: bool) -> Result<(), Problem> {
    let home = home()?;
    let report = match command {
        TrustCommand::List => trust::list(&home)?,
        TrustCommand::Add { key, name } => trust::add(&home, &key, &name)?,
    };
    if json { write_json(&report) } else { Ok(show(&report)?) }
}

fn show(report: &TrustReport) -> io::Result<()> {
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    let own = report.own.as_deref().unwrap_or("none yet; made when the first package is packed");
    writeln!(out, "{own}  {}", style.strong("this machine"))?;
    for signer in &report.trusted {
        writeln!(out, "{}  {}", signer.key, style.strong(&signer.name))?;
    }
    writeln!(out, "{}", style.faint(&report.file))
}
