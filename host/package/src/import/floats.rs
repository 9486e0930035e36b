//! Floats as files keep them, and which of them a weight can be.

use safetensors::Dtype;

/// No weight of a working model comes near this; it keeps every scale within its bounds.
const MAX_WEIGHT: f32 = (1u64 << 30) as f32;

/// Little-endian F32, F16 or BF16; none for any other type.
pub(super) fn decode(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    let two =
        |convert: fn(u16) -> f32| data.as_chunks::<2>().0.iter().map(|&b| convert(u16::from_le_bytes(b))).collect();
    match dtype {
        Dtype::F32 => Some(data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
        Dtype::F16 => Some(two(half)),
        Dtype::BF16 => Some(two(brain)),
        _ => None,
    }
}

/// Refuses what no weight can be.
pub(super) fn check(values: &[f32]) -> Result<(), String> {
    match values.iter().find(|v| !v.is_finite() || v.abs() > MAX_WEIGHT) {
        Some(bad) => Err(format!("holds {bad}: weights are finite and at most 2^30")),
        None => Ok(()),
    }
}

/// IEEE 754 binary16 to binary32.
pub(super) fn half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    if magnitude >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | (magnitude & 0x3ff) << 13);
    }
    // As a binary32 the same bits are 2^112 times too small; so are subnormals, and the product is exact.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(scaled.to_bits() | sign)
}

/// The upper half of a binary32.
pub(super) fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::half;

    #[test]
    fn halves() {
        for (bits, want) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x0001, 5.960_464_5e-8),
            (0x7bff, 65504.0),
            (0x8000, -0.0),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(half(bits).to_bits(), f32::to_bits(want), "{bits:x}");
        }
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
    }
}
