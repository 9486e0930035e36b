//! Which servers multiply for which blocks, as far as it is known.

use super::connection::{Connection, Purpose};
use crate::batch::MAX_TOKENS;
use crate::swarm::execute::Trouble;
use ostrakon_nn::SharedLayer;
use ostrakon_protocol::{BlockNeeds, Digest, PublicKey};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Replaced servers that are remembered.
const REPLACED: usize = 64;

/// The package whose layers are multiplied.
pub(super) struct Package {
    pub(super) digest: Digest,
    /// Names of its blocks, in order.
    pub(super) blocks: Vec<String>,
    pub(super) needs: Vec<BlockNeeds>,
    /// Most rows of a text.
    pub(super) most_tokens: u64,
}

/// What is known of the package, its layers and their servers.
#[derive(Default)]
pub(super) struct State {
    pub(super) package: Option<Package>,
    pub(super) layers: Vec<Arc<SharedLayer>>,
    pub(super) legs: Vec<Leg>,
    pub(super) addresses: BTreeMap<PublicKey, Vec<String>>,
    /// Whoever failed since the last plan, and all liars.
    pub(super) excluded: BTreeSet<PublicKey>,
    /// Whoever sent something wrong: not asked again, even if nobody else is left.
    pub(super) liars: BTreeSet<PublicKey>,
    /// When whoever failed, and is asked again for want of others, failed first.
    failing: BTreeMap<PublicKey, Instant>,
    /// When somebody last waited for servers and none came.
    pub(super) in_vain: Option<Instant>,
    pub(super) replaced: Vec<Replaced>,
}

/// Who multiplies for which blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegServers {
    /// The first block.
    pub from: u32,
    /// One after the last.
    pub to: u32,
    /// The first gets shares of the codes, the others seeds.
    pub servers: Vec<PublicKey>,
}

/// A server that did not do what it should, and that another one was asked for, or the same again where there was no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Who it was.
    pub server: PublicKey,
    /// What it did. Some of it may be its own words.
    pub why: String,
}

impl Replaced {
    pub(super) fn new(server: PublicKey, trouble: &Trouble) -> Self {
        let why = trouble.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        // What the network says begins with whom it is about.
        let why = why.strip_prefix(&server.to_string()).map(|rest| rest.trim_start().to_owned()).unwrap_or(why);
        Self { server, why }
    }
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.why)
    }
}

/// Blocks, and who multiplies for them.
pub(super) struct Leg {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) servers: Vec<Server>,
    pub(super) shadows: VecDeque<PublicKey>,
}

/// One of them.
pub(super) struct Server {
    pub(super) node: PublicKey,
    /// Streams to it that nobody uses just now.
    pub(super) idle: Vec<Connection>,
}

impl State {
    /// The block that a layer belongs to: names of layers are `<block>.<layer>`.
    fn block_of(&self, layer: &str) -> Option<u32> {
        let blocks = &self.package.as_ref()?.blocks;
        let within = |block: &str| layer.strip_prefix(block).is_some_and(|rest| rest.starts_with('.'));
        let found = blocks.iter().enumerate().filter(|(_, block)| within(block)).max_by_key(|(_, block)| block.len());
        found.and_then(|(at, _)| u32::try_from(at).ok())
    }

    pub(super) fn leg_of(&self, layer: &str) -> Option<usize> {
        let block = self.block_of(layer)?;
        self.legs.iter().position(|leg| (leg.from..leg.to).contains(&block))
    }

    /// The layers of a leg, in the order in which the model opens them.
    pub(super) fn layers_of(&self, at: usize) -> Vec<Arc<SharedLayer>> {
        self.layers.iter().filter(|layer| self.leg_of(layer.name()) == Some(at)).map(Arc::clone).collect()
    }

    pub(super) fn purpose(&self, at: usize) -> Option<Purpose> {
        let (package, leg) = (self.package.as_ref()?, self.legs.get(at)?);
        let rows = u32::try_from((MAX_TOKENS as u64).max(package.most_tokens)).unwrap_or(u32::MAX);
        Some(Purpose { package: package.digest, from: leg.from, to: leg.to, rows })
    }

    /// Who has this place in a leg.
    pub(super) fn server(&self, at: usize, number: usize) -> Option<PublicKey> {
        self.legs.get(at)?.servers.get(number).map(|server| server.node)
    }

    /// A server failed and nobody can take its place: how long ago it did so first, since it gave anything or the run went on.
    pub(super) fn failing_for(&mut self, node: PublicKey) -> Duration {
        self.failing.entry(node).or_insert_with(Instant::now).elapsed()
    }

    /// The run goes on.
    pub(super) fn went_on(&mut self) {
        self.failing.clear();
    }

    /// A server gave what was wanted.
    pub(super) fn gave(&mut self, at: usize, number: usize) -> Option<PublicKey> {
        let who = self.server(at, number)?;
        self.failing.remove(&who);
        Some(who)
    }

    pub(super) fn was_replaced(&mut self, server: PublicKey, trouble: &Trouble) {
        let replaced = Replaced::new(server, trouble);
        tracing::warn!(%replaced, "a server is replaced");
        if self.replaced.len() < REPLACED && !self.replaced.contains(&replaced) {
            self.replaced.push(replaced);
        }
    }
}
