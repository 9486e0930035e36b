//! `ostrakon run` of a package of the float tier: NPY files in, tensors out.

use super::answer::ms;
use super::run::options;
use super::{grouped, home, plain, policy, write_json};
use crate::args::RunArgs;
use crate::problem::Problem;
use crate::style::Style;
use ostrakon_node::float::{FloatAnswer, FloatModel, NamedOutput};
use ostrakon_node::npy;
use ostrakon_node::values::values;
use ostrakon_node::{NodeError, Tensor, load_or_create_key, receipt};
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many of an output's largest values are shown.
const TOP: usize = 5;

pub(crate) fn run(args: RunArgs, json: bool, start: Instant, directory: &Path) -> Result<(), Problem> {
    expect_no_text_options(&args)?;
    expect_receipt_apart(&args)?;
    let home = home()?;
    let (options, policy) = (options(&args)?, policy(&home, &args.trust)?);
    let inputs = args.tensor.iter().map(|given| input(given)).collect::<Result<Vec<_>, _>>()?;
    let model = FloatModel::load(directory, &policy, &home, &options)?;
    let answer = match &args.receipt {
        Some(path) => {
            let (answer, signed) = model.run_with_receipt(inputs, &load_or_create_key(&home)?)?;
            receipt::write(path, &signed)?;
            answer
        }
        None => model.run(inputs)?,
    };
    let files = args.out.as_deref().map(|out| write(out, &answer)).transpose()?;
    let total = start.elapsed();
    if json {
        return write_json(&Document::new(&model, &answer, files.as_deref(), total));
    }
    Ok(show(&model, &answer, files.as_deref(), args.receipt.as_deref(), total)?)
}

/// What a package of the exact tier is told where it is given what belongs to the other one.
pub(crate) fn expect_none(args: &RunArgs) -> Result<(), Problem> {
    let given = if args.out.is_some() { "--out" } else { "--tensor" };
    if args.tensor.is_empty() && args.out.is_none() {
        return Ok(());
    }
    Err(Problem::usage(format!("{given} is for packages of the float tier, this one takes texts"))
        .hint("give --text T or --input FILE"))
}

fn expect_no_text_options(args: &RunArgs) -> Result<(), Problem> {
    let given = [
        (!args.text.is_empty(), "--text"),
        (args.input.is_some(), "--input"),
        (args.batch.is_some(), "--batch"),
        (args.texts_apart, "--texts-apart"),
    ];
    if let Some((_, option)) = given.iter().find(|(is_given, _)| *is_given) {
        return Err(Problem::usage(format!("{option} is for packages that take texts, this one takes tensors"))
            .hint("give --tensor NAME=FILE.npy for each input; `ostrakon inspect` shows them"));
    }
    Ok(())
}

/// A receipt that would take the place of an input.
fn expect_receipt_apart(args: &RunArgs) -> Result<(), Problem> {
    let Some(receipt) = args.receipt.as_deref().and_then(|path| fs::canonicalize(path).ok()) else { return Ok(()) };
    let files = args.tensor.iter().filter_map(|given| given.rsplit_once('='));
    match files.filter_map(|(_, file)| fs::canonicalize(file).ok()).find(|file| *file == receipt) {
        None => Ok(()),
        Some(file) => Err(Problem::usage(format!("--receipt would replace the input {}", file.display()))),
    }
}

/// `NAME=FILE`. Names may hold `=`, files of this kind end in `.npy`: the last `=` parts them.
pub(super) fn input(given: &str) -> Result<(String, Tensor), Problem> {
    let (name, file) = given
        .rsplit_once('=')
        .filter(|(name, file)| !name.is_empty() && !file.is_empty())
        .ok_or_else(|| Problem::usage(format!("--tensor {given:?} is not NAME=FILE.npy")))?;
    let tensor = npy::read(Path::new(file)).map_err(|error| {
        Problem::usage(format!("cannot read {file}: {error}"))
            .hint("--tensor takes NAME=FILE.npy, as numpy.save writes it")
    })?;
    Ok((name.to_owned(), tensor))
}

/// Each output into a file, numbered, so that names of any kind give names of files.
fn write(out: &Path, answer: &FloatAnswer) -> Result<Vec<PathBuf>, Problem> {
    let failed = |action, path: &Path, source| {
        Problem::from(NodeError::File { action, path: path.display().to_string(), source })
    };
    fs::create_dir_all(out).map_err(|error| failed("make the directory", out, error))?;
    let mut files = Vec::new();
    for (at, output) in answer.outputs.iter().enumerate() {
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name: String = output.name.chars().map(|c| if is_plain(&c) { c } else { '_' }).take(64).collect();
        let path = out.join(format!("{at}-{name}.npy"));
        npy::write(&path, &output.tensor).map_err(|error| failed("write", &path, error))?;
        files.push(path);
    }
    Ok(files)
}

