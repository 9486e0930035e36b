//! `ostrakon status`.

use super::run_swarm::short;
use super::{plain, write_json};
use crate::args::StatusArgs;
use crate::problem::Problem;
use crate::runtime::runtime;
use crate::style::Style;
use ostrakon_node::swarm::client::{FleetNode, SwarmClient};
use ostrakon_protocol::wire::ReceiptLine;
use ostrakon_protocol::{Roles, SigningKey, Status};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Most nodes that are asked themselves, and how many at once.
const MAX_ASKED: usize = 64;
/// How long it may take to hear from the first who is there.
const BEGIN: Duration = Duration::from_secs(6);
/// How long one may take.
const WITHIN: Duration = Duration::from_secs(3);
/// Most receipts that are shown to people.
const MAX_SHOWN: usize = 10;

/// What a node answered itself.
struct Heard {
    round_trip: Duration,
    receipts: Vec<ReceiptLine>,
}

/// A row: what another node says of it, and what it answered.
type Row = (FleetNode, Option<Heard>);

pub(crate) fn run(args: &StatusArgs, json: bool) -> Result<(), Problem> {
    let rows = runtime()?.block_on(gather(args))?;
    if json { write_json(&document(&rows)) } else { show(&rows) }
}

async fn gather(args: &StatusArgs) -> Result<Vec<Row>, Problem> {
    let key = SigningKey::generate().map_err(|e| Problem::failed(format!("there is no randomness for a key: {e}")))?;
    let asked = async {
        let client = SwarmClient::connect(&args.swarm, key).await?;
        let fleet = client.fleet().await?;
        Ok::<_, Problem>((Arc::new(client), fleet))
    };
    let late = |_| Problem::failed(format!("no node of the swarm answered within {} s", BEGIN.as_secs()));
    let (client, fleet) = timeout(BEGIN, asked).await.map_err(late)??;
    let mut asked = JoinSet::new();
    for (at, node) in fleet.iter().enumerate().take(MAX_ASKED) {
        let (client, key) = (Arc::clone(&client), node.status.status.node);
        asked.spawn(async move {
            let heard = async {
                // The first question may have to connect; the second one is measured.
                let receipts = client.receipts(key).await.ok()?;
                let start = Instant::now();
                client.receipts(key).await.ok()?;
                Some((at, Heard { round_trip: start.elapsed(), receipts }))
            };
            timeout(WITHIN, heard).await.ok()?
        });
    }
    let mut heard = BTreeMap::new();
    while let Some(done) = asked.join_next().await {
        heard.extend(done.ok().flatten());
    }
    if let Some(client) = Arc::into_inner(client) {
        client.close().await;
    }
    Ok(fleet.into_iter().enumerate().map(|(at, node)| (node, heard.remove(&at))).collect())
}

fn roles(roles: &Roles) -> Vec<&'static str> {
    let all = [
        (roles.execution, "execution"),
        (roles.verification, "verification"),
        (roles.scheduling, "scheduling"),
        (roles.participation, "participation"),
    ];
    all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
}

fn blocks(status: &Status) -> String {
    let of = |s: &ostrakon_protocol::Served| format!("{} {}-{}", plain(&s.name), s.from, s.to.saturating_sub(1));
    match status.served.as_slice() {
        [] => "-".into(),
        served => served.iter().map(of).collect::<Vec<_>>().join(", "),
    }
}

/// All receipts, newest first, each once.
fn receipts(rows: &[Row]) -> Vec<&ReceiptLine> {
    let mut all: Vec<&ReceiptLine> =
        rows.iter().filter_map(|(_, heard)| heard.as_ref()).flat_map(|h| &h.receipts).collect();
    all.sort_by_key(|line| (std::cmp::Reverse(line.at), line.job));
    all.dedup_by_key(|line| line.job);
    all
}

fn show(rows: &[Row]) -> Result<(), Problem> {
    let style = Style::of_stdout();
    let mut table =
        vec![["NODE", "OPERATOR", "ROLES", "BLOCKS", "LOAD", "REPUTATION", "ROUND TRIP", "STATE"].map(str::to_owned)];
    for (node, heard) in rows {
        let status = &node.status.status;
        let state = match (status.draining, heard) {
            (true, _) => "draining",
            (false, Some(_)) => "ready",
            (false, None) => "no answer",
        };
        table.push([
            short(&status.node),
            plain(&status.operator),
            roles(&status.roles).join(","),
            blocks(status),
            format!("{}/{}", status.load.used, status.load.slots),
            format!("{}.{:03}", node.reputation / 1000, node.reputation % 1000),
            heard.as_ref().map_or("-".into(), |h| format!("{:.2} ms", h.round_trip.as_secs_f64() * 1e3)),
            state.into(),
        ]);
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut widths = [0; 8];
    for row in &table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(console::measure_text_width(cell));
        }
    }
    for (at, row) in table.iter().enumerate() {
        let cells =
            row.iter().zip(widths).map(|(cell, width)| console::pad_str(cell, width, console::Alignment::Left, None));
        let line = cells.map(|cell| cell.into_owned()).collect::<Vec<_>>().join("  ");
        let line = line.trim_end();
        writeln!(out, "{}", if at == 0 { style.faint(line) } else { line.to_owned() })?;
    }
    let receipts = receipts(rows);
    if !receipts.is_empty() {
        writeln!(out, "\n{}", style.strong("latest receipts"))?;
    }
    for line in receipts.iter().take(MAX_SHOWN) {
        let (receipt, package, verified) = (line.receipt.to_string(), plain(&line.package), plain(&line.verified));
        let receipt = receipt.get(..16).unwrap_or_default();
        let took = Duration::from_micros(line.took).as_secs_f64() * 1e3;
        writeln!(out, "  {receipt}  {package}  {} texts  {took:.0} ms  {verified}", line.texts)?;
    }
    Ok(out.flush()?)
}

fn document(rows: &[Row]) -> Value {
    let nodes = rows.iter().map(|(node, heard)| {
        let status = &node.status.status;
        let served = status.served.iter().map(|s| {
            json!({
                "package": s.package.to_string(), "name": s.name, "from": s.from, "to": s.to,
                "rows_per_second": s.rows_per_second,
            })
        });
        let plugins = status.plugins.iter().map(|p| json!({ "name": p.name, "component": p.component.to_string() }));
        json!({
            "node": status.node.to_string(),
            "operator": status.operator,
            "roles": roles(&status.roles),
            "addresses": status.addresses,
            "served": served.collect::<Vec<_>>(),
            "plugins": plugins.collect::<Vec<_>>(),
            "load": { "slots": status.load.slots, "used": status.load.used, "free_memory": status.load.free_memory },
            "hardware": {
                "threads": status.hardware.threads, "memory": status.hardware.memory,
                "simd": status.hardware.simd, "backend": status.hardware.backend,
            },
            "reputation": f64::from(node.reputation) / 1e3,
            "round_trip_ms": heard.as_ref().map(|h| h.round_trip.as_secs_f64() * 1e3),
            "draining": status.draining,
        })
    });
    let receipts = receipts(rows).into_iter().map(|line| {
        json!({
            "job": line.job.to_string(), "receipt": line.receipt.to_string(), "package": line.package,
            "texts": line.texts, "took_ms": line.took as f64 / 1e3, "at": line.at, "verified": line.verified,
        })
    });
    json!({ "nodes": nodes.collect::<Vec<_>>(), "receipts": receipts.collect::<Vec<_>>() })
}
