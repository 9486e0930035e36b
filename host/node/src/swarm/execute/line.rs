//! The nodes of one leg, and who takes the place of one that fails.
//!
//! # How
//!
//! 1. A leg has as many members as the job has replicas, each with an open session, and shadows that have none yet.
//! 2. A call goes to a member, or sealed to all of them ([`ballot`](super::ballot)). What the coordinator sends is what
//!    it holds itself, so the same input goes to the next one when a member fails.
//! 3. A member that does not do what it should is named and gone from the leg; a shadow is seated in its place.

use super::looked::{Expected, look_at_output};
use super::session::{Session, Trouble, abort, prepare};
use super::{Done, Run, Stopped};
use crate::swarm::known::{BatchInput, Carried};
use ostrakon_protocol::wire::{Prepare, ToNode};
use ostrakon_protocol::{Digest, PlannedLeg, PublicKey};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A batch on its way, and what goes into the leg.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    /// Counted from 0.
    pub(super) batch: u32,
    /// The texts.
    pub(super) texts: &'a BatchInput,
    /// What goes in.
    pub(super) input: &'a Carried,
}

/// The nodes of one leg.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) members: Vec<Session>,
    shadows: VecDeque<PublicKey>,
    call: u32,
    /// The most microseconds that a thousand rows have taken.
    pace: u64,
}

impl Line {
    /// Reserve room on the replicas of a leg, and on shadows in place of those that have none.
    pub(super) async fn reserve(run: &Run<'_>, leg: &PlannedLeg) -> (Self, Vec<(PublicKey, Digest)>) {
        let (from, to) = (leg.from, leg.to);
        let mut line =
            Self { from, to, members: Vec::new(), shadows: leg.shadows.iter().copied().collect(), call: 0, pace: 0 };
        let asked = leg.replicas.iter().map(|&node| line.prepared(run, node));
        let mut held: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        while held.len() < run.replicas() {
            let Some(shadow) = line.next_shadow(run) else { break };
            held.extend(line.prepared(run, shadow).await);
        }
        (line, held)
    }

    async fn prepared(&self, run: &Run<'_>, node: PublicKey) -> Option<(PublicKey, Digest)> {
        let asked = Prepare {
            job: run.work.id,
            plan: run.plan_digest,
            request: run.work.request,
            package: run.work.package.digest(),
            from: self.from,
            to: self.to,
            rows: run.work.most_rows(),
            hold: run.hold(),
        };
        match prepare(run.net, node, asked, run.patience.control()).await {
            Ok(session) => Some((node, session)),
            Err(trouble) => {
                run.blame(node, trouble);
                None
            }
        }
    }

    /// Go ahead with reservations.
    pub(super) async fn open(&mut self, run: &Run<'_>, held: Vec<(PublicKey, Digest)>) {
        let opened = held.into_iter().map(|(node, session)| opened(run, node, session));
        self.members.extend(futures::future::join_all(opened).await.into_iter().flatten());
    }

    fn next_shadow(&mut self, run: &Run<'_>) -> Option<PublicKey> {
        loop {
            let shadow = self.shadows.pop_front()?;
            if !run.is_blamed(&shadow) {
                return Some(shadow);
            }
        }
    }

    /// Seat shadows until all places are taken; enough must be.
    pub(super) async fn refill(&mut self, run: &Run<'_>) -> Result<(), Stopped> {
        while self.members.len() < run.replicas() {
            let Some(shadow) = self.next_shadow(run) else { break };
            if let Some((node, session)) = self.prepared(run, shadow).await
                && let Some(member) = opened(run, node, session).await
            {
                tracing::info!(job = %run.work.id, %node, from = self.from, to = self.to, "a shadow takes over");
                self.members.push(member);
            }
        }
        if self.members.len() >= run.needed() { Ok(()) } else { Err(Stopped::NoNodes { from: self.from, to: self.to }) }
    }

    /// A number for the next call, the same for all members whenever they joined.
    pub(super) const fn next_call(&mut self) -> u32 {
        let call = self.call;
        self.call = call.saturating_add(1);
        call
    }

    /// How long a call may take.
    pub(super) fn within(&self, run: &Run<'_>, given: &Given<'_>) -> Duration {
        run.patience.call(self.pace.saturating_mul(given.texts.rows) / 1000)
    }

    /// A call took so long.
    pub(super) fn took(&mut self, run: &Run<'_>, node: PublicKey, rows: u64, took: Duration, claimed: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.pace = self.pace.max(micros.saturating_mul(1000) / rows.max(1));
        run.observed(node, self.from, self.to, rows, micros, claimed);
    }

    /// What a call sends.
    pub(super) fn forward(&self, given: &Given<'_>, call: u32, sealed: bool) -> ToNode {
        ToNode::Forward {
            call,
            batch: given.batch,
            lengths: given.texts.row_counts(),
            input: given.input.digest,
            tensor: given.input.header.clone(),
            sealed,
        }
    }

    /// Run the leg's blocks on a batch.
    pub(super) async fn run(&mut self, run: &Run<'_>, given: &Given<'_>) -> Result<Done, Stopped> {
        let place = run.work.place(given.batch, given.texts);
        let blocks = run.work.blocks(self.from, self.to);
        let expected = Expected { place: &place, blocks, input: given.input.digest };
        if run.is_sealed() { self.ballot(run, given, &expected).await } else { self.alone(run, given, &expected).await }
    }

    /// One node runs it; if it fails, the next.
    async fn alone(&mut self, run: &Run<'_>, given: &Given<'_>, expected: &Expected<'_>) -> Result<Done, Stopped> {
        loop {
            self.refill(run).await?;
            let (call, within) = (self.next_call(), self.within(run, given));
            let frame = self.forward(given, call, false);
            let Some(member) = self.members.first_mut() else { continue };
            let (node, start) = (member.node, Instant::now());
            let result = async {
                member.send(&frame, &given.input.bytes, within).await?;
                let answered = member.output(call, run.work.most_bytes(given.texts), within).await?;
                expected.look(node, &answered.leg)?;
                look_at_output(&answered)?;
                Ok::<_, Trouble>(answered)
            };
            match result.await {
                Ok(answered) => {
                    self.took(run, node, given.texts.rows, start.elapsed(), answered.took);
                    return Ok(Done { leg: answered.leg, witnesses: Vec::new(), output: answered.output });
                }
                Err(Trouble::Unfit(why)) => {
                    run.blame(node, Trouble::Unfit(why));
                    self.members.clear();
                    return Err(Stopped::Unfit { batch: given.batch });
                }
                Err(trouble) => {
                    run.blame(node, trouble);
                    self.members.remove(0);
                }
            }
        }
    }
}

async fn opened(run: &Run<'_>, node: PublicKey, session: Digest) -> Option<Session> {
    match Session::open(run.net, node, session, run.patience.control()).await {
        Ok(open) => Some(open),
        Err(trouble) => {
            run.blame(node, trouble);
            tokio::spawn(abort(run.net.clone(), node, session));
            None
        }
    }
}
