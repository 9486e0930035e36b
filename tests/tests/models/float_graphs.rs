//! Graphs in floating point on the wasi-nn host: types, shapes, names, quotas, hostile bytes, pieces of a model.
//!
//! Without OpenVINO the tests say so and check nothing, unless OSTRAKON_REQUIRE_OPENVINO is 1.

use ostrakon_exact::simd::{Executor, Level};
use ostrakon_nn::openvino::OpenVino;
use ostrakon_nn::{
    CpuBackend, Encoding, GraphFiles, GraphLimits, Host, LayerSource, MemoryLayers, NnError, ProvenBackend, Quotas,
    Resource, Tensor, TensorType,
};
use ostrakon_node::float::FloatModel;
use ostrakon_node::pack::PackOptions;
use ostrakon_node::pack_float::{FloatSource, Piece, pack};
use ostrakon_node::progress::unwatched;
use ostrakon_node::{Model, NodeError, RunOptions, Tolerance, TrustPolicy};
use ostrakon_tests::onnx::{FLOAT, constant, field, model, node, port, small, twice};
use ostrakon_tests::packed;
use std::fs;
use std::sync::Arc;

fn has_openvino() -> bool {
    match OpenVino::load(Some(&packed::home().openvino())) {
        Ok(_) => true,
        Err(error) if std::env::var("OSTRAKON_REQUIRE_OPENVINO").is_ok_and(|value| value == "1") => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED, nothing was checked: {error}");
            false
        }
    }
}

fn host_of(layers: Arc<dyn LayerSource>, allow_load: bool) -> Host {
    let executor = Arc::new(Executor::new(Level::detect(), 1).unwrap());
    let backend = ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))).unwrap();
    let limits = GraphLimits { allow_load, ..GraphLimits::default() };
    Host::with_limits(executor, backend, layers, limits).with_openvino(packed::home().openvino())
}

fn host() -> Host {
    host_of(Arc::new(MemoryLayers::new()), true)
}

fn pair(values: &[f32]) -> Tensor {
    Tensor::from_f32(vec![values.len() as u32 / 2, 2], values.to_vec()).unwrap()
}

fn given(name: &str, tensor: Tensor) -> Vec<(String, Tensor)> {
    vec![(name.to_owned(), tensor)]
}

#[test]
fn bytes_are_refused_unless_the_operator_allows_them() {
    let host = host_of(Arc::new(MemoryLayers::new()), false);
    let meter = host.meter(Quotas::default());
    let error = host.load(&meter, Encoding::Onnx, vec![twice("Add", "x", "y")]).unwrap_err();
    assert!(matches!(&error, NnError::Security(text) if text.contains("load-by-name")), "{error}");
}

#[test]
fn every_type_of_wasi_nn_goes_in_and_comes_out() {
    if !has_openvino() {
        return;
    }
    let host = host();
    for (element, ty) in [
        (10, TensorType::Fp16),
        (1, TensorType::Fp32),
        (11, TensorType::Fp64),
        (16, TensorType::Bf16),
        (2, TensorType::U8),
        (6, TensorType::I32),
        (7, TensorType::I64),
    ] {
        let meter = host.meter(Quotas::default());
        let shape = [None, Some(2)];
        let (from, to) = (port("in", element, &shape), port("out", element, &shape));
        let bytes = model(&[node("Identity", &["in"], "out")], &[], &[from], &[to]);
        let graph = host.load(&meter, Encoding::Onnx, vec![bytes]).unwrap();
        assert_eq!((graph.inputs()[0].element, graph.outputs()[0].element), (ty, ty));
        // Numbers that every type holds: 1 and 2, three rows of them.
        let pair: Vec<u8> = match ty {
            TensorType::U8 => vec![1, 2],
            TensorType::Fp16 => vec![0x00, 0x3c, 0x00, 0x40],
            TensorType::Bf16 => vec![0x80, 0x3f, 0x00, 0x40],
            TensorType::Fp32 => [1f32, 2.0].map(f32::to_le_bytes).concat(),
            TensorType::Fp64 => [1f64, 2.0].map(f64::to_le_bytes).concat(),
            TensorType::I32 => [1i32, 2].map(i32::to_le_bytes).concat(),
            TensorType::I64 => [1i64, 2].map(i64::to_le_bytes).concat(),
        };
        let input = Tensor::new(vec![3, 2], ty, pair.repeat(3)).unwrap();
        let outputs = host.compute(&meter, &graph, given("in", input.clone())).unwrap();
        let (name, output) = &outputs[0];
        assert_eq!((outputs.len(), name.as_str(), output.ty(), output.dims()), (1, "out", ty, &[3, 2][..]));
        assert_eq!(output.to_bytes(), input.to_bytes(), "{ty}");
    }
}

