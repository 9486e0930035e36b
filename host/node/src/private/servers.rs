//! The servers of a private run: masks prepared ahead, shares multiplied, whoever fails replaced.
//!
//! # How
//!
//! 1. Each leg has its servers in order. The first has no seed: it gets shares of the codes. The others get seeds.
//! 2. *Ahead*: fresh seeds are drawn, one for each server that gets one, and never used again after this preparation. All layers
//!    of the leg are asked for at once; while a server multiplies one, the last one is checked here. What all servers gave right
//!    goes to the [`pool`](super::pool).
//! 3. *Then*: rows of masks are taken out of the pool and are gone from it, whatever becomes of the answer.
//! 4. A server that fails or lies is replaced by one that has seen nothing of this leg: nobody who knows a mask ever gets what it
//!    hides. Where none is left, everything is planned anew without those who failed, and all prepared masks are thrown away:
//!    whoever made them might get another place now.

use super::connection::{Connection, Wanted};
use super::ledger::Ledger;
use super::legs::{Leg, LegServers, Package, Replaced, Server, State};
use super::pool::Pool;
use super::shares::ComponentShares;
use crate::batch::MAX_TOKENS;
use crate::error::NodeError;
use crate::swarm::client::choosing::{Choosing, Chosen};
use crate::swarm::execute::Trouble;
use ostrakon_engine::sharing::{Place, Seed};
use ostrakon_net::Payload;
use ostrakon_nn::{Masked, NnError, Servers, SharedError, SharedLayer, Tensor, Wrong};
use ostrakon_protocol::{Digest, PlannedLeg, PublicKey};
use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Rows that are prepared at once: so many elements of one layer wait for their check.
const CHUNK_ROWS: usize = 512;
/// Bytes of masks and products that are kept ready.
const POOL_BYTES: usize = 512 << 20;
/// How often a leg is tried before the run is given up: by whom ever new nodes are sent. Where nobody else is left patience ends
/// sooner ([`JOIN`]).
const TRIES: usize = 256;
/// How long a swarm may take to have enough servers: a node that comes back is known again after some seconds.
const JOIN: Duration = Duration::from_secs(15);
/// Time between two looks at who is there.
const AGAIN: Duration = Duration::from_millis(500);

/// What went over the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Elements of prepared masks' products that came, in bytes.
    pub prepared: u64,
    /// Elements of shares that were sent, in bytes.
    pub sent: u64,
    /// Elements of their products that came, in bytes.
    pub received: u64,
    /// Products of shares: each is one round trip.
    pub round_trips: u64,
}

/// The servers.
pub(super) struct ShareServers {
    handle: Handle,
    choosing: Choosing,
    /// How many servers a share goes to.
    count: u32,
    shares: Arc<ComponentShares>,
    state: Mutex<State>,
    pool: Pool,
    traffic: Mutex<Traffic>,
    waited: Mutex<Duration>,
}

