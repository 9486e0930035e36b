//! The execute phase: batches go through the legs of a plan, on nodes that may fail or lie.
//!
//! # How
//!
//! 1. *Two-phase commit.* Every node of the plan is asked to hold room ([`Line::reserve`]); when all legs have their
//!    nodes, all are told to go ahead and a stream is opened to each. When one leg has too few, everything is given back.
//! 2. Each batch goes through the legs in order. A leg takes one batch at a time, so several batches are under way at
//!    once, each in another leg.
//! 3. The coordinator holds what goes into each leg. When a node fails, the same goes to a shadow; when there are no
//!    shadows left, the phase stops, and what was reached is kept for the next plan ([`Partial`]).
//! 4. Everything that a node sends is looked at before it goes on ([`looked`]). What a quorum decides is in [`ballot`].

mod ballot;
mod line;
mod looked;
mod session;

pub use session::Trouble;

use crate::receipt::element_code;
use crate::swarm::known::{BatchInput, Carried};
use crate::swarm::submit::Work;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use line::{Given, Line};
use ostrakon_net::Client;
use ostrakon_nn::TensorType;
use ostrakon_protocol::{Digest, Leg, PlanRecord, PublicKey, Signature, Verify};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as Queue;

/// Milliseconds that a node holds room without a call.
const HOLD: u32 = 30_000;
/// No call is waited for longer than this.
const LONGEST: Duration = Duration::from_secs(600);
/// No prediction above this counts: it rests on what nodes say of themselves.
const LONGEST_PREDICTION: u64 = 30_000_000;

/// How long nodes are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The least.
    pub floor: Duration,
    /// Counted from 0; each attempt waits twice as long, in case nobody is frozen but everybody is slow.
    pub attempt: u32,
    /// Microseconds that a batch is thought to take.
    pub predicted: u64,
}

impl Patience {
    fn control(&self) -> Duration {
        self.floor.saturating_mul(1 << self.attempt.min(4))
    }

    fn call(&self, expected: u64) -> Duration {
        let expected = expected.max(self.predicted.min(LONGEST_PREDICTION));
        self.control().max(Duration::from_micros(expected.saturating_mul(6))).min(LONGEST)
    }
}

/// A call that a node answered as it should.
#[derive(Debug, Clone, Copy)]
pub struct Observed {
    /// Who.
    pub node: PublicKey,
    /// The first block.
    pub from: u32,
    /// One after the last.
    pub to: u32,
    /// Rows of the batch.
    pub rows: u64,
    /// Microseconds from the question to the answer, as the coordinator saw it.
    pub took: u64,
    /// Microseconds in the blocks, by the node's word; 0: not said.
    pub claimed: u64,
}

/// Who did what in a job, and what is to be learnt of it.
#[derive(Debug, Default)]
pub struct Ledger {
    blamed: Mutex<BTreeMap<PublicKey, Trouble>>,
    observed: Mutex<Vec<Observed>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Most observations that are kept of a job.
const MAX_OBSERVED: usize = 4096;

impl Ledger {
    /// A node did something instead of what it should: it is named, reported, and not used again for this job.
    pub fn blame(&self, net: &Client, job: &Digest, node: PublicKey, trouble: Trouble) {
        tracing::warn!(%job, %node, %trouble, "a node of the plan is replaced");
        if let Some(offence) = trouble.offence() {
            net.report(node, offence);
        }
        let mut blamed = lock(&self.blamed);
        match blamed.get(&node) {
            Some(worse) if !worse.may_pass() => {}
            _ => drop(blamed.insert(node, trouble)),
        }
    }

    /// Those who are not to be used for this job.
    pub fn excluded(&self) -> Vec<PublicKey> {
        lock(&self.blamed).keys().copied().take(ostrakon_protocol::plan::MAX_EXCLUDED).collect()
    }

    /// Who is blamed for what.
    pub fn blamed(&self) -> BTreeMap<PublicKey, Trouble> {
        lock(&self.blamed).clone()
    }

    /// There is nobody else: those who did nothing worse than failing may be used again.
    pub fn forgive(&self) {
        lock(&self.blamed).retain(|_, trouble| !trouble.may_pass());
    }

