//! The two secret vectors of a check, and what weights make of them.

use super::{FIELD, WIDE_BIAS, residue};
use crate::layer::Linear;
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::Executor;
use crate::simd::instantiate::instantiate;
use core::fmt;

/// Elements that kernels may read beyond a vector's end.
const PAD: usize = 8;
/// Rows and columns that a transposed sum may have: `2^15 * 2^31 * 2^16 < 2^63`.
const MAX_TERMS_I16: usize = 1 << 16;

instantiate! {
    /// `sums[k] += r * row[k]` for both vectors.
    fn add_weights(row: &[i8], r: [i32; 2], first: &mut [i64], second: &mut [i64]) = add_row_body;
    /// Likewise for 16-bit numbers.
    fn add_keys(row: &[i16], r: [i32; 2], first: &mut [i64], second: &mut [i64]) = add_row_body;
    /// The dot product of a row with both vectors.
    fn dot_values(row: &[i16], first: &[u32], second: &[u32]) -> [i64; 2] = dot_values_body;
}

#[inline(always)]
fn add_row_body<T: Copy + Into<i32>>(row: &[T], [a, b]: [i32; 2], first: &mut [i64], second: &mut [i64]) {
    for ((&w, first), second) in row.iter().zip(first).zip(second) {
        let w: i32 = w.into();
        *first += i64::from(w) * i64::from(a);
        *second += i64::from(w) * i64::from(b);
    }
}

#[inline(always)]
fn dot_values_body(row: &[i16], first: &[u32], second: &[u32]) -> [i64; 2] {
    let mut sums = [0i64; 2];
    let [a, b] = &mut sums;
    for ((&w, &r), &s) in row.iter().zip(first).zip(second) {
        *a += i64::from(w) * i64::from(r as i32);
        *b += i64::from(w) * i64::from(s as i32);
    }
    sums
}

/// Two vectors of elements of the field, one element for each column of a product.
///
/// It must stay secret for as long as it is used: who knows it can make wrong products that pass. Nothing
/// prints it.
pub struct Challenge {
    len: usize,
    /// Natural order, padded.
    pub(super) natural: [Vec<u32>; 2],
    /// Eight by eight in the order 0 4 1 5 2 6 3 7, so that the halves of 64-bit lanes are four in a row.
    pub(super) paired: [Vec<u32>; 2],
    /// The sum of each vector.
    pub(super) sum: [u64; 2],
    /// What the bias of wide totals adds to `totals . r`.
    pub(super) bias: [i128; 2],
}

impl Challenge {
    /// Two vectors of `len` elements, uniform in the field if `fill` fills buffers with uniform bytes. It is
    /// asked for four bytes an element, and again for the few that are not below p: a source that gives
    /// nothing but ones is asked for ever.
    pub fn random(len: usize, mut fill: impl FnMut(&mut [u8])) -> Self {
        let mut vector = || {
            let mut elements = Vec::with_capacity(len + PAD);
            let mut bytes = [0u8; 1024];
            while elements.len() < len {
                let wanted = bytes.len().min(4 * (len - elements.len()));
                let bytes = bytes.get_mut(..wanted).unwrap_or(&mut []);
                fill(bytes);
                let words = bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word) & FIELD);
                elements.extend(words.filter(|&element| element != FIELD));
            }
            elements
        };
        let first = vector();
        Self::build([first, vector()])
    }

    /// Two vectors that were drawn before.
    ///
    /// # Errors
    /// Vectors of different lengths, an element that is not below p.
    pub fn from_elements(first: &[u32], second: &[u32]) -> Result<Self, ShapeError> {
        if first.len() != second.len() || first.iter().chain(second).any(|&element| element >= FIELD) {
            return Err(ShapeError("a challenge is two vectors of one length, each element below 2^31 - 1".to_owned()));
        }
        Ok(Self::build([first.to_vec(), second.to_vec()]))
    }

    fn build(mut natural: [Vec<u32>; 2]) -> Self {
        let len = natural.iter().map(Vec::len).min().unwrap_or(0);
        let sum = natural.each_ref().map(|elements| elements.iter().map(|&r| u64::from(r)).sum());
        let bias = sum.map(|sum: u64| i128::from(sum) * i128::from(WIDE_BIAS));
        let paired = natural.each_ref().map(|elements| {
            let blocks = elements.as_chunks::<8>().0.iter();
            let mut paired: Vec<u32> = blocks.flat_map(|&[a, b, c, d, e, f, g, h]| [a, e, b, f, c, g, d, h]).collect();
            paired.resize(paired.len() + PAD, 0);
            paired
        });
        for elements in &mut natural {
            elements.resize(len + PAD, 0);
        }
        Self { len, natural, paired, sum, bias }
    }

    /// Elements of each vector.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Both vectors. Secret.
    pub fn elements(&self) -> [&[u32]; 2] {
        self.natural.each_ref().map(|elements| elements.get(..self.len).unwrap_or(&[]))
    }

    pub(super) fn expect(&self, len: usize) -> Result<(), ShapeError> {
        if self.len == len {
            Ok(())
        } else {
            Err(ShapeError(format!("the challenge has {} elements, the product {len} columns", self.len)))
        }
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({} secret elements)", self.len)
    }
}

