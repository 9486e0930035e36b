//! How nodes behaved, as far as this node saw it.
//!
//! # How
//!
//! 1. A node nobody saw doing wrong has [`FULL`] points. An offence takes some away; a point comes back every
//!    [`RECOVERY`].
//! 2. Below [`LEAST`] a node is banned: dropped, and not let in for [`BAN`], whatever came back in between.
//! 3. Only nodes that did something wrong take memory, and of them the worst are kept.
//!
//! Keys cost nothing, so a reputation does not stop whoever makes new ones: the limits by address do.

use ostrakon_protocol::PublicKey;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// Bytes that are no message of ours, or too many of them, or too slowly.
    Malformed,
    /// More than it may ask for.
    TooMuch,
    /// A status that is absurd, forged, or that contradicts another.
    Status,
    /// Promised and did not do.
    Broken,
    /// Signed something that is wrong.
    Wrong,
}

impl Offence {
    const fn cost(self) -> u32 {
        match self {
            Self::TooMuch => 25,
            Self::Broken => 50,
            Self::Malformed => 100,
            Self::Status => 300,
            Self::Wrong => 400,
        }
    }
}

/// Points of nobody who did anything wrong.
pub(crate) const FULL: u32 = 1000;
/// Below this nothing is taken from a node.
pub(crate) const LEAST: u32 = 100;
/// Time in which a point comes back.
const RECOVERY: Duration = Duration::from_secs(2);
/// Time for which a node is banned.
const BAN: Duration = Duration::from_secs(600);
/// Most nodes that are remembered.
const REMEMBERED: usize = 1 << 16;

/// Where a node stands.
#[derive(Debug, Clone, Copy)]
struct Standing {
    points: u32,
    at: Instant,
    banned_until: Option<Instant>,
}

impl Standing {
    fn points(&self, now: Instant) -> u32 {
        let back = now.saturating_duration_since(self.at).as_millis().checked_div(RECOVERY.as_millis()).unwrap_or(0);
        let points = self.points.saturating_add(u32::try_from(back).unwrap_or(FULL)).min(FULL);
        if self.banned_until.is_some_and(|until| now < until) { points.min(LEAST - 1) } else { points }
    }
}

/// Where all nodes stand.
#[derive(Debug, Default)]
pub(crate) struct Reputation {
    standings: HashMap<PublicKey, Standing>,
}

impl Reputation {
    /// The points of a node.
    pub(crate) fn of(&self, node: &PublicKey, now: Instant) -> u32 {
        self.standings.get(node).map_or(FULL, |standing| standing.points(now))
    }

    /// Take points away.
    pub(crate) fn offend(&mut self, node: PublicKey, offence: Offence, now: Instant) -> u32 {
        let before = self.of(&node, now);
        let points = before.saturating_sub(offence.cost());
        let kept = self.standings.get(&node).and_then(|s| s.banned_until);
        let banned_until = if points < LEAST && before >= LEAST { now.checked_add(BAN) } else { kept };
        if self.standings.len() >= REMEMBERED && !self.standings.contains_key(&node) {
            self.forget(now);
        }
        self.standings.insert(node, Standing { points, at: now, banned_until });
        points
    }

    /// Make room: first those who are as good as new, then the better half.
    fn forget(&mut self, now: Instant) {
        self.standings.retain(|_, standing| standing.points(now) < FULL);
        if self.standings.len() >= REMEMBERED {
            let mut points: Vec<u32> = self.standings.values().map(|s| s.points(now)).collect();
            let middle = points.len() / 2;
            let median = *points.select_nth_unstable(middle).1;
            // All that are worse than the middle stay, and of those just there as many as make half.
            let mut room = middle - points.iter().filter(|p| **p < median).count();
            self.standings.retain(|_, standing| {
                let points = standing.points(now);
                let fits = points == median && room > 0;
                room -= usize::from(fits);
                points < median || fits
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sinks_by_offence_and_comes_back_slowly() {
        let (mut all, node, now) = (Reputation::default(), PublicKey::from_bytes([1; 32]), Instant::now());
        assert_eq!(all.of(&node, now), 1000);
        assert_eq!(all.offend(node, Offence::Wrong, now), 600);
        assert_eq!(all.of(&node, now + Duration::from_secs(100)), 650);
        all.offend(node, Offence::Wrong, now);
        assert_eq!(all.offend(node, Offence::Wrong, now), 0);
        // Banned: nothing helps until the time is over.
        assert_eq!(all.of(&node, now + Duration::from_secs(599)), 99);
        assert_eq!(all.of(&node, now + Duration::from_secs(600)), 300);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_worst_stay() {
        let (mut all, now) = (Reputation::default(), Instant::now());
        let node = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            PublicKey::from_bytes(bytes)
        };
        all.offend(node(0), Offence::Wrong, now);
        for n in 1..=u32::try_from(REMEMBERED).unwrap() + 10 {
            all.offend(node(n), Offence::TooMuch, now);
        }
        assert!(all.standings.len() <= REMEMBERED);
        assert_eq!(all.of(&node(0), now), 600);
    }
}
