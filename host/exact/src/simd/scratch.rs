//! Memory for codes and totals of products that are done elsewhere.
//!
//! They are megabytes, live as long as one product, and would have to be mapped and cleared for each. Whoever
//! takes a buffer writes all of it before reading any.

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

/// A buffer that is kept between uses.
#[derive(Default)]
pub(super) struct Kept<T>(Mutex<Vec<T>>);

impl<T: Copy + Default> Kept<T> {
    /// A buffer of this length, with whatever is in it.
    pub(super) fn take(&self, len: usize) -> Vec<T> {
        let mut buffer = self.0.lock().map(|mut kept| core::mem::take(&mut *kept)).unwrap_or_default();
        buffer.resize(len, T::default());
        buffer
    }

    /// Keep a buffer for the next.
    pub(super) fn put(&self, buffer: Vec<T>) {
        if buffer.capacity() <= LARGEST
            && let Ok(mut kept) = self.0.lock()
        {
            *kept = buffer;
        }
    }
}
