//! The two secret vectors of a check, and what weights make of them.

use super::kernel::{ROWS, Range, rows, values_left};
use super::limbs::{self, Limbs};
use super::{ELEMENT_BITS, LEAST_REACH};
use crate::layer::Linear;
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::Executor;
use crate::simd::instantiate::instantiate;
use core::fmt;

instantiate! {
    /// `v = W^T r` for both vectors r; v is zero before.
    fn project_weights(rows: &[i8], r: [&[u32]; 2], v: &mut [Vec<i64>; 2]) = project_body;
    /// Likewise of 16-bit numbers.
    fn project_keys(rows: &[i16], r: [&[u32]; 2], v: &mut [Vec<i64>; 2]) = project_body;
}

#[inline(always)]
fn project_body<T: Copy + Into<i64>>(all: &[T], [first, second]: [&[u32]; 2], [v, w]: &mut [Vec<i64>; 2]) {
    for (at, (r, s)) in first.chunks(ROWS).zip(second.chunks(ROWS)).enumerate() {
        let [a, b, c, d] = rows(all, at * ROWS, v.len());
        // Rows that are missing count nothing.
        let mut elements = [[0i64; 2]; ROWS];
        elements.iter_mut().zip(r.iter().zip(s)).for_each(|(pair, (&r, &s))| *pair = [r.into(), s.into()]);
        for (((((&a, &b), &c), &d), v), w) in a.iter().zip(b).zip(c).zip(d).zip(&mut *v).zip(&mut *w) {
            for (x, [r, s]) in [a, b, c, d].into_iter().zip(elements) {
                *v += x.into() * i64::from(r as i32);
                *w += x.into() * i64::from(s as i32);
            }
        }
    }
}

/// Two vectors of random numbers, one element for each column of a product.
///
/// It must stay secret for as long as it is used: who knows it can make wrong products that pass. Nothing
/// prints it.
pub struct Challenge([Vec<u32>; 2]);

impl Challenge {
    /// Two vectors of `len` elements, uniform if `fill` fills buffers with uniform bytes. It is asked for four
    /// bytes an element.
    pub fn random(len: usize, mut fill: impl FnMut(&mut [u8])) -> Self {
        let mut vector = || {
            let mut elements = Vec::with_capacity(len);
            let mut bytes = [0u8; 1024];
            while elements.len() < len {
                let wanted = bytes.len().min(4 * (len - elements.len()));
                let bytes = bytes.get_mut(..wanted).unwrap_or(&mut []);
                fill(bytes);
                let words = bytes.as_chunks::<4>().0;
                elements.extend(words.iter().map(|&word| u32::from_le_bytes(word) >> (32 - ELEMENT_BITS)));
            }
            elements
        };
        let first = vector();
        Self([first, vector()])
    }

    /// Two vectors that were drawn before.
    ///
    /// # Errors
    /// Vectors of different lengths, an element of more than [`ELEMENT_BITS`] bits.
    pub fn from_elements(first: &[u32], second: &[u32]) -> Result<Self, ShapeError> {
        if first.len() != second.len() || first.iter().chain(second).any(|element| element >> ELEMENT_BITS != 0) {
            return Err(ShapeError(format!(
                "a challenge is two vectors of one length, each element below 2^{ELEMENT_BITS}"
            )));
        }
        Ok(Self([first.to_vec(), second.to_vec()]))
    }

    /// Elements of each vector.
    pub fn len(&self) -> usize {
        let [first, _] = self.elements();
        first.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both vectors. Secret.
    pub fn elements(&self) -> [&[u32]; 2] {
        self.0.each_ref().map(Vec::as_slice)
    }

    fn expect(&self, len: usize) -> Result<(), ShapeError> {
        if self.len() == len {
            Ok(())
        } else {
            Err(ShapeError(format!("the challenge has {} elements, the product {len} columns", self.len())))
        }
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({} secret elements)", self.len())
    }
}

/// `v = W^T r` for both vectors r of a challenge, as exact integers. As secret as the challenge.
pub(super) struct Projection([Vec<i64>; 2]);

impl Projection {
    /// Of the weights [N, K] of a layer. Direct sums: `|r * w| < 2^38` and `N <= 2^24`, so 64 bits hold them.
    ///
    /// # Errors
    /// A challenge that has not N elements.
    fn of_layer(executor: &Executor, layer: &Linear, challenge: &Challenge) -> Result<Self, ShapeError> {
        challenge.expect(layer.outputs)?;
        let mut v = [vec![0; layer.inputs], vec![0; layer.inputs]];
        project_weights(executor.proven(), layer.weight.as_slice(), challenge.elements(), &mut v);
        Ok(Self(v))
    }

    /// `v[c] = sum over j of keys[j, c] * r[j]`, keys [rows, d]; at most 2^16 rows, so 64 bits hold it.
    pub(super) fn of_keys(executor: &Executor, keys: &[i16], d: usize, challenge: &Challenge) -> Self {
        let mut v = [vec![0; d], vec![0; d]];
        project_keys(executor.proven(), keys, challenge.elements(), &mut v);
        Self(v)
    }

