//! The integer product: the one step of a linear layer that can be done elsewhere.

use super::cpu::CpuProduct;
use crate::ragged::ShapeError;
use core::any::Any;
use core::fmt;

/// The integer product of one layer's weight matrix W [N, K] with rows of codes.
///
/// This is all that a GPU, a remote server, a set of secret shares or a transcript has to provide;
/// coding, scaling and everything else stays with the [`Executor`](super::Executor). Each call is for all rows and all
/// columns and comes from one thread; calls for different requests may overlap.
pub trait Product: Send + Sync {
    /// `totals[r * N + n] = sum over k of codes[r * K + k] * W[n, k]`, exactly. Codes are 0 to 255, so
    /// a total fits 32 bits for every K that a layer may have.
    ///
    /// # Errors
    /// Slices of another size than [rows, K] and [rows, N]; whatever keeps the backend from answering.
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError>;

    /// Likewise for codes of 0 to 65535. Unless overridden: the product of the high bytes times 256
    /// plus the product of the low bytes, each by [`product_u8`](Self::product_u8).
    ///
    /// # Errors
    /// As [`product_u8`](Self::product_u8).
    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        let mut limbs: Vec<u8> = codes.iter().map(|&c| (c >> 8) as u8).collect();
        let mut part = vec![0i32; totals.len()];
        self.product_u8(&limbs, rows, &mut part)?;
        for (total, &high) in totals.iter_mut().zip(&part) {
            *total = i64::from(high) * 256;
        }
        limbs.clear();
        limbs.extend(codes.iter().map(|&c| c as u8));
        self.product_u8(&limbs, rows, &mut part)?;
        for (total, &low) in totals.iter_mut().zip(&part) {
            *total += i64::from(low);
        }
        Ok(())
    }

    /// This product as weights in this process, if it is that and nothing watches it: the executor
    /// then works tile by tile on all threads and never stores codes or totals of a whole matrix.
    fn as_cpu(&self) -> Option<&CpuProduct> {
        None
    }

    /// For a backend that keeps tensors to find its own products.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }
}

/// Why a product has no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProductError {
    /// Slices that do not fit the weights.
    Shape(ShapeError),
    /// The backend could not answer: a device fault, a lost connection.
    Unavailable(String),
    /// The backend answered and a check showed that the answer is wrong.
    Wrong(String),
}

impl fmt::Display for ProductError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(shape) => shape.fmt(f),
            Self::Unavailable(why) => write!(f, "the backend did not answer a matrix product: {why}"),
            Self::Wrong(why) => write!(f, "the backend answered a matrix product wrongly: {why}"),
        }
    }
}

impl core::error::Error for ProductError {}

impl From<ShapeError> for ProductError {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}
