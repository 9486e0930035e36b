//! Times text generation inside this process for `make bench`.
//!
//! `generate-peer PACKAGE THREADS [auto|cpu|openvino]` reads one JSON request a line, `{"ids": [..], "new": n, "streams": s}`, and
//! answers how long each stream took to its first token and then to each further one. All streams are asked for at once, each with
//! another first token, so that nothing is gone on from.

use ostrakon_node::generate::{GenerateRequest, Generator, Limits, Piece, Sampling};
use ostrakon_node::{Arithmetic, Home, Native, RunOptions, TrustPolicy};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

#[derive(Deserialize)]
struct Request {
    ids: Vec<u32>,
    new: u32,
    #[serde(default = "one")]
    streams: u32,
}

const fn one() -> u32 {
    1
}

#[derive(Serialize)]
struct Response {
    /// From asking to the end of all.
    total_ms: f64,
    streams: Vec<Stream>,
}

#[derive(Serialize)]
struct Stream {
    first_ms: f64,
    /// Between tokens.
    between_ms: Vec<f64>,
    tokens: Vec<u32>,
}

fn run(generator: &Generator, request: GenerateRequest) -> Result<Stream, String> {
    let start = Instant::now();
    let mut pieces = generator.ask(request).map_err(|refusal| refusal.to_string())?;
    let mut stream = Stream { first_ms: 0.0, between_ms: Vec::new(), tokens: Vec::new() };
    let mut last = start;
    while let Some(piece) = pieces.blocking_next() {
        match piece {
            Piece::Token { token, .. } => {
                let took = last.elapsed().as_secs_f64() * 1e3;
                last = Instant::now();
                if stream.tokens.is_empty() {
                    stream.first_ms = took;
                } else {
                    stream.between_ms.push(took);
                }
                stream.tokens.push(token);
            }
            Piece::Prompt(_) => {}
            Piece::Done(_) => return Ok(stream),
            Piece::Failed(reason) | Piece::Unavailable(reason) => return Err(reason),
        }
    }
    Err("the generator ended".into())
}

fn answer(generator: &Arc<Generator>, request: &Request) -> Result<Response, Box<dyn Error>> {
    let start = Instant::now();
    let streams = (0..request.streams).map(|stream| {
        let mut prompt = request.ids.clone();
        if let Some(first) = prompt.first_mut().filter(|_| stream > 0) {
            *first = (*first + stream) % 1000;
        }
        let asked = GenerateRequest {
            client: stream.into(),
            prompt,
            max_tokens: request.new,
            sampling: Sampling::default(),
            stop: Vec::new(),
            likelihoods: None,
            prompt_likelihoods: false,
            reuse: false,
        };
        let generator = Arc::clone(generator);
        thread::spawn(move || run(&generator, asked))
    });
    let streams: Vec<_> = streams.collect();
    let streams = streams.into_iter().map(|stream| stream.join().map_err(|_| "a thread panicked".to_owned())?);
    let streams = streams.collect::<Result<Vec<Stream>, String>>()?;
    Ok(Response { total_ms: start.elapsed().as_secs_f64() * 1e3, streams })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(package), Some(threads)) = (args.next(), args.next()) else {
        return Err("usage: generate-peer PACKAGE THREADS [auto|cpu|openvino]".into());
    };
    let native = match args.next().as_deref() {
        None | Some("cpu") => Native::Cpu,
        Some("auto") => Native::Auto,
        Some("openvino") => Native::OpenVino,
        Some(other) => return Err(format!("no backend is called {other}").into()),
    };
    let options =
        RunOptions { threads: Some(threads.parse()?), arithmetic: Arithmetic::Native(native), ..RunOptions::default() };
    let policy = TrustPolicy { allow_unknown: true, ..TrustPolicy::default() };
    let home = Home::from_env()?;
    let generator = Arc::new(Generator::open(Path::new(&package), &policy, &home, &options, Limits::default())?);
    for line in std::io::stdin().lock().lines() {
        let response = answer(&generator, &serde_json::from_str(&line?)?)?;
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &response)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}
