//! Ragged batches: how many rows each sequence has.
//!
//! The operations of [`exact`](crate::exact) check the lengths that they are given. A block that only hands them on
//! never reads them, which would take three calls of the host; one that asks for them gets them checked against the rows
//! there are.

use crate::bindings::wasi::nn::tensor as nn;
use crate::tensor::{name, read_i32};
use crate::{Element, Failure, Tensor};
use core::cell::OnceCell;

/// Most rows of a sequence, those of earlier calls included.
const MAX_ROWS: i32 = 1 << 20;

/// How many rows each sequence of the batch has: each at least 1, together the rows of the input. Perhaps also how many
/// rows of the sequence earlier calls were given, and of how many of its last rows the output is wanted.
pub struct Lengths<'a> {
    tensor: &'a nn::Tensor,
    /// Those of the input: none where it has no dimensions.
    rows: Option<u32>,
    sequences: OnceCell<Vec<Sequence>>,
}

#[derive(Clone, Copy)]
struct Sequence {
    rows: i32,
    before: i32,
}

impl<'a> Lengths<'a> {
    pub(crate) fn new(tensor: &'a nn::Tensor, input: &Tensor) -> Self {
        Self { tensor, rows: input.dimensions().first().copied(), sequences: OnceCell::new() }
    }

    fn sequences(&self) -> Result<&[Sequence], Failure> {
        if let Some(sequences) = self.sequences.get() {
            return Ok(sequences);
        }
        let read = self.read()?;
        Ok(self.sequences.get_or_init(|| read))
    }

    fn read(&self) -> Result<Vec<Sequence>, Failure> {
        let bad = |why: String| Err(Failure::BadInput(why));
        let (dimensions, element) = (self.tensor.dimensions(), self.tensor.ty());
        let each = match (dimensions.as_slice(), element) {
            ([_], Element::I32) => 1,
            ([_, 2], Element::I32) => 2,
            ([_, 3], Element::I32) => 3,
            _ => {
                return bad(format!(
                    "the lengths are {} {dimensions:?}: needs I32 of the shape [sequences], or [sequences, 2 or 3]",
                    name(element)
                ));
            }
        };
        let Some(rows) = self.rows else {
            return bad(String::from("the input has no dimensions: the first counts its rows"));
        };
        let values = read_i32(self.tensor)?;
        let mut sequences = Vec::with_capacity(values.len() / each);
        let mut sum = 0u64;
        for (i, sequence) in values.chunks_exact(each).enumerate() {
            let (length, before, wanted) = match *sequence {
                [length, before, wanted] => (length, before, wanted),
                [length, before] => (length, before, length),
                [length] => (length, 0, length),
                _ => (0, 0, 0),
            };
            match u64::try_from(length) {
                Ok(length) if length > 0 => sum = sum.saturating_add(length),
                _ => return bad(format!("length {i} is {length}: every sequence has at least one row")),
            }
            if before < 0 || before.checked_add(length).is_none_or(|end| before > 0 && end > MAX_ROWS) {
                return bad(format!(
                    "sequence {i} has {length} rows and {before} before them: not below 0 and at most {MAX_ROWS} in all"
                ));
            }
            if !(0..=length).contains(&wanted) {
                return bad(format!(
                    "the last {wanted} of {length} rows of sequence {i} are wanted: none to all can be"
                ));
            }
            sequences.push(Sequence { rows: length, before });
        }
        if sum != u64::from(rows) {
            return bad(format!("the lengths add up to {sum} but the input has {rows} rows"));
        }
        Ok(sequences)
    }

    /// As the operations of [`exact`](crate::exact) take them.
    pub(crate) fn handle(&self) -> &nn::Tensor {
        self.tensor
    }

    /// The length of each sequence, in order.
    ///
    /// # Errors
    /// [`Failure::BadInput`]: lengths that are not I32 of the shape [B], [B, 2] or [B, 3], a length below 1, rows before
    /// or rows wanted that are none or too many, an input without dimensions, lengths that do not add up to the rows of
    /// the input.
    pub fn each(&self) -> Result<impl Iterator<Item = i32> + '_, Failure> {
        Ok(self.sequences()?.iter().map(|sequence| sequence.rows))
    }

    /// For each row, its place in its own sequence, rows of earlier calls counted: `0, 1, 2, 0, 1` for the lengths
    /// `3, 2`, and `7, 8, 9, 0, 1` where seven rows were before those of the first sequence.
    ///
    /// # Errors
    /// As [`Lengths::each`].
    pub fn positions(&self) -> Result<Tensor, Failure> {
        let places = self.sequences()?.iter().flat_map(|s| s.before..s.before.saturating_add(s.rows));
        let positions: Vec<i32> = places.collect();
        Ok(Tensor::from_i32(&[positions.len() as u32], &positions))
    }
}
