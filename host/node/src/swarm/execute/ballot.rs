//! A sealed call: all members of a leg run it, commit to what came out, and then show it.
//!
//! # How
//!
//! 1. *Commit.* Each member gets the input and answers with a commitment. When enough have, the others get a little more
//!    time, and then go.
//! 2. *Reveal.* Each shows its vote and its signed leg.
//! 3. The [`Quorum`] decides. Who voted for something else, signed something else than it voted for, or showed something
//!    else than it had committed to is named.
//! 4. *Fetch.* One of those who agreed sends the output, which must be the one that was voted for.
//!
//! Each round that decides nothing loses a member, so there are only so many.

use super::line::{Given, Line};
use super::looked::{Expected, look_at_output};
use super::session::{Session, Trouble, unexpected};
use super::{Done, Run, Stopped};
use crate::swarm::known::Carried;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use ostrakon_protocol::quorum::{Commit, Ignored, Phase, Quorum, Reveal};
use ostrakon_protocol::wire::{FromNode, ToNode, vote_subject};
use ostrakon_protocol::{Digest, Leg, PublicKey};
use std::time::{Duration, Instant};

/// The least time that the slower ones get when enough are done.
const GRACE: Duration = Duration::from_millis(1500);

/// What a member showed.
struct Shown {
    node: PublicKey,
    reveal: Reveal,
    leg: Leg,
}

type Waiting<'a, T> = BoxFuture<'a, Result<T, Trouble>>;

/// What each answers, in order; those that are much later than the first `needed` are [`Trouble::Slow`].
async fn all<T>(waiting: Vec<Waiting<'_, T>>, needed: usize) -> Vec<Result<T, Trouble>> {
    let start = tokio::time::Instant::now();
    let mut got: Vec<Result<T, Trouble>> = waiting.iter().map(|_| Err(Trouble::Slow)).collect();
    let mut rest: FuturesUnordered<_> =
        waiting.into_iter().enumerate().map(|(at, answer)| async move { (at, answer.await) }).collect();
    let (mut good, mut until) = (0, None);
    loop {
        let next = match until {
            Some(until) => tokio::time::timeout_at(until, rest.next()).await.unwrap_or(None),
            None => rest.next().await,
        };
        let Some((at, result)) = next else { break };
        good += usize::from(result.is_ok());
        if good == needed && until.is_none() {
            until = Some(tokio::time::Instant::now() + GRACE.max(2 * start.elapsed()));
        }
        if let Some(slot) = got.get_mut(at) {
            *slot = result;
        }
    }
    got
}

impl Line {
    pub(super) async fn ballot(
        &mut self,
        run: &Run<'_>,
        given: &Given<'_>,
        expected: &Expected<'_>,
    ) -> Result<Done, Stopped> {
        loop {
            self.refill(run).await?;
            let before = self.members.len();
            if let Some(done) = self.round(run, given, expected).await? {
                return Ok(done);
            }
            if self.members.len() == before {
                // Nobody is plainly wrong, and they do not agree: others must run it.
                for member in self.members.drain(..) {
                    run.blame(member.node, Trouble::Divided);
                }
            }
        }
    }

    async fn round(
        &mut self,
        run: &Run<'_>,
        given: &Given<'_>,
        expected: &Expected<'_>,
    ) -> Result<Option<Done>, Stopped> {
        let (call, within, start) = (self.next_call(), self.within(run, given), Instant::now());
        let subject = vote_subject(&run.work.id, &run.plan_digest, given.batch, call, self.from, self.to);
        let nodes: Vec<PublicKey> = self.members.iter().map(|member| member.node).collect();
        let none = |_| Stopped::NoNodes { from: self.from, to: self.to };
        let mut quorum = Quorum::new(subject, &nodes, run.needed()).map_err(none)?;

        let frame = &self.forward(given, call, true);
        let payload = &given.input.bytes;
        let commits = self.members.iter_mut().map(|member| {
            let committed = async move {
                member.send(frame, payload, within).await?;
                match member.next(within).await? {
                    FromNode::Committed { call: of, commit } if of == call => Ok((commit, start.elapsed())),
                    other => Err(unexpected(other)),
                }
            };
            Box::pin(committed) as Waiting<'_, _>
        });
        let commits = all(commits.collect(), run.needed()).await;
        let unfit = commits.iter().filter(|commit| matches!(commit, Err(Trouble::Unfit(_)))).count();
        if unfit >= run.needed() {
            self.blame_for(run, &commits);
            return Err(Stopped::Unfit { batch: given.batch });
        }
        let mut times: Vec<(PublicKey, Duration)> = Vec::new();
        self.keep(run, commits, |member, (commit, took): (Commit, Duration)| {
            times.push((member.node, took));
            if commit.node != member.node {
                return Err(Trouble::Malformed("a commitment in the name of another node".into()));
            }
            quorum.commit(&commit).map_err(|ignored| Trouble::Malformed(ignored.to_string()))
        });
        for (node, took) in times {
            self.took(run, node, given.texts.rows, took, 0);
        }
        if quorum.phase() == Phase::Commit {
            quorum.deadline();
        }

        let within = run.patience.control();
        let reveals = self.members.iter_mut().map(|member| {
            let revealed = async move {
                member.send(&ToNode::Reveal { call }, &[], within).await?;
                match member.next(within).await? {
                    FromNode::Revealed { call: of, reveal, leg } if of == call => {
                        Ok(Shown { node: member.node, reveal, leg })
                    }
                    other => Err(unexpected(other)),
                }
            };
            Box::pin(revealed) as Waiting<'_, _>
        });
        let reveals = all(reveals.collect(), run.needed()).await;
        let mut shown = Vec::new();
        self.keep(run, reveals, |member, seen: Shown| {
            counted(&mut quorum, &seen)?;
            expected.look(member.node, &seen.leg)?;
            match seen.leg.steps.last() {
                Some(step) if step.output == seen.reveal.output => {
                    shown.push(seen);
                    Ok(())
                }
                _ => Err(Trouble::Wrong("it voted for another output than it signed".into())),
            }
        });
        if quorum.phase() != Phase::Decided {
            quorum.deadline();
        }
        let Some(accepted) = quorum.outcome().and_then(|outcome| outcome.accepted) else { return Ok(None) };
        let Some(agreed) = self.agreed(run, &accepted, shown) else { return Ok(None) };
        Ok(self.fetch(run, given, call, &accepted, agreed).await)
    }