    /// What was observed.
    pub fn take_observed(&self) -> Vec<Observed> {
        std::mem::take(&mut lock(&self.observed))
    }
}

/// An execution of a job by one plan.
#[derive(Debug)]
pub struct Run<'a> {
    /// The network.
    pub net: &'a Client,
    /// The job.
    pub work: &'a Work,
    /// The plan.
    pub plan: &'a PlanRecord,
    /// What stands for it.
    pub plan_digest: Digest,
    /// How long nodes are waited for.
    pub patience: Patience,
    /// Where deeds are written.
    pub ledger: &'a Ledger,
}

impl Run<'_> {
    fn blame(&self, node: PublicKey, trouble: Trouble) {
        self.ledger.blame(self.net, &self.work.id, node, trouble);
    }

    fn is_blamed(&self, node: &PublicKey) -> bool {
        lock(&self.ledger.blamed).contains_key(node)
    }

    fn observed(&self, node: PublicKey, from: u32, to: u32, rows: u64, took: u64, claimed: u64) {
        let mut observed = lock(&self.ledger.observed);
        if observed.len() < MAX_OBSERVED {
            observed.push(Observed { node, from, to, rows, took, claimed });
        }
    }

    fn verify(&self) -> Verify {
        self.work.signed.job.verify
    }

    fn replicas(&self) -> usize {
        self.verify().replicas() as usize
    }

    fn needed(&self) -> usize {
        match self.verify() {
            Verify::Quorum { needed, .. } => needed as usize,
            _ => 1,
        }
    }

    fn is_sealed(&self) -> bool {
        matches!(self.verify(), Verify::Quorum { .. })
    }

    const fn hold(&self) -> u32 {
        HOLD
    }
}

/// Why a plan could not be carried out to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// Too few nodes are left.
    #[error("too few nodes are left for the blocks {from} to {to}")]
    NoNodes {
        /// The first block.
        from: u32,
        /// One after the last.
        to: u32,
    },
    /// Somebody made something that the next one does not take: it cannot be said who.
    #[error("batch {batch} became something that cannot be used")]
    Unfit {
        /// Which, counted from 0.
        batch: u32,
    },
}

/// A leg that is done.
#[derive(Debug, Clone)]
pub struct DoneLeg {
    /// What its node signed.
    pub leg: Leg,
    /// Who else signed the same steps, on what backend.
    pub witnesses: Vec<(PublicKey, String, Signature)>,
}

struct Done {
    leg: Leg,
    witnesses: Vec<(PublicKey, String, Signature)>,
    output: Carried,
}

/// How far a batch is.
#[derive(Debug)]
pub struct Partial(Mutex<Reached>);

#[derive(Debug, Clone)]
struct Reached {
    legs: Vec<DoneLeg>,
    block: u32,
    carried: Carried,
}

impl Partial {
    /// At the beginning.
    pub fn new(batch: &BatchInput) -> Self {
        Self(Mutex::new(Reached { legs: Vec::new(), block: 0, carried: batch.ids.clone() }))
    }

    /// Back to the beginning.
    pub fn reset(&self, batch: &BatchInput) {
        *lock(&self.0) = Reached { legs: Vec::new(), block: 0, carried: batch.ids.clone() };
    }

    /// How many blocks it has gone through.
    pub fn block(&self) -> u32 {
        lock(&self.0).block
    }

    /// Its legs so far, and what left the last of them.
    pub fn legs(&self) -> (Vec<DoneLeg>, Carried) {
        let reached = lock(&self.0);
        (reached.legs.clone(), reached.carried.clone())
    }

    /// Whether a node answers for a part of it.
    pub fn is_by(&self, node: &PublicKey) -> bool {
        lock(&self.0).legs.iter().any(|done| done.leg.node == *node)
    }
}

