//! Fixed point with a power-of-two unit: how a sum of floats becomes a sum of integers.

use crate::number::{TINY, exponent_above, power_of_two};

/// A value at the row's maximum becomes about `2^22`: 2^16 squares of it still fit 63 bits.
pub const FRACTION_BITS: i32 = 22;

/// For rows whose largest magnitude is `max`: (`to_fixed`, `unit`) with `to_fixed * unit = 1`, both
/// powers of two, and `|v * to_fixed| <= 2^22` for every `|v| <= max`. `None` if `max` counts as zero.
pub fn fixed_unit(max: f32) -> Option<(f32, f32)> {
    if max < TINY {
        return None;
    }
    let e = FRACTION_BITS - exponent_above(max);
    Some((power_of_two(e), power_of_two(-e)))
}
