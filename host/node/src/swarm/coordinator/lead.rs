//! One job, from its texts to its receipt.

use super::metrics::count;
use super::{CoordinatorLimits, EXECUTE, Inner, Live, MAX_PLANS, RETURN, SCHEDULE, VERIFY, aside};
use crate::swarm::answer::{self, Assembled};
use crate::swarm::choose::Loaded;
use crate::swarm::clock::now;
use crate::swarm::execute::{Ledger, Partial, Patience, Run, Trouble, execute};
use crate::swarm::known::KnownPackage;
use crate::swarm::submit::Work;
use crate::swarm::verify::{Hearing, Verdict, share, waits};
use ostrakon_protocol::{Attestation, Digest, JobAnswer, PublicKey, SignedJob, SignedPlan};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait between two looks for nodes.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// A job under way.
struct Way<'a> {
    inner: &'a Arc<Inner>,
    live: &'a Live,
    work: Arc<Work>,
    loaded: Arc<Loaded>,
    progress: Arc<Vec<Partial>>,
    ledger: Arc<Ledger>,
    plans: Vec<SignedPlan>,
    /// How long the last execution took.
    executed: Duration,
}

impl Inner {
    pub(super) fn package(&self, digest: &Digest) -> Option<Arc<KnownPackage>> {
        self.packages.read().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// A package that was known when the job was taken. After a restart it may be known again only a little later.
    async fn awaited(&self, digest: &Digest) -> Result<Arc<KnownPackage>, String> {
        let start = Instant::now();
        loop {
            match self.package(digest) {
                Some(package) => return Ok(package),
                None if start.elapsed() > self.limits.search => {
                    return Err(format!("this node knows the package {digest} no longer"));
                }
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Lead a job through its phases. What comes of it has been kept when this returns.
    pub(super) async fn lead(
        self: &Arc<Self>,
        id: Digest,
        signed: SignedJob,
        live: &Live,
        accepted: u64,
    ) -> Result<(), String> {
        let _slot = self.slots.acquire().await.map_err(|error| error.to_string())?;
        let digest = signed.job.request.package;
        let package = self.awaited(&digest).await?;
        let work = aside(move || Work::new(signed, package)).await?.map_err(|not_taken| not_taken.reason)?;
        let progress: Vec<Partial> = work.batches.iter().map(Partial::new).collect();
        live.of.store(u32::try_from(progress.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        let jobs = self.jobs.clone();
        let plans = aside(move || jobs.plans(&id)).await?.map_err(|error| error.to_string())?;
        let mut way = Way {
            inner: self,
            live,
            work: Arc::new(work),
            loaded: self.choosing.current(),
            progress: Arc::new(progress),
            ledger: Arc::new(Ledger::default()),
            plans,
            executed: Duration::ZERO,
        };
        let result = way.go(accepted).await;
        way.learn().await;
        result
    }
}

/// How long nothing is planned after so many plans failed: the first time not at all, then longer and longer, so that the
/// plans are not used up before better nodes are there.
fn rest(failed: usize) -> Duration {
    let doublings = u32::try_from(failed.saturating_sub(2)).unwrap_or(u32::MAX).min(5);
    if failed < 2 { Duration::ZERO } else { Duration::from_millis(50) * 2u32.pow(doublings) }
}

impl Way<'_> {
    async fn go(&mut self, accepted: u64) -> Result<(), String> {
        loop {
            self.plan().await?;
            self.live.enter(EXECUTE);
            if let Err(why) = self.execute().await {
                if self.plans.len() >= MAX_PLANS {
                    return Err(format!("{MAX_PLANS} plans were used up; with the last, {why}{}", self.blamed()));
                }
                tokio::time::sleep(rest(self.plans.len())).await;
                continue;
            }
            let assembled = Arc::new(self.assemble().await?);
            let mut attestations = Vec::new();
            if waits(self.work.signed.job.verify) {
                self.live.enter(VERIFY);
                match self.hear(&assembled).await {
                    Some(Verdict::Accepted(attestation)) => attestations.push(attestation),
                    Some(Verdict::Rejected(nodes, _)) => {
                        self.redo(&nodes);
                        self.expect_more_plans("auditors rejected what came of the last one")?;
                        continue;
                    }
                    Some(Verdict::Nobody) | None => {
                        self.expect_more_plans("no auditor of the last one could say whether the receipt is right")?;
                        continue;
                    }
                }
            }
            self.live.enter(RETURN);
            let answer = self.finish(&assembled, attestations, accepted).await?;
            self.after(&assembled, answer).await;
            return Ok(());
        }
    }

    fn expect_more_plans(&self, why: &str) -> Result<(), String> {
        if self.plans.len() < MAX_PLANS {
            return Ok(());
        }
        Err(format!("{MAX_PLANS} plans were used up; {why}{}", self.blamed()))
    }

    /// Who did what, for people.
    fn blamed(&self) -> String {
        let named: Vec<String> =
            self.ledger.blamed().iter().take(8).map(|(node, trouble)| format!("{node}: {trouble}")).collect();
        if named.is_empty() { String::new() } else { format!(" ({})", named.join("; ")) }
    }

    /// Make the next plan, waiting for nodes if there are none.
    async fn plan(&mut self) -> Result<(), String> {
        self.live.enter(SCHEDULE);
        let (start, mut rest) = (Instant::now(), Duration::from_millis(50));
        let CoordinatorLimits { search, search_in_vain, .. } = self.inner.limits;
        let mut in_vain_since = None;
        loop {
            let attempt = u32::try_from(self.plans.len()).unwrap_or(u32::MAX);
            let request = self.work.plan_request(attempt, self.ledger.excluded());
            let (inner, loaded, work) = (Arc::clone(self.inner), Arc::clone(&self.loaded), Arc::clone(&self.work));
            let choose = move || {
                let choosing = &inner.choosing;
                choosing.plan(&loaded, &work, request).map_err(|error| (error, choosing.too_few(&work)))
            };
            match aside(choose).await? {
                Ok(plan) => {
                    count(&self.inner.metrics.plans, 1);
                    self.plans.push(plan);
                    return Ok(());
                }
                Err((error, too_few)) => {
                    let why = format!("no plan can be made: {}{}", error.in_full(), self.blamed());
                    in_vain_since = too_few.then(|| in_vain_since.unwrap_or_else(Instant::now));
                    let in_vain = in_vain_since.is_some_and(|since| since.elapsed() > search_in_vain);
                    if in_vain || start.elapsed() > search {
                        return Err(why);
                    }
                    tracing::debug!(job = %self.work.id, why, "nodes are waited for");
                    self.live.waits(&why);
                    self.ledger.forgive();
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(LONGEST_REST);
                }
            }
        }
    }

    async fn execute(&mut self) -> Result<(), String> {
        let Some(plan) = self.plans.last() else { return Err("there is no plan".into()) };
        let record = &plan.record;
        let start = Instant::now();
        let run = Run {
            net: &self.inner.net,
            work: &self.work,
            plan: record,
            plan_digest: record.digest(),
            patience: Patience {
                floor: self.inner.limits.patience,
                attempt: record.request.attempt,
                predicted: record.plan.predicted / self.work.batches.len().max(1) as u64,
            },
            ledger: &self.ledger,
        };
        let all = self.work.block_count();
        let through = || {
            let done = self.progress.iter().filter(|batch| batch.block() >= all).count();
            self.live.done.store(u32::try_from(done).unwrap_or(u32::MAX), Ordering::Relaxed);
        };
        let result = execute(&run, &self.progress, &through).await.map_err(|stopped| stopped.to_string());
        self.executed += start.elapsed();
        result
    }

    async fn assemble(&self) -> Result<Assembled, String> {
        let (work, progress) = (Arc::clone(&self.work), Arc::clone(&self.progress));
        let (plans, key) = (self.plans.clone(), Arc::clone(&self.inner.key));
        aside(move || answer::assemble(&work, &progress, &plans, &key)).await?
    }

    /// What these nodes did is done again.
    fn redo(&self, nodes: &[PublicKey]) {
        for (batch, texts) in self.progress.iter().zip(&self.work.batches) {
            if nodes.iter().any(|node| batch.is_by(node)) {
                batch.reset(texts);
            }
        }
    }

    async fn hear(&self, assembled: &Assembled) -> Option<Verdict> {
        let per_mille = share(self.work.signed.job.verify)?;
        let auditors = &self.plans.last()?.record.plan.auditors;
        let blame = |node, trouble: Trouble| self.ledger.blame(&self.inner.net, &self.work.id, node, trouble);
        let hearing = Hearing {
            net: &self.inner.net,
            signed: &assembled.signed,
            per_mille,
            within: self.inner.limits.audit.max(self.executed * 8),
            blame: &blame,
        };
        Some(hearing.hear(auditors).await)
    }

    async fn finish(
        &self,
        assembled: &Arc<Assembled>,
        attestations: Vec<Attestation>,
        accepted: u64,
    ) -> Result<JobAnswer, String> {
        let mut answer = assembled.answer(&self.work, &self.plans);
        answer.attestations = attestations;
        let line = assembled.line(&self.work, accepted, now());
        let (jobs, id, kept, assembled) =
            (self.inner.jobs.clone(), self.work.id, answer.clone(), Arc::clone(assembled));
        aside(move || jobs.done(&id, &kept, &assembled.rows, line)).await?.map_err(|error| error.to_string())?;
        count(&self.inner.metrics.done, 1);
        Ok(answer)
    }

    /// The audit of an answer that has been returned.
    async fn after(&self, assembled: &Assembled, mut answer: JobAnswer) {
        let verify = self.work.signed.job.verify;
        if share(verify).is_none() || waits(verify) {
            return;
        }
        // From here on the client can have its answer.
        super::lock(&self.inner.live).remove(&self.work.id);
        let attestation = match self.hear(assembled).await {
            Some(Verdict::Accepted(attestation) | Verdict::Rejected(_, attestation)) => attestation,
            Some(Verdict::Nobody) | None => {
                tracing::warn!(job = %self.work.id, "no auditor could say whether the receipt is right");
                return;
            }
        };
        answer.attestations.push(attestation);
        let (jobs, id) = (self.inner.jobs.clone(), self.work.id);
        if let Ok(Err(error)) = aside(move || jobs.amend(&id, &answer)).await {
            tracing::error!(job = %self.work.id, %error, "an attestation could not be kept");
        }
    }

    async fn learn(&self) {
        let (inner, loaded, work) = (Arc::clone(self.inner), Arc::clone(&self.loaded), Arc::clone(&self.work));
        let (observed, blamed) = (self.ledger.take_observed(), self.ledger.blamed());
        let metrics = &self.inner.metrics;
        for call in observed.iter().filter(|call| call.claimed > 0) {
            count(&metrics.calls, 1);
            count(&metrics.took, call.took);
            count(&metrics.claimed, call.claimed.min(call.took));
        }
        if let Ok(Err(error)) = aside(move || inner.choosing.learn(&loaded, &work, &observed, &blamed)).await {
            tracing::error!(%error, "what was learnt of nodes could not be kept");
        }
    }
}
