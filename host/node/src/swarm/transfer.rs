//! Files between nodes: packages and components, by digest, verified while they come.
//!
//! # Why
//!
//! A node that is to run a package it does not have gets it from nodes it does not trust, over connections that end in
//! the middle. Not one byte may be kept that is not the package's, and nothing may be fetched twice.
//!
//! # How
//!
//! 1. A node has a [`shelf`]: the files it gives away, by digest, and where they lie.
//! 2. [`give`] answers for a range of a file with the hashes that lead from the range to the file's digest, and the
//!    bytes: a stream as `bao` has it.
//! 3. [`take`] gets a file in ranges from several nodes at once. Each chunk is checked against the digest before it is
//!    written, so a node that sends anything else is known at once, and reported. What is valid of a file survives a
//!    restart: it is found by checking it, not by a note about it.
//! 4. [`package`] gets a package: its manifest and signature first, and a file only after these were let in.

pub mod give;
pub mod package;
pub mod shelf;
pub mod take;

pub use package::Fetcher;
pub use shelf::Shelf;

use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use ostrakon_net::NetError;
use ostrakon_protocol::{Digest, PublicKey};
use std::ops::Range;

/// Bytes under one hash of a tree: ranges begin at multiples of this.
pub const GROUP_BYTES: u64 = 16 << 10;
const GROUP: BlockSize = BlockSize::from_chunk_log(4);

/// A file or a package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Nobody has a package of this name or digest.
    #[error("no node that can be reached has the package {wanted}")]
    Nobody {
        /// What was looked for.
        wanted: String,
    },
    /// All that have it were asked.
    #[error("the file {digest} could not be fetched from any of {asked} nodes; the last one: {last}")]
    Exhausted {
        /// Which file.
        digest: Digest,
        /// How many were asked.
        asked: usize,
        /// What the last one did, in words.
        last: String,
    },
    /// It is larger than this node takes.
    #[error("the package {package} has {bytes} bytes; `limits.package_mib` lets in {limit}")]
    TooLarge {
        /// Which.
        package: Digest,
        /// How many bytes.
        bytes: u64,
        /// How many at most.
        limit: u64,
    },
    /// What a node gave as the manifest is another package's.
    #[error("{node} gave a manifest that is not of the package {package}")]
    OtherManifest {
        /// Who.
        node: PublicKey,
        /// What was asked for.
        package: Digest,
    },
    /// The manifest has another name than the one that was asked for.
    #[error("the package {package} is called {found}, not {wanted}")]
    OtherName {
        /// Which.
        package: Digest,
        /// Its name.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The disk refused.
    #[error("cannot {action} {path}: {source}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// The network refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// This process is ending.
    #[error("the transfer was stopped")]
    Stopped,
}

fn disk(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> TransferError {
    let path = path.display().to_string();
    move |source| TransferError::Disk { action, path, source }
}

fn tree(bytes: u64) -> BaoTree {
    BaoTree::new(bytes, GROUP)
}

fn root(digest: &Digest) -> blake3::Hash {
    blake3::Hash::from_bytes(*digest.as_bytes())
}

/// The chunks of a range of bytes that begins at a group.
fn chunks(range: &Range<u64>) -> ChunkRanges {
    ChunkRanges::from(ChunkNum(range.start / 1024)..ChunkNum(range.end.div_ceil(1024)))
}
