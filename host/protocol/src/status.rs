//! What a node says of itself, signed, for everybody who chooses nodes.
//!
//! # How
//!
//! A node signs a new status whenever something in it changes and from time to time without that. A status with a
//! larger sequence number replaces one with a smaller. Two different ones with the same number are proof that the node
//! speaks with two tongues ([`SignedStatus::contradicts`]).
//!
//! Nothing in it is believed because it is signed: a signature only says who said it. Bounds are checked with
//! [`Status::check`] before anything is kept.

use crate::digest::{Context, Digest};
use crate::encoding::{Document, content};
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
use minicbor::{Decode, Encode};

/// Most bytes of a signed status.
pub const MAX_STATUS_BYTES: usize = 16 << 10;
/// Most addresses of a node.
pub const MAX_ADDRESSES: usize = 16;
/// Most packages that a node says it serves.
pub const MAX_SERVED: usize = 64;
/// Most backends and most plugins of a node.
pub const MAX_PARTS: usize = 16;
/// Most bytes of a name: an operator's, a package's, a backend's.
pub const MAX_NAME: usize = 64;
/// Most bytes of an address.
pub const MAX_ADDRESS: usize = 256;
/// No claim of memory, speed or load above this is believed to be meant: 2^50.
pub const MAX_QUANTITY: u64 = 1 << 50;

/// What a node does for others. Any mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Roles {
    /// Runs blocks.
    #[n(0)]
    pub execution: bool,
    /// Audits receipts.
    #[n(1)]
    pub verification: bool,
    /// Takes jobs, runs the scheduler component, leads the phases.
    #[n(2)]
    pub scheduling: bool,
    /// Relays, bootstraps, stores packages.
    #[n(3)]
    pub participation: bool,
}

/// What a node is made of, by its own word.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Hardware {
    /// Threads that compute.
    #[n(0)]
    pub threads: u32,
    /// Bytes of main memory.
    #[n(1)]
    pub memory: u64,
    /// The SIMD level in use.
    #[n(2)]
    pub simd: String,
    /// The backend in use: `cpu`, `openvino`, `cuda`.
    #[n(3)]
    pub backend: String,
}

/// How busy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Load {
    /// Sessions that may be open at once.
    #[n(0)]
    pub slots: u32,
    /// Sessions that are reserved or open.
    #[n(1)]
    pub used: u32,
    /// Bytes of memory that it would still give.
    #[n(2)]
    pub free_memory: u64,
}

/// Blocks that a node has ready.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Served {
    /// Of which package.
    #[n(0)]
    pub package: Digest,
    /// The package's name.
    #[n(1)]
    pub name: String,
    /// The first block, counted from 0 over the whole package.
    #[n(2)]
    pub from: u32,
    /// One after the last.
    #[n(3)]
    pub to: u32,
    /// Rows a second through all of these blocks, by its own word; 0: not said.
    #[n(4)]
    pub rows_per_second: u64,
}

/// A component that a node would use now.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct UsedPlugin {
    /// What for: `scheduler`, `verifier`.
    #[n(0)]
    pub name: String,
    /// Which.
    #[n(1)]
    pub component: Digest,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Status {
    /// Who. Its libp2p peer id is made of this key.
    #[n(0)]
    pub node: PublicKey,
    /// Larger ones replace smaller ones.
    #[n(1)]
    pub sequence: u64,
    /// Milliseconds since 1970 by the node's clock. Only for showing and for leaving out old ones.
    #[n(2)]
    pub issued: u64,
    /// Who runs it. A claim: see the threat model.
    #[n(3)]
    pub operator: String,
    /// What it does.
    #[n(4)]
    pub roles: Roles,
    /// Where it listens, as libp2p multiaddresses.
    #[n(5)]
    pub addresses: Vec<String>,
    /// What it is made of.
    #[n(6)]
    pub hardware: Hardware,
    /// How busy it is.
    #[n(7)]
    pub load: Load,
    /// What it serves.
    #[n(8)]
    pub served: Vec<Served>,
    /// What it decides with.
    #[n(9)]
    pub plugins: Vec<UsedPlugin>,
    /// It takes nothing new and will leave.
    #[n(10)]
    pub draining: bool,
}

/// A status that nobody has to keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStatus {
    /// Not signed by the node it names.
    #[error("the status is not signed by the node it names")]
    Signature,
    /// Something is too long, too many or too large.
    #[error("the status has {what} beyond the limit of {limit}")]
    Bounds {
        /// What.
        what: &'static str,
        /// How much is taken.
        limit: u64,
    },
    /// A name has other characters than names may have.
    #[error("the status has {what} with characters that are not allowed")]
    Characters {
        /// What.
        what: &'static str,
    },
}

