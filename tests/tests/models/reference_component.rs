//! The operations in plain WebAssembly give the bytes of the native ones, whatever the weights and
//! values: random little blocks of every kind, run on the native host at every SIMD level and composed
//! with `exact-reference`, on both compilers.

use ostrakon_engine::{Compiler, Instance, Limits, Plugin, Runtime, World};
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_nn::{CpuBackend, Host, MemoryLayers, ProvenBackend, Tensor};
use ostrakon_package::component::compose;
use proptest::prelude::*;
use std::path::Path;
use std::sync::{Arc, LazyLock};

const COMPILERS: [Compiler; 2] = [Compiler::Cranelift, Compiler::Pulley];

/// Each compiler's native and reference plugin.
type Plugins = LazyLock<Vec<[Plugin; 2]>>;

static BERT: Plugins = LazyLock::new(|| plugins("block-bert.wasm"));
static LLAMA: Plugins = LazyLock::new(|| plugins("block-llama.wasm"));

fn plugins(block: &str) -> Vec<[Plugin; 2]> {
    let read = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/plugins").join(name);
        std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}: run `make plugins` first", file.display()))
    };
    let block = read(block);
    let composed = compose(&block, &read("exact-reference.wasm")).unwrap();
    let admit = |compiler| {
        let runtime = Runtime::new(compiler, None, Limits::default()).unwrap();
        [runtime.admit(&block, World::ModelBlock).unwrap(), runtime.admit(&composed, World::ReferenceBlock).unwrap()]
    };
    COMPILERS.map(admit).into()
}

static EXECUTORS: LazyLock<Vec<(Arc<Executor>, ProvenBackend)>> = LazyLock::new(|| {
    let make = |level| {
        let executor = Arc::new(Executor::new(level, 2).unwrap());
        (Arc::clone(&executor), ProvenBackend::new(CpuBackend::new(executor)).unwrap())
    };
    Level::available().into_iter().map(make).collect()
});

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn codes(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| (self.next() % 255) as i8).map(|w| w.max(-127)).collect()
    }

    fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| ((self.next() % 2001) as f32 - 1000.0) / 1000.0 * scale).collect()
    }

    /// Mostly ordinary values, some that break careless arithmetic.
    fn values(&mut self, n: usize) -> Vec<f32> {
        const AWKWARD: [f32; 10] =
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1e-45, -1e-40, 3e38, -3e38, 1.0e-19];
        let mut values = self.floats(n, 3.0);
        for value in &mut values {
            if self.next().is_multiple_of(6) {
                *value = AWKWARD[(self.next() % 10) as usize];
            }
        }
        values
    }

    fn linear(&mut self, layers: &mut MemoryLayers, name: &str, outputs: usize, inputs: usize) {
        let activation = ["u8", "u16"][(self.next() % 2) as usize];
        let weight = self.codes(outputs * inputs);
        let scale: Vec<f32> = self.floats(outputs, 0.01).into_iter().map(f32::abs).collect();
        let prescale = if self.next().is_multiple_of(2) { self.floats(inputs, 2.0) } else { Vec::new() };
        let bias = self.floats(outputs, 1.0);
        layers.insert_linear(name, activation, &weight, &scale, &bias, &prescale);
    }

    fn norm(&mut self, layers: &mut MemoryLayers, name: &str, width: usize) {
        let (gain, bias) = (self.floats(width, 2.0), self.floats(width, 1.0));
        layers.insert_layer_norm(name, &gain, &bias, 1e-12);
    }

    fn rms_norm(&mut self, layers: &mut MemoryLayers, name: &str, width: usize) {
        layers.insert_rms_norm(name, &self.floats(width, 2.0), 1e-5);
    }
}

fn run(plugin: &Plugin, host: Host, settings: &[(&str, &str)], input: &Tensor, lengths: &Tensor) -> Vec<u8> {
    let settings: Vec<(String, String)> = settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    let mut instance: Instance = plugin.instantiate(Arc::new(host), Limits::default()).unwrap();
    let session = instance.open("b", &settings).unwrap();
    instance.forward(session, input.clone(), lengths).unwrap().output.to_bytes()
}

/// The block on every level, compiler and arithmetic: one answer.
fn agree(
    plugins: &Plugins,
    layers: MemoryLayers,
    settings: &[(&str, &str)],
    input: &Tensor,
    lengths: &[i32],
) -> Result<(), TestCaseError> {
    let layers = Arc::new(layers);
    let lengths = Tensor::from_i32(vec![lengths.len() as u32], lengths.to_vec()).unwrap();
    let mut first: Option<Vec<u8>> = None;
    for ([native, reference], compiler) in plugins.iter().zip(COMPILERS) {
        for (at, (executor, backend)) in EXECUTORS.iter().enumerate() {
            let host = || Host::new(Arc::clone(executor), backend.clone(), Arc::clone(&layers) as _);
            let mut both = vec![(native, "native")];
            if at == 0 {
                both.push((reference, "reference"));
            }
            for (plugin, arithmetic) in both {
                let bytes = run(plugin, host(), settings, input, &lengths);
                let first = first.get_or_insert_with(|| bytes.clone());
                prop_assert_eq!(&bytes, first, "{:?} {} {:?}", compiler, arithmetic, executor.level());
            }
        }
    }
    Ok(())
}

