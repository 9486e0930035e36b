//! Memory of dropped results, kept for the next ones of the same host.
//!
//! A block makes and drops a result for every operation. Fresh memory would have to be mapped and
//! cleared each time, and would not be in the processor's caches. An operation writes every element of its
//! result before anyone sees it, so nobody learns what was there before.

use crate::NnError;
use crate::tensor::reserve;
use std::sync::Mutex;

/// Most buffers kept: the results that one block has at a time.
const MOST: usize = 8;
/// Most elements of a buffer that is kept: 16 MiB. Larger ones are worth their mapping.
const LARGEST: usize = 4 << 20;

/// The kept buffers of one host.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    pub(crate) floats: Kept<f32>,
    pub(crate) integers: Kept<i32>,
}

/// Those of one type.
#[derive(Debug, Default)]
pub(crate) struct Kept<T>(Mutex<Vec<Vec<T>>>);

impl<T: Copy + Default> Kept<T> {
    /// `elements` elements, in the smallest kept buffer with room for them, with whatever is in it; fresh ones where none is kept.
    pub(crate) fn take(&self, elements: usize) -> Result<Vec<T>, NnError> {
        let mut values = match self.smallest(elements) {
            Some(values) => values,
            None => reserve(elements)?,
        };
        values.resize(elements, T::default());
        Ok(values)
    }

    fn smallest(&self, elements: usize) -> Option<Vec<T>> {
        let mut kept = self.0.lock().ok()?;
        let fitting = kept.iter().enumerate().filter(|(_, values)| values.capacity() >= elements);
        let (at, _) = fitting.min_by_key(|(_, values)| values.capacity())?;
        Some(kept.swap_remove(at))
    }

    /// Keep `values`, unless enough is kept.
    pub(crate) fn put(&self, values: Vec<T>) {
        if values.capacity() == 0 || values.capacity() > LARGEST {
            return;
        }
        if let Ok(mut kept) = self.0.lock()
            && kept.len() < MOST
        {
            kept.push(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_that_fits_and_never_too_many() {
        let spares = Kept::<f32>::default();
        for size in [100, 10, 1000, LARGEST + 1, 0] {
            spares.put(Vec::with_capacity(size));
        }
        assert_eq!(spares.smallest(50).map(|v| v.capacity()), Some(100));
        assert_eq!(spares.smallest(50).map(|v| v.capacity()), Some(1000));
        assert!(spares.smallest(50).is_none());
        for _ in 0..100 {
            spares.put(Vec::with_capacity(1));
        }
        assert_eq!((0..100).filter(|_| spares.smallest(1).is_some()).count(), MOST);
    }
}
