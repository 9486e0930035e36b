//! Every operation gives the bytes of the reference, at every level of this machine, on one thread and
//! on two, whatever the values.

use crate::EXECUTORS;
use crate::random::Random;
use ostrakon_exact::layer::MAX_WIDTH;
use ostrakon_exact::reference;
use ostrakon_exact::simd::{
    AttentionProducts, CpuProduct, Executor, HeadOf, Level, LinearError, PlainAttention, Product, ProductError,
    self_test,
};
use ostrakon_exact::{Embedding, Layer, LayerNorm, Lengths, Linear, Part};
use proptest::prelude::*;

impl Random {
    fn finite(&mut self, n: usize, limit: f32) -> Vec<f32> {
        (0..n)
            .map(|_| match self.below(8) {
                0 => [0.0, -0.0, limit, -limit, 1e-40, 1e-20][self.below(6)],
                _ => self.usual(),
            })
            .collect()
    }
}

fn part(name: &str, dimensions: &[usize], data: Vec<u8>) -> Part {
    Part { name: name.to_owned(), dimensions: dimensions.to_vec(), data: Box::new(data) }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn linear(random: &mut Random, outputs: usize, inputs: usize, activation: &str) -> Linear {
    let extreme = random.below(4);
    let weight = (0..outputs * inputs)
        .map(|_| match extreme {
            0 => 127u8,
            1 => [127i8, -127][random.below(2)] as u8,
            _ => ((random.next() % 255) as i16 - 127) as i8 as u8,
        })
        .collect();
    let mut parts = vec![
        part("weight", &[outputs, inputs], weight),
        part("scale", &[outputs], floats(&random.finite(outputs, (1u64 << 30) as f32))),
    ];
    if random.below(2) == 0 {
        parts.push(part("bias", &[outputs], floats(&random.finite(outputs, (1u64 << 60) as f32))));
    }
    if random.below(2) == 0 {
        parts.push(part("prescale", &[inputs], floats(&random.finite(inputs, (1u64 << 30) as f32))));
    }
    match Layer::from_parts("linear", activation, parts).unwrap() {
        Layer::Linear(layer) => layer,
        _ => unreachable!(),
    }
}

fn norm(random: &mut Random, width: usize) -> LayerNorm {
    LayerNorm {
        gain: random.finite(width, (1u64 << 30) as f32),
        bias: random.finite(width, (1u64 << 60) as f32),
        epsilon: [1e-12, 1e-18, 1.0][random.below(3)],
    }
}

fn embedding(random: &mut Random, rows: usize, width: usize) -> Embedding {
    let codes = (0..rows * width).map(|_| ((random.next() % 255) as i16 - 127) as i8 as u8).collect();
    let scale = random.finite(rows, (1u64 << 30) as f32);
    let parts = vec![part("weight", &[rows, width], codes), part("scale", &[rows], floats(&scale))];
    match Layer::from_parts("embedding", "", parts).unwrap() {
        Layer::Embedding(layer) => layer,
        _ => unreachable!(),
    }
}

/// Run the reference and every executor on outputs filled with rubbish; all bytes must be equal, and
/// finite.
pub(crate) fn agree(
    len: usize,
    reference: impl Fn(&mut [f32]),
    mut fast: impl FnMut(&Executor, &mut [f32]),
) -> Result<(), TestCaseError> {
    let mut want = vec![f32::NAN; len];
    reference(&mut want);
    if let Some(i) = want.iter().position(|y| !y.is_finite()) {
        return Err(TestCaseError::fail(format!("the reference gives {} at {i}", want[i])));
    }
    for executor in EXECUTORS.iter() {
        let mut got = vec![f32::NAN; len];
        fast(executor, &mut got);
        if let Some(i) = (0..len).find(|&i| got[i].to_bits() != want[i].to_bits()) {
            let (level, threads) = (executor.level(), executor.threads());
            return Err(TestCaseError::fail(format!(
                "{level}, {threads} threads: element {i} is {:?}, the reference gives {:?}",
                got[i], want[i]
            )));
        }
    }
    Ok(())
}

fn agree_linear(layer: &Linear, x: &[f32], rows: usize) -> Result<(), TestCaseError> {
    agree(
        rows * layer.outputs,
        |out| reference::linear(layer, x, rows, out).unwrap(),
        |executor, out| {
            let product = CpuProduct::new(layer, executor);
            executor.linear(layer, &product, x, rows, out).unwrap();
            // And where the product is done elsewhere.
            let mut apart = vec![f32::NAN; out.len()];
            executor.linear(layer, &Plain(product), x, rows, &mut apart).unwrap();
            assert!(out.iter().zip(&apart).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", executor.level());
        },
    )
}

/// Only the duty of a product, nothing overridden.
struct Plain(CpuProduct);

impl Product for Plain {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        self.0.product_u8(codes, rows, totals)
    }
}

fn activation() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("u8"), Just("u16")]
}