    /// Those who signed the very same steps, if they are enough; the others are wrong.
    fn agreed(&mut self, run: &Run<'_>, accepted: &Digest, shown: Vec<Shown>) -> Option<Vec<Shown>> {
        let of_output = |seen: &&Shown| seen.reveal.output == *accepted;
        let same = |a: &Shown, b: &Shown| a.leg.steps == b.leg.steps;
        let steps = shown
            .iter()
            .filter(of_output)
            .find(|one| shown.iter().filter(|other| same(one, other)).count() >= run.needed());
        let steps = steps?.leg.steps.clone();
        let (agreed, differ): (Vec<_>, Vec<_>) = shown.into_iter().partition(|seen| seen.leg.steps == steps);
        for seen in differ {
            self.members.retain(|member| member.node != seen.node);
            run.blame(seen.node, Trouble::Wrong("a majority of a quorum got something else".into()));
        }
        Some(agreed)
    }

    /// The output, from whoever sends it. The others are witnesses.
    async fn fetch(
        &mut self,
        run: &Run<'_>,
        given: &Given<'_>,
        call: u32,
        accepted: &Digest,
        mut agreed: Vec<Shown>,
    ) -> Option<Done> {
        let within = run.patience.control();
        let mut at = 0;
        while let Some(member) = self.members.get_mut(at) {
            let Some(of) = agreed.iter().position(|seen| seen.node == member.node) else {
                at += 1;
                continue;
            };
            match fetched(member, call, run.work.most_bytes(given.texts), accepted, within).await {
                Ok(output) => {
                    let leg = agreed.remove(of).leg;
                    let witnesses =
                        agreed.into_iter().map(|seen| (seen.node, seen.leg.backend, seen.leg.signature)).collect();
                    return Some(Done { leg, witnesses, output });
                }
                Err(trouble) => {
                    run.blame(member.node, trouble);
                    self.members.remove(at);
                }
            }
        }
        None
    }

    /// Keep the members whose answers are taken; the others are named and go.
    fn keep<T>(
        &mut self,
        run: &Run<'_>,
        answers: Vec<Result<T, Trouble>>,
        mut take: impl FnMut(&Session, T) -> Result<(), Trouble>,
    ) {
        let mut answers = answers.into_iter();
        self.members.retain(|member| {
            let answer = answers.next().unwrap_or(Err(Trouble::Slow));
            match answer.and_then(|answer| take(member, answer)) {
                Ok(()) => true,
                Err(trouble) => {
                    run.blame(member.node, trouble);
                    false
                }
            }
        });
    }

    fn blame_for<T>(&mut self, run: &Run<'_>, answers: &[Result<T, Trouble>]) {
        for (member, answer) in self.members.drain(..).zip(answers) {
            if let Err(trouble) = answer {
                run.blame(member.node, trouble.clone());
            }
        }
    }
}

fn counted(quorum: &mut Quorum, seen: &Shown) -> Result<(), Trouble> {
    if seen.reveal.node != seen.node {
        return Err(Trouble::Malformed("a vote in the name of another node".into()));
    }
    quorum.reveal(&seen.reveal).map_err(|ignored| match ignored {
        Ignored::Mismatch => Trouble::Wrong(ignored.to_string()),
        other => Trouble::Malformed(other.to_string()),
    })
}

async fn fetched(
    member: &mut Session,
    call: u32,
    most: u64,
    accepted: &Digest,
    within: Duration,
) -> Result<Carried, Trouble> {
    member.send(&ToNode::Fetch { call }, &[], within).await?;
    let answered = member.output(call, most, within).await?;
    look_at_output(&answered)?;
    if answered.output.digest == *accepted {
        return Ok(answered.output);
    }
    Err(Trouble::Wrong("the output that it sent is not the one that it voted for".into()))
}
