//! The elements of a tensor of any type as numbers.

use ostrakon_nn::{Tensor, TensorType};

/// The elements as 64-bit floats; exact for every type but I64 beyond 2^53.
pub fn values(tensor: &Tensor) -> Box<dyn Iterator<Item = f64>> {
    let bytes = tensor.to_bytes();
    match tensor.ty() {
        TensorType::U8 => Box::new(bytes.into_iter().map(f64::from)),
        TensorType::Fp16 => Box::new(elements(bytes).map(|b| half(u16::from_le_bytes(b)))),
        TensorType::Bf16 => {
            Box::new(elements(bytes).map(|[low, high]| f64::from(f32::from_le_bytes([0, 0, low, high]))))
        }
        TensorType::Fp32 => Box::new(elements(bytes).map(|b| f64::from(f32::from_le_bytes(b)))),
        TensorType::I32 => Box::new(elements(bytes).map(|b| f64::from(i32::from_le_bytes(b)))),
        TensorType::Fp64 => Box::new(elements(bytes).map(f64::from_le_bytes)),
        TensorType::I64 => Box::new(elements(bytes).map(|b| i64::from_le_bytes(b) as f64)),
    }
}

/// Whole elements of `N` bytes.
fn elements<const N: usize>(bytes: Vec<u8>) -> impl Iterator<Item = [u8; N]> {
    (0..bytes.len() / N).filter_map(move |at| bytes.get(at * N..)?.first_chunk().copied())
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_gives_its_numbers() {
        for (ty, bytes, expected) in [
            (TensorType::U8, vec![255], 255.0),
            (TensorType::Fp16, vec![0x00, 0x3c], 1.0),
            (TensorType::Fp16, vec![0x01, 0x80], -(2f64.powi(-24))),
            (TensorType::Fp16, vec![0xff, 0x7b], 65504.0),
            (TensorType::Fp16, vec![0x00, 0xfc], f64::NEG_INFINITY),
            (TensorType::Bf16, vec![0x80, 0x3f], 1.0),
            (TensorType::Fp32, 0.5f32.to_le_bytes().to_vec(), 0.5),
            (TensorType::Fp64, 0.1f64.to_le_bytes().to_vec(), 0.1),
            (TensorType::I32, (-7i32).to_le_bytes().to_vec(), -7.0),
            (TensorType::I64, (1i64 << 40).to_le_bytes().to_vec(), 2f64.powi(40)),
        ] {
            let tensor = Tensor::new(vec![1], ty, bytes).unwrap();
            assert_eq!(values(&tensor).collect::<Vec<_>>(), [expected], "{ty}");
        }
        let nan = Tensor::new(vec![1], TensorType::Fp16, vec![1, 0x7c]).unwrap();
        assert!(values(&nan).all(f64::is_nan));
    }
}
