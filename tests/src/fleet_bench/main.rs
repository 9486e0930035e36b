//! How fast, how good and how fair plans are, on generated fleets of 10 to 10,000 nodes.
//!
//! usage: fleet-bench [PLUGINS]
//!
//! 1. Plan time: a fresh instance of the component, the whole fleet across its border, a plan; and the same with all
//!    that a scheduling node does around it: the snapshot's digest, verifiable randomness, the signature.
//! 2. Regret: how much longer a plan truly takes than the best way there is, beside what simpler schedulers choose.
//! 3. Learning: regret after part of the fleet has become ten times slower, job by job.
//! 4. Fairness: chi-squared of who is chosen among equals.
#![allow(clippy::print_stdout, reason = "a table is what it is for")]

mod rivals;
mod world;

use ostrakon_engine::{Compiler, Limits, Plugin, Runtime, World as Contract};
use ostrakon_node::plugins::{Plugins, SCHEDULER};
use ostrakon_node::swarm::schedule::{History, Scheduler};
use ostrakon_node::{Home, RunOptions};
use ostrakon_protocol as protocol;
use ostrakon_tests::random::Random;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use world::{World, request};

/// What a call may use.
pub(crate) const LIMITS: Limits = Limits {
    fuel: 1 << 34,
    wall_time: Duration::from_secs(60),
    memory_bytes: 256 << 20,
    table_elements: 1 << 16,
    transfer_bytes: 128 << 20,
    component_handles: 1024,
    quotas: ostrakon_nn::Quotas { bytes: 0, handles: 0, graphs: 0, contexts: 0 },
};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let plugins = Plugins::find(std::env::args_os().nth(1).map(PathBuf::from).as_deref())?;
    let component = plugins.read(SCHEDULER)?;
    let plugin = Runtime::new(Compiler::Cranelift, None, Limits::default())?.admit(&component, Contract::Scheduler)?;
    plan_time(&plugin, &component)?;
    regret(&plugin)?;
    learning(&plugin)?;
    fairness(&plugin)
}

fn plan_time(plugin: &Plugin, component: &[u8]) -> Outcome {
    const ROUNDS: usize = 21;
    println!("plan time in milliseconds, median and worst of {ROUNDS}\n");
    println!(
        "{:>7} {:>16} {:>16} {:>16} {:>12} {:>22}",
        "nodes", "none", "quorum 2/3", "50 batches", "fuel", "signed plan (none)"
    );
    let scheduler = Scheduler::load(component, &Home::from_env()?, &RunOptions::default())?;
    for nodes in [10, 100, 1000, 10_000] {
        let mut random = Random(nodes.into());
        let mut world = World::new(nodes, 0, &mut random);
        world.measure(plugin, 1, &mut random)?;
        let mut columns = Vec::new();
        let mut fuel = 0;
        for (replicas, batches) in [(1, 1), (3, 1), (1, 50)] {
            let request = ostrakon_engine::scheduling::Request { batches, ..request(replicas) };
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                let lots = random.lots();
                let start = Instant::now();
                let said = plugin.scheduler(LIMITS)?.plan(&request, &world.snapshot, &lots)?;
                times.push(start.elapsed());
                if replicas == 1 && batches == 1 {
                    fuel = said.fuel;
                }
                said.said.map_err(|reason| reason.to_string())?;
            }
            columns.push(show(times));
        }
        let (key, request, snapshot) = signed(&world);
        let mut times = Vec::new();
        for attempt in 0..ROUNDS as u32 {
            let request = protocol::PlanRequest { attempt, ..request.clone() };
            let start = Instant::now();
            scheduler.plan(&key, request, &snapshot)?;
            times.push(start.elapsed());
        }
        let whole = show(times);
        let [none, quorum, batches] = columns.as_slice() else { continue };
        println!("{nodes:>7} {none:>16} {quorum:>16} {batches:>16} {fuel:>12} {whole:>22}");
    }
    println!();
    Ok(())
}

fn show(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |at: usize| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    format!("{:.2} ({:.2})", at(times.len() / 2), at(times.len() - 1))
}