#[test]
fn shapes_may_change_from_call_to_call_and_threads_share_a_graph() {
    if !has_openvino() {
        return;
    }
    let host = host();
    let meter = host.meter(Quotas::default());
    let graph = host.load(&meter, Encoding::Onnx, vec![twice("Add", "x", "y")]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u32 {
            let (host, graph, meter) = (&host, &graph, &meter);
            scope.spawn(move || {
                for rows in 1..20 {
                    let values: Vec<f32> = (0..rows * 2).map(|n| (n + thread) as f32).collect();
                    let outputs = host.compute(meter, graph, given("x", pair(&values))).unwrap();
                    let expected: Vec<f32> = values.iter().map(|value| value + value).collect();
                    assert_eq!(outputs[0].1.as_f32().unwrap(), expected);
                }
            });
        }
    });
    drop(graph);
    assert_eq!(meter.held(Resource::Bytes), 0, "a graph that was brought is charged while it is there");
}

#[test]
fn outputs_are_charged_before_they_are_copied() {
    if !has_openvino() {
        return;
    }
    let host = host();
    let shape = [Some(1), Some(2)];
    let (from, to) = (port("x", FLOAT, &shape), port("y", FLOAT, &shape));
    let fixed = model(&[node("Add", &["x", "x"], "y")], &[], &[from], &[to]);
    for bytes in [twice("Add", "x", "y"), fixed] {
        let plenty = host.meter(Quotas::default());
        let graph = host.load(&plenty, Encoding::Onnx, vec![bytes]).unwrap();
        let little = host.meter(Quotas { bytes: 7, ..Quotas::default() });
        let refused = host.compute(&little, &graph, given("x", pair(&[1.0, 2.0]))).unwrap_err();
        assert!(matches!(&refused, NnError::TooLarge(text) if text.contains("quota of 7")), "{refused}");
        assert_eq!(little.held(Resource::Bytes), 0);
        let enough = host.meter(Quotas { bytes: 8, ..Quotas::default() });
        let outputs = host.compute(&enough, &graph, given("x", pair(&[1.0, 2.0]))).unwrap();
        assert_eq!(enough.held(Resource::Bytes), 8);
        drop(outputs);
        assert_eq!(enough.held(Resource::Bytes), 0);
    }
    let bytes = twice("Add", "x", "y");
    let little = host.meter(Quotas { bytes: bytes.len() as u64 - 1, ..Quotas::default() });
    assert!(matches!(host.load(&little, Encoding::Onnx, vec![bytes]), Err(NnError::TooLarge(_))));
}

