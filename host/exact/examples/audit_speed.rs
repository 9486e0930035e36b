//! What a check costs beside the product that it checks: `cargo run --release -p ostrakon-exact --example
//! audit_speed [quick]`.
//!
//! One thread, so time is CPU time as long as the machine is not busy; every figure is the best of several
//! runs. *product* is the product alone, as a backend computes it; *check* is both sides for both vectors,
//! v computed before. Weights are random.
#![allow(clippy::print_stdout, clippy::expect_used, clippy::indexing_slicing)]

use ostrakon_exact::freivalds::{Challenge, Sides, Vectors, check_scores, check_u8, check_u16, check_weighted};
use ostrakon_exact::simd::{
    AttentionProducts, CpuProduct, Executor, HeadOf, Level, PlainAttention, Product, ProductError,
};
use ostrakon_exact::{Activation, Layer, Lengths, Linear, Part};
use std::sync::Mutex;
use std::time::Instant;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

fn linear(random: &mut Random, outputs: usize, inputs: usize) -> Linear {
    let weight = (0..outputs * inputs).map(|_| ((random.next() % 255) as i16 - 127) as i8 as u8).collect();
    let part = |name: &str, dimensions: &[usize], data: Vec<u8>| Part {
        name: name.to_owned(),
        dimensions: dimensions.to_vec(),
        data: Box::new(data),
    };
    let parts = vec![
        part("weight", &[outputs, inputs], weight),
        part("scale", &[outputs], [1.0f32.to_le_bytes()].repeat(outputs).concat()),
    ];
    match Layer::from_parts("linear", "u16", parts).expect("a valid layer") {
        Layer::Linear(layer) => layer,
        _ => unreachable!("asked for a linear layer"),
    }
}

/// Seconds, the best of several runs.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        run();
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

/// Seconds of each, the best of several runs, in turn, so that both meet the same neighbours.
fn best_of_both(work: usize, mut product: impl FnMut(), mut check: impl FnMut()) -> (f64, f64) {
    let mut least = (f64::INFINITY, f64::INFINITY);
    for _ in 0..(8_000_000_000 / work).clamp(3, 200) {
        least = (least.0.min(best(1, &mut product)), least.1.min(best(3, &mut check)));
    }
    least
}

/// Seconds of a product and of its check.
fn cost(random: &mut Random, executor: &Executor, wide: bool, rows: usize, shape: (usize, usize)) -> (f64, f64) {
    let (outputs, inputs) = shape;
    let layer = linear(random, outputs, inputs);
    let product = CpuProduct::new(&layer, executor);
    let vectors = Vectors::random(executor, &layer, |bytes| random.fill(bytes)).expect("fits");
    let work = rows * outputs * inputs;
    if wide {
        let codes: Vec<u16> = (0..rows * inputs).map(|_| random.next() as u16).collect();
        let mut totals = vec![0i64; rows * outputs];
        product.product_u16(&codes, rows, &mut totals).expect("fits");
        let claimed = totals.clone();
        best_of_both(
            work,
            || product.product_u16(&codes, rows, &mut totals).expect("fits"),
            || {
                let mut sides = Sides::with_rows(rows);
                check_u16(executor, &vectors, &codes, rows, &claimed, &mut sides).expect("fits");
                assert_eq!(sides.first_difference(), None);
            },
        )
    } else {
        let codes: Vec<u8> = (0..rows * inputs).map(|_| random.next() as u8).collect();
        let mut totals = vec![0i32; rows * outputs];
        product.product_u8(&codes, rows, &mut totals).expect("fits");
        let claimed = totals.clone();
        best_of_both(
            work,
            || product.product_u8(&codes, rows, &mut totals).expect("fits"),
            || {
                let mut sides = Sides::with_rows(rows);
                check_u8(executor, &vectors, &codes, rows, &claimed, &mut sides).expect("fits");
                assert_eq!(sides.first_difference(), None);
            },
        )
    }
}

fn row(name: &str, rows: usize, (product, check): (f64, f64)) {
    println!(
        "| {name:<28} | {rows:>4} | {:>10.3} | {:>8.3} | {:>6.2} % |",
        product * 1e3,
        check * 1e3,
        check / product * 100.0
    );
}

fn head(title: &str) {
    println!("\n{title}\n\n| shape (N x K) | rows | product ms | check ms | ratio |\n|---|---|---|---|---|");
}

fn model(random: &mut Random, executor: &Executor) {
    head("all-MiniLM-L6-v2, linear layers");
    let rows = 256;
    let mut whole = (0.0, 0.0);
    for (shape, wide) in [((1152, 384), true), ((384, 384), false), ((1536, 384), true), ((384, 1536), false)] {
        let (product, check) = cost(random, executor, wide, rows, shape);
        row(&format!("{} x {} {}", shape.0, shape.1, if wide { "u16" } else { "u8" }), rows, (product, check));
        whole = (whole.0 + 6.0 * product, whole.1 + 6.0 * check);
    }
    row("6 encoders", rows, whole);
}