/// Elements of the field as `high * 2^16 + low`, centred: `-2^30 <= high * 2^16 + low <= 2^30`.
pub(super) struct Limbs {
    pub(super) low: Vec<i16>,
    pub(super) high: Vec<i16>,
}

impl Limbs {
    fn new(residues: &[u32]) -> Self {
        let centred = |&v: &u32| if v > FIELD / 2 { v as i32 - FIELD as i32 } else { v as i32 };
        Self {
            low: residues.iter().map(|v| centred(v) as i16).collect(),
            high: residues.iter().map(|v| ((centred(v) - i32::from(centred(v) as i16)) >> 16) as i16).collect(),
        }
    }
}

/// `v = W^T r` for both vectors r of a challenge, as exact integers. As secret as the challenge.
pub struct Projection {
    len: usize,
    /// v in the field, padded.
    pub(super) residues: [Vec<u32>; 2],
    /// v in the field, in limbs.
    pub(super) limbs: [Limbs; 2],
    /// v modulo 2^32, padded.
    pub(super) low: [Vec<u32>; 2],
    /// v divided by 2^32, downwards, padded.
    pub(super) high: [Vec<i32>; 2],
    /// The sum of each v.
    pub(super) sum: [i128; 2],
}

impl Projection {
    /// Of the weights [N, K] of a layer. Direct sums: `|r * w| < 2^38` and `N <= 2^24`, so 64 bits hold them.
    ///
    /// # Errors
    /// A challenge that has not N elements.
    pub fn of_layer(executor: &Executor, layer: &Linear, challenge: &Challenge) -> Result<Self, ShapeError> {
        challenge.expect(layer.outputs)?;
        let rows = layer.weight.as_slice().chunks_exact(layer.inputs);
        Ok(Self::transposed(rows, layer.inputs, challenge, |row, r, a, b| {
            add_weights(executor.proven(), row, r, a, b);
        }))
    }

    /// `v[c] = sum over j of keys[j, c] * r[j]`, keys [rows, d].
    pub(super) fn of_keys(
        executor: &Executor,
        keys: &[i16],
        d: usize,
        challenge: &Challenge,
    ) -> Result<Self, ShapeError> {
        expect_terms(challenge.len())?;
        Ok(Self::transposed(keys.chunks_exact(d.max(1)), d, challenge, |row, r, a, b| {
            add_keys(executor.proven(), row, r, a, b);
        }))
    }

    /// `v[j] = sum over c of values[j, c] * r[c]`, values [rows, d].
    pub(super) fn of_values(
        executor: &Executor,
        values: &[i16],
        d: usize,
        challenge: &Challenge,
    ) -> Result<Self, ShapeError> {
        expect_terms(d)?;
        let [first, second] = challenge.elements();
        let rows = values.chunks_exact(d.max(1));
        let mut v = [Vec::with_capacity(rows.len() + PAD), Vec::with_capacity(rows.len() + PAD)];
        let [a, b] = &mut v;
        for row in rows {
            let [x, y] = dot_values(executor.proven(), row, first, second);
            a.push(x);
            b.push(y);
        }
        Ok(Self::build(v))
    }

