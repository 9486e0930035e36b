//! One module for each command: asks the node, shows the answer.

mod answer;
pub(crate) mod audit;
mod audit_float;
mod audit_plan;
mod chat;
mod dispute;
mod doctor;
mod fetch;
mod inspect;
mod node;
mod pack;
mod plugin;
mod rerun;
mod run;
mod run_private;
pub(crate) mod run_swarm;
mod run_tensors;
mod status;
mod trace;
mod transcript;
mod trust;

use crate::args::{Cli, Command, TextsArgs, TrustArgs};
use crate::input;
use crate::problem::Problem;
use clap::CommandFactory;
use ostrakon_node::{Home, NodeError, TrustPolicy};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Do what the command line asks. `start` is when the process began.
pub(crate) fn run(cli: Cli, start: Instant) -> Result<ExitCode, Problem> {
    let json = cli.json;
    let done = match cli.command {
        Command::Pack(args) => pack::run(args, json),
        Command::Run(args) => run::run(args, json, start),
        Command::Chat(args) => chat::run(&args, json),
        Command::Status(args) => status::run(&args, json),
        Command::Fetch(args) => fetch::run(&args, json),
        Command::Audit(args) => return audit::run(args, json),
        Command::Node(args) => return node::run(&args, json),
        Command::Serve(args) => return crate::serve::run(&args, json),
        Command::Dispute(args) => return dispute::run(&args, json),
        Command::Trace(args) => trace::run(&args, json),
        Command::Transcript(args) => transcript::run(&args, json),
        Command::Inspect(args) => inspect::run(&args, json),
        Command::Doctor(args) => doctor::run(&args, json),
        Command::Plugin(command) => plugin::run(command, json),
        Command::Trust(command) => trust::run(command, json),
        Command::Completions { shell } => completions(shell),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn completions(shell: clap_complete::Shell) -> Result<(), Problem> {
    // Into memory first: the generator panics when a pipe is closed.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ostrakon", &mut text);
    Ok(io::stdout().lock().write_all(&text)?)
}

pub(crate) fn home() -> Result<Home, Problem> {
    Home::from_env().map_err(|error| NodeError::from(error).into())
}

/// Whose packages may run.
pub(crate) fn policy(home: &Home, args: &TrustArgs) -> Result<TrustPolicy, Problem> {
    let mut policy = TrustPolicy::load(home).map_err(NodeError::from)?;
    policy.allow_unsigned = args.allow_unsigned;
    policy.allow_unknown = args.allow_unknown_signer;
    Ok(policy)
}

/// The texts that were given for a receipt, if any.
fn texts(args: &TextsArgs) -> Result<Option<Vec<String>>, Problem> {
    match (args.text.as_slice(), args.input.as_deref()) {
        ([], None) => Ok(None),
        (text, file) => Ok(Some(input::gather(text.to_vec(), file)?.texts)),
    }
}

/// What is written must not replace what was read.
fn expect_other_file(out: &Path, read: &[&Path]) -> Result<(), Problem> {
    let written = out.canonicalize().ok();
    match read.iter().find(|file| written.is_some() && file.canonicalize().ok() == written) {
        Some(file) => Err(Problem::usage(format!("--out would replace {}: choose another file", file.display()))),
        None => Ok(()),
    }
}

/// One JSON document, on one line.
pub(crate) fn write_json(value: &impl Serialize) -> Result<(), Problem> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// A text of somebody else's, for the terminal: without anything that a terminal would obey or that turns the
/// direction of what follows.
pub(crate) fn plain(text: &str) -> String {
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Bytes, for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// A number with its digits in threes.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_from_the_right() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1 234 567");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(12), "12 bytes");
        assert_eq!(size(87_654), "88 kB");
        assert_eq!(size(23_456_789), "23.5 MB");
    }
}
