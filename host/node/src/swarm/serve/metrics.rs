//! What a serving node has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Sessions that were opened.
    pub sessions: AtomicU64,
    /// Forward calls that were answered.
    pub forwards: AtomicU64,
    /// Shares that were multiplied.
    pub shares: AtomicU64,
    /// Rows of them that this node made of a seed.
    pub masked_rows: AtomicU64,
    /// Rows that went through blocks, and rows of shares.
    pub rows: AtomicU64,
    /// Bytes of tensors that came.
    pub bytes_in: AtomicU64,
    /// Bytes of tensors that were sent.
    pub bytes_out: AtomicU64,
    /// Reservations, frames and audits that were refused.
    pub refused: AtomicU64,
    /// Reservations that ran out.
    pub expired: AtomicU64,
    /// Audits that were made.
    pub audits: AtomicU64,
    /// Audits that rejected.
    pub rejections: AtomicU64,
    /// Microseconds in blocks and products of shares.
    pub compute: AtomicU64,
}

impl Metrics {
    /// Each with its name and what it is, for whoever exports them.
    pub fn all(&self) -> [(&'static str, &'static str, u64); 12] {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("sessions", "Sessions that were opened", now(&self.sessions)),
            ("forwards", "Forward calls that were answered", now(&self.forwards)),
            ("shares", "Shares that were multiplied", now(&self.shares)),
            ("masked_rows", "Rows of shares that were made of a seed", now(&self.masked_rows)),
            ("rows", "Rows that went through blocks, and rows of shares", now(&self.rows)),
            ("tensor_bytes_in", "Bytes of tensors that came", now(&self.bytes_in)),
            ("tensor_bytes_out", "Bytes of tensors that were sent", now(&self.bytes_out)),
            ("refused", "Reservations, frames and audits that were refused", now(&self.refused)),
            ("expired", "Reservations that ran out", now(&self.expired)),
            ("audits", "Audits that were made", now(&self.audits)),
            ("audit_rejections", "Audits that rejected", now(&self.rejections)),
            ("compute_microseconds", "Microseconds in blocks and products of shares", now(&self.compute)),
        ]
    }
}

pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
