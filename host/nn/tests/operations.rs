//! Every operation gives the bytes of the reference, and refuses what does not fit by name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects and stops where it is wrong")]

use ostrakon_exact::simd::{Executor, Level};
use ostrakon_exact::{Layer, Lengths, reference};
use ostrakon_nn::{
    CpuBackend, Graph, GraphShape, Host, LayerSource, MemoryLayers, Meter, NnError, ProvenBackend, Quotas, Resource,
    Tensor,
};
use proptest::prelude::*;
use std::sync::{Arc, OnceLock};

/// One executor and one proof for all tests.
fn machine() -> (Arc<Executor>, ProvenBackend) {
    static MACHINE: OnceLock<(Arc<Executor>, ProvenBackend)> = OnceLock::new();
    MACHINE
        .get_or_init(|| {
            let executor = Arc::new(Executor::new(Level::detect(), 2).unwrap());
            let backend = ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))).unwrap();
            (executor, backend)
        })
        .clone()
}

fn host(layers: MemoryLayers) -> Host {
    let (executor, backend) = machine();
    Host::new(executor, backend, Arc::new(layers))
}

/// A host with one small layer of each kind.
fn small() -> Host {
    let mut layers = MemoryLayers::new();
    layers.insert_linear("b.linear", "u8", &[1, 2, 3, 4, 5, 6], &[0.5, 0.25], &[1.0, -1.0], &[]);
    layers.insert_embedding("b.table", &[1, 2, 3, 4, 5, 6], &[1.0, 0.5, 0.25]);
    layers.insert_layer_norm("b.norm", &[1.0, 2.0, 3.0], &[0.0, 0.0, 1.0], 1e-5);
    layers.insert_rms_norm("b.rms", &[1.0, 2.0, 3.0], 1e-5);
    layers.insert_rotary("b.rotary", &[1.0, 0.0, 0.6, 0.8], 2, 2);
    host(layers)
}

fn f32s(dims: &[u32], values: &[f32]) -> Tensor {
    Tensor::from_f32(dims.to_vec(), values.to_vec()).unwrap()
}

fn i32s(values: &[i32]) -> Tensor {
    Tensor::from_i32(vec![values.len() as u32], values.to_vec()).unwrap()
}

