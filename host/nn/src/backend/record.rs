//! The recorder: computes, and keeps every integer product for an audit.
//!
//! # Why
//!
//! Nothing is kept on the fast path. An executor that is asked for evidence runs the block again, from
//! its committed input, on this backend: the same bytes come out, and beside them the products.
//!
//! # The record
//!
//! The totals of every product, rows x columns, in the order of the calls, little-endian, nothing else:
//!
//! | product | totals |
//! |---|---|
//! | linear layer, u8 codes | i32 [rows, N] |
//! | linear layer, u16 codes | i64 [rows, N] |
//! | attention, for each sequence and head: scores, | i32 [rows, rows] |
//! | then weighted values | i64 [rows, d] |
//!
//! Causal attention leaves nothing: whoever audits computes it.
//!
//! Which calls there are follows from the block and its input, so a reader knows every shape.

use crate::{Backend, BackendError, CpuBackend, NnError};
use ostrakon_exact::Linear;
use ostrakon_exact::simd::{AttentionProducts, Executor, HeadOf, PlainAttention, Product, ProductError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Its name.
pub const NAME: &str = "record";

/// Computes on the CPU and records. Cloning shares the record.
#[derive(Clone)]
pub struct Recorder {
    cpu: Arc<CpuBackend>,
    attention: Arc<RecordedAttention>,
    record: Arc<Record>,
}

struct Record {
    bytes: Mutex<Vec<u8>>,
    limit: usize,
}

impl Recorder {
    /// A recorder whose record may grow to `limit` bytes; a product beyond that is an error.
    pub fn new(executor: Arc<Executor>, limit: usize) -> Self {
        let record = Arc::new(Record { bytes: Mutex::default(), limit });
        let attention = RecordedAttention { plain: PlainAttention::new(&executor), record: Arc::clone(&record) };
        Self { cpu: Arc::new(CpuBackend::new(executor)), attention: Arc::new(attention), record }
    }

    /// The record since the last call, which is then empty.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.record.lock())
    }
}

impl Backend for Recorder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&self, name: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        Ok(Box::new(Recorded { product: self.cpu.prepare(name, layer)?, record: Arc::clone(&self.record) }))
    }

    fn attention(&self) -> Option<&dyn AttentionProducts> {
        Some(&*self.attention)
    }

    /// The CPU proves itself, unrecorded.
    fn prove(&self) -> Result<(), BackendError> {
        self.cpu.prove()
    }
}

struct Recorded {
    product: Box<dyn Product>,
    record: Arc<Record>,
}

impl Product for Recorded {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        self.record.expect_room(size_of_val(totals))?;
        self.product.product_u8(codes, rows, totals)?;
        self.record.append(totals.iter().map(|total| total.to_le_bytes()))
    }

    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        self.record.expect_room(size_of_val(totals))?;
        self.product.product_u16(codes, rows, totals)?;
        self.record.append(totals.iter().map(|total| total.to_le_bytes()))
    }
}

struct RecordedAttention {
    plain: PlainAttention,
    record: Arc<Record>,
}

impl AttentionProducts for RecordedAttention {
    fn scores(
        &self,
        at: HeadOf,
        queries: &[i16],
        keys: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i32],
    ) -> Result<(), ProductError> {
        self.record.expect_room(size_of_val(totals))?;
        self.plain.scores(at, queries, keys, rows, d, totals)?;
        self.record.append(totals.iter().map(|total| total.to_le_bytes()))
    }

    fn weighted(
        &self,
        at: HeadOf,
        weights: &[i16],
        values: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i64],
    ) -> Result<(), ProductError> {
        self.record.expect_room(size_of_val(totals))?;
        self.plain.weighted(at, weights, values, rows, d, totals)?;
        self.record.append(totals.iter().map(|total| total.to_le_bytes()))
    }
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // Bytes are appended and never rearranged, so a panic elsewhere leaves a sound record.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fits(&self, held: usize, more: usize) -> Result<(), ProductError> {
        match held.checked_add(more) {
            Some(bytes) if bytes <= self.limit => Ok(()),
            _ => Err(ProductError::Unavailable(format!(
                "the record of products holds {held} bytes and {more} more exceed its limit of {}",
                self.limit
            ))),
        }
    }

    fn expect_room(&self, more: usize) -> Result<(), ProductError> {
        self.fits(self.lock().len(), more)
    }

    fn append<const N: usize>(&self, totals: impl ExactSizeIterator<Item = [u8; N]>) -> Result<(), ProductError> {
        let mut bytes = self.lock();
        let more = totals.len() * N;
        self.fits(bytes.len(), more)?;
        let held = bytes.len();
        bytes.resize(held + more, 0);
        let slots = bytes.get_mut(held..).unwrap_or(&mut []).as_chunks_mut::<N>().0;
        for (slot, total) in slots.iter_mut().zip(totals) {
            *slot = total;
        }
        Ok(())
    }
}
