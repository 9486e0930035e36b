//! Masks that are ready, and which of them hides what.
//!
//! # Why
//!
//! Two shares with the same mask tell the difference of what they hide, and whoever knows a mask must not get what it hides. So rows
//! leave the pool when they are used, whatever becomes of the answer, and every share is looked at before it is sent.
//!
//! # How
//!
//! 1. [`Pool::put`] takes rows in, with who has the seeds.
//! 2. [`Pool::take`] moves rows out, in the order in which they came.
//! 3. [`Pool::may_send`] allows one share for rows that were taken, to somebody who has none of the seeds.

use super::ledger::{Ledger, MaskRows};
use ostrakon_nn::{Masked, NnError, SharedError, Tensor};
use ostrakon_protocol::{Digest, PublicKey};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Masks by the stream of their layer.
#[derive(Default)]
pub(super) struct Pool {
    ready: Mutex<BTreeMap<u32, VecDeque<Ready>>>,
    /// Rows that were taken and hide nothing yet.
    taken: Mutex<BTreeMap<u32, Vec<MaskRows>>>,
    ledger: OnceLock<Arc<dyn Ledger>>,
}

/// Rows of masks for one layer.
struct Ready {
    rows: usize,
    masked: Masked,
    origin: MaskRows,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Who is told what becomes of masks; the first one stays.
    pub(super) fn tell(&self, ledger: Arc<dyn Ledger>) {
        let _ = self.ledger.set(ledger);
    }

    /// Who is told.
    pub(super) fn ledger(&self) -> Option<&Arc<dyn Ledger>> {
        self.ledger.get()
    }

    /// Throw all masks away.
    pub(super) fn clear(&self) {
        lock(&self.ready).clear();
    }

    /// Rows of a layer, from the first of its stream on; `seeds`: a digest of each, and who has it.
    pub(super) fn put(&self, seeds: &[(Digest, PublicKey)], stream: u32, rows: usize, masked: Masked) {
        let origin = MaskRows { seeds: seeds.to_vec(), stream, first: 0, rows: rows as u64 };
        lock(&self.ready).entry(stream).or_default().push_back(Ready { rows, masked, origin });
    }

    /// Rows that are ready for a layer.
    pub(super) fn rows(&self, stream: u32) -> usize {
        lock(&self.ready).get(&stream).map_or(0, rows_in)
    }

    /// Rows of the layer that has most.
    pub(super) fn most(&self) -> usize {
        lock(&self.ready).values().map(rows_in).max().unwrap_or(0)
    }

    /// Rows, moved out. `None`: there are not so many.
    pub(super) fn take(&self, stream: u32, rows: usize) -> Result<Option<Masked>, NnError> {
        let mut all = lock(&self.ready);
        let Some(ready) = all.get_mut(&stream) else { return Ok(None) };
        if rows_in(ready) < rows {
            return Ok(None);
        }
        if ready.front().is_some_and(|block| block.rows == rows) {
            return Ok(ready.pop_front().map(|block| {
                self.remember(stream, vec![block.origin]);
                block.masked
            }));
        }
        let (mut parts, mut origins) = (Vec::new(), Vec::new());
        let mut left = rows;
        while left > 0 {
            let Some(block) = ready.pop_front() else { return Ok(None) };
            let (now, later) = block.split(left)?;
            left -= now.rows;
            parts.push(now.masked);
            origins.push(now.origin);
            if let Some(later) = later {
                ready.push_front(later);
            }
        }
        self.remember(stream, origins);
        joined(&parts).map(Some)
    }

    /// Rows have left the pool.
    fn remember(&self, stream: u32, origins: Vec<MaskRows>) {
        if let Some(ledger) = self.ledger.get() {
            origins.iter().for_each(|rows| ledger.taken(rows));
        }
        lock(&self.taken).insert(stream, origins);
    }

    /// A share that the rows taken last hide may go to the server without a seed, once.
    pub(super) fn may_send(&self, stream: u32, server: Option<PublicKey>) -> Result<(), SharedError> {
        let origins = lock(&self.taken).remove(&stream);
        let (Some(origins), Some(server)) = (origins, server) else {
            return Err(SharedError::Lost("the share has no mask that was not used before".into()));
        };
        // Whoever takes the place of a server has seen nothing, and with a new plan the pool is empty: this is the second lock.
        if origins.iter().flat_map(|rows| &rows.seeds).any(|(_, holder)| *holder == server) {
            return Err(SharedError::Lost(format!("{server} knows the mask")));
        }
        if let Some(ledger) = self.ledger.get() {
            origins.iter().for_each(|rows| ledger.sent(rows, server));
        }
        Ok(())
    }
}

fn rows_in(ready: &VecDeque<Ready>) -> usize {
    ready.iter().map(|block| block.rows).sum()
}

impl Ready {
    /// At most so many rows of it, and the rest.
    fn split(self, rows: usize) -> Result<(Self, Option<Self>), NnError> {
        if self.rows <= rows {
            return Ok((self, None));
        }
        let part = |from: usize, to: usize, origin: MaskRows| {
            let products = self.masked.products.iter().map(|product| cut(product, from, to));
            let masked =
                Masked { mask: cut(&self.masked.mask, from, to)?, products: products.collect::<Result<_, _>>()? };
            Ok::<_, NnError>(Self { rows: to - from, masked, origin })
        };
        let (first, rest) = self.origin.clone().split(rows as u64);
        Ok((part(0, rows, first)?, Some(part(rows, self.rows, rest)?)))
    }
}

/// Some rows of a tensor.
fn cut(tensor: &Tensor, from: usize, to: usize) -> Result<Tensor, NnError> {
    let width = tensor.dims().get(1).map_or(0, |&width| width as usize);
    let elements = tensor.as_i32()?.get(from * width..to * width).unwrap_or_default();
    rows_of(width, elements.to_vec())
}

/// Rows of several preparations, one after another.
fn joined(parts: &[Masked]) -> Result<Masked, NnError> {
    let join = |tensors: &mut dyn Iterator<Item = &Tensor>| {
        let (mut width, mut elements) = (0, Vec::new());
        for tensor in tensors {
            width = tensor.dims().get(1).map_or(0, |&width| width as usize);
            elements.extend_from_slice(tensor.as_i32()?);
        }
        rows_of(width, elements)
    };
    let servers = parts.first().map_or(0, |part| part.products.len());
    let products = (0..servers).map(|server| join(&mut parts.iter().filter_map(|part| part.products.get(server))));
    Ok(Masked { mask: join(&mut parts.iter().map(|part| &part.mask))?, products: products.collect::<Result<_, _>>()? })
}

fn rows_of(width: usize, elements: Vec<i32>) -> Result<Tensor, NnError> {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Tensor::from_i32(vec![number(elements.len() / width.max(1)), number(width)], elements)
}
