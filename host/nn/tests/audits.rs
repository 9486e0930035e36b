//! A record of all products, audited: right records pass and give the same bytes, every changed bit is
//! found in the operation that it belongs to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects and stops where it is wrong")]

use ostrakon_exact::freivalds::Vectors;
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_exact::{Layer, Linear};
use ostrakon_nn::{
    Auditor, CpuBackend, Finished, Host, LayerSource, LayerVectors, MemoryLayers, Meter, NnError, ProvenBackend,
    RawLayer, Recorder, Tensor,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

const WIDTH: usize = 24;
const HEADS: usize = 3;
const LENGTHS: [i32; 4] = [5, 1, 17, 2];
const ROWS: usize = 25;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0).collect()
    }
}

/// Vectors made on demand and kept; damaged ones if asked.
struct Drawn {
    executor: Arc<Executor>,
    kept: Mutex<HashMap<String, Arc<Vectors>>>,
    damaged: Option<&'static str>,
}

impl LayerVectors for Drawn {
    fn vectors(&self, name: &str, layer: &Linear) -> Result<Arc<Vectors>, String> {
        let mut kept = self.kept.lock().unwrap();
        if let Some(vectors) = kept.get(name) {
            return Ok(Arc::clone(vectors));
        }
        let fill = |bytes: &mut [u8]| getrandom::fill(bytes).unwrap();
        let mut vectors = Vectors::random(&self.executor, layer, fill).map_err(|error| error.to_string())?;
        if self.damaged == Some(name) {
            let mut bytes = vectors.to_bytes();
            *bytes.last_mut().unwrap() ^= 1;
            vectors = Vectors::from_bytes(&self.executor, layer, &bytes).unwrap();
        }
        let vectors = Arc::new(vectors);
        kept.insert(name.to_owned(), Arc::clone(&vectors));
        Ok(vectors)
    }
}

fn layers() -> MemoryLayers {
    let random = &mut Random(77);
    let mut layers = MemoryLayers::new();
    for (name, activation, outputs, inputs) in [
        ("b.qkv", "u16", 3 * WIDTH, WIDTH),
        ("b.output", "u8", WIDTH, WIDTH),
        ("b.up", "u16", 4 * WIDTH, WIDTH),
        ("b.down", "u8", WIDTH, 4 * WIDTH),
    ] {
        let weights: Vec<i8> = (0..outputs * inputs).map(|_| (random.below(255) as i16 - 127) as i8).collect();
        let scales = vec![0.01; outputs];
        layers.insert_linear(name, activation, &weights, &scales, &random.floats(outputs), &[]);
    }
    layers.insert_layer_norm("b.norm", &random.floats(WIDTH), &random.floats(WIDTH), 1e-5);
    layers
}

/// The operations of the block and the bytes that their products take, in order.
fn operations() -> Vec<(String, usize)> {
    let mut all = vec![("b.qkv".to_owned(), ROWS * 3 * WIDTH * 8)];
    for (sequence, length) in LENGTHS.into_iter().enumerate() {
        let length = length as usize;
        for head in 0..HEADS {
            let name = |product| format!("attention 1 of the block, {product}, sequence {sequence}, head {head}");
            all.push((name("scores"), length * length * 4));
            all.push((name("weighted"), length * WIDTH / HEADS * 8));
        }
    }
    all.extend([
        ("b.output".to_owned(), ROWS * WIDTH * 4),
        ("b.up".to_owned(), ROWS * 4 * WIDTH * 8),
        ("b.down".to_owned(), ROWS * WIDTH * 4),
    ]);
    all
}

/// The operation that a byte of the record belongs to.
fn operation_at(at: usize) -> String {
    let mut end = 0;
    let found = operations().into_iter().find(|(_, bytes)| {
        end += bytes;
        at < end
    });
    found.unwrap().0
}

