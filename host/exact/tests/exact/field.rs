//! Products of secret shares: the fast functions give the bytes of the plain ones at every level, shares of any codes
//! recombine to the exact totals, and the check lets no changed answer pass.

use crate::EXECUTORS;
use crate::random::Random;
use ostrakon_exact::field::{
    MAX_COLUMNS, P, Parts, ShareProduct, Vectors, add, dot, expand, expect_elements, lift, reference, subtract,
};
use ostrakon_exact::layer::MAX_WIDTH;
use ostrakon_exact::reference::accumulate;
use ostrakon_exact::simd::{CpuProduct, Executor, Product, ProductError};
use ostrakon_exact::{Activation, Layer, Linear, Part};
use proptest::prelude::*;
use std::convert::Infallible;
use std::sync::Arc;

impl Random {
    /// Elements, in one of several manners for the whole slice.
    fn elements(&mut self, n: usize) -> Vec<u32> {
        let manner = self.below(6);
        let edges = [0, 1, 0xffff, 0x1_0000, 0x7fff_0000, P / 2, P - 2, P - 1];
        (0..n)
            .map(|i| match manner {
                0 => P - 1,
                1 => 0,
                2 => [0, P - 1][i % 2],
                3 => edges[self.below(edges.len())],
                _ => (self.next() % u64::from(P)) as u32,
            })
            .collect()
    }

    fn codes(&mut self, n: usize, activation: Activation) -> Vec<u16> {
        let (manner, most) = (self.below(5), activation.max_code() as usize);
        (0..n)
            .map(|i| match manner {
                0 => most as u16,
                1 => [0, most as u16][i % 2],
                _ => self.below(most + 1) as u16,
            })
            .collect()
    }
}

/// How the weights of a layer are.
#[derive(Debug, Clone, Copy)]
enum Weights {
    Most,
    Least,
    Alternating,
    Random,
}

const WEIGHTS: [Weights; 4] = [Weights::Most, Weights::Least, Weights::Alternating, Weights::Random];

fn layer(random: &mut Random, weights: Weights, outputs: usize, inputs: usize, activation: Activation) -> Arc<Linear> {
    let weight = |i: usize| match weights {
        Weights::Most => 127,
        Weights::Least => -127,
        Weights::Alternating => [127, -127][(i + i / inputs) % 2],
        Weights::Random => random.below(255) as i8 as i32 as i8,
    };
    let weight: Vec<u8> = (0..outputs * inputs).map(weight).map(|w: i8| if w == -128 { 0 } else { w as u8 }).collect();
    let part = |name: &str, dimensions: &[usize], data: Vec<u8>| Part {
        name: name.to_owned(),
        dimensions: dimensions.to_vec(),
        data: Box::new(data),
    };
    let parts = vec![part("weight", &[outputs, inputs], weight), part("scale", &[outputs], vec![0; 4 * outputs])];
    match Layer::from_parts("linear", activation.name(), parts).unwrap() {
        Layer::Linear(layer) => Arc::new(layer),
        _ => unreachable!(),
    }
}

/// A backend elsewhere: it gets all rows in one call, and knows u8 products alone.
struct Elsewhere(CpuProduct);

impl Product for Elsewhere {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        self.0.product_u8(codes, rows, totals)
    }
}

fn server(executor: &Arc<Executor>, layer: &Arc<Linear>, elsewhere: bool) -> ShareProduct {
    let packed = |layer: &Arc<Linear>| -> Result<Box<dyn Product>, Infallible> {
        let product = CpuProduct::new(layer, executor);
        Ok(if elsewhere { Box::new(Elsewhere(product)) } else { Box::new(product) })
    };
    let Ok(product) = ShareProduct::new(Arc::clone(executor), layer, packed);
    product
}

