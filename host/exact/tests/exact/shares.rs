//! Products of secret shares: the fast functions give the bytes of the plain ones at every level, shares of any codes
//! recombine to the exact totals, and the check lets no changed answer pass.

use crate::EXECUTORS;
use crate::field::dotted;
use crate::random::Random;
use ostrakon_exact::field::{
    Field, Parts, ShareProduct, Vectors, add, dot, expand, expect_elements, lift, lift_u8, reference, subtract,
};
use ostrakon_exact::layer::MAX_WIDTH;
use ostrakon_exact::reference::accumulate;
use ostrakon_exact::simd::{CpuProduct, Executor, Product, ProductError};
use ostrakon_exact::{Activation, Layer, Linear, Part};
use proptest::prelude::*;
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

impl Random {
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

    /// From -most to most.
    fn weight(&mut self, most: i8) -> i8 {
        (self.below(2 * most as usize + 1) as i16 - i16::from(most)) as i8
    }
}

/// How the weights of a layer are.
#[derive(Debug, Clone, Copy)]
enum Weights {
    All(i8),
    Alternating,
    /// Small ones among zeros: wide layers of 16-bit codes fit the smaller field.
    Few,
    Random,
}

const WEIGHTS: [Weights; 5] =
    [Weights::All(127), Weights::All(-127), Weights::Alternating, Weights::Few, Weights::Random];

