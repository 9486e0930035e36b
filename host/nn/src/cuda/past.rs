//! Attention, and the keys and values of earlier rows, on a GPU.
//!
//! A past is four arrays with a row for each row of its sequence, with room to spare, so that a row is appended in place.
//! Clones share them; one that appends while another refers to them copies them first.

use super::gpu::{Gpu, blocks, grid, int, launch};
use crate::NnError;
use crate::device::{Attending, DevicePast};
use cudarc::driver::{CudaSlice, DeviceRepr};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Rows that are made room for at a time.
const ROOM: usize = 256;
/// Queries of a block of threads, unless every sequence has one row.
const QUERIES: usize = 4;
/// Threads of the kernels.
const THREADS: u32 = 128;

/// Coded keys and values, [rows][heads][columns], and their scales, [rows][heads].
struct Held {
    keys: CudaSlice<i16>,
    key_scales: CudaSlice<f32>,
    values: CudaSlice<i16>,
    value_scales: CudaSlice<f32>,
}

/// Those of one sequence.
#[derive(Clone)]
pub(super) struct CudaPast {
    gpu: Arc<Gpu>,
    kv_heads: usize,
    width: usize,
    rows: usize,
    /// Rows for which there is room.
    room: usize,
    held: Option<Arc<Held>>,
}

/// Where the kernels find a sequence: `Sequence` of `attention.cuh`.
#[derive(Clone, Copy)]
struct Place {
    arrays: [u64; 4],
    start: usize,
    rows: usize,
    before: usize,
}

impl Held {
    fn new(gpu: &Gpu, rows: usize, kv_heads: usize, width: usize) -> Result<Self, NnError> {
        let scales = rows.saturating_mul(kv_heads);
        Ok(Self {
            keys: gpu.room(scales.saturating_mul(width))?,
            key_scales: gpu.room(scales)?,
            values: gpu.room(scales.saturating_mul(width))?,
            value_scales: gpu.room(scales)?,
        })
    }

    /// The four arrays from this row on.
    fn arrays(&self, gpu: &Gpu, row: usize, kv_heads: usize, width: usize) -> [u64; 4] {
        let scales = row as u64 * kv_heads as u64;
        let codes = scales * width as u64;
        [
            gpu.address(&self.keys) + codes * 2,
            gpu.address(&self.key_scales) + scales * 4,
            gpu.address(&self.values) + codes * 2,
            gpu.address(&self.value_scales) + scales * 4,
        ]
    }

    /// Copy the first rows of another one.
    fn copy(&mut self, gpu: &Gpu, from: &Self, rows: usize, kv_heads: usize, width: usize) -> Result<(), NnError> {
        let scales = rows * kv_heads;
        copy(gpu, &from.keys, &mut self.keys, scales * width)?;
        copy(gpu, &from.key_scales, &mut self.key_scales, scales)?;
        copy(gpu, &from.values, &mut self.values, scales * width)?;
        copy(gpu, &from.value_scales, &mut self.value_scales, scales)
    }
}

fn copy<T: DeviceRepr>(gpu: &Gpu, from: &CudaSlice<T>, to: &mut CudaSlice<T>, count: usize) -> Result<(), NnError> {
    if count == 0 {
        return Ok(());
    }
    match (from.try_slice(..count), to.try_slice_mut(..count)) {
        (Some(from), Some(mut to)) => {
            gpu.stream.memcpy_dtod(&from, &mut to).map_err(|error| gpu.failed("a copy on it", error))
        }
        _ => Err(NnError::Runtime("a past has fewer rows than it says".to_owned())),
    }
}

impl CudaPast {
    pub(super) fn new(gpu: &Arc<Gpu>, kv_heads: usize, width: usize) -> Self {
        Self { gpu: Arc::clone(gpu), kv_heads, width, rows: 0, room: 0, held: None }
    }

    /// Append so many rows, which a kernel is about to write: where the arrays are.
    fn grow(&mut self, rows: usize) -> Result<[u64; 4], NnError> {
        let after = self.rows.saturating_add(rows);
        let own = self.held.as_mut().is_some_and(|held| Arc::get_mut(held).is_some());
        if !own || after > self.room {
            let room = after.next_multiple_of(ROOM);
            let mut held = Held::new(&self.gpu, room, self.kv_heads, self.width)?;
            if let Some(old) = &self.held {
                held.copy(&self.gpu, old, self.rows, self.kv_heads, self.width)?;
            }
            self.held = Some(Arc::new(held));
            self.room = room;
        }
        self.rows = after;
        let arrays = self.held.as_ref().map(|held| held.arrays(&self.gpu, 0, self.kv_heads, self.width));
        arrays.ok_or_else(|| NnError::Runtime("a past has no memory".to_owned()))
    }
}

