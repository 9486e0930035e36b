//! `ostrakon node`.
//!
//! One line says that the node is ready. After that, signals say what to do: SIGTERM and SIGINT end it when what runs is
//! done, a second one at once; SIGHUP has it read its settings again.

use super::{home, write_json};
use crate::args::NodeArgs;
use crate::problem::Problem;
use crate::runtime::runtime;
use crate::signals::Signals;
use crate::style::Style;
use crate::telemetry;
use ostrakon_node::NodeError;
use ostrakon_node::swarm::node::Node;
use ostrakon_node::swarm::settings::Settings;
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

/// What is printed when the node is ready.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    node: String,
    addresses: Vec<String>,
    http: Option<String>,
    pid: u32,
}

/// How the node ended.
enum End {
    /// Everything that ran was done.
    Drained,
    /// Somebody would not wait, or the time was over.
    Cut,
}

pub(crate) fn run(args: &NodeArgs, json: bool) -> Result<ExitCode, Problem> {
    let settings = settings(args)?;
    let home = home()?;
    // Before the threads of the network: the exporter waits for its own.
    let _telemetry = telemetry::start(args.log, "warn,libp2p_kad=error,ostrakon=info")?;
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let starting = async {
            let node = Node::start(settings, home).await?;
            node.complete().await?;
            Ok::<_, Problem>(node)
        };
        let node = tokio::select! {
            node = starting => node?,
            // Nothing runs yet that would have to be waited for.
            () = signals.stop() => return Ok(ExitCode::SUCCESS),
        };
        say_ready(&node, json)?;
        while !signals.next().await {
            reload(&node, args).await;
        }
        let end = tokio::select! {
            done = node.drain(node.drain_time()) => if done { End::Drained } else { End::Cut },
            () = signals.stop() => End::Cut,
        };
        node.stop().await;
        match end {
            End::Drained => tracing::info!("everything was done before the end"),
            End::Cut => tracing::warn!("the node ended before everything was done"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn say_ready(node: &Node, json: bool) -> Result<(), Problem> {
    let ready = Ready {
        ready: true,
        node: node.key().to_string(),
        addresses: node.addresses(),
        http: node.http().map(|address| address.to_string()),
        pid: std::process::id(),
    };
    if json {
        return write_json(&ready);
    }
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    write!(out, "{} {} {}", style.good("ready"), ready.node, ready.addresses.join(" "))?;
    if let Some(http) = &ready.http {
        write!(out, " http://{http}/metrics")?;
    }
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Nobody waits for this: what is wrong is said in the log, and everything stays as it was.
/// As the file says, and as the command line does where the file says nothing.
fn settings(args: &NodeArgs) -> Result<Settings, NodeError> {
    let mut settings = Settings::read(&args.config)?;
    settings.plugins = settings.plugins.or_else(|| args.plugins.plugins.clone());
    Ok(settings)
}

async fn reload(node: &Node, args: &NodeArgs) {
    let new = match settings(args) {
        Ok(new) => new,
        Err(error) => return tracing::error!(%error, "the new settings are not taken; the old ones stay"),
    };
    match node.reload(new).await {
        Ok(restart) if restart.is_empty() => tracing::info!("the new settings are taken"),
        Ok(restart) => {
            tracing::warn!(
                needs_restart = restart.join(", "),
                "the new settings are taken, but for those that only a restart can change"
            );
        }
        Err(error) => {
            let causes = error.causes().join(": ");
            tracing::error!(%error, causes, "the new settings are not taken; the old ones stay");
        }
    }
}
