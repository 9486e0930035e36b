//! `ostrakon transcript`.

use super::{expect_other_file, give_texts, home, policy, size, write_json};
use crate::args::TranscriptArgs;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::style::Style;
use ostrakon_node::transcript::Rerun;
use ostrakon_node::{RunOptions, audit, load_or_create_key, receipt, store, transcript};
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
    let home = home()?;
    let policy = policy(&home, &args.trust)?;
    let key = load_or_create_key(&home)?;
    let mut signed: ostrakon_node::SignedReceipt = receipt::read(&args.receipt)?;
    expect_other_file(&args.out, &[&args.receipt])?;
    give_texts(&mut signed, &args.texts)?;
    let directory = match &args.package {
        Some(word) => store::locate(&home, word)?,
        None => audit::stored(&home, &signed.receipt.package)?,
    };
    let progress = Progress::new(json);
    let wanted = |place: usize| args.blocks.is_empty() || args.blocks.contains(&place);
    let options = RunOptions::default();
    let rerun =
        Rerun { signed: &signed, directory: &directory, policy: &policy, home: &home, options: &options, key: &key };
    let written = transcript::write(&rerun, &wanted, &args.out, &|event| progress.show(event));
    progress.finish();
    let written = written?;
    let path = args.out.display().to_string();
    if json {
        let receipt = signed.receipt.digest().to_string();
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
