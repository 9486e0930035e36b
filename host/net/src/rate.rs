//! So many a second, and so many at once.

use std::time::Duration;
use tokio::time::Instant;

/// A bucket that fills steadily and that each thing takes one token of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// In thousandths of a token.
    level: u64,
    since: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn full(burst: u32) -> Self {
        Self { level: u64::from(burst) * 1000, since: Instant::now() }
    }

    /// Whether nothing was taken for long.
    pub(crate) fn is_full(&self, rate: u32, burst: u32) -> bool {
        let gained = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_mul(rate.into());
        self.level.saturating_add(gained) >= u64::from(burst) * 1000
    }

    /// Take a token, if there is one, from a bucket that gains `rate` tokens a second and holds `burst`.
    pub(crate) fn take(&mut self, rate: u32, burst: u32) -> bool {
        let passed = self.since.elapsed();
        let gained = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).saturating_mul(rate.into());
        if gained > 0 {
            self.level = self.level.saturating_add(gained).min(u64::from(burst) * 1000);
            self.since += Duration::from_millis(u64::try_from(passed.as_millis()).unwrap_or(0));
        }
        let there = self.level >= 1000;
        self.level -= if there { 1000 } else { 0 };
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::full(10);
        assert_eq!((0..100).filter(|_| bucket.take(10, 10)).count(), 10);
        bucket.since = Instant::now().checked_sub(Duration::from_millis(500)).unwrap();
        assert_eq!((0..100).filter(|_| bucket.take(10, 10)).count(), 5);
        bucket.since = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap();
        assert_eq!((0..100).filter(|_| bucket.take(10, 10)).count(), 10);
    }
}
