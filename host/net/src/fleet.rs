//! The nodes that this one knows of: their newest status, how far they are, how they behaved.
//!
//! # How
//!
//! 1. A status that is well signed and within bounds is taken if its number is larger than that of the one before. Two
//!    different ones with the same number are proof against their node.
//! 2. Statuses fade: what was not renewed within [`FADE`] is left out, so a node that is frozen or gone is soon chosen no more.
//!    The number is remembered for a while longer, so that an old status that comes back is not news.
//! 3. The table is bounded, in all and by place ([`Place`]): thousands of identities at one address get no more of it than
//!    their share. A node's place is that of its connection while it has one, else those of the addresses it claims. When the
//!    table is full, connected nodes replace those that are only heard of.

use crate::address::{Place, parse, place};
use crate::config::NetLimits;
use crate::rate::Bucket;
pub use crate::reputation::Offence;
use crate::reputation::{LEAST, Reputation};
use ostrakon_protocol::status::MAX_STATUS_BYTES;
use ostrakon_protocol::wire::{MAX_FLEET, MAX_REPLY_BYTES, Reply};
use ostrakon_protocol::{PublicKey, SignedStatus, encode};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// A status that was not renewed for so long is left out.
pub const FADE: Duration = Duration::from_secs(60);
/// Clocks may differ by so much. A status of another time is a replay, or its node's clock is wrong.
pub const SKEW: Duration = Duration::from_secs(300);
/// How long the number of a status that faded is remembered. Longer than two clocks may differ.
const REMEMBER: Duration = Duration::from_secs(900);

/// Statuses a second of one node, and how many at once: each goes to everybody.
const RATE: u32 = 4;
/// Statuses of one node at once.
const BURST: u32 = 20;

/// What became of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is the newest of its node.
    New,
    /// The same, or an older one than is known.
    Known,
    /// Another with the same number is known.
    Contradicts,
    /// There is no room for it, its time is not now, its node is banned or says too much.
    LeftOut,
}

#[derive(Debug)]
struct Entry {
    status: SignedStatus,
    heard: Instant,
    places: Vec<Place>,
    contradicted: bool,
    pace: Bucket,
}

#[derive(Debug, Default)]
struct Table {
    own: Option<PublicKey>,
    entries: BTreeMap<PublicKey, Entry>,
    places: HashMap<Place, usize>,
    faded: HashMap<PublicKey, (u64, Instant)>,
    connected: HashMap<PublicKey, Place>,
    round_trips: HashMap<PublicKey, Duration>,
    reputation: Reputation,
}

/// The nodes that this one knows of. Shared; every method locks for a moment only.
#[derive(Debug, Default)]
pub struct Fleet {
    table: Mutex<Table>,
    limits: NetLimits,
}

impl Fleet {
    pub(crate) fn new(own: PublicKey, limits: NetLimits) -> Self {
        Self { table: Mutex::new(Table { own: Some(own), ..Table::default() }), limits }
    }

    /// Nothing in here panics while it holds the lock half way through a change.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All statuses that are not too old, in order of their nodes' keys. This node's own is among them.
    pub fn statuses(&self) -> Vec<SignedStatus> {
        let now = Instant::now();
        let table = self.table();
        table.fresh(now).map(|(_, entry)| entry.status.clone()).collect()
    }

    /// The status of a node.
    pub fn status(&self, node: &PublicKey) -> Option<SignedStatus> {
        let table = self.table();
        table.entries.get(node).filter(|e| table.is_fresh(node, e, Instant::now())).map(|e| e.status.clone())
    }

    /// The newest measured round trip.
    pub fn round_trip(&self, node: &PublicKey) -> Option<Duration> {
        self.table().round_trips.get(node).copied()
    }

    /// Reputation in thousandths: 1000 for nobody who did anything wrong; below 100 nothing is taken from it.
    pub fn reputation(&self, node: &PublicKey) -> u32 {
        self.table().reputation.of(node, Instant::now())
    }

    /// Whether nothing is taken from a node.
    pub(crate) fn banned(&self, node: &PublicKey) -> bool {
        self.reputation(node) < LEAST
    }

    /// A node did something wrong. Whether it is banned now.
    pub(crate) fn offend(&self, node: PublicKey, offence: Offence) -> bool {
        let mut table = self.table();
        if table.own == Some(node) {
            return false;
        }
        let points = table.reputation.offend(node, offence, Instant::now());
        tracing::info!(%node, ?offence, points, "a peer did something wrong");
        if points < LEAST {
            table.remove(&node);
        }
        points < LEAST
    }

