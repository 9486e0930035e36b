//! Which backend a run uses, from outside.

use ostrakon_nn::openvino::release;
use ostrakon_tests::packed::{home, minilm, openvino};
use serde_json::Value;
use std::process::Command;

#[test]
fn a_backend_that_is_not_there_is_never_replaced() {
    let machine = tempfile::tempdir().unwrap();
    let package = minilm(1);
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        command.args(arguments).env("OSTRAKON_HOME", machine.path().join("home"));
        command.env("OPENVINO_INSTALL_DIR", machine.path()).output().unwrap()
    };
    let run = |backend: &str| {
        let line =
            ["run", package.to_str().unwrap(), "--allow-unknown-signer", "--text", "x", "--json", "--backend", backend];
        let output = command(&line);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), document)
    };
    let (status, document) = run("openvino");
    assert_eq!(status, 1, "{document}");
    for part in ["OpenVINO was not found", machine.path().to_str().unwrap(), "make setup", "pip install openvino"] {
        assert!(document["error"].as_str().unwrap().contains(part), "{part:?} is not in {document}");
    }
    for (backend, used) in [("cpu", "cpu"), ("auto", "cpu")] {
        let (status, document) = run(backend);
        assert_eq!((status, document["backend"].as_str()), (0, Some(used)), "{document}");
    }
    // A measurement of nothing is not remembered.
    assert!(!machine.path().join("home/cache/backend.json").exists());
    let listed = String::from_utf8(command(&["doctor"]).stdout).unwrap();
    assert!(listed.contains("- openvino") && listed.contains("make setup"), "{listed}");
}

#[test]
fn auto_measures_once_and_remembers() {
    if !openvino() {
        return;
    }
    let machine = tempfile::tempdir().unwrap();
    let package = minilm(1);
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        command.args(["run", package.to_str().unwrap(), "--allow-unknown-signer", "--text", "x", "--json"]);
        command.env("OSTRAKON_HOME", machine.path()).env("OPENVINO_INSTALL_DIR", home().openvino().join(release()));
        let output = command.output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["backend"].as_str().unwrap_or_else(|| panic!("{document}")).to_owned()
    };
    let memory = machine.path().join("cache/backend.json");
    let used = run();
    let first: Value = serde_json::from_slice(&std::fs::read(&memory).unwrap()).unwrap();
    assert_eq!(first["backend"].as_str(), Some(&*used));
    assert_eq!(first["times"].as_array().unwrap().len(), 2, "both were measured: {first}");
    // What is remembered is used, and not measured again.
    for backend in ["cpu", "openvino"] {
        let mut other = first.clone();
        other["backend"] = backend.into();
        std::fs::write(&memory, other.to_string()).unwrap();
        assert_eq!(run(), backend);
        assert_eq!(std::fs::read_to_string(&memory).unwrap(), other.to_string());
    }
    // A memory of another machine, or none that can be read, is measured anew.
    let mut other = first.clone();
    other["machine"]["threads"] = 4096.into();
    for stale in [other.to_string(), "{".to_owned()] {
        std::fs::write(&memory, stale).unwrap();
        run();
        let again: Value = serde_json::from_slice(&std::fs::read(&memory).unwrap()).unwrap();
        assert_eq!(again["machine"], first["machine"]);
    }
}