#[test]
fn bytes_that_are_no_graph_are_errors() {
    if !has_openvino() {
        return;
    }
    let host = host();
    let meter = host.meter(Quotas::default());
    let load = |encoding, parts: Vec<Vec<u8>>| host.load(&meter, encoding, parts);
    let fine = twice("Add", "x", "y");
    let shape = [None, Some(2)];
    let io = || (port("x", FLOAT, &shape), port("y", FLOAT, &shape));
    let one = |operation: &str| model(&[node(operation, &["x"], "y")], &[], &[io().0], &[io().1]);
    let dangling = model(&[node("Add", &["x", "nowhere"], "y")], &[], &[io().0], &[io().1]);
    let circle = model(&[node("Add", &["x", "b"], "a"), node("Add", &["a", "x"], "b")], &[], &[io().0], &[io().1]);
    for bytes in [one("NoSuchOperation"), dangling, circle, one(""), vec![0; 100], b"\x08\x07".to_vec(), Vec::new()] {
        let error = load(Encoding::Onnx, vec![bytes]).unwrap_err();
        assert!(matches!(error, NnError::InvalidEncoding(_) | NnError::Unsupported(_)), "{error}");
        assert!(error.text().len() < 3000);
    }
    // Cut anywhere and changed anywhere: an error, or a graph; nothing else.
    for at in 0..fine.len() {
        let mut changed = fine.clone();
        changed[at] ^= 0x15;
        for bytes in [fine[..at].to_vec(), changed] {
            if let Err(error) = load(Encoding::Onnx, vec![bytes]) {
                assert!(!error.is_host_fault(), "{at}: {error}");
            }
        }
    }
    let elsewhere = [small(1, 2), small(2, FLOAT), field(8, b"w"), field(13, b"x"), small(14, 1)].concat();
    let reads_files = model(&[node("Add", &["x", "w"], "y")], &[elsewhere], &[io().0], &[io().1]);
    let error = load(Encoding::Onnx, vec![reads_files]).unwrap_err();
    assert!(error.text().contains("other files"), "{error}");
    for (xml, weights) in [
        ("<?xml version=\"1.0\"?>", &b""[..]),
        ("<?xml version=\"1.0\"?><net name=\"x\" version=\"11\"><layers></layers></net>", b""),
        (&IR.replace("size=\"8\"", "size=\"8000\""), &[0; 8]),
        (&IR.replace("offset=\"0\"", "offset=\"9999999999999\""), &[0; 8]),
        (IR, b""),
        (&IR.replace("to-layer=\"2\"", "to-layer=\"7\""), &[0; 8]),
    ] {
        let loaded = load(Encoding::OpenVino, vec![xml.as_bytes().to_vec(), weights.to_vec()]);
        let Err(error) = loaded else { panic!("loaded {xml}") };
        assert!(matches!(error, NnError::InvalidEncoding(_) | NnError::Unsupported(_)), "{error}");
    }
    let error = load(Encoding::OpenVino, vec![fine.clone(), Vec::new()]).unwrap_err();
    assert!(error.text().contains("must be XML"), "{error}");
    // wasi-nn has no type for what is true or false.
    let boolean = port("y", 9, &shape);
    let error =
        load(Encoding::Onnx, vec![model(&[node("IsNaN", &["x"], "y")], &[], &[io().0], &[boolean])]).unwrap_err();
    assert!(matches!(&error, NnError::Unsupported(text) if text.contains("`y` is of")), "{error}");
    // After all of that the host still works.
    assert!(load(Encoding::Onnx, vec![fine]).is_ok());
}

/// `total = x + w`, with `w` beside it: OpenVINO's IR.
const IR: &str = r#"<?xml version="1.0"?><net name="add" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="?,2" element_type="f32"/>
<output><port id="0" precision="FP32" names="x"><dim>-1</dim><dim>2</dim></port></output></layer>
<layer id="1" name="w" type="Const" version="opset1"><data element_type="f32" shape="1, 2" offset="0" size="8"/>
<output><port id="0" precision="FP32"><dim>1</dim><dim>2</dim></port></output></layer>
<layer id="2" name="add" type="Add" version="opset1"><data auto_broadcast="numpy"/><input><port id="0"/><port id="1"/></input>
<output><port id="2" precision="FP32" names="total"><dim>-1</dim><dim>2</dim></port></output></layer>
<layer id="3" name="r" type="Result" version="opset1"><input><port id="0"/></input></layer></layers>
<edges><edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
<edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
<edge from-layer="2" from-port="2" to-layer="3" to-port="0"/></edges></net>"#;

#[test]
fn graphs_in_a_directory_have_its_name() {
    if !has_openvino() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    file("add/model.onnx", &twice("Add", "x", "y"));
    file("shift/model.xml", IR.as_bytes());
    file("shift/model.bin", &[10f32, 20.0].map(f32::to_le_bytes).concat());
    file("neither/readme", b"");
    let host = host_of(Arc::new(GraphFiles::below(root.path()).unwrap()), false);
    let meter = host.meter(Quotas::default());
    for (graph, output, expected) in [("add", "y", [2.0, 4.0]), ("shift", "total", [11.0, 22.0])] {
        let graph = host.graph(graph).unwrap();
        let outputs = host.compute(&meter, &graph, given("x", pair(&[1.0, 2.0]))).unwrap();
        assert_eq!((outputs[0].0.as_str(), outputs[0].1.as_f32().unwrap()), (output, &expected[..]));
    }
    assert!(matches!(host.graph("neither"), Err(NnError::NotFound(_))));
    assert!(matches!(host.graph("../add"), Err(NnError::Security(_))));
}

