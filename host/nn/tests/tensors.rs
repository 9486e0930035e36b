//! Tensors refuse every shape, type and length that do not fit together.
#![allow(clippy::panic, reason = "a test says what it expects and stops where it is wrong")]

use ostrakon_nn::tensor::{MAX_RANK, byte_size};
use ostrakon_nn::{Meter, NnError, Quotas, Resource, Tensor, TensorType};
use proptest::prelude::*;

fn invalid(result: Result<Tensor, NnError>, naming: &str) {
    match result {
        Err(NnError::InvalidArgument(text)) => assert!(text.contains(naming), "{text:?} does not say {naming:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_come_back_as_they_were() {
    for ty in TensorType::ALL {
        let bytes: Vec<u8> = (0..6 * ty.size()).map(|i| (i * 37) as u8).collect();
        let tensor = Tensor::new(vec![2, 3], ty, bytes.clone()).unwrap();
        assert_eq!((tensor.dims(), tensor.ty(), tensor.byte_len()), ([2, 3].as_slice(), ty, bytes.len()));
        assert_eq!(tensor.to_bytes(), bytes, "{ty}");
    }
}

#[test]
fn a_clone_is_the_same_storage() {
    let tensor = Tensor::from_f32(vec![3], vec![1.0, -0.0, f32::NAN]).unwrap();
    let alias = tensor.clone();
    assert!(std::ptr::eq(tensor.as_f32().unwrap(), alias.as_f32().unwrap()));
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    invalid(Tensor::new(vec![2, 2], TensorType::Fp32, vec![0; 15]), "16 bytes, but 15");
    invalid(Tensor::new(vec![2, 2], TensorType::Fp32, vec![0; 17]), "16 bytes, but 17");
    invalid(Tensor::new(vec![1], TensorType::U8, vec![]), "1 bytes, but 0");
    invalid(Tensor::from_f32(vec![2], vec![0.0]), "8 bytes, but 4");
    invalid(Tensor::from_i32(vec![0], vec![0]), "0 bytes, but 4");
}

#[test]
fn ranks_are_bounded() {
    invalid(Tensor::new(vec![], TensorType::U8, vec![0]), "not 0");
    invalid(Tensor::new(vec![1; MAX_RANK + 1], TensorType::U8, vec![0]), "not 9");
    assert!(Tensor::new(vec![1; MAX_RANK], TensorType::U8, vec![0]).is_ok());
}

#[test]
fn shapes_that_overflow_are_refused_even_beside_a_zero() {
    let huge = u32::MAX;
    invalid(Tensor::new(vec![huge, huge, huge], TensorType::U8, vec![]), "larger than any memory");
    invalid(Tensor::new(vec![huge, huge, huge, 0], TensorType::U8, vec![]), "larger than any memory");
    invalid(Tensor::new(vec![0, huge, huge, huge], TensorType::U8, vec![]), "larger than any memory");
    // 2^32 * 2^31 / 8 elements fit 64 bits, their bytes do not.
    invalid(Tensor::new(vec![1 << 31, 1 << 31, 4], TensorType::I64, vec![]), "larger than any memory");
}

#[test]
fn zero_dimensions_make_empty_tensors() {
    let empty = Tensor::new(vec![3, 0, 5], TensorType::Fp32, vec![]).unwrap();
    assert_eq!(empty.as_f32().unwrap(), &[] as &[f32]);
    assert!(empty.to_bytes().is_empty());
}

#[test]
fn types_are_told_apart() {
    let ints = Tensor::from_i32(vec![1], vec![1]).unwrap();
    assert_eq!(ints.as_f32(), Err(NnError::InvalidArgument("the tensor is of I32: FP32 is needed".to_owned())));
    let bytes = Tensor::new(vec![4], TensorType::U8, vec![0; 4]).unwrap();
    assert!(bytes.as_i32().is_err());
}

#[test]
fn a_charge_follows_the_tensor() {
    let meter = Meter::new(Quotas { bytes: 16, ..Quotas::default() });
    let tensor = Tensor::charged_copy(&meter, vec![3], TensorType::Fp32, &[0; 12]).unwrap();
    let alias = tensor.clone();
    assert_eq!(meter.held(Resource::Bytes), 12);
    let refused = Tensor::charged_copy(&meter, vec![5], TensorType::U8, &[0; 5]);
    assert!(matches!(refused, Err(NnError::TooLarge(_))));
    drop(tensor);
    assert_eq!(meter.held(Resource::Bytes), 12, "the alias still holds the bytes");
    let taken_over = alias.uncharged();
    assert_eq!(meter.held(Resource::Bytes), 0);
    assert!(!taken_over.is_charged());
    let given = taken_over.charged_to(&meter).unwrap();
    assert_eq!(meter.held(Resource::Bytes), 12);
    assert!(given.is_charged());
}

#[test]
fn a_wrong_length_charges_nothing() {
    let meter = Meter::new(Quotas::default());
    assert!(Tensor::charged_copy(&meter, vec![3], TensorType::Fp32, &[0; 11]).is_err());
    assert_eq!(meter.held(Resource::Bytes), 0);
}

proptest! {
    #[test]
    fn any_shape_and_length_is_answered(
        dims in proptest::collection::vec(prop_oneof![0u32..6, any::<u32>()], 0..10),
        ty in proptest::sample::select(TensorType::ALL.to_vec()),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let exact = dims.iter().fold(ty.size() as u128, |n, &d| n.saturating_mul(u128::from(d)));
        let made = Tensor::new(dims.clone(), ty, bytes.clone());
        match made {
            Ok(tensor) => {
                prop_assert_eq!(exact, bytes.len() as u128);
                prop_assert_eq!(tensor.to_bytes(), bytes);
            }
            Err(error) => {
                prop_assert!(matches!(error, NnError::InvalidArgument(_)));
                prop_assert!(byte_size(&dims, ty) != Ok(bytes.len() as u64));
            }
        }
    }
}
