//! A leg: some blocks of a package, one after the other, on one batch.
//!
//! # How
//!
//! 1. When a package is loaded, three rows of two texts go through all of its blocks ([`Model::borders`]). That shows
//!    what crosses each border: the element type, the shape of a row, and whether there is a row for each token or for
//!    each text.
//! 2. What somebody sends is compared with its border before a byte of it is read ([`Border::expect`]).
//! 3. [`Model::run_leg`] runs the blocks and hashes what crosses their borders, as a receipt wants it.

use crate::error::NodeError;
use crate::execute::{column, internal};
use crate::load::Model;
use crate::receipt::{element_code, element_type, tensor_digest};
use crate::replay::expect_lengths;
use ostrakon_nn::{SequencePast, Tensor};
use ostrakon_protocol::wire::TensorHeader;
use ostrakon_protocol::{Digest, Step};
use std::ops::Range;
use std::time::{Duration, Instant};

/// What a border has one row of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Each token.
    Tokens,
    /// Each text.
    Texts,
}

/// What crosses the border before a block, or after the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Border {
    /// The element type's number in wasi-nn's enumeration.
    pub element: u8,
    /// What there is one row of.
    pub rows: Rows,
    /// The dimensions of a row; none where it is a single element.
    pub row: Vec<u32>,
    /// Bytes of a row.
    pub row_bytes: u64,
}

impl Border {
    fn of(tensor: &Tensor, tokens: u32, texts: u32) -> Result<Self, String> {
        let odd = || format!("a tensor of shape {:?}, which has no row for each token or text", tensor.dims());
        let (&first, row) = tensor.dims().split_first().ok_or_else(odd)?;
        let rows = match first {
            _ if first == tokens => Rows::Tokens,
            _ if first == texts => Rows::Texts,
            _ => return Err(odd()),
        };
        let row_bytes = tensor.byte_len() as u64 / u64::from(first.max(1));
        Ok(Self { element: element_code(tensor.ty()), rows, row: row.to_vec(), row_bytes })
    }

    /// Whether this is the header of what crosses here for texts of these lengths: exactly so many bytes follow it.
    ///
    /// # Errors
    /// What it should be.
    pub fn expect(&self, header: &TensorHeader, tokens: u32, texts: u32) -> Result<(), String> {
        let rows = match self.rows {
            Rows::Tokens => tokens,
            Rows::Texts => texts,
        };
        let bytes = u64::from(rows).saturating_mul(self.row_bytes);
        let shape = header.dimensions.split_first();
        if header.element == self.element
            && shape.is_some_and(|(&first, row)| first == rows && row == self.row)
            && header.bytes == bytes
        {
            return Ok(());
        }
        let mut shape = vec![rows];
        shape.extend(&self.row);
        Err(format!(
            "the tensor is of type {} and of shape {:?}, {} bytes; here it must be of type {}, of shape {shape:?}, {bytes} \
             bytes",
            header.element, header.dimensions, header.bytes, self.element
        ))
    }
}

/// The tensor of a header and the bytes that followed it.
///
/// # Errors
/// They do not fit.
pub fn tensor(header: &TensorHeader, bytes: &[u8]) -> Result<Tensor, String> {
    let ty = element_type(header.element).ok_or_else(|| format!("there is no element type {}", header.element))?;
    Tensor::new(header.dimensions.clone(), ty, bytes.to_vec()).map_err(|error| error.text().to_owned())
}

/// The header of a tensor.
pub fn header(tensor: &Tensor) -> TensorHeader {
    TensorHeader {
        element: element_code(tensor.ty()),
        dimensions: tensor.dims().to_vec(),
        bytes: tensor.byte_len() as u64,
    }
}

/// The tensor that says how many rows each text has.
///
/// # Errors
/// There are none, one is longer than the package takes, or all together have more than `rows`.
pub fn lengths(lengths: &[u32], max_tokens: u32, rows: u32) -> Result<(Tensor, u32), String> {
    if lengths.is_empty() {
        return Err("the batch has no texts".into());
    }
    let all: Vec<i32> = lengths.iter().map(|&length| i32::try_from(length).unwrap_or(i32::MAX)).collect();
    expect_lengths(&all, max_tokens)?;
    let sum = lengths.iter().fold(0u32, |sum, &length| sum.saturating_add(length));
    if sum > rows {
        return Err(format!("the batch has {sum} rows, {rows} were reserved"));
    }
    Ok((column(all).map_err(|error| error.text().to_owned())?, sum))
}

/// What a leg gives.
#[derive(Debug)]
pub struct LegRun {
    /// Of the last block.
    pub output: Tensor,
    /// Each block, as a receipt has it.
    pub steps: Vec<Step>,
    /// What the blocks took.
    pub took: Duration,
}

impl Model {
    /// How many blocks it has.
    pub fn block_count(&self) -> u32 {
        u32::try_from(self.blocks.len()).unwrap_or(u32::MAX)
    }

    /// The blocks of these shards, counted over the whole package.
    pub(crate) fn blocks_of(&self, shards: &[String]) -> Vec<u32> {
        (0u32..).zip(&self.blocks).filter(|(_, block)| shards.contains(&block.shard)).map(|(at, _)| at).collect()
    }

