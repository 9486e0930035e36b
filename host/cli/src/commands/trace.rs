//! `ostrakon trace`.

use super::{rerun, size, write_json};
use crate::args::TraceArgs;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::style::Style;
use ostrakon_node::trace;
use serde::Serialize;
use std::io::{self, Write};

/// What was written, for programs.
#[derive(Serialize)]
struct Document {
    path: String,
    receipt: String,
    batch: u32,
    block: String,
    operations: usize,
    bytes: u64,
}

pub(crate) fn run(args: &TraceArgs, json: bool) -> Result<(), Problem> {
    let rerun = rerun::prepare(&args.rerun)?;
    let progress = Progress::new(json);
    let written = trace::write(&rerun, args.batch, &args.block, &args.rerun.out, &|event| progress.show(event));
    progress.finish();
    let trace::Written { block, operations, bytes } = written?;
    let path = args.rerun.out.display().to_string();
    if json {
        let receipt = rerun.signed.receipt.digest().to_string();
        return write_json(&Document { path, receipt, batch: args.batch, block, operations, bytes });
    }
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    writeln!(out, "{block}: {operations} operations, {}: {}", size(bytes), style.strong(&path))?;
    writeln!(
        out,
        "{}",
        style.faint("It reveals every activation of this block: give it to referees of this request only.")
    )?;
    Ok(())
}
