//! What a swarm costs beside running on one machine: three nodes with one shard each, and a hop's overhead.
//!
//! usage: swarm-bench OSTRAKON PACKAGE [PLUGINS], with PACKAGE of three shards
//!
//! All of it shares this machine's processors, so three nodes are not faster than one machine with as many threads as there
//! are processors; what is shown is what the way between them costs. In turn: locally on one thread, locally on all, and by the
//! swarm with one thread a node, from the submission to the checked answer. A hop is one call of a leg: microseconds from sending its input to having its output,
//! less those in the blocks, both from the coordinator's metrics; bytes are those of the nodes' network devices, beside the
//! tensors in them.
#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use ostrakon_tests::swarm::{Part, Swarm};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROUNDS: usize = 7;
const SHARDS: [&str; 3] = ["shard-0", "shard-1", "shard-2"];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args_os().skip(1).map(std::path::absolute);
    let usage = "usage: swarm-bench OSTRAKON PACKAGE [PLUGINS]";
    let (binary, package) = (arguments.next().ok_or(usage)??, arguments.next().ok_or(usage)??);
    let plugins = arguments.next().transpose()?;
    let part = |operator: &str, role, shards: &[&str]| Part {
        operator: operator.into(),
        roles: vec![role],
        packages: vec![(package.clone(), shards.iter().map(|&shard| shard.to_owned()).collect())],
        plugins: plugins.clone(),
        ..Part::default()
    };
    let mut parts = vec![part("lead", "scheduling", &[])];
    parts.extend(SHARDS.iter().map(|shard| part(shard, "execution", &[shard])));
    let swarm = Swarm::start(&binary, &parts, true);
    if !swarm.is_apart() {
        println!("no network namespaces can be made here: bytes on the wire are not counted\n");
    }
    let directory = tempfile::tempdir()?;
    let bench = Bench { binary, package, plugins, swarm, directory: directory.path().to_owned() };
    bench.ready().inspect_err(|_| println!("{}", bench.swarm.logs(20)))?;
    println!("medians of {ROUNDS} in turn, milliseconds; MiniLM in three shards\n");
    println!(
        "{:>20} {:>10} {:>10} {:>8} {:>8} {:>9} {:>13} {:>17} {:>17}",
        "texts", "1 thread", "all", "swarm", "hops", "us a hop", "tensor bytes", "bytes on the wire", "other bytes"
    );
    for (name, count) in [("one", 1), ("8", 8), ("480", 480)] {
        bench.row(name, count)?;
    }
    Ok(())
}

struct Bench {
    binary: PathBuf,
    package: PathBuf,
    plugins: Option<PathBuf>,
    swarm: Swarm,
    directory: PathBuf,
}

impl Bench {
    fn run(&self, input: &Path, more: &[&str]) -> Outcome<serde_json::Value> {
        let mut command = Command::new(&self.binary);
        command.args(["--json", "run"]).arg(&self.package).args(["--allow-unknown-signer", "--input"]).arg(input);
        if let Some(plugins) = self.plugins.as_ref().filter(|_| more.contains(&"--threads")) {
            command.arg("--plugins").arg(plugins);
        }
        let output = command.args(more).output()?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Err(String::from_utf8_lossy(&said).into_owned().into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn remote(&self, input: &Path) -> Outcome<serde_json::Value> {
        let schedulers = self.swarm.schedulers();
        let lead = schedulers.first().ok_or("no scheduling node")?;
        self.run(input, &["--swarm", lead, "--verify", "none"])
    }

    /// Wait until all shards are known, by a job that goes through them.
    fn ready(&self) -> Outcome<()> {
        let input = self.input(1)?;
        self.remote(&input).map(drop)
    }

    fn input(&self, count: usize) -> Outcome<PathBuf> {
        let sentences = include_str!("../../examples/sentences.txt");
        let texts: Vec<&str> = sentences.lines().cycle().take(count).collect();
        let file = self.directory.join(format!("{count}.txt"));
        fs::write(&file, texts.join("\n"))?;
        Ok(file)
    }

    fn row(&self, name: &str, count: usize) -> Outcome<()> {
        let input = self.input(count)?;
        let all = std::thread::available_parallelism()?.to_string();
        let mut times: [Vec<f64>; 3] = Default::default();
        let mut hops = Hops::default();
        for _ in 0..ROUNDS {
            let one = self.run(&input, &["--threads", "1"])?;
            let many = self.run(&input, &["--threads", &all])?;
            let before = self.hops()?;
            let swarm = self.remote(&input)?;
            hops = hops.and(self.hops()?.since(&before));
            let digest = |of: &serde_json::Value| of.get("digest").cloned();
            if digest(&one) != digest(&swarm) || digest(&one) != digest(&many) {
                return Err("the digests differ".into());
            }
            let time = |of: &serde_json::Value, name: &str| of.pointer(&format!("/timing_ms/{name}"))?.as_f64();
            let taken = [time(&one, "compute"), time(&many, "compute"), time(&swarm, "job")];
            for (all, one) in times.iter_mut().zip(taken) {
                all.push(one.ok_or("no time")?);
            }
        }
        let [one, many, swarm] = times.map(median);
        let Hops { calls, micros, tensors, wire } = hops;
        let a = |total: f64| total / calls.max(1.0);
        println!(
            "{name:>20} {one:>10.1} {many:>10.1} {swarm:>8.1} {:>8.0} {:>9.0} {:>13.0} {:>17.0} {:>17.0}",
            calls / ROUNDS as f64,
            a(micros),
            a(tensors),
            a(wire),
            a(wire - tensors).max(0.0),
        );
        Ok(())
    }

    /// The counters of all nodes.
    fn hops(&self) -> Outcome<Hops> {
        let mut hops = Hops::default();
        for node in &self.swarm.nodes {
            let counted = counters(&node.http)?;
            let of = |name: &str| counted.get(name).copied().unwrap_or_default();
            hops.calls += of("ostrakon_calls_total");
            hops.micros += of("ostrakon_call_microseconds_total") - of("ostrakon_call_compute_microseconds_total");
            hops.tensors += of("ostrakon_tensor_bytes_in_total") + of("ostrakon_tensor_bytes_out_total");
            if node.part.roles.contains(&"execution") {
                hops.wire += node.wire_bytes().unwrap_or_default() as f64;
            }
        }
        Ok(hops)
    }
}

/// Sums over the calls of all legs.
#[derive(Debug, Clone, Copy, Default)]
struct Hops {
    calls: f64,
    /// Not in the blocks.
    micros: f64,
    tensors: f64,
    wire: f64,
}

impl Hops {
    fn since(self, before: &Self) -> Self {
        Self {
            calls: self.calls - before.calls,
            micros: self.micros - before.micros,
            tensors: self.tensors - before.tensors,
            wire: self.wire - before.wire,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            micros: self.micros + other.micros,
            tensors: self.tensors + other.tensors,
            wire: self.wire + other.wire,
        }
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What a node's `/metrics` says.
fn counters(url: &str) -> Outcome<BTreeMap<String, f64>> {
    let address = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    Ok(text.lines().filter(|text| !text.starts_with('#')).filter_map(line).collect())
}