fn run(host: &Host, input: &[f32]) -> Result<Vec<u32>, NnError> {
    let meter = Meter::unlimited();
    let x = Tensor::from_f32(vec![ROWS as u32, WIDTH as u32], input.to_vec()).unwrap();
    let lengths = Tensor::from_i32(vec![LENGTHS.len() as u32], LENGTHS.to_vec()).unwrap();
    let layer = |name: &str, inputs: &[(&str, &Tensor)]| -> Result<Tensor, NnError> {
        let inputs = inputs.iter().map(|&(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        Ok(host.compute(&meter, &host.graph(name)?, inputs)?.remove(0).1)
    };
    let qkv = layer("b.qkv", &[("x", &x)])?;
    let a = host.attention(&meter, &qkv, &lengths, HEADS as u32)?;
    let o = layer("b.output", &[("x", &a)])?;
    let a = layer("b.norm", &[("x", &o), ("residual", &x)])?;
    let h = layer("b.up", &[("x", &a)])?;
    let g = host.gelu(&meter, &h)?;
    let o = layer("b.down", &[("x", &g)])?;
    let y = layer("b.norm", &[("x", &o), ("residual", &a)])?;
    Ok(y.as_f32().unwrap().iter().map(|y| y.to_bits()).collect())
}

struct Bench {
    cpu: Host,
    recorder: Recorder,
    recording: Host,
    auditor: Auditor,
    auditing: Host,
}

impl Bench {
    fn new(damaged: Option<&'static str>) -> Self {
        let executor = Arc::new(Executor::new(Level::detect(), 2).unwrap());
        let host = |backend: ProvenBackend| Host::new(Arc::clone(&executor), backend, Arc::new(layers()));
        let recorder = Recorder::new(Arc::clone(&executor), 1 << 20);
        let vectors = Drawn { executor: Arc::clone(&executor), kept: Mutex::default(), damaged };
        let auditor = Auditor::new(Arc::clone(&executor), Arc::new(vectors));
        Self {
            cpu: host(ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))).unwrap()),
            recording: host(ProvenBackend::new(recorder.clone()).unwrap()),
            auditing: host(ProvenBackend::new(auditor.clone()).unwrap()),
            recorder,
            auditor,
        }
    }

    fn record(&self, input: &[f32]) -> (Vec<u32>, Vec<u8>) {
        let y = run(&self.recording, input).unwrap();
        (y, self.recorder.take())
    }

    fn audit(&self, input: &[f32], record: Vec<u8>) -> (Result<Vec<u32>, NnError>, Finished) {
        self.auditor.begin(Arc::new(record));
        let result = run(&self.auditing, input);
        (result, self.auditor.finish())
    }
}

#[test]
fn a_right_record_gives_the_bytes_of_the_cpu() {
    let bench = Bench::new(None);
    let random = &mut Random(1);
    for _ in 0..300 {
        let input = random.floats(ROWS * WIDTH);
        let want = run(&bench.cpu, &input).unwrap();
        let (recorded, record) = bench.record(&input);
        assert_eq!(recorded, want);
        assert_eq!(record.len(), operations().iter().map(|(_, bytes)| bytes).sum::<usize>());
        let (audited, finished) = bench.audit(&input, record);
        assert_eq!(audited.unwrap(), want);
        assert_eq!((finished.left_over, &finished.ended_early), (0, &None));
        let names: Vec<&String> = finished.products.iter().map(|product| &product.operation).collect();
        assert_eq!(names, operations().iter().map(|(name, _)| name).collect::<Vec<_>>());
        assert!(finished.products.iter().all(|product| product.passed() && product.wrong.is_none()));
        assert!(finished.products.iter().filter(|p| p.operation == "b.up").all(|p| p.left.len() == ROWS));
    }
    assert!(bench.recorder.take().is_empty());
}