fn dotted(executor: &Executor, rows: &[u32], vectors: [&[u32]; 2], count: usize) -> Vec<[u32; 2]> {
    let mut out = vec![[7; 2]; count];
    dot(executor, rows, vectors, &mut out).unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sums_and_differences_agree(len in 0usize..3000, many in 0usize..12, seed: u64) {
        let mut random = Random(seed);
        // Some so long that threads share them.
        let len = if many == 0 { len + 100_000 } else { len };
        let (a, b) = (random.elements(len), random.elements(len));
        let (mut sum, mut difference) = (vec![0; len], vec![0; len]);
        reference::add(&a, &b, &mut sum).unwrap();
        reference::subtract(&a, &b, &mut difference).unwrap();
        for executor in EXECUTORS.iter() {
            let mut out = vec![7; len];
            add(executor, &a, &b, &mut out).unwrap();
            prop_assert_eq!(&out, &sum);
            subtract(executor, &a, &b, &mut out).unwrap();
            prop_assert_eq!(&out, &difference);
        }
        prop_assert!(reference::are_elements(&sum) && expect_elements(&sum).is_ok());
        if len > 0 {
            let (at, bad) = (random.below(len), [P, P + 1, u32::MAX, 1 << 31][random.below(4)]);
            let mut all = a;
            all[at] = bad;
            let error = expect_elements(&all).unwrap_err().0;
            prop_assert!(error.starts_with(&format!("number {at} is {bad}:")), "{}", error);
        }
    }

    #[test]
    fn masks_agree(rows in 0usize..40, columns in 0usize..900, stream: u32, first: u64, seed: u64) {
        let seed = Random(seed).seed();
        let first = first.min(u64::MAX - rows as u64);
        let mut want = vec![7; rows * columns];
        reference::expand(&seed, stream, first, rows, columns, &mut want).unwrap();
        for executor in EXECUTORS.iter() {
            let mut out = vec![9; rows * columns];
            expand(executor, &seed, stream, first, rows, columns, &mut out).unwrap();
            prop_assert_eq!(&out, &want);
        }
    }

    #[test]
    fn inner_products_agree(rows in 0usize..70, width in 0usize..700, seed: u64) {
        let mut random = Random(seed);
        let all = random.elements(rows * width);
        let (r, s) = (random.elements(width), random.elements(width));
        let mut want = vec![[7; 2]; rows];
        reference::dot(&all, [&r, &s], &mut want).unwrap();
        for executor in EXECUTORS.iter() {
            prop_assert_eq!(&dotted(executor, &all, [&r, &s], rows), &want);
        }
        if !all.is_empty() {
            let mut wrong = all;
            let at = random.below(wrong.len());
            wrong[at] = [P, u32::MAX][random.below(2)];
            for executor in EXECUTORS.iter() {
                prop_assert!(dot(executor, &wrong, [&r, &s], &mut want).is_err());
            }
        }
    }

    #[test]
    fn lifted_totals_agree(rows in 0usize..50, outputs in 1usize..500, parts in 1usize..6, seed: u64) {
        let mut random = Random(seed);
        let elements = random.elements(rows * parts * outputs);
        let least: Vec<i64> = random.elements(parts * outputs).into_iter().map(|x| -i64::from(x)).collect();
        let mut want = vec![7; rows * outputs];
        reference::lift(&elements, &least, outputs, &mut want).unwrap();
        for executor in EXECUTORS.iter() {
            let mut totals = vec![9; rows * outputs];
            lift(executor, &elements, &least, outputs, &mut totals).unwrap();
            prop_assert_eq!(&totals, &want);
        }
    }

    #[test]
    fn products_agree(
        rows in 0usize..60, outputs in 1usize..70, inputs in 1usize..900, kind in 0usize..8, seed: u64,
    ) {
        let mut random = Random(seed);
        let activation = [Activation::U8, Activation::U16][kind % 2];
        let layer = layer(&mut random, WEIGHTS[kind / 2], outputs, inputs, activation);
        let parts = Parts::of(&layer);
        prop_assert_eq!(parts.ranges().to_vec(), reference::parts(&layer));
        let shares = random.elements(rows * inputs);
        let mut want = vec![7; rows * parts.columns()];
        reference::multiply(&layer, &parts, &shares, rows, &mut want).unwrap();
        for executor in EXECUTORS.iter() {
            for elsewhere in [false, true] {
                let server = server(executor, &layer, elsewhere);
                prop_assert_eq!((server.inputs(), server.columns()), (inputs, parts.columns()));
                let mut out = vec![9; want.len()];
                server.multiply(&shares, rows, &mut out).unwrap();
                prop_assert_eq!(&out, &want);
            }
        }
        for executor in EXECUTORS.iter() {
            let vectors = Vectors::random(executor, &layer, &parts, |bytes| random.fill(bytes)).unwrap();
            let v = reference::project(&layer, &parts, vectors.challenge());
            prop_assert_eq!(vectors.projection().map(<[u32]>::to_vec), v);
            prop_assert!(vectors.challenge().iter().all(|r| r.len() == parts.columns() && expect_elements(r).is_ok()));
        }
    }
}

