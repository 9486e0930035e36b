//! What a call goes on from: keys and values of a sequence's earlier rows, held by the host between calls.
//!
//! # Why
//!
//! A text is generated row by row, and each row attends to all rows before it. A block sees whole sequences and keeps
//! nothing, so the host keeps for it what causal attention has made of the rows of earlier calls. Those were computed
//! exactly, so a row gives the same bytes as if all had come in one call, and a block cannot carry anything from one
//! sequence to another.
//!
//! # How
//!
//! 1. Whoever calls a block hands over a [`SequencePast`] for each sequence of the batch, empty at first. They are bound
//!    to that one call ([`BoundPast::bind`]): charged to the caller, and the call's lengths with them.
//! 2. The n-th causal attention of the call uses the n-th past of each sequence, made at the first use, and appends its
//!    rows. It is refused unless its lengths are those of the call and the past has exactly the rows before.
//! 3. [`BoundPast::finish`] gives them back, if every past of every sequence has the rows of the call. After anything
//!    else they are dropped.
//! 4. Without a bound past there is nothing before, and what attention makes is dropped at once.

use crate::device::{Attending, Device, DevicePast};
use crate::operations::{Matrix, wrong_type};
use crate::{Charge, Host, Meter, NnError, OperationKind, Resource, Tensor, TensorType};
use ostrakon_exact::Lengths;
use ostrakon_exact::layer::{MAX_HEAD_WIDTH, MAX_HEADS};
use ostrakon_exact::reference::MAX_CONTEXT;
use ostrakon_exact::simd::Past;

/// Bytes that a past without rows counts.
const EMPTY: usize = 256;

/// What earlier calls left of one sequence in one block: a past for each causal attention in it. A clone shares its
/// memory until one of both grows.
#[derive(Debug, Clone, Default)]
pub struct SequencePast(Vec<Kept>);

/// The past of one causal attention, where it was computed.
#[derive(Debug)]
enum Kept {
    Here(Past),
    OnDevice(Box<dyn DevicePast>),
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        match self {
            Self::Here(past) => Self::Here(past.clone()),
            Self::OnDevice(past) => Self::OnDevice(past.boxed()),
        }
    }
}

impl Kept {
    /// Of no rows, where `device` says.
    fn new(device: Option<&dyn Device>, heads: Heads) -> Result<Self, NnError> {
        Ok(match device {
            Some(device) => Self::OnDevice(device.past(heads.kv_heads, heads.width)),
            None => Self::Here(Past::new(heads.kv_heads, heads.width)?),
        })
    }

    fn rows(&self) -> usize {
        match self {
            Self::Here(past) => past.rows(),
            Self::OnDevice(past) => past.rows(),
        }
    }

    fn bytes(&self) -> usize {
        self.bytes_of(self.rows())
    }

    fn bytes_of(&self, rows: usize) -> usize {
        match self {
            Self::Here(past) => past.bytes_of(rows),
            Self::OnDevice(past) => past.bytes_of(rows),
        }
    }

    fn truncate(&mut self, rows: usize) {
        match self {
            Self::Here(past) => past.truncate(rows),
            Self::OnDevice(past) => past.truncate(rows),
        }
    }

    /// Heads of keys and values, and columns of a head.
    fn heads(&self) -> (usize, usize) {
        match self {
            Self::Here(past) => (past.kv_heads(), past.width()),
            Self::OnDevice(past) => past.heads(),
        }
    }
}

impl SequencePast {
    /// How many rows of the sequence are held. A block without causal attention holds none.
    pub fn rows(&self) -> usize {
        self.0.first().map_or(0, Kept::rows)
    }

    /// The memory it takes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Kept::bytes).sum()
    }

    /// The memory it would take with that many rows.
    pub fn bytes_of(&self, rows: usize) -> usize {
        self.0.iter().map(|past| past.bytes_of(rows)).fold(0, usize::saturating_add)
    }

    /// Forget all rows from this one on.
    pub fn truncate(&mut self, rows: usize) {
        self.0.iter_mut().for_each(|past| past.truncate(rows));
    }
}

