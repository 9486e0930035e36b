//! The integer product on this machine's CPU, and the linear layer fused around it.
//!
//! # How
//!
//! 1. Weights are packed once, in panels of 16 columns (see [`tile`](super::tile)): as pairs of 8-bit
//!    numbers, or as quads where the machine has VNNI. A byte a weight is what few rows are bound by: for them memory
//!    is read once and nothing else counts.
//! 2. A piece of work is a chunk of rows by a group of panels. Its rows are coded into memory that the
//!    thread keeps; each panel is fetched once and meets all rows of the chunk while it is in cache;
//!    sums are scaled to floats as each tile ends.
//! 3. With many rows the pieces are row chunks, and each codes its own rows. With few rows they are groups
//!    of panels too, and the rows are coded once before.

use super::coding::{Coder, Columns, WideTile, ZERO_WIDE, scale_centred, scale_limbs, scale_narrow, scale_wide, widen};
use super::crew::{Crew, Shared};
use super::executor::Executor;
use super::level::Proven;
use super::limbs;
use super::place::Place;
use super::product::{Product, ProductError};
use super::scratch::grown;
use super::tile::{COLUMNS, NarrowPairs, Quads, Tile, ZERO_TILE, tile_rows};
use crate::field::Field;
use crate::layer::{Activation, Linear};
use crate::reference::{QuantisedRow, expect_len};
use core::ops::Range;
use std::sync::Arc;

/// Rows of a chunk: enough to fetch all weights for, and few enough that a thread on a slow core can be helped.
const CHUNK_ROWS: usize = 48;
/// Fewer rows than this are not worth fetching all weights for.
const LEAST_CHUNK_ROWS: usize = 24;
/// Most centred 16-bit codes whose sum fits 32 bits: `32768 * 127 * 516 < 2^31`.
const MOST_CENTRED: usize = 516;
/// After how many of them such sums are widened where there are more.
const CENTRED_CHUNK: usize = 512;
/// Below this many multiply-adds a second thread comes too late.
const LEAST_WORK: usize = 150_000;

/// The product on this machine's CPU.
pub struct CpuProduct {
    inputs: usize,
    outputs: usize,
    level: Proven,
    crew: Arc<Crew>,
    row_sum: Vec<i32>,
    weights: Weights,
}

enum Weights {
    Pairs(Packed<NarrowPairs>),
    Quads(Packed<Quads>),
}

impl CpuProduct {
    /// Pack the weights of `layer` for the level of `executor`.
    pub fn new(layer: &Linear, executor: &Executor) -> Self {
        let level = executor.proven();
        let weights = if Quads::suits(level) {
            Weights::Quads(Packed::new(layer, level))
        } else {
            Weights::Pairs(Packed::new(layer, level))
        };
        Self {
            inputs: layer.inputs,
            outputs: layer.outputs,
            level,
            crew: Arc::clone(executor.crew()),
            row_sum: layer.row_sum.clone(),
            weights,
        }
    }

    /// Bytes that the packed weights take.
    pub fn packed_bytes(&self) -> usize {
        match &self.weights {
            Weights::Pairs(packed) => size_of_val(packed.steps.as_slice()),
            Weights::Quads(packed) => size_of_val(packed.steps.as_slice()),
        }
    }

    /// Whether this was packed from weights of this shape for this executor's level.
    pub(super) fn fits(&self, layer: &Linear, executor: &Executor) -> bool {
        (self.inputs, self.outputs, self.level) == (layer.inputs, layer.outputs, executor.proven())
    }

    /// The whole linear layer; slices were checked against `layer`, which this was made from.
    pub(super) fn linear(&self, executor: &Executor, layer: &Linear, x: &[f32], rows: usize, out: &mut [f32]) {
        match &self.weights {
            Weights::Pairs(packed) => packed.linear(executor, layer, x, rows, out),
            Weights::Quads(packed) => packed.linear(executor, layer, x, rows, out),
        }
    }

