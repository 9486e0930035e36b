//! How fast the exact operations are here: `cargo run --release -p ostrakon-exact --example kernel_speed [LEVEL]
//! [products|operations|forwards]`.
//!
//! Every figure is the best of several runs, as the machine may be busy with other things. The last
//! table is a forward pass in the shape of all-MiniLM-L6-v2 with random weights: six layers, 384
//! columns, 12 heads, 1536 in the feed-forward layer, no WebAssembly around it.
#![allow(clippy::print_stdout, clippy::expect_used, clippy::indexing_slicing)]

use ostrakon_exact::simd::{CpuProduct, Executor, Level};
use ostrakon_exact::{Layer, LayerNorm, Lengths, Linear, Part};
use std::time::Instant;

const WIDTH: usize = 384;
const HEADS: usize = 12;
const LAYERS: usize = 6;

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

fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(|_| time(&mut run)).fold(f64::INFINITY, f64::min)
}

struct Block {
    qkv: (Linear, CpuProduct),
    output: (Linear, CpuProduct),
    up: (Linear, CpuProduct),
    down: (Linear, CpuProduct),
    norm: LayerNorm,
}

impl Block {
    fn new(random: &mut Random, executor: &Executor, narrow: &str) -> Self {
        let mut packed = |outputs, inputs, activation: &str| {
            let layer = linear(random, outputs, inputs, activation);
            let product = CpuProduct::new(&layer, executor);
            (layer, product)
        };
        Self {
            qkv: packed(3 * WIDTH, WIDTH, "u16"),
            output: packed(WIDTH, WIDTH, narrow),
            up: packed(4 * WIDTH, WIDTH, "u16"),
            down: packed(WIDTH, 4 * WIDTH, narrow),
            norm: LayerNorm { gain: vec![1.0; WIDTH], bias: vec![0.0; WIDTH], epsilon: 1e-12 },
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

struct Memory {
    qkv: Vec<f32>,
    a: Vec<f32>,
    o: Vec<f32>,
    h: Vec<f32>,
    g: Vec<f32>,
}

impl Memory {
    fn new(rows: usize) -> Self {
        let of = |width: usize| vec![0.0; rows * width];
        Self { qkv: of(3 * WIDTH), a: of(WIDTH), o: of(WIDTH), h: of(4 * WIDTH), g: of(4 * WIDTH) }
    }
}

fn main() {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let asked = std::env::args().nth(1).and_then(|name| Level::from_name(&name));
    for level in Level::available().into_iter().filter(|&level| asked.is_none_or(|asked| asked == level)) {
        for threads in [1, 2] {
            let executor = Executor::new(level, threads).expect("an available level");
            println!("\n{level}, {threads} threads");
            let asked = std::env::args().nth(2).unwrap_or_default();
            if ["", "products"].contains(&asked.as_str()) {
                products(random, &executor);
            }
            if ["", "operations"].contains(&asked.as_str()) {
                operations(random, &executor);
            }
            if ["", "forwards"].contains(&asked.as_str()) {
                forwards(random, &executor);
            }
        }
    }
}

fn products(random: &mut Random, executor: &Executor) {
    for (rows, outputs, inputs) in [
        (128, 1152, 384),
        (128, 384, 384),
        (128, 1536, 384),
        (128, 384, 1536),
        (1, 1152, 384),
        (8, 1152, 384),
        (8, 384, 1536),
    ] {
        for activation in ["u8", "u16"] {
            let layer = linear(random, outputs, inputs, activation);
            let product = CpuProduct::new(&layer, executor);
            let x = random.normals(rows * inputs);
            let mut y = vec![0.0; rows * outputs];
            let time = best(200, || executor.linear(&layer, &product, &x, rows, &mut y).expect("shapes fit"));
            let work = (rows * outputs * inputs) as f64;
            println!(
                "  linear {rows:>4} x {inputs:>4} -> {outputs:>4} {activation:>3} {:>8.1} us {:>6.1} GMAC/s",
                time * 1e6,
                work / time / 1e9
            );
        }
    }
}

fn operations(random: &mut Random, executor: &Executor) {
    let rows = 128;
    let lengths = Lengths::new(&[128], rows).expect("fits");
    let x = random.normals(rows * WIDTH * 4);
    let mut y = vec![0.0; rows * WIDTH * 4];
    let narrow = rows * WIDTH;
    let norm = LayerNorm { gain: vec![1.0; WIDTH], bias: vec![0.0; WIDTH], epsilon: 1e-12 };
    let (a, b) = (&x[..narrow], &x[narrow..2 * narrow]);
    let mut show = |name: &str, run: &mut dyn FnMut(&mut [f32])| {
        println!("  {name:<28} {:>8.1} us", best(200, || run(&mut y)) * 1e6);
    };
    show("gelu 128 x 1536", &mut |y| executor.gelu(&x, y).expect("fits"));
    show("add 128 x 384", &mut |y| executor.add(a, b, &mut y[..narrow]).expect("fits"));
    show("layer-norm 128 x 384", &mut |y| {
        executor.layer_norm(&norm, a, Some(b), rows, &mut y[..narrow]).expect("fits")
    });
    show("attention 128 x 384", &mut |y| {
        executor.attention(&x[..3 * narrow], &lengths, WIDTH, HEADS, &mut y[..narrow]).expect("fits");
    });
    show("mean-pool 128 x 384", &mut |y| executor.mean_pool(a, &lengths, WIDTH, &mut y[..WIDTH]).expect("fits"));
    show("l2-normalise 1 x 384", &mut |y| executor.l2_normalise(&a[..WIDTH], 1, WIDTH, &mut y[..WIDTH]).expect("fits"));
}

fn forwards(random: &mut Random, executor: &Executor) {
    for narrow in ["u8", "u16"] {
        let blocks: Vec<Block> = (0..LAYERS).map(|_| Block::new(random, executor, narrow)).collect();
        for rows in [16, 128, 256] {
            let lengths = Lengths::new(&[rows as i32], rows).expect("fits");
            let start = random.normals(rows * WIDTH);
            let mut x = start.clone();
            let mut memory = Memory::new(rows);
            let time = best(60, || {
                x.copy_from_slice(&start);
                for block in &blocks {
                    block.forward(executor, &lengths, &mut x, &mut memory, rows);
                }
            });
            println!(
                "  forward {rows:>4} tokens, attention.output and feed-forward.down {narrow:>3} {:>8.2} ms",
                time * 1e3
            );
        }
    }
}
