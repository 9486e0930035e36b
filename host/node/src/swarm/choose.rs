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
use ostrakon_protocol::{Digest, Plan, PlanRequest, PublicKey, SignedPlan, SignedStatus, SigningKey};
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

    /// Whether nodes serve each block of a job, but not of as many operators as have to agree, even if all were idle. This
    /// computes.
    pub(super) fn too_few(&self, work: &Work) -> bool {
        let replicas = work.signed.job.verify.replicas();
        let found = operators(&self.net.fleet().statuses(), &work.package.digest(), work.block_count());
        found.iter().all(|&found| found > 0) && found.iter().any(|&found| found < replicas)
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

/// For each block of a package, how many operators have nodes that serve it.
fn operators(statuses: &[SignedStatus], package: &Digest, blocks: u32) -> Vec<u32> {
    let mut ranges: BTreeMap<&str, Vec<(u32, u32)>> = BTreeMap::new();
    for status in statuses.iter().map(|signed| &signed.status).filter(|status| !status.draining) {
        let served = status.served.iter().filter(|served| served.package == *package && served.from < served.to);
        ranges.entry(&status.operator).or_default().extend(served.map(|s| (s.from, s.to.min(blocks))));
    }
    let mut found = vec![0; blocks as usize];
    for ranges in ranges.values() {
        // Ranges overlap as nodes please: where they begin and end is counted, not each block of each.
        let mut edges = vec![0i64; found.len() + 1];
        for &(from, to) in ranges {
            for (at, by) in [(from, 1), (to, -1)] {
                if let Some(edge) = edges.get_mut(at as usize) {
                    *edge += by;
                }
            }
        }
        let mut open = 0;
        for (found, edge) in found.iter_mut().zip(edges) {
            open += edge;
            *found += u32::from(open > 0);
        }
    }
    found
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

#[cfg(test)]
mod tests {
    use super::*;
    use ostrakon_protocol::{Hardware, Load, Roles, Served, Status};

    fn status(seed: u8, operator: &str, ranges: &[(u32, u32)], draining: bool) -> SignedStatus {
        let key = SigningKey::from_seed(&[seed; 32]);
        let served = |&(from, to)| Served {
            package: Digest::from_bytes([7; 32]),
            name: "some".into(),
            from,
            to,
            rows_per_second: 1,
        };
        let status = Status {
            node: key.public(),
            sequence: 1,
            issued: 1,
            operator: operator.into(),
            roles: Roles { execution: true, ..Roles::default() },
            addresses: vec![],
            hardware: Hardware::default(),
            load: Load::default(),
            served: ranges.iter().map(served).collect(),
            plugins: vec![],
            draining,
        };
        SignedStatus::sign(&key, status)
    }

    #[test]
    fn operators_are_counted_once_for_each_block() {
        let fleet = [
            status(1, "a", &[(0, 2), (1, 3)], false),
            status(2, "a", &[(0, 4)], false),
            status(3, "b", &[(2, 9), (9, 2), (u32::MAX, u32::MAX)], false),
            status(4, "c", &[(0, 4)], true),
        ];
        assert_eq!(operators(&fleet, &Digest::from_bytes([7; 32]), 5), [1, 1, 2, 2, 1]);
        assert_eq!(operators(&fleet, &Digest::from_bytes([8; 32]), 2), [0, 0]);
        assert_eq!(operators(&[], &Digest::from_bytes([7; 32]), 2), [0, 0]);
    }
}
