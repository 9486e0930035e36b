//! Times embeddings inside this process for `make bench`.
//!
//! `embed-peer PACKAGE THREADS [auto|cpu|openvino]` reads one JSON request a line, `{"ids": [[..], ..], "runs": n, "via":
//! "component" | "native"}`, and answers `{"ms": [..], "embeddings": [[..], ..]}`. The clock runs from
//! token ids in to embeddings out.

use ostrakon_nn::Tensor;
use ostrakon_node::{Arithmetic, Home, Model, Native, RunOptions, TrustPolicy};
use ostrakon_tests::native::NativeBert;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

#[derive(Deserialize)]
struct Request {
    ids: Vec<Vec<i32>>,
    runs: usize,
    via: Via,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Via {
    Component,
    Native,
}

#[derive(Serialize)]
struct Response {
    ms: Vec<f64>,
    embeddings: Vec<Vec<f32>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let package = args.next().ok_or("usage: embed-peer PACKAGE THREADS")?;
    let threads = args.next().ok_or("usage: embed-peer PACKAGE THREADS")?.parse()?;
    let arithmetic = match args.next().as_deref() {
        None | Some("cpu") => Arithmetic::Native(Native::Cpu),
        Some("auto") => Arithmetic::Native(Native::Auto),
        Some("openvino") => Arithmetic::Native(Native::OpenVino),
        Some("reference") => Arithmetic::Reference,
        Some(other) => return Err(format!("{other:?} is not auto, cpu, openvino or reference").into()),
    };
    let plugins = std::env::var_os("OSTRAKON_PLUGINS").map(Into::into);
    let options = RunOptions { threads: Some(threads), arithmetic, plugins, ..RunOptions::default() };
    let home = Home::from_env()?;
    let policy = TrustPolicy { allow_unsigned: true, allow_unknown: true, ..TrustPolicy::default() };
    let mut model = Model::load(Path::new(&package), &policy, &home, &options)?;
    let native = NativeBert::open(model.host(), model.manifest())?;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let mut ms = Vec::with_capacity(request.runs);
        let mut embeddings = Vec::new();
        for _ in 0..request.runs {
            let start = Instant::now();
            let (ids, lengths) = ragged(&request.ids)?;
            let output = match request.via {
                Via::Component => model.forward(ids, &lengths)?,
                Via::Native => native.forward(ids, &lengths)?,
            };
            ms.push(start.elapsed().as_secs_f64() * 1e3);
            // As a server does between requests.
            model.make_ready()?;
            let width = output.dims().last().map_or(1, |&width| width as usize);
            embeddings = output.as_f32()?.chunks(width.max(1)).map(<[f32]>::to_vec).collect();
        }
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &Response { ms, embeddings })?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

fn ragged(ids: &[Vec<i32>]) -> Result<(Tensor, Tensor), Box<dyn Error>> {
    let all: Vec<i32> = ids.concat();
    let lengths = ids.iter().map(|ids| i32::try_from(ids.len())).collect::<Result<Vec<_>, _>>()?;
    Ok((
        Tensor::from_i32(vec![u32::try_from(all.len())?], all)?,
        Tensor::from_i32(vec![u32::try_from(ids.len())?], lengths)?,
    ))
}