/// All of it: codes to shares, servers, check, recombination, totals.
fn shared(random: &mut Random, executor: &Arc<Executor>, layer: &Arc<Linear>, rows: usize, servers: usize) {
    let (inputs, parts) = (layer.inputs, Parts::of(layer));
    let codes = random.codes(rows * inputs, layer.activation);
    let vectors = Vectors::random(executor, layer, &parts, |bytes| random.fill(bytes)).unwrap();
    let mut shares = vec![codes.iter().map(|&x| u32::from(x)).collect::<Vec<u32>>()];
    for _ in 1..servers {
        let mut mask = vec![0; rows * inputs];
        expand(executor, &random.seed(), 3, 5, rows, inputs, &mut mask).unwrap();
        let covered = shares[0].clone();
        subtract(executor, &covered, &mask, &mut shares[0]).unwrap();
        shares.push(mask);
    }
    let mut sum = vec![0; rows * parts.columns()];
    for share in &shares {
        let mut answer = vec![0; sum.len()];
        server(executor, layer, servers == 3).multiply(share, rows, &mut answer).unwrap();
        let left = dotted(executor, &answer, vectors.challenge(), rows);
        assert_eq!(left, dotted(executor, share, vectors.projection(), rows));
        let before = sum.clone();
        add(executor, &before, &answer, &mut sum).unwrap();
    }
    let mut totals = vec![0; rows * layer.outputs];
    lift(executor, &sum, parts.least(), layer.outputs, &mut totals).unwrap();
    let want = codes
        .chunks_exact(inputs)
        .flat_map(|codes| layer.weight.as_slice().chunks_exact(inputs).map(|weight| accumulate(codes, weight)));
    assert_eq!(totals, want.collect::<Vec<i64>>());
}

#[test]
fn shares_recombine_to_the_exact_totals() {
    let mut random = Random(1);
    for activation in [Activation::U8, Activation::U16] {
        for weights in WEIGHTS {
            for servers in [2, 3, 5] {
                // 259 inputs of u16 and all weights at 127 are the first that need a cut; 1300 need six parts.
                for (rows, outputs, inputs) in [(1, 1, 1), (3, 17, 258), (2, 5, 259), (9, 33, 1300)] {
                    let layer = layer(&mut random, weights, outputs, inputs, activation);
                    let executor = &EXECUTORS[random.below(EXECUTORS.len())];
                    shared(&mut random, executor, &layer, rows, servers);
                }
            }
        }
    }
}

#[test]
fn the_widest_layers_recombine() {
    let mut random = Random(2);
    for activation in [Activation::U8, Activation::U16] {
        for weights in WEIGHTS {
            let layer = layer(&mut random, weights, 2, MAX_WIDTH, activation);
            shared(&mut random, EXECUTORS.last().unwrap(), &layer, 2, 2);
        }
    }
}

#[test]
fn columns_are_cut_where_they_must_be() {
    let mut random = Random(3);
    let ranges = |inputs, weights, activation| {
        let mut random = Random(4);
        Parts::of(&layer(&mut random, weights, 3, inputs, activation)).ranges().to_vec()
    };
    // 65535 * 127 * 258 <= p - 1 < 65535 * 127 * 259; 255 * 127 * 66,000 < p.
    assert_eq!(ranges(258, Weights::Most, Activation::U16).as_slice(), std::slice::from_ref(&(0..258)));
    assert_eq!(ranges(259, Weights::Least, Activation::U16), [0..258, 258..259]);
    assert_eq!(ranges(600, Weights::Alternating, Activation::U16), [0..258, 258..516, 516..600]);
    assert_eq!(ranges(MAX_WIDTH, Weights::Most, Activation::U8).as_slice(), std::slice::from_ref(&(0..MAX_WIDTH)));
    let layer = layer(&mut random, Weights::Least, 3, 259, Activation::U16);
    let parts = Parts::of(&layer);
    assert_eq!(parts.least()[..3], [-65_535 * 127 * 258; 3]);
    assert_eq!(parts.least()[3..], [-65_535 * 127; 3]);
    assert_eq!(parts.columns(), 6);
}