/// Whoever has a seed, with a digest of it; and the masks of these seeds for each layer.
type Prepared = (Vec<(Digest, PublicKey)>, Vec<Masked>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ShareServers {
    pub(super) fn new(handle: Handle, choosing: Choosing, shares: Arc<ComponentShares>, count: u32) -> Self {
        let (state, pool, traffic, waited) = Default::default();
        Self { handle, choosing, count, shares, state, pool, traffic, waited }
    }

    /// Tell this ledger what becomes of masks, from now on. Only the first one that comes is told.
    pub(super) fn tell(&self, ledger: Arc<dyn Ledger>) {
        self.pool.tell(ledger);
    }

    /// All layers are known: choose servers.
    pub(super) fn begin(&self, package: Package) -> Result<(), NodeError> {
        let mut state = lock(&self.state);
        state.package = Some(package);
        self.plan(&mut state, JOIN)
    }

    /// Choose all servers, trying again for so long: nodes come back, and others hear of them. Where that was in vain just
    /// now, there is one try.
    fn plan(&self, state: &mut State, within: Duration) -> Result<(), NodeError> {
        let Some(package) = &state.package else {
            return Err(NodeError::Setting("no package was opened".into()));
        };
        let began = Instant::now();
        let within = if state.in_vain.is_some_and(|then| then.elapsed() < within) { Duration::ZERO } else { within };
        let chosen = loop {
            let excluded = state.excluded.iter().copied().collect();
            match self.handle.block_on(self.choosing.choose(package.digest, &package.needs, excluded)) {
                Ok(chosen) => break chosen,
                Err(error @ (NodeError::NoPlan(_) | NodeError::Swarm(_))) if began.elapsed() < within => {
                    tracing::info!(%error, "servers cannot be chosen yet");
                    std::thread::sleep(AGAIN);
                }
                Err(error) => {
                    if !within.is_zero() {
                        state.in_vain = Some(Instant::now());
                    }
                    return Err(error);
                }
            }
        };
        let Chosen { legs, addresses } = chosen;
        let leg = |PlannedLeg { from, to, replicas, shadows }| Leg {
            from,
            to,
            servers: replicas.into_iter().map(|node| Server { node, idle: Vec::new() }).collect(),
            shadows: shadows.into(),
        };
        state.legs = legs.into_iter().map(leg).collect();
        state.addresses = addresses;
        // Who prepared them may get another place now.
        self.pool.clear();
        Ok(())
    }

    pub(super) fn legs(&self) -> Vec<LegServers> {
        let servers = |leg: &Leg| leg.servers.iter().map(|server| server.node).collect();
        lock(&self.state)
            .legs
            .iter()
            .map(|leg| LegServers { from: leg.from, to: leg.to, servers: servers(leg) })
            .collect()
    }

    pub(super) fn traffic(&self) -> Traffic {
        *lock(&self.traffic)
    }

    pub(super) fn waited(&self) -> Duration {
        *lock(&self.waited)
    }

    pub(super) fn replaced(&self) -> Vec<Replaced> {
        lock(&self.state).replaced.clone()
    }

    pub(super) fn close(&self) {
        let legs = std::mem::take(&mut lock(&self.state).legs);
        self.handle.block_on(async {
            for connection in legs.into_iter().flat_map(|leg| leg.servers).flat_map(|server| server.idle) {
                connection.close().await;
            }
            self.choosing.net().stop().await;
        });
    }

    /// Prepare masks of this many rows for all layers, as far as the pool holds them.
    pub(super) fn prepare_all(&self, rows: usize) -> Result<(), NodeError> {
        let mut state = lock(&self.state);
        let row: usize = state.layers.iter().map(|layer| 4 * (layer.inputs() + layer.columns() * self.seeds())).sum();
        let held = self.pool.most();
        let mut left = rows.min((POOL_BYTES / row.max(1)).max(1).saturating_sub(held));
        while left > 0 {
            let now = left.min(MAX_TOKENS);
            for at in 0..state.legs.len() {
                self.prepare(&mut state, at, now).map_err(|error| NodeError::Swarm(error.to_string()))?;
            }
            left -= now;
        }
        Ok(())
    }

    /// Rows that are ready in all layers.
    pub(super) fn ready(&self) -> usize {
        let state = lock(&self.state);
        state.layers.iter().map(|layer| self.pool.rows(layer.stream())).min().unwrap_or(0)
    }

    fn seeds(&self) -> usize {
        self.count.saturating_sub(1) as usize
    }

    /// Prepare masks for all layers of a leg.
    fn prepare(&self, state: &mut State, at: usize, rows: usize) -> Result<(), SharedError> {
        let mut left = rows;
        while left > 0 {
            let now = left.min(CHUNK_ROWS);
            self.prepare_chunk(state, at, now)?;
            left -= now;
        }
        Ok(())
    }

    fn prepare_chunk(&self, state: &mut State, at: usize, rows: usize) -> Result<(), SharedError> {
        for _ in 0..TRIES {
            let layers = state.layers_of(at);
            match self.try_prepare(state, at, &layers, rows)? {
                Some(all) => {
                    let (seeds, all) = all;
                    for (layer, masked) in layers.iter().zip(all) {
                        self.pool.put(&seeds, layer.stream(), rows, masked);
                    }
                    return Ok(());
                }
                // Somebody was replaced. If all was planned anew, legs may be cut otherwise: then whoever needs masks asks again.
                None if state.legs.get(at).is_none() => return Err(SharedError::Lost("it was planned anew".into())),
                None => {}
            }
        }
        let last = state.replaced.last().map(ToString::to_string).unwrap_or_default();
        Err(SharedError::Hopeless(format!("masks could not be prepared {TRIES} times: the last time, {last}")))
    }

    /// `None`: a server failed and has been replaced.
    fn try_prepare(
        &self,
        state: &mut State,
        at: usize,
        layers: &[Arc<SharedLayer>],
        rows: usize,
    ) -> Result<Option<Prepared>, SharedError> {
        let seeds = (0..self.seeds()).map(|_| fresh_seed()).collect::<Result<Vec<Seed>, _>>()?;
        // Each server's products, in the order of the layers.
        let mut products: Vec<VecDeque<Tensor>> = Vec::new();
        let mut masks: Vec<Tensor> = Vec::new();
        let mut holders = Vec::new();
        for (number, seed) in seeds.iter().enumerate() {
            let result = self.ask_seeded(state, at, number + 1, *seed, layers, rows);
            match result {
                Ok((given, expanded)) => {
                    holders.extend(state.server(at, number + 1).map(|node| (Digest::of_content(seed), node)));
                    products.push(given.into());
                    masks = expanded;
                }
                Err(Failed::Here(error)) => return Err(SharedError::Hopeless(error.to_string())),
                Err(Failed::There(trouble)) => {
                    self.replace(state, at, number + 1, &trouble)?;
                    return Ok(None);
                }
            }
        }
        let mut all = Vec::with_capacity(layers.len());
        for (number, layer) in layers.iter().enumerate() {
            // With one seed its mask has been expanded for the check.
            let mask = match (seeds.len(), masks.get(number)) {
                (1, Some(mask)) => mask.clone(),
                _ => self.shares.mask(&seeds, place(layer, rows)).map_err(|e| SharedError::Hopeless(e.to_string()))?,
            };
            all.push(Masked { mask, products: products.iter_mut().filter_map(VecDeque::pop_front).collect() });
        }
        Ok(Some((holders, all)))
    }

    /// Have one server multiply its masks, and check what it gives: products and masks, layer by layer.
    fn ask_seeded(
        &self,
        state: &mut State,
        at: usize,
        number: usize,
        seed: Seed,
        layers: &[Arc<SharedLayer>],
        rows: usize,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>), Failed> {
        let mut connection = self.connection(state, at, number)?;
        if let (Some(ledger), Some(node)) = (self.pool.ledger(), state.server(at, number)) {
            ledger.given(Digest::of_content(&seed), node);
        }
        let (mut products, mut masks) = (Vec::with_capacity(layers.len()), Vec::with_capacity(layers.len()));
        self.handle.block_on(async {
            for layer in layers {
                connection.ask_masked(&wanted(layer, rows), seed, layer.stream()).await?;
            }
            Ok::<(), Trouble>(())
        })?;
        for layer in layers {
            // While the server multiplies.
            let mask = self.shares.mask(&[seed], place(layer, rows))?;
            let product = self.handle.block_on(connection.product(&wanted(layer, rows)))?;
            lock(&self.traffic).prepared += product.len() as u64;
            let product = unpacked(layer, rows, &product)?;
            if let Some(row) = layer.check(&*self.shares, &mask, &product)? {
                let what = format!("row {row} of layer `{}`, of a mask", layer.name());
                return Err(Failed::There(Trouble::Wrong(what)));
            }
            products.push(product);
            masks.push(mask);
        }
        self.keep(state, at, number, connection);
        state.gave(at, number);
        Ok((products, masks))
    }

    /// The stream to a server of a leg, opened if it is not.
    fn connection(&self, state: &mut State, at: usize, number: usize) -> Result<Connection, Trouble> {
        let gone = || Trouble::Gone("there is no such server any more".into());
        let purpose = state.purpose(at).ok_or_else(gone)?;
        let server = state.legs.get_mut(at).and_then(|leg| leg.servers.get_mut(number)).ok_or_else(gone)?;
        while let Some(connection) = server.idle.pop() {
            if !connection.is_idle() {
                return Ok(connection);
            }
            self.handle.spawn(connection.close());
        }
        let addresses = state.addresses.get(&server.node).map(Vec::as_slice).unwrap_or_default();
        self.handle.block_on(Connection::open(self.choosing.net(), server.node, addresses, purpose))
    }

    fn keep(&self, state: &mut State, at: usize, number: usize, connection: Connection) {
        if let Some(server) = state.legs.get_mut(at).and_then(|leg| leg.servers.get_mut(number)) {
            server.idle.push(connection);
        }
    }

    /// A server failed: another one takes its place, or all is planned anew.
    fn replace(&self, state: &mut State, at: usize, number: usize, trouble: &Trouble) -> Result<(), SharedError> {
        let Some(leg) = state.legs.get_mut(at) else { return Ok(()) };
        let Some(server) = leg.servers.get_mut(number) else { return Ok(()) };
        let failed = server.node;
        server.idle.clear();
        let next = leg.shadows.pop_front();
        if let Some(next) = next {
            server.node = next;
        }
        if let Some(offence) = trouble.offence() {
            self.choosing.net().report(failed, offence);
        }
        state.excluded.insert(failed);
        if !trouble.may_pass() {
            state.liars.insert(failed);
        }
        state.was_replaced(failed, trouble);
        if next.is_some() {
            return Ok(());
        }
        if let Err(error) = self.plan(state, Duration::ZERO) {
            let failing = state.failing_for(failed);
            if failing >= JOIN {
                let seconds = failing.as_secs();
                return Err(SharedError::Hopeless(format!(
                    "{} for {seconds} s, and nobody can take its place: {}",
                    Replaced::new(failed, trouble),
                    error.in_full()
                )));
            }
            // Most likely it is asked again now: not at once.
            std::thread::sleep(AGAIN);
            // Whoever only failed may be there again; liars stay out.
            state.excluded.clone_from(&state.liars);
            self.plan(state, JOIN).map_err(|again| {
                SharedError::Hopeless(format!("{}; without those who failed: {}", again.in_full(), error.in_full()))
            })?;
        }
        Ok(())
    }
}

/// Whose fault it was.
enum Failed {
    Here(NnError),
    There(Trouble),
}

impl From<NnError> for Failed {
    fn from(error: NnError) -> Self {
        Self::Here(error)
    }
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::There(trouble)
    }
}

