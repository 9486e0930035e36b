//! How fast the operations of a decoder are here: `make bench`, or `cargo bench --bench decode -- FILTER` for some.
//!
//! Shapes are those of SmolLM2-135M with random weights, on all threads. A token of generation reads every weight once,
//! so linear layers are measured over copies that no cache holds, and their throughput is in bytes of weights: beside
//! `memory/read` it says how near to the memory's own speed they are.
#![allow(missing_docs, clippy::expect_used, clippy::indexing_slicing)]

use criterion::{BenchmarkId, Criterion, Throughput};
use ostrakon_exact::simd::{CpuProduct, Executor, Level, Past};
use ostrakon_exact::{Layer, Lengths, Linear, Part, RmsNorm, Rotary};
use std::hint::black_box;
use std::time::Duration;

const HIDDEN: usize = 576;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const WIDTH: usize = 64;
const COLUMNS: usize = (HEADS + 2 * KV_HEADS) * WIDTH;
const INNER: usize = 1536;
const VOCABULARY: usize = 49_152;
/// More than the last-level cache of any machine this is run on.
const COLD: usize = 96 << 20;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0).collect()
    }
}

fn linear(random: &mut Random, outputs: usize, inputs: usize, activation: &str) -> Linear {
    let weight = (0..outputs * inputs).map(|_| ((random.next() % 255) as i16 - 127) as i8 as u8).collect();
    let part = |name: &str, dimensions: &[usize], data: Vec<u8>| Part {
        name: name.to_owned(),
        dimensions: dimensions.to_vec(),
        data: Box::new(data),
    };
    let parts = vec![
        part("weight", &[outputs, inputs], weight),
        part("scale", &[outputs], 0.01f32.to_le_bytes().repeat(outputs)),
    ];
    match Layer::from_parts("linear", activation, parts).expect("a valid layer") {
        Layer::Linear(layer) => layer,
        _ => unreachable!("asked for a linear layer"),
    }
}

fn memory(criterion: &mut Criterion, threads: usize) {
    let words: Vec<u64> = (0..COLD as u64 * 2 / 8).collect();
    let mut group = criterion.benchmark_group("memory");
    group.throughput(Throughput::Bytes(8 * words.len() as u64));
    group.bench_function(format!("read, {threads} threads"), |bencher| {
        bencher.iter(|| {
            std::thread::scope(|scope| {
                for part in words.chunks(words.len().div_ceil(threads)) {
                    scope.spawn(move || {
                        let mut lanes = [0u64; 16];
                        for chunk in part.as_chunks::<16>().0 {
                            lanes.iter_mut().zip(chunk).for_each(|(lane, &word)| *lane ^= word);
                        }
                        black_box(lanes);
                    });
                }
            });
        });
    });
}

fn products(criterion: &mut Criterion, executor: &Executor) {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let mut group = criterion.benchmark_group(format!("{}/decode", executor.level()));
    let shapes = [(COLUMNS, HIDDEN), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER), (VOCABULARY, HIDDEN)];
    for (outputs, inputs) in shapes {
        for activation in ["u8", "u16"] {
            let layer = linear(random, outputs, inputs, activation);
            let copies: Vec<CpuProduct> =
                (0..COLD.div_ceil(outputs * inputs)).map(|_| CpuProduct::new(&layer, executor)).collect();
            for rows in [1, 4, 16] {
                let x = random.floats(rows * inputs);
                let mut y = vec![0.0; rows * outputs];
                let mut products = copies.iter().cycle();
                group.throughput(Throughput::Bytes((outputs * inputs) as u64));
                group.bench_function(BenchmarkId::new(activation, format!("{rows}x{inputs}->{outputs}")), |bencher| {
                    bencher.iter(|| {
                        let product = products.next().expect("a cycle");
                        executor.linear(&layer, product, &x, rows, &mut y).expect("shapes fit");
                    });
                });
            }
        }
    }
}