/// Pasts bound to one call.
#[derive(Debug)]
pub struct BoundPast {
    sequences: Vec<SequencePast>,
    stretches: Vec<Stretch>,
    /// Causal attentions of the call so far.
    operations: usize,
    /// An operation failed on the way: some rows may be there and others not.
    broken: bool,
    /// The caller holds all of it as long as the call lasts.
    charges: Vec<Charge>,
    meter: Meter,
}

/// The rows of a sequence in one call, and before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    rows: usize,
    before: usize,
    /// Of how many of its last rows the output is wanted.
    pub(crate) wanted: usize,
}

/// Heads of one causal attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    /// Columns of a head.
    width: usize,
}

impl BoundPast {
    /// Bind what earlier calls left of each sequence to a call with these lengths, charging it to the caller.
    ///
    /// # Errors
    /// Lengths that are not I32 [B], [B, 2] or [B, 3] with B pasts, or name other rows before than a past has;
    /// [`NnError::TooLarge`] when the caller's quota does not leave the bytes.
    pub fn bind(meter: &Meter, sequences: Vec<SequencePast>, lengths: &Tensor) -> Result<Self, NnError> {
        let stretches = stretches(lengths)?;
        if stretches.len() != sequences.len() {
            return Err(NnError::InvalidArgument(format!(
                "the lengths are those of {} sequences, but {} pasts were given",
                stretches.len(),
                sequences.len()
            )));
        }
        for (i, (sequence, stretch)) in sequences.iter().zip(&stretches).enumerate() {
            if let Some(past) = sequence.0.iter().find(|past| past.rows() != stretch.before) {
                return Err(held_otherwise(i, stretch.before, past.rows()));
            }
        }
        let pasts = sequences.iter().flat_map(|sequence| &sequence.0);
        let held = pasts.fold(0, |sum: usize, past| sum.saturating_add(EMPTY).saturating_add(past.bytes()));
        let charges = vec![meter.charge(Resource::Bytes, held as u64)?];
        Ok(Self { sequences, stretches, operations: 0, broken: false, charges, meter: meter.clone() })
    }

    /// The pasts, with the rows of the call.
    ///
    /// # Errors
    /// The block did not attend as often as in earlier calls, or an operation failed on the way.
    pub fn finish(self) -> Result<Vec<SequencePast>, NnError> {
        if self.broken {
            return Err(NnError::InvalidArgument(
                "an attention failed, so its keys and values are not whole".to_owned(),
            ));
        }
        match self.sequences.iter().find(|sequence| sequence.0.len() != self.operations) {
            None => Ok(self.sequences),
            Some(sequence) => Err(NnError::InvalidArgument(format!(
                "the block attended {} times in this call and {} times before: it must do the same in every call",
                self.operations,
                sequence.0.len()
            ))),
        }
    }

