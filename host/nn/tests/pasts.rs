//! Causal attention on a host: the bytes of the reference, whole and in pieces, and every refusal by name.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use ostrakon_exact::simd::{Executor, Level};
use ostrakon_exact::{Lengths, reference};
use ostrakon_nn::{
    BoundPast, CpuBackend, Host, MemoryLayers, Meter, NnError, ProvenBackend, Quotas, Resource, SequencePast, Tensor,
};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let executor = Arc::new(Executor::new(Level::detect(), 2).unwrap());
    let backend = ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))).unwrap();
    Host::new(executor, backend, Arc::new(MemoryLayers::new()))
});

fn floats(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
    let value = |i: u64| match (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
    {
        n if n % 97 == 0 => f32::NAN,
        n if n % 89 == 0 => f32::INFINITY,
        n => (n % 4001) as f32 / 1000.0 - 2.0,
    };
    (0..(rows * columns) as u64).map(value).collect()
}

fn matrix(columns: usize, values: &[f32]) -> Tensor {
    Tensor::from_f32(vec![(values.len() / columns) as u32, columns as u32], values.to_vec()).unwrap()
}

fn stretches(of: &[(usize, usize)]) -> Tensor {
    let values = of.iter().flat_map(|&(rows, before)| [rows as i32, before as i32]).collect();
    Tensor::from_i32(vec![of.len() as u32, 2], values).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_are_the_reference(
        pieces in prop::collection::vec(prop::collection::vec(0usize..40, 1..5), 1..4),
        kv_heads in 1usize..3, group in 1usize..4, d in 1usize..20, seed: u64,
    ) {
        let heads = kv_heads * group;
        let columns = (heads + 2 * kv_heads) * d;
        // Sequences by their pieces; a call has a piece of each that has rows left.
        let inputs: Vec<Vec<f32>> =
            pieces.iter().enumerate().map(|(i, p)| floats(p.iter().sum(), columns, seed ^ i as u64)).collect();
        let meter = HOST.meter(Quotas::default());
        let mut pasts = vec![SequencePast::default(); pieces.len()];
        let mut outputs = vec![Vec::new(); pieces.len()];
        for call in 0..pieces.iter().map(Vec::len).max().unwrap() {
            let taking: Vec<usize> = (0..pieces.len()).filter(|&i| pieces[i].get(call).is_some_and(|&n| n > 0)).collect();
            let span = |i: usize| (pieces[i][call], pieces[i][..call].iter().sum::<usize>());
            let lengths = stretches(&taking.iter().map(|&i| span(i)).collect::<Vec<_>>());
            let rows: Vec<f32> = taking.iter().flat_map(|&i| {
                let (count, before) = span(i);
                inputs[i][before * columns..(before + count) * columns].to_vec()
            }).collect();
            let given = taking.iter().map(|&i| std::mem::take(&mut pasts[i])).collect();
            let mut bound = BoundPast::bind(&meter, given, &lengths).unwrap();
            let (heads, kv_heads) = (heads as u32, kv_heads as u32);
            let qkv = matrix(columns, &rows);
            let y = HOST.causal_attention(&meter, Some(&mut bound), &qkv, &lengths, heads, kv_heads).unwrap();
            let mut y = y.as_f32().unwrap();
            for (&i, past) in taking.iter().zip(bound.finish().unwrap()) {
                let (own, rest) = y.split_at(span(i).0 * heads as usize * d);
                outputs[i].extend_from_slice(own);
                y = rest;
                prop_assert_eq!(past.rows(), span(i).0 + span(i).1);
                pasts[i] = past;
            }
        }
        for (input, output) in inputs.iter().zip(&outputs) {
            let rows = input.len() / columns;
            let lengths: &[i32] = if rows > 0 { &[rows as i32] } else { &[] };
            let mut want = vec![0.0; rows * heads * d];
            let lengths = Lengths::new(lengths, rows).unwrap();
            reference::causal_attention(input, &lengths, heads, kv_heads, d, &mut want).unwrap();
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(output), bits(&want));
        }
        drop(pasts);
        prop_assert_eq!(meter.held(Resource::Bytes), 0);
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, NnError>, naming: &str) {
    match result {
        Err(NnError::InvalidArgument(text)) => assert!(text.contains(naming), "{text}"),
        other => panic!("{other:?} instead of a refusal naming {naming:?}"),
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let meter = Meter::unlimited();
    let attend =
        |qkv: &Tensor, lengths: &Tensor, heads, kv| HOST.causal_attention(&meter, None, qkv, lengths, heads, kv);
    let qkv = matrix(24, &floats(3, 24, 1));
    let i32s = |values: &[i32]| Tensor::from_i32(vec![values.len() as u32], values.to_vec()).unwrap();
    assert_eq!(attend(&qkv, &i32s(&[3]), 4, 2).unwrap().dims(), [3, 12]);
    for (heads, kv) in
        [(0, 0), (0, 2), (2, 0), (3, 2), (2, 4), (8, 8), (u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)]
    {
        if (heads, kv) != (8, 8) {
            refused(attend(&qkv, &i32s(&[3]), heads, kv), "cannot share 24 columns");
        }
    }
    // One column for each of 24 heads; heads of 129 columns; more heads than there may be.
    assert_eq!(attend(&qkv, &i32s(&[3]), 8, 8).unwrap().dims(), [3, 8]);
    refused(attend(&matrix(387, &floats(1, 387, 1)), &i32s(&[1]), 1, 1), "1 to 128 columns");
    refused(attend(&matrix(1027, &floats(1, 1027, 1)), &i32s(&[1]), 1025, 1), "at most 1024");
    refused(attend(&i32s(&[1]), &i32s(&[1]), 1, 1), "FP32");
    refused(attend(&Tensor::from_f32(vec![24], vec![0.0; 24]).unwrap(), &i32s(&[1]), 4, 2), "two dimensions");
    refused(attend(&qkv, &qkv, 4, 2), "I32");
    refused(attend(&qkv, &i32s(&[2]), 4, 2), "add up to 2");
    refused(attend(&qkv, &i32s(&[3, 0]), 4, 2), "length 1 is 0");
    refused(attend(&qkv, &i32s(&[i32::MAX, i32::MAX]), 4, 2), "at most 1048576");
    refused(attend(&qkv, &Tensor::from_i32(vec![1, 1], vec![3]).unwrap(), 4, 2), "[1, 1]");
    refused(attend(&qkv, &stretches(&[(3, 1)]), 4, 2), "the host holds 0");
    refused(attend(&qkv, &stretches(&[(3, 1 << 20)]), 4, 2), "at most 1048576");
    // No rows at all.
    let none = Tensor::from_f32(vec![0, 24], vec![]).unwrap();
    assert_eq!(attend(&none, &i32s(&[]), 4, 2).unwrap().dims(), [0, 12]);
    let nobody = Tensor::from_i32(vec![0, 2], vec![]).unwrap();
    assert_eq!(attend(&none, &nobody, 4, 2).unwrap().dims(), [0, 12]);
}

#[test]
fn a_past_of_other_heads_is_refused() {
    let meter = Meter::unlimited();
    let qkv = matrix(24, &floats(3, 24, 1));
    let bind = |past: Vec<SequencePast>, lengths: &Tensor| BoundPast::bind(&meter, past, lengths);
    let first = stretches(&[(3, 0)]);
    let mut bound = bind(vec![SequencePast::default()], &first).unwrap();
    HOST.causal_attention(&meter, Some(&mut bound), &qkv, &first, 4, 2).unwrap();
    let held = bound.finish().unwrap();
    let then = stretches(&[(3, 3)]);
    for (heads, kv) in [(4, 1), (8, 8), (2, 1), (6, 3)] {
        let mut bound = bind(held.clone(), &then).unwrap();
        refused(HOST.causal_attention(&meter, Some(&mut bound), &qkv, &then, heads, kv), "have 2 heads of 3 columns");
        // It may still be done rightly; but left undone, nothing comes back.
        let mut other = bind(held.clone(), &then).unwrap();
        HOST.causal_attention(&meter, Some(&mut other), &qkv, &then, 4, 2).unwrap();
        assert_eq!(other.finish().unwrap()[0].rows(), 6);
        refused(bound.finish(), "attended 0 times");
    }
}

#[test]
fn pasts_are_charged_as_long_as_they_are_bound() {
    let qkv = matrix(24, &floats(70, 24, 1));
    let first = stretches(&[(70, 0)]);
    let meter = Meter::new(Quotas { bytes: 100_000, ..Quotas::default() });
    let mut bound = BoundPast::bind(&meter, vec![SequencePast::default()], &first).unwrap();
    assert_eq!(meter.held(Resource::Bytes), 0);
    let y = HOST.causal_attention(&meter, Some(&mut bound), &qkv, &first, 4, 2).unwrap();
    let with_output = meter.held(Resource::Bytes);
    drop(y);
    let held = meter.held(Resource::Bytes);
    assert_eq!(with_output - held, 70 * 12 * 4);
    let pasts = bound.finish().unwrap();
    // What is charged is what it takes, and nothing once it is given back.
    assert_eq!((held, meter.held(Resource::Bytes)), (pasts[0].bytes() as u64 + 256, 0));
    assert!(pasts[0].bytes() >= 70 * 2 * (4 * 3 + 8));

    let poor = Meter::new(Quotas { bytes: held - 1, ..Quotas::default() });
    let error = BoundPast::bind(&poor, pasts.clone(), &stretches(&[(1, 70)])).unwrap_err();
    assert!(matches!(error, NnError::TooLarge(_)), "{error}");
    assert_eq!(poor.held(Resource::Bytes), 0);
    // Room for what is there and for the output, not for another 100 rows.
    let poor = Meter::new(Quotas { bytes: held + 100 * 12 * 4, ..Quotas::default() });
    let then = stretches(&[(100, 70)]);
    let mut bound = BoundPast::bind(&poor, pasts, &then).unwrap();
    let qkv = matrix(24, &floats(100, 24, 2));
    let error = HOST.causal_attention(&poor, Some(&mut bound), &qkv, &then, 4, 2).unwrap_err();
    assert!(matches!(error, NnError::TooLarge(_)), "{error}");
    assert_eq!(poor.held(Resource::Bytes), held);
    drop(bound);
    assert_eq!(poor.held(Resource::Bytes), 0);
}
