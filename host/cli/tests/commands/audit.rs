//! `ostrakon audit` and `ostrakon transcript` from outside: exit statuses, JSON, words, and the files in which an
//! auditor keeps secrets. Runs a tiny model with the real component.
#![cfg(unix)]

use ostrakon_node::{Home, SignedReceipt, load_or_create_key};
use ostrakon_protocol::{SigningKey, decode, encode};
use ostrakon_tests::forge::{Loose, Signers};
use ostrakon_tests::packed::plugins;
use ostrakon_tests::tiny::{BLOCKS, ENCODERS, Random, Tiny, WIDE, WIDTH, block_name};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const TEXTS: [&str; 4] = ["--text", "w1 w2 w3", "--text", "w4 w5"];

/// A machine with a package, a receipt and its transcript.
struct Machine {
    tiny: Tiny,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { tiny: Tiny::new() };
        machine.tiny.honest(1);
        machine.done(&[&["run", "honest-1", "--receipt", "receipt", "--batch", "1"], &TEXTS[..]].concat());
        machine.done(&["transcript", "receipt", "--package", "honest-1", "--out", "transcript"]);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tiny.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        command.args(arguments).arg("--allow-unknown-signer").current_dir(self.tiny.path());
        command.env("OSTRAKON_HOME", self.path("home")).env("OSTRAKON_PLUGINS", fs::canonicalize(plugins()).unwrap());
        command.env_remove("OSTRAKON_SIMD").stdin(Stdio::null()).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// An audit as a program sees it: the exit status and the document.
    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(&[&["audit", "--json"], arguments].concat());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
        (output.status.code().unwrap(), document)
    }

    /// An audit as a person sees it.
    fn words(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(&[&["audit"], arguments].concat());
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(!text.contains('\x1b'), "no colour in a pipe: {text}");
        (output.status.code().unwrap(), text)
    }

    fn key(&self) -> SigningKey {
        load_or_create_key(&Home::under(&self.path("home"))).unwrap()
    }

    /// The run, taken apart, and this machine as who signs all of it.
    fn loose(&self) -> (Loose, Signers) {
        let signed: SignedReceipt = decode(&fs::read(self.path("receipt")).unwrap()).unwrap();
        let run = Loose::of(&signed, &fs::read(self.path("transcript")).unwrap());
        (run, Signers { issuer: self.key(), nodes: [self.key(), self.key()], border: BLOCKS })
    }

    /// Write a forged receipt and its transcript to `forged` and `forged-transcript`.
    fn forge(&self, change: impl FnOnce(&mut Loose)) {
        let (mut run, signers) = self.loose();
        change(&mut run);
        let claimed = run.sign(&signers);
        fs::write(self.path("forged"), encode(&claimed.signed)).unwrap();
        fs::write(self.path("forged-transcript"), claimed.transcript).unwrap();
    }

    /// No audit was made: status 2, and the reason.
    fn no_audit(&self, arguments: &[&str], parts: &[&str]) {
        let (status, document) = self.json(arguments);
        assert_eq!(status, 2, "{arguments:?}: {document}");
        assert!(
            document["error"].is_string()
                && !["accept", "reject"].iter().any(|verdict| document["verdict"] == *verdict),
            "{document}"
        );
        let (status, words) = self.words(arguments);
        assert_eq!(status, 2, "{arguments:?}: {words}");
        for part in parts {
            assert!(document.to_string().contains(part), "{arguments:?}: {part:?} is not in {document}");
            assert!(words.contains(part), "{arguments:?}: {part:?} is not in {words}");
        }
    }

    /// The files with secret vectors.
    fn vectors(&self) -> Vec<PathBuf> {
        let Ok(packages) = fs::read_dir(self.path("home/data/audit")) else { return Vec::new() };
        let files = packages.flat_map(|package| fs::read_dir(package.unwrap().path()).unwrap());
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }
}

const PACKAGE: [&str; 2] = ["--package", "honest-1"];
const FREIVALDS: [&str; 6] = ["receipt", "--freivalds", "--transcript", "transcript", "--package", "honest-1"];
const FORGED: [&str; 6] = ["forged", "--freivalds", "--transcript", "forged-transcript", "--package", "honest-1"];

