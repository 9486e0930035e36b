//! Holds a backend against the scalar reference, operation by operation, and prints a table.
//!
//! `conformance [--backend cpu|openvino|cuda[:INDEX]] [--simd scalar|avx2|avx512] [--threads N] [--seed N] [--quick]`
//!
//! It is one file that needs nothing beside it (`strip` it and carry it to any x86-64 machine with Linux; OpenVINO is looked
//! for where `ostrakon doctor` says), so a new machine is tried with one command. It ends with status 0 if every element of
//! every operation has the reference's bits, with 1 if one has not, with 2 if it could not be tried.

#![allow(clippy::print_stderr, reason = "a command says what it was given wrong")]

mod layers;
mod rows;

use ostrakon_exact::simd::{Executor, Level};
use ostrakon_nn::{Host, MemoryLayers, Meter, NnError, ProvenBackend, Tensor};
use ostrakon_node::Home;
use ostrakon_tests::random::Random;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A line for whoever still reads.
macro_rules! say {
    ($($arg:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

const USAGE: &str =
    "conformance [--backend cpu|openvino|cuda[:INDEX]] [--simd scalar|avx2|avx512] [--threads N] [--seed N] [--quick]";

/// What to try.
struct Options {
    backend: String,
    level: Level,
    threads: usize,
    seed: u64,
    quick: bool,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = Self { backend: "cpu".to_owned(), level: Level::detect(), threads, seed: 1, quick: false };
        while let Some(flag) = args.next() {
            if flag == "--quick" {
                options.quick = true;
                continue;
            }
            let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
            let number = |text: String| text.parse::<u64>().map_err(|_| format!("{flag}: {text:?} is no number"));
            match flag.as_str() {
                "--backend" => options.backend = value()?,
                "--simd" => {
                    let name = value()?;
                    options.level =
                        Level::from_name(&name).ok_or_else(|| format!("--simd: {name:?} is no level\n{USAGE}"))?;
                }
                "--threads" => options.threads = usize::try_from(number(value()?)?).unwrap_or(usize::MAX),
                "--seed" => options.seed = number(value()?)?,
                _ => return Err(format!("{flag:?} is unknown\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

/// A machine that is tried.
pub(crate) struct Trial {
    executor: Arc<Executor>,
    backend: ProvenBackend,
    seed: u64,
    pub(crate) quick: bool,
    lines: Vec<Line>,
    first: Option<String>,
}

/// What came of one operation.
struct Line {
    operation: &'static str,
    cases: usize,
    elements: usize,
    wrong: usize,
    time: Duration,
}

/// One operation on one input: what it gave, what it should have given.
pub(crate) struct Compared {
    pub(crate) what: String,
    pub(crate) got: Result<Tensor, NnError>,
    pub(crate) wanted: Vec<f32>,
    /// Of the operation, with the preparation of its layer.
    pub(crate) time: Duration,
}

impl Trial {
    /// A host of these layers.
    pub(crate) fn host(&self, layers: MemoryLayers) -> Host {
        Host::new(Arc::clone(&self.executor), self.backend.clone(), Arc::new(layers))
    }

    /// Try one operation on `cases` inputs, each from numbers of its own.
    pub(crate) fn operation<C>(
        &mut self,
        operation: &'static str,
        cases: &[C],
        mut run: impl FnMut(&Self, &C, &mut Random) -> Compared,
    ) {
        let mut line = Line { operation, cases: cases.len(), elements: 0, wrong: 0, time: Duration::ZERO };
        for (number, case) in cases.iter().enumerate() {
            let mut random = Random(self.seed ^ (number as u64) << 32 ^ ((line.operation.len() as u64) << 56));
            let compared = run(self, case, &mut random);
            line.elements += compared.wanted.len();
            line.time += compared.time;
            let (wrong, first) = compared.differences();
            line.wrong += wrong;
            if let (None, Some(first)) = (&self.first, first) {
                self.first = Some(format!("{operation}, case {number}, {}: {first}", compared.what));
            }
        }
        say!("{line}");
        self.lines.push(line);
    }
}

impl Compared {
    /// How many elements differ, and the first one.
    fn differences(&self) -> (usize, Option<String>) {
        let got =
            match self.got.as_ref().map_err(NnError::to_string).and_then(|y| y.as_f32().map_err(|e| e.to_string())) {
                Ok(got) => got,
                Err(error) => return (self.wanted.len().max(1), Some(error)),
            };
        if got.len() != self.wanted.len() {
            return (self.wanted.len().max(1), Some(format!("{} elements, not {}", got.len(), self.wanted.len())));
        }
        let wrong = || {
            let pairs = got.iter().zip(&self.wanted).enumerate();
            pairs.filter(|(_, (got, wanted))| got.to_bits() != wanted.to_bits())
        };
        let first = wrong().next().map(|(at, (got, wanted))| {
            format!("element {at} is {got:e} ({:08x}), not {wanted:e} ({:08x})", got.to_bits(), wanted.to_bits())
        });
        (wrong().count(), first)
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { operation, cases, elements, wrong, time } = self;
        let verdict = if *wrong == 0 { "equal".to_owned() } else { format!("{wrong} DIFFER") };
        write!(f, "{operation:<24} {cases:>6} {elements:>12} {:>10.1}   {verdict}", time.as_secs_f64() * 1e3)
    }
}

/// An operation with the preparation of its layer, and how long both took.
pub(crate) fn timed(run: impl FnOnce(&Meter) -> Result<Tensor, NnError>) -> (Result<Tensor, NnError>, Duration) {
    let meter = Meter::unlimited();
    let begun = Instant::now();
    let got = run(&meter);
    (got, begun.elapsed())
}

fn start(options: &Options) -> Result<Trial, String> {
    let executor = Arc::new(Executor::new(options.level, options.threads).map_err(|error| error.to_string())?);
    let home = Home::from_env().map_err(|error| error.to_string())?;
    let backend = ProvenBackend::start(&options.backend, &executor, Some(&home.openvino()))
        .map_err(|error| format!("the backend `{}` cannot be used here: {error}", options.backend))?;
    Ok(Trial { executor, backend, seed: options.seed, quick: options.quick, lines: Vec::new(), first: None })
}

fn main() -> ExitCode {
    let started = Options::read(std::env::args().skip(1)).and_then(|options| Ok((start(&options)?, options)));
    let (mut trial, options) = match started {
        Ok(started) => started,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    say!("backend {}, {}, {} threads, seed {}\n", options.backend, options.level, options.threads, options.seed);
    say!("{:<24} {:>6} {:>12} {:>10}", "operation", "cases", "elements", "ms");
    layers::try_all(&mut trial);
    rows::try_all(&mut trial);
    let elements: usize = trial.lines.iter().map(|line| line.elements).sum();
    match trial.first {
        None => {
            say!("\nall {elements} elements have the bits of the scalar reference");
            ExitCode::SUCCESS
        }
        Some(first) => {
            say!("\nNOT EXACT. First difference: {first}");
            ExitCode::from(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(got: Vec<f32>, wanted: Vec<f32>) -> (usize, Option<String>) {
        let got = Tensor::from_f32(vec![got.len() as u32], got);
        Compared { what: String::new(), got, wanted, time: Duration::ZERO }.differences()
    }

    #[test]
    fn one_bit_is_a_difference() {
        assert_eq!(compared(vec![1.0, f32::NAN, -0.0], vec![1.0, f32::NAN, -0.0]), (0, None));
        let (wrong, first) = compared(vec![1.0, 0.0, 2.0], vec![1.0, -0.0, 3.0]);
        assert_eq!(wrong, 2);
        assert_eq!(first.unwrap(), "element 1 is 0e0 (00000000), not -0e0 (80000000)");
        assert_eq!(compared(vec![1.0], vec![1.0, 2.0]).1.unwrap(), "1 elements, not 2");
    }

    #[test]
    fn bad_arguments_are_refused() {
        for args in [&["--simd", "sse"][..], &["--threads", "x"], &["--seed"], &["fast"]] {
            assert!(Options::read(args.iter().map(|&arg| arg.to_owned())).is_err(), "{args:?}");
        }
    }
}