/// Totals from a record, checked.
struct ReplayedLayer {
    executor: Executor,
    vectors: Vectors,
    narrow: Vec<i32>,
    wide: Vec<i64>,
}

impl Product for ReplayedLayer {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        totals.copy_from_slice(&self.narrow);
        let mut sides = Sides::with_rows(rows);
        check_u8(&self.executor, &self.vectors, codes, rows, totals, &mut sides)?;
        assert_eq!(sides.first_difference(), None);
        Ok(())
    }

    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        totals.copy_from_slice(&self.wide);
        let mut sides = Sides::with_rows(rows);
        check_u16(&self.executor, &self.vectors, codes, rows, totals, &mut sides)?;
        assert_eq!(sides.first_difference(), None);
        Ok(())
    }
}

/// Computes, and keeps the totals.
struct KeepingLayer(CpuProduct, Mutex<(Vec<i32>, Vec<i64>)>);

impl Product for KeepingLayer {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        self.0.product_u8(codes, rows, totals)?;
        self.1.lock().expect("no panics").0 = totals.to_vec();
        Ok(())
    }

    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        self.0.product_u16(codes, rows, totals)?;
        self.1.lock().expect("no panics").1 = totals.to_vec();
        Ok(())
    }
}

fn whole_layers(random: &mut Random, executor: &Executor) {
    println!("\nWhole linear layers, coding and scaling included, 256 rows\n");
    println!("| shape (N x K) | run ms | audit ms | ratio |\n|---|---|---|---|");
    let rows = 256;
    let mut whole = (0.0, 0.0);
    for (outputs, inputs, activation) in [
        (1152, 384, Activation::U16),
        (384, 384, Activation::U8),
        (1536, 384, Activation::U16),
        (384, 1536, Activation::U8),
    ] {
        let mut layer = linear(random, outputs, inputs);
        layer.activation = activation;
        let x: Vec<f32> = (0..rows * inputs).map(|_| random.float()).collect();
        let mut y = vec![0.0; rows * outputs];
        let product = CpuProduct::new(&layer, executor);
        let run = best(60, || executor.linear(&layer, &product, &x, rows, &mut y).expect("fits"));
        let want = y.clone();
        let keeping = KeepingLayer(product, Mutex::default());
        executor.linear(&layer, &keeping, &x, rows, &mut y).expect("fits");
        let (narrow, wide) = keeping.1.into_inner().expect("no panics");
        let vectors = Vectors::random(executor, &layer, |bytes| random.fill(bytes)).expect("fits");
        let own = Executor::new(executor.level(), 1).expect("an available level");
        let replayed = ReplayedLayer { executor: own, vectors, narrow, wide };
        let audit = best(60, || executor.linear(&layer, &replayed, &x, rows, &mut y).expect("fits"));
        assert_eq!(y, want);
        println!(
            "| {outputs} x {inputs} {} | {:.3} | {:.3} | {:.1} % |",
            activation.name(),
            run * 1e3,
            audit * 1e3,
            audit / run * 100.0
        );
        whole = (whole.0 + 6.0 * run, whole.1 + 6.0 * audit);
    }
    println!("| 6 encoders | {:.3} | {:.3} | {:.1} % |", whole.0 * 1e3, whole.1 * 1e3, whole.1 / whole.0 * 100.0);
}

fn large(random: &mut Random, executor: &Executor) {
    head("Layers of a model of 7B");
    for shape in [(4096, 4096), (4096, 11_008), (11_008, 4096)] {
        for wide in [false, true] {
            let name = format!("{} x {} {}", shape.0, shape.1, if wide { "u16" } else { "u8" });
            row(&name, 512, cost(random, executor, wide, 512, shape));
        }
    }
}

fn scaling(random: &mut Random, executor: &Executor) {
    println!("\nCheck in percent of the product, square layers, u8 / u16\n");
    let rows = [16, 64, 256, 512];
    println!("| width | {} |", rows.map(|rows| format!("{rows} rows")).join(" | "));
    println!("|---|---|---|---|---|");
    for width in [384, 768, 1024, 2048, 4096, 11_008] {
        let ratios = rows.map(|rows| {
            let percent = |(product, check): (f64, f64)| check / product * 100.0;
            let narrow = percent(cost(random, executor, false, rows, (width, width)));
            let wide = percent(cost(random, executor, true, rows, (width, width)));
            format!("{narrow:.2} / {wide:.2}")
        });
        println!("| {width} | {} |", ratios.join(" | "));
    }
}

