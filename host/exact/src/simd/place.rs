//! Where the results of a tile go.

use super::crew::Shared;
use super::tile::COLUMNS;

/// Where the results of a tile go, in a matrix that several threads write to.
pub(super) struct Place<'a, T> {
    out: &'a Shared<'a, T>,
    /// The first result of the first row.
    start: usize,
    /// Results of a row in this tile, at most 16.
    columns: usize,
    /// From one row to the next.
    stride: usize,
}

impl<'a, T: Copy + Default> Place<'a, T> {
    /// `columns` results in each row from `start` on, `stride` apart.
    ///
    /// # Safety
    /// Nobody else has any of them.
    #[allow(unsafe_code)]
    pub(super) unsafe fn new(out: &'a Shared<'a, T>, start: usize, columns: usize, stride: usize) -> Self {
        Self { out, start, columns, stride }
    }

    /// Put a row there.
    #[inline(always)]
    pub(super) fn put(&mut self, row: usize, results: impl Iterator<Item = T>) {
        // First apart from the matrix, which for all that the compiler knows could be where the sums are.
        let mut vector = [T::default(); COLUMNS];
        vector.iter_mut().zip(results).for_each(|(y, result)| *y = result);
        let start = self.start + row * self.stride;
        // SAFETY: whoever made this vouches for it, and no other slice of it is alive.
        #[allow(unsafe_code)]
        let out = unsafe { self.out.range(start, start + self.columns) };
        match out.as_mut_array::<COLUMNS>() {
            Some(out) => *out = vector,
            None => out.iter_mut().zip(vector).for_each(|(y, result)| *y = result),
        }
    }
}
