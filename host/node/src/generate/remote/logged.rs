//! What went into the blocks of each sequence: whoever takes a node's place gets it again.
//!
//! # How
//!
//! 1. A sequence has a number, which nodes know it by, and the rows that crossed the border before each leg: token ids before the
//!    first, hidden rows before the others.
//! 2. Whoever holds the [`Number`] keeps it alive. When the last holder is gone, it is on a list, and nodes are told with their
//!    next calls.
//! 3. Rows are put at their place: what was there from that row on is not true any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Numbers that nobody holds any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Dropped(Arc<Mutex<Vec<u32>>>);

impl Dropped {
    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All since it was asked last.
    pub(super) fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.lock())
    }
}

/// A sequence that nodes keep something of.
#[derive(Debug)]
pub(in crate::generate) struct Number {
    number: u32,
    dropped: Dropped,
}

impl Number {
    pub(super) const fn get(&self) -> u32 {
        self.number
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.dropped.lock().push(self.number);
    }
}

/// Rows before each leg, by the first block of the leg.
#[derive(Debug, Clone, Default)]
struct Inputs(BTreeMap<u32, Vec<u8>>);

/// All sequences.
#[derive(Debug, Default)]
pub(super) struct Logged {
    sequences: BTreeMap<u32, Inputs>,
    next: u32,
    dropped: Dropped,
}

impl Logged {
    /// A new sequence. One that begins like another one has what went before each leg for the rows that they share; `width` says
    /// how many bytes a row has before a block.
    pub(super) fn begin(&mut self, like: Option<(u32, usize)>, width: impl Fn(u32) -> usize) -> Number {
        // There are far fewer sequences than numbers.
        while self.sequences.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        let mut inputs = Inputs::default();
        if let Some((other, rows)) = like
            && let Some(other) = self.sequences.get(&other)
        {
            for (&border, all) in &other.0 {
                let shared = all.get(..rows.saturating_mul(width(border)).min(all.len())).unwrap_or_default();
                inputs.0.insert(border, shared.to_vec());
            }
        }
        self.sequences.insert(number, inputs);
        Number { number, dropped: self.dropped.clone() }
    }

    /// Forget those that nobody holds any more: their numbers.
    pub(super) fn forget_dropped(&mut self) -> Vec<u32> {
        let dropped = self.dropped.take();
        for number in &dropped {
            self.sequences.remove(number);
        }
        dropped
    }

    /// Later rows than so many are not those of the sequence any more. `width` says how many bytes a row has before a block.
    pub(super) fn cut(&mut self, number: u32, rows: usize, width: impl Fn(u32) -> usize) {
        if let Some(inputs) = self.sequences.get_mut(&number) {
            for (&border, all) in &mut inputs.0 {
                all.truncate(rows.saturating_mul(width(border)));
            }
        }
    }

    /// Put the rows from this byte on that crossed a border.
    pub(super) fn put(&mut self, number: u32, border: u32, at: usize, rows: &[u8]) {
        if let Some(inputs) = self.sequences.get_mut(&number) {
            let all = inputs.0.entry(border).or_default();
            // A gap there cannot be: whoever puts later rows has had the earlier ones.
            if at <= all.len() {
                all.truncate(at);
                all.extend_from_slice(rows);
            }
        }
    }

    /// The first bytes that crossed a border, if so many have.
    pub(super) fn first(&self, number: u32, border: u32, bytes: usize) -> Option<&[u8]> {
        self.sequences.get(&number)?.0.get(&border)?.get(..bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_begins_like_another_and_goes_its_own_way() {
        let mut logged = Logged::default();
        let a = logged.begin(None, |_| 2);
        logged.put(a.get(), 0, 0, &[1, 1, 2, 2, 3, 3]);
        logged.put(a.get(), 4, 0, &[7, 7, 8, 8]);
        let b = logged.begin(Some((a.get(), 2)), |_| 2);
        logged.put(b.get(), 0, 4, &[9, 9]);
        assert_eq!(logged.first(b.get(), 0, 6), Some(&[1, 1, 2, 2, 9, 9][..]));
        assert_eq!(logged.first(b.get(), 4, 4), Some(&[7, 7, 8, 8][..]));
        assert_eq!(logged.first(a.get(), 0, 6), Some(&[1, 1, 2, 2, 3, 3][..]));
        assert_eq!(logged.first(a.get(), 4, 5), None);
        assert_eq!(logged.first(a.get(), 5, 0), None);
        // Rows that are put again replace those from there on, and nothing is put after a gap.
        logged.put(a.get(), 0, 2, &[5, 5]);
        assert_eq!(logged.first(a.get(), 0, 6), None);
        logged.put(a.get(), 0, 6, &[6, 6]);
        assert_eq!(logged.first(a.get(), 0, 4), Some(&[1, 1, 5, 5][..]));
        // A border that later rows do not cross has the earlier ones only.
        logged.cut(a.get(), 1, |_| 2);
        assert_eq!(logged.first(a.get(), 4, 2), Some(&[7, 7][..]));
        assert_eq!(logged.first(a.get(), 4, 4), None);
        let number = a.get();
        drop(a);
        assert_eq!(logged.forget_dropped(), [number]);
        assert_eq!(logged.first(number, 0, 0), None);
        assert!(logged.first(b.get(), 0, 0).is_some());
    }
}
