//! Ragged batches: how many rows each sequence has, checked against the rows there are.

use crate::bindings::wasi::nn::tensor as nn;
use crate::tensor::{name, read_i32};
use crate::{Element, Failure, Tensor};

/// How many rows each sequence of the batch has: each at least 1, together the rows of the input.
pub struct Lengths<'a> {
    tensor: &'a nn::Tensor,
    values: Vec<i32>,
}

impl<'a> Lengths<'a> {
    /// Check the two tensors of a call to `forward` against each other.
    ///
    /// # Errors
    /// [`Failure::BadInput`]: lengths that are not I32 of rank 1, a length below 1, an input without
    /// dimensions, lengths that do not add up to the rows of the input.
    pub(crate) fn check(lengths: &'a nn::Tensor, input: &Tensor) -> Result<Self, Failure> {
        let bad = |why: String| Err(Failure::BadInput(why));
        let (rank, element) = (lengths.dimensions().len(), lengths.ty());
        if rank != 1 || element != Element::I32 {
            return bad(format!("the lengths are {} of rank {rank}: needs I32 of rank 1", name(element)));
        }
        let Some(&rows) = input.dimensions().first() else {
            return bad(String::from("the input has no dimensions: the first counts its rows"));
        };
        let values = read_i32(lengths)?;
        let mut sum = 0u64;
        for (i, &length) in values.iter().enumerate() {
            match u64::try_from(length) {
                Ok(length) if length > 0 => sum = sum.saturating_add(length),
                _ => return bad(format!("length {i} is {length}: every sequence has at least one row")),
            }
        }
        if sum != u64::from(rows) {
            return bad(format!("the lengths add up to {sum} but the input has {rows} rows"));
        }
        Ok(Self { tensor: lengths, values })
    }

    /// As the operations of [`exact`](crate::exact) take them.
    pub(crate) fn handle(&self) -> &nn::Tensor {
        self.tensor
    }

    /// The length of each sequence, in order.
    pub fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        self.values.iter().copied()
    }

    /// For each row, its place in its own sequence: `0, 1, 2, 0, 1` for the lengths `3, 2`.
    pub fn positions(&self) -> Tensor {
        let positions: Vec<i32> = self.values.iter().flat_map(|&length| 0..length).collect();
        Tensor::from_i32(&[positions.len() as u32], &positions)
    }
}
