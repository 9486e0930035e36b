//! `ostrakon serve`: models behind the API that clients of OpenAI speak.
//!
//! # Why
//!
//! Whoever has a program that asks a model has it speaking this API. What such a program sends is understood or refused by name; it is
//! not taken for something else.
//!
//! # How
//!
//! 1. [`models`] loads packages: those that write text ([`Generator`](ostrakon_node::generate::Generator)), and those that make vectors
//!    ([`embedder`]).
//! 2. [`connection`] takes connections, [`router`] says what answers, [`admission`] who may ask, and how many at once.
//! 3. [`body`] reads a request. [`chat`], [`completions`] and [`embeddings`] are its shapes and those of its answers;
//!    [`sampling`], [`asking`] and [`answering`] are what the first two share. [`stream`] sends answers in pieces.
//! 4. [`receipts`] are what answers can be checked by, [`page`] is for people.
//! 5. [`error`] is what clients are told when something is wrong, [`metrics`] what is counted, [`openapi`] the description of it all.

mod admission;
mod answer;
mod answering;
mod asking;
mod body;
mod chat;
mod completions;
mod connection;
mod embedder;
mod embeddings;
mod error;
mod keys;
mod limits;
mod metrics;
mod models;
mod openapi;
mod page;
mod receipts;
mod router;
mod sampling;
mod stream;

use crate::args::ServeArgs;
use crate::commands::{home, policy, write_json};
use crate::problem::Problem;
use crate::runtime::runtime;
use crate::signals::Signals;
use crate::style::Style;
use crate::telemetry;
use admission::Admission;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use body::Bodies;
use keys::Keys;
use limits::END_TIME;
use metrics::Counters;
use models::{Models, Sources};
use ostrakon_node::RunOptions;
use ostrakon_node::generate::Limits;
use receipts::Receipts;
use serde::Serialize;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What all requests share.
struct Server {
    models: Arc<Models>,
    /// When the models were loaded, in seconds since 1970.
    created: u64,
    keys: Option<Keys>,
    /// Whether it must be asked at an address or as `localhost`.
    named_only: bool,
    /// Places for requests, and how many there are.
    places: Arc<Semaphore>,
    most: u32,
    bodies: Bodies,
    /// Whether a prompt may go on from what others asked.
    reuse: bool,
    /// None where no receipts are wanted.
    receipts: Option<Receipts>,
    counters: Arc<Counters>,
    description: serde_json::Value,
    stop: CancellationToken,
}

impl Server {
    /// Whose receipts a client may see: where there are keys, those of its own key.
    fn owner(&self, admission: &Admission) -> Option<u64> {
        self.keys.as_ref().map(|_| admission.client())
    }
}

/// What is printed when the server is ready.
#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    address: String,
    keys: Option<usize>,
    models: Vec<ReadyModel<'a>>,
    pid: u32,
}

#[derive(Serialize)]
struct ReadyModel<'a> {
    name: &'a str,
    task: &'static str,
    context: usize,
    package: String,
    backend: &'static str,
}

pub(crate) fn run(args: &ServeArgs, json: bool) -> Result<ExitCode, Problem> {
    let keys = keys(args)?;
    // What is wrong with the command line is said before models are loaded.
    router::origins(&args.cors)?;
    let home = home()?;
    let policy = policy(&home, &args.trust)?;
    let _telemetry = telemetry::start(args.log, "warn,ostrakon=info")?;
    let runtime = runtime()?;
    let listener = runtime.block_on(listen(args.listen))?;
    let models = Models::load(
        &args.packages,
        &Sources { policy: &policy, home: &home, options: &options(args), limits: limits(args) },
        (&args.swarm.swarm, runtime.handle()),
    )?;
    let models = Arc::new(models);
    let receipts = match args.receipts as usize {
        0 => None,
        most => Some(Receipts::new(most, home, policy, options(args))?),
    };
    let server = Arc::new(Server {
        description: openapi::describe(&models),
        counters: Arc::new(Counters::new(&models)),
        models,
        created: answer::now(),
        named_only: keys.is_none() && args.listen.ip().is_loopback(),
        keys,
        places: Arc::new(Semaphore::new(args.requests as usize)),
        most: args.requests,
        bodies: Bodies::new(args.body as usize),
        reuse: !args.no_reuse,
        receipts,
        stop: CancellationToken::new(),
    });
    let router = router::router(Arc::clone(&server), &args.cors)?;
    let cut = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let address = listener.local_addr()?;
        say_ready(&server, address, json)?;
        let (counters, stop) = (Arc::clone(&server.counters), server.stop.clone());
        let accepting = tokio::spawn(connection::accept(listener, router, counters, stop));
        // A terminal that is closed ends it too: nothing is read again.
        signals.next().await;
        server.stop.cancel();
        let open = async {
            if let Ok(open) = accepting.await {
                open.wait().await;
            }
        };
        Ok::<_, Problem>(tokio::select! {
            () = open => false,
            () = signals.stop() => true,
            () = tokio::time::sleep(END_TIME) => true,
        })
    })?;
    match cut {
        false => tracing::info!("everything was answered before the end"),
        true => tracing::warn!("the server ended before everything was answered"),
    }
    // Answers that are being written end with it, and then nobody holds the models any more.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

/// Keys, or a reason to do without.
fn keys(args: &ServeArgs) -> Result<Option<Keys>, Problem> {
    match &args.api_keys {
        Some(file) => Keys::read(file).map(Some),
        None if args.listen.ip().is_loopback() || args.no_keys => Ok(None),
        None => {
            let message = format!("whoever reaches {} could ask, as there are no keys", args.listen);
            Err(Problem::usage(message).hint("give --api-keys FILE, or say --no-keys if that is what you want"))
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Problem> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Problem::usage(format!("--listen {address}: this machine cannot listen there: {error}")))
}

fn options(args: &ServeArgs) -> RunOptions {
    RunOptions {
        arithmetic: args.backend,
        threads: args.threads.map(usize::from),
        plugins: args.plugins.plugins.clone(),
        ..RunOptions::default()
    }
}

fn limits(args: &ServeArgs) -> Limits {
    let usual = Limits::default();
    Limits {
        context: args.context.map_or(usual.context, |context| context as usize),
        sequences: args.sequences.into(),
        waiting: args.waiting as usize,
        ..usual
    }
}

/// A response in JSON.
fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], Body::from(bytes)).into_response(),
        Err(error) => error::ApiError::internal(&error.to_string()).into_response(),
    }
}

fn say_ready(server: &Server, address: SocketAddr, json: bool) -> Result<(), Problem> {
    let models = server.models.all().iter().map(|served| ReadyModel {
        name: &served.name,
        task: served.task(),
        context: served.context,
        package: served.digest.to_string(),
        backend: served.backend,
    });
    let ready = Ready {
        ready: true,
        address: address.to_string(),
        keys: server.keys.as_ref().map(Keys::len),
        models: models.collect(),
        pid: std::process::id(),
    };
    if json {
        return write_json(&ready);
    }
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    let keys = match ready.keys {
        Some(1) => "1 key".to_owned(),
        Some(count) => format!("{count} keys"),
        None => "no keys: whoever reaches it is answered".to_owned(),
    };
    writeln!(out, "{} http://{address}/v1 {}", style.good("ready"), style.faint(&keys))?;
    for model in &ready.models {
        let what = format!("{}, {} tokens, {}", model.task, model.context, model.backend);
        writeln!(out, "  {} {} {}", style.strong(model.name), style.faint(&what), style.faint(&model.package))?;
    }
    Ok(out.flush()?)
}