#[test]
fn accept_is_status_0() {
    let machine = Machine::new();
    let steps = 2 * BLOCKS as u64;
    for (arguments, method) in [
        (&["receipt"][..], "replay"),
        (&["receipt", "--full"], "replay"),
        (&["receipt", "--engine", "pulley"], "replay"),
        (&["receipt", "--reference"], "replay"),
        (&["receipt", "--freivalds", "--transcript", "transcript"], "freivalds"),
    ] {
        let arguments = [arguments, &PACKAGE].concat();
        let (status, document) = machine.json(&arguments);
        assert_eq!(status, 0, "{arguments:?}: {document}");
        assert_eq!(document["verdict"], "accept");
        assert_eq!(document["method"], method);
        assert_eq!(document["looked_at"], steps);
        assert_eq!(document["steps"], steps);
        assert_eq!(document["issuer"], machine.key().public().to_string());
        assert!(document["accused"].is_null() && document["reasons"].as_array().unwrap().is_empty(), "{document}");
        assert!(document["error_bound"].is_string() && document["timing_ms"]["audit"].is_number(), "{document}");
        assert_eq!(document["products"].as_u64().unwrap() > 0, method == "freivalds");
        let notes = document["notes"].as_array().unwrap();
        assert_eq!(notes.len(), usize::from(arguments.contains(&"--reference")), "{document}");
        let (status, words) = machine.words(&arguments);
        assert_eq!(status, 0, "{words}");
        assert!(words.contains("accept") && words.contains(&format!("{steps} of {steps} blocks")), "{words}");
    }
    for some in [["--blocks", "1,3"], ["--sample", "0.3"]] {
        let (status, document) = machine.json(&[&["receipt"], &PACKAGE[..], &some].concat());
        assert_eq!((status, &document["verdict"]), (0, &Value::from("accept")), "{document}");
        assert!(document["looked_at"].as_u64().unwrap() <= steps);
    }
}

#[test]
fn reject_is_status_1_and_names_node_and_place() {
    let machine = Machine::new();
    let node = machine.key().public().to_string();
    machine.forge(|run| run.step(1, 2).fuel += 1);
    for arguments in [[&["forged"], &PACKAGE[..]].concat(), FORGED.to_vec()] {
        let (status, document) = machine.json(&arguments);
        assert_eq!(status, 1, "{document}");
        assert_eq!(document["verdict"], "reject");
        let accused = &document["accused"];
        assert_eq!((&accused["node"], &accused["batch"]), (&Value::from(node.as_str()), &Value::from(1)), "{document}");
        assert_eq!((&accused["block"], &accused["operation"]), (&Value::from(block_name(2)), &Value::Null));
        assert_eq!(document["reasons"][0], accused["reason"]);
        let (status, words) = machine.words(&arguments);
        assert_eq!(status, 1, "{words}");
        for part in ["reject", &node, "batch 1", &block_name(2), "fuel"] {
            assert!(words.contains(part), "{part:?} is not in {words}");
        }
    }
    machine.forge(|run| run.part(0, 3).products[8] ^= 2);
    let (status, document) = machine.json(&FORGED);
    assert_eq!((status, &document["accused"]["operation"]), (1, &Value::from("blocks.2.attention.qkv")), "{document}");
    let (status, words) = machine.words(&FORGED);
    assert_eq!(status, 1, "{words}");
    assert!(words.contains(&node) && words.contains("operation blocks.2.attention.qkv"), "{words}");
}