fn compute(host: &Host, name: &str, inputs: &[(&str, &Tensor)]) -> Result<Tensor, NnError> {
    let inputs = inputs.iter().map(|&(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    let outputs = host.compute(&Meter::unlimited(), &host.graph(name)?, inputs)?;
    match <[(String, Tensor); 1]>::try_from(outputs) {
        Ok([(name, y)]) if name == "y" => Ok(y),
        other => panic!("{other:?}"),
    }
}

fn same_bits(got: &Tensor, want: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(got.as_f32().unwrap()), bits(want));
}

/// Refused as an invalid argument whose text says all of `naming`.
fn refused(result: Result<Tensor, NnError>, naming: &[&str]) {
    match result {
        Err(NnError::InvalidArgument(text)) => {
            for word in naming {
                assert!(text.contains(word), "{text:?} does not say {word:?}");
            }
        }
        other => panic!("{other:?} instead of a refusal naming {naming:?}"),
    }
}

#[test]
fn graphs_say_what_they_are() {
    let host = small();
    let shape = |name: &str| host.graph(name).unwrap().shape();
    assert!(matches!(shape("b.linear"), GraphShape::Linear { inputs: 3, outputs: 2, .. }));
    assert_eq!(shape("b.table"), GraphShape::Embedding { rows: 3, width: 2 });
    assert_eq!(shape("b.norm"), GraphShape::LayerNorm { width: 3 });
    assert_eq!(shape("b.rms"), GraphShape::RmsNorm { width: 3 });
    assert_eq!(shape("b.rotary"), GraphShape::Rotary { positions: 2, heads: 2, width: 2 });
}

#[test]
fn inputs_are_taken_by_name() {
    let host = small();
    let x = f32s(&[1, 3], &[1.0, 2.0, 3.0]);
    refused(compute(&host, "b.linear", &[]), &["b.linear", "`x`", "missing"]);
    refused(compute(&host, "b.linear", &[("X", &x)]), &["\"X\"", "unknown", "`x`"]);
    refused(compute(&host, "b.linear", &[("x", &x), ("x", &x)]), &["\"x\"", "twice"]);
    refused(compute(&host, "b.linear", &[("x", &x), ("residual", &x)]), &["residual", "unknown"]);
    refused(compute(&host, "b.norm", &[("residual", &x)]), &["b.norm", "`x`", "missing"]);
    refused(compute(&host, "b.table", &[("x", &x)]), &["unknown", "`ids`"]);
    let long = "n".repeat(100_000);
    match compute(&host, "b.linear", &[(&long, &x)]) {
        Err(error) => assert!(error.to_string().len() < 300),
        Ok(_) => panic!("a name of 100,000 characters was taken"),
    }
}

#[test]
fn shapes_and_types_are_checked() {
    let host = small();
    let linear = |x: Tensor| compute(&host, "b.linear", &[("x", &x)]);
    refused(linear(f32s(&[3, 1], &[0.0; 3])), &["b.linear", "`x`", "1 columns", "takes 3"]);
    refused(linear(f32s(&[3], &[0.0; 3])), &["`x`", "[3]", "two dimensions"]);
    refused(linear(f32s(&[1, 1, 3], &[0.0; 3])), &["`x`", "two dimensions"]);
    refused(linear(i32s(&[1, 2, 3])), &["`x`", "I32", "FP32"]);
    let x = f32s(&[1, 3], &[0.0; 3]);
    refused(compute(&host, "b.norm", &[("x", &x), ("residual", &f32s(&[2, 3], &[0.0; 6]))]), &["2 rows", "1"]);
    refused(
        compute(&host, "b.norm", &[("x", &x), ("residual", &f32s(&[3, 1], &[0.0; 3]))]),
        &["`residual`", "columns"],
    );
    refused(compute(&host, "b.table", &[("ids", &x)]), &["`ids`", "FP32", "I32"]);
    let square = Tensor::from_i32(vec![1, 1], vec![0]).unwrap();
    refused(compute(&host, "b.table", &[("ids", &square)]), &["`ids`", "one dimension"]);
}

#[test]
fn ids_outside_the_table_are_refused() {
    let host = small();
    for id in [3, -1, i32::MIN, i32::MAX] {
        refused(compute(&host, "b.table", &[("ids", &i32s(&[0, id]))]), &["b.table", &id.to_string(), "3 rows"]);
    }
    same_bits(&compute(&host, "b.table", &[("ids", &i32s(&[2, 0]))]).unwrap(), &[1.25, 1.5, 1.0, 2.0]);
}

#[test]
fn empty_tensors_give_empty_tensors() {
    let host = small();
    let meter = Meter::unlimited();
    let empty = f32s(&[0, 3], &[]);
    let none = i32s(&[]);
    assert_eq!(compute(&host, "b.linear", &[("x", &empty)]).unwrap().dims(), [0, 2]);
    assert_eq!(compute(&host, "b.norm", &[("x", &empty)]).unwrap().dims(), [0, 3]);
    assert_eq!(compute(&host, "b.table", &[("ids", &none)]).unwrap().dims(), [0, 2]);
    assert_eq!(host.gelu(&meter, &f32s(&[0, 7], &[])).unwrap().dims(), [0, 7]);
    assert_eq!(host.add(&meter, &empty, &empty).unwrap().dims(), [0, 3]);
    assert_eq!(host.attention(&meter, &empty, &none, 1).unwrap().dims(), [0, 1]);
    for width in [0, 3] {
        assert_eq!(host.mean_pool(&meter, &f32s(&[0, width], &[]), &none).unwrap().dims(), [0, width]);
        assert_eq!(host.first_pool(&meter, &f32s(&[0, width], &[]), &none).unwrap().dims(), [0, width]);
        assert_eq!(host.l2_normalise(&meter, &f32s(&[0, width], &[])).unwrap().dims(), [0, width]);
    }
    let no_columns = f32s(&[4, 0], &[]);
    assert_eq!(host.mean_pool(&meter, &no_columns, &i32s(&[1, 3])).unwrap().dims(), [2, 0]);
    assert_eq!(host.first_pool(&meter, &no_columns, &i32s(&[4])).unwrap().dims(), [1, 0]);
    assert_eq!(host.last_rows(&meter, &no_columns, &i32s(&[4])).unwrap().dims(), [4, 0]);
    let nothing_wanted = Tensor::from_i32(vec![1, 3], vec![2, 7, 0]).unwrap();
    assert_eq!(host.last_rows(&meter, &f32s(&[2, 3], &[0.5; 6]), &nothing_wanted).unwrap().dims(), [0, 3]);
    assert_eq!(host.l2_normalise(&meter, &no_columns).unwrap().dims(), [4, 0]);
    refused(host.attention(&meter, &no_columns, &i32s(&[4]), 1), &["heads", "0 columns"]);
}

#[test]
fn exact_operations_refuse_what_does_not_fit() {
    let host = small();
    let meter = Meter::unlimited();
    let x = f32s(&[2, 6], &[0.5; 12]);
    refused(host.add(&meter, &x, &f32s(&[6, 2], &[0.0; 12])), &["`a`", "[2, 6]", "[6, 2]"]);
    refused(host.add(&meter, &x, &i32s(&[0])), &["`b`", "I32"]);
    refused(host.gelu(&meter, &i32s(&[0])), &["`x`", "I32", "FP32"]);
    refused(host.attention(&meter, &f32s(&[2, 4], &[0.0; 8]), &i32s(&[2]), 1), &["`qkv`", "multiple of 3"]);
    for heads in [0, 3, u32::MAX] {
        refused(host.attention(&meter, &x, &i32s(&[2]), heads), &["heads", "2 columns"]);
    }
    refused(host.attention(&meter, &f32s(&[1, 3 * 129], &[0.0; 387]), &i32s(&[1]), 1), &["128"]);
    refused(host.l2_normalise(&meter, &f32s(&[12], &[0.0; 12])), &["two dimensions"]);
    refused(host.l2_normalise(&meter, &f32s(&[1, 66_001], &[0.0; 66_001])), &["66001", "66000"]);
    for (lengths, naming) in [
        (vec![1], "add up to 1"),
        (vec![3], "more than"),
        (vec![2, 0], "length 1"),
        (vec![-1, 3], "length 0"),
        (vec![], "add up to 0"),
    ] {
        let lengths = i32s(&lengths);
        refused(host.mean_pool(&meter, &x, &lengths), &[naming]);
        refused(host.first_pool(&meter, &x, &lengths), &[naming]);
        refused(host.attention(&meter, &x, &lengths, 1), &[naming]);
        refused(host.last_rows(&meter, &x, &lengths), &[naming]);
    }
    for (dims, lengths, naming) in [
        (vec![1, 3], vec![2, 0, 3], "3 of 2 rows"),
        (vec![1, 3], vec![2, 0, -1], "-1 of 2 rows"),
        (vec![1, 3], vec![2, -1, 1], "-1 before"),
        (vec![2, 3], vec![1, 0, 1, 2, 0, 1], "more than"),
        (vec![1, 4], vec![2, 0, 1, 1], "[1, 4]"),
    ] {
        let lengths = Tensor::from_i32(dims, lengths).unwrap();
        refused(host.last_rows(&meter, &x, &lengths), &[naming]);
        refused(host.causal_attention(&meter, None, &x, &lengths, 1, 1), &[naming]);
    }
    refused(host.mean_pool(&meter, &x, &f32s(&[1], &[2.0])), &["`lengths`", "FP32", "I32"]);
    let square = Tensor::from_i32(vec![1, 1], vec![2]).unwrap();
    refused(host.mean_pool(&meter, &x, &square), &["`lengths`", "one dimension"]);
}

#[test]
fn results_are_charged_before_they_are_allocated() {
    // 256 KiB of ids would make a result of 16 GiB.
    let mut layers = MemoryLayers::new();
    layers.insert_embedding("b.wide", &vec![0; 65_536], &[1.0]);
    layers.insert_linear("b.out", "u8", &[1; 64], &[1.0; 64], &[], &[]);
    let host = host(layers);
    let meter = Meter::new(Quotas { bytes: 1 << 20, ..Quotas::default() });
    let ids = i32s(&vec![0; 1 << 16]);
    let call = |graph: &Graph, name: &str, tensor: &Tensor| {
        host.compute(&meter, graph, vec![(name.to_owned(), tensor.clone())])
    };
    let wide = host.graph("b.wide").unwrap();
    match call(&wide, "ids", &ids) {
        Err(NnError::TooLarge(text)) => assert!(text.contains("17179869184 more bytes"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(meter.held(Resource::Bytes), 0);

    let x = f32s(&[2048, 1], &[1.0; 2048]);
    let out = host.graph("b.out").unwrap();
    let first = call(&out, "x", &x).unwrap();
    let second = call(&out, "x", &x).unwrap();
    assert_eq!(meter.held(Resource::Bytes), 1 << 20);
    assert!(matches!(call(&out, "x", &x), Err(NnError::TooLarge(_))));
    assert!(matches!(host.gelu(&meter, &x), Err(NnError::TooLarge(_))));
    drop((first, second));
    assert_eq!(meter.held(Resource::Bytes), 0);
    assert!(host.gelu(&meter, &x).is_ok());
}

#[test]
fn a_refused_call_keeps_no_charge() {
    let host = small();
    let meter = Meter::new(Quotas::default());
    let graph = host.graph("b.table").unwrap();
    assert!(host.compute(&meter, &graph, vec![("ids".to_owned(), i32s(&[99]))]).is_err());
    assert_eq!(meter.held(Resource::Bytes), 0);
}

/// Floats of every sort that operations must bear.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -8.0f32..8.0,
        1 => any::<f32>(),
        1 => proptest::sample::select(vec![
            f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX, 1e-30,
        ]),
    ]
}

fn values(len: usize) -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(value(), len)
}

fn weights(len: usize) -> impl Strategy<Value = Vec<i8>> {
    proptest::collection::vec(prop_oneof![-127i8..=127, Just(127), Just(-127)], len)
}

fn gains(len: usize) -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(-2.0f32..2.0, len)
}

