//! The threads, and one method for every operation.

use super::attention_products::AttentionProducts;
use super::coding::{code_u8, code_u16, scale_row_u8, scale_row_u16};
use super::crew::Crew;
use super::level::{Level, Proven};
use super::past::Past;
use super::product::{Product, ProductError};
use super::scratch::Scratch;
use super::{attention, attention_products, causal, rows};
use crate::layer::{Activation, Embedding, LayerNorm, Linear, RmsNorm, Rotary};
use crate::ragged::{Lengths, ShapeError};
use crate::reference::{Grouped, QuantisedRow, expect_gated, expect_len, expect_turned, expect_width};
use core::fmt;
use core::ops::Range;
use std::sync::Arc;

/// Most threads an executor may own.
const MAX_THREADS: usize = 1024;
/// Elements of a part of an operation that spends some ten instructions on each.
const ROW_CHUNK: usize = 8 * 1024;
/// Elements of a part of an addition.
const ADD_CHUNK: usize = 64 * 1024;

/// Runs the exact operations at one [`Level`] on its own threads.
///
/// Methods take the same arguments, give the same errors and write the same bytes as the functions of
/// the same name in [`reference`].
pub struct Executor {
    level: Proven,
    crew: Arc<Crew>,
    scratch: Scratch,
}

