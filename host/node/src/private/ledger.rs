//! What becomes of masks, told to whoever wants to see that none is used twice.

use ostrakon_protocol::{Digest, PublicKey};

/// Rows of a mask: where in which streams of which seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskRows {
    /// A digest of each seed, with the server that has the seed.
    pub seeds: Vec<(Digest, PublicKey)>,
    /// The layer's stream.
    pub stream: u32,
    /// The first row.
    pub first: u64,
    /// How many there are.
    pub rows: u64,
}

/// Is told what becomes of masks, in the order in which it happens.
pub trait Ledger: Send + Sync {
    /// This server gets a seed: it knows the mask, whatever comes of it.
    fn given(&self, seed: Digest, server: PublicKey);
    /// These rows left the pool.
    fn taken(&self, rows: &MaskRows);
    /// This server gets a share that these rows hide.
    fn sent(&self, rows: &MaskRows, server: PublicKey);
}

impl MaskRows {
    /// At most so many of them, and the rest.
    pub(super) fn split(self, rows: u64) -> (Self, Self) {
        let first = self.first.saturating_add(rows);
        let rest = Self { first, rows: self.rows.saturating_sub(rows), ..self.clone() };
        (Self { rows: rows.min(self.rows), ..self }, rest)
    }
}