#[test]
fn indeterminate_is_status_2_and_says_what_is_missing() {
    let machine = Machine::new();
    let mut signed: SignedReceipt = decode(&fs::read(machine.path("receipt")).unwrap()).unwrap();
    signed.request = None;
    fs::write(machine.path("silent"), encode(&signed)).unwrap();
    let silent = [&["silent"], &PACKAGE[..]].concat();
    let (status, document) = machine.json(&silent);
    assert_eq!((status, &document["verdict"]), (2, &Value::from("indeterminate")), "{document}");
    assert!(document["accused"].is_null(), "{document}");
    assert!(document["reasons"].to_string().contains("--text"), "{document}");
    let (status, words) = machine.words(&silent);
    assert!(status == 2 && words.contains("indeterminate") && words.contains("--text"), "{words}");
    assert_eq!(machine.json(&[&silent[..], &TEXTS].concat()).0, 0, "the texts are given");
    fs::write(machine.path("texts"), "w1 w2 w3\nw4 w5\n").unwrap();
    assert_eq!(machine.json(&[&silent[..], &["--input", "texts"]].concat()).0, 0);
    let (status, document) = machine.json(&[&silent[..], &TEXTS[..2]].concat());
    assert_eq!((status, &document["verdict"]), (2, &Value::from("indeterminate")), "{document}");

    // A signature of nobody.
    signed.issuer = SigningKey::from_seed(&[3; 32]).public();
    fs::write(machine.path("nobodys"), encode(&signed)).unwrap();
    let (status, document) = machine.json(&[&["nobodys"], &PACKAGE[..], &TEXTS].concat());
    assert_eq!((status, &document["verdict"]), (2, &Value::from("indeterminate")), "{document}");
    assert!(document["reasons"].to_string().contains("not signed"), "{document}");

    // Blocks of which there is no evidence.
    machine.done(&["transcript", "receipt", "--package", "honest-1", "--out", "partial", "--blocks", "1,2"]);
    let partial = ["receipt", "--freivalds", "--transcript", "partial", "--package", "honest-1"];
    assert_eq!(machine.json(&partial).0, 2);
    assert_eq!(machine.json(&[&partial[..], &["--blocks", "1,2"]].concat()).0, 0);
}

#[test]
fn what_is_no_audit_is_status_2_and_says_why() {
    let machine = Machine::new();
    machine.tiny.honest(2);
    let with = |arguments: &[&'static str]| [arguments, &PACKAGE].concat();
    machine.no_audit(&with(&["none"]), &["none"]);
    machine.no_audit(&with(&["receipt", "--freivalds", "--transcript", "none"]), &["none"]);
    fs::write(machine.path("text"), "not a receipt").unwrap();
    machine.no_audit(&with(&["text"]), &["text", "not an ostrakon receipt"]);
    machine.no_audit(&with(&["transcript"]), &["receipt"]);
    machine.no_audit(&with(&["receipt", "--freivalds", "--transcript", "receipt"]), &["receipt"]);
    machine.no_audit(&["receipt", "--package", "honest-2"], &["the receipt is of the package"]);
    machine.no_audit(&["receipt", "--package", "no-such"], &["no-such"]);
    machine.no_audit(&["receipt"], &["--package"]);
    machine.no_audit(&with(&["receipt", "--freivalds"]), &["--transcript"]);
    machine.no_audit(&with(&["receipt", "--freivalds", "--reference", "--transcript", "transcript"]), &["--reference"]);
    machine.no_audit(&with(&["receipt", "--blocks", "99"]), &["blocks"]);
    machine.no_audit(&with(&["receipt", "--sample", "0"]), &["sample"]);
    machine.no_audit(&with(&["receipt", "--sample", "0.5", "--blocks", "1"]), &["--sample", "--blocks"]);

    // The version is the byte after the kind.
    let mut newer = fs::read(machine.path("receipt")).unwrap();
    let at = newer.windows(7).position(|window| window == b"receipt").unwrap() + 7;
    assert_eq!(newer[at], 1);
    newer[at] = 2;
    fs::write(machine.path("newer"), &newer).unwrap();
    machine.no_audit(&with(&["newer"]), &["version 2"]);
    let whole = fs::read(machine.path("receipt")).unwrap();
    fs::write(machine.path("cut"), &whole[..whole.len() - 1]).unwrap();
    machine.no_audit(&with(&["cut"]), &["damaged"]);

    machine.done(&["run", "honest-1", "--receipt", "other", "--text", "w9"]);
    machine.no_audit(
        &with(&["other", "--freivalds", "--transcript", "transcript"]),
        &["is the transcript of another receipt"],
    );
    let transcript = fs::read(machine.path("transcript")).unwrap();
    fs::write(machine.path("cut"), &transcript[..transcript.len() - 9]).unwrap();
    machine.no_audit(&with(&["receipt", "--freivalds", "--transcript", "cut"]), &["cut off"]);
    fs::write(machine.path("long"), [&transcript[..], b"x"].concat()).unwrap();
    machine.no_audit(&with(&["receipt", "--freivalds", "--transcript", "long"]), &["too many"]);
}

/// A socket stands for a device, which whoever may write to its directory could replace.
#[test]
fn only_files_are_replaced() {
    let machine = Machine::new();
    let _listener = std::os::unix::net::UnixListener::bind(machine.path("socket")).unwrap();
    for command in [&["transcript"][..], &["trace", "--block", "blocks.0"]] {
        let arguments = [command, &["receipt", "--package", "honest-1", "--out"]].concat();
        machine.done(&[&arguments[..], &["file"]].concat());
        machine.done(&[&arguments[..], &["file"]].concat());
        assert_eq!(fs::metadata(machine.path("file")).unwrap().permissions().mode() & 0o777, 0o600);
        let output = machine.run(&[&arguments[..], &["socket"]].concat());
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains("socket is neither a file nor a link to one"), "{words}");
        assert!(fs::metadata(machine.path("socket")).unwrap().file_type().is_socket());
    }
}