impl Executor {
    /// An executor with `threads` threads, the calling one among them.
    ///
    /// # Errors
    /// A level that this machine does not have, 0 threads or over 1024, threads that do not start.
    pub fn new(level: Level, threads: usize) -> Result<Self, ExecutorError> {
        let level = Proven::new(level).ok_or(ExecutorError::NoSuchLevel(level))?;
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(ExecutorError::Threads(threads));
        }
        let crew = Arc::new(Crew::new(threads).map_err(ExecutorError::Pool)?);
        Ok(Self { level, crew, scratch: Scratch::default() })
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.level.level()
    }

    /// How many threads work on one operation at most.
    pub fn threads(&self) -> usize {
        self.crew.threads()
    }

    /// Free the cores of threads that wait for the next operation: what comes next is for somebody else's threads, and
    /// lasts.
    pub fn dismiss(&self) {
        self.crew.dismiss();
    }

    /// Never keep threads waiting for the next operation: most of the time goes by elsewhere, and whoever works there may
    /// want the cores.
    pub fn never_linger(&self) {
        self.crew.never_linger();
    }

    /// The level, as a proof.
    pub(crate) fn proven(&self) -> Proven {
        self.level
    }

    /// The threads.
    pub(crate) fn crew(&self) -> &Arc<Crew> {
        &self.crew
    }

    /// See [`reference::embedding`].
    ///
    /// # Errors
    /// As the reference.
    pub fn embedding(&self, layer: &Embedding, ids: &[i32], out: &mut [f32]) -> Result<(), ShapeError> {
        expect_len("the output", out.len(), ids.len(), layer.width)?;
        layer.expect(ids)?;
        rows::embedding(self.level, layer, ids, out);
        Ok(())
    }

    /// See [`reference::layer_norm`].
    ///
    /// # Errors
    /// As the reference.
    pub fn layer_norm(
        &self,
        layer: &LayerNorm,
        x: &[f32],
        residual: Option<&[f32]>,
        rows: usize,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        let width = layer.gain.len();
        expect_len("x", x.len(), rows, width)?;
        expect_len("the output", out.len(), rows, width)?;
        if let Some(residual) = residual {
            expect_len("the residual", residual.len(), rows, width)?;
        }
        let chunk = ROW_CHUNK.div_ceil(width) * width;
        self.crew.each_chunk(out, chunk, |i, out| {
            let part = |all: &'_ [f32]| i * chunk..(i * chunk + out.len()).min(all.len());
            let residual = residual.and_then(|r| r.get(part(r)));
            rows::layer_norm(self.level, layer, x.get(part(x)).unwrap_or(&[]), residual, out);
        });
        Ok(())
    }

    /// See [`reference::rms_norm`].
    ///
    /// # Errors
    /// As the reference.
    pub fn rms_norm(&self, layer: &RmsNorm, x: &[f32], rows: usize, out: &mut [f32]) -> Result<(), ShapeError> {
        let width = layer.gain.len();
        expect_len("x", x.len(), rows, width)?;
        expect_len("the output", out.len(), rows, width)?;
        let chunk = ROW_CHUNK.div_ceil(width) * width;
        self.crew.each_chunk(out, chunk, |i, out| {
            rows::rms_norm(self.level, layer, x.get(i * chunk..).unwrap_or(&[]), out);
        });
        Ok(())
    }

    /// See [`reference::rotary`].
    ///
    /// # Errors
    /// As the reference; nothing is written then.
    pub fn rotary(
        &self,
        layer: &Rotary,
        x: &[f32],
        positions: &[i32],
        columns: usize,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        expect_turned(layer, x.len(), positions.len(), columns, out.len())?;
        let angles = positions.iter().map(|&p| layer.angles(p)).collect::<Result<Vec<_>, _>>()?;
        let rows = ROW_CHUNK.div_ceil(columns);
        self.crew.each_chunk(out, rows * columns, |i, out| {
            let x = x.get(i * rows * columns..).unwrap_or(&[]).chunks_exact(columns);
            let angles = angles.iter().skip(i * rows);
            for ((x, out), angles) in x.zip(out.chunks_exact_mut(columns)).zip(angles) {
                let (turned, rest) = out.split_at_mut(layer.turned());
                rows::turn(self.level, x, angles, turned);
                rows::clean_all(self.level, x.get(layer.turned()..).unwrap_or(&[]), rest);
            }
        });
        Ok(())
    }

    /// See [`reference::swiglu`].
    ///
    /// # Errors
    /// As the reference.
    pub fn swiglu(&self, x: &[f32], rows: usize, width: usize, out: &mut [f32]) -> Result<(), ShapeError> {
        expect_gated(x.len(), rows, width, out.len())?;
        if out.is_empty() {
            return Ok(());
        }
        let rows = ROW_CHUNK.div_ceil(width);
        self.crew.each_chunk(out, rows * width, |i, out| {
            let x = x.chunks_exact(2 * width).skip(i * rows);
            for (x, out) in x.zip(out.chunks_exact_mut(width)) {
                let (gates, values) = x.split_at(width);
                rows::swiglu(self.level, gates, values, out);
            }
        });
        Ok(())
    }

    /// See [`reference::gelu`].
    ///
    /// # Errors
    /// As the reference.
    pub fn gelu(&self, x: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
        expect_len("the output", out.len(), x.len(), 1)?;
        self.crew.each_chunk(out, ROW_CHUNK, |i, out| {
            rows::gelu(self.level, x.get(i * ROW_CHUNK..).unwrap_or(&[]), out);
        });
        Ok(())
    }

    /// See [`reference::add`].
    ///
    /// # Errors
    /// As the reference.
    pub fn add(&self, a: &[f32], b: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
        expect_len("b", b.len(), a.len(), 1)?;
        expect_len("the output", out.len(), a.len(), 1)?;
        self.crew.each_chunk(out, ADD_CHUNK, |i, out| {
            let from = i * ADD_CHUNK;
            rows::add(self.level, a.get(from..).unwrap_or(&[]), b.get(from..).unwrap_or(&[]), out);
        });
        Ok(())
    }

    /// See [`reference::attention`].
    ///
    /// # Errors
    /// As the reference.
    pub fn attention(
        &self,
        qkv: &[f32],
        lengths: &Lengths,
        width: usize,
        heads: usize,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        attention::attention(self, qkv, lengths, width, heads, out)
    }

    /// See [`reference::attention`]; both integer products are done by `products`, head by head.
    ///
    /// # Errors
    /// As the reference, and whatever `products` answers.
    pub fn attention_with(
        &self,
        qkv: &[f32],
        lengths: &Lengths,
        width: usize,
        heads: usize,
        products: &dyn AttentionProducts,
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        attention_products::attention_with(self, qkv, lengths, width, heads, products, out)
    }

    /// See [`reference::causal_attention`]. Each sequence goes on from its past, to which the rows of this call are
    /// appended: in pieces or in one, the bytes are those of the whole sequence. Without pasts every sequence is whole.
    ///
    /// # Errors
    /// As the reference; a number of pasts that is neither that of the sequences nor 0, a past of other heads, a
    /// sequence that would be too long. The pasts are unchanged then.
    #[allow(clippy::too_many_arguments, reason = "the operation has as many")]
    pub fn causal_attention(
        &self,
        qkv: &[f32],
        lengths: &Lengths,
        heads: usize,
        kv_heads: usize,
        width: usize,
        pasts: &mut [&mut Past],
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        let shape = Grouped::new(heads, kv_heads, width)?;
        if pasts.is_empty() {
            let past = || Past::new(kv_heads, width);
            let mut fresh = (0..lengths.sequences()).map(|_| past()).collect::<Result<Vec<_>, _>>()?;
            return causal::attention(self, qkv, lengths, shape, &mut fresh.iter_mut().collect::<Vec<_>>(), out);
        }
        causal::attention(self, qkv, lengths, shape, pasts, out)
    }

    /// See [`reference::mean_pool`].
    ///
    /// # Errors
    /// As the reference.
    pub fn mean_pool(&self, x: &[f32], lengths: &Lengths, width: usize, out: &mut [f32]) -> Result<(), ShapeError> {
        expect_len("x", x.len(), lengths.iter().sum(), width)?;
        expect_len("the output", out.len(), lengths.sequences(), width)?;
        if out.is_empty() {
            return Ok(());
        }
        let sequences = sequences(lengths, width);
        self.crew.each_chunk(out, width, |i, out| {
            let sequence = sequences.get(i).and_then(|range| x.get(range.clone())).unwrap_or(&[]);
            rows::mean_pool(self.level, sequence, width, out);
        });
        Ok(())
    }

    /// See [`reference::first_pool`].
    ///
    /// # Errors
    /// As the reference.
    pub fn first_pool(&self, x: &[f32], lengths: &Lengths, width: usize, out: &mut [f32]) -> Result<(), ShapeError> {
        expect_len("x", x.len(), lengths.iter().sum(), width)?;
        expect_len("the output", out.len(), lengths.sequences(), width)?;
        if out.is_empty() {
            return Ok(());
        }
        for (range, out) in sequences(lengths, width).into_iter().zip(out.chunks_exact_mut(width)) {
            rows::clean_all(self.level, x.get(range).unwrap_or(&[]), out);
        }
        Ok(())
    }

    /// See [`reference::last_rows`].
    ///
    /// # Errors
    /// As the reference.
    pub fn last_rows(
        &self,
        x: &[f32],
        lengths: &Lengths,
        wanted: &[usize],
        width: usize,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        expect_len("x", x.len(), lengths.iter().sum(), width)?;
        expect_len("the output", out.len(), lengths.wanted(wanted)?, width)?;
        let mut out = out;
        for (range, wanted) in sequences(lengths, width).into_iter().zip(wanted.iter().map(|wanted| wanted * width)) {
            let (rows, after) = out.split_at_mut(wanted);
            rows::clean_all(self.level, x.get(range.end - wanted..range.end).unwrap_or(&[]), rows);
            out = after;
        }
        Ok(())
    }

    /// See [`reference::l2_normalise`].
    ///
    /// # Errors
    /// As the reference.
    pub fn l2_normalise(&self, x: &[f32], rows: usize, width: usize, out: &mut [f32]) -> Result<(), ShapeError> {
        expect_len("x", x.len(), rows, width)?;
        expect_len("the output", out.len(), rows, width)?;
        expect_width(width)?;
        if x.is_empty() {
            return Ok(());
        }
        let chunk = ROW_CHUNK.div_ceil(width) * width;
        self.crew.each_chunk(out, chunk, |i, out| {
            rows::l2_normalise(self.level, x.get(i * chunk..).unwrap_or(&[]), width, out);
        });
        Ok(())
    }

    /// See [`reference::linear`]; the integer product is done by `product`, which must have been
    /// prepared from `layer`.
    ///
    /// # Errors
    /// As the reference, and whatever `product` answers.
    pub fn linear(
        &self,
        layer: &Linear,
        product: &dyn Product,
        x: &[f32],
        rows: usize,
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        expect_len("x", x.len(), rows, layer.inputs)?;
        expect_len("the output", out.len(), rows, layer.outputs)?;
        match product.as_cpu().filter(|cpu| cpu.fits(layer, self)) {
            Some(cpu) => cpu.linear(self, layer, x, rows, out),
            None => self.linear_elsewhere(layer, product, x, rows, out)?,
        }
        Ok(())
    }

    /// Code all rows, call `product` once, scale all sums. Rows are coded on the calling thread alone, and no other
    /// lingers: the product may want its core.
    fn linear_elsewhere(
        &self,
        layer: &Linear,
        product: &dyn Product,
        x: &[f32],
        rows: usize,
        out: &mut [f32],
    ) -> Result<(), ProductError> {
        self.dismiss();
        let prescale = layer.prescale.as_deref();
        let mut values = vec![0.0; layer.inputs];
        let coded_rows = x.chunks_exact(layer.inputs);
        match layer.activation {
            Activation::U8 => {
                let mut codes = self.scratch.codes_u8.take(x.len());
                let scales: Vec<QuantisedRow> = coded_rows
                    .zip(codes.chunks_exact_mut(layer.inputs))
                    .map(|(x, codes)| code_u8(self.level, x, prescale, &mut values, codes))
                    .collect();
                let mut totals = self.scratch.totals_u8.take(rows * layer.outputs);
                product.product_u8(&codes, rows, &mut totals)?;
                self.scale_rows(&totals, &scales, layer.outputs, out, |totals, row, out| {
                    scale_row_u8(self.level, totals, row, layer, out);
                });
            }
            Activation::U16 => {
                let mut codes = self.scratch.codes_u16.take(x.len());
                let scales: Vec<QuantisedRow> = coded_rows
                    .zip(codes.chunks_exact_mut(layer.inputs))
                    .map(|(x, codes)| code_u16(self.level, x, prescale, &mut values, codes))
                    .collect();
                let mut totals = self.scratch.totals_u16.take(rows * layer.outputs);
                product.product_u16(&codes, rows, &mut totals)?;
                self.scale_rows(&totals, &scales, layer.outputs, out, |totals, row, out| {
                    scale_row_u16(self.level, totals, row, layer, out);
                });
            }
        }
        Ok(())
    }

    /// Call `scale` with the totals of each row.
    fn scale_rows<T: Sync>(
        &self,
        totals: &[T],
        scales: &[QuantisedRow],
        width: usize,
        out: &mut [f32],
        scale: impl Fn(&[T], QuantisedRow, &mut [f32]) + Sync,
    ) {
        let rows = (4 * ROW_CHUNK).div_ceil(width);
        self.crew.each_chunk(out, rows * width, |i, out| {
            let totals = totals.chunks_exact(width).zip(scales).skip(i * rows);
            for (out, (totals, row)) in out.chunks_exact_mut(width).zip(totals) {
                scale(totals, *row, out);
            }
        });
    }
}

