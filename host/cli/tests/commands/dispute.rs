//! Two machines that disagree, from outside: `run`, `trace` and `dispute` with the packed model that `make test`
//! puts into `build`.

use ostrakon_package::{Home, load_or_create_key};
use ostrakon_protocol::{Digest, Leg, SignedReceipt, SignedTrace, SigningKey, TraceFile, decode, encode};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BLOCK: &str = "blocks.2";

fn package() -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/packages/minilm-1");
    assert!(
        directory.join("package.toml").is_file(),
        "{} is not there: run `make test-data` first",
        directory.display()
    );
    directory
}

/// Machines with a key of their own each, and files that all can read.
struct Machines(tempfile::TempDir);

impl Machines {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn home(&self, machine: &str) -> PathBuf {
        self.0.path().join(machine)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self, machine: &str) -> SigningKey {
        load_or_create_key(&Home::under(&self.home(machine))).unwrap()
    }

    fn run(&self, machine: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        command.args(arguments).current_dir(self.0.path()).env("OSTRAKON_HOME", self.home(machine));
        command.output().unwrap()
    }

    fn json(&self, machine: &str, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(machine, &[arguments, &["--json"]].concat());
        let document =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {output:?}"));
        (output.status.code().unwrap(), document)
    }

    /// With the package, whoever signed it.
    fn with_package(&self, machine: &str, arguments: &[&str]) -> (i32, Value) {
        let package = package();
        let more = ["--package", package.to_str().unwrap(), "--allow-unknown-signer"];
        self.json(machine, &[arguments, &more].concat())
    }

    fn receipt(&self, machine: &str, text: &str, out: &str) {
        let package = package();
        let arguments = ["run", package.to_str().unwrap(), "--allow-unknown-signer", "--text", text, "--receipt", out];
        assert_eq!(self.json(machine, &arguments).0, 0);
    }
}

/// Another number in the last operation of the block, on receipt and trace, signed again.
fn forge(machines: &Machines, machine: &str, receipt: &str, trace: &str) {
    let key = machines.key(machine);
    let mut signed: SignedReceipt = decode(&std::fs::read(machines.file(receipt)).unwrap()).unwrap();
    let bytes = std::fs::read(machines.file(trace)).unwrap();
    let (mut file, ranges) = TraceFile::read(&bytes).unwrap();
    let mut tensors = bytes[ranges[0].start..].to_vec();
    let last = file.signed.trace.operations.last().unwrap().output;
    let at = file.tensors.iter().position(|tensor| tensor.digest == last).unwrap();
    let range = ranges[at].start - ranges[0].start..ranges[at].end - ranges[0].start;
    tensors[range.start] ^= 1;
    let forged = Digest::of_tensor(1, &file.tensors[at].dimensions, &tensors[range]);
    file.tensors[at].digest = forged;

    let place = signed.receipt.place(0).unwrap();
    let leg = &mut signed.receipt.batches[0].legs[0];
    let step = leg.steps.iter().position(|step| step.block == BLOCK).unwrap();
    leg.steps[step].output = forged;
    leg.steps[step + 1].input = forged;
    *leg = Leg::sign(&key, &place, "cpu", leg.steps.clone());
    let signed = SignedReceipt::sign(&key, signed.receipt, signed.request);
    std::fs::write(machines.file(receipt), encode(&signed)).unwrap();

    let mut told = file.signed.trace.clone();
    told.operations.last_mut().unwrap().output = forged;
    told.receipt = signed.receipt.digest();
    file.signed = SignedTrace::sign(&key, told);
    std::fs::write(machines.file(trace), [file.head(), tensors].concat()).unwrap();
}

