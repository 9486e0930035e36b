//! Quotas: how much of the host one caller may hold at a time.
//!
//! A caller is one component instance. Its [`Meter`] counts what it holds; every operation charges the
//! meter *before* it allocates and is refused when the charge does not fit. What was charged is a
//! [`Charge`], which gives back on drop, so nothing can be forgotten: a tensor carries the charge of
//! its bytes, and whoever keeps a table of handles keeps a charge beside each entry.

use crate::NnError;
use crate::spares::Spares;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a caller may hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Bytes of tensors that live in the host.
    pub bytes: u64,
    /// Handles of tensors, aliases included.
    pub handles: u32,
    /// Handles of graphs.
    pub graphs: u32,
    /// Handles of execution contexts.
    pub contexts: u32,
}

impl Quotas {
    /// No limit: for work the host does for itself.
    pub const UNLIMITED: Self = Self { bytes: u64::MAX, handles: u32::MAX, graphs: u32::MAX, contexts: u32::MAX };

    const fn limit(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Bytes => self.bytes,
            Resource::Handles => self.handles as u64,
            Resource::Graphs => self.graphs as u64,
            Resource::Contexts => self.contexts as u64,
        }
    }
}

impl Default for Quotas {
    /// Enough for a block of a large model with a full batch; far from enough to harm a node.
    fn default() -> Self {
        Self { bytes: 1 << 30, handles: 4096, graphs: 1024, contexts: 1024 }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Bytes of tensors.
    Bytes,
    /// Handles of tensors.
    Handles,
    /// Handles of graphs.
    Graphs,
    /// Handles of execution contexts.
    Contexts,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes of tensors",
            Self::Handles => "tensor handles",
            Self::Graphs => "graph handles",
            Self::Contexts => "execution contexts",
        })
    }
}

/// Counts what one caller holds. Clones share the count.
#[derive(Debug, Clone)]
pub struct Meter {
    counters: Arc<Counters>,
    spares: Arc<Spares>,
}

#[derive(Debug)]
struct Counters {
    quotas: Quotas,
    bytes: AtomicU64,
    handles: AtomicU64,
    graphs: AtomicU64,
    contexts: AtomicU64,
}

impl Counters {
    const fn counter(&self, resource: Resource) -> &AtomicU64 {
        match resource {
            Resource::Bytes => &self.bytes,
            Resource::Handles => &self.handles,
            Resource::Graphs => &self.graphs,
            Resource::Contexts => &self.contexts,
        }
    }
}

impl Meter {
    /// A meter at zero.
    pub fn new(quotas: Quotas) -> Self {
        let counters = Counters {
            quotas,
            bytes: AtomicU64::new(0),
            handles: AtomicU64::new(0),
            graphs: AtomicU64::new(0),
            contexts: AtomicU64::new(0),
        };
        Self { counters: Arc::new(counters), spares: Arc::default() }
    }

    /// A meter at zero whose results take over the memory of others that have the same spares.
    pub(crate) fn with_spares(quotas: Quotas, spares: &Arc<Spares>) -> Self {
        Self { spares: Arc::clone(spares), ..Self::new(quotas) }
    }

    /// A meter that refuses nothing: for work the host does for itself.
    pub fn unlimited() -> Self {
        Self::new(Quotas::UNLIMITED)
    }

    /// The quotas it holds to.
    pub fn quotas(&self) -> Quotas {
        self.counters.quotas
    }

    /// The memory of this caller's dropped results.
    pub(crate) fn spares(&self) -> Arc<Spares> {
        Arc::clone(&self.spares)
    }

    /// How much of `resource` is held now.
    pub fn held(&self, resource: Resource) -> u64 {
        self.counters.counter(resource).load(Ordering::Relaxed)
    }

    /// Take `amount` of `resource`; it is given back when the charge is dropped.
    ///
    /// # Errors
    /// [`NnError::TooLarge`] when the quota does not leave that much. Nothing is taken then.
    pub fn charge(&self, resource: Resource, amount: u64) -> Result<Charge, NnError> {
        let limit = self.counters.quotas.limit(resource);
        self.counters
            .counter(resource)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(amount).filter(|&total| total <= limit)
            })
            .map_err(|held| {
                NnError::TooLarge(format!(
                    "{amount} more {resource} would exceed the caller's quota of {limit}, of which {held} are in use: \
                     drop tensors that are no longer needed or use smaller batches"
                ))
            })?;
        Ok(Charge { counters: Arc::clone(&self.counters), resource, amount })
    }
}

/// Something taken from a [`Meter`]; dropping it gives it back.
#[must_use = "dropping a charge gives it back at once"]
#[derive(Debug)]
pub struct Charge {
    counters: Arc<Counters>,
    resource: Resource,
    amount: u64,
}

impl Charge {
    /// How much was taken.
    pub const fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.counters.counter(self.resource).fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_given_back_on_drop() {
        let meter = Meter::new(Quotas { bytes: 10, ..Quotas::default() });
        let six = meter.charge(Resource::Bytes, 6).unwrap();
        assert_eq!(meter.held(Resource::Bytes), 6);
        let refused = meter.charge(Resource::Bytes, 5).unwrap_err();
        assert!(matches!(&refused, NnError::TooLarge(text) if text.contains("quota of 10")), "{refused}");
        assert_eq!(meter.held(Resource::Bytes), 6);
        let _four = meter.charge(Resource::Bytes, 4).unwrap();
        drop(six);
        assert_eq!(meter.held(Resource::Bytes), 4);
    }

    #[test]
    fn each_resource_has_its_own_quota() {
        let meter = Meter::new(Quotas { bytes: 0, handles: 1, graphs: 2, contexts: 3 });
        for (resource, quota) in [(Resource::Handles, 1), (Resource::Graphs, 2), (Resource::Contexts, 3)] {
            let held: Vec<_> = (0..quota).map(|_| meter.charge(resource, 1).unwrap()).collect();
            assert!(meter.charge(resource, 1).is_err(), "{resource}");
            drop(held);
            assert_eq!(meter.held(resource), 0);
        }
        assert!(meter.charge(Resource::Bytes, 1).is_err());
        assert!(meter.charge(Resource::Bytes, 0).is_ok());
    }

    #[test]
    fn amounts_that_overflow_are_refused() {
        let meter = Meter::unlimited();
        let _held = meter.charge(Resource::Bytes, u64::MAX).unwrap();
        assert!(matches!(meter.charge(Resource::Bytes, 1), Err(NnError::TooLarge(_))));
    }

    #[test]
    fn threads_never_pass_the_quota_together() {
        let meter = Meter::new(Quotas { handles: 100, ..Quotas::default() });
        let kept: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..50).filter_map(|_| meter.charge(Resource::Handles, 1).ok()).collect::<Vec<_>>())
                })
                .collect();
            let charges: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
            charges.iter().map(Vec::len).sum()
        });
        assert_eq!(kept, 100);
        assert_eq!(meter.held(Resource::Handles), 0);
    }
}
