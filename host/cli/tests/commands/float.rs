//! `ostrakon pack --onnx`, `inspect` and `run --tensor` from outside. Without OpenVINO the test says so and checks
//! nothing, unless OSTRAKON_REQUIRE_OPENVINO is 1.

use ostrakon_node::{Digest, SignedFloatReceipt, Tensor, load_or_create_key, npy, receipt};
use ostrakon_tests::{onnx, packed};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Machine(tempfile::TempDir);

impl Machine {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        command.args(arguments).current_dir(self.0.path());
        command.env("OSTRAKON_HOME", fs::canonicalize(packed::home().data.parent().unwrap()).unwrap());
        command.env("OSTRAKON_PLUGINS", fs::canonicalize(packed::plugins()).unwrap());
        command.env_remove("OSTRAKON_SIMD").stdin(Stdio::null()).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(&[arguments, &["--json"]].concat());
        let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
        (output.status.code().unwrap(), document)
    }

    fn words(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat()
    }

    fn refused(&self, arguments: &[&str], status: i32, part: &str) {
        let (got, document) = self.json(arguments);
        assert_eq!((got, document.to_string().contains(part)), (status, true), "{arguments:?}: {part}: {document}");
    }
}

/// With the package `twice` and its input in place.
fn receipts(machine: &Machine) {
    let path = |name: &str| machine.0.path().join(name);
    let words = machine.words(&["run", "twice", "--tensor", "x=x.npy", "--receipt", "r"]);
    assert!(words.contains("receipt"), "{words}");
    let (_, shown) = machine.json(&["inspect", "r"]);
    assert_eq!((&shown["kind"], &shown["signed"]), (&"float receipt".into(), &true.into()), "{shown}");
    assert_eq!((&shown["outputs"][0]["name"], &shown["inputs"][0]["element"]), (&"y".into(), &"FP32".into()));
    assert!(machine.words(&["inspect", "r"]).contains("y FP32 [2, 2]"));
    let audit = |receipt: &str| machine.json(&["audit", receipt, "--package", "twice", "--tensor", "x=x.npy"]);
    let (status, report) = audit("r");
    assert_eq!((status, &report["verdict"], &report["tier"]), (0, &"accept".into(), &"float".into()), "{report}");
    assert_eq!((&report["compared"], &report["largest_difference"]), (&4.into(), &serde_json::json!(0.0)));
    let words = machine.words(&["audit", "r", "--package", "twice", "--tensor", "x=x.npy"]);
    assert!(words.contains("float: not exact") && words.contains("within that"), "{words}");

    // The issuer signs other numbers: by how much decides.
    let key = load_or_create_key(&packed::home()).unwrap();
    let honest: SignedFloatReceipt = receipt::read(&path("r")).unwrap();
    let claim = |change: &dyn Fn(&mut SignedFloatReceipt, &mut Vec<f32>)| {
        let mut changed = honest.clone();
        let mut values = vec![2.0f32, -4.0, 7.0, 0.0];
        change(&mut changed, &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let output = &mut changed.receipt.outputs[0];
        output.digest = Digest::of_tensor(output.element, &output.dimensions, &bytes);
        receipt::write(&path("claim"), &SignedFloatReceipt::sign(&key, changed.receipt, vec![bytes])).unwrap();
        audit("claim")
    };
    for (difference, verdict, status) in [
        (0.0, "accept", 0),
        (0.007, "accept", 0),
        (0.05, "indeterminate", 2),
        (0.2, "reject", 1),
        (f32::NAN, "reject", 1),
    ] {
        let (got, report) = claim(&|_, values| values[2] += difference);
        assert_eq!((got, &report["verdict"]), (status, &verdict.into()), "{difference}: {report}");
    }
    for change in [
        &(|signed: &mut SignedFloatReceipt, _: &mut Vec<f32>| signed.receipt.outputs[0].name = "z".into())
            as &dyn Fn(&mut SignedFloatReceipt, &mut Vec<f32>),
        &|signed, _| signed.receipt.outputs[0].element = 5,
        &|signed, _| signed.receipt.outputs[0].dimensions = vec![4],
        &|signed, _| signed.receipt.outputs[0].dimensions = vec![1, 4],
        &|signed, _| signed.receipt.outputs.clear(),
    ] {
        let mut changed = honest.clone();
        change(&mut changed, &mut Vec::new());
        let values = vec![[2.0f32, -4.0, 7.0, 0.0].map(f32::to_le_bytes).concat()];
        receipt::write(&path("claim"), &SignedFloatReceipt::sign(&key, changed.receipt, values)).unwrap();
        let (status, report) = audit("claim");
        assert_eq!((status, &report["verdict"]), (1, &"reject".into()), "{report}");
    }
    // Nobody is accused for what was done to the file, or is not in it.
    for without_values in [false, true] {
        let mut damaged = honest.clone();
        if without_values {
            damaged.receipt.fuel += 1;
        } else {
            let other = vec![[9.0f32; 4].map(f32::to_le_bytes).concat()];
            damaged.values = SignedFloatReceipt::sign(&key, damaged.receipt.clone(), other).values;
        }
        receipt::write(&path("claim"), &damaged).unwrap();
        let (status, report) = audit("claim");
        let expected = if without_values { (2, "indeterminate") } else { (0, "accept") };
        assert_eq!((status, report["verdict"].as_str().unwrap()), expected, "{report}");
    }
    let shift = [[9.0f32; 4].map(f32::to_le_bytes).concat()];
    let mut hidden = honest.clone();
    hidden.receipt.outputs[0].digest = Digest::of_tensor(1, &[2, 2], &shift[0]);
    receipt::write(&path("claim"), &SignedFloatReceipt::sign(&key, hidden.receipt, Vec::new())).unwrap();
    let (status, report) = audit("claim");
    assert_eq!((status, report["reasons"][0].to_string().contains("not in the receipt")), (2, true), "{report}");

    let other = Tensor::from_f32(vec![1, 2], vec![1.0, 1.0]).unwrap();
    npy::write(&path("other.npy"), &other).unwrap();
    machine.refused(&["audit", "r", "--package", "twice", "--tensor", "x=other.npy"], 2, "not those of the receipt");
    machine.refused(&["audit", "r", "--package", "twice", "--text", "a"], 2, "--text is for exact receipts");
    machine.refused(&["audit", "r", "--freivalds", "--transcript", "r", "--package", "twice"], 2, "for exact receipts");
    machine.refused(&["transcript", "r", "--out", "t"], 1, "but an ostrakon float receipt");
    machine.refused(&["trace", "r", "--block", "0", "--out", "t"], 1, "but an ostrakon float receipt");
    machine.refused(&["dispute", "r", "r"], 2, "but an ostrakon float receipt");
}

#[test]
fn a_graph_is_packed_shown_and_run() {
    let machine = Machine(tempfile::tempdir().unwrap());
    let path = |name: &str| machine.0.path().join(name);
    fs::write(path("twice.onnx"), onnx::twice("Add", "x", "y")).unwrap();
    let pack = ["pack", "--onnx", "twice.onnx", "--name", "twice", "--licence", "MIT", "--out", "twice"];
    let (status, packed) = machine.json(&pack);
    let no_openvino = packed["error"].as_str().is_some_and(|error| error.contains("OpenVINO was not found"));
    if no_openvino && std::env::var("OSTRAKON_REQUIRE_OPENVINO").as_deref() != Ok("1") {
        eprintln!("SKIPPED, nothing was checked: {packed}");
        return;
    }
    assert_eq!((status, &packed["model"]), (0, &Value::from("twice")), "{packed}");

    let (_, report) = machine.json(&["inspect", "twice"]);
    assert_eq!((&report["tier"], &report["licence"]), (&Value::from("float"), &Value::from("MIT")));
    let graph = &report["graphs"][0];
    assert_eq!(graph["inputs"], serde_json::json!([{ "name": "x", "element": "FP32", "shape": [null, 2] }]));
    assert_eq!(graph["outputs"][0]["name"], "y");
    assert!(machine.words(&["inspect", "twice"]).contains("x FP32 [?, 2]"));

    let x = Tensor::from_f32(vec![2, 2], vec![1.0, -2.0, 3.5, 0.0]).unwrap();
    npy::write(&path("x.npy"), &x).unwrap();
    let (status, answer) = machine.json(&["run", "twice", "--tensor", "x=x.npy", "--out", "answer"]);
    assert_eq!((status, &answer["tier"]), (0, &Value::from("float")), "{answer}");
    let output = &answer["outputs"][0];
    assert_eq!((&output["name"], &output["shape"]), (&Value::from("y"), &serde_json::json!([2, 2])));
    assert_eq!(output["largest"][0], serde_json::json!({ "index": 2, "value": 7.0 }));
    let y = npy::read(Path::new(&path(output["file"].as_str().unwrap()))).unwrap();
    assert_eq!(y.as_f32().unwrap(), [2.0, -4.0, 7.0, 0.0]);
    let words = machine.words(&["run", "twice", "--tensor", "x=x.npy"]);
    assert!(words.contains("y  FP32 [2, 2]") && words.contains("[2] 7.000000"), "{words}");

    machine.refused(&["run", "twice", "--text", "a"], 2, "this one takes tensors");
    receipts(&machine);
    machine.refused(&["run", "twice", "--tensor", "x=none.npy"], 2, "cannot read none.npy");
    machine.refused(&["run", "twice", "--tensor", "x=twice.onnx"], 2, "not an NPY file");
    machine.refused(&["run", "twice", "--tensor", "z=x.npy"], 1, "there is no input");
    machine.refused(&["run", "twice", "--tensor", "x=x.npy", "--backend", "reference"], 2, "no reference arithmetic");
    machine.refused(&["pack", "--onnx", "x.npy", "--name", "n", "--out", "n"], 2, "neither a .onnx nor a .xml");
    fs::write(path("bad.onnx"), b"\x08\x07nothing").unwrap();
    machine.refused(&["pack", "--onnx", "bad.onnx", "--name", "n", "--out", "n"], 1, "this is not ONNX");
    machine.refused(&["pack", "--onnx", "twice.onnx", "--name", "../n", "--out", "n"], 1, "is not allowed");
    machine.refused(&[&pack[..], &["--set", "3:input.0=x"]].concat(), 2, "is not N:NAME=VALUE");
    machine.refused(&[&pack[..], &["--absolute", "NaN"]].concat(), 1, "must be 0 to 1");
    assert!(!path("n").exists());
}
