//! A private run: the user's machine runs the model, servers that learn nothing multiply.
//!
//! # Why
//!
//! Whoever runs a model for somebody sees what it is run on. Here the blocks run on the user's own machine and only the
//! products of linear layers leave it, as shares that are uniformly random to any server that does not have all of them.
//! The answer has the same bytes as a plain run, and every product was checked before it was used. What this does *not*
//! hide is written in `docs/privacy.md`.
//!
//! # How
//!
//! 1. [`choosing`](crate::swarm::client::choosing): the scheduler component picks, for each leg of blocks, servers of different
//!    operators and some to take their places.
//! 2. [`shares`]: a component of the world `secret-sharing` splits, checks and combines.
//! 3. [`servers`]: masks are prepared ahead with the servers that have seeds; the shares of a run go to the one without.
//!    A server that lies, stalls or goes is named and replaced.
//! 4. [`pool`]: masks that are ready, each used once; [`connection`]: the stream to one server.
//! 5. [`ledger`]: what becomes of masks, for whoever looks whether one is used twice.
//!
//! [`PrivateModel`] is all of that around an ordinary [`Model`] whose backend is `ostrakon_nn::SharedBackend`.
//!
//! Everything here is called from threads meant for computing, never from those of the runtime that serves the network.

mod connection;
mod ledger;
mod legs;
mod pool;
mod servers;
mod shares;

pub use ledger::{Ledger, MaskRows};
pub use legs::{LegServers, Replaced};
pub use servers::Traffic;

use crate::error::NodeError;
use crate::execute::Answer;
use crate::load::{Model, runtime};
use crate::options::RunOptions;
use crate::plugins::{Plugins, SCHEDULER, SECRET_SHARING};
use crate::progress::Watcher;
use crate::swarm::client::SwarmClient;
use crate::swarm::client::choosing::Choosing;
use crate::swarm::known::needs;
use legs::Package;
use ostrakon_engine::World;
use ostrakon_nn::{BackendError, ProvenBackend, SharedBackend, Tensor};
use ostrakon_package::{Home, TrustPolicy};
use ostrakon_protocol::Verify;
use servers::ShareServers;
use shares::ComponentShares;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Fewest servers.
pub const MIN_SERVERS: u32 = 2;
/// Most servers.
pub const MAX_SERVERS: u32 = 16;

/// Rows for which speed is predicted when servers are chosen.
const PREDICTED_ROWS: u64 = 128;

/// A package that is run here, with its products on servers.
pub struct PrivateModel {
    model: Model,
    servers: Arc<ShareServers>,
}

/// What a private run gives.
#[derive(Debug, Clone)]
pub struct PrivateAnswer {
    /// The same as that of a plain run.
    pub answer: Answer,
    /// Preparing masks while the run waited for them.
    pub waited: Duration,
    /// The rest: from the tokens to the outputs.
    pub online: Duration,
    /// What went over the network since the model was opened.
    pub traffic: Traffic,
    /// Who multiplies what now.
    pub legs: Vec<LegServers>,
    /// Servers that were replaced, in order.
    pub replaced: Vec<Replaced>,
}

