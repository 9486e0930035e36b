//! Memory that is used again.
//!
//! Codes and totals of products that are done elsewhere are megabytes, live as long as one product, and would have to be mapped and cleared for each. Whoever
//! takes a buffer writes all of it before reading any.

use core::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Most elements of a buffer that is kept.
const LARGEST: usize = 8 << 20;

/// One kept buffer of each kind: products of one executor mostly come one after another.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) codes_u8: Kept<u8>,
    pub(super) codes_u16: Kept<u16>,
    pub(super) totals_u8: Kept<i32>,
    pub(super) totals_u16: Kept<i64>,
}

/// A buffer that is kept between uses, as long as the longest of them.
#[derive(Default)]
pub(crate) struct Kept<T>(Mutex<Vec<T>>);

impl<T: Copy + Default> Kept<T> {
    /// `len` elements, with whatever is in them.
    pub(crate) fn take(&self, len: usize) -> Taken<'_, T> {
        let mut buffer = self.0.lock().map(|mut kept| core::mem::take(&mut *kept)).unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len, T::default());
        }
        Taken { buffer, len, from: self }
    }
}

/// A buffer in use. Dropped, it is kept for the next.
pub(crate) struct Taken<'a, T> {
    buffer: Vec<T>,
    len: usize,
    from: &'a Kept<T>,
}

impl<T> Deref for Taken<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.buffer.get_mut(..self.len).unwrap_or_default()
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if self.buffer.len() <= LARGEST
            && let Ok(mut kept) = self.from.0.lock()
        {
            *kept = core::mem::take(&mut self.buffer);
        }
    }
}

/// The first `len` elements, after making there be as many.
pub(super) fn grown<T: Copy + Default>(memory: &mut Vec<T>, len: usize) -> &mut [T] {
    if memory.len() < len {
        memory.resize(len, T::default());
    }
    memory.get_mut(..len).unwrap_or(&mut [])
}
