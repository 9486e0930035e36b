//! `ostrakon fetch`.

use super::{home, plain, policy, size, write_json};
use crate::args::FetchArgs;
use crate::problem::Problem;
use crate::runtime::runtime;
use crate::style::Style;
use ostrakon_node::swarm::client::SwarmClient;
use ostrakon_node::swarm::transfer::{Fetcher, Shelf};
use ostrakon_protocol::SigningKey;
use serde_json::json;
use std::io::{self, Write};
use std::sync::Arc;

/// Most bytes of a package that a person asks for by name: they can stop it by hand.
const MAX_BYTES: u64 = 1 << 40;

pub(crate) fn run(args: &FetchArgs, json: bool) -> Result<(), Problem> {
    let home = home()?;
    let policy = policy(&home, &args.trust)?;
    let key = SigningKey::generate().map_err(|e| Problem::failed(format!("there is no randomness for a key: {e}")))?;
    let fetched = runtime()?.block_on(async {
        let client = SwarmClient::connect(&args.swarm, key).await?;
        let shelf = Arc::new(Shelf::new(home.cache.join("trees")));
        let fetcher = Fetcher::new(client.net().clone(), home.clone(), shelf, MAX_BYTES);
        let fetched = fetcher.package(&args.package, &policy, client.bootstrap()).await;
        client.close().await;
        Ok::<_, Problem>(fetched?)
    })?;
    let stored = &fetched.stored;
    if json {
        return write_json(&json!({
            "name": stored.name,
            "digest": stored.digest.to_string(),
            "path": stored.directory.display().to_string(),
            "bytes": fetched.bytes,
            "fetched": fetched.fetched,
        }));
    }
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    writeln!(out, "{} {}", style.strong(&plain(&stored.name)), stored.digest)?;
    writeln!(out, "{} of {} came from the swarm", size(fetched.fetched), size(fetched.bytes))?;
    Ok(writeln!(out, "{}", style.faint(&stored.directory.display().to_string()))?)
}