#[test]
fn no_changed_answer_passes() {
    let mut random = Random(5);
    let executor = EXECUTORS.last().unwrap();
    let layer = layer(&mut random, Weights::Random, 20, 700, Activation::U16);
    let parts = Parts::of(&layer);
    assert!(parts.ranges().len() > 1);
    let (rows, columns) = (6, parts.columns());
    let vectors = Vectors::random(executor, &layer, &parts, |bytes| random.fill(bytes)).unwrap();
    let mut share = vec![0; rows * layer.inputs];
    expand(executor, &random.seed(), 0, 0, rows, layer.inputs, &mut share).unwrap();
    let mut honest = vec![0; rows * columns];
    server(executor, &layer, false).multiply(&share, rows, &mut honest).unwrap();
    let right = dotted(executor, &share, vectors.projection(), rows);
    let left = |answer: &[u32]| dotted(executor, answer, vectors.challenge(), rows);
    assert_eq!(left(&honest), right);
    // Exactly the changed rows fail.
    let expect = |answer: &[u32], what: &str| {
        let failed: Vec<bool> = left(answer).iter().zip(&right).map(|(left, right)| left != right).collect();
        let changed: Vec<bool> =
            answer.chunks(columns).zip(honest.chunks(columns)).map(|(answer, honest)| answer != honest).collect();
        assert!(changed.contains(&true) && failed == changed, "{what}");
    };
    let plus = |answer: &mut [u32], at: usize, by: u32| {
        answer[at] = ((u64::from(answer[at]) + u64::from(by)) % u64::from(P)) as u32;
    };
    for at in 0..honest.len() {
        for by in [1, 2, 1 << 16, 1 << 30, P - 1] {
            let mut answer = honest.clone();
            plus(&mut answer, at, by);
            expect(&answer, "one element");
        }
        // The same class modulo p, but no element; and p less, which wraps.
        for other in [honest[at] + P, honest[at].wrapping_sub(P)] {
            let mut answer = honest.clone();
            answer[at] = other;
            assert!(expect_elements(&answer).is_err());
            assert!(dot(executor, &answer, vectors.challenge(), &mut vec![[0; 2]; rows]).is_err());
        }
        // The row keeps its sum.
        let other = at / columns * columns + (at + 1) % columns;
        let mut answer = honest.clone();
        plus(&mut answer, at, 77);
        plus(&mut answer, other, P - 77);
        expect(&answer, "changes that cancel");
    }
    let mut answer = honest.clone();
    let (first, rest) = answer.split_at_mut(columns);
    first.swap_with_slice(&mut rest[..columns]);
    expect(&answer, "swapped rows");
    for _ in 0..10_000 {
        let mut answer = honest.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(answer.len());
            plus(&mut answer, at, 1 + random.below(P as usize - 1) as u32);
        }
        expect(&answer, "random changes");
    }
}

