//! The two secret vectors of a check, and what weights make of them.

use super::{Field, Parts};
use crate::layer::Linear;
use crate::ragged::ShapeError;
use crate::simd::Executor;
use crate::simd::instantiate::instantiate;
use core::fmt;
use core::ops::Range;

/// Words in a row that may be refused: uniform ones are with a probability of 2^-22 each at most.
const MOST_REFUSED: usize = 64;

instantiate! {
    /// `v += r[n] * w[n, columns]` over all n, for both vectors.
    fn project(weights: &[i8], inputs: usize, columns: &Range<usize>, r: [&[u32]; 2], v: [&mut [i64]; 2]) = project_body;
}

#[inline(always)]
fn project_body(weights: &[i8], inputs: usize, columns: &Range<usize>, r: [&[u32]; 2], v: [&mut [i64]; 2]) {
    let ([first, second], [v, u]) = (r, v);
    for ((weights, &r), &s) in weights.chunks_exact(inputs.max(1)).zip(first).zip(second) {
        let weights = weights.get(columns.clone()).unwrap_or(&[]);
        let (r, s) = (i64::from(r as i32), i64::from(s as i32));
        for ((v, u), &w) in v.iter_mut().zip(&mut *u).zip(weights) {
            *v += r * i64::from(w);
            *u += s * i64::from(w);
        }
    }
}

/// All that the check of one layer needs: made once, kept secret, used for every call.
pub struct Vectors {
    /// r, one element for each column of a share's product.
    challenge: [Vec<u32>; 2],
    /// v, one element for each input K.
    projection: [Vec<u32>; 2],
}

impl Vectors {
    /// Draw two vectors for `layer` and project them. They are uniform if `fill` fills buffers with uniform bytes.
    ///
    /// # Errors
    /// Parts of another layer, bytes that are far from uniform.
    pub fn random(
        executor: &Executor,
        layer: &Linear,
        parts: &Parts,
        mut fill: impl FnMut(&mut [u8]),
    ) -> Result<Self, ShapeError> {
        if !parts.fit(layer) {
            return Err(ShapeError("the parts are those of another layer".to_owned()));
        }
        let (field, p) = (parts.field(), i64::from(parts.field().prime()));
        let challenge = [draw(field, parts.columns(), &mut fill)?, draw(field, parts.columns(), &mut fill)?];
        let mut sums = [vec![0i64; layer.inputs], vec![0i64; layer.inputs]];
        let [first, second] = challenge.each_ref().map(|r| r.chunks_exact(layer.outputs.max(1)));
        for ((range, r), s) in parts.ranges().iter().zip(first).zip(second) {
            let v = sums.each_mut().map(|v| v.get_mut(range.clone()).unwrap_or(&mut []));
            project(executor.proven(), layer.weight.as_slice(), layer.inputs, range, [r, s], v);
        }
        let projection = sums.map(|v| v.into_iter().map(|v| v.rem_euclid(p) as u32).collect());
        Ok(Self { challenge, projection })
    }

    /// Both r, to meet rows of a share's product. Secret.
    pub fn challenge(&self) -> [&[u32]; 2] {
        self.challenge.each_ref().map(Vec::as_slice)
    }

    /// Both v, to meet rows of a share. As secret as r.
    pub fn projection(&self) -> [&[u32]; 2] {
        self.projection.each_ref().map(Vec::as_slice)
    }
}

impl fmt::Debug for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([r, _], [v, _]) = (self.challenge(), self.projection());
        write!(f, "Vectors({} and {} secret elements)", r.len(), v.len())
    }
}

/// `len` elements from bytes, as of a mask: as many bits of a word, those that are p or more left out.
fn draw(field: Field, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<Vec<u32>, ShapeError> {
    let mut elements = Vec::with_capacity(len);
    let mut refused = 0;
    let mut bytes = [0u8; 1024];
    while elements.len() < len {
        let wanted = bytes.len().min(4 * (len - elements.len()));
        let bytes = bytes.get_mut(..wanted).unwrap_or(&mut []);
        fill(bytes);
        for &word in bytes.as_chunks::<4>().0 {
            let x = u32::from_le_bytes(word) & field.mask();
            if x >= field.prime() {
                refused += 1;
            } else {
                refused = 0;
                elements.push(x);
            }
        }
        if refused > MOST_REFUSED {
            return Err(ShapeError("the source of random bytes gives the same bit over and over".to_owned()));
        }
    }
    Ok(elements)
}