    /// Statuses after a node, as a reply.
    pub(crate) fn page(&self, after: Option<PublicKey>) -> Reply {
        // Room for the reputations and the frame of the document.
        const BYTES: usize = MAX_REPLY_BYTES - MAX_STATUS_BYTES - 64 - 8 * MAX_FLEET;
        let now = Instant::now();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut statuses, mut reputation, mut bytes, mut more) = (Vec::new(), Vec::new(), 0, false);
        let table = self.table();
        for (node, entry) in table.entries.range((from, Bound::Unbounded)) {
            if !table.is_fresh(node, entry, now) {
                continue;
            }
            bytes += encode(&entry.status).len();
            if statuses.len() == MAX_FLEET || bytes > BYTES {
                more = true;
                break;
            }
            statuses.push(entry.status.clone());
            reputation.push(table.reputation.of(node, now));
        }
        Reply::Fleet { statuses, reputation, more }
    }

    /// This node's own status. Whether it is.
    pub(crate) fn publish(&self, status: SignedStatus) -> bool {
        let mut table = self.table();
        let own = table.own == Some(status.status.node);
        if own {
            let pace = Bucket::full(BURST);
            let entry = Entry { heard: Instant::now(), places: Vec::new(), contradicted: false, pace, status };
            table.entries.insert(entry.status.status.node, entry);
        }
        own
    }

    /// Whether a status would be news, before anything is computed to check it.
    pub(crate) fn is_news(&self, status: &SignedStatus) -> bool {
        let table = self.table();
        let node = &status.status.node;
        let known = table.entries.get(node).map(|e| (e.status.status.sequence, e.status != *status && !e.contradicted));
        let faded = table.faded.get(node).is_none_or(|(number, _)| status.status.sequence > *number);
        known.map_or(faded, |(number, other)| {
            status.status.sequence > number || (status.status.sequence == number && other)
        })
    }

    /// Take a status that was checked. `second_hand`: from another node's table, where it may have been for a while.
    pub(crate) fn take(&self, status: SignedStatus, second_hand: bool) -> Taken {
        let now = Instant::now();
        let mut table = self.table();
        let (node, sequence) = (status.status.node, status.status.sequence);
        let Some(age) = age(status.status.issued) else { return Taken::LeftOut };
        if table.own == Some(node) || table.reputation.of(&node, now) < LEAST {
            return Taken::LeftOut;
        }
        let mut pace = Bucket::full(BURST);
        if let Some(entry) = table.entries.get_mut(&node) {
            if status.contradicts(&entry.status) {
                let first = !std::mem::replace(&mut entry.contradicted, true);
                return if first { Taken::Contradicts } else { Taken::Known };
            }
            if sequence <= entry.status.status.sequence {
                return Taken::Known;
            }
            if !entry.pace.take(RATE, BURST) {
                return Taken::LeftOut;
            }
            pace = entry.pace;
        } else if table.faded.get(&node).is_some_and(|(number, _)| sequence <= *number) {
            return Taken::Known;
        }
        let places = table.places_of(&node, &status);
        table.remove(&node);
        if !table.has_room(&node, &places, &self.limits) {
            tracing::debug!(%node, "no room for a status");
            return Taken::LeftOut;
        }
        for place in &places {
            *table.places.entry(place.clone()).or_default() += 1;
        }
        let heard = if second_hand { now.checked_sub(age.min(FADE * 3 / 4)).unwrap_or(now) } else { now };
        table.faded.remove(&node);
        table.entries.insert(node, Entry { status, heard, places, contradicted: false, pace });
        Taken::New
    }

    /// A connection to a node was made.
    pub(crate) fn connected(&self, node: PublicKey, at: Place) {
        let mut table = self.table();
        table.connected.insert(node, at.clone());
        // What it takes is counted where it is, not where it says.
        if let Some(mut entry) = table.remove(&node) {
            entry.places = vec![at];
            if table.has_room(&node, &entry.places, &self.limits) {
                for place in &entry.places {
                    *table.places.entry(place.clone()).or_default() += 1;
                }
                table.entries.insert(node, entry);
            }
        }
    }

    /// The last connection to a node ended.
    pub(crate) fn disconnected(&self, node: &PublicKey) {
        let mut table = self.table();
        table.connected.remove(node);
        table.round_trips.remove(node);
    }

    /// A round trip was measured.
    pub(crate) fn measured(&self, node: PublicKey, round_trip: Duration) {
        let mut table = self.table();
        if table.connected.contains_key(&node) {
            table.round_trips.insert(node, round_trip);
        }
    }

    /// Forget what is too old.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut table = self.table();
        let old: Vec<PublicKey> =
            table.entries.iter().filter(|(n, e)| !table.is_fresh(n, e, now)).map(|(n, _)| *n).collect();
        for node in old {
            if let Some(entry) = table.remove(&node)
                && table.faded.len() < self.limits.fleet
            {
                table.faded.insert(node, (entry.status.status.sequence, now));
            }
        }
        table.faded.retain(|_, (_, since)| now.saturating_duration_since(*since) < REMEMBER);
    }

    /// Nodes that are heard of but not connected, in order of their keys from this node's on and around: different ones for
    /// each node, so that the connections of all of them hold together.
    pub(crate) fn strangers(&self, most: usize) -> Vec<PublicKey> {
        let table = self.table();
        let Some(own) = table.own else { return Vec::new() };
        let after = table.entries.range((Bound::Excluded(own), Bound::Unbounded));
        let before = table.entries.range((Bound::Unbounded, Bound::Excluded(own)));
        let lonely = |(node, entry): &(&PublicKey, &Entry)| {
            !table.connected.contains_key(*node) && !entry.status.status.addresses.is_empty()
        };
        after.chain(before).filter(lonely).map(|(node, _)| *node).take(most).collect()
    }
}