impl DevicePast for CudaPast {
    fn rows(&self) -> usize {
        self.rows
    }

    fn bytes_of(&self, rows: usize) -> usize {
        let row = self.kv_heads.saturating_mul(4 * self.width + 8);
        rows.checked_next_multiple_of(ROOM).unwrap_or(usize::MAX).saturating_mul(row)
    }

    fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        if self.rows == 0 {
            (self.held, self.room) = (None, 0);
        }
    }

    fn heads(&self) -> (usize, usize) {
        (self.kv_heads, self.width)
    }

    fn boxed(&self) -> Box<dyn DevicePast> {
        Box::new(self.clone())
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl fmt::Debug for CudaPast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows of {} heads of {} columns on a GPU", self.rows, self.kv_heads, self.width)
    }
}

/// Attention inside each sequence, `qkv` [rows, (heads + 2 * kv_heads) * width] to [rows, heads * width].
pub(super) fn attend(
    gpu: &Arc<Gpu>,
    qkv: &CudaSlice<f32>,
    how: Attending<'_>,
    pasts: &mut [&mut dyn DevicePast],
) -> Result<CudaSlice<f32>, NnError> {
    let Attending { lengths, heads, kv_heads, width, causal } = how;
    let rows: usize = lengths.iter().sum();
    // Of sequences without a past, for this call alone.
    let fresh = if pasts.is_empty() { Some(Held::new(gpu, rows, kv_heads, width)?) } else { None };
    let mut pasts = pasts.iter_mut();
    let mut places = Vec::with_capacity(lengths.sequences());
    let mut start = 0;
    for length in lengths.iter() {
        let place = match &fresh {
            Some(held) => Place { arrays: held.arrays(gpu, start, kv_heads, width), start, rows: length, before: 0 },
            None => {
                let past = pasts.next().and_then(|past| past.as_any_mut().downcast_mut::<CudaPast>());
                let past = past.filter(|past| Arc::ptr_eq(&past.gpu, gpu));
                let past = past.ok_or_else(|| NnError::Runtime("a past that is not on this GPU".to_owned()))?;
                let before = past.rows;
                Place { arrays: past.grow(length)?, start, rows: length, before }
            }
        };
        places.push(place);
        start += length;
    }

    let queries_a_block = if places.iter().all(|place| place.rows == 1) { 1 } else { QUERIES };
    let mut table: Vec<u64> = Vec::new();
    for place in &places {
        table.extend(place.arrays);
        table.extend([place.start, place.rows, place.before].map(|n| n as u64));
    }
    let owners = table.len() as u64 * 8;
    let each = places.iter().enumerate();
    table.extend(each.clone().flat_map(|(i, place)| std::iter::repeat_n(i as u64, place.rows)));
    let tiles = table.len() as u64 * 8;
    let mut blocks_of_queries = 0;
    for (i, place) in each {
        for first in (0..place.rows).step_by(queries_a_block) {
            table.extend([i as u64, first as u64]);
            blocks_of_queries += 1;
        }
    }
    let table = gpu.bring(&table)?;
    let at = gpu.address(&table);
    let (owners, tiles) = (at + owners, at + tiles);

    let mut queries = gpu.room::<i16>(rows.saturating_mul(heads).saturating_mul(width))?;
    let mut query_scales = gpu.room::<f32>(rows.saturating_mul(heads))?;
    let (int_heads, int_kv_heads, int_width) = (int(heads)?, int(kv_heads)?, int(width)?);
    let coded = rows.saturating_mul(heads + 2 * kv_heads);
    let count = rows as i64;
    launch!(
        gpu,
        "code_heads",
        blocks(coded.div_ceil(THREADS as usize), THREADS)?,
        qkv,
        &table,
        &owners,
        &count,
        &int_heads,
        &int_kv_heads,
        &int_width,
        &mut queries,
        &mut query_scales
    );
    let mut y = gpu.room::<f32>(rows.saturating_mul(heads).saturating_mul(width))?;
    let inverse_root = 1.0 / (width as f32).sqrt();
    launch!(
        gpu,
        if queries_a_block == 1 { "attend_1" } else { "attend_4" },
        grid(blocks_of_queries, heads, THREADS)?,
        &table,
        &tiles,
        &queries,
        &query_scales,
        &int_heads,
        &int_kv_heads,
        &int_width,
        &inverse_root,
        &i32::from(causal),
        &mut y
    );
    Ok(y)
}