    /// Products of rows of elements, modulo p, if this level multiplies them faster as limbs than as codes:
    /// whether it does. The results of a row begin at `start` in `out`, those of the next `stride` further on.
    pub(crate) fn multiply_elements<'a>(
        &self,
        field: Field,
        rows: impl Iterator<Item = &'a [u32]>,
        out: &mut [u32],
        start: usize,
        stride: usize,
    ) -> bool {
        let Weights::Quads(packed) = &self.weights else { return false };
        limbs::multiply(packed, field, rows, out, start, stride);
        true
    }

    fn check(&self, codes: usize, rows: usize, totals: usize) -> Result<(), ProductError> {
        expect_len("the codes", codes, rows, self.inputs)?;
        expect_len("the totals", totals, rows, self.outputs)?;
        Ok(())
    }
}

/// Without the fusion: for the self-test and for those that look at products or build on this one. Few rows are multiplied
/// on all threads, many on the calling thread: whoever has many has parts of them for other threads too.
impl Product for CpuProduct {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        self.check(codes.len(), rows, totals.len())?;
        match &self.weights {
            Weights::Pairs(packed) => packed.product_u8(&self.crew, codes, totals),
            Weights::Quads(packed) => packed.product_u8(&self.crew, codes, totals),
        }
        Ok(())
    }

    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        self.check(codes.len(), rows, totals.len())?;
        match &self.weights {
            Weights::Pairs(packed) => packed.product_u16(&self.crew, codes, &self.row_sum, totals),
            Weights::Quads(packed) => packed.product_u16(&self.crew, codes, &self.row_sum, totals),
        }
        Ok(())
    }

    fn as_cpu(&self) -> Option<&CpuProduct> {
        Some(self)
    }
}

/// Weights in panels.
pub(super) struct Packed<S> {
    pub(super) level: Proven,
    inputs: usize,
    pub(super) outputs: usize,
    /// Panel by panel, [`depth`](Self::depth) steps each.
    steps: Vec<S>,
}

/// Where a tile lies.
struct At {
    row: usize,
    rows: usize,
    panel: usize,
}

