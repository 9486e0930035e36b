//! The definition of every exact operation: one scalar program each, read top to bottom.
//!
//! Nothing here is fast. Everything that is fast must give these bytes. All functions take checked
//! shapes (slices whose lengths fit) and are total over the values in them; where slices do not fit
//! they return a [`ShapeError`](crate::ShapeError).

mod attention;
mod causal;
mod elementwise;
mod embedding;
mod fixed;
mod linear;
mod norm;
mod pool;
mod rotary;

#[cfg(feature = "simd")]
pub(crate) use attention::{DENOMINATOR_ONE, TINY_WEIGHT, WEIGHT_CODE, head_width};
pub use attention::{MAX_HEAD_WIDTH, QUERY_KEY_CODE, VALUE_CODE, attention};
#[cfg(feature = "simd")]
pub(crate) use causal::{Grouped, expect_context};
pub use causal::{MAX_CONTEXT, causal_attention};
#[cfg(feature = "simd")]
pub(crate) use elementwise::expect_gated;
pub use elementwise::{add, gelu, gelu_one, swiglu, swiglu_one};
pub use embedding::embedding;
pub use fixed::{FRACTION_BITS, fixed_unit};
pub use linear::{QuantisedRow, accumulate, dequantise, linear, quantise_row};
#[cfg(feature = "simd")]
pub(crate) use norm::Sums;
pub use norm::{l2_normalise, layer_norm, rms_norm};
pub use pool::{first_pool, last_rows, mean_pool};
#[cfg(feature = "simd")]
pub(crate) use rotary::expect_turned;
pub use rotary::rotary;

use crate::layer::MAX_WIDTH;
use crate::ragged::ShapeError;
use alloc::format;

/// `len` must be `rows * width`.
pub(crate) fn expect_len(what: &str, len: usize, rows: usize, width: usize) -> Result<(), ShapeError> {
    if rows.checked_mul(width) == Some(len) {
        Ok(())
    } else {
        Err(ShapeError(format!("{what} has {len} elements, [{rows}, {width}] needs another number")))
    }
}

/// A row that is summed up may be no wider than a layer's.
pub(crate) fn expect_width(width: usize) -> Result<(), ShapeError> {
    if width <= MAX_WIDTH { Ok(()) } else { Err(ShapeError(format!("rows of {width} columns: at most {MAX_WIDTH}"))) }
}