/// Products from a record, checked or not.
struct Replayed {
    checks: Option<Executor>,
    scores: Vec<Vec<i32>>,
    weighted: Vec<Vec<i64>>,
    heads: usize,
    random: Mutex<Random>,
}

impl Replayed {
    fn challenge(&self, len: usize) -> Challenge {
        let mut random = self.random.lock().expect("no panics");
        Challenge::random(len, |bytes| random.fill(bytes))
    }
}

impl AttentionProducts for Replayed {
    fn scores(
        &self,
        at: HeadOf,
        queries: &[i16],
        keys: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i32],
    ) -> Result<(), ProductError> {
        totals.copy_from_slice(&self.scores[at.sequence * self.heads + at.head]);
        if let Some(executor) = &self.checks {
            let sides = check_scores(executor, &self.challenge(rows), queries, keys, d, totals)?;
            assert_eq!(sides.first_difference(), None);
        }
        Ok(())
    }

    fn weighted(
        &self,
        at: HeadOf,
        weights: &[i16],
        values: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i64],
    ) -> Result<(), ProductError> {
        totals.copy_from_slice(&self.weighted[at.sequence * self.heads + at.head]);
        if let Some(executor) = &self.checks {
            let sides = check_weighted(executor, &self.challenge(d), weights, values, rows, totals)?;
            assert_eq!(sides.first_difference(), None);
        }
        Ok(())
    }
}

/// Keeps what the plain products give.
struct Keeping(PlainAttention, Mutex<Totals>);

/// Scores and weighted values, head by head.
type Totals = (Vec<Vec<i32>>, Vec<Vec<i64>>);

impl AttentionProducts for Keeping {
    fn scores(
        &self,
        at: HeadOf,
        queries: &[i16],
        keys: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i32],
    ) -> Result<(), ProductError> {
        self.0.scores(at, queries, keys, rows, d, totals)?;
        self.1.lock().expect("no panics").0.push(totals.to_vec());
        Ok(())
    }

    fn weighted(
        &self,
        at: HeadOf,
        weights: &[i16],
        values: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i64],
    ) -> Result<(), ProductError> {
        self.0.weighted(at, weights, values, rows, d, totals)?;
        self.1.lock().expect("no panics").1.push(totals.to_vec());
        Ok(())
    }
}

fn attention(random: &mut Random, executor: &Executor) {
    let (heads, width) = (12, 384);
    println!("\nAttention, {heads} heads of {} columns, one sequence\n", width / heads);
    println!(
        "| tokens | fused ms | recorded ms | replayed ms | checked ms | checked / fused |\n|---|---|---|---|---|---|"
    );
    for rows in [128, 256, 512] {
        let lengths = Lengths::new(&[rows as i32], rows).expect("fits");
        let qkv: Vec<f32> = (0..rows * 3 * width).map(|_| random.float()).collect();
        let mut out = vec![0.0; rows * width];
        let fused = best(60, || executor.attention(&qkv, &lengths, width, heads, &mut out).expect("fits"));
        let want = out.clone();
        let mut elsewhere = |products: &dyn AttentionProducts| {
            let time = best(60, || {
                executor.attention_with(&qkv, &lengths, width, heads, products, &mut out).expect("fits");
            });
            assert_eq!(out, want);
            time
        };
        let recorded = elsewhere(&PlainAttention::new(executor));
        let keeping = Keeping(PlainAttention::new(executor), Mutex::default());
        executor.attention_with(&qkv, &lengths, width, heads, &keeping, &mut vec![0.0; rows * width]).expect("fits");
        let (scores, weighted) = keeping.1.into_inner().expect("no panics");
        let mut replayed =
            Replayed { checks: None, scores, weighted, heads, random: Mutex::new(Random(random.next())) };
        let unchecked = elsewhere(&replayed);
        replayed.checks = Executor::new(executor.level(), 1).ok();
        let checked = elsewhere(&replayed);
        println!(
            "| {rows} | {:.3} | {:.3} | {:.3} | {:.3} | {:.2} |",
            fused * 1e3,
            recorded * 1e3,
            unchecked * 1e3,
            checked * 1e3,
            checked / fused
        );
    }
}

fn main() {
    let random = &mut Random(0x1234_5678_9abc_def1);
    let executor = Executor::new(Level::detect(), 1).expect("an available level");
    println!("{}, one thread", executor.level());
    model(random, &executor);
    whole_layers(random, &executor);
    attention(random, &executor);
    if std::env::args().nth(1).as_deref() != Some("quick") {
        large(random, &executor);
        scaling(random, &executor);
    }
}
