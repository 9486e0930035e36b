//! The schedule phase: which nodes run the blocks of a job.
//!
//! # How
//!
//! 1. A snapshot is taken of the fleet and of what this node has observed of it.
//! 2. The scheduler component makes a plan of it ([`Scheduler`]), which is looked at before it is used ([`covers`]): the
//!    component is foreign code too.
//! 3. Plan and snapshot are kept, so that anybody can make the plan again.
//!
//! The component can be replaced while jobs run: a job keeps the one that it began with.

use super::clock::now;
use super::execute::{Observed, Trouble};
use super::jobs::Jobs;
use super::schedule::{History, Sample, Scheduler};
use super::submit::Work;
use crate::error::NodeError;
use crate::options::RunOptions;
use ostrakon_net::Client;
use ostrakon_package::Home;
use ostrakon_protocol::{Digest, Plan, PlanRequest, PublicKey, SignedPlan, SigningKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// A scheduler component, made ready.
pub(super) struct Loaded {
    scheduler: Scheduler,
}

/// Makes plans, and learns from what comes of them.
pub(super) struct Choosing {
    loaded: RwLock<Arc<Loaded>>,
    history: Mutex<History>,
    jobs: Jobs,
    net: Client,
    key: Arc<SigningKey>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loaded {
    /// Admit a component.
    pub(super) fn new(component: &[u8], home: &Home, options: &RunOptions) -> Result<Arc<Self>, NodeError> {
        Ok(Arc::new(Self { scheduler: Scheduler::load(component, home, options)? }))
    }

    /// Which it is.
    pub(super) const fn digest(&self) -> Digest {
        self.scheduler.digest()
    }
}

impl Choosing {
    pub(super) fn new(loaded: Arc<Loaded>, jobs: Jobs, net: Client, key: Arc<SigningKey>) -> Result<Self, NodeError> {
        let kept = jobs.history()?;
        let history = kept.and_then(|bytes| match History::from_bytes(&bytes) {
            Ok(history) => Some(history),
            Err(error) => {
                tracing::warn!(%error, "what was learnt of nodes cannot be read: it is learnt anew");
                None
            }
        });
        Ok(Self { loaded: RwLock::new(loaded), history: Mutex::new(history.unwrap_or_default()), jobs, net, key })
    }

    /// The component that new jobs use.
    pub(super) fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another component for new jobs.
    pub(super) fn replace(&self, loaded: Arc<Loaded>) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
    }

    /// Make a plan and keep it. This computes and writes.
    pub(super) fn plan(&self, loaded: &Loaded, work: &Work, request: PlanRequest) -> Result<SignedPlan, NodeError> {
        let fleet = self.net.fleet();
        let statuses = fleet.statuses();
        let snapshot = {
            let mut history = lock(&self.history);
            for signed in &statuses {
                let node = signed.status.node;
                if let Some(took) = fleet.round_trip(&node) {
                    history.round_trip(node, took);
                }
            }
            history.snapshot(self.key.public(), now(), statuses)
        };
        let signed = loaded.scheduler.plan(&self.key, request, &snapshot)?;
        covers(work, &signed.record.plan).map_err(|why| {
            NodeError::Setting(format!(
                "the scheduler component {} made a plan that cannot be used: {why}",
                loaded.digest()
            ))
        })?;
        self.jobs.planned(&signed, &snapshot)?;
        Ok(signed)
    }

    /// Learn from a job. This computes and writes.
    pub(super) fn learn(
        &self,
        loaded: &Loaded,
        work: &Work,
        observed: &[Observed],
        blamed: &BTreeMap<PublicKey, Trouble>,
    ) -> Result<(), NodeError> {
        let bytes = {
            let (fleet, mut history) = (self.net.fleet(), lock(&self.history));
            for seen in observed {
                let Some(signed) = fleet.status(&seen.node) else { continue };
                let blocks = work.package.needs().get(seen.from as usize..seen.to as usize).unwrap_or_default();
                let sample = Sample {
                    node: seen.node,
                    hardware: signed.status.hardware,
                    load: signed.status.load,
                    work: blocks.iter().fold(0, |sum, block| sum.saturating_add(block.work)),
                    rows: seen.rows,
                    took: Duration::from_micros(seen.took),
                };
                loaded.scheduler.learn(&mut history, &sample)?;
            }
            for (node, trouble) in blamed {
                match trouble {
                    Trouble::Wrong(_) => history.wrong(*node),
                    Trouble::Failed(_) | Trouble::Late(_) | Trouble::Gone(_) | Trouble::Malformed(_) => {
                        history.failed(*node);
                    }
                    _ => {}
                }
            }
            history.to_bytes()
        };
        Ok(self.jobs.keep_history(&bytes)?)
    }
}

/// Whether a plan covers all blocks in order, with as many different nodes for each leg as the job has replicas.
pub(super) fn covers(work: &Work, plan: &Plan) -> Result<(), String> {
    let replicas = work.signed.job.verify.replicas() as usize;
    let mut block = 0;
    for leg in &plan.legs {
        if leg.from != block || leg.to <= leg.from {
            return Err(format!("a leg of the blocks {} to {} where {block} comes next", leg.from, leg.to));
        }
        let different: BTreeSet<_> = leg.replicas.iter().collect();
        if leg.replicas.len() != replicas || different.len() != replicas {
            return Err(format!("a leg with {} different nodes, not {replicas}", different.len()));
        }
        block = leg.to;
    }
    if block == work.block_count() {
        return Ok(());
    }
    Err(format!("its legs end after block {block} of {}", work.block_count()))
}
