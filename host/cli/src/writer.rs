//! Packages that write text, run by nodes of a swarm.

use crate::problem::Problem;
use ostrakon_node::generate::{Generator, Limits};
use ostrakon_node::swarm::client::SwarmClient;
use ostrakon_node::{Home, RunOptions, TrustPolicy};
use ostrakon_protocol::SigningKey;
use std::path::Path;
use tokio::runtime::Handle;

/// Which package, and how it is opened.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) policy: &'a TrustPolicy,
    pub(crate) home: &'a Home,
    pub(crate) options: &'a RunOptions,
    pub(crate) limits: Limits,
}

impl Place<'_> {
    /// Have the nodes at these addresses, and those that they know, run it.
    pub(crate) fn of_swarm(&self, addresses: &[String], handle: &Handle) -> Result<Generator, Problem> {
        // A key for this run only: nobody need know who asks.
        let key = SigningKey::generate();
        let key = key.map_err(|error| Problem::failed(format!("there is no randomness for a key: {error}")))?;
        let client = handle.block_on(SwarmClient::connect(addresses, key))?;
        let Self { directory, policy, home, options, limits } = *self;
        Ok(Generator::of_swarm(directory, policy, home, options, (client, handle.clone()), limits)?)
    }
}