#[test]
fn bad_arguments_are_refused() {
    let executor = EXECUTORS.last().unwrap();
    let mut out = vec![0; 6];
    assert!(add(executor, &[1; 6], &[1; 5], &mut out).is_err());
    assert!(subtract(executor, &[1; 5], &[1; 5], &mut out).is_err());
    assert!(expand(executor, &[0; 32], 0, 0, 2, 4, &mut out).is_err());
    assert!(expand(executor, &[0; 32], 0, u64::MAX - 1, 2, 3, &mut out).is_err());
    assert!(expand(executor, &[0; 32], 0, 0, 0, MAX_COLUMNS + 1, &mut []).is_err());
    assert!(expand(executor, &[0; 32], 0, 0, usize::MAX, 2, &mut out).is_err());
    assert!(dot(executor, &[1; 6], [&[1; 3], &[1; 2]], &mut [[0; 2]; 2]).is_err());
    assert!(dot(executor, &[1; 6], [&[1; 3], &[1; 3]], &mut [[0; 2]; 3]).is_err());
    assert!(dot(executor, &[1; 6], [&[P; 3], &[1; 3]], &mut [[0; 2]; 2]).is_err());
    assert!(lift(executor, &[1; 6], &[0; 3], 2, &mut [0; 4]).is_err());
    assert!(lift(executor, &[1; 6], &[1; 2], 2, &mut [0; 6]).is_err());
    assert!(lift(executor, &[1; 6], &[i64::MIN; 2], 2, &mut [0; 6]).is_err());
    assert!(lift(executor, &[1; 6], &[], 2, &mut [0; 6]).is_err());
    assert!(lift(executor, &[1; 6], &[0; 2], 0, &mut [0; 6]).is_err());

    let random = &mut Random(7);
    let (one, other) =
        (layer(random, Weights::Random, 3, 5, Activation::U8), layer(random, Weights::Random, 3, 6, Activation::U8));
    assert!(Vectors::random(executor, &other, &Parts::of(&one), |bytes| random.fill(bytes)).is_err());
    let stuck = Vectors::random(executor, &one, &Parts::of(&one), |bytes| bytes.fill(0xff));
    assert!(stuck.unwrap_err().0.contains("random"));
    let vectors = Vectors::random(executor, &one, &Parts::of(&one), |bytes| random.fill(bytes)).unwrap();
    assert_eq!(format!("{vectors:?}"), "Vectors(3 and 5 secret elements)");

    let server = server(executor, &one, false);
    assert!(matches!(server.multiply(&[0; 9], 2, &mut out), Err(ProductError::Shape(_))));
    assert!(matches!(server.multiply(&[0; 10], 2, &mut out[..5]), Err(ProductError::Shape(_))));
    assert!(matches!(server.multiply(&[P; 10], 2, &mut out), Err(ProductError::Shape(_))));
    assert!(server.multiply(&[P - 1; 10], 2, &mut out).is_ok());
}

/// So many outputs that chunks have few rows, or one.
#[test]
fn layers_of_many_outputs_agree() {
    let random = &mut Random(10);
    for (rows, outputs) in [(70, 20_000), (21, 200_000), (3, 1_200_000)] {
        let layer = layer(random, Weights::Random, outputs, 2, Activation::U8);
        let shares = random.elements(rows * 2);
        let mut want = vec![7; rows * outputs];
        reference::multiply(&layer, &Parts::of(&layer), &shares, rows, &mut want).unwrap();
        for elsewhere in [false, true] {
            let mut out = vec![9; want.len()];
            server(EXECUTORS.last().unwrap(), &layer, elsewhere).multiply(&shares, rows, &mut out).unwrap();
            assert!(out == want);
        }
    }
}

#[test]
fn what_a_backend_cannot_do_is_told() {
    struct Broken;
    impl Product for Broken {
        fn product_u8(&self, _: &[u8], _: usize, _: &mut [i32]) -> Result<(), ProductError> {
            Err(ProductError::Unavailable("no power".to_owned()))
        }
    }
    let executor = EXECUTORS.last().unwrap();
    let layer = layer(&mut Random(8), Weights::Most, 3, 300, Activation::U16);
    let broken = ShareProduct::new(Arc::clone(executor), &layer, |_| Ok::<_, Infallible>(Box::new(Broken) as _));
    let Ok(broken) = broken;
    let failed = broken.multiply(&[1; 300], 1, &mut [0; 6]);
    assert!(matches!(failed, Err(ProductError::Unavailable(_))), "{failed:?}");
    let refused = ShareProduct::new(Arc::clone(executor), &layer, |_| Err("too large"));
    assert_eq!(refused.unwrap_err(), "too large");
}

#[test]
fn many_callers_share_the_threads() {
    let random = &mut Random(9);
    let executor = EXECUTORS.last().unwrap();
    let layer = layer(random, Weights::Random, 48, 300, Activation::U16);
    let server = server(executor, &layer, false);
    let (rows, shares) = (64, random.elements(64 * 300));
    let mut want = vec![0; rows * server.columns()];
    reference::multiply(&layer, &Parts::of(&layer), &shares, rows, &mut want).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mut out = vec![0; want.len()];
                    server.multiply(&shares, rows, &mut out).unwrap();
                    assert_eq!(out, want);
                }
            });
        }
    });
}
