//! Ragged batches: sequences of different lengths, rows one after another, no padding.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

/// Shapes that do not fit an operation; the text names which and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeError(pub String);

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ShapeError {}

/// How many rows each sequence of a batch has. Every length is at least 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lengths(Vec<usize>);

impl Lengths {
    /// Check `lengths` against the number of rows of the tensor they describe.
    ///
    /// # Errors
    /// A length below 1, or a sum other than `rows`.
    pub fn new(lengths: &[i32], rows: usize) -> Result<Self, ShapeError> {
        let mut left = rows;
        let mut checked = Vec::with_capacity(lengths.len());
        for (i, &length) in lengths.iter().enumerate() {
            let length = usize::try_from(length)
                .ok()
                .filter(|&l| l > 0)
                .ok_or_else(|| ShapeError(format!("length {i} is {length}: every sequence has at least one row")))?;
            left = left
                .checked_sub(length)
                .ok_or_else(|| ShapeError(format!("the lengths add up to more than the {rows} rows of the tensor")))?;
            checked.push(length);
        }
        if left != 0 {
            return Err(ShapeError(format!("the lengths add up to {} but the tensor has {rows} rows", rows - left)));
        }
        Ok(Self(checked))
    }

    /// How many sequences.
    pub fn sequences(&self) -> usize {
        self.0.len()
    }

    /// How many rows are wanted in all, of each sequence so many of its last.
    ///
    /// # Errors
    /// `wanted` that is not one number for each sequence, at most its rows.
    pub(crate) fn wanted(&self, wanted: &[usize]) -> Result<usize, ShapeError> {
        if wanted.len() != self.0.len() {
            return Err(ShapeError(format!(
                "rows are wanted of {} sequences, there are {}",
                wanted.len(),
                self.0.len()
            )));
        }
        match self.0.iter().zip(wanted).find(|(rows, wanted)| wanted > rows) {
            None => Ok(wanted.iter().sum()),
            Some((rows, wanted)) => Err(ShapeError(format!("{wanted} rows are wanted of a sequence of {rows}"))),
        }
    }

    /// The length of each sequence, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }
}