/// The fleet as signed statuses, and the same request.
fn signed(world: &World) -> (protocol::SigningKey, protocol::PlanRequest, protocol::Snapshot) {
    let package = protocol::Digest::of_content(b"package");
    let name = |at: u32| world.snapshot.names.get(at as usize).cloned().unwrap_or_default();
    let status = |(node, served): (&ostrakon_engine::scheduling::Node, &ostrakon_engine::scheduling::Served)| {
        let mut seed = [1; 32];
        seed.iter_mut().zip(served.node.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        let key = protocol::SigningKey::from_seed(&seed);
        let status = protocol::Status {
            node: key.public(),
            sequence: 1,
            issued: 1,
            operator: format!("operator {}", node.operator),
            roles: protocol::Roles { execution: true, ..Default::default() },
            addresses: vec!["/ip4/127.0.0.1/tcp/4001".into()],
            hardware: protocol::Hardware {
                threads: node.threads,
                memory: 1 << 34,
                simd: name(node.simd),
                backend: name(node.backend),
            },
            load: protocol::Load { slots: node.slots, used: node.used, free_memory: node.free_memory },
            served: vec![protocol::Served {
                package,
                name: "model".into(),
                from: served.from,
                to: served.to,
                rows_per_second: served.rows_per_second,
            }],
            plugins: Vec::new(),
            draining: false,
        };
        protocol::SignedStatus::sign(&key, status)
    };
    let statuses = world.snapshot.nodes.iter().zip(&world.snapshot.served).map(status).collect();
    let key = protocol::SigningKey::from_seed(&[9; 32]);
    let snapshot = History::default().snapshot(key.public(), 1, statuses);
    let needs = |block: &ostrakon_engine::scheduling::Needs| protocol::BlockNeeds {
        weight_bytes: block.weight_bytes,
        work: block.work,
        row_bytes: block.row_bytes,
    };
    let request = protocol::PlanRequest {
        job: protocol::Digest::of_content(b"job"),
        attempt: 0,
        package,
        blocks: world.request.blocks.iter().map(needs).collect(),
        rows: world.request.rows,
        batches: 1,
        verify: protocol::Verify::None,
        excluded: Vec::new(),
    };
    (key, request, snapshot)
}

/// Per cent above the best, as a mean over fleets.
fn regret(plugin: &Plugin) -> Outcome {
    println!("true time above the best way there is, in per cent: mean (worst) over fleets\n");
    println!(
        "{:>7} {:>7} {:>7} {:>18} {:>18} {:>18} {:>18} {:>18}",
        "nodes",
        "liars",
        "fleets",
        "scheduler, new",
        "scheduler, learnt",
        "Petals-style",
        "least-loaded",
        "round-robin"
    );
    for (nodes, fleets) in [(10, 40), (100, 40), (1000, 10), (10_000, 2)] {
        for liars in [0, 10] {
            let mut sums = [(0.0, 0.0_f64); 5];
            for fleet in 0..fleets {
                let mut random = Random(1000 * u64::from(nodes) + 10 * fleet + liars);
                let mut world = World::new(nodes, liars, &mut random);
                let best = rivals::oracle(&world);
                let new = world.planned(&world.plan(plugin, &random.lots())?);
                let petals = world.way(&rivals::petals(&world));
                let loaded = world.way(&rivals::least_loaded(&world, &mut random));
                let mut turn = random.below(1 << 20) as usize;
                let robin = world.way(&rivals::round_robin(&world, &mut turn));
                world.measure(plugin, 4, &mut random)?;
                let learnt = world.planned(&world.plan(plugin, &random.lots())?);
                for ((sum, worst), time) in sums.iter_mut().zip([new, learnt, petals, loaded, robin]) {
                    let regret = 100.0 * (time / best - 1.0);
                    *sum += regret;
                    *worst = worst.max(regret);
                }
            }
            let [new, learnt, petals, loaded, robin] =
                sums.map(|(sum, worst)| format!("{:.1} ({worst:.1})", sum / fleets as f64));
            println!("{nodes:>7} {liars:>6}% {fleets:>7} {new:>18} {learnt:>18} {petals:>18} {loaded:>18} {robin:>18}");
        }
    }
    println!();
    Ok(())
}

/// Regret while jobs are run one after another, from nothing known; then the fifth that is used most becomes ten times slower.
fn learning(plugin: &Plugin) -> Outcome {
    const STEPS: [u32; 7] = [1, 3, 10, 30, 100, 300, 1000];
    const FLEETS: u64 = 4;
    println!(
        "true time above the best way there is, in per cent: mean since the column before, {FLEETS} fleets of 100\n"
    );
    print!("{:>28}", "jobs");
    STEPS.iter().for_each(|step| print!("{step:>9}"));
    println!();
    let mut rows = [[0.0; STEPS.len()]; 2];
    for fleet in 0..FLEETS {
        let mut random = Random(77 + fleet);
        let mut world = World::new(100, 10, &mut random);
        for (phase, row) in rows.iter_mut().enumerate() {
            if phase == 1 {
                let mut used: Vec<_> = (0..).zip(&world.snapshot.nodes).map(|(at, node)| (node.done, at)).collect();
                used.sort_unstable_by(|a, b| b.cmp(a));
                for (_, at) in used.iter().take(20) {
                    let at: usize = *at;
                    if let Some(truth) = world.truths.get_mut(at) {
                        truth.rate *= 10.0;
                    }
                }
            }
            let best = rivals::oracle(&world);
            let mut done = 0;
            for (mean, step) in row.iter_mut().zip(STEPS) {
                let since = f64::from(step - done);
                while done < step {
                    let planned = world.plan(plugin, &random.lots())?;
                    *mean += 100.0 * (world.planned(&planned) / best - 1.0) / since / FLEETS as f64;
                    for leg in &planned.legs {
                        for node in &leg.replicas {
                            world.run(plugin, (*node, leg.from, leg.to), &mut random)?;
                        }
                    }
                    done += 1;
                }
            }
        }
    }
    for (name, row) in ["from nothing", "a fifth ten times slower"].into_iter().zip(rows) {
        print!("{name:>28}");
        row.iter().for_each(|mean| print!("{mean:>9.1}"));
        println!();
    }
    println!();
    Ok(())
}

fn fairness(plugin: &Plugin) -> Outcome {
    const PLANS: u64 = 20_000;
    println!("fairness among equals, {PLANS} plans: chi-squared, and what it exceeds once in a thousand times\n");
    println!("{:>7} {:>9} {:>13} {:>9} {:>15}", "nodes", "replicas", "chi-squared", "limit", "least and most");
    for (nodes, replicas) in [(10, 1), (100, 1), (100, 3)] {
        let mut random = Random(31);
        let mut world = World::new(nodes, 0, &mut random);
        let alike = world.snapshot.nodes.first().cloned().ok_or("no node")?;
        for (at, node) in (0..).zip(&mut world.snapshot.nodes) {
            *node = ostrakon_engine::scheduling::Node { operator: at, ..alike.clone() };
        }
        for served in &mut world.snapshot.served {
            (served.from, served.to, served.rows_per_second) = (0, world::BLOCKS, 0);
        }
        world.request = request(replicas);
        let mut counts = vec![0_u64; nodes as usize];
        for _ in 0..PLANS {
            for node in world.plan(plugin, &random.lots())?.legs.iter().flat_map(|leg| &leg.replicas) {
                counts.iter_mut().skip(*node as usize).take(1).for_each(|count| *count += 1);
            }
        }
        let expected = counts.iter().sum::<u64>() as f64 / f64::from(nodes);
        let found: f64 = counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
        // Wilson and Hilferty.
        let degrees = f64::from(nodes - 1);
        let part = 2.0 / (9.0 * degrees);
        let limit = degrees * (1.0 - part + 3.0902 * part.sqrt()).powi(3);
        let ends = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
        println!("{nodes:>7} {replicas:>9} {found:>13.1} {limit:>9.1} {:>15}", format!("{} {}", ends.0, ends.1));
    }
    Ok(())
}