#[test]
fn secret_vectors_are_private_kept_and_thrown_away() {
    let machine = Machine::new();
    assert_eq!(machine.json(&[&["receipt"], &PACKAGE[..]].concat()).0, 0);
    assert!(machine.vectors().is_empty(), "a replay needs none");
    assert_eq!(machine.json(&FREIVALDS).0, 0);
    let files = machine.vectors();
    assert_eq!(files.len(), 4 * ENCODERS);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    assert_eq!(mode(files[0].parent().unwrap()), 0o700);
    let read = || -> Vec<Vec<u8>> { machine.vectors().iter().map(|file| fs::read(file).unwrap()).collect() };
    let before = read();
    assert_eq!(machine.json(&FREIVALDS).0, 0);
    assert_eq!(read(), before, "they are used again");

    // Damaged, cut, emptied, or readable by others: drawn anew.
    let random = &mut Random(7);
    for (at, file) in files.iter().enumerate() {
        let mut bytes = fs::read(file).unwrap();
        match at % 4 {
            0 => random.flip(&mut bytes),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.clear(),
            _ => fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap(),
        }
        fs::write(file, bytes).unwrap();
    }
    let (status, document) = machine.json(&FREIVALDS);
    assert_eq!(status, 0, "{document}");
    let after = read();
    assert!(after.iter().zip(&before).all(|(after, before)| after != before));
    assert!(files.iter().all(|file| mode(file) == 0o600));

    // Whoever was caught with them may know something of them.
    machine.forge(|run| run.part(0, 1).products[0] ^= 1);
    assert_eq!(machine.json(&FORGED).0, 1);
    assert!(machine.vectors().is_empty());
}

/// Vectors that are wrong though their checksum is right: somebody wrote them who may write this user's files. They
/// find honest products wrong, and still nobody is accused.
#[test]
fn forged_vectors_accuse_nobody() {
    let machine = Machine::new();
    assert_eq!(machine.json(&FREIVALDS).0, 0);
    let random = &mut Random(8);
    let mut statuses = [0; 3];
    for _ in 0..30 {
        let files = machine.vectors();
        let file = &files[random.below(files.len())];
        let right = fs::read(file).unwrap();
        let mut content = right[40..].to_vec();
        random.flip(&mut content);
        let name = file.file_stem().unwrap().to_str().unwrap();
        let (outputs, inputs) = match name.rsplit('.').next().unwrap() {
            "qkv" => (3 * WIDTH, WIDTH),
            "output" => (WIDTH, WIDTH),
            "up" => (WIDE, WIDTH),
            "down" => (WIDTH, WIDE),
            other => panic!("{other}"),
        };
        let checksum = |content: &[u8]| {
            let mut hasher = blake3::Hasher::new_derive_key("ostrakon 2026 audit vectors v2");
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&(outputs as u64).to_le_bytes());
            hasher.update(&(inputs as u64).to_le_bytes());
            hasher.update(content);
            *hasher.finalize().as_bytes()
        };
        assert_eq!(checksum(&right[40..]), right[8..40], "{name}: the checksum is the one that is known here");
        fs::write(file, [&right[..8], &checksum(&content), &content].concat()).unwrap();
        let (status, document) = machine.json(&FREIVALDS);
        assert_ne!(status, 1, "{name}: {document}");
        assert!(document["accused"].is_null(), "{document}");
        statuses[usize::try_from(status).unwrap()] += 1;
        fs::write(file, right).unwrap();
    }
    println!("forged vectors: {} accepted, {} indeterminate, {} rejected", statuses[0], statuses[2], statuses[1]);
    assert!(statuses[2] > 0, "some of them were used");
}
