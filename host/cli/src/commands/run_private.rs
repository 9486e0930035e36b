//! `ostrakon run --private`.

use super::answer::{Output, ms, outputs};
use super::run_swarm::short;
use super::{home, plain, policy, run_tensors, size, write_json};
use crate::args::RunArgs;
use crate::input::{self, Input};
use crate::problem::Problem;
use crate::progress::Progress;
use crate::runtime::runtime;
use crate::style::Style;
use crate::table;
use ostrakon_node::private::{LegServers, PrivateAnswer, PrivateModel, Replaced, Traffic};
use ostrakon_node::swarm::client::SwarmClient;
use ostrakon_node::{ErrorKind, NodeError, store};
use ostrakon_protocol::SigningKey;
use serde::Serialize;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// What was done, for showing.
struct Outcome {
    answer: PrivateAnswer,
    package: String,
    /// Masks that were prepared before the run began.
    ahead: Duration,
    took: Duration,
}

pub(crate) fn run(mut args: RunArgs, json: bool, start: Instant) -> Result<(), Problem> {
    run_tensors::expect_none(&args)?;
    let home = home()?;
    let directory = store::locate(&home, &args.package).map_err(|error| {
        Problem::from(error).hint(
            "a private run needs the package on this machine: get it with `ostrakon fetch`; only products are computed elsewhere",
        )
    })?;
    let (options, policy) = (super::run::options(&args)?, policy(&home, &args.trust)?);
    let input = input::gather(std::mem::take(&mut args.text), args.input.as_deref())?;
    let most = args.batch.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let runtime = runtime()?;
    // A key for this run only: nobody need know who asks.
    let key = SigningKey::generate().map_err(|e| Problem::failed(format!("there is no randomness for a key: {e}")))?;
    let client = runtime.block_on(SwarmClient::connect(&args.swarm, key))?;
    let progress = Progress::new(json);
    let watch = |event| progress.show(event);
    let mut opened = false;
    let work = || {
        let handle = runtime.handle().clone();
        let mut model = PrivateModel::open(&directory, &policy, &home, &options, client, handle, args.servers)?;
        opened = true;
        let ahead = model.prepare(model.rows(&input.texts)?)?;
        let answer = model.run(&input.texts, most, &watch);
        let package = model.model().digest().to_string();
        model.close();
        Ok::<_, NodeError>(Outcome { answer: answer?, package, ahead, took: start.elapsed() })
    };
    let outcome = work();
    progress.finish();
    let outcome = outcome.map_err(|error| {
        let failed = opened && error.kind() == ErrorKind::Failed && error.hint().is_none();
        let lacking = failed || matches!(error, NodeError::NoPlan(_));
        let problem = Problem::from(error);
        if !lacking {
            return problem;
        }
        problem.hint(
            "start nodes of more operators with this package, name other ones with --swarm, or ask for fewer --servers",
        )
    })?;
    if json { write_json(&Document::new(&input, &outcome)) } else { show(&input, &outcome) }
}

fn names(leg: &LegServers) -> String {
    leg.servers.iter().map(short).collect::<Vec<_>>().join(", ")
}

fn show(input: &Input, outcome: &Outcome) -> Result<(), Problem> {
    let Outcome { answer: PrivateAnswer { answer, waited, online, traffic, legs, replaced }, package, ahead, took } =
        outcome;
    let style = Style::of_stdout();
    let mut out = io::BufWriter::new(io::stdout().lock());
    table::outputs(&mut out, style, &input.texts, &answer.outputs)?;
    writeln!(out, "\n{}", style.strong("servers"))?;
    for leg in legs {
        writeln!(out, "  blocks {:<9} {}", format!("{}-{}", leg.from, leg.to.saturating_sub(1)), names(leg))?;
    }
    let entry = |name: &str| style.faint(&format!("{name:<8}"));
    writeln!(out)?;
    writeln!(out, "{} {}", entry("digest"), style.strong(&answer.digest.to_string()))?;
    writeln!(out, "{} {package}", entry("package"))?;
    for replaced in replaced {
        writeln!(out, "{} {}", entry("replaced"), plain(&replaced.to_string()))?;
    }
    let bytes = format!(
        "{} masks ahead; {} sent and {} received in {} round trips",
        size(traffic.prepared),
        size(traffic.sent),
        size(traffic.received),
        traffic.round_trips
    );
    writeln!(out, "{} {bytes}", entry("traffic"))?;
    let whole = style.faint(&format!("({:.0} ms with getting ready)", ms(*took)));
    writeln!(out, "{} {:.0} ms online, {:.0} ms masks {whole}", entry("time"), ms(*online), ms(*ahead + *waited))?;
    Ok(out.flush()?)
}

/// The JSON.
#[derive(Serialize)]
struct Document<'a> {
    package: &'a str,
    outputs: Vec<Output<'a>>,
    digest: String,
    /// Who multiplied at last.
    servers: Vec<Leg>,
    /// Who did not do what it should.
    replaced: Vec<Failed<'a>>,
    traffic: Bytes,
    timing_ms: Timing,
}

/// Blocks `from` to `to`, which is the first that is not among them.
#[derive(Serialize)]
struct Leg {
    from: u32,
    to: u32,
    servers: Vec<String>,
}

#[derive(Serialize)]
struct Failed<'a> {
    server: String,
    why: &'a str,
}

#[derive(Serialize)]
struct Bytes {
    prepared: u64,
    sent: u64,
    received: u64,
    round_trips: u64,
}

#[derive(Serialize)]
struct Timing {
    total: f64,
    masks: f64,
    online: f64,
}

impl<'a> Document<'a> {
    fn new(input: &'a Input, outcome: &'a Outcome) -> Self {
        let Outcome { answer: PrivateAnswer { answer, waited, online, traffic, legs, replaced }, package, ahead, took } =
            outcome;
        let leg = |leg: &LegServers| Leg {
            from: leg.from,
            to: leg.to,
            servers: leg.servers.iter().map(ToString::to_string).collect(),
        };
        let failed = |Replaced { server, why }: &'a Replaced| Failed { server: server.to_string(), why };
        let Traffic { prepared, sent, received, round_trips } = *traffic;
        Self {
            package,
            outputs: outputs(&input.texts, answer),
            digest: answer.digest.to_string(),
            servers: legs.iter().map(leg).collect(),
            replaced: replaced.iter().map(failed).collect(),
            traffic: Bytes { prepared, sent, received, round_trips },
            timing_ms: Timing { total: ms(*took), masks: ms(*ahead + *waited), online: ms(*online) },
        }
    }
}