/// What a tile adds up to.
enum Sums<'a> {
    Narrow(&'a Tile),
    /// Of 16-bit codes as two limbs: high bytes and low bytes of each row.
    Limbs(&'a Tile),
    Wide(&'a WideTile),
}

impl<S: Coder> Packed<S> {
    fn new(layer: &Linear, level: Proven) -> Self {
        let depth = layer.inputs.div_ceil(S::WIDTH);
        let mut steps = vec![S::ZERO; depth * layer.outputs.div_ceil(COLUMNS)];
        let columns = layer.weight.as_slice().chunks_exact(layer.inputs).enumerate();
        for (n, weights) in columns {
            let panel = steps.iter_mut().skip(n / COLUMNS * depth);
            for (step, weights) in panel.zip(weights.chunks(S::WIDTH)) {
                for (k, &weight) in weights.iter().enumerate() {
                    step.set(n % COLUMNS * S::WIDTH + k, weight);
                }
            }
        }
        Self { level, inputs: layer.inputs, outputs: layer.outputs, steps }
    }

    fn depth(&self) -> usize {
        self.inputs.div_ceil(S::WIDTH)
    }

    /// Codes of a row, filled up to whole steps.
    pub(super) fn stride(&self) -> usize {
        self.depth() * S::WIDTH
    }

    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(COLUMNS)
    }

    /// The steps of a panel.
    pub(super) fn panel(&self, panel: usize) -> &[S] {
        let depth = self.depth();
        self.steps.get(panel * depth..(panel + 1) * depth).unwrap_or(&[])
    }

    /// Call `sink` with the sums of every tile of the coded `rows` and the `panels`.
    fn each_tile(
        &self,
        codes: &[S::Code],
        rows: usize,
        activation: Activation,
        panels: Range<usize>,
        mut sink: impl FnMut(At, Sums<'_>),
    ) {
        if rows == 0 {
            return;
        }
        let stride = self.stride();
        let limbs = S::limbs(activation);
        // As even as possible: a last tile of one row would waste the weights it loads.
        let tiles = rows.div_ceil(tile_rows(self.level) / limbs);
        let mut sums = ZERO_TILE;
        for panel in panels {
            let steps = self.panel(panel);
            for tile in 0..tiles {
                let (row, end) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                let at = At { row, rows: end - row, panel };
                let codes = codes.get(row * limbs * stride..).unwrap_or(&[]);
                match activation {
                    Activation::U8 => {
                        S::tile(self.level, codes, stride, at.rows, steps, &mut sums);
                        sink(at, Sums::Narrow(&sums));
                    }
                    Activation::U16 if limbs == 2 => {
                        S::tile(self.level, codes, stride, at.rows * limbs, steps, &mut sums);
                        sink(at, Sums::Limbs(&sums));
                    }
                    Activation::U16 if stride <= MOST_CENTRED => {
                        S::tile(self.level, codes, stride, at.rows, steps, &mut sums);
                        sink(at, Sums::Narrow(&sums));
                    }
                    Activation::U16 => {
                        let mut wide = ZERO_WIDE;
                        let chunk = CENTRED_CHUNK / S::WIDTH;
                        for (i, steps) in steps.chunks(chunk).enumerate() {
                            let codes = codes.get(i * chunk * S::WIDTH..).unwrap_or(&[]);
                            S::tile(self.level, codes, stride, at.rows, steps, &mut sums);
                            widen(self.level, &sums, at.rows, &mut wide);
                        }
                        sink(at, Sums::Wide(&wide));
                    }
                }
            }
        }
    }

    fn product_u8(&self, crew: &Crew, codes: &[u8], totals: &mut [i32]) {
        let mut coded = Vec::with_capacity(codes.len().div_ceil(self.inputs) * self.stride());
        let mut rows = 0;
        for row in codes.chunks_exact(self.inputs) {
            rows += 1;
            coded.extend(row.iter().map(|&code| S::from_u8(code)));
            coded.resize(rows * self.stride(), S::Code::default());
        }
        let totals = Shared::new(totals);
        self.each_group(crew, rows, |panels| {
            self.each_tile(&coded, rows, Activation::U8, panels, |at, sums| {
                if let Sums::Narrow(sums) = sums {
                    self.write(&totals, &at, |r, c| sums.get(r).and_then(|s| s.get(c)).copied());
                }
            });
        });
    }

    fn product_u16(&self, crew: &Crew, codes: &[u16], row_sum: &[i32], totals: &mut [i64]) {
        let limbs = S::limbs(Activation::U16);
        let stride = self.stride();
        let mut coded = Vec::with_capacity(codes.len().div_ceil(self.inputs) * limbs * stride);
        let mut rows = 0;
        for row in codes.chunks_exact(self.inputs) {
            rows += 1;
            for limb in 0..limbs {
                coded.extend(row.iter().map(|&code| S::from_u16(code, limb)));
                coded.resize(coded.len().next_multiple_of(stride), S::Code::default());
            }
        }
        let totals = Shared::new(totals);
        self.each_group(crew, rows, |panels| {
            self.each_tile(&coded, rows, Activation::U16, panels, |at, sums| {
                let centre =
                    |c: usize| row_sum.get(at.panel * COLUMNS + c).map(|&w| i64::from(S::CENTRE) * i64::from(w));
                let sum = |r: usize, c: usize| match sums {
                    Sums::Narrow(sums) => sums.get(r)?.get(c).map(|&s| i64::from(s)),
                    Sums::Limbs(sums) => {
                        let limb = |limb: usize| sums.get(2 * r + limb)?.get(c).map(|&s| i64::from(s));
                        Some(256 * limb(0)? + limb(1)?)
                    }
                    Sums::Wide(sums) => sums.get(r)?.get(c).map(|&s| s as i64),
                };
                self.write(&totals, &at, |r, c| Some(sum(r, c)? + centre(c)?));
            });
        });
    }

    /// Call `work` for groups of panels: on all threads where there are few rows.
    fn each_group(&self, crew: &Crew, rows: usize, work: impl Fn(Range<usize>) + Sync) {
        let size = rows.saturating_mul(self.inputs).saturating_mul(self.outputs);
        let shared = rows < LEAST_CHUNK_ROWS && size >= LEAST_WORK;
        let groups = if shared { (crew.threads() * 3).min(self.panels()) } else { 1 };
        crew.each(groups, &|i| work(i * self.panels() / groups..(i + 1) * self.panels() / groups));
    }

    fn write<T>(&self, totals: &Shared<'_, T>, at: &At, sum: impl Fn(usize, usize) -> Option<T>) {
        let (from, to) = (at.panel * COLUMNS, ((at.panel + 1) * COLUMNS).min(self.outputs));
        for r in 0..at.rows {
            let start = (at.row + r) * self.outputs;
            // SAFETY: groups differ in their panels, and each writes each of its tiles once.
            #[allow(unsafe_code)]
            let out = unsafe { totals.range(start + from, start + to) };
            for (c, out) in out.iter_mut().enumerate() {
                if let Some(sum) = sum(r, c) {
                    *out = sum;
                }
            }
        }
    }

    fn linear(&self, executor: &Executor, layer: &Linear, x: &[f32], rows: usize, out: &mut [f32]) {
        let work = rows.saturating_mul(self.inputs).saturating_mul(self.outputs);
        let threads = if work < LEAST_WORK { 1 } else { executor.threads() };
        let out = Shared::new(out);
        let row_limbs = S::limbs(layer.activation) * self.stride();

        if threads == 1 || rows >= threads * LEAST_CHUNK_ROWS {
            let chunks = rows.div_ceil(CHUNK_ROWS).next_multiple_of(threads);
            executor.crew().each(chunks, &|i| {
                let (start, end) = (i * rows / chunks, (i + 1) * rows / chunks);
                S::scratch().with_borrow_mut(|codes| {
                    let scales = self.code(layer, x, start..end, grown(codes, (end - start) * row_limbs));
                    self.piece(layer, codes, &scales, start, 0..self.panels(), &out);
                });
            });
            return;
        }

        let mut codes = S::scratch().take();
        let scales = self.code(layer, x, 0..rows, grown(&mut codes, rows * row_limbs));
        let chunks = rows.div_ceil(CHUNK_ROWS);
        let groups = (threads * 3).div_ceil(chunks.max(1)).min(self.panels());
        executor.crew().each(chunks * groups, &|i| {
            let (chunk, group) = (i / groups, i % groups);
            let (start, end) = (chunk * rows / chunks, (chunk + 1) * rows / chunks);
            let panels = group * self.panels() / groups..(group + 1) * self.panels() / groups;
            let codes = codes.get(start * row_limbs..).unwrap_or(&[]);
            self.piece(layer, codes, scales.get(start..end).unwrap_or(&[]), start, panels, &out);
        });
        S::scratch().replace(codes);
    }

    /// Code some rows, one after another.
    fn code(&self, layer: &Linear, x: &[f32], rows: Range<usize>, codes: &mut [S::Code]) -> Vec<QuantisedRow> {
        let mut values = vec![0.0; self.inputs];
        let x = x.get(rows.start * self.inputs..rows.end * self.inputs).unwrap_or(&[]);
        x.chunks_exact(self.inputs)
            .zip(codes.chunks_exact_mut(S::limbs(layer.activation) * self.stride()))
            .map(|(x, codes)| S::code(self.level, layer, x, &mut values, codes))
            .collect()
    }

    /// The results of some coded rows, of which the first is row `first`, and some panels.
    fn piece(
        &self,
        layer: &Linear,
        codes: &[S::Code],
        scales: &[QuantisedRow],
        first: usize,
        panels: Range<usize>,
        out: &Shared<'_, f32>,
    ) {
        let mut columns = Columns::new(layer, panels.start);
        let mut panel = panels.start;
        self.each_tile(codes, scales.len(), layer.activation, panels, |at, sums| {
            if at.panel != panel {
                panel = at.panel;
                columns = Columns::new(layer, panel);
            }
            let scales = scales.get(at.row..at.row + at.rows).unwrap_or(&[]);
            let (from, to) = (panel * COLUMNS, ((panel + 1) * COLUMNS).min(self.outputs));
            let start = (first + at.row) * self.outputs + from;
            // SAFETY: pieces differ in their rows or in their panels, and this one writes each of its rows and panels
            // once.
            #[allow(unsafe_code)]
            let mut place = unsafe { Place::new(out, start, to - from, self.outputs) };
            match sums {
                Sums::Narrow(sums) if layer.activation == Activation::U16 => {
                    scale_centred(self.level, sums, S::CENTRE, scales, &columns, &mut place);
                }
                Sums::Narrow(sums) => scale_narrow(self.level, sums, scales, &columns, &mut place),
                Sums::Limbs(sums) => scale_limbs(self.level, sums, scales, &columns, &mut place),
                Sums::Wide(sums) => scale_wide(self.level, sums, S::CENTRE, scales, &columns, &mut place),
            }
        });
    }
}