/// Where each sequence lies in a tensor of rows.
fn sequences(lengths: &Lengths, width: usize) -> Vec<Range<usize>> {
    let mut start = 0;
    let range = |length: usize| {
        let range = start..start + length * width;
        start = range.end;
        range
    };
    lengths.iter().map(range).collect()
}

/// Why there is no executor.
#[derive(Debug)]
pub enum ExecutorError {
    /// This machine lacks the instructions.
    NoSuchLevel(Level),
    /// Not a number of threads.
    Threads(usize),
    /// The operating system gave no threads.
    Pool(rayon::ThreadPoolBuildError),
}

impl fmt::Display for ExecutorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchLevel(level) => {
                let have: Vec<_> = Level::available().into_iter().map(Level::name).collect();
                write!(f, "this machine has no {level} instructions: choose among {}", have.join(", "))
            }
            Self::Threads(threads) => write!(f, "{threads} threads: choose 1 to {MAX_THREADS}"),
            Self::Pool(error) => write!(f, "the worker threads did not start: {error}"),
        }
    }
}

impl core::error::Error for ExecutorError {}

/// Why an operation whose product is done elsewhere has no answer.
#[derive(Debug)]
pub enum LinearError {
    /// Slices that do not fit the operation.
    Shape(ShapeError),
    /// The product has no answer.
    Product(ProductError),
}

impl fmt::Display for LinearError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::Product(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for LinearError {}

impl From<ShapeError> for LinearError {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

impl From<ProductError> for LinearError {
    fn from(error: ProductError) -> Self {
        match error {
            ProductError::Shape(shape) => Self::Shape(shape),
            other => Self::Product(other),
        }
    }
}
