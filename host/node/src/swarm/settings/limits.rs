//! `[limits]`: bounds of what others may take of a node.

use ostrakon_net::NetLimits;
use serde::Deserialize;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Bounds of what others may take of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table, as in examples/node.toml")]
pub struct Limits {
    /// Sessions that are reserved or open at once.
    pub sessions: i64,
    /// Jobs that wait or run at once, on a scheduling node.
    pub jobs: i64,
    /// Audits at once, on a verification node.
    pub audits: i64,
    /// Questions that are answered at once.
    pub questions: i64,
    /// MiB of memory for what jobs hold between blocks.
    pub memory_mib: i64,
    /// Files that are served at once.
    pub uploads: i64,
    /// MiB of the largest package that is fetched.
    pub package_mib: i64,
    /// Seconds that running sessions get when the node is told to stop.
    pub drain_seconds: i64,
    /// Connections in all.
    pub connections: i64,
    /// Connections from one IP address.
    pub connections_per_address: i64,
    /// Streams that are open at once from one peer.
    pub streams_per_peer: i64,
    /// Questions a second from one peer.
    pub questions_per_second: i64,
    /// Nodes that this one knows of.
    pub fleet: i64,
    /// Nodes that it knows of at one IP address.
    pub fleet_per_address: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 16,
            jobs: 256,
            audits: 2,
            questions: 64,
            memory_mib: 1024,
            uploads: 8,
            package_mib: 65_536,
            drain_seconds: 30,
            connections: 512,
            connections_per_address: 64,
            streams_per_peer: 64,
            questions_per_second: 200,
            fleet: 16_384,
            fleet_per_address: 64,
        }
    }
}

impl Limits {
    /// These, if every one makes sense.
    pub(super) fn checked(self) -> Result<Self, String> {
        let bounds: [(&str, i64, RangeInclusive<i64>); 14] = [
            ("sessions", self.sessions, 1..=4096),
            ("jobs", self.jobs, 1..=65_536),
            ("audits", self.audits, 1..=256),
            ("questions", self.questions, 1..=4096),
            ("memory_mib", self.memory_mib, 16..=16_777_216),
            ("uploads", self.uploads, 1..=1024),
            ("package_mib", self.package_mib, 1..=1_048_576),
            ("drain_seconds", self.drain_seconds, 0..=86_400),
            ("connections", self.connections, 1..=65_536),
            ("connections_per_address", self.connections_per_address, 1..=65_536),
            ("streams_per_peer", self.streams_per_peer, 1..=4096),
            ("questions_per_second", self.questions_per_second, 1..=1_000_000),
            ("fleet", self.fleet, 1..=16_384),
            ("fleet_per_address", self.fleet_per_address, 1..=16_384),
        ];
        match bounds.into_iter().find(|(_, value, range)| !range.contains(value)) {
            None => Ok(self),
            Some((name, value, range)) => {
                Err(format!("`limits.{name}` is {value}: {} to {} make sense", range.start(), range.end()))
            }
        }
    }

    /// Those of the network.
    pub(super) fn net(&self) -> NetLimits {
        NetLimits {
            connections: narrow(self.connections),
            connections_per_address: narrow(self.connections_per_address),
            streams_per_peer: narrow(self.streams_per_peer),
            questions_per_second: narrow(self.questions_per_second),
            fleet: narrow(self.fleet) as usize,
            fleet_per_address: narrow(self.fleet_per_address) as usize,
            ..NetLimits::default()
        }
    }

    /// What a running node cannot change.
    pub(super) fn fixed(&self) -> Self {
        Self { drain_seconds: 0, package_mib: 0, ..*self }
    }

    /// Sessions that are reserved or open at once.
    pub fn sessions(&self) -> u32 {
        narrow(self.sessions)
    }

    /// Jobs that wait or run at once.
    pub fn jobs(&self) -> usize {
        narrow(self.jobs) as usize
    }

    /// Audits at once.
    pub fn audits(&self) -> usize {
        narrow(self.audits) as usize
    }

    /// Questions that are answered at once.
    pub fn questions(&self) -> usize {
        narrow(self.questions) as usize
    }

    /// Files that are served at once.
    pub fn uploads(&self) -> usize {
        narrow(self.uploads) as usize
    }

    /// Bytes of memory for what jobs hold between blocks.
    pub fn memory(&self) -> u64 {
        u64::from(narrow(self.memory_mib)) << 20
    }

    /// Bytes of the largest package that is fetched.
    pub fn package_bytes(&self) -> u64 {
        u64::from(narrow(self.package_mib)) << 20
    }

    /// What running sessions get when the node is told to stop.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(narrow(self.drain_seconds).into())
    }
}

/// Every limit was compared with bounds that fit.
fn narrow(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