impl Status {
    /// Whether everything in it is within bounds.
    ///
    /// # Errors
    /// The first thing that is not.
    pub fn check(&self) -> Result<(), BadStatus> {
        let Self { operator, addresses, hardware, load, served, plugins, .. } = self;
        most("addresses", addresses.len(), MAX_ADDRESSES)?;
        most("packages", served.len(), MAX_SERVED)?;
        most("plugins", plugins.len(), MAX_PARTS)?;
        for address in addresses {
            most("an address", address.len(), MAX_ADDRESS)?;
        }
        name("an operator", operator)?;
        name("a SIMD level", &hardware.simd)?;
        name("a backend", &hardware.backend)?;
        for entry in served {
            name("a package", &entry.name)?;
            if entry.from >= entry.to || entry.to > crate::plan::MAX_BLOCKS {
                return Err(BadStatus::Bounds { what: "blocks", limit: crate::plan::MAX_BLOCKS.into() });
            }
            quantity("a throughput", entry.rows_per_second)?;
        }
        for plugin in plugins {
            name("a plugin", &plugin.name)?;
        }
        quantity("memory", hardware.memory)?;
        quantity("free memory", load.free_memory)?;
        quantity("threads", hardware.threads.into())
    }

    /// What stands for it.
    pub fn digest(&self) -> Digest {
        Digest::of(Context::STATUS, &content(self))
    }
}

fn most(what: &'static str, count: usize, limit: usize) -> Result<(), BadStatus> {
    if count > limit { Err(BadStatus::Bounds { what, limit: limit as u64 }) } else { Ok(()) }
}

fn quantity(what: &'static str, value: u64) -> Result<(), BadStatus> {
    if value > MAX_QUANTITY { Err(BadStatus::Bounds { what, limit: MAX_QUANTITY }) } else { Ok(()) }
}

/// Names are shown in terminals and web pages, so they are plain.
fn name(what: &'static str, text: &str) -> Result<(), BadStatus> {
    most(what, text.len(), MAX_NAME)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || " ._-+:/@".contains(c);
    if text.chars().all(plain) { Ok(()) } else { Err(BadStatus::Characters { what }) }
}

/// A status with its node's signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedStatus {
    /// The node's, over the status.
    #[n(0)]
    pub signature: Signature,
    /// The status.
    #[n(1)]
    pub status: Status,
}

impl Document for SignedStatus {
    const KIND: &'static str = "ostrakon status";
    const VERSION: u32 = 1;
    const LIMIT: usize = MAX_STATUS_BYTES;
}

impl SignedStatus {
    /// Sign a status that names `key`.
    pub fn sign(key: &SigningKey, status: Status) -> Self {
        Self { signature: key.sign(Purpose::STATUS, &status.digest()), status }
    }

    /// Whether it is signed by the node it names and within bounds.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn check(&self) -> Result<(), BadStatus> {
        self.status.check()?;
        if self.status.node.signed(Purpose::STATUS, &self.status.digest(), &self.signature) {
            Ok(())
        } else {
            Err(BadStatus::Signature)
        }
    }

    /// Whether the two, both well signed, are proof against their node.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        let (a, b) = (&self.status, &other.status);
        a.node == b.node && a.sequence == b.sequence && a != b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn status(key: &SigningKey) -> Status {
        Status {
            node: key.public(),
            sequence: 1,
            issued: 0,
            operator: "alice".into(),
            roles: Roles { execution: true, ..Roles::default() },
            addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
            hardware: Hardware { threads: 2, memory: 1 << 30, simd: "avx2".into(), backend: "cpu".into() },
            load: Load { slots: 4, used: 0, free_memory: 1 << 29 },
            served: vec![Served {
                package: Digest::of_content(b"p"),
                name: "minilm".into(),
                from: 0,
                to: 2,
                rows_per_second: 1000,
            }],
            plugins: vec![],
            draining: false,
        }
    }

    #[test]
    fn what_is_signed_is_what_is_checked() {
        let key = SigningKey::from_seed(&[1; 32]);
        let signed = SignedStatus::sign(&key, status(&key));
        assert_eq!(signed.check(), Ok(()));
        let mut other = signed.clone();
        other.status.load.used = 1;
        assert_eq!(other.check(), Err(BadStatus::Signature));
        let other = SignedStatus::sign(&SigningKey::from_seed(&[2; 32]), status(&key));
        assert_eq!(other.check(), Err(BadStatus::Signature));
    }

    #[test]
    fn what_is_absurd_is_named() {
        let key = SigningKey::from_seed(&[1; 32]);
        let absurd = |change: &dyn Fn(&mut Status)| {
            let mut status = status(&key);
            change(&mut status);
            SignedStatus::sign(&key, status).check().unwrap_err().to_string()
        };
        assert!(absurd(&|s| s.served[0].rows_per_second = u64::MAX).contains("throughput"));
        assert!(absurd(&|s| s.served[0].to = 0).contains("blocks"));
        assert!(absurd(&|s| s.operator = "a\u{1b}[2J".into()).contains("operator"));
        assert!(absurd(&|s| s.addresses = vec![String::new(); 17]).contains("addresses"));
        assert!(absurd(&|s| s.hardware.memory = u64::MAX).contains("memory"));
    }

    #[test]
    fn two_tongues_are_proof() {
        let key = SigningKey::from_seed(&[1; 32]);
        let one = SignedStatus::sign(&key, status(&key));
        let mut busy = status(&key);
        busy.load.used = 3;
        let two = SignedStatus::sign(&key, busy.clone());
        assert!(one.contradicts(&two));
        assert!(!one.contradicts(&one));
        busy.sequence = 2;
        assert!(!one.contradicts(&SignedStatus::sign(&key, busy)));
    }
}
