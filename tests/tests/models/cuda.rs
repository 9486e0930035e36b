//! The CUDA backend, on a GPU where there is one and on the emulated driver everywhere.
//!
//! The emulated driver runs the kernels' own sources on the CPU. It shows that they compute the right bytes and that the
//! host drives them rightly; it shows nothing of speed, of the driver's compiler or of a GPU's own arithmetic.

use super::same_bytes::{FEW, GOLDEN_FEW, GOLDEN_ONE, ONE};
use ostrakon_tests::packed::{binary, minilm, plugins, smollm2};
use ostrakon_tests::swarm::{Part, Swarm};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The emulated driver, built if its sources or the kernels have changed.
fn emulator() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-emulator");
        let done = Command::new(tests.join("cuda-emulator/build.sh")).arg(&out).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        out
    })
}

fn emulated(program: &Path, args: &[&str], settings: &[(&str, &str)]) -> Output {
    let settings = settings.iter().copied();
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/home");
    let mut command = Command::new(program);
    command.env("OSTRAKON_HOME", home).env("LD_LIBRARY_PATH", emulator());
    command.args(args).envs(settings).output().unwrap()
}

fn run<'a>(model: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", model.to_str().unwrap(), "--backend", "cuda", "--allow-unknown-signer"], more].concat()
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

#[test]
fn kernels_conform_in_any_order_of_blocks() {
    let conformance = Path::new(env!("CARGO_BIN_EXE_conformance"));
    for backwards in ["0", "1"] {
        let settings = [("OSTRAKON_EMULATED_BACKWARDS", backwards)];
        let done = emulated(conformance, &["--backend", "cuda", "--quick", "--seed", "3"], &settings);
        assert!(done.status.success(), "{}", text(&done));
    }
}

#[test]
fn a_model_gives_the_same_digest() {
    for (texts, golden) in [(&ONE[..], GOLDEN_ONE), (&FEW[..], GOLDEN_FEW)] {
        let model = minilm(2);
        let mut args = run(&model, &["--json"]);
        args.extend(texts.iter().flat_map(|text| ["--text", text]));
        let done = emulated(&binary(), &args, &[]);
        assert!(done.status.success(), "{}", text(&done));
        assert!(text(&done).contains(golden.trim()), "{}", text(&done));
    }
}

#[test]
fn a_sentence_is_the_same_and_its_receipt_stands() {
    let (model, built, folder) = (smollm2(), plugins(), tempfile::tempdir().unwrap());
    let receipt = folder.path().join("receipt");
    let (model, receipt) = (model.to_str().unwrap(), receipt.to_str().unwrap());
    let say = |backend, more: &[&str]| {
        let args =
            ["--json", "chat", model, "Say hello", "--max-tokens", "4", "--allow-unknown-signer", "--backend", backend];
        let done = emulated(&binary(), &[&args, more].concat(), &[]);
        let answer: serde_json::Value =
            serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", text(&done)));
        assert_eq!(answer["backend"], backend);
        answer["tokens"].clone()
    };
    assert_eq!(say("cuda", &["--receipt", receipt]), say("cpu", &[]));
    // The bytes of all that every block gave, for the prompt and for each token.
    let args = ["audit", receipt, "--package", model, "--allow-unknown-signer", "--plugins", built.to_str().unwrap()];
    let done = emulated(&binary(), &args, &[]);
    assert!(done.status.success(), "{}", text(&done));
}

#[test]
fn gpus_multiply_shares() {
    let part = |operator: &str| Part {
        operator: operator.to_owned(),
        roles: vec!["execution", "scheduling"],
        packages: vec![(minilm(1), Vec::new())],
        backend: Some("cuda"),
        libraries: Some(emulator().to_owned()),
        ..Part::default()
    };
    let swarm = Swarm::start(&binary(), &[part("one"), part("other")], false);
    let (model, address) = (minilm(1), swarm.schedulers().join(","));
    let status = emulated(&binary(), &["--json", "status", "--swarm", &address], &[]);
    assert!(text(&status).contains("cuda") && !text(&status).contains("openvino"), "{}", text(&status));
    let args = [
        "--json",
        "run",
        model.to_str().unwrap(),
        "--private",
        "--swarm",
        &address,
        "--allow-unknown-signer",
        "--text",
        ONE[0],
    ];
    let done = emulated(&binary(), &args, &[("OSTRAKON_PLUGINS", plugins().to_str().unwrap())]);
    assert!(done.status.success(), "{}\n{}", text(&done), swarm.logs(8));
    assert!(text(&done).contains(GOLDEN_ONE.trim()), "{}", text(&done));
}

#[test]
fn gpus_are_chosen_by_number() {
    let model = minilm(1);
    let args =
        |backend| ["run", model.to_str().unwrap(), "--allow-unknown-signer", "--backend", backend, "--text", "a"];
    let two = [("OSTRAKON_EMULATED_DEVICES", "2")];
    let done = emulated(&binary(), &args("cuda:1"), &two);
    assert!(done.status.success(), "{}", text(&done));
    let done = emulated(&binary(), &args("cuda:2"), &two);
    assert!(!done.status.success() && text(&done).contains("there is no GPU 2"), "{}", text(&done));
    for unknown in ["cuda:x", "cuda:", "cuda:01", "cuda:+1"] {
        let done = emulated(&binary(), &args(unknown), &two);
        assert!(!done.status.success() && text(&done).contains("cuda:N"), "{unknown}: {}", text(&done));
    }
    let done = emulated(&binary(), &["doctor"], &two);
    assert!(
        text(&done).contains("exact, by --backend cuda or cuda:N") && text(&done).contains("GPU 1"),
        "{}",
        text(&done)
    );
}

#[test]
fn a_gpu_that_fails_is_an_error() {
    let model = minilm(1);
    let args = run(&model, &["--text", "a"]);
    for (setting, value, why) in [
        ("OSTRAKON_EMULATED_MEMORY", "1000000", "has no memory for"),
        ("OSTRAKON_EMULATED_LOST", "130", "the block `blocks."),
        ("OSTRAKON_EMULATED_DEVICES", "0", "no GPU"),
    ] {
        let done = emulated(&binary(), &args, &[(setting, value)]);
        assert!(!done.status.success() && text(&done).contains(why), "{setting}: {}", text(&done));
        assert!(!text(&done).contains("panicked"), "{}", text(&done));
    }
}

/// On the machine's own driver.
#[test]
fn this_machine_has_a_gpu_that_conforms_or_says_why_not() {
    let done = Command::new(env!("CARGO_BIN_EXE_conformance")).args(["--backend", "cuda", "--quick"]).output().unwrap();
    if std::env::var_os("OSTRAKON_REQUIRE_CUDA").is_some() {
        assert!(done.status.success(), "{}", text(&done));
    } else if !done.status.success() {
        assert_eq!(done.status.code(), Some(2), "{}", text(&done));
        assert!(text(&done).contains("`cuda` cannot be used here"), "{}", text(&done));
        assert!(!text(&done).contains("is not exact"), "{}", text(&done));
    }
}