    fn transposed<'a, T: 'a>(
        rows: impl Iterator<Item = &'a [T]>,
        width: usize,
        challenge: &Challenge,
        add: impl Fn(&[T], [i32; 2], &mut [i64], &mut [i64]),
    ) -> Self {
        let mut sums = [vec![0i64; width], vec![0i64; width]];
        let [a, b] = &mut sums;
        let [first, second] = challenge.elements();
        for (row, (&r, &s)) in rows.zip(first.iter().zip(second)) {
            add(row, [r as i32, s as i32], a, b);
        }
        Self::build(sums)
    }

    fn build(exact: [Vec<i64>; 2]) -> Self {
        fn padded<T: Clone + Default>(v: &[i64], element: impl Fn(i64) -> T) -> Vec<T> {
            let mut all = Vec::with_capacity(v.len() + PAD);
            all.extend(v.iter().map(|&v| element(v)));
            all.resize(v.len() + PAD, T::default());
            all
        }
        let residues = exact.each_ref().map(|v| padded(v, |v| residue(v.into())));
        Self {
            len: exact.iter().map(Vec::len).min().unwrap_or(0),
            limbs: residues.each_ref().map(|v| Limbs::new(v)),
            residues,
            low: exact.each_ref().map(|v| padded(v, |v| v as u32)),
            high: exact.each_ref().map(|v| padded(v, |v| (v >> 32) as i32)),
            sum: exact.each_ref().map(|v| v.iter().map(|&v| i128::from(v)).sum()),
        }
    }

    /// Elements of each v: the columns K of the codes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Both v, one after the other. Secret.
    pub fn exact(&self) -> impl Iterator<Item = i64> + '_ {
        let both = self.low.iter().zip(&self.high);
        both.flat_map(|(low, high)| {
            let joined = low.iter().zip(high).map(|(&low, &high)| (i64::from(high) << 32) | i64::from(low));
            joined.take(self.len)
        })
    }
}

fn expect_terms(terms: usize) -> Result<(), ShapeError> {
    if terms <= MAX_TERMS_I16 {
        Ok(())
    } else {
        Err(ShapeError(format!("sums of {terms} terms may not fit 64 bits: at most {MAX_TERMS_I16}")))
    }
}

impl fmt::Debug for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Projection({} secret elements)", self.len)
    }
}

/// All that the check of one layer needs: made once, kept secret, used for every audit.
#[derive(Debug)]
pub struct Vectors {
    /// r, one element for each output N.
    pub challenge: Challenge,
    /// v, one element for each input K.
    pub projection: Projection,
}

impl Vectors {
    /// Draw a challenge for `layer` and project it; `fill` as for [`Challenge::random`].
    ///
    /// # Errors
    /// None for a layer that was validated.
    pub fn random(executor: &Executor, layer: &Linear, fill: impl FnMut(&mut [u8])) -> Result<Self, ShapeError> {
        let challenge = Challenge::random(layer.outputs, fill);
        let projection = Projection::of_layer(executor, layer, &challenge)?;
        Ok(Self { challenge, projection })
    }

    /// To keep: both r as u32, then both v as i64, little-endian, nothing else. Secret.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 * self.challenge.len() + 16 * self.projection.len());
        for elements in self.challenge.elements() {
            bytes.extend(elements.iter().flat_map(|r| r.to_le_bytes()));
        }
        bytes.extend(self.projection.exact().flat_map(i64::to_le_bytes));
        bytes
    }

    /// What was kept for a layer of this shape. Whether v belongs to the layer's weights is not seen here: a
    /// damaged v makes right rows fail, so an auditor recomputes such a row before he accuses anyone.
    ///
    /// # Errors
    /// Another number of bytes, elements that are not below p.
    pub fn from_bytes(outputs: usize, inputs: usize, bytes: &[u8]) -> Result<Self, ShapeError> {
        expect_len(
            "the kept vectors",
            bytes.len(),
            1,
            outputs.saturating_mul(8).saturating_add(inputs.saturating_mul(16)),
        )?;
        let (r, v) = bytes.split_at(8 * outputs);
        let r: Vec<u32> = r.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        let v: Vec<i64> = v.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
        let (first, second) = r.split_at(outputs);
        let challenge = Challenge::from_elements(first, second)?;
        let (first, second) = v.split_at(inputs);
        Ok(Self { challenge, projection: Projection::build([first.to_vec(), second.to_vec()]) })
    }
}