impl Table {
    fn is_fresh(&self, node: &PublicKey, entry: &Entry, now: Instant) -> bool {
        self.own.as_ref() == Some(node) || now.saturating_duration_since(entry.heard) < FADE
    }

    fn fresh(&self, now: Instant) -> impl Iterator<Item = (&PublicKey, &Entry)> {
        self.entries.iter().filter(move |(node, entry)| self.is_fresh(node, entry, now))
    }

    fn places_of(&self, node: &PublicKey, status: &SignedStatus) -> Vec<Place> {
        if let Some(place) = self.connected.get(node) {
            return vec![place.clone()];
        }
        let claimed = status.status.addresses.iter().filter_map(|a| parse(a).ok());
        let mut places: Vec<Place> = claimed.map(|a| place(&a)).collect();
        places.sort_unstable();
        places.dedup();
        if places.is_empty() { vec![Place::Nowhere] } else { places }
    }

    fn has_room(&mut self, node: &PublicKey, places: &[Place], limits: &NetLimits) -> bool {
        if places.iter().any(|p| self.places.get(p).is_some_and(|count| *count >= limits.fleet_per_address)) {
            return false;
        }
        if self.entries.len() < limits.fleet {
            return true;
        }
        if !self.connected.contains_key(node) {
            return false;
        }
        let heard_of = |(n, _): &(&PublicKey, &Entry)| !self.connected.contains_key(*n) && self.own != Some(**n);
        let oldest = self.entries.iter().filter(heard_of).min_by_key(|(_, e)| e.heard).map(|(n, _)| *n);
        oldest.is_some_and(|oldest| self.remove(&oldest).is_some())
    }

    fn remove(&mut self, node: &PublicKey) -> Option<Entry> {
        let entry = self.entries.remove(node)?;
        for place in &entry.places {
            if let Some(count) = self.places.get_mut(place) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.places.remove(place);
                }
            }
        }
        Some(entry)
    }
}