    /// `v[j] = sum over c of values[j, c] * r[c]`, values [rows, d].
    pub(super) fn of_values(executor: &Executor, values: &[i16], challenge: &Challenge) -> Self {
        let mut v = vec![[0; 2]; values.len() / challenge.len().max(1)];
        values_left(executor.proven(), values, challenge.elements(), &mut v);
        Self([v.iter().map(|&[v, _]| v as i64).collect(), v.iter().map(|&[_, w]| w as i64).collect()])
    }

    /// Elements of each v: the columns K of the codes.
    pub(super) fn len(&self) -> usize {
        let [first, _] = self.both();
        first.len()
    }

    /// Both v.
    pub(super) fn both(&self) -> [&[i64]; 2] {
        self.0.each_ref().map(Vec::as_slice)
    }

    /// For codes of 16 bits.
    pub(super) fn wide(&self, executor: &Executor) -> Limbs {
        Limbs::new(executor.proven(), self.both(), limbs::WIDE)
    }
}

/// All that the check of one layer needs: made once, kept secret, used for every audit.
pub struct Vectors {
    /// r, one element for each output N.
    pub(super) challenge: Challenge,
    /// v, one element for each input K.
    pub(super) projection: Projection,
    /// v for codes of 8 bits.
    pub(super) narrow: Limbs,
    /// v for codes of 16 bits.
    pub(super) wide: Limbs,
    least: Vec<i64>,
    reach: i64,
    offset: [u64; 2],
}

impl Vectors {
    /// Draw a challenge for `layer` and project it; `fill` as for [`Challenge::random`].
    ///
    /// # Errors
    /// None for a layer that was validated.
    pub fn random(executor: &Executor, layer: &Linear, fill: impl FnMut(&mut [u8])) -> Result<Self, ShapeError> {
        Self::new(executor, layer, Challenge::random(layer.outputs, fill))
    }

    /// With this challenge.
    ///
    /// # Errors
    /// A challenge that has not N elements.
    pub fn new(executor: &Executor, layer: &Linear, challenge: Challenge) -> Result<Self, ShapeError> {
        let projection = Projection::of_layer(executor, layer, &challenge)?;
        Ok(Self::build(executor, layer, challenge, projection))
    }

    fn build(executor: &Executor, layer: &Linear, challenge: Challenge, projection: Projection) -> Self {
        // A 16-bit code is 2^15 and a signed number of 16 bits: totals are the first times the sum of the
        // weights, and no further from that than the second times the sum of their magnitudes.
        let rows = layer.weight.as_slice().chunks_exact(layer.inputs);
        let magnitudes = rows.map(|row| row.iter().map(|w| i64::from(w.unsigned_abs())).sum::<i64>());
        let reach = (magnitudes.max().unwrap_or(0) << 15) + 1;
        let least: Vec<i64> = layer.row_sum.iter().map(|&sum| (i64::from(sum) << 15) - LEAST_REACH).collect();
        Self {
            narrow: Limbs::new(executor.proven(), projection.both(), limbs::NARROW),
            wide: projection.wide(executor),
            offset: offset(&least, &challenge),
            reach: reach.max(LEAST_REACH),
            least,
            challenge,
            projection,
        }
    }

    /// Columns N of the totals.
    pub fn outputs(&self) -> usize {
        self.challenge.len()
    }

    /// Columns K of the codes.
    pub fn inputs(&self) -> usize {
        self.projection.len()
    }

    /// Where totals of 16-bit codes lie.
    pub(super) fn range(&self) -> Range<'_> {
        Range { least: &self.least, reach: self.reach, offset: self.offset }
    }

    /// To keep: both r as u32, then both v as i64, little-endian, nothing else. Secret.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 * self.outputs() + 16 * self.inputs());
        for elements in self.challenge.elements() {
            bytes.extend(elements.iter().flat_map(|r| r.to_le_bytes()));
        }
        for v in self.projection.both() {
            bytes.extend(v.iter().flat_map(|v| v.to_le_bytes()));
        }
        bytes
    }

    /// What was kept for this layer. Whether v belongs to the layer's weights is not seen here: a
    /// damaged v makes right rows fail, so an auditor recomputes such a row before he accuses anyone.
    ///
    /// # Errors
    /// Another number of bytes, elements of more than [`ELEMENT_BITS`] bits.
    pub fn from_bytes(executor: &Executor, layer: &Linear, bytes: &[u8]) -> Result<Self, ShapeError> {
        let (outputs, inputs) = (layer.outputs, layer.inputs);
        expect_len("the kept vectors", bytes.len(), 1, 8 * outputs + 16 * inputs)?;
        let (r, v) = bytes.split_at(8 * outputs);
        let r: Vec<u32> = r.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        let v: Vec<i64> = v.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
        let (first, second) = r.split_at(outputs);
        let challenge = Challenge::from_elements(first, second)?;
        let (first, second) = v.split_at(inputs);
        Ok(Self::build(executor, layer, challenge, Projection([first.to_vec(), second.to_vec()])))
    }
}

impl fmt::Debug for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vectors({} and {} secret elements)", self.outputs(), self.inputs())
    }
}

/// `least . r` for both vectors, modulo 2^64.
pub(super) fn offset(least: &[i64], challenge: &Challenge) -> [u64; 2] {
    challenge.elements().map(|r| {
        least.iter().zip(r).fold(0, |sum: u64, (&least, &r)| sum.wrapping_add((least as u64).wrapping_mul(r.into())))
    })
}