/// As a decoder does, on whole sequences.
fn run_causal(host: &Host, input: &[f32]) -> Result<Vec<u32>, NnError> {
    let meter = Meter::unlimited();
    let x = Tensor::from_f32(vec![ROWS as u32, WIDTH as u32], input.to_vec()).unwrap();
    let lengths = Tensor::from_i32(vec![LENGTHS.len() as u32], LENGTHS.to_vec()).unwrap();
    let layer = |name: &str, x: Tensor| -> Result<Tensor, NnError> {
        Ok(host.compute(&meter, &host.graph(name)?, vec![("x".to_owned(), x)])?.remove(0).1)
    };
    let attended = host.causal_attention(&meter, None, &layer("b.qkv", x)?, &lengths, HEADS as u32, HEADS as u32)?;
    let y = layer("b.output", attended)?;
    Ok(y.as_f32().unwrap().iter().map(|y| y.to_bits()).collect())
}

#[test]
fn causal_attention_is_computed_by_the_auditor() {
    let bench = Bench::new(None);
    let random = &mut Random(9);
    let input = random.floats(ROWS * WIDTH);
    let want = run_causal(&bench.cpu, &input).unwrap();
    assert_eq!(run_causal(&bench.recording, &input).unwrap(), want);
    let record = bench.recorder.take();
    let of_qkv = ROWS * 3 * WIDTH * 8;
    assert_eq!(record.len(), of_qkv + ROWS * WIDTH * 4);
    let audit = |record: Vec<u8>| {
        bench.auditor.begin(Arc::new(record));
        (run_causal(&bench.auditing, &input), bench.auditor.finish())
    };
    let (audited, finished) = audit(record.clone());
    assert_eq!(audited.unwrap(), want);
    let names: Vec<&str> = finished.products.iter().map(|product| product.operation.as_str()).collect();
    assert_eq!((names, finished.left_over, finished.ended_early), (vec!["b.qkv", "b.output"], 0, None));
    for (at, operation) in [(8, "b.qkv"), (of_qkv + 4, "b.output")] {
        let mut record = record.clone();
        record[at] ^= 1;
        let (audited, finished) = audit(record);
        assert!(audited.is_err());
        assert_eq!(finished.products.last().unwrap().operation, operation);
    }
}

#[test]
fn every_changed_bit_is_found_in_its_operation() {
    let bench = Bench::new(None);
    let random = &mut Random(2);
    let input = random.floats(ROWS * WIDTH);
    let (_, right) = bench.record(&input);
    for _ in 0..4000 {
        let mut record = right.clone();
        let (at, bit) = (random.below(record.len()), random.below(8));
        record[at] ^= 1 << bit;
        let (result, finished) = bench.audit(&input, record);
        let error = result.unwrap_err();
        let operation = operation_at(at);
        assert!(error.is_host_fault() && error.text().contains("wrong"), "{error}");
        let last = finished.products.last().unwrap();
        assert_eq!(last.operation, operation);
        assert!(!last.passed());
        let wrong = last.wrong.unwrap();
        let difference = wrong.claimed.wrapping_sub(wrong.exact).unsigned_abs();
        assert!(difference.is_power_of_two(), "{wrong:?}");
        let earlier = finished.products.iter().rev().skip(1);
        assert!(earlier.clone().all(|product| product.passed()));
        assert_eq!(finished.ended_early, None);
        assert_eq!(operations()[earlier.count()].0, operation);
    }
}

#[test]
fn several_changes_are_found_at_the_first() {
    let bench = Bench::new(None);
    let random = &mut Random(3);
    let input = random.floats(ROWS * WIDTH);
    let (_, right) = bench.record(&input);
    for _ in 0..300 {
        let mut record = right.clone();
        let from = random.below(record.len());
        record[from..].fill_with(|| random.next() as u8);
        let first = (from..record.len()).find(|&at| record[at] != right[at]);
        let (result, finished) = bench.audit(&input, record);
        let Some(first) = first else { continue };
        assert!(result.is_err());
        assert_eq!(finished.products.last().unwrap().operation, operation_at(first));
    }
}