/// How long ago a status was issued. `None`: at another time than now, as far as clocks go.
fn age(issued: u64) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let issued = Duration::from_millis(issued);
    (issued.abs_diff(now) <= SKEW).then(|| now.saturating_sub(issued))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostrakon_protocol::{Hardware, Load, Roles, SigningKey, Status};

    fn now() -> u64 {
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
    }

    fn status(n: u32, sequence: u64, address: &str) -> SignedStatus {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&n.to_le_bytes());
        let key = SigningKey::from_seed(&seed);
        let status = Status {
            node: key.public(),
            sequence,
            issued: now(),
            operator: String::new(),
            roles: Roles::default(),
            addresses: vec![address.into()],
            hardware: Hardware::default(),
            load: Load::default(),
            served: vec![],
            plugins: vec![],
            draining: false,
        };
        SignedStatus::sign(&key, status)
    }

    fn fleet(all: usize, per_address: usize) -> Fleet {
        let limits = NetLimits { fleet: all, fleet_per_address: per_address, ..NetLimits::default() };
        Fleet::new(PublicKey::from_bytes([255; 32]), limits)
    }

    #[test]
    fn larger_numbers_replace_smaller_ones() {
        let fleet = fleet(10, 10);
        let one = status(1, 5, "/ip4/10.0.0.1/tcp/1");
        assert_eq!(fleet.take(one.clone(), false), Taken::New);
        assert!(!fleet.is_news(&one));
        assert_eq!(fleet.take(one.clone(), false), Taken::Known);
        assert_eq!(fleet.take(status(1, 4, "/ip4/10.0.0.1/tcp/1"), false), Taken::Known);
        let other = status(1, 5, "/ip4/10.0.0.1/tcp/2");
        assert!(fleet.is_news(&other));
        assert_eq!(fleet.take(other.clone(), false), Taken::Contradicts);
        assert!(!fleet.is_news(&other));
        assert_eq!(fleet.take(status(1, 6, "/ip4/10.0.0.1/tcp/1"), false), Taken::New);
        assert_eq!(fleet.statuses().len(), 1);
    }

    #[test]
    fn statuses_fade_and_do_not_come_back() {
        let fleet = fleet(10, 10);
        let one = status(1, 5, "/ip4/10.0.0.1/tcp/1");
        fleet.take(one.clone(), false);
        let Some(long_ago) = Instant::now().checked_sub(FADE) else { return };
        fleet.table().entries.values_mut().for_each(|e| e.heard = long_ago);
        assert!(fleet.statuses().is_empty() && fleet.status(&one.status.node).is_none());
        fleet.sweep();
        assert!(fleet.table().entries.is_empty() && fleet.table().places.is_empty());
        assert!(!fleet.is_news(&one));
        assert_eq!(fleet.take(one, true), Taken::Known);
        assert_eq!(fleet.take(status(1, 6, "/ip4/10.0.0.1/tcp/1"), true), Taken::New);
    }

    #[test]
    fn statuses_of_another_time_are_left_out() {
        let fleet = fleet(10, 10);
        for issued in [0, now() - 400_000, now() + 400_000, u64::MAX] {
            let mut one = status(1, 5, "/ip4/10.0.0.1/tcp/1");
            one.status.issued = issued;
            assert_eq!(fleet.take(one, false), Taken::LeftOut);
        }
    }

    #[test]
    fn one_place_gets_its_share_only() {
        let fleet = fleet(100, 5);
        for n in 0..50 {
            fleet.take(status(n, 1, "/ip4/10.0.0.1/tcp/1"), false);
        }
        assert_eq!(fleet.statuses().len(), 5);
        // Another place is not touched by that, and new statuses of who is in are taken.
        assert_eq!(fleet.take(status(100, 1, "/ip4/10.0.0.2/tcp/1"), false), Taken::New);
        assert_eq!(fleet.take(status(0, 2, "/ip4/10.0.0.1/tcp/1"), false), Taken::New);
        // Claimed addresses count for nothing once it is seen where a node is.
        for n in 200..250 {
            let claim = status(n, 1, &format!("/ip4/10.1.0.{n}/tcp/1"));
            fleet.connected(claim.status.node, Place::V4([10, 0, 0, 3]));
            fleet.take(claim, false);
        }
        assert_eq!(fleet.statuses().len(), 11);
    }

    #[test]
    fn a_full_table_prefers_who_is_connected() {
        let fleet = fleet(10, 100);
        for n in 0..20 {
            fleet.take(status(n, 1, "/ip4/10.0.0.1/tcp/1"), false);
        }
        assert_eq!(fleet.statuses().len(), 10);
        let here = status(100, 1, "/ip4/10.0.0.2/tcp/1");
        assert_eq!(fleet.take(here.clone(), false), Taken::LeftOut);
        fleet.connected(here.status.node, Place::V4([10, 0, 0, 2]));
        assert_eq!(fleet.take(here, false), Taken::New);
        assert_eq!(fleet.statuses().len(), 10);
    }

    #[test]
    fn who_says_too_much_is_not_heard() {
        let fleet = fleet(10, 10);
        let taken = (1..200).filter(|n| fleet.take(status(1, *n, "/ip4/10.0.0.1/tcp/1"), false) == Taken::New);
        assert!((20..60).contains(&taken.count()));
    }
}
