//! The command line from outside: what it answers, where, and with which exit status. No model needed.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Machine(tempfile::TempDir);

impl Machine {
    /// A machine where nothing was ever done.
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        command.args(arguments).current_dir(self.path()).env("OSTRAKON_HOME", self.path().join("home"));
        command.env_remove("OSTRAKON_PLUGINS").env_remove("OSTRAKON_HUB").env_remove("OSTRAKON_SIMD");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Run with `--json`: the exit status and the document.
    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}: JSON leaves standard error alone");
        let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
        (output.status.code().unwrap(), document)
    }

    fn refused(&self, arguments: &[&str], status: i32, parts: &[&str]) {
        let (got, document) = self.json(arguments);
        assert_eq!(got, status, "{arguments:?}: {document}");
        let text = document.to_string();
        assert!(document["error"].is_string() && document["causes"].is_array(), "{document}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: {part:?} is not in {text}");
        }
        // The same for people: on standard error, with the same status, without colour in a pipe.
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(status));
        let shown = String::from_utf8(output.stderr).unwrap();
        assert!(shown.starts_with("error: "), "{shown}");
        assert!(!shown.contains('\x1b'), "{shown}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn wrong_usage_is_status_2_and_says_what_to_do() {
    let machine = Machine::new();
    machine.refused(&["run", "minilm", "--text", "a"], 2, &["has not been packed yet", "ostrakon pack minilm"]);
    machine.refused(&["run", "no-such", "--text", "a"], 2, &["no-such", "minilm"]);
    machine.refused(&["inspect", "no-such"], 2, &["no-such"]);
    machine.refused(&["trust", "add", "xyz", "--name", "x"], 2, &["ed25519:"]);
    std::fs::create_dir(machine.path().join("empty")).unwrap();
    machine.refused(&["run", "empty", "--text", "a"], 2, &["package.toml"]);
    machine.refused(&["run", "minilm", "--threads", "0"], 2, &["--threads"]);
    machine.refused(&["run", "minilm", "--backend", "gpu"], 2, &["--backend", "reference"]);
    machine.refused(&["frobnicate"], 2, &["frobnicate"]);
}

#[test]
fn packing_says_what_is_missing_before_it_downloads() {
    let machine = Machine::new();
    let plugins = machine.path().join("none");
    let plugins = plugins.to_str().unwrap();
    machine.refused(&["pack", "minilm", "--plugins", plugins], 1, &["make plugins", "not a directory"]);
}

#[test]
fn a_component_that_is_none_is_told_apart() {
    let machine = Machine::new();
    std::fs::write(machine.path().join("x.wasm"), "not wasm").unwrap();
    let (status, document) = machine.json(&["inspect", "x.wasm"]);
    assert_eq!(status, 0, "{document}");
    assert_eq!(document["admitted"], false);
    assert!(document["refusal"].is_string());
    assert_eq!(document["digest"].as_str().unwrap().len(), 64);
    machine.refused(&["plugin", "build", "x.wasm", "--out", "y.wasm"], 1, &["x.wasm"]);
    assert!(!machine.path().join("y.wasm").exists());
}

#[test]
fn looking_creates_nothing_but_a_cache() {
    let machine = Machine::new();
    let (status, document) = machine.json(&["doctor"]);
    assert_eq!(status, 0);
    assert_eq!(document["ok"], true, "{document}");
    let names: Vec<&str> = document["checks"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    for name in ["simd", "threads", "cpu", "openvino", "auto", "engine", "cuda", "packages", "key", "trust", "plugins"]
    {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let (_, trust) = machine.json(&["trust", "list"]);
    assert!(trust["own"].is_null() && trust["trusted"].as_array().unwrap().is_empty());
    for kept in ["config", "data"] {
        assert!(!machine.path().join("home").join(kept).exists());
    }
}

#[test]
fn a_key_is_trusted_once_told() {
    let machine = Machine::new();
    let key = format!("ed25519:{}", "0123456789abcdef".repeat(4));
    let (status, _) = machine.json(&["trust", "add", &key, "--name", "Ada"]);
    assert_eq!(status, 0);
    let (_, trust) = machine.json(&["trust", "list"]);
    assert_eq!(trust["trusted"][0]["name"], "Ada");
    machine.refused(&["trust", "add", &key, "--name", "Bob"], 2, &["Ada"]);
}

#[test]
fn completions_and_help_go_to_standard_output() {
    let machine = Machine::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = machine.run(&["completions", shell]);
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("ostrakon"));
    }
    let output = machine.run(&["run", "--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for option in ["--text", "--input", "--json", "--threads", "--batch", "--backend", "--engine"] {
        assert!(help.contains(option), "{option}");
    }
    assert!(!help.contains("--simd"));
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let machine = Machine::new();
    let mut child = machine.command(&["doctor"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn a_home_that_depends_on_the_directory_is_refused() {
    let machine = Machine::new();
    let output = machine.command(&["doctor", "--json"]).env("OSTRAKON_HOME", "relative").output().unwrap();
    assert!(!output.status.success());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["error"].as_str().unwrap().contains("OSTRAKON_HOME"));
}

#[test]
fn no_text_is_said_before_anything_is_loaded() {
    let machine = Machine::new();
    // A directory that looks like a package is enough to get this far.
    std::fs::create_dir(machine.path().join("p")).unwrap();
    std::fs::write(machine.path().join("p/package.toml"), "").unwrap();
    machine.refused(&["run", "p"], 2, &["no text", "--text"]);
    machine.refused(&["run", "p", "--input", "none.txt"], 2, &["none.txt"]);
    std::fs::write(machine.path().join("latin1.txt"), b"fine\ncaf\xe9\n").unwrap();
    machine.refused(&["run", "p", "--input", "latin1.txt"], 2, &["line 2", "UTF-8", "iconv"]);
    machine.refused(&["run", "p", "--text", "a"], 3, &["not signed", "--allow-unsigned"]);
    machine.refused(&["run", "p", "--text", "a", "--allow-unsigned"], 3, &["package.toml"]);
    machine.refused(&["run", "p", "--text", "a", "--simd", "mmx"], 2, &["mmx", "scalar"]);
}
