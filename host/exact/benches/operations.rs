//! How fast the exact operations are here, each at every SIMD level of this machine: `make bench`, or
//! `cargo bench --bench operations -- FILTER` for some of them.
//!
//! Shapes are those of all-MiniLM-L6-v2 with random weights; `forward` is all six of its encoders, one operation
//! after another on all threads, no WebAssembly around them.
#![allow(missing_docs, clippy::expect_used, clippy::indexing_slicing)]

use criterion::{BenchmarkId, Criterion, Throughput};
use ostrakon_exact::field::{self, Parts, ShareProduct, Vectors};
use ostrakon_exact::simd::{CpuProduct, Executor, Level, Product};
use ostrakon_exact::{Embedding, Layer, LayerNorm, Lengths, Linear, Part};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

const WIDTH: usize = 384;
const HEADS: usize = 12;
const LAYERS: usize = 6;
const ROWS: usize = 128;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// About normal, of deviation 1.
    fn normal(&mut self) -> f32 {
        let sum: u64 = (0..4).map(|_| self.next() >> 40).sum();
        (sum as f32 / (1u64 << 24) as f32 - 2.0) * 1.7
    }

    fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

fn part(name: &str, dimensions: &[usize], data: Vec<u8>) -> Part {
    Part { name: name.to_owned(), dimensions: dimensions.to_vec(), data: Box::new(data) }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn linear(random: &mut Random, outputs: usize, inputs: usize, activation: &str) -> Linear {
    let weight = (0..outputs * inputs).map(|_| (random.normal() * 34.0).clamp(-127.0, 127.0) as i8 as u8).collect();
    let parts = vec![
        part("weight", &[outputs, inputs], weight),
        part("scale", &[outputs], floats(&vec![1.0 / (34.0 * (inputs as f32).sqrt()); outputs])),
        part("bias", &[outputs], floats(&random.normals(outputs))),
    ];
    match Layer::from_parts("linear", activation, parts).expect("a valid layer") {
        Layer::Linear(layer) => layer,
        _ => unreachable!("asked for a linear layer"),
    }
}

fn embedding(random: &mut Random, rows: usize) -> Embedding {
    let weight = (0..rows * WIDTH).map(|_| (random.next() % 127) as u8).collect();
    let parts = vec![part("weight", &[rows, WIDTH], weight), part("scale", &[rows], floats(&vec![0.01; rows]))];
    match Layer::from_parts("embedding", "", parts).expect("a valid layer") {
        Layer::Embedding(layer) => layer,
        _ => unreachable!("asked for an embedding"),
    }
}

fn norm() -> LayerNorm {
    LayerNorm { gain: vec![1.0; WIDTH], bias: vec![0.0; WIDTH], epsilon: 1e-12 }
}

fn products(criterion: &mut Criterion, executor: &Executor) {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let mut group = criterion.benchmark_group(format!("{}/linear", executor.level()));
    let shapes =
        [(ROWS, 1152, 384), (ROWS, 384, 384), (ROWS, 1536, 384), (ROWS, 384, 1536), (1, 1152, 384), (8, 384, 1536)];
    for (rows, outputs, inputs) in shapes {
        for activation in ["u8", "u16"] {
            let layer = linear(random, outputs, inputs, activation);
            let product = CpuProduct::new(&layer, executor);
            let x = random.normals(rows * inputs);
            let mut y = vec![0.0; rows * outputs];
            // Elements are multiply-adds.
            group.throughput(Throughput::Elements((rows * outputs * inputs) as u64));
            group.bench_function(BenchmarkId::new(activation, format!("{rows}x{inputs}->{outputs}")), |bencher| {
                bencher.iter(|| executor.linear(&layer, &product, &x, rows, &mut y).expect("shapes fit"));
            });
        }
    }
}

fn operations(criterion: &mut Criterion, executor: &Executor) {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let lengths = Lengths::new(&[ROWS as i32], ROWS).expect("fits");
    let x = random.normals(ROWS * WIDTH * 4);
    let mut y = vec![0.0; ROWS * WIDTH * 4];
    let narrow = ROWS * WIDTH;
    let (a, b) = (&x[..narrow], &x[narrow..2 * narrow]);
    let (norm, words) = (norm(), embedding(random, 1024));
    let ids: Vec<i32> = (0..ROWS as i32).map(|i| i * 7 % 1024).collect();
    let mut group = criterion.benchmark_group(executor.level().to_string());
    group.bench_function("embedding 128x384", |bencher| {
        bencher.iter(|| executor.embedding(&words, &ids, &mut y[..narrow]).expect("fits"));
    });
    group.bench_function("layer-norm 128x384", |bencher| {
        bencher.iter(|| executor.layer_norm(&norm, a, Some(b), ROWS, &mut y[..narrow]).expect("fits"));
    });
    group.bench_function("attention 128x384", |bencher| {
        bencher.iter(|| executor.attention(&x[..3 * narrow], &lengths, WIDTH, HEADS, &mut y[..narrow]).expect("fits"));
    });
    group.bench_function("gelu 128x1536", |bencher| bencher.iter(|| executor.gelu(&x, &mut y).expect("fits")));
    group.bench_function("add 128x384", |bencher| {
        bencher.iter(|| executor.add(a, b, &mut y[..narrow]).expect("fits"));
    });
    group.bench_function("mean-pool 128x384", |bencher| {
        bencher.iter(|| executor.mean_pool(a, &lengths, WIDTH, &mut y[..WIDTH]).expect("fits"));
    });
    group.bench_function("first-pool 128x384", |bencher| {
        bencher.iter(|| executor.first_pool(a, &lengths, WIDTH, &mut y[..WIDTH]).expect("fits"));
    });
    group.bench_function("l2-normalise 128x384", |bencher| {
        bencher.iter(|| executor.l2_normalise(a, ROWS, WIDTH, &mut y[..narrow]).expect("fits"));
    });
}

/// What a client and a server do for one layer of secret shares.
fn shares(criterion: &mut Criterion, executor: &Arc<Executor>) {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let mut group = criterion.benchmark_group(format!("{}/field, {} threads", executor.level(), executor.threads()));
    // Layers of bytes fit the smaller field, those of 16-bit codes the larger one: the last in two parts.
    for (outputs, inputs, activation) in
        [(4 * WIDTH, WIDTH, "u8"), (WIDTH, 4 * WIDTH, "u8"), (4 * WIDTH, WIDTH, "u16"), (WIDTH, 4 * WIDTH, "u16")]
    {
        let layer = Arc::new(linear(random, outputs, inputs, activation));
        let parts = Parts::of(&layer);
        let (field, columns) = (parts.field(), parts.columns());
        let shape = format!("{ROWS}x{inputs}->{columns} in {field:?}");
        let vectors = Vectors::random(executor, &layer, &parts, |bytes| bytes.fill_with(|| random.next() as u8));
        let vectors = vectors.expect("random bytes");
        let prepare = |layer: &Arc<Linear>| Ok(Box::new(CpuProduct::new(layer, executor)) as Box<dyn Product>);
        let Ok(server) = ShareProduct::new::<Infallible>(Arc::clone(executor), &layer, prepare);
        let mut mask = vec![0; ROWS * inputs];
        let codes: Vec<u32> = (0..mask.len()).map(|_| (random.next() % 256) as u32).collect();
        let mut share = mask.clone();
        let mut answer: Vec<u32> =
            (0..ROWS * columns).map(|_| (random.next() % u64::from(field.prime())) as u32).collect();
        let mut packed = vec![0; answer.len() * field.bytes()];
        let mut sides = vec![[0; 2]; ROWS];
        // Of memory: an element is four there in either field.
        let bytes = |numbers: usize| Throughput::Bytes(4 * numbers as u64);

        group.throughput(bytes(mask.len()));
        group.bench_function(BenchmarkId::new("expand", &shape), |bencher| {
            bencher.iter(|| field::expand(executor, field, &[7; 32], 1, 2, ROWS, inputs, &mut mask).expect("fits"));
        });
        group.bench_function(BenchmarkId::new("add", &shape), |bencher| {
            bencher.iter(|| field::add(executor, field, &codes, &mask, &mut share).expect("fits"));
        });
        group.throughput(bytes(answer.len()));
        group.bench_function(BenchmarkId::new("dot", &shape), |bencher| {
            bencher.iter(|| field::dot(executor, field, &answer, vectors.challenge(), &mut sides).expect("fits"));
        });
        group.bench_function(BenchmarkId::new("pack", &shape), |bencher| {
            bencher.iter(|| field::pack(executor, field, &answer, columns, &mut packed).expect("fits"));
        });
        group.bench_function(BenchmarkId::new("unpack", &shape), |bencher| {
            bencher.iter(|| field::unpack(executor, field, &packed, columns, &mut answer).expect("elements"));
        });
        // Elements are multiply-adds.
        group.throughput(Throughput::Elements((ROWS * outputs * inputs) as u64));
        group.bench_function(BenchmarkId::new("multiply", &shape), |bencher| {
            bencher.iter(|| server.multiply(&share, ROWS, &mut answer).expect("fits"));
        });
    }
}

/// The layers of one encoder, packed.
struct Encoder {
    qkv: (Linear, CpuProduct),
    output: (Linear, CpuProduct),
    up: (Linear, CpuProduct),
    down: (Linear, CpuProduct),
    norm: LayerNorm,
}

/// What is between the operations of an encoder.
struct Memory {
    qkv: Vec<f32>,
    a: Vec<f32>,
    o: Vec<f32>,
    h: Vec<f32>,
    g: Vec<f32>,
}

impl Encoder {
    fn new(random: &mut Random, executor: &Executor) -> Self {
        let mut packed = |outputs, inputs, activation: &str| {
            let layer = linear(random, outputs, inputs, activation);
            let product = CpuProduct::new(&layer, executor);
            (layer, product)
        };
        Self {
            qkv: packed(3 * WIDTH, WIDTH, "u16"),
            output: packed(WIDTH, WIDTH, "u8"),
            up: packed(4 * WIDTH, WIDTH, "u16"),
            down: packed(WIDTH, 4 * WIDTH, "u8"),
            norm: norm(),
        }
    }

    fn forward(&self, executor: &Executor, lengths: &Lengths, x: &mut [f32], memory: &mut Memory, rows: usize) {
        let Memory { qkv, a, o, h, g } = memory;
        executor.linear(&self.qkv.0, &self.qkv.1, x, rows, qkv).expect("shapes fit");
        executor.attention(qkv, lengths, WIDTH, HEADS, a).expect("shapes fit");
        executor.linear(&self.output.0, &self.output.1, a, rows, o).expect("shapes fit");
        executor.layer_norm(&self.norm, o, Some(x), rows, a).expect("shapes fit");
        executor.linear(&self.up.0, &self.up.1, a, rows, h).expect("shapes fit");
        executor.gelu(h, g).expect("shapes fit");
        executor.linear(&self.down.0, &self.down.1, g, rows, o).expect("shapes fit");
        executor.layer_norm(&self.norm, o, Some(a), rows, x).expect("shapes fit");
    }
}

fn forwards(criterion: &mut Criterion, executor: &Executor) {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let encoders: Vec<Encoder> = (0..LAYERS).map(|_| Encoder::new(random, executor)).collect();
    let mut group = criterion.benchmark_group(format!("{}/forward, {} threads", executor.level(), executor.threads()));
    for rows in [16, 128, 256] {
        let lengths = Lengths::new(&[rows as i32], rows).expect("fits");
        let start = random.normals(rows * WIDTH);
        let mut x = start.clone();
        let of = |width: usize| vec![0.0; rows * width];
        let mut memory = Memory { qkv: of(3 * WIDTH), a: of(WIDTH), o: of(WIDTH), h: of(4 * WIDTH), g: of(4 * WIDTH) };
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(format!("{rows} tokens"), |bencher| {
            bencher.iter(|| {
                x.copy_from_slice(&start);
                for encoder in &encoders {
                    encoder.forward(executor, &lengths, &mut x, &mut memory, rows);
                }
            });
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
    // Plain scalar code is for agreement, not for speed.
    for level in Level::available().into_iter().filter(|&level| level != Level::Scalar) {
        let executor = Executor::new(level, 1).expect("an available level");
        products(&mut criterion, &executor);
        operations(&mut criterion, &executor);
        shares(&mut criterion, &Arc::new(executor));
        shares(&mut criterion, &Arc::new(Executor::new(level, threads).expect("an available level")));
        forwards(&mut criterion, &Executor::new(level, threads).expect("an available level"));
    }
    criterion.final_summary();
}