/// The largest values and where they are, counted through the whole tensor.
fn top(tensor: &Tensor) -> Vec<(usize, f64)> {
    let mut top: Vec<(usize, f64)> = Vec::new();
    for (at, value) in values(tensor).enumerate() {
        let place = top.partition_point(|(_, other)| *other >= value);
        if place < TOP && !value.is_nan() {
            top.insert(place, (at, value));
            top.truncate(TOP);
        }
    }
    top
}

fn show(
    model: &FloatModel,
    answer: &FloatAnswer,
    files: Option<&[PathBuf]>,
    receipt: Option<&Path>,
    total: Duration,
) -> io::Result<()> {
    let style = Style::of_stdout();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let entry = |name: &str| style.faint(&format!("{name:<8}"));
    for (at, NamedOutput { name, tensor, digest }) in answer.outputs.iter().enumerate() {
        writeln!(out, "{}  {} {:?}", style.strong(&plain(name)), tensor.ty(), tensor.dims())?;
        let largest: Vec<String> = top(tensor).iter().map(|(at, value)| format!("[{at}] {value:.6}")).collect();
        writeln!(out, "  {} {}", entry("largest"), largest.join("  "))?;
        writeln!(out, "  {} {digest}", entry("digest"))?;
        if let Some(file) = files.and_then(|files| files.get(at)) {
            writeln!(out, "  {} {}", entry("file"), file.display())?;
        }
    }
    writeln!(out)?;
    writeln!(out, "{} float: the digests may differ on another machine", entry("tier"))?;
    writeln!(out, "{} {} {}", entry("package"), model.digest(), style.faint(model.name()))?;
    writeln!(out, "{} {}", entry("fuel"), grouped(answer.fuel))?;
    if let Some(path) = receipt {
        let how = style.faint("check it with `ostrakon audit`, this file and the same --tensor");
        writeln!(out, "{} {} {how}", entry("receipt"), path.display())?;
    }
    let (load, compute) = (ms(model.load_time()), ms(answer.compute));
    writeln!(out, "{} {:.0} ms: load {load:.0}, compute {compute:.1}", entry("time"), ms(total))?;
    out.flush()
}

/// The JSON.
#[derive(Serialize)]
struct Document<'a> {
    model: &'a str,
    tier: &'static str,
    package: String,
    profile: String,
    outputs: Vec<Output<'a>>,
    fuel: u64,
    blocks: Vec<Block<'a>>,
    timing_ms: Timing,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    element: &'static str,
    shape: &'a [u32],
    digest: String,
    largest: Vec<Largest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

#[derive(Serialize)]
struct Largest {
    index: usize,
    value: f64,
}

#[derive(Serialize)]
struct Block<'a> {
    name: &'a str,
    fuel: u64,
    ms: f64,
}

#[derive(Serialize)]
struct Timing {
    total: f64,
    load: f64,
    compute: f64,
}

impl<'a> Document<'a> {
    fn new(model: &'a FloatModel, answer: &'a FloatAnswer, files: Option<&[PathBuf]>, total: Duration) -> Self {
        let outputs = answer.outputs.iter().enumerate().map(|(at, output)| Output {
            name: &output.name,
            element: output.tensor.ty().name(),
            shape: output.tensor.dims(),
            digest: output.digest.to_string(),
            largest: top(&output.tensor).into_iter().map(|(index, value)| Largest { index, value }).collect(),
            file: files.and_then(|files| files.get(at)).map(|file| file.display().to_string()),
        });
        let blocks = answer.blocks.iter().map(|b| Block { name: &b.name, fuel: b.fuel, ms: ms(b.time) });
        Self {
            model: model.name(),
            tier: model.manifest().tier().name(),
            package: model.digest().to_string(),
            profile: model.profile().to_string(),
            outputs: outputs.collect(),
            fuel: answer.fuel,
            blocks: blocks.collect(),
            timing_ms: Timing { total: ms(total), load: ms(model.load_time()), compute: ms(answer.compute) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_values_come_first_and_not_a_number_never() {
        let values = vec![0.5, f32::NAN, 3.0, -1.0, 3.0, f32::INFINITY, 0.0, 1.0];
        let found = top(&Tensor::from_f32(vec![8], values).unwrap());
        assert_eq!(found, [(5, f64::INFINITY), (2, 3.0), (4, 3.0), (7, 1.0), (0, 0.5)]);
    }

    #[test]
    fn a_name_may_hold_what_parts_it_from_its_file() {
        let error = input("a=b=none.npy").unwrap_err().to_string();
        assert!(error.contains("none.npy") && !error.contains("b=none.npy"), "{error}");
        for given in ["x", "=x.npy", "x="] {
            assert!(input(given).unwrap_err().to_string().contains("is not NAME=FILE.npy"));
        }
    }
}
