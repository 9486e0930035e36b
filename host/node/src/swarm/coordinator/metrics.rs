//! What a coordinator has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Jobs that were taken.
    pub(super) taken: AtomicU64,
    /// Jobs whose answer was kept.
    pub(super) done: AtomicU64,
    /// Jobs that ended without an answer.
    pub(super) failed: AtomicU64,
    /// Plans that were made.
    pub(super) plans: AtomicU64,
    /// Calls that nodes answered.
    pub(super) calls: AtomicU64,
    /// Microseconds of these calls, as seen from here.
    pub(super) took: AtomicU64,
    /// Microseconds of these calls in blocks, by the nodes' word.
    pub(super) claimed: AtomicU64,
}

impl Metrics {
    /// Each with its name and what it is, for whoever exports them.
    pub fn all(&self) -> [(&'static str, &'static str, u64); 7] {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("jobs_taken", "Jobs that were taken", now(&self.taken)),
            ("jobs_done", "Jobs whose answer was kept", now(&self.done)),
            ("jobs_failed", "Jobs that ended without an answer", now(&self.failed)),
            ("plans", "Plans that were made", now(&self.plans)),
            ("calls", "Calls of this coordinator that nodes answered", now(&self.calls)),
            ("call_microseconds", "Microseconds of these calls, as seen from here", now(&self.took)),
            (
                "call_compute_microseconds",
                "Microseconds of these calls in blocks, by the nodes' word",
                now(&self.claimed),
            ),
        ]
    }
}

pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