impl PrivateModel {
    /// Open the package in `directory` and find `count` servers of different operators for each of its blocks.
    ///
    /// `handle` is of the runtime that `client` lives on. This blocks.
    ///
    /// # Errors
    /// As [`Model::load`]; the plugins are not there; a number of servers out of range, too few of them in the swarm.
    pub fn open(
        directory: &Path,
        policy: &TrustPolicy,
        home: &Home,
        options: &RunOptions,
        client: SwarmClient,
        handle: Handle,
        count: u32,
    ) -> Result<Self, NodeError> {
        if !(MIN_SERVERS..=MAX_SERVERS).contains(&count) {
            return Err(NodeError::Setting(format!(
                "{count} servers: a text is split among {MIN_SERVERS} to {MAX_SERVERS}, and one server would see it"
            )));
        }
        let plugins = Plugins::find(options.plugins.as_deref())?;
        let verify = Verify::Quorum { needed: count, nodes: count };
        let choosing = Choosing::new(client, &plugins.read(SCHEDULER)?, home, options, verify, PREDICTED_ROWS)?;
        let sharing = runtime(home, options)?
            .admit(&plugins.read(SECRET_SHARING)?, World::SecretSharing)
            .map_err(|source| NodeError::Admission { name: SECRET_SHARING.into(), source })?;
        let shares = Arc::new(ComponentShares::new(sharing, options.limits));
        let servers = Arc::new(ShareServers::new(handle, choosing, Arc::clone(&shares), count));
        let model = Model::load_on(directory, policy, home, options, |executor| {
            shares.start(executor).map_err(|error| BackendError::Unavailable {
                backend: ostrakon_nn::backend::shared::NAME,
                reason: error.to_string(),
            })?;
            ProvenBackend::new(SharedBackend::new(Arc::clone(executor), shares as _, Arc::clone(&servers)))
        })?;
        let blocks = model.manifest().blocks.iter().map(|block| block.name.clone()).collect();
        let most_tokens = model.manifest().max_tokens.unwrap_or_default();
        servers.begin(Package {
            digest: model.digest(),
            blocks,
            needs: needs(&model.package),
            most_tokens: most_tokens.into(),
        })?;
        Ok(Self { model, servers })
    }

    /// The model.
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Who multiplies what now.
    pub fn legs(&self) -> Vec<LegServers> {
        self.servers.legs()
    }

    /// Tell this ledger what becomes of masks, from now on. Only the first one that comes is told.
    pub fn tell(&self, ledger: Arc<dyn Ledger>) {
        self.servers.tell(ledger);
    }

    /// The rows that texts will take: to be prepared.
    ///
    /// # Errors
    /// A text cannot be tokenised.
    pub fn rows(&self, texts: &[String]) -> Result<usize, NodeError> {
        Ok(self.model.tokens.encode(texts)?.iter().map(|text| text.ids.len()).sum())
    }

    /// Prepare masks for this many rows beyond those that are ready; of more rows than are kept ready, as many as are. Nothing that is
    /// sent depends on any text.
    ///
    /// # Errors
    /// No servers are left that do it.
    pub fn prepare(&self, rows: usize) -> Result<Duration, NodeError> {
        let start = Instant::now();
        self.servers.prepare_all(rows)?;
        Ok(start.elapsed())
    }

    /// Rows whose masks are ready in all layers.
    pub fn ready(&self) -> usize {
        self.servers.ready()
    }

    /// Run texts, at most `most` in a batch. Masks that are not ready are prepared on the way.
    ///
    /// # Errors
    /// As [`Model::run`]; no servers are left that do it.
    pub fn run(
        &mut self,
        texts: &[String],
        most: Option<usize>,
        watch: Watcher<'_>,
    ) -> Result<PrivateAnswer, NodeError> {
        let before = self.servers.waited();
        let answer = self.model.run(texts, most, watch)?;
        let waited = self.servers.waited().saturating_sub(before);
        Ok(PrivateAnswer {
            online: answer.compute.saturating_sub(waited),
            waited,
            answer,
            traffic: self.servers.traffic(),
            legs: self.servers.legs(),
            replaced: self.servers.replaced(),
        })
    }

    /// Send a ragged batch of token ids, I32 [T] with lengths I32 [B], through all blocks.
    ///
    /// # Errors
    /// As [`PrivateModel::run`].
    pub fn forward(&mut self, ids: Tensor, lengths: &Tensor) -> Result<Tensor, NodeError> {
        self.model.forward(ids, lengths)
    }

    /// See [`Model::make_ready`].
    ///
    /// # Errors
    /// As there.
    pub fn make_ready(&mut self) -> Result<(), NodeError> {
        self.model.make_ready()
    }

    /// What went over the network since it was opened.
    pub fn traffic(&self) -> Traffic {
        self.servers.traffic()
    }

    /// End all streams and close all connections.
    pub fn close(self) {
        self.servers.close();
    }
}