impl Servers for ShareServers {
    type Who = PublicKey;

    fn register(&self, layer: &Arc<SharedLayer>) {
        lock(&self.state).layers.push(Arc::clone(layer));
    }

    fn masked(&self, layer: &Arc<SharedLayer>, rows: usize) -> Result<Masked, SharedError> {
        let hopeless = |error: NnError| SharedError::Hopeless(error.to_string());
        if let Some(masked) = self.pool.take(layer.stream(), rows).map_err(hopeless)? {
            return Ok(masked);
        }
        let start = Instant::now();
        let prepared = {
            let mut state = lock(&self.state);
            match state.leg_of(layer.name()) {
                Some(at) => self.prepare(&mut state, at, rows),
                None => Err(SharedError::Hopeless(format!("no server multiplies for layer `{}`", layer.name()))),
            }
        };
        *lock(&self.waited) += start.elapsed();
        prepared?;
        let lost = || SharedError::Lost("masks that were prepared are gone".into());
        self.pool.take(layer.stream(), rows).map_err(hopeless)?.ok_or_else(lost)
    }

    fn multiply(&self, layer: &Arc<SharedLayer>, share: &Tensor) -> Result<(Tensor, PublicKey), SharedError> {
        let mut state = lock(&self.state);
        let at = state.leg_of(layer.name()).ok_or_else(|| SharedError::Lost("it was planned anew".into()))?;
        let rows = share.dims().first().map_or(0, |&rows| rows as usize);
        self.pool.may_send(layer.stream(), state.server(at, 0))?;
        let hopeless = |error: &dyn Display| SharedError::Hopeless(error.to_string());
        let packed = layer.pack(share).map_err(|error| hopeless(&error))?;
        let sent = packed.len() as u64;
        let asked = match self.connection(&mut state, at, 0) {
            Ok(connection) => {
                // Apart from this thread, which would be woken by every piece that comes.
                let asked = self.handle.spawn(multiplied(connection, wanted(layer, rows), packed));
                self.handle.block_on(asked).map_err(|error| hopeless(&error))?
            }
            Err(trouble) => Err(trouble),
        };
        let result = asked
            .and_then(|(connection, came)| Ok((unpacked(layer, rows, &came)?, [sent, came.len() as u64], connection)));
        match result {
            Ok((product, [sent, received], connection)) => {
                self.keep(&mut state, at, 0, connection);
                let who = state.gave(at, 0);
                state.went_on();
                let mut traffic = lock(&self.traffic);
                traffic.sent += sent;
                traffic.received += received;
                traffic.round_trips += 1;
                who.map(|who| (product, who)).ok_or_else(|| SharedError::Lost("the server is gone".into()))
            }
            Err(trouble) => {
                self.replace(&mut state, at, 0, &trouble)?;
                Err(SharedError::Lost(trouble.to_string()))
            }
        }
    }

