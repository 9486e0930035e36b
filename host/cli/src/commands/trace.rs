//! `ostrakon trace`.

use super::{expect_other_file, give_texts, home, policy, size, write_json};
use crate::args::TraceArgs;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::style::Style;
use ostrakon_node::{RunOptions, audit, load_or_create_key, receipt, store, trace};
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
    let options = RunOptions::default();
    let watch = |event| progress.show(event);
    let written =
        trace::write(&signed, args.batch, &args.block, &directory, &policy, &home, &options, &key, &args.out, &watch);
    progress.finish();
    let trace::Written { block, operations, bytes } = written?;
    let path = args.out.display().to_string();
    if json {
        let receipt = signed.receipt.digest().to_string();
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
