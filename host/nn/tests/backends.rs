//! Whatever computes the products, a linear layer gives the bytes of the reference: on any shape, with values at
//! their bounds, from several threads at once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops where it is wrong")]

use ostrakon_exact::layer::MAX_WIDTH;
use ostrakon_exact::reference;
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_exact::{Layer, Linear, Part};
use ostrakon_nn::backend::NAMES;
use ostrakon_nn::{Host, MemoryLayers, Meter, ProvenBackend, Tensor};
use proptest::prelude::*;
use std::io::{Write, stderr};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::thread;

/// Every backend of this build, with its executor. OpenVINO may be missing, unless the environment says that it must
/// be there.
static BACKENDS: LazyLock<Vec<(Arc<Executor>, ProvenBackend)>> = LazyLock::new(|| {
    let openvino = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/home/data/openvino");
    let executor = Arc::new(Executor::new(Level::detect(), 2).unwrap());
    let start = |&name: &&str| match ProvenBackend::start(name, &executor, Some(&openvino)) {
        Ok(backend) => Some((Arc::clone(&executor), backend)),
        Err(error) if required(name) => panic!("{error}"),
        Err(error) => {
            // Straight to the terminal: the harness keeps what passing tests print.
            let _ = writeln!(stderr(), "NOT TESTED: {error}");
            None
        }
    };
    NAMES.iter().filter_map(start).collect()
});

/// Whether this machine must have the backend.
fn required(name: &str) -> bool {
    name == "cpu" || std::env::var_os(format!("OSTRAKON_REQUIRE_{}", name.to_uppercase())).is_some()
}

/// A layer's weights.
#[derive(Debug, Clone, Copy)]
enum Weights {
    Largest,
    Least,
    Alternating,
    Small,
    Any,
}

#[derive(Debug, Clone)]
struct Case {
    inputs: usize,
    outputs: usize,
    activation: &'static str,
    weights: Weights,
    seed: u64,
}

fn random(seed: u64, at: usize) -> u64 {
    let x = (seed ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 24
}

impl Case {
    fn codes(&self) -> Vec<i8> {
        let any = |at| (random(self.seed, at) % 255) as i16 - 127;
        let one = |at: usize| match self.weights {
            Weights::Largest => 127,
            Weights::Least => -127,
            Weights::Alternating => [127, -127][at % 2],
            Weights::Small => any(at) / 12,
            Weights::Any => any(at),
        };
        (0..self.inputs * self.outputs).map(|at| one(at) as i8).collect()
    }

    fn scale(&self) -> Vec<f32> {
        (1..=self.outputs).map(|n| 1.0 / n as f32).collect()
    }

    fn layer(&self) -> Linear {
        let part = |name: &str, dimensions: Vec<usize>, data: Vec<u8>| Part {
            name: name.to_owned(),
            dimensions,
            data: Box::new(data),
        };
        let codes = self.codes().iter().map(|&code| code as u8).collect();
        let scale = self.scale().iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let parts =
            vec![part("weight", vec![self.outputs, self.inputs], codes), part("scale", vec![self.outputs], scale)];
        match Layer::from_parts("linear", self.activation, parts).unwrap() {
            Layer::Linear(layer) => layer,
            other => panic!("{}", other.kind()),
        }
    }

    /// Rows of the largest code alone, of the largest and the least in turn, of anything, of zeros.
    fn rows(&self, rows: usize) -> Vec<f32> {
        let one = |at: usize| match at / self.inputs % 4 {
            0 => 1.0,
            1 => [1.0, 0.0][at % 2],
            2 => random(self.seed, at) as f32 / 1e9 - 0.5,
            _ => 0.0,
        };
        (0..rows * self.inputs).map(one).collect()
    }

    fn want(&self, x: &[f32], rows: usize) -> Vec<u32> {
        let mut want = vec![0.0; rows * self.outputs];
        reference::linear(&self.layer(), x, rows, &mut want).unwrap();
        want.iter().map(|value| value.to_bits()).collect()
    }

    fn host(&self, executor: &Arc<Executor>, backend: &ProvenBackend) -> Host {
        let mut layers = MemoryLayers::new();
        layers.insert_linear("b.linear", self.activation, &self.codes(), &self.scale(), &[], &[]);
        Host::new(Arc::clone(executor), backend.clone(), Arc::new(layers))
    }

    fn got(host: &Host, x: Vec<f32>, rows: usize, inputs: usize) -> Vec<u32> {
        let x = Tensor::from_f32(vec![rows as u32, inputs as u32], x).unwrap();
        let graph = host.graph("b.linear").unwrap();
        let y = host.compute(&Meter::unlimited(), &graph, vec![("x".to_owned(), x)]).unwrap().remove(0).1;
        y.as_f32().unwrap().iter().map(|value| value.to_bits()).collect()
    }

    fn check(&self, all_rows: &[usize]) {
        for (executor, backend) in BACKENDS.iter() {
            let host = self.host(executor, backend);
            for &rows in all_rows {
                let x = self.rows(rows);
                let want = self.want(&x, rows);
                assert!(Self::got(&host, x, rows, self.inputs) == want, "{backend:?}, {self:?}, {rows} rows");
            }
        }
    }
}

fn case(inputs: impl Strategy<Value = usize>) -> impl Strategy<Value = Case> {
    let weights = prop::sample::select(vec![
        Weights::Largest,
        Weights::Least,
        Weights::Alternating,
        Weights::Small,
        Weights::Any,
    ]);
    (inputs, 1usize..100, prop::sample::select(vec!["u8", "u16"]), weights, any::<u64>())
        .prop_map(|(inputs, outputs, activation, weights, seed)| Case { inputs, outputs, activation, weights, seed })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_gives_the_bytes_of_the_reference(case in case(1usize..1800), rows in 0usize..70) {
        case.check(&[rows, 0, 1, rows * 2]);
    }

    #[test]
    fn widths_that_fill_registers_do_too(case in case((1usize..25).prop_map(|n| n * 64)), rows in 1usize..9) {
        case.check(&[rows * 16, rows]);
    }
}

#[test]
fn sums_at_their_bound_do_too() {
    for activation in ["u8", "u16"] {
        for weights in [Weights::Largest, Weights::Least] {
            Case { inputs: MAX_WIDTH, outputs: 3, activation, weights, seed: 1 }.check(&[1, 2]);
        }
    }
}

#[test]
fn more_rows_than_one_run_takes_do_too() {
    for activation in ["u8", "u16"] {
        Case { inputs: 70, outputs: 9, activation, weights: Weights::Any, seed: 2 }.check(&[1023, 1025, 2100]);
    }
}

#[test]
fn threads_that_share_a_layer_do_not_disturb_each_other() {
    let case = Case { inputs: 600, outputs: 33, activation: "u16", weights: Weights::Any, seed: 3 };
    for (executor, backend) in BACKENDS.iter() {
        let host = case.host(executor, backend);
        thread::scope(|scope| {
            for caller in 1..=6 {
                let (host, case) = (&host, &case);
                scope.spawn(move || {
                    for rows in [caller, 40 * caller, 7] {
                        let x = case.rows(rows);
                        let want = case.want(&x, rows);
                        assert!(Case::got(host, x, rows, case.inputs) == want, "{backend:?}, {rows} rows");
                    }
                });
            }
        });
    }
}