    /// Run these blocks on an input that crosses the border before the first of them, and that has this digest. `None`:
    /// `goes_on` said no between two blocks.
    ///
    /// # Errors
    /// When a block fails, or there is no such block.
    pub fn run_leg(
        &mut self,
        blocks: Range<u32>,
        (input, digest): (Tensor, Digest),
        lengths: &Tensor,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<LegRun>, NodeError> {
        let start = Instant::now();
        let (mut x, mut digest) = (input, digest);
        let mut steps = Vec::new();
        for at in blocks {
            if !goes_on() {
                return Ok(None);
            }
            let block = self.blocks.get_mut(at as usize).ok_or_else(|| internal("?", &"there is no such block"))?;
            let done = block.forward(&self.bench, x, lengths)?;
            let output = tensor_digest(&done.output);
            steps.push(block.step(digest, output, done.fuel));
            digest = output;
            x = done.output;
        }
        Ok(Some(LegRun { output: x, steps, took: start.elapsed() }))
    }

    /// What crosses the border before each block and after the last one, seen on two texts of one and two tokens.
    ///
    /// # Errors
    /// When a block fails, or gives something without a row for each token or text.
    pub fn borders(&mut self) -> Result<Vec<Border>, NodeError> {
        // A package whose texts have one token each has as many tokens as texts.
        let lengths: Vec<i32> = if self.manifest().max_tokens == Some(1) { vec![1] } else { vec![1, 2] };
        let tokens = lengths.iter().sum::<i32>();
        let (tokens, texts) = (tokens.unsigned_abs(), u32::try_from(lengths.len()).unwrap_or(u32::MAX));
        let tensor = |values| column(values).map_err(|error| internal("?", &error));
        let (mut x, lengths) = (tensor(vec![0; tokens as usize])?, tensor(lengths)?);
        let odd = |name: &str, why: String| NodeError::Setting(format!("the block `{name}` is given or gives {why}"));
        let mut borders = Vec::with_capacity(self.blocks.len() + 1);
        for block in &mut self.blocks {
            borders.push(Border::of(&x, tokens, texts).map_err(|why| odd(&block.name, why))?);
            x = block.forward(&self.bench, x, &lengths)?.output;
        }
        borders.push(Border::of(&x, tokens, texts).map_err(|why| odd("the last one", why))?);
        Ok(borders)
    }

    /// What one row of a sequence leaves in each block.
    ///
    /// # Errors
    /// When a block fails.
    pub(crate) fn pasts_of_a_row(&mut self) -> Result<Vec<SequencePast>, NodeError> {
        let tensor = || column(vec![0]).map_err(|error| internal("?", &error));
        let lengths = column(vec![1]).map_err(|error| internal("?", &error))?;
        let mut pasts = [Vec::new()];
        self.go_on(0..self.blocks.len(), tensor()?, &lengths, &mut pasts)?;
        let [pasts] = pasts;
        Ok(pasts)
    }

    /// Make fresh instances of these blocks, if they have been used.
    pub(crate) fn make_blocks_ready(&mut self, blocks: Range<u32>) -> Result<(), NodeError> {
        let blocks = blocks.start as usize..blocks.end as usize;
        for block in self.blocks.get_mut(blocks).unwrap_or_default() {
            block.make_ready(&self.bench)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_exactly_that_of_its_border() {
        let hidden = Tensor::from_f32(vec![3, 4], vec![0.0; 12]).unwrap();
        let border = Border::of(&hidden, 3, 2).unwrap();
        assert_eq!((border.rows, border.row_bytes), (Rows::Tokens, 16));
        let good = TensorHeader { element: border.element, dimensions: vec![5, 4], bytes: 80 };
        border.expect(&good, 5, 1).unwrap();
        for bad in [
            TensorHeader { element: 5, ..good.clone() },
            TensorHeader { dimensions: vec![4, 4], ..good.clone() },
            TensorHeader { dimensions: vec![5, 5], ..good.clone() },
            TensorHeader { dimensions: vec![5], ..good.clone() },
            TensorHeader { dimensions: vec![], ..good.clone() },
            TensorHeader { dimensions: vec![5, 4, 1], ..good.clone() },
            TensorHeader { bytes: 79, ..good.clone() },
            TensorHeader { bytes: u64::MAX, ..good.clone() },
        ] {
            assert!(border.expect(&bad, 5, 1).unwrap_err().contains("[5, 4]"), "{bad:?}");
        }
        let pooled = Border::of(&Tensor::from_f32(vec![2, 4], vec![0.0; 8]).unwrap(), 3, 2).unwrap();
        assert_eq!(pooled.rows, Rows::Texts);
        assert!(Border::of(&Tensor::from_f32(vec![4, 4], vec![0.0; 16]).unwrap(), 3, 2).is_err());
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(lengths(&[1, 2], 4, 3).unwrap().1, 3);
        for bad in [&[][..], &[0], &[5], &[u32::MAX], &[u32::MAX; 3], &[2, 2]] {
            assert!(lengths(bad, 4, 3).is_err(), "{bad:?}");
        }
    }
}