fn layer(source: &MemoryLayers, name: &str) -> Layer {
    let raw = source.raw(name).unwrap();
    Layer::from_parts(&raw.kind, &raw.activation, raw.parts).unwrap()
}

prop_compose! {
    /// Rows, columns in and out, weights, scales, biases, prescales, x, and whether it is coded in 8 bits.
    fn linear_case()(rows in 0usize..20, inputs in 1usize..70, outputs in 1usize..40)(
        weight in weights(inputs * outputs), scale in gains(outputs), bias in gains(outputs),
        prescale in prop_oneof![Just(vec![]), gains(inputs)], x in values(rows * inputs),
        rows in Just(rows), narrow in any::<bool>(),
    ) -> (usize, Vec<i8>, Vec<f32>, Vec<f32>, Vec<f32>, Vec<f32>, bool) {
        (rows, weight, scale, bias, prescale, x, narrow)
    }
}

prop_compose! {
    /// Lengths, columns a head, heads, and three blocks of values of that shape.
    fn ragged_case()(lengths in proptest::collection::vec(1usize..6, 0..5), d in 1usize..20, heads in 1usize..4)(
        qkv in values(lengths.iter().sum::<usize>() * d * heads * 3), lengths in Just(lengths), d in Just(d), heads in Just(heads),
    ) -> (Vec<usize>, usize, usize, Vec<f32>) {
        (lengths, d, heads, qkv)
    }
}

