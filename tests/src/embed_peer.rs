//! Times embeddings inside this process for `make bench`.
//!
//! `embed-peer PACKAGE THREADS [auto|cpu|openvino|reference]` reads one JSON request a line, `{"ids": [[..], ..], "runs": n, "via":
//! "component" | "native"}`, and answers `{"ms": [..], "embeddings": [[..], ..]}`. The clock runs from
//! token ids in to embeddings out.
//!
//! `embed-peer PACKAGE THREADS private ADDR K` has K servers multiply. Masks are prepared before the runs: `masks_ms`; the processor
//! time of this process in both is `cpu_ms` and `masks_cpu_ms`; `traffic` is what went over the network in all.

use nix::sys::resource::{UsageWho, getrusage};
use ostrakon_nn::Tensor;
use ostrakon_node::batch::split;
use ostrakon_node::private::PrivateModel;
use ostrakon_node::swarm::client::SwarmClient;
use ostrakon_node::{Arithmetic, Home, Model, Native, RunOptions, TrustPolicy};
use ostrakon_protocol::SigningKey;
use ostrakon_tests::native::NativeBert;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two runs: longer than idle worker threads stay awake.
const BETWEEN: Duration = Duration::from_millis(1);

#[derive(Deserialize)]
struct Request {
    ids: Vec<Vec<i32>>,
    runs: usize,
    #[serde(default)]
    via: Via,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Via {
    #[default]
    Component,
    Native,
}

#[derive(Serialize, Default)]
struct Response {
    ms: Vec<f64>,
    /// Processor time, of all threads.
    cpu_ms: Vec<f64>,
    masks_ms: Vec<f64>,
    masks_cpu_ms: Vec<f64>,
    /// Prepared, sent and received bytes, and round trips.
    traffic: Option<[u64; 4]>,
    embeddings: Vec<Vec<f32>>,
}

/// The clock and the processor's.
struct Watch(Instant, f64);

impl Watch {
    fn start() -> Result<Self, Box<dyn Error>> {
        Ok(Self(Instant::now(), cpu_ms()?))
    }

    fn stop(self, ms: &mut Vec<f64>, cpu: &mut Vec<f64>) -> Result<(), Box<dyn Error>> {
        ms.push(self.0.elapsed().as_secs_f64() * 1e3);
        cpu.push(cpu_ms()? - self.1);
        Ok(())
    }
}

fn cpu_ms() -> Result<f64, Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let ms = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3;
    Ok(ms(usage.user_time()) + ms(usage.system_time()))
}

fn answer(response: &Response) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, response)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

fn requests() -> impl Iterator<Item = Result<Request, Box<dyn Error>>> {
    std::io::stdin().lock().lines().map(|line| Ok(serde_json::from_str(&line?)?))
}

fn embeddings(output: &Tensor) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let width = output.dims().last().map_or(1, |&width| width as usize);
    Ok(output.as_f32()?.chunks(width.max(1)).map(<[f32]>::to_vec).collect())
}

fn private(package: &str, options: &RunOptions, address: String, servers: u32) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = runtime.block_on(SwarmClient::connect(&[address], SigningKey::generate()?))?;
    let (home, handle) = (Home::from_env()?, runtime.handle().clone());
    let mut model = PrivateModel::open(Path::new(package), &policy(), &home, options, client, handle, servers)?;
    for request in requests() {
        let request = request?;
        let mut response = Response::default();
        let rows = request.ids.iter().map(Vec::len).sum();
        for _ in 0..request.runs {
            let watch = Watch::start()?;
            model.prepare(rows)?;
            watch.stop(&mut response.masks_ms, &mut response.masks_cpu_ms)?;
        }
        for _ in 0..request.runs {
            std::thread::sleep(BETWEEN);
            let watch = Watch::start()?;
            let (ids, lengths) = ragged(&request.ids)?;
            let output = model.forward(ids, &lengths)?;
            watch.stop(&mut response.ms, &mut response.cpu_ms)?;
            model.make_ready()?;
            response.embeddings = embeddings(&output)?;
        }
        let traffic = model.traffic();
        response.traffic = Some([traffic.prepared, traffic.sent, traffic.received, traffic.round_trips]);
        answer(&response)?;
    }
    model.close();
    Ok(())
}

fn policy() -> TrustPolicy {
    TrustPolicy { allow_unsigned: true, allow_unknown: true, ..TrustPolicy::default() }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let package = args.next().ok_or("usage: embed-peer PACKAGE THREADS")?;
    let threads = args.next().ok_or("usage: embed-peer PACKAGE THREADS")?.parse()?;
    let plugins = std::env::var_os("OSTRAKON_PLUGINS").map(Into::into);
    let options = RunOptions { threads: Some(threads), plugins, ..RunOptions::default() };
    let arithmetic = match args.next().as_deref() {
        Some("private") => {
            let (address, servers) = (args.next().ok_or("whose servers?")?, args.next().ok_or("how many servers?")?);
            return private(&package, &options, address, servers.parse()?);
        }
        None => Arithmetic::Native(Native::Cpu),
        Some("reference") => Arithmetic::Reference,
        Some(name) => Arithmetic::Native(Native::from_name(name).ok_or("not a backend's name")?),
    };
    let options = RunOptions { arithmetic, ..options };
    let home = Home::from_env()?;
    let mut model = Model::load(Path::new(&package), &policy(), &home, &options)?;
    let native = NativeBert::open(model.host(), model.manifest())?;
    for request in requests() {
        let request = request?;
        let mut response = Response::default();
        for _ in 0..request.runs {
            let watch = Watch::start()?;
            let mut outputs = Vec::new();
            for batch in batches(&request.ids) {
                let (ids, lengths) = ragged(batch)?;
                outputs.push(match request.via {
                    Via::Component => model.forward(ids, &lengths)?,
                    Via::Native => native.forward(ids, &lengths)?,
                });
            }
            watch.stop(&mut response.ms, &mut response.cpu_ms)?;
            // As a server does between requests. Fresh instances take longer than worker threads look out for work, so
            // the next run wakes them; the operations called natively shall begin no better off.
            model.make_ready()?;
            std::thread::sleep(BETWEEN);
            response.embeddings.clear();
            for output in &outputs {
                response.embeddings.extend(embeddings(output)?);
            }
        }
        answer(&response)?;
    }
    Ok(())
}

/// As `ostrakon run` splits texts.
fn batches(ids: &[Vec<i32>]) -> impl Iterator<Item = &[Vec<i32>]> {
    let tokens: Vec<usize> = ids.iter().map(Vec::len).collect();
    split(&tokens, None).into_iter().filter_map(|batch| ids.get(batch))
}

fn ragged(ids: &[Vec<i32>]) -> Result<(Tensor, Tensor), Box<dyn Error>> {
    let all: Vec<i32> = ids.concat();
    let lengths = ids.iter().map(|ids| i32::try_from(ids.len())).collect::<Result<Vec<_>, _>>()?;
    Ok((
        Tensor::from_i32(vec![u32::try_from(all.len())?], all)?,
        Tensor::from_i32(vec![u32::try_from(ids.len())?], lengths)?,
    ))
}
