//! The field operations of a [`Host`]: arithmetic modulo p = 2^31 - 1 on I32 tensors, for components that split
//! activations among servers.
//!
//! As with the other operations, inputs are checked and the result is charged before it is allocated. An element
//! outside of the field is refused: what comes out is then always an element, whatever a caller puts in.

use crate::{Host, Meter, NnError, Tensor};
use bytemuck::{cast_slice, cast_slice_mut};
use ostrakon_exact::simd::Executor;
use ostrakon_exact::{ShapeError, field};

/// Bytes of a seed.
pub const SEED_BYTES: usize = 32;

impl Host {
    /// Uniform elements [rows, columns] from a seed. See [`field::expand`].
    ///
    /// # Errors
    /// A seed of another length; a shape that is too large; the caller's quota.
    pub fn field_expand(
        &self,
        meter: &Meter,
        seed: &[u8],
        stream: u32,
        first: u64,
        (rows, columns): (u32, u32),
    ) -> Result<Tensor, NnError> {
        let seed: &[u8; SEED_BYTES] = seed.try_into().map_err(|_| {
            NnError::InvalidArgument(format!("a seed has {SEED_BYTES} bytes, {} were given", seed.len()))
        })?;
        if first.checked_add(rows.into()).is_none() {
            return Err(NnError::InvalidArgument(format!(
                "{rows} rows from row {first} on: rows are numbered with 64 bits"
            )));
        }
        Tensor::computed_i32(meter, vec![rows, columns], |out| {
            let (rows, columns) = (rows as usize, columns as usize);
            Ok(field::expand(self.executor(), seed, stream, first, rows, columns, cast_slice_mut(out))?)
        })
    }

    /// `a + b`, element by element.
    ///
    /// # Errors
    /// Other types than I32, different shapes, elements outside of the field; the caller's quota.
    pub fn field_add(&self, meter: &Meter, a: &Tensor, b: &Tensor) -> Result<Tensor, NnError> {
        self.pairwise(meter, a, b, field::add)
    }

    /// `a - b`, element by element.
    ///
    /// # Errors
    /// As [`Host::field_add`].
    pub fn field_subtract(&self, meter: &Meter, a: &Tensor, b: &Tensor) -> Result<Tensor, NnError> {
        self.pairwise(meter, a, b, field::subtract)
    }

    fn pairwise(
        &self,
        meter: &Meter,
        a: &Tensor,
        b: &Tensor,
        operation: impl Fn(&Executor, &[u32], &[u32], &mut [u32]) -> Result<(), ShapeError>,
    ) -> Result<Tensor, NnError> {
        if a.dims() != b.dims() {
            return Err(NnError::InvalidArgument(format!("`a` has the shape {:?}, `b` {:?}", a.dims(), b.dims())));
        }
        let (dims, a, b) = (a.dims().to_vec(), checked("a", a)?, checked("b", b)?);
        Tensor::computed_i32(meter, dims, |out| Ok(operation(self.executor(), a, b, cast_slice_mut(out))?))
    }

    /// The inner products of each row of `x` [R, W] with both rows of `vectors` [2, W]: [R, 2].
    ///
    /// # Errors
    /// Other types or shapes, elements outside of the field; the caller's quota.
    pub fn field_dot(&self, meter: &Meter, x: &Tensor, vectors: &Tensor) -> Result<Tensor, NnError> {
        let (&[rows, width], &[2, same]) = (x.dims(), vectors.dims()) else {
            return Err(NnError::InvalidArgument(format!(
                "`x` is to be [R, W] and `vectors` [2, W], not {:?} and {:?}",
                x.dims(),
                vectors.dims()
            )));
        };
        if width != same || width == 0 {
            return Err(NnError::InvalidArgument(format!(
                "`x` has {width} columns, `vectors` {same}: as many, and one at least"
            )));
        }
        let (x, vectors) = (checked("x", x)?, checked("vectors", vectors)?);
        let vectors = vectors.split_at(width as usize).into();
        Tensor::computed_i32(meter, vec![rows, 2], |out| Ok(field::dot(self.executor(), x, vectors, pairs(out))?))
    }
}

fn pairs(values: &mut [i32]) -> &mut [[u32; 2]] {
    cast_slice_mut::<i32, u32>(values).as_chunks_mut().0
}

/// The elements of a tensor, each below p.
fn checked<'a>(name: &str, tensor: &'a Tensor) -> Result<&'a [u32], NnError> {
    let of = |error: NnError| error.before(&format!("`{name}`: "));
    let values = cast_slice(tensor.as_i32().map_err(of)?);
    field::expect_elements(values).map_err(|error| of(error.into()))?;
    Ok(values)
}