    /// The pasts that the next operation goes on from, one for each sequence, charged with the rows it will add.
    fn next(
        &mut self,
        device: Option<&dyn Device>,
        stretches: &[Stretch],
        heads: Heads,
    ) -> Result<Vec<&mut Kept>, NnError> {
        if stretches != self.stretches {
            return Err(NnError::InvalidArgument(
                "`lengths` are not those of the call: give the operation the lengths that the block was given"
                    .to_owned(),
            ));
        }
        let at = self.operations;
        let fresh = Kept::new(device, heads)?;
        let mut added = 0usize;
        for (i, (sequence, stretch)) in self.sequences.iter().zip(stretches).enumerate() {
            let past = sequence.0.get(at);
            match past {
                Some(past) if past.heads() != (heads.kv_heads, heads.width) => {
                    return Err(NnError::InvalidArgument(format!(
                        "the rows before those of sequence {i} have {} heads of {} columns as keys and values, not {} of {}",
                        past.heads().0,
                        past.heads().1,
                        heads.kv_heads,
                        heads.width
                    )));
                }
                Some(_) => {}
                None if stretch.before > 0 => return Err(held_otherwise(i, stretch.before, 0)),
                None => added = added.saturating_add(EMPTY),
            }
            let past = past.unwrap_or(&fresh);
            let grown = past.bytes_of(stretch.before.saturating_add(stretch.rows));
            added = added.saturating_add(grown.saturating_sub(past.bytes()));
        }
        self.charges.push(self.meter.charge(Resource::Bytes, added as u64)?);
        let mut pasts = Vec::with_capacity(self.sequences.len());
        for sequence in &mut self.sequences {
            if sequence.0.len() == at {
                sequence.0.push(fresh.clone());
            }
            pasts.extend(sequence.0.get_mut(at));
        }
        self.operations = at.saturating_add(1);
        Ok(pasts)
    }
}

impl Host {
    /// Multi-head attention inside each sequence, every row seeing itself and the rows before it.
    ///
    /// An observer is told what went in; where rows of earlier calls are before those of `lengths`, that does not
    /// describe the operation in full.
    ///
    /// # Errors
    /// `qkv` that is not FP32 [T, (heads + 2 * kv_heads) * d] with `heads` a multiple of `kv_heads` and d from 1 to 128;
    /// `lengths` that are not I32 [B], [B, 2] or [B, 3], each at least 1, with the sum T, a sequence over [`MAX_CONTEXT`]; rows
    /// before that are not those of `past`; the caller's quota.
    pub fn causal_attention(
        &self,
        meter: &Meter,
        past: Option<&mut BoundPast>,
        qkv: &Tensor,
        lengths: &Tensor,
        heads: u32,
        kv_heads: u32,
    ) -> Result<Tensor, NnError> {
        let matrix = Matrix::new("qkv", qkv)?;
        let shape = Heads::of(matrix.width, heads, kv_heads)?;
        let stretches = stretches(lengths)?;
        let sequences = rows_of(&stretches, &matrix)?;
        let mut fresh;
        let bound = match past {
            Some(bound) => bound,
            None => {
                let none = stretches.iter().map(|_| SequencePast::default()).collect();
                fresh = BoundPast::bind(meter, none, lengths)?;
                &mut fresh
            }
        };
        let device = self.backend().device().filter(|_| matrix.rows > 0);
        let pasts = bound.next(device, &stretches, shape)?;
        let y = self.attend(meter, &matrix, &sequences, shape, pasts);
        bound.broken |= y.is_err();
        let kind = || OperationKind::CausalAttention { heads, kv_heads };
        self.done(kind, &[("qkv", qkv), ("lengths", lengths)], y?)
    }

    fn attend(
        &self,
        meter: &Meter,
        qkv: &Matrix<'_>,
        lengths: &Lengths,
        shape: Heads,
        pasts: Vec<&mut Kept>,
    ) -> Result<Tensor, NnError> {
        let Heads { heads, kv_heads, width } = shape;
        let (mut here, mut on_device): (Vec<&mut Past>, Vec<&mut dyn DevicePast>) = Default::default();
        for past in pasts {
            match past {
                Kept::Here(past) => here.push(past),
                Kept::OnDevice(past) => on_device.push(past.as_mut()),
            }
        }
        let of_another = if self.backend().device().is_some() { here.len() } else { on_device.len() };
        if of_another > 0 && qkv.rows > 0 {
            return Err(NnError::InvalidArgument(
                "the rows before were computed by another backend: start the sequence anew".to_owned(),
            ));
        }
        let columns = u32::try_from(heads * width).map_err(|_| NnError::Unknown("too many columns".to_owned()))?;
        self.result(
            meter,
            vec![qkv.rows, columns],
            |device| {
                device.attention(
                    qkv.tensor,
                    Attending { lengths, heads, kv_heads, width, causal: true },
                    &mut on_device,
                )
            },
            |y| Ok(self.executor.causal_attention(qkv.values()?, lengths, heads, kv_heads, width, &mut here, y)?),
        )
    }
}