fn lengths() -> impl Strategy<Value = Vec<i32>> {
    prop::collection::vec(1..9i32, 1..5)
}

fn rows(random: &mut Random, lengths: &[i32], width: usize) -> Tensor {
    let rows = lengths.iter().sum::<i32>() as usize;
    Tensor::from_f32(vec![rows as u32, width as u32], random.values(rows * width)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn encoders_agree(lengths in lengths(), heads in 1usize..4, d in 1usize..9, wide in 1usize..40, seed: u64) {
        let (random, width) = (&mut Random(seed), heads * d);
        let mut layers = MemoryLayers::new();
        random.linear(&mut layers, "b.attention.qkv", 3 * width, width);
        random.linear(&mut layers, "b.attention.output", width, width);
        random.norm(&mut layers, "b.attention.norm", width);
        random.linear(&mut layers, "b.feed-forward.up", wide, width);
        random.linear(&mut layers, "b.feed-forward.down", width, wide);
        random.norm(&mut layers, "b.feed-forward.norm", width);
        let input = rows(random, &lengths, width);
        agree(&BERT, layers, &[("kind", "encoder"), ("heads", &heads.to_string())], &input, &lengths)?;
    }

    #[test]
    fn embeddings_agree(lengths in lengths(), width in 1usize..30, seed: u64) {
        let random = &mut Random(seed);
        let mut layers = MemoryLayers::new();
        for (name, rows) in [("b.words", 17), ("b.positions", 9)] {
            let (table, scale) = (random.codes(rows * width), random.floats(rows, 0.1));
            layers.insert_embedding(name, &table, &scale);
        }
        random.norm(&mut layers, "b.norm", width);
        let count = lengths.iter().sum::<i32>();
        let ids = (0..count).map(|_| (random.next() % 17) as i32).collect();
        let ids = Tensor::from_i32(vec![count as u32], ids).unwrap();
        agree(&BERT, layers, &[("kind", "embeddings")], &ids, &lengths)?;
    }

    #[test]
    fn pools_agree(lengths in lengths(), width in 1usize..30, mean: bool, normalise: bool, seed: u64) {
        let input = rows(&mut Random(seed), &lengths, width);
        let pool = if mean { "mean" } else { "first" };
        let normalise = if normalise { "true" } else { "false" };
        let settings = [("kind", "pooling"), ("pool", pool), ("normalise", normalise)];
        agree(&BERT, MemoryLayers::new(), &settings, &input, &lengths)?;
    }

    #[test]
    fn decoders_agree(
        lengths in lengths(), kv_heads in 1usize..3, group in 1usize..4, half in 1usize..5, wide in 1usize..40, seed: u64,
    ) {
        let (random, d, heads) = (&mut Random(seed), 2 * half, kv_heads * group);
        let width = 3 + heads * d;
        let mut layers = MemoryLayers::new();
        random.rms_norm(&mut layers, "b.attention.norm", width);
        random.linear(&mut layers, "b.attention.qkv", (heads + 2 * kv_heads) * d, width);
        layers.insert_rotary("b.attention.rotary", &random.floats(8 * d, 1.0), d, heads + kv_heads);
        random.linear(&mut layers, "b.attention.output", width, heads * d);
        random.rms_norm(&mut layers, "b.feed-forward.norm", width);
        random.linear(&mut layers, "b.feed-forward.gate-up", 2 * wide, width);
        random.linear(&mut layers, "b.feed-forward.down", width, wide);
        let input = rows(random, &lengths, width);
        let (heads, kv_heads) = (heads.to_string(), kv_heads.to_string());
        agree(&LLAMA, layers, &[("kind", "decoder"), ("heads", &heads), ("kv-heads", &kv_heads)], &input, &lengths)?;
    }

    #[test]
    fn words_and_logits_agree(lengths in lengths(), width in 1usize..30, seed: u64) {
        let random = &mut Random(seed);
        let mut layers = MemoryLayers::new();
        random.rms_norm(&mut layers, "b.norm", width);
        random.linear(&mut layers, "b.head", 17, width);
        agree(&LLAMA, layers, &[("kind", "head")], &rows(random, &lengths, width), &lengths)?;

        let mut layers = MemoryLayers::new();
        layers.insert_embedding("b.words", &random.codes(17 * width), &random.floats(17, 0.1));
        let count = lengths.iter().sum::<i32>();
        let ids = (0..count).map(|_| (random.next() % 17) as i32).collect();
        let ids = Tensor::from_i32(vec![count as u32], ids).unwrap();
        agree(&LLAMA, layers, &[("kind", "embeddings")], &ids, &lengths)?;
    }
}