#[test]
fn from_two_receipts_to_the_operation() {
    let machines = Machines::new();
    for machine in ["a", "b"] {
        let (receipt, trace) = (format!("{machine}.receipt"), format!("{machine}.trace"));
        machines.receipt(machine, "Who computed this?", &receipt);
        let (status, written) = machines.with_package(machine, &["trace", &receipt, "--block", BLOCK, "--out", &trace]);
        assert_eq!((status, &written["block"], &written["operations"]), (0, &BLOCK.into(), &8.into()), "{written}");
    }
    let (status, agree) = machines.json("c", &["dispute", "a.receipt", "b.receipt"]);
    assert_eq!((status, &agree["finding"]), (0, &"no difference".into()), "{agree}");

    // By place, and only by the machine that ran the block.
    let (status, same) = machines.with_package("a", &["trace", "a.receipt", "--block", "3", "--out", "again"]);
    assert_eq!((status, &same["block"]), (0, &BLOCK.into()));
    assert_eq!(std::fs::read(machines.file("again")).unwrap(), std::fs::read(machines.file("a.trace")).unwrap());
    let (status, refused) = machines.with_package("b", &["trace", "a.receipt", "--block", "3", "--out", "x"]);
    assert!(status == 2 && refused["error"].as_str().unwrap().contains("only that node"), "{refused}");
    let (status, refused) = machines.with_package("a", &["trace", "a.receipt", "--block", "blocks.77", "--out", "x"]);
    assert!(status == 2 && refused["error"].as_str().unwrap().contains("blocks.77"), "{refused}");
    let arguments = ["trace", "a.receipt", "--block", "3", "--batch", "1", "--out", "x"];
    let (status, refused) = machines.with_package("a", &arguments);
    assert!(status == 2 && refused["error"].as_str().unwrap().contains("no batch 1"), "{refused}");

    forge(&machines, "b", "b.receipt", "b.trace");
    let wrong = machines.key("b").public().to_string();
    let traces = ["--trace-a", "a.trace", "--trace-b", "b.trace", "--out", "record"];
    let (status, found) =
        machines.with_package("c", &[["dispute", "a.receipt", "b.receipt"].as_slice(), &traces].concat());
    assert_eq!((status, &found["finding"]), (1, &"one is wrong".into()), "{found}");
    assert_eq!(found["wrong"], serde_json::json!([wrong]));
    assert_eq!(found["right"], machines.key("a").public().to_string());
    assert_eq!((&found["batch"], &found["block"]), (&0.into(), &BLOCK.into()));
    assert_eq!(found["operation"], serde_json::json!({ "at": 7, "name": "layer blocks.2.feed-forward.norm" }));
    assert_eq!(found["claimed"][0], found["exact"]);
    assert!(found["asked"].as_array().unwrap().len() <= 5, "{found}");
    let record = std::fs::read(machines.file("record")).unwrap();
    let record: ostrakon_protocol::dispute::SignedDispute = decode(&record).unwrap();
    assert!(record.is_signed() && record.referee == machines.key("c").public());

    // For people, and without traces: the block is run.
    let package = package();
    let arguments =
        ["dispute", "a.receipt", "b.receipt", "--allow-unknown-signer", "--package", package.to_str().unwrap()];
    let output = machines.run("c", &[arguments.as_slice(), &traces[..4]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["one is wrong", &wrong, "operation 7 `layer blocks.2.feed-forward.norm`", "digests"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (status, found) = machines.json("c", &arguments);
    assert_eq!((status, &found["wrong"]), (1, &serde_json::json!([wrong])), "{found}");
    assert!(found["operation"].is_null());
}

#[test]
fn what_keeps_a_dispute_from_being_held_is_no_finding() {
    let machines = Machines::new();
    machines.receipt("a", "one", "a.receipt");
    machines.receipt("b", "two", "b.receipt");
    std::fs::write(machines.file("none"), "no receipt").unwrap();
    for (other, why) in
        [("b.receipt", "different requests"), ("none", "not an ostrakon receipt"), ("missing", "missing")]
    {
        let (status, error) = machines.json("c", &["dispute", "a.receipt", other]);
        assert_eq!(status, 2, "{error}");
        assert!(error["error"].as_str().unwrap().contains(why), "{error}");
    }
}