fn attention(criterion: &mut Criterion, executor: &Executor) {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let mut group = criterion.benchmark_group(format!("{}/causal-attention", executor.level()));
    let attend = |qkv: &[f32], lengths: &[i32], pasts: &mut [&mut Past], y: &mut [f32]| {
        let rows = qkv.len() / COLUMNS;
        let lengths = Lengths::new(lengths, rows).expect("fits");
        let y = &mut y[..rows * HEADS * WIDTH];
        executor.causal_attention(qkv, &lengths, HEADS, KV_HEADS, WIDTH, pasts, y).expect("fits");
    };
    let past = || Past::new(KV_HEADS, WIDTH).expect("heads");
    let most = 8192;
    let qkv = random.floats(most * COLUMNS);
    let mut y = vec![0.0; most * HEADS * WIDTH];
    for rows in [64, 512, 2048] {
        let qkv = &qkv[..rows * COLUMNS];
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(format!("{rows} rows after 0"), |bencher| {
            bencher.iter(|| attend(qkv, &[rows as i32], &mut [&mut past()], &mut y));
        });
    }
    for (sequences, rows, before) in
        [(1, 1, 128), (1, 1, 1024), (1, 1, 8191), (1, 64, 8128), (16, 1, 128), (16, 1, 1024), (64, 1, 512)]
    {
        let mut first = past();
        attend(&qkv[..before * COLUMNS], &[before as i32], &mut [&mut first], &mut y);
        // Each sequence has memory of its own.
        let mut pasts: Vec<Past> = (0..sequences).map(|_| past()).collect();
        for past in &mut pasts {
            attend(&qkv[..before * COLUMNS], &[before as i32], &mut [past], &mut y);
        }
        let lengths = vec![rows as i32; sequences];
        let qkv = &qkv[..sequences * rows * COLUMNS];
        group.throughput(Throughput::Elements((sequences * rows) as u64));
        group.bench_function(format!("{sequences} x {rows} rows after {before}"), |bencher| {
            bencher.iter(|| {
                pasts.iter_mut().for_each(|past| past.truncate(before));
                attend(qkv, &lengths, &mut pasts.iter_mut().collect::<Vec<_>>(), &mut y);
            });
        });
    }
}

fn rows(criterion: &mut Criterion, executor: &Executor) {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let mut group = criterion.benchmark_group(executor.level().to_string());
    let norm = RmsNorm { gain: random.floats(HIDDEN), epsilon: 1e-5 };
    let rotary = Rotary { table: random.floats(2048 * WIDTH), positions: 2048, width: WIDTH, heads: HEADS + KV_HEADS };
    for rows in [1, 512] {
        let x = random.floats(rows * 2 * INNER);
        let mut y = vec![0.0; rows * 2 * INNER];
        let positions: Vec<i32> = (0..rows as i32).collect();
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(format!("rms-norm {rows}x{HIDDEN}"), |bencher| {
            let (x, y) = (&x[..rows * HIDDEN], &mut y[..rows * HIDDEN]);
            bencher.iter(|| executor.rms_norm(&norm, x, rows, y).expect("fits"));
        });
        group.bench_function(format!("rotary {rows}x{COLUMNS}"), |bencher| {
            let (x, y) = (&x[..rows * COLUMNS], &mut y[..rows * COLUMNS]);
            bencher.iter(|| executor.rotary(&rotary, x, &positions, COLUMNS, y).expect("fits"));
        });
        group.bench_function(format!("swiglu {rows}x{INNER}"), |bencher| {
            bencher.iter(|| executor.swiglu(&x, rows, INNER, &mut y[..rows * INNER]).expect("fits"));
        });
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    memory(&mut criterion, threads);
    // Plain scalar code is for agreement, not for speed.
    for level in Level::available().into_iter().filter(|&level| level != Level::Scalar) {
        let executor = Executor::new(level, threads).expect("an available level");
        products(&mut criterion, &executor);
        attention(&mut criterion, &executor);
        rows(&mut criterion, &executor);
    }
    criterion.final_summary();
}