fn layer(random: &mut Random, weights: Weights, outputs: usize, inputs: usize, activation: Activation) -> Arc<Linear> {
    let weight = |i: usize| match weights {
        Weights::All(weight) => weight,
        Weights::Alternating => [127, -127][(i + i / inputs) % 2],
        Weights::Few if random.below(64) > 0 => 0,
        Weights::Few => random.weight(8),
        Weights::Random => random.weight(127),
    };
    let weight: Vec<u8> = (0..outputs * inputs).map(weight).map(|w| w as u8).collect();
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

/// How a layer is cut: its field, and whether into several parts.
type Cut = (Field, bool);

/// All there are: what does not fit the smaller field whole is not multiplied in it.
const CUTS: [Cut; 3] = [(Field::P24, false), (Field::P31, false), (Field::P31, true)];

fn cut(layer: &Linear) -> Cut {
    let parts = Parts::of(layer);
    (parts.field(), parts.ranges().len() > 1)
}

/// A layer of each of [`CUTS`], of random weights.
fn layers_of_each_cut(random: &mut Random, outputs: usize) -> [Arc<Linear>; 3] {
    let shapes = [(300, Activation::U8), (300, Activation::U16), (700, Activation::U16)];
    let layers = shapes.map(|(inputs, activation)| layer(random, Weights::Random, outputs, inputs, activation));
    assert_eq!(layers.each_ref().map(|layer| cut(layer)), CUTS);
    layers
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

/// Whether every server multiplies these shares as the reference does.
fn expect_products(layer: &Arc<Linear>, shares: &[u32], rows: usize) {
    let parts = Parts::of(layer);
    assert_eq!((parts.field(), parts.ranges().to_vec()), reference::parts(layer));
    let mut want = vec![7; rows * parts.columns()];
    reference::multiply(layer, &parts, shares, rows, &mut want).unwrap();
    for executor in EXECUTORS.iter() {
        for elsewhere in [false, true] {
            let server = server(executor, layer, elsewhere);
            let of_server = (server.field(), server.inputs(), server.columns());
            assert_eq!(of_server, (parts.field(), layer.inputs, parts.columns()));
            let mut out = vec![9; want.len()];
            server.multiply(shares, rows, &mut out).unwrap();
            assert_eq!(out, want);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_agree(
        rows in 0usize..60, outputs in 1usize..70, inputs in 1usize..900, kind in 0usize..10, seed: u64,
    ) {
        let mut random = Random(seed);
        let activation = [Activation::U8, Activation::U16][kind % 2];
        let layer = layer(&mut random, WEIGHTS[kind / 2], outputs, inputs, activation);
        let parts = Parts::of(&layer);
        let shares = random.elements(parts.field(), rows * inputs);
        expect_products(&layer, &shares, rows);
        for executor in EXECUTORS.iter() {
            let vectors = Vectors::random(executor, &layer, &parts, |bytes| random.fill(bytes)).unwrap();
            let v = reference::project(&layer, &parts, vectors.challenge());
            prop_assert_eq!(vectors.projection().map(<[u32]>::to_vec), v);
            for r in vectors.challenge() {
                prop_assert!(r.len() == parts.columns() && expect_elements(parts.field(), r).is_ok());
            }
        }
    }
}

/// Nearly the largest elements, whose sum is `low` modulo 2^24 or 2^31.
fn nearly_largest(field: Field, len: usize, low: u32) -> impl Iterator<Item = u32> {
    let largest = field.prime() - 1;
    let mut over = (u64::from(largest) * len as u64 - u64::from(low)) as u32 & field.mask();
    (0..len).map(move |_| {
        let less = over.min(largest);
        over -= less;
        largest - less
    })
}

#[test]
fn the_largest_products_of_every_cut_agree() {
    let mut random = Random(11);
    let cases = [
        // The most that a layer of the smaller field adds up to: 255 * 65,792 <= p - 1.
        (Weights::All(127), 518, Activation::U8, CUTS[0]),
        (Weights::All(-1), 65_792, Activation::U8, CUTS[0]),
        (Weights::All(-127), 2, Activation::U16, CUTS[0]),
        (Weights::Few, 700, Activation::U16, CUTS[0]),
        (Weights::All(-127), 519, Activation::U8, CUTS[1]),
        (Weights::All(-127), MAX_WIDTH, Activation::U8, CUTS[1]),
        (Weights::All(-127), 258, Activation::U16, CUTS[1]),
        (Weights::Alternating, 600, Activation::U16, CUTS[2]),
    ];
    for (weights, inputs, activation, wanted) in cases {
        let layer = layer(&mut random, weights, 2, inputs, activation);
        assert_eq!(cut(&layer), wanted, "{inputs} inputs, {weights:?}");
        let field = wanted.0;
        for shares in [vec![field.prime() - 1; 5 * inputs], random.elements(field, 5 * inputs)] {
            expect_products(&layer, &shares, 5);
        }
        // The high bits of a total take most from its low ones, which are all sorts of numbers.
        let rows = 300;
        let low = (0..rows).map(|row| field.mask() / rows * row);
        let shares: Vec<u32> = low.flat_map(|low| nearly_largest(field, inputs, low)).collect();
        expect_products(&layer, &shares, rows as usize);
    }
}

/// All of it: codes to shares, servers, check, recombination, totals.
fn shared(random: &mut Random, executor: &Arc<Executor>, layer: &Arc<Linear>, rows: usize, servers: usize) {
    let (inputs, parts) = (layer.inputs, Parts::of(layer));
    let field = parts.field();
    let codes = random.codes(rows * inputs, layer.activation);
    let vectors = Vectors::random(executor, layer, &parts, |bytes| random.fill(bytes)).unwrap();
    let mut shares = vec![codes.iter().map(|&x| u32::from(x)).collect::<Vec<u32>>()];
    for _ in 1..servers {
        let mut mask = vec![0; rows * inputs];
        expand(executor, field, &random.seed(), 3, 5, rows, inputs, &mut mask).unwrap();
        let covered = shares[0].clone();
        subtract(executor, field, &covered, &mask, &mut shares[0]).unwrap();
        shares.push(mask);
    }
    let mut sum = vec![0; rows * parts.columns()];
    for share in &shares {
        let mut answer = vec![0; sum.len()];
        server(executor, layer, servers == 3).multiply(share, rows, &mut answer).unwrap();
        let left = dotted(executor, field, &answer, vectors.challenge(), rows);
        assert_eq!(left, dotted(executor, field, share, vectors.projection(), rows));
        let before = sum.clone();
        add(executor, field, &before, &answer, &mut sum).unwrap();
    }
    let mut totals = vec![0; rows * layer.outputs];
    lift(executor, field, &sum, parts.least(), layer.outputs, &mut totals).unwrap();
    let want = codes
        .chunks_exact(inputs)
        .flat_map(|codes| layer.weight.as_slice().chunks_exact(inputs).map(|weight| accumulate(codes, weight)));
    assert_eq!(totals, want.collect::<Vec<i64>>());
    if layer.activation == Activation::U8 {
        let mut narrow = vec![0; totals.len()];
        lift_u8(executor, field, &sum, parts.least(), layer.outputs, &mut narrow).unwrap();
        assert_eq!(narrow.into_iter().map(i64::from).collect::<Vec<i64>>(), totals);
    }
}

#[test]
fn shares_recombine_to_the_exact_totals() {
    let mut random = Random(1);
    let mut met = HashSet::new();
    for activation in [Activation::U8, Activation::U16] {
        for weights in WEIGHTS {
            for servers in [2, 3, 5] {
                // With all weights at 127, 519 inputs of u8 are the first that need the larger field, and 259 of u16 the
                // first that need a cut; 1300 need six parts.
                for (rows, outputs, inputs) in
                    [(1, 1, 1), (3, 17, 258), (2, 5, 259), (4, 6, 518), (3, 7, 519), (9, 33, 1300)]
                {
                    let layer = layer(&mut random, weights, outputs, inputs, activation);
                    met.insert(cut(&layer));
                    let executor = &EXECUTORS[random.below(EXECUTORS.len())];
                    shared(&mut random, executor, &layer, rows, servers);
                }
            }
        }
    }
    assert_eq!(met, HashSet::from(CUTS));
}

#[test]
fn the_widest_layers_recombine() {
    let mut random = Random(2);
    let mut met = HashSet::new();
    for activation in [Activation::U8, Activation::U16] {
        for weights in WEIGHTS {
            let layer = layer(&mut random, weights, 2, MAX_WIDTH, activation);
            met.insert(cut(&layer));
            shared(&mut random, EXECUTORS.last().unwrap(), &layer, 2, 2);
        }
    }
    assert_eq!(met, HashSet::from(CUTS));
}

#[test]
fn columns_are_cut_where_they_must_be() {
    let parts = |inputs, weights, activation| Parts::of(&layer(&mut Random(4), weights, 3, inputs, activation));
    let whole = |inputs, weights, activation, field| {
        let parts = parts(inputs, weights, activation);
        assert_eq!((parts.field(), parts.ranges()), (field, std::slice::from_ref(&(0..inputs))), "{weights:?}");
    };
    let all = Weights::All;
    // In the smaller field 255 * 127 * 518 <= p - 1 < 255 * 127 * 519 and 65535 * 127 * 2 <= p - 1 < 65535 * 127 * 3.
    whole(518, all(127), Activation::U8, Field::P24);
    whole(519, all(127), Activation::U8, Field::P31);
    whole(2, all(-127), Activation::U16, Field::P24);
    whole(3, all(-127), Activation::U16, Field::P31);
    // To the last weight: 255 * 65,792 = p - 253 and 65535 * 256 = p - 253; 255 * 65,793 = p + 2.
    whole(65_792, all(-1), Activation::U8, Field::P24);
    whole(65_793, all(-1), Activation::U8, Field::P31);
    whole(256, all(1), Activation::U16, Field::P24);
    whole(257, all(1), Activation::U16, Field::P31);
    // In the larger one 65535 * 127 * 258 <= p - 1 < 65535 * 127 * 259; 255 * 127 * 66,000 < p.
    whole(258, all(127), Activation::U16, Field::P31);
    whole(MAX_WIDTH, all(127), Activation::U8, Field::P31);
    assert_eq!(parts(600, Weights::Alternating, Activation::U16).ranges(), [0..258, 258..516, 516..600]);
    let cut = parts(259, all(-127), Activation::U16);
    assert_eq!((cut.field(), cut.ranges()), (Field::P31, [0..258, 258..259].as_slice()));
    assert_eq!(cut.least()[..3], [-65_535 * 127 * 258; 3]);
    assert_eq!(cut.least()[3..], [-65_535 * 127; 3]);
    assert_eq!(cut.columns(), 6);
    assert_eq!(parts(518, all(-127), Activation::U8).least(), [-255 * 127 * 518; 3]);
    assert_eq!(parts(518, all(127), Activation::U8).least(), [0; 3]);
}

#[test]
fn no_changed_answer_passes() {
    let mut random = Random(5);
    for layer in layers_of_each_cut(&mut random, 20) {
        expect_changes_seen(&mut random, &layer);
    }
}

fn expect_changes_seen(random: &mut Random, layer: &Arc<Linear>) {
    let executor = EXECUTORS.last().unwrap();
    let parts = Parts::of(layer);
    let (rows, columns, field, p) = (6, parts.columns(), parts.field(), parts.field().prime());
    let vectors = Vectors::random(executor, layer, &parts, |bytes| random.fill(bytes)).unwrap();
    let mut share = vec![0; rows * layer.inputs];
    expand(executor, field, &random.seed(), 0, 0, rows, layer.inputs, &mut share).unwrap();
    let mut honest = vec![0; rows * columns];
    server(executor, layer, false).multiply(&share, rows, &mut honest).unwrap();
    let right = dotted(executor, field, &share, vectors.projection(), rows);
    let left = |answer: &[u32]| dotted(executor, field, answer, vectors.challenge(), rows);
    assert_eq!(left(&honest), right);
    // Exactly the changed rows fail.
    let expect = |answer: &[u32], what: &str| {
        let failed: Vec<bool> = left(answer).iter().zip(&right).map(|(left, right)| left != right).collect();
        let changed: Vec<bool> =
            answer.chunks(columns).zip(honest.chunks(columns)).map(|(answer, honest)| answer != honest).collect();
        assert!(changed.contains(&true) && failed == changed, "{what} in {field:?}");
    };
    let plus = |answer: &mut [u32], at: usize, by: u32| {
        answer[at] = ((u64::from(answer[at]) + u64::from(by)) % u64::from(p)) as u32;
    };
    for at in 0..honest.len() {
        for by in [1, 2, 1 << 16, p / 2 + 1, p - 1] {
            let mut answer = honest.clone();
            plus(&mut answer, at, by);
            expect(&answer, "one element");
        }
        // The same class modulo p, but no element; and p less, which wraps.
        for other in [honest[at] + p, honest[at].wrapping_sub(p)] {
            let mut answer = honest.clone();
            answer[at] = other;
            assert!(expect_elements(field, &answer).is_err());
            assert!(dot(executor, field, &answer, vectors.challenge(), &mut vec![[0; 2]; rows]).is_err());
        }
        // The row keeps its sum.
        let other = at / columns * columns + (at + 1) % columns;
        let mut answer = honest.clone();
        plus(&mut answer, at, 77);
        plus(&mut answer, other, p - 77);
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
            plus(&mut answer, at, 1 + random.below(p as usize - 1) as u32);
        }
        expect(&answer, "random changes");
    }
}

#[test]
fn bad_arguments_are_refused() {
    let executor = EXECUTORS.last().unwrap();
    let random = &mut Random(7);
    for one in layers_of_each_cut(random, 3) {
        let (parts, inputs) = (Parts::of(&one), one.inputs);
        let (columns, p) = (parts.columns(), parts.field().prime());
        let other = layer(random, Weights::Random, 3, inputs + 1, one.activation);
        assert!(Vectors::random(executor, &other, &parts, |bytes| random.fill(bytes)).is_err());
        let stuck = Vectors::random(executor, &one, &parts, |bytes| bytes.fill(0xff));
        assert!(stuck.unwrap_err().0.contains("random"));
        let vectors = Vectors::random(executor, &one, &parts, |bytes| random.fill(bytes)).unwrap();
        assert_eq!(format!("{vectors:?}"), format!("Vectors({columns} and {inputs} secret elements)"));

        for elsewhere in [false, true] {
            let server = server(executor, &one, elsewhere);
            let mut out = vec![0; 2 * columns];
            let mut refused = |share: &[u32], len: usize| {
                matches!(server.multiply(share, 2, &mut out[..len]), Err(ProductError::Shape(_)))
            };
            assert!(refused(&vec![0; 2 * inputs - 1], 2 * columns));
            assert!(refused(&vec![0; 2 * inputs], 2 * columns - 1));
            // One of them is no element: of the smaller field it is one of the larger.
            let mut share = vec![p - 1; 2 * inputs];
            assert!(server.multiply(&share, 2, &mut vec![0; 2 * columns]).is_ok());
            for bad in [p, p + 1, u32::MAX] {
                share[inputs + 1] = bad;
                assert!(refused(&share, 2 * columns));
            }
        }
    }
}

#[test]
fn numbers_past_p_are_not_drawn() {
    let executor = EXECUTORS.last().unwrap();
    for layer in layers_of_each_cut(&mut Random(12), 3) {
        let parts = Parts::of(&layer);
        let (p, mask) = (parts.field().prime(), parts.field().mask());
        // Bits above an element's do not count.
        let mut words = [p, u32::MAX, p - 1, !mask | 7].into_iter().cycle();
        let fill = |bytes: &mut [u8]| {
            bytes.as_chunks_mut().0.iter_mut().zip(&mut words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
        };
        let vectors = Vectors::random(executor, &layer, &parts, fill).unwrap();
        let want: Vec<u32> = [p - 1, 7].into_iter().cycle().take(2 * parts.columns()).collect();
        assert_eq!(vectors.challenge().concat(), want);
    }
}

/// So many outputs that chunks have few rows, or one.
#[test]
fn layers_of_many_outputs_agree() {
    let random = &mut Random(10);
    for (inputs, activation, field) in [(2, Activation::U8, Field::P24), (3, Activation::U16, Field::P31)] {
        for (rows, outputs) in [(70, 20_000), (21, 200_000), (3, 1_200_000)] {
            let layer = layer(random, Weights::Random, outputs, inputs, activation);
            let parts = Parts::of(&layer);
            assert_eq!(parts.field(), field);
            let shares = random.elements(field, rows * inputs);
            let mut want = vec![7; rows * outputs];
            reference::multiply(&layer, &parts, &shares, rows, &mut want).unwrap();
            for elsewhere in [false, true] {
                let mut out = vec![9; want.len()];
                server(EXECUTORS.last().unwrap(), &layer, elsewhere).multiply(&shares, rows, &mut out).unwrap();
                assert!(out == want);
            }
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
    for layer in layers_of_each_cut(&mut Random(8), 3) {
        let broken = ShareProduct::new(Arc::clone(executor), &layer, |_| Ok::<_, Infallible>(Box::new(Broken) as _));
        let Ok(broken) = broken;
        let failed = broken.multiply(&vec![1; layer.inputs], 1, &mut vec![0; broken.columns()]);
        assert!(matches!(failed, Err(ProductError::Unavailable(_))), "{failed:?}");
        let refused = ShareProduct::new(Arc::clone(executor), &layer, |_| Err("too large"));
        assert_eq!(refused.unwrap_err(), "too large");
    }
}

#[test]
fn many_callers_share_the_threads() {
    let random = &mut Random(9);
    let executor = EXECUTORS.last().unwrap();
    let rows = 64;
    let calls = layers_of_each_cut(random, 48).map(|layer| {
        let parts = Parts::of(&layer);
        let shares = random.elements(parts.field(), rows * layer.inputs);
        let mut want = vec![0; rows * parts.columns()];
        reference::multiply(&layer, &parts, &shares, rows, &mut want).unwrap();
        (server(executor, &layer, false), shares, want)
    });
    // At the same time, so that what a thread keeps from one layer serves the next.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (server, shares, want) in calls.iter().cycle().take(3 * 20) {
                    let mut out = vec![0; want.len()];
                    server.multiply(shares, rows, &mut out).unwrap();
                    assert_eq!(&out, want);
                }
            });
        }
    });
}