#[test]
fn a_single_value_has_the_shape_of_one() {
    if !has_openvino() {
        return;
    }
    let host = host();
    let meter = host.meter(Quotas::default());
    let bytes = model(&[node("Neg", &["x"], "y")], &[], &[port("x", FLOAT, &[])], &[port("y", FLOAT, &[])]);
    let graph = host.load(&meter, Encoding::Onnx, vec![bytes]).unwrap();
    let one = Tensor::from_f32(vec![1], vec![3.0]).unwrap();
    let outputs = host.compute(&meter, &graph, given("x", one)).unwrap();
    assert_eq!((outputs[0].1.dims(), outputs[0].1.as_f32().unwrap()), (&[1][..], &[-3.0][..]));
}

/// `w` is added at the end, so that the order of the pieces matters.
#[test]
fn a_model_in_two_pieces_is_two_shards() {
    if !has_openvino() {
        return;
    }
    let home = packed::home();
    let directory = tempfile::tempdir().unwrap();
    let shape = [None, Some(2)];
    let last = model(
        &[node("Mul", &["input", "input"], "square"), node("Add", &["square", "w"], "result")],
        &[constant("w", &[0.5, 0.25])],
        &[port("input", FLOAT, &shape)],
        &[port("result", FLOAT, &shape), port("square", FLOAT, &shape)],
    );
    let files = [("first.onnx", twice("Add", "x", "hidden")), ("last.onnx", last)];
    for (name, bytes) in &files {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    let out = directory.path().join("pieces");
    let pack = |settings: &[(&str, &str)]| {
        let settings: Vec<(String, String)> = settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let piece = |(at, (name, _)): (usize, &(&str, Vec<u8>))| Piece {
            file: directory.path().join(name),
            settings: if at == 1 { settings.clone() } else { Vec::new() },
        };
        let source = FloatSource {
            name: "pieces".into(),
            licence: "Apache-2.0".into(),
            source: "made up".into(),
            tolerance: Tolerance::default(),
            pieces: files.iter().enumerate().map(piece).collect(),
        };
        let options = PackOptions {
            out: Some(out.clone()),
            shards: 1,
            plugins: Some(packed::plugins()),
            allow_unsigned: false,
            allow_unknown: false,
        };
        pack(&source, &options, &home, &unwatched).unwrap()
    };
    let policy = TrustPolicy::only(ostrakon_node::load_or_create_key(&home).unwrap().public());
    let run = || {
        let model = FloatModel::load(&out, &policy, &home, &RunOptions::default())?;
        model.run(given("x", pair(&[1.0, 2.0])))
    };

    let renamed = pack(&[("input.0", "hidden -> input"), ("output.0", "result -> answer")]);
    assert_eq!(renamed.shards, 2);
    let answer = run().unwrap();
    let names: Vec<&str> = answer.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!((names, answer.outputs[0].tensor.as_f32().unwrap()), (vec!["answer"], &[4.5, 16.25][..]));
    assert_eq!(answer.blocks.len(), 2);
    // The same files give the same package.
    assert_eq!(pack(&[("input.0", "hidden -> input"), ("output.0", "result -> answer")]).package, renamed.package);

    // What does not fit is the block's word.
    for (settings, text) in [
        (vec![], "there is no input \"hidden\": the inputs are input"),
        (vec![("input.0", "other -> input")], "there is no input `hidden`: this block takes other"),
        (vec![("input.1", "hidden -> input")], "numbered 0, 1, 2"),
        (vec![("input.0", "hidden -> input"), ("output.0", "none")], "the graph has no output `none`"),
        (vec![("input.0", " -> input")], "needs a name"),
        (vec![("size", "3")], "unknown setting `size`"),
    ] {
        pack(&settings);
        let error = run().unwrap_err();
        assert!(matches!(&error, NodeError::Block { block, .. } if block == "graph-1"), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }

    // Each way in takes its own tier.
    let Err(error) = Model::load(&out, &policy, &home, &RunOptions::default()) else { panic!("a float package ran") };
    assert!(error.to_string().contains("float tier"), "{error}");
    // A manifest that promises other inputs than the graph has is found out, signed or not.
    let text = fs::read_to_string(out.join("package.toml")).unwrap();
    fs::write(out.join("package.toml"), text.replacen("shape = [-1, 2]", "shape = [-1, 3]", 1)).unwrap();
    fs::remove_file(out.join("package.sig")).unwrap();
    let lenient = TrustPolicy { allow_unsigned: true, ..policy.clone() };
    let error = FloatModel::load(&out, &lenient, &home, &RunOptions::default()).err().unwrap();
    assert!(error.to_string().contains("other inputs or outputs"), "{error}");
}
