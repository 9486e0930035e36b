//! `ostrakon transcript`.

use super::{rerun, size, write_json};
use crate::args::TranscriptArgs;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::style::Style;
use ostrakon_node::transcript;
use serde::Serialize;
use std::io::{self, Write};

/// What was written, for programs.
#[derive(Serialize)]
struct Document {
    path: String,
    receipt: String,
    blocks: usize,
    bytes: u64,
}

pub(crate) fn run(args: &TranscriptArgs, json: bool) -> Result<(), Problem> {
    let rerun = rerun::prepare(&args.rerun)?;
    let progress = Progress::new(json);
    let wanted = |place: usize| args.blocks.is_empty() || args.blocks.contains(&place);
    let written = transcript::write(&rerun, &wanted, &args.rerun.out, &|event| progress.show(event));
    progress.finish();
    let written = written?;
    let path = args.rerun.out.display().to_string();
    if json {
        let receipt = rerun.signed.receipt.digest().to_string();
        return write_json(&Document { path, receipt, blocks: written.blocks, bytes: written.bytes });
    }
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    writeln!(out, "{} blocks, {}: {}", written.blocks, size(written.bytes), style.strong(&path))?;
    writeln!(
        out,
        "{}",
        style.faint("It reveals every activation of these blocks: give it to auditors of this request only.")
    )?;
    Ok(())
}
