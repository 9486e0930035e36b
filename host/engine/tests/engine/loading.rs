//! A component that brings a graph of its own, as programs for other wasi-nn hosts do: `load`, a context, `compute`
//! with the names of the graph's tensors. Without OpenVINO the tests say so and check nothing, unless
//! OSTRAKON_REQUIRE_OPENVINO is 1.

use crate::support;
use crate::support::{Block, admit, lengths, limits, rows, runtime};
use ostrakon_engine::{CallError, Compiler, Failure};
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_nn::openvino::OpenVino;
use ostrakon_nn::{CpuBackend, GraphLimits, Host, MemoryLayers, ProvenBackend};
use std::path::PathBuf;
use std::sync::Arc;

/// `y = x + x`, x FP32 [?, 4].
const TWICE: &str = r#"<net name="twice" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="?,4" element_type="f32"/>
<output><port id="0" precision="FP32" names="x"><dim>-1</dim><dim>4</dim></port></output></layer>
<layer id="1" name="y" type="Add" version="opset1"><data auto_broadcast="numpy"/><input>
<port id="0" precision="FP32"><dim>-1</dim><dim>4</dim></port><port id="1" precision="FP32"><dim>-1</dim><dim>4</dim></port></input>
<output><port id="2" precision="FP32" names="y"><dim>-1</dim><dim>4</dim></port></output></layer>
<layer id="2" name="end" type="Result" version="opset1"><input><port id="0" precision="FP32"><dim>-1</dim><dim>4</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/><edge from-layer="0" from-port="0" to-layer="1" to-port="1"/>
<edge from-layer="1" from-port="2" to-layer="2" to-port="0"/></edges></net>"#;

/// `graph.graph-encoding`.
const OPENVINO: u32 = 0;
const ONNX: u32 = 1;
const PYTORCH: u32 = 3;

/// A host that takes graphs from its guests. None without OpenVINO.
fn generous() -> Option<Arc<Host>> {
    let home = std::env::var_os("OSTRAKON_HOME").map(|home| PathBuf::from(home).join("data/openvino"));
    match OpenVino::load(home.as_deref()) {
        Ok(_) => {}
        Err(error) if std::env::var("OSTRAKON_REQUIRE_OPENVINO").is_ok_and(|value| value == "1") => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED, nothing was checked: {error}");
            return None;
        }
    }
    let executor = Arc::new(Executor::new(Level::detect(), 1).unwrap());
    let backend = ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))).unwrap();
    let limits = GraphLimits { allow_load: true, ..GraphLimits::default() };
    let host = Host::with_limits(executor, backend, Arc::new(MemoryLayers::new()), limits);
    Some(Arc::new(home.into_iter().fold(host, Host::with_openvino)))
}

/// Brings `graph` when opened, and gives its input to the graph's input called `name`.
fn bringing(graph: &str, encoding: u32, name: &str) -> String {
    let bytes: String = graph.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    Block {
        open: &format!(
            r#"
            (i32.store (i32.const 96) (i32.const 1300)) (i32.store (i32.const 100) (i32.const {}))
            (i32.store (i32.const 104) (i32.const 0)) (i32.store (i32.const 108) (i32.const 0))
            (call $load (i32.const 96) (i32.const {}) (i32.const {encoding}) (i32.const 0) (i32.const 64))
            (if (i32.load8_u (i32.const 64)) (then (return (call $refuse-with (i32.load (i32.const 68))))))
            (call $init-context (i32.load (i32.const 68)) (i32.const 64))
            (global.set $context (i32.load (i32.const 68)))
            (call $ok (call $session-new (i32.const 1)))"#,
            graph.len(),
            if encoding == OPENVINO { 2 } else { 1 }
        ),
        forward: &format!(
            r#"
            (call $tensor-drop (local.get 2))
            (i32.store (i32.const 128) (i32.const 1200)) (i32.store (i32.const 132) (i32.const {}))
            (i32.store (i32.const 136) (local.get 1))
            (call $compute (global.get $context) (i32.const 128) (i32.const 1) (i32.const 64))
            (if (i32.load8_u (i32.const 64)) (then (return (call $refuse-with (i32.load (i32.const 68))))))
            (call $ok (i32.load offset=8 (i32.load (i32.const 68))))"#,
            name.len()
        ),
        rest: &format!(
            r#"(global $context (mut i32) (i32.const 0)) (data (i32.const 1200) "{name}") (data (i32.const 1300) "{bytes}")"#
        ),
        ..Block::default()
    }
    .wat()
}

#[test]
fn a_graph_of_the_component_s_own_is_computed() {
    let Some(host) = generous() else { return };
    for compiler in [Compiler::Cranelift, Compiler::Pulley] {
        let plugin = admit(&runtime(compiler), &bringing(TWICE, OPENVINO, "x"));
        let mut instance = plugin.instantiate(Arc::clone(&host), limits()).unwrap();
        let session = instance.open("b", &[]).unwrap();
        for count in [1, 7, 2] {
            let output = instance.forward(session, rows(count), &lengths(&[count as i32])).unwrap().output;
            let twice: Vec<f32> = rows(count).as_f32().unwrap().iter().map(|x| x + x).collect();
            assert_eq!((output.dims(), output.as_f32().unwrap()), ([count, 4].as_slice(), twice.as_slice()));
        }
    }
}

#[test]
fn what_is_no_graph_or_does_not_fit_is_an_error_that_the_component_sees() {
    let Some(host) = generous() else { return };
    // The codes of wasi-nn: 0 invalid-argument, 1 invalid-encoding.
    for (graph, encoding, name, code) in [
        (TWICE, PYTORCH, "x", "1 "),
        (TWICE, ONNX, "x", "1 "),
        ("no graph", OPENVINO, "x", "1 "),
        (&TWICE[..900], OPENVINO, "x", "1 "),
        (&TWICE.replace("Add", "Divine"), OPENVINO, "x", "1 "),
        (TWICE, OPENVINO, "z", "0 "),
        (&TWICE.replace("?,4", "?,5"), OPENVINO, "x", "0 "),
    ] {
        let plugin = admit(support::shared_runtime(), &bringing(graph, encoding, name));
        let mut instance = plugin.instantiate(Arc::clone(&host), limits()).unwrap();
        let error = match instance.open("b", &[]) {
            Ok(session) => instance.forward(session, rows(1), &lengths(&[1])).unwrap_err(),
            Err(error) => error,
        };
        let seen = matches!(&error, CallError::Guest(Failure::Operation(text)) if text.starts_with(code));
        assert!(seen, "{encoding} {name}: {error}");
    }
}