/// Carry out a plan: afterwards every batch has gone through all blocks, or it says why not. `through` is called for each
/// batch that has.
pub(super) async fn execute(run: &Run<'_>, progress: &[Partial], through: &(dyn Fn() + Sync)) -> Result<(), Stopped> {
    let all = run.work.block_count();
    let left: Vec<u32> = (0..).zip(progress).filter(|(_, batch)| batch.block() < all).map(|(at, _)| at).collect();
    if left.is_empty() {
        return Ok(());
    }
    let lines = seat_all(run).await?;
    let count = lines.len().saturating_add(1);
    let batches: Vec<BoxFuture<'_, Result<(), Stopped>>> = left
        .into_iter()
        .filter_map(|at| progress.get(at as usize).map(|partial| (at, partial)))
        .map(|(at, partial)| Box::pin(one(run, &lines, partial, at, through)) as BoxFuture<'_, _>)
        .collect();
    let mut under_way = stream::iter(batches).buffer_unordered(count);
    let mut result = Ok(());
    while let Some(done) = under_way.next().await {
        if done.is_err() {
            result = done;
            break;
        }
    }
    drop(under_way);
    for line in lines {
        for member in line.into_inner().members {
            tokio::spawn(member.close());
        }
    }
    result
}

/// Two-phase commit with every node of the plan.
async fn seat_all(run: &Run<'_>) -> Result<Vec<Queue<Line>>, Stopped> {
    let reserving = run.plan.plan.legs.iter().map(|leg| Line::reserve(run, leg));
    let mut reserved = futures::future::join_all(reserving).await;
    if let Some((line, _)) = reserved.iter().find(|(_, held)| held.len() < run.needed()) {
        let stopped = Stopped::NoNodes { from: line.from, to: line.to };
        for (node, session) in reserved.into_iter().flat_map(|(_, held)| held) {
            tokio::spawn(session::abort(run.net.clone(), node, session));
        }
        return Err(stopped);
    }
    let opening = reserved.iter_mut().map(|(line, held)| line.open(run, std::mem::take(held)));
    futures::future::join_all(opening).await;
    Ok(reserved.into_iter().map(|(line, _)| Queue::new(line)).collect())
}

/// One batch, from where it is to the end.
async fn one(
    run: &Run<'_>,
    lines: &[Queue<Line>],
    partial: &Partial,
    at: u32,
    through: &(dyn Fn() + Sync),
) -> Result<(), Stopped> {
    let Some(texts) = run.work.batches.get(at as usize) else { return Ok(()) };
    let legs = &run.plan.plan.legs;
    let reached = partial.block();
    let first = legs.iter().position(|leg| leg.from == reached).unwrap_or_else(|| {
        // This plan cuts the blocks elsewhere.
        partial.reset(texts);
        0
    });
    for line in lines.iter().skip(first) {
        let mut line = line.lock().await;
        let input = partial.legs().1;
        let given = Given { batch: at, texts, input: &input };
        match line.run(run, &given).await {
            Ok(Done { leg, witnesses, output }) => {
                if line.to == run.work.block_count() {
                    expect_rows(run, &leg, texts, &output, at)?;
                }
                let mut reached = lock(&partial.0);
                reached.legs.push(DoneLeg { leg, witnesses });
                (reached.block, reached.carried) = (line.to, output);
            }
            Err(stopped @ Stopped::Unfit { .. }) => {
                // Whoever made the input may be the one who is wrong.
                if let Some(before) = partial.legs().0.last() {
                    run.blame(before.leg.node, Trouble::Unfit("the next node does not take what it made".into()));
                }
                partial.reset(texts);
                return Err(stopped);
            }
            Err(stopped) => return Err(stopped),
        }
    }
    through();
    Ok(())
}

/// What leaves the last block is a row of numbers for each text.
fn expect_rows(run: &Run<'_>, leg: &Leg, texts: &BatchInput, output: &Carried, at: u32) -> Result<(), Stopped> {
    let header = &output.header;
    let is_rows = matches!(*header.dimensions.as_slice(), [count, width]
        if count as usize == texts.texts.len() && width > 0 && header.element == element_code(TensorType::Fp32));
    if is_rows {
        return Ok(());
    }
    run.blame(leg.node, Trouble::Unfit("the last block gave something else than a row for each text".into()));
    Err(Stopped::Unfit { batch: at })
}
