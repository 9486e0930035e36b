//! A minimum speed for transfers.
//!
//! # Why
//!
//! A peer that sends a byte now and then holds memory, a stream and perhaps a session for as long as it likes, while every
//! single read succeeds.
//!
//! # How
//!
//! 1. A transfer has a grace, in which nothing is asked of it.
//! 2. After that it must have moved [`SPEED`] bytes for every second since the grace, on average.
//! 3. And whatever it moved before, it may not stand still for longer than [`STALL`].

use std::time::Duration;
use tokio::time::Instant;

/// Bytes a second that a transfer must have moved on average.
pub(crate) const SPEED: u64 = 16 << 10;
/// Time in which nothing is asked of a transfer.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// The longest time in which nothing moves.
pub(crate) const STALL: Duration = Duration::from_secs(20);

/// How a transfer goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    began: Instant,
    moved: u64,
}

impl Pace {
    /// A transfer begins.
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), moved: 0 }
    }

    /// Bytes have moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes as u64);
    }

    /// Nothing was wanted since then.
    pub(crate) fn paused(self, since: Instant) -> Self {
        Self { began: self.began + since.elapsed(), moved: self.moved }
    }

    /// When something must have moved.
    pub(crate) fn deadline(&self) -> Instant {
        let earned = Duration::from_millis(self.moved.saturating_mul(1000).checked_div(SPEED).unwrap_or(0));
        let average = self.began.checked_add(GRACE.saturating_add(earned));
        let stall = Instant::now() + STALL;
        average.map_or(stall, |average| average.min(stall))
    }
}