fn lengths(most: i32) -> impl Strategy<Value = Vec<i32>> {
    prop::collection::vec(1..most, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn linear_agrees(rows in 0usize..40, outputs in 1usize..70, inputs in 1usize..150, activation in activation(), seed: u64) {
        let random = &mut Random(seed);
        let layer = linear(random, outputs, inputs, activation);
        agree_linear(&layer, &random.rows(rows, inputs), rows)?;
    }

    #[test]
    fn add_and_gelu_agree(n in 0usize..300, seed: u64) {
        let random = &mut Random(seed);
        let (a, b) = (random.rows(1, n), random.rows(1, n));
        agree(n, |out| reference::add(&a, &b, out).unwrap(), |e, out| e.add(&a, &b, out).unwrap())?;
        agree(n, |out| reference::gelu(&a, out).unwrap(), |e, out| e.gelu(&a, out).unwrap())?;
    }

    #[test]
    fn norms_agree(rows in 0usize..20, width in 1usize..120, residual: bool, seed: u64) {
        let random = &mut Random(seed);
        let layer = norm(random, width);
        let (x, r) = (random.rows(rows, width), random.rows(rows, width));
        let r = residual.then_some(r.as_slice());
        agree(
            x.len(),
            |out| reference::layer_norm(&layer, &x, r, rows, out).unwrap(),
            |e, out| e.layer_norm(&layer, &x, r, rows, out).unwrap(),
        )?;
        agree(
            x.len(),
            |out| reference::l2_normalise(&x, rows, width, out).unwrap(),
            |e, out| e.l2_normalise(&x, rows, width, out).unwrap(),
        )?;
    }

    #[test]
    fn embedding_agrees(rows in 1usize..30, width in 1usize..80, count in 0usize..30, seed: u64) {
        let random = &mut Random(seed);
        let layer = embedding(random, rows, width);
        let ids: Vec<i32> = (0..count).map(|_| random.below(rows) as i32).collect();
        agree(
            count * width,
            |out| reference::embedding(&layer, &ids, out).unwrap(),
            |e, out| e.embedding(&layer, &ids, out).unwrap(),
        )?;
    }

    #[test]
    fn pools_agree(lengths in lengths(40), width in 1usize..80, seed: u64) {
        let random = &mut Random(seed);
        let rows = lengths.iter().sum::<i32>() as usize;
        let x = random.rows(rows, width);
        let lengths = Lengths::new(&lengths, rows).unwrap();
        agree(
            lengths.sequences() * width,
            |out| reference::mean_pool(&x, &lengths, width, out).unwrap(),
            |e, out| e.mean_pool(&x, &lengths, width, out).unwrap(),
        )?;
        agree(
            lengths.sequences() * width,
            |out| reference::first_pool(&x, &lengths, width, out).unwrap(),
            |e, out| e.first_pool(&x, &lengths, width, out).unwrap(),
        )?;
        let wanted: Vec<usize> = lengths.iter().map(|length| random.below(length + 1)).collect();
        agree(
            wanted.iter().sum::<usize>() * width,
            |out| reference::last_rows(&x, &lengths, &wanted, width, out).unwrap(),
            |e, out| e.last_rows(&x, &lengths, &wanted, width, out).unwrap(),
        )?;
    }

    #[test]
    fn attention_agrees(lengths in lengths(60), heads in 1usize..4, d in 1usize..40, seed: u64) {
        attention_case(&lengths, heads, d, seed)?;
    }

    #[test]
    fn limbs_agree_with_the_native_product(rows in 0usize..9, outputs in 1usize..40, inputs in 1usize..700, seed: u64) {
        let random = &mut Random(seed);
        let layer = linear(random, outputs, inputs, "u16");
        let codes: Vec<u16> = (0..rows * inputs).map(|_| random.next() as u16).collect();
        let x = random.rows(rows, inputs);
        let mut want = vec![0.0; rows * outputs];
        reference::linear(&layer, &x, rows, &mut want).unwrap();
        for executor in EXECUTORS.iter() {
            let native = CpuProduct::new(&layer, executor);
            let plain = Plain(CpuProduct::new(&layer, executor));
            let (mut a, mut b) = (vec![-1i64; rows * outputs], vec![-2i64; rows * outputs]);
            native.product_u16(&codes, rows, &mut a).unwrap();
            plain.product_u16(&codes, rows, &mut b).unwrap();
            prop_assert_eq!(&a, &b);

            let mut got = vec![f32::NAN; rows * outputs];
            executor.linear(&layer, &plain, &x, rows, &mut got).unwrap();
            prop_assert!(got.iter().zip(&want).all(|(g, w)| g.to_bits() == w.to_bits()));
        }
    }
}

fn attention_case(lengths: &[i32], heads: usize, d: usize, seed: u64) -> Result<(), TestCaseError> {
    let random = &mut Random(seed);
    let rows = lengths.iter().sum::<i32>() as usize;
    let width = heads * d;
    let qkv = random.rows(rows, 3 * width);
    let lengths = Lengths::new(lengths, rows).unwrap();
    agree(
        rows * width,
        |out| reference::attention(&qkv, &lengths, width, heads, out).unwrap(),
        |e, out| e.attention(&qkv, &lengths, width, heads, out).unwrap(),
    )?;
    agree_attention_elsewhere(&qkv, &lengths, width, heads)
}

fn agree_attention_elsewhere(qkv: &[f32], lengths: &Lengths, width: usize, heads: usize) -> Result<(), TestCaseError> {
    agree(
        qkv.len() / 3,
        |out| reference::attention(qkv, lengths, width, heads, out).unwrap(),
        |e, out| e.attention_with(qkv, lengths, width, heads, &PlainAttention::new(e), out).unwrap(),
    )
}

#[test]
fn linear_agrees_on_the_shapes_that_are_split_between_threads() {
    let random = &mut Random(5);
    for activation in ["u8", "u16"] {
        for (rows, outputs, inputs) in [(1, 500, 900), (7, 97, 1201), (50, 40, 515), (49, 33, 517), (130, 120, 96)] {
            let layer = linear(random, outputs, inputs, activation);
            agree_linear(&layer, &random.rows(rows, inputs), rows).unwrap();
        }
    }
}

#[test]
fn linear_agrees_at_the_bound_of_its_width() {
    for activation in ["u8", "u16"] {
        for sign in [127i8, -127] {
            let parts = vec![
                part("weight", &[3, MAX_WIDTH], vec![sign as u8; 3 * MAX_WIDTH]),
                part("scale", &[3], floats(&[1.0, -2.0, 1e-3])),
            ];
            let Ok(Layer::Linear(layer)) = Layer::from_parts("linear", activation, parts) else { unreachable!() };
            for (low, high) in [(0.0, 1.0), (-1.0, 0.0), (-1.0, 1.0)] {
                let mut x = vec![high; 2 * MAX_WIDTH];
                x[0] = low;
                x[MAX_WIDTH..].fill(low);
                agree_linear(&layer, &x, 2).unwrap();
            }
        }
    }
}

#[test]
fn attention_agrees_where_its_sums_are_largest() {
    // Equal keys give every key the largest weight, equal values the largest code.
    for length in [1, 15, 63, 64, 65, 66, 129, 300] {
        for value in [1.0, -1.0] {
            let (heads, d) = (2, 33);
            let qkv = vec![value; length * 3 * heads * d];
            let lengths = Lengths::new(&[length as i32], length).unwrap();
            agree(
                length * heads * d,
                |out| reference::attention(&qkv, &lengths, heads * d, heads, out).unwrap(),
                |e, out| e.attention(&qkv, &lengths, heads * d, heads, out).unwrap(),
            )
            .unwrap();
            agree_attention_elsewhere(&qkv, &lengths, heads * d, heads).unwrap();
        }
    }
    for (lengths, heads, d) in [(&[200, 3][..], 3, 32), (&[1][..], 1, 128), (&[130][..], 2, 128), (&[5; 20][..], 4, 16)]
    {
        attention_case(lengths, heads, d, 11).unwrap();
    }
}

#[test]
fn long_rows_agree() {
    let random = &mut Random(3);
    for (rows, width) in [(1, MAX_WIDTH), (3, 5000), (40, 1000)] {
        for x in [random.rows(rows, width), vec![1.0; rows * width], vec![-3.999_999_8; rows * width]] {
            let layer = norm(random, width);
            agree(
                x.len(),
                |out| reference::layer_norm(&layer, &x, None, rows, out).unwrap(),
                |e, out| e.layer_norm(&layer, &x, None, rows, out).unwrap(),
            )
            .unwrap();
            agree(x.len(), |out| reference::gelu(&x, out).unwrap(), |e, out| e.gelu(&x, out).unwrap()).unwrap();
            let lengths = Lengths::new(&[(rows * width) as i32], rows * width).unwrap();
            agree(
                1,
                |out| reference::mean_pool(&x, &lengths, 1, out).unwrap(),
                |e, out| e.mean_pool(&x, &lengths, 1, out).unwrap(),
            )
            .unwrap();
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let random = &mut Random(1);
    let layer = linear(random, 3, 5, "u8");
    let table = embedding(random, 4, 2);
    let lengths = Lengths::new(&[2], 2).unwrap();
    for executor in EXECUTORS.iter() {
        let product = CpuProduct::new(&layer, executor);
        let out = &mut [0.0; 6][..];
        assert!(matches!(executor.linear(&layer, &product, &[0.0; 9], 2, out), Err(LinearError::Shape(_))));
        assert!(matches!(executor.linear(&layer, &product, &[0.0; 5], 1, out), Err(LinearError::Shape(_))));
        assert!(product.product_u8(&[0; 9], 2, &mut [0; 6]).is_err());
        assert!(product.product_u16(&[0; 10], 2, &mut [0; 7]).is_err());
        assert!(executor.embedding(&table, &[0, 4, 1], out).is_err());
        assert!(executor.embedding(&table, &[0, -1, 1], out).is_err());
        assert!(executor.embedding(&table, &[0], out).is_err());
        assert!(executor.gelu(&[0.0; 5], out).is_err());
        assert!(executor.add(&[0.0; 6], &[0.0; 5], out).is_err());
        assert!(executor.l2_normalise(&[0.0; 6], 2, 2, out).is_err());
        let wide = vec![1.0; MAX_WIDTH + 1];
        assert!(executor.l2_normalise(&wide, 1, wide.len(), &mut wide.clone()).is_err());
        assert!(reference::l2_normalise(&wide, 1, wide.len(), &mut wide.clone()).is_err());
        assert!(executor.mean_pool(&[0.0; 6], &lengths, 2, &mut [0.0; 2]).is_err());
        assert!(executor.first_pool(&[0.0; 4], &lengths, 2, &mut [0.0; 3]).is_err());
        for (wanted, rows) in [(vec![1], 2), (vec![3], 3), (vec![1, 1], 2), (vec![], 0), (vec![usize::MAX], 1)] {
            let out = &mut vec![0.0; 2 * rows];
            assert!(executor.last_rows(&[0.0; 4], &lengths, &wanted, 2, out).is_err(), "{wanted:?}");
            assert!(reference::last_rows(&[0.0; 4], &lengths, &wanted, 2, out).is_err(), "{wanted:?}");
        }
        assert!(executor.attention(&[0.0; 12], &lengths, 2, 0, &mut [0.0; 4]).is_err());
        assert!(executor.attention(&[0.0; 12], &lengths, 3, 2, &mut [0.0; 4]).is_err());
        assert!(executor.attention(&[0.0; 11], &lengths, 2, 1, &mut [0.0; 4]).is_err());
        assert!(executor.attention(&vec![0.0; 2 * 3 * 129], &lengths, 129, 1, &mut [0.0; 258]).is_err());
    }
}

#[test]
fn a_product_that_fails_is_an_error_not_an_answer() {
    struct Lost;
    impl Product for Lost {
        fn product_u8(&self, _: &[u8], _: usize, _: &mut [i32]) -> Result<(), ProductError> {
            Err(ProductError::Unavailable("the line is dead".to_owned()))
        }
    }
    for activation in ["u8", "u16"] {
        let layer = linear(&mut Random(2), 3, 5, activation);
        let error = EXECUTORS[0].linear(&layer, &Lost, &[0.0; 5], 1, &mut [0.0; 3]).unwrap_err();
        assert!(error.to_string().contains("the line is dead"), "{error}");
    }
}

#[test]
fn attention_products_are_asked_for_in_order_and_may_fail() {
    struct Asked(std::sync::Mutex<Vec<(bool, HeadOf)>>);
    impl AttentionProducts for Asked {
        fn scores(
            &self,
            at: HeadOf,
            queries: &[i16],
            keys: &[i16],
            rows: usize,
            d: usize,
            totals: &mut [i32],
        ) -> Result<(), ProductError> {
            self.0.lock().unwrap().push((true, at));
            PlainAttention::new(&EXECUTORS[0]).scores(at, queries, keys, rows, d, totals)
        }
        fn weighted(
            &self,
            at: HeadOf,
            _: &[i16],
            _: &[i16],
            _: usize,
            _: usize,
            _: &mut [i64],
        ) -> Result<(), ProductError> {
            self.0.lock().unwrap().push((false, at));
            if at == (HeadOf { sequence: 1, head: 1 }) {
                return Err(ProductError::Wrong("a liar".to_owned()));
            }
            Ok(())
        }
    }
    let asked = Asked(std::sync::Mutex::default());
    let lengths = Lengths::new(&[2, 1, 3], 6).unwrap();
    let error = EXECUTORS[0].attention_with(&[1.0; 6 * 12], &lengths, 4, 2, &asked, &mut [0.0; 24]).unwrap_err();
    assert!(matches!(&error, LinearError::Product(ProductError::Wrong(why)) if why == "a liar"), "{error}");
    let order = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(sequence, head)| HeadOf { sequence, head });
    let want: Vec<_> = order.into_iter().flat_map(|at| [(true, at), (false, at)]).collect();
    assert_eq!(*asked.0.lock().unwrap(), want);

    let plain = PlainAttention::new(&EXECUTORS[0]);
    assert!(plain.scores(order[0], &[0; 4], &[0; 4], 2, 2, &mut [0; 3]).is_err());
    assert!(plain.weighted(order[0], &[0; 4], &[0; 3], 2, 2, &mut [0; 4]).is_err());
    for executor in EXECUTORS.iter() {
        let plain = PlainAttention::new(executor);
        assert!(executor.attention_with(&[0.0; 12], &lengths, 2, 0, &plain, &mut [0.0; 4]).is_err());
        assert!(executor.attention_with(&[0.0; 11], &lengths, 2, 1, &plain, &mut [0.0; 4]).is_err());
    }
}

#[test]
fn every_level_passes_the_self_test() {
    for executor in EXECUTORS.iter().filter(|e| e.threads() == 1) {
        self_test(&|layer| Box::new(CpuProduct::new(layer, executor))).unwrap();
        self_test(&|layer| Box::new(Plain(CpuProduct::new(layer, executor)))).unwrap();
    }
}

#[test]
fn the_self_test_finds_kernels_that_saturate_or_round() {
    /// Adds pairs of products in 16 bits, as `vpmaddubsw` does.
    struct Saturating(Vec<i8>, usize);
    /// Adds in f32.
    struct Float(Vec<i8>, usize);
    impl Product for Saturating {
        fn product_u8(&self, codes: &[u8], _: usize, totals: &mut [i32]) -> Result<(), ProductError> {
            let weights = || self.0.chunks_exact(self.1);
            let all = codes.chunks_exact(self.1).flat_map(|row| weights().map(move |w| (row, w)));
            for (total, (row, weight)) in totals.iter_mut().zip(all) {
                *total = row.chunks(2).zip(weight.chunks(2)).fold(0, |sum, (c, w)| {
                    let pair: i32 = c.iter().zip(w).map(|(&c, &w)| i32::from(c) * i32::from(w)).sum();
                    sum + pair.clamp(-32768, 32767)
                });
            }
            Ok(())
        }
    }
    impl Product for Float {
        fn product_u8(&self, codes: &[u8], _: usize, totals: &mut [i32]) -> Result<(), ProductError> {
            let weights = || self.0.chunks_exact(self.1);
            let all = codes.chunks_exact(self.1).flat_map(|row| weights().map(move |w| (row, w)));
            for (total, (row, weight)) in totals.iter_mut().zip(all) {
                *total = row.iter().zip(weight).fold(0.0f32, |sum, (&c, &w)| sum + f32::from(c) * f32::from(w)) as i32;
            }
            Ok(())
        }
    }
    let weights = |layer: &Linear| layer.weight.as_slice().to_vec();
    assert!(self_test(&|layer| Box::new(Saturating(weights(layer), layer.inputs))).is_err());
    assert!(self_test(&|layer| Box::new(Float(weights(layer), layer.inputs))).is_err());
}

#[test]
fn executors_that_cannot_be_are_refused() {
    assert!(Executor::new(Level::detect(), 0).is_err());
    assert!(Executor::new(Level::detect(), 100_000).is_err());
    for level in [Level::Scalar, Level::Avx2, Level::Avx512] {
        assert_eq!(Level::from_name(level.name()), Some(level));
        assert_eq!(Executor::new(level, 1).is_ok(), Level::available().contains(&level));
    }
}
