//! `ostrakon plugin`.

use super::{size, write_json};
use crate::args::PluginCommand;
use crate::problem::Problem;
use crate::style::Style;
use ostrakon_node::component::{self, Built};
use std::io::{self, Write};

pub(crate) fn run(command: PluginCommand, json: bool) -> Result<(), Problem> {
    let built = match command {
        PluginCommand::Build { core, out } => component::build_file(&core, &out)?,
        PluginCommand::Compose { block, reference, out } => component::compose_files(&block, &reference, &out)?,
    };
    if json { write_json(&built) } else { Ok(show(&built)?) }
}

fn show(built: &Built) -> io::Result<()> {
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    writeln!(out, "{} {}", built.path, style.faint(&size(built.bytes as u64)))?;
    writeln!(out, "  {}   {}", style.faint("digest"), built.digest)?;
    writeln!(out, "  {}  {}", style.faint("imports"), built.imports.join(", "))?;
    writeln!(out, "  {}  {}", style.faint("exports"), built.exports.join(", "))
}