#[test]
fn records_of_another_length_are_reported() {
    let bench = Bench::new(None);
    let random = &mut Random(4);
    let input = random.floats(ROWS * WIDTH);
    let (want, right) = bench.record(&input);
    for _ in 0..300 {
        let keep = random.below(right.len());
        let (result, finished) = bench.audit(&input, right[..keep].to_vec());
        let error = result.unwrap_err();
        assert!(error.is_host_fault() && error.text().contains("ends"), "{error}");
        assert_eq!(finished.ended_early, Some(operation_at(keep)));
        assert!(finished.products.iter().all(|product| product.passed()));
    }
    for more in [1, 1000] {
        let mut record = right.clone();
        record.resize(right.len() + more, 0);
        let (result, finished) = bench.audit(&input, record);
        assert_eq!(result.unwrap(), want);
        assert_eq!(finished.left_over, more);
    }
    let mut record = right.clone();
    record.insert(0, 0);
    let (result, finished) = bench.audit(&input, record);
    assert!(result.is_err());
    assert_eq!(finished.products.last().unwrap().operation, "b.qkv");
}

#[test]
fn nobody_is_accused_because_of_damaged_vectors() {
    let bench = Bench::new(Some("b.up"));
    let input = Random(5).floats(ROWS * WIDTH);
    let (_, record) = bench.record(&input);
    let (result, finished) = bench.audit(&input, record);
    let error = result.unwrap_err();
    assert!(error.is_host_fault() && error.text().contains("damaged"), "{error}");
    let last = finished.products.last().unwrap();
    assert_eq!((last.operation.as_str(), last.wrong), ("b.up", None));
    assert!(!last.passed());
}

#[test]
fn an_audit_without_a_record_or_after_its_end_is_an_error() {
    let bench = Bench::new(None);
    let input = Random(6).floats(ROWS * WIDTH);
    let error = run(&bench.auditing, &input).unwrap_err();
    assert!(error.is_host_fault() && error.text().contains("no record"), "{error}");
    assert_eq!(bench.auditor.finish(), Finished::default());
    let (_, mut record) = bench.record(&input);
    record[0] ^= 1;
    bench.auditor.begin(Arc::new(record));
    assert!(run(&bench.auditing, &input).is_err());
    let error = run(&bench.auditing, &input).unwrap_err();
    assert!(error.text().contains("stopped"), "{error}");
    assert_eq!(bench.auditor.finish().products.len(), 1);
}

#[test]
fn a_record_grows_no_further_than_its_limit() {
    let executor = Arc::new(Executor::new(Level::detect(), 1).unwrap());
    let recorder = Recorder::new(Arc::clone(&executor), 20_000);
    let host = Host::new(executor, ProvenBackend::new(recorder.clone()).unwrap(), Arc::new(layers()));
    let error = run(&host, &Random(7).floats(ROWS * WIDTH)).unwrap_err();
    assert!(error.is_host_fault() && error.text().contains("limit of 20000"), "{error}");
    assert!(recorder.take().len() <= 20_000);
}

#[test]
fn vectors_that_are_missing_or_of_another_shape_stop_the_preparation() {
    struct Other(Result<Arc<Vectors>, String>);
    impl LayerVectors for Other {
        fn vectors(&self, _: &str, _: &Linear) -> Result<Arc<Vectors>, String> {
            self.0.clone()
        }
    }
    let executor = Arc::new(Executor::new(Level::detect(), 1).unwrap());
    let mut other = MemoryLayers::new();
    other.insert_linear("small", "u8", &[1], &[1.0], &[0.0], &[]);
    let RawLayer { kind, activation, parts } = other.raw("small").unwrap();
    let Layer::Linear(small) = Layer::from_parts(&kind, &activation, parts).unwrap() else { unreachable!() };
    let small = Arc::new(Vectors::from_bytes(&executor, &small, &[0; 24]).unwrap());
    for (vectors, why) in [(Err("the disk is gone".to_owned()), "the disk is gone"), (Ok(small), "another shape")] {
        let auditor = Auditor::new(Arc::clone(&executor), Arc::new(Other(vectors)));
        let host = Host::new(Arc::clone(&executor), ProvenBackend::new(auditor).unwrap(), Arc::new(layers()));
        let error = host.graph("b.qkv").unwrap_err();
        assert!(error.is_host_fault() && error.text().contains("b.qkv") && error.text().contains(why), "{error}");
    }
}
