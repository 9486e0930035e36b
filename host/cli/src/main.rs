//! The `ostrakon` command.
//!
//! It reads the command line, asks `ostrakon_node` and shows the answer: for people, with colour and
//! progress on a terminal only; with `--json`, as one JSON document on standard output, errors too.

mod args;
mod commands;
mod input;
mod problem;
mod progress;
mod runtime;
mod serve;
mod signals;
mod style;
mod table;
mod telemetry;
mod writer;

use args::Cli;
use clap::Parser;
use problem::Problem;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let start = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error),
    };
    let json = cli.json;
    match commands::run(cli, start) {
        Ok(status) => status,
        // Whoever reads the answer has had enough of it: `ostrakon ... | head`.
        Err(problem) if problem.is_closed_pipe() => ExitCode::SUCCESS,
        Err(problem) => problem.report(json),
    }
}

/// A command line that makes no sense. The parser's own text is for people; a program that asked for
/// JSON gets JSON.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && json {
        let text = error.to_string();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        // What follows up to the next paragraph of the parser's text: the values that would do.
        let why = lines.take_while(|line| !line.starts_with("Usage") && !line.starts_with("For more"));
        return Problem::usage(message).causes(why.map(str::to_owned)).hint("see `ostrakon help`").report(true);
    }
    // Help and version are no errors; the parser knows where each goes.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