impl Heads {
    fn of(columns: u32, heads: u32, kv_heads: u32) -> Result<Self, NnError> {
        let all = kv_heads.checked_mul(2).and_then(|kv| kv.checked_add(heads));
        let width = all.and_then(|all| columns.checked_div(all).filter(|width| width * all == columns));
        let shared = kv_heads > 0 && heads.is_multiple_of(kv_heads) && (1..=MAX_HEADS).contains(&(heads as usize));
        match width.map(|width| width as usize) {
            Some(width) if shared && (1..=MAX_HEAD_WIDTH).contains(&width) => {
                Ok(Self { heads: heads as usize, kv_heads: kv_heads as usize, width })
            }
            _ => Err(NnError::InvalidArgument(format!(
                "{heads} heads of queries and {kv_heads} of keys and of values cannot share {columns} columns: equal \
                 heads of 1 to {MAX_HEAD_WIDTH} columns, at most {MAX_HEADS} of queries, a multiple of those of keys"
            ))),
        }
    }
}

fn held_otherwise(sequence: usize, before: usize, held: usize) -> NnError {
    NnError::InvalidArgument(format!(
        "`lengths` say that {before} rows were before those of sequence {sequence}, but the host holds {held} of this block"
    ))
}

/// The rows of each, if together they are those of `x`.
pub(crate) fn rows_of(stretches: &[Stretch], x: &Matrix<'_>) -> Result<Lengths, NnError> {
    // They were i32 in the lengths.
    let rows: Vec<i32> = stretches.iter().map(|stretch| stretch.rows as i32).collect();
    Ok(Lengths::new(&rows, x.rows as usize)?)
}

/// The sequences of a call, from its lengths.
pub(crate) fn stretches(lengths: &Tensor) -> Result<Vec<Stretch>, NnError> {
    let values = lengths.as_i32().map_err(|_| wrong_type("lengths", lengths, TensorType::I32))?;
    let each = match lengths.dims() {
        [_] => 1,
        [_, 2] => 2,
        [_, 3] => 3,
        other => {
            return Err(NnError::InvalidArgument(format!(
                "`lengths` has the shape {other:?}: [sequences], or [sequences, 2 or 3], is needed"
            )));
        }
    };
    let stretch = |(i, values): (usize, &[i32])| {
        let [rows, before] = [values.first(), values.get(1)].map(|value| value.copied().unwrap_or(0));
        let rows = usize::try_from(rows).ok().filter(|&rows| rows > 0);
        let rows = rows.ok_or_else(|| {
            let length = values.first().copied().unwrap_or(0);
            NnError::InvalidArgument(format!("length {i} is {length}: every sequence has at least one row"))
        })?;
        let before = usize::try_from(before).ok().filter(|before| before.saturating_add(rows) <= MAX_CONTEXT);
        let before = before.ok_or_else(|| {
            NnError::InvalidArgument(format!(
                "sequence {i} has {rows} rows and {} before them: not below 0 and at most {MAX_CONTEXT} in all",
                values.get(1).copied().unwrap_or(0)
            ))
        })?;
        let wanted = values.get(2).map_or(Some(rows), |&wanted| usize::try_from(wanted).ok());
        let wanted = wanted.filter(|&wanted| wanted <= rows).ok_or_else(|| {
            NnError::InvalidArgument(format!(
                "the last {} of {rows} rows of sequence {i} are wanted: none to all can be",
                values.get(2).copied().unwrap_or(0)
            ))
        })?;
        Ok(Stretch { rows, before, wanted })
    };
    values.chunks_exact(each).enumerate().map(stretch).collect()
}