    fn wrong(&self, who: &PublicKey, wrong: &Wrong) {
        let mut state = lock(&self.state);
        let Wrong { layer, row } = wrong;
        let trouble = Trouble::Wrong(format!("row {row} of layer `{layer}`"));
        if let Some(at) = state.leg_of(layer)
            && state.server(at, 0) == Some(*who)
        {
            // Should nobody be left, the next try says so.
            let _ = self.replace(&mut state, at, 0, &trouble);
        }
    }
}

/// The product of a share as it came, and the stream.
async fn multiplied(
    mut connection: Connection,
    wanted: Wanted,
    packed: Vec<u8>,
) -> Result<(Connection, Payload), Trouble> {
    let product = connection.multiply(&wanted, &packed).await?;
    Ok((connection, product))
}

/// The product that came.
fn unpacked(layer: &SharedLayer, rows: usize, came: &[u8]) -> Result<Tensor, Trouble> {
    layer.unpack(rows, came).map_err(|error| Trouble::Malformed(error.text().to_owned()))
}

fn fresh_seed() -> Result<Seed, SharedError> {
    let mut seed = Seed::default();
    getrandom::fill(&mut seed).map_err(|error| SharedError::Hopeless(format!("no randomness for a mask: {error}")))?;
    Ok(seed)
}

fn place(layer: &SharedLayer, rows: usize) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place {
        field: layer.field(),
        stream: layer.stream(),
        first: 0,
        rows: number(rows),
        columns: number(layer.inputs()),
    }
}

fn wanted(layer: &Arc<SharedLayer>, rows: usize) -> Wanted {
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    Wanted { layer: Arc::clone(layer), rows }
}
