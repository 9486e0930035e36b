//! The field operations of a [`Host`]: arithmetic modulo a prime on I32 tensors, for components that split
//! activations among servers.
//!
//! As with the other operations, inputs are checked and the result is charged before it is allocated. An element
//! outside of the field is refused: what comes out is then always an element, whatever a caller puts in.

use crate::{Host, Meter, NnError, Tensor};
use bytemuck::{cast_slice, cast_slice_mut};
pub use ostrakon_exact::field::Field;
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
        field: Field,
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
            Ok(field::expand(self.executor(), field, seed, stream, first, rows, columns, cast_slice_mut(out))?)
        })
    }

    /// `a + b`, element by element.
    ///
    /// # Errors
    /// Other types than I32, different shapes, elements outside of the field; the caller's quota.
    pub fn field_add(&self, meter: &Meter, field: Field, a: &Tensor, b: &Tensor) -> Result<Tensor, NnError> {
        self.pairwise(meter, field, [a, b], field::add)
    }

    /// `a - b`, element by element.
    ///
    /// # Errors
    /// As [`Host::field_add`].
    pub fn field_subtract(&self, meter: &Meter, field: Field, a: &Tensor, b: &Tensor) -> Result<Tensor, NnError> {
        self.pairwise(meter, field, [a, b], field::subtract)
    }

    fn pairwise(
        &self,
        meter: &Meter,
        field: Field,
        [a, b]: [&Tensor; 2],
        operation: impl Fn(&Executor, Field, &[u32], &[u32], &mut [u32]) -> Result<(), ShapeError>,
    ) -> Result<Tensor, NnError> {
        if a.dims() != b.dims() {
            return Err(NnError::InvalidArgument(format!("`a` has the shape {:?}, `b` {:?}", a.dims(), b.dims())));
        }
        let dims = a.dims().to_vec();
        let named = [("a", elements("a", a)?), ("b", elements("b", b)?)];
        let [(_, a), (_, b)] = named;
        let done = |out: &mut [i32]| operation(self.executor(), field, a, b, cast_slice_mut(out));
        Tensor::computed_i32(meter, dims, |out| done(out).map_err(|error| whose(field, &named, error)))
    }

    /// The inner products of each row of `x` [R, W] with both rows of `vectors` [2, W]: [R, 2].
    ///
    /// # Errors
    /// Other types or shapes, elements outside of the field; the caller's quota.
    pub fn field_dot(&self, meter: &Meter, field: Field, x: &Tensor, vectors: &Tensor) -> Result<Tensor, NnError> {
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
        let named = [("x", elements("x", x)?), ("vectors", elements("vectors", vectors)?)];
        let [(_, x), (_, vectors)] = named;
        let vectors = vectors.split_at(width as usize).into();
        let done = |out: &mut [i32]| field::dot(self.executor(), field, x, vectors, pairs(out));
        Tensor::computed_i32(meter, vec![rows, 2], |out| done(out).map_err(|error| whose(field, &named, error)))
    }
}

fn pairs(values: &mut [i32]) -> &mut [[u32; 2]] {
    cast_slice_mut::<i32, u32>(values).as_chunks_mut().0
}

/// The numbers of a tensor that is to hold elements.
fn elements<'a>(name: &str, tensor: &'a Tensor) -> Result<&'a [u32], NnError> {
    Ok(cast_slice(tensor.as_i32().map_err(|error| error.before(&format!("`{name}`: ")))?))
}

/// What to say of an operation that was refused: which argument is not made of elements, if that is why.
fn whose(field: Field, named: &[(&str, &[u32])], error: ShapeError) -> NnError {
    let wrong = named.iter().find_map(|(name, all)| Some((name, field::expect_elements(field, all).err()?)));
    match wrong {
        Some((name, error)) => NnError::from(error).before(&format!("`{name}`: ")),
        None => error.into(),
    }
}