#[test]
fn layers_of_decoders_refuse_what_does_not_fit() {
    let host = small();
    let (x, wide) = (f32s(&[2, 3], &[1.0; 6]), f32s(&[2, 5], &[1.0; 10]));
    let places = i32s(&[0, 1]);
    same_bits(&compute(&host, "b.rms", &[("x", &f32s(&[0, 3], &[]))]).unwrap(), &[]);
    refused(compute(&host, "b.rms", &[("x", &wide)]), &["b.rms", "5 columns", "takes 3"]);
    refused(compute(&host, "b.rms", &[("x", &x), ("residual", &x)]), &["b.rms", "residual", "unknown"]);
    refused(compute(&host, "b.rms", &[]), &["b.rms", "`x` is missing"]);

    let turned = compute(&host, "b.rotary", &[("positions", &places), ("x", &wide)]).unwrap();
    assert_eq!(turned.dims(), [2, 5]);
    // The first row stays where it is; of the second row two heads are turned, and the last column is not.
    let (a, b) = (0.6 - 0.8, 0.8f32 + 0.6);
    same_bits(&turned, &[1.0, 1.0, 1.0, 1.0, 1.0, a, b, a, b, 1.0]);
    refused(compute(&host, "b.rotary", &[("x", &x), ("positions", &places)]), &["b.rotary", "[2, 3]", "4 columns"]);
    refused(compute(&host, "b.rotary", &[("x", &wide)]), &["b.rotary", "`positions` is missing"]);
    for (positions, naming) in
        [(vec![0], "1 `positions`"), (vec![0, 2], "2 is outside"), (vec![-1, 0], "-1 is outside")]
    {
        let positions = i32s(&positions);
        refused(compute(&host, "b.rotary", &[("x", &wide), ("positions", &positions)]), &["b.rotary", naming]);
    }
    refused(compute(&host, "b.rotary", &[("x", &wide), ("positions", &x)]), &["positions", "I32"]);

    let meter = Meter::unlimited();
    refused(host.swiglu(&meter, &x), &["`x`", "3 columns", "even"]);
    refused(host.swiglu(&meter, &places), &["FP32"]);
    refused(host.swiglu(&meter, &f32s(&[4], &[1.0; 4])), &["two dimensions"]);
    assert_eq!(host.swiglu(&meter, &f32s(&[3, 0], &[])).unwrap().dims(), [3, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn linear_is_the_reference((rows, weight, scale, bias, prescale, x, narrow) in linear_case()) {
        let inputs = weight.len() / scale.len();
        let mut layers = MemoryLayers::new();
        layers.insert_linear("b.l", if narrow { "u8" } else { "u16" }, &weight, &scale, &bias, &prescale);
        let Layer::Linear(reference_layer) = layer(&layers, "b.l") else { panic!("not linear") };
        let mut want = vec![0.0; rows * scale.len()];
        reference::linear(&reference_layer, &x, rows, &mut want).unwrap();
        let got = compute(&host(layers), "b.l", &[("x", &f32s(&[rows as u32, inputs as u32], &x))]).unwrap();
        prop_assert_eq!(got.dims(), [rows as u32, scale.len() as u32]);
        same_bits(&got, &want);
    }

    #[test]
    fn embedding_is_the_reference(
        (table, scale, ids) in (1usize..30, 1usize..20).prop_flat_map(|(rows, width)| {
            (weights(rows * width), gains(rows), proptest::collection::vec(0..rows as i32, 0..40))
        })
    ) {
        let width = table.len() / scale.len();
        let mut layers = MemoryLayers::new();
        layers.insert_embedding("b.e", &table, &scale);
        let Layer::Embedding(reference_layer) = layer(&layers, "b.e") else { panic!("not an embedding") };
        let mut want = vec![0.0; ids.len() * width];
        reference::embedding(&reference_layer, &ids, &mut want).unwrap();
        same_bits(&compute(&host(layers), "b.e", &[("ids", &i32s(&ids))]).unwrap(), &want);
    }

    #[test]
    fn layer_norm_is_the_reference(
        (gain, bias, x, residual) in (0usize..12, 1usize..80).prop_flat_map(|(rows, width)| {
            (gains(width), gains(width), values(rows * width), proptest::option::of(values(rows * width)))
        })
    ) {
        let width = gain.len();
        let rows = x.len() / width;
        let mut layers = MemoryLayers::new();
        layers.insert_layer_norm("b.n", &gain, &bias, 1e-12);
        let Layer::LayerNorm(reference_layer) = layer(&layers, "b.n") else { panic!("not a layer norm") };
        let mut want = vec![0.0; x.len()];
        reference::layer_norm(&reference_layer, &x, residual.as_deref(), rows, &mut want).unwrap();
        let tensor = |v: &[f32]| f32s(&[rows as u32, width as u32], v);
        let (x, residual) = (tensor(&x), residual.as_deref().map(tensor));
        let mut inputs = vec![("x", &x)];
        // The order of the inputs does not matter: the residual goes first.
        if let Some(residual) = &residual {
            inputs.insert(0, ("residual", residual));
        }
        same_bits(&compute(&host(layers), "b.n", &inputs).unwrap(), &want);
    }

    #[test]
    fn rms_norm_and_swiglu_are_the_reference(
        (gain, x) in (0usize..12, 1usize..40).prop_flat_map(|(rows, half)| (gains(2 * half), values(rows * 2 * half)))
    ) {
        let width = gain.len();
        let rows = x.len() / width;
        let mut layers = MemoryLayers::new();
        layers.insert_rms_norm("b.n", &gain, 1e-6);
        let Layer::RmsNorm(reference_layer) = layer(&layers, "b.n") else { panic!("not an RMS norm") };
        let host = host(layers);
        let tensor = f32s(&[rows as u32, width as u32], &x);
        let mut want = vec![0.0; x.len()];
        reference::rms_norm(&reference_layer, &x, rows, &mut want).unwrap();
        same_bits(&compute(&host, "b.n", &[("x", &tensor)]).unwrap(), &want);
        want.truncate(x.len() / 2);
        reference::swiglu(&x, rows, width / 2, &mut want).unwrap();
        same_bits(&host.swiglu(&Meter::unlimited(), &tensor).unwrap(), &want);
    }

    #[test]
    fn rotary_is_the_reference(
        (table, d, heads, rest, x, positions) in (1usize..9, 1usize..5, 1usize..4, 0usize..7, 0usize..9).prop_flat_map(
            |(positions, half, heads, rest, rows)| {
                let columns = 2 * half * heads + rest;
                (
                    gains(positions * 2 * half), Just(2 * half), Just(heads), Just(rest), values(rows * columns),
                    proptest::collection::vec(0..positions as i32, rows),
                )
            }
        )
    ) {
        let columns = d * heads + rest;
        let mut layers = MemoryLayers::new();
        layers.insert_rotary("b.r", &table, d, heads);
        let Layer::Rotary(reference_layer) = layer(&layers, "b.r") else { panic!("not rotary") };
        let mut want = vec![0.0; x.len()];
        reference::rotary(&reference_layer, &x, &positions, columns, &mut want).unwrap();
        let x = f32s(&[positions.len() as u32, columns as u32], &x);
        same_bits(&compute(&host(layers), "b.r", &[("x", &x), ("positions", &i32s(&positions))]).unwrap(), &want);
    }

    #[test]
    fn operations_without_weights_are_the_reference((lengths, d, heads, qkv) in ragged_case()) {
        let host = host(MemoryLayers::new());
        let meter = Meter::new(Quotas::default());
        let (rows, width) = (lengths.iter().sum::<usize>(), d * heads);
        let lengths_tensor = i32s(&lengths.iter().map(|&l| l as i32).collect::<Vec<_>>());
        let checked = Lengths::new(lengths_tensor.as_i32().unwrap(), rows).unwrap();
        let wide = f32s(&[rows as u32, 3 * width as u32], &qkv);

        let mut want = vec![0.0; rows * width];
        reference::attention(&qkv, &checked, width, heads, &mut want).unwrap();
        let got = host.attention(&meter, &wide, &lengths_tensor, heads as u32).unwrap();
        prop_assert_eq!(got.dims(), [rows as u32, width as u32]);
        same_bits(&got, &want);

        let mut want = vec![0.0; lengths.len() * 3 * width];
        reference::mean_pool(&qkv, &checked, 3 * width, &mut want).unwrap();
        same_bits(&host.mean_pool(&meter, &wide, &lengths_tensor).unwrap(), &want);
        reference::first_pool(&qkv, &checked, 3 * width, &mut want).unwrap();
        same_bits(&host.first_pool(&meter, &wide, &lengths_tensor).unwrap(), &want);

        let wanted: Vec<usize> = lengths.iter().enumerate().map(|(i, &length)| (i * 7 + d) % (length + 1)).collect();
        let triples = lengths.iter().zip(&wanted).flat_map(|(&rows, &wanted)| [rows as i32, 3, wanted as i32]);
        let triples = Tensor::from_i32(vec![lengths.len() as u32, 3], triples.collect()).unwrap();
        let mut want = vec![0.0; wanted.iter().sum::<usize>() * 3 * width];
        reference::last_rows(&qkv, &checked, &wanted, 3 * width, &mut want).unwrap();
        same_bits(&host.last_rows(&meter, &wide, &triples).unwrap(), &want);

        let mut want = vec![0.0; qkv.len()];
        reference::l2_normalise(&qkv, rows, 3 * width, &mut want).unwrap();
        same_bits(&host.l2_normalise(&meter, &wide).unwrap(), &want);
        reference::gelu(&qkv, &mut want).unwrap();
        let gelu = host.gelu(&meter, &wide).unwrap();
        same_bits(&gelu, &want);
        reference::add(&qkv, gelu.as_f32().unwrap(), &mut want).unwrap();
        let sum = host.add(&meter, &wide, &gelu).unwrap();
        same_bits(&sum, &want);
        prop_assert!(sum.as_f32().unwrap().iter().all(|v| v.is_finite()));

        drop((gelu, sum, got));
        prop_assert_eq!(meter.held(Resource::Bytes), 0);
    }
}
