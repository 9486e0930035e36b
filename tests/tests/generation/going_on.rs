//! A decoder gives the same bytes however its rows come: whole, in pieces, one by one, alone or in a batch, at every SIMD
//! level, on both compilers, and composed with the reference arithmetic. Small random models run by the real component.

use ostrakon_engine::{CallError, Compiler, Failure, Forward, Limits, Plugin, Runtime, World};
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_nn::{CpuBackend, Host, MemoryLayers, ProvenBackend, Quotas, SequencePast, Tensor};
use ostrakon_package::component::compose;
use ostrakon_tests::packed;
use ostrakon_tests::tiny::Random;
use std::sync::Arc;

const DECODERS: usize = 3;
const VOCABULARY: usize = 41;
const CONTEXT: usize = 96;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HEAD_WIDTH: usize = 8;
const WIDTH: usize = 40;
const WIDE: usize = 56;

/// Blocks of a model: names and settings.
fn blocks() -> Vec<(String, Vec<(&'static str, String)>)> {
    let mut blocks = vec![("embeddings".to_owned(), vec![("kind", "embeddings".to_owned())])];
    for i in 0..DECODERS {
        let settings =
            [("kind", "decoder".to_owned()), ("heads", HEADS.to_string()), ("kv-heads", KV_HEADS.to_string())];
        blocks.push((format!("blocks.{i}"), settings.to_vec()));
    }
    blocks.push(("head".to_owned(), vec![("kind", "head".to_owned())]));
    blocks
}

fn codes(n: &mut Random, count: usize) -> Vec<i8> {
    (0..count).map(|_| (n.below(255) as i16 - 127) as i8).collect()
}

fn floats(n: &mut Random, count: usize, least: f32, most: f32) -> Vec<f32> {
    (0..count).map(|_| least + (most - least) * (n.below(1001) as f32 / 1000.0)).collect()
}

fn linear(n: &mut Random, layers: &mut MemoryLayers, name: &str, activation: &str, outputs: usize, inputs: usize) {
    let scale = 1.0 / (127.0 * (inputs as f32).sqrt());
    let (weight, scale) = (codes(n, outputs * inputs), floats(n, outputs, scale, 3.0 * scale));
    layers.insert_linear(name, activation, &weight, &scale, &floats(n, outputs, -0.1, 0.1), &[]);
}

/// The weights of a model.
fn layers(seed: u64, context: usize) -> MemoryLayers {
    let (n, mut layers) = (&mut Random(seed), MemoryLayers::new());
    layers.insert_embedding("embeddings.words", &codes(n, VOCABULARY * WIDTH), &floats(n, VOCABULARY, 0.005, 0.02));
    let mut table = Vec::new();
    for position in 0..context {
        for pair in 0..HEAD_WIDTH / 2 {
            let angle = position as f64 / 100f64.powf(2.0 * pair as f64 / HEAD_WIDTH as f64);
            table.extend([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    for i in 0..DECODERS {
        let name = |layer: &str| format!("blocks.{i}.{layer}");
        layers.insert_rms_norm(&name("attention.norm"), &floats(n, WIDTH, 0.5, 1.5), 1e-5);
        let rows = (HEADS + 2 * KV_HEADS) * HEAD_WIDTH;
        linear(n, &mut layers, &name("attention.qkv"), "u8", rows, WIDTH);
        layers.insert_rotary(&name("attention.rotary"), &table, HEAD_WIDTH, HEADS + KV_HEADS);
        linear(n, &mut layers, &name("attention.output"), "u8", WIDTH, HEADS * HEAD_WIDTH);
        layers.insert_rms_norm(&name("feed-forward.norm"), &floats(n, WIDTH, 0.5, 1.5), 1e-5);
        linear(n, &mut layers, &name("feed-forward.gate-up"), "u8", 2 * WIDE, WIDTH);
        linear(n, &mut layers, &name("feed-forward.down"), "u16", WIDTH, WIDE);
    }
    layers.insert_rms_norm("head.norm", &floats(n, WIDTH, 0.5, 1.5), 1e-5);
    linear(n, &mut layers, "head.head", "u16", VOCABULARY, WIDTH);
    layers
}

fn component(name: &str) -> Vec<u8> {
    let path = packed::plugins().join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}: run `make plugins` first", path.display()))
}

fn native(compiler: Compiler) -> Plugin {
    let runtime = Runtime::new(compiler, None, Limits::default()).unwrap();
    runtime.admit(&component("block-llama.wasm"), World::ModelBlock).unwrap()
}

fn reference(compiler: Compiler) -> Plugin {
    let composed = compose(&component("block-llama.wasm"), &component("exact-reference.wasm")).unwrap();
    Runtime::new(compiler, None, Limits::default()).unwrap().admit(&composed, World::ReferenceBlock).unwrap()
}

/// A model made ready.
struct Model {
    plugin: Plugin,
    host: Arc<Host>,
    limits: Limits,
}

/// What a model holds of one sequence: a past for each block.
type Held = Vec<SequencePast>;

fn nothing() -> Held {
    vec![SequencePast::default(); DECODERS + 2]
}

impl Model {
    fn new(plugin: &Plugin, seed: u64, level: Level, threads: usize) -> Self {
        let executor = Arc::new(Executor::new(level, threads).unwrap());
        let backend = ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))).unwrap();
        let host = Arc::new(Host::new(executor, backend, Arc::new(layers(seed, CONTEXT))));
        Self { plugin: plugin.clone(), host, limits: Limits::default() }
    }

    /// One block on one batch, in an instance of its own.
    fn block(
        &self,
        (name, settings): &(String, Vec<(&'static str, String)>),
        x: Tensor,
        lengths: &Tensor,
        past: Option<Vec<SequencePast>>,
    ) -> Result<(Forward, Vec<SequencePast>), CallError> {
        let settings: Vec<_> = settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let mut instance = self.plugin.instantiate(Arc::clone(&self.host), self.limits)?;
        let session = instance.open(name, &settings)?;
        match past {
            Some(past) => instance.forward_on(session, x, lengths, past),
            None => Ok((instance.forward(session, x, lengths)?, Vec::new())),
        }
    }

    /// Whole sequences: a row of logits for each token.
    fn whole(&self, sequences: &[&[i32]]) -> Vec<Vec<u8>> {
        let lengths: Vec<i32> = sequences.iter().map(|ids| ids.len() as i32).collect();
        let lengths = Tensor::from_i32(vec![lengths.len() as u32], lengths).unwrap();
        let mut x = ids(sequences);
        for block in blocks() {
            x = self.block(&block, x, &lengths, None).unwrap().0.output;
        }
        rows(&x)
    }

    /// Tokens that follow what is held of each sequence.
    fn step(&self, sequences: &mut [(&[i32], &mut Held)]) -> Result<Vec<Vec<u8>>, CallError> {
        let tokens: Vec<&[i32]> = sequences.iter().map(|(ids, _)| *ids).collect();
        let before = sequences.iter().map(|(_, held)| held[1].rows() as i32);
        let pairs = tokens.iter().zip(before).flat_map(|(ids, before)| [ids.len() as i32, before]).collect();
        let lengths = Tensor::from_i32(vec![tokens.len() as u32, 2], pairs).unwrap();
        let mut x = ids(&tokens);
        for (i, block) in blocks().iter().enumerate() {
            let past = sequences.iter_mut().map(|(_, held)| std::mem::take(&mut held[i])).collect();
            let (forward, after) = self.block(block, x, &lengths, Some(past))?;
            x = forward.output;
            for ((_, held), past) in sequences.iter_mut().zip(after) {
                held[i] = past;
            }
        }
        Ok(rows(&x))
    }
}

fn ids(sequences: &[&[i32]]) -> Tensor {
    let ids = sequences.concat();
    Tensor::from_i32(vec![ids.len() as u32], ids).unwrap()
}

fn rows(logits: &Tensor) -> Vec<Vec<u8>> {
    assert_eq!(logits.dims()[1], VOCABULARY as u32);
    logits.to_bytes().chunks_exact(4 * VOCABULARY).map(<[u8]>::to_vec).collect()
}

fn tokens(n: &mut Random, count: usize) -> Vec<i32> {
    (0..count).map(|_| n.below(VOCABULARY) as i32).collect()
}

#[test]
fn native_and_reference_arithmetic_agree() {
    let n = &mut Random(1);
    let texts: Vec<Vec<i32>> = [9, 1, 23, 4].iter().map(|&count| tokens(n, count)).collect();
    let texts: Vec<&[i32]> = texts.iter().map(Vec::as_slice).collect();
    let mut first: Option<Vec<Vec<u8>>> = None;
    for compiler in [Compiler::Cranelift, Compiler::Pulley] {
        let plugin = native(compiler);
        let mut models: Vec<(String, Model)> = Vec::new();
        for level in Level::available() {
            models.extend([1, 2].map(|threads| (format!("{level} {threads}"), Model::new(&plugin, 7, level, threads))));
        }
        models.push(("reference".to_owned(), Model::new(&reference(compiler), 7, Level::Scalar, 1)));
        for (what, model) in models {
            let logits = model.whole(&texts);
            let first = first.get_or_insert_with(|| logits.clone());
            assert!(logits == *first, "{compiler:?} {what}");
        }
    }
    // Another model gives something else: the comparison could fail.
    let other = Model::new(&native(Compiler::Cranelift), 8, Level::detect(), 2).whole(&texts);
    assert_ne!(Some(other), first);
}

#[test]
fn whole_in_pieces_and_one_by_one_are_the_same() {
    let plugin = native(Compiler::Cranelift);
    for seed in 0..4 {
        let n = &mut Random(100 + seed);
        let length = CONTEXT - n.below(20);
        let text = tokens(n, length);
        let mut all = None;
        for level in Level::available() {
            let model = Model::new(&plugin, seed, level, 2);
            let whole = model.whole(&[&text]);
            assert_eq!(&whole, all.get_or_insert_with(|| whole.clone()), "{level}");
            for most in [1, 2, 7, 64, 90] {
                let (mut held, mut given, mut from) = (nothing(), Vec::new(), 0);
                while from < text.len() {
                    let count = if most == 1 { 1 } else { 1 + n.below(most) }.min(text.len() - from);
                    let piece = &text[from..from + count];
                    given.extend(model.step(&mut [(piece, &mut held)]).unwrap());
                    from += count;
                }
                assert!(given == whole, "{level}, pieces of at most {most}");
                // A block with attention holds every row, the others none.
                let rows: Vec<usize> = held.iter().map(SequencePast::rows).collect();
                assert_eq!(rows, [0, text.len(), text.len(), text.len(), 0]);
            }
        }
    }
}

#[test]
fn alone_and_with_fifteen_others_are_the_same() {
    let model = Model::new(&native(Compiler::Cranelift), 3, Level::detect(), 2);
    let n = &mut Random(5);
    let texts: Vec<Vec<i32>> = (0..16).map(|i| tokens(n, 1 + n.clone().below(40) + i)).collect();
    let alone: Vec<Vec<Vec<u8>>> = texts.iter().map(|text| model.whole(&[text])).collect();

    let together = model.whole(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert!(together == alone.concat());

    // All go on at once, each from another place, with pieces of other lengths, until all are done.
    let mut held: Vec<Held> = (0..16).map(|_| nothing()).collect();
    let mut given: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 16];
    while given.iter().zip(&texts).any(|(given, text)| given.len() < text.len()) {
        let mut pieces: Vec<(&[i32], &mut Held)> = Vec::new();
        let mut whose = Vec::new();
        for (i, held) in held.iter_mut().enumerate() {
            let left = &texts[i][given[i].len()..];
            let count = n.below(5).min(left.len());
            if count > 0 {
                pieces.push((&left[..count], held));
                whose.extend(std::iter::repeat_n(i, count));
            }
        }
        if pieces.is_empty() {
            continue;
        }
        for (i, row) in whose.into_iter().zip(model.step(&mut pieces).unwrap()) {
            given[i].push(row);
        }
    }
    assert!(given == alone);
}

#[test]
fn a_clone_goes_on_by_itself() {
    let model = Model::new(&native(Compiler::Cranelift), 4, Level::detect(), 2);
    let n = &mut Random(6);
    let (start, one, other) = (tokens(n, 20), tokens(n, 9), tokens(n, 9));
    let mut held = nothing();
    model.step(&mut [(&start, &mut held)]).unwrap();
    let mut copy = held.clone();
    let last = |text: &[i32]| model.whole(&[&[start.as_slice(), text].concat()]).split_off(20);
    assert!(model.step(&mut [(&one, &mut held)]).unwrap() == last(&one));
    assert!(model.step(&mut [(&other, &mut copy)]).unwrap() == last(&other));
    // Taken back, it may go the other's way.
    held.iter_mut().for_each(|past| past.truncate(20));
    assert!(model.step(&mut [(&other, &mut held)]).unwrap() == last(&other));
}

#[test]
fn fuel_depends_on_lengths_alone() {
    let n = &mut Random(9);
    let (start, one, other) = (tokens(n, 30), tokens(n, 1), tokens(n, 1));
    let mut fuels = Vec::new();
    for (compiler, level, seed) in [
        (Compiler::Cranelift, Level::detect(), 1),
        (Compiler::Pulley, Level::Scalar, 1),
        (Compiler::Pulley, Level::Scalar, 2),
    ] {
        let model = Model::new(&native(compiler), seed, level, 1);
        let (block, lengths) = (&blocks()[1], Tensor::from_i32(vec![1, 2], vec![1, 30]).unwrap());
        for token in [&one, &other] {
            let mut held = nothing();
            model.step(&mut [(&start, &mut held)]).unwrap();
            let x = floats(&mut Random(token[0] as u64), WIDTH, -1.0, 1.0);
            let x = Tensor::from_f32(vec![1, WIDTH as u32], x).unwrap();
            fuels.push(model.block(block, x, &lengths, Some(vec![held.swap_remove(1)])).unwrap().0.fuel);
        }
    }
    assert!(fuels.iter().all(|&fuel| fuel == fuels[0]), "{fuels:?}");
}

fn refused(result: Result<Vec<Vec<u8>>, CallError>, naming: &str) {
    match result {
        Err(CallError::Guest(Failure::Operation(text) | Failure::BadInput(text))) => {
            assert!(text.contains(naming), "{text}");
        }
        other => panic!("{other:?} instead of a refusal naming {naming:?}"),
    }
}

#[test]
fn rows_beyond_the_table_are_refused() {
    let model = Model::new(&native(Compiler::Cranelift), 2, Level::detect(), 1);
    let text = tokens(&mut Random(2), CONTEXT + 1);
    let mut held = nothing();
    refused(model.step(&mut [(&text, &mut held)]), "outside the table of 96 positions");
    let mut held = nothing();
    model.step(&mut [(&text[..CONTEXT], &mut held)]).unwrap();
    refused(model.step(&mut [(&text[CONTEXT..], &mut held)]), "outside the table of 96 positions");
}

#[test]
fn a_block_that_fails_midway_leaves_nothing() {
    let mut model = Model::new(&native(Compiler::Cranelift), 2, Level::detect(), 1);
    let text = tokens(&mut Random(2), 60);
    let whole = model.whole(&[&text]);
    let mut held = nothing();
    model.step(&mut [(&text[..50], &mut held)]).unwrap();
    let kept = held.clone();
    // Room for ten rows up to attention (40 columns, 80 before and 80 after they are turned, and the positions), but not
    // for the gates after it (40 columns, 112 before and 56 after).
    let room = held[1].bytes() as u64 + 256 + 10 * 4 * (40 + 80 + 80 + 1 + 4);
    model.limits = Limits { quotas: Quotas { bytes: room, ..Quotas::default() }, ..Limits::default() };
    refused(model.step(&mut [(&text[50..], &mut held)]), "quota");
    assert_eq!(held[1].rows(), 0, "what was handed over is gone");
    // What was kept aside is as it was.
    model.limits = Limits::default();
    let mut held = kept;
    assert!(model.step(&mut [(&text[50..], &mut held)]).unwrap() == whole[50..]);
}

#[test]
fn wrong_heads_and_lengths_are_refused() {
    let model = Model::new(&native(Compiler::Cranelift), 2, Level::detect(), 1);
    let x = Tensor::from_f32(vec![3, WIDTH as u32], vec![0.5; 3 * WIDTH]).unwrap();
    let call = |heads: &str, kv_heads: &str, dims: Vec<u32>, lengths: Vec<i32>| {
        let settings = vec![("kind", "decoder".to_owned()), ("heads", heads.into()), ("kv-heads", kv_heads.into())];
        let lengths = Tensor::from_i32(dims, lengths).unwrap();
        let done = model.block(&("blocks.0".to_owned(), settings), x.clone(), &lengths, None);
        done.map(|(forward, _)| vec![forward.output.to_bytes()])
    };
    assert!(call("6", "2", vec![1], vec![3]).is_ok());
    for (heads, kv_heads) in [("6", "4"), ("5", "2"), ("2", "4"), ("4294967295", "2"), ("6", "4294967295")] {
        refused(call(heads, kv_heads, vec![1], vec![3]), "cannot share 80 columns");
    }
    // Other heads that share the columns, but give fewer than the next layer takes.
    refused(call("4", "2", vec![1], vec![3]), "the layer takes 48");
    refused(call("6", "2", vec![1], vec![4]), "add up to 4");
    refused(call("6", "2", vec![1, 1], vec![3]), "[1, 1]");
    refused(call("6", "2", vec![1, 2], vec![3, -1]), "-1 before");
    refused(call("6", "2", vec![1, 2], vec![3, i32::MAX]), "2147483647 before");
    refused(call("6", "2", vec![1, 2], vec![3, 1]), "the host holds 0");
}
