//! Three published models through the whole way: recipe, package, component, graph, answer.
//!
//! Their own programs prepare inputs in Python; what those do is done here, as far as these inputs need it. Without
//! OpenVINO the tests say so and check nothing, unless OSTRAKON_REQUIRE_OPENVINO is 1.

use ostrakon_nn::openvino::OpenVino;
use ostrakon_node::float::{FloatAnswer, FloatModel};
use ostrakon_node::pack::{PackOptions, pack};
use ostrakon_node::progress::unwatched;
use ostrakon_node::{Compiler, Home, NodeError, RunOptions, Tensor, TrustPolicy};
use ostrakon_tests::packed;
use std::fs;
use std::path::{Path, PathBuf};

/// Where this machine's OpenVINO, models and keys are. None without OpenVINO.
fn home() -> Option<Home> {
    let home = packed::home();
    match OpenVino::load(Some(&home.openvino())) {
        Ok(_) => Some(home),
        Err(error) if std::env::var("OSTRAKON_REQUIRE_OPENVINO").is_ok_and(|value| value == "1") => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED, nothing was checked: {error}");
            None
        }
    }
}

/// A recipe's package, ready to run.
struct Packed {
    _keep: tempfile::TempDir,
    path: PathBuf,
    home: Home,
    policy: TrustPolicy,
}

fn ready(recipe: &str) -> Option<Packed> {
    let home = home()?;
    let keep = tempfile::tempdir().unwrap();
    let path = keep.path().join(recipe);
    let options = PackOptions {
        out: Some(path.clone()),
        shards: 1,
        plugins: Some(packed::plugins()),
        allow_unsigned: false,
        allow_unknown: false,
    };
    let packed = pack(Path::new(recipe), &options, &home, &unwatched).unwrap();
    assert_eq!(packed.model, recipe);
    let policy = TrustPolicy::only(ostrakon_node::load_or_create_key(&home).unwrap().public());
    Some(Packed { _keep: keep, path, home, policy })
}

impl Packed {
    fn load(&self, options: &RunOptions) -> FloatModel {
        FloatModel::load(&self.path, &self.policy, &self.home, options).unwrap()
    }
}

fn repository(file: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(file)).unwrap()
}

fn largest(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

fn only(answer: &FloatAnswer) -> &Tensor {
    assert_eq!(answer.outputs.len(), 1);
    &answer.outputs[0].tensor
}

/// As `Magika._extract_features_from_seekable`.
fn features(file: &[u8]) -> Vec<i32> {
    const EACH: usize = 1024;
    const BLOCK: usize = 4096;
    const PADDING: i32 = 256;
    let first = file[..file.len().min(BLOCK)].trim_ascii_start();
    let last = file[file.len().saturating_sub(BLOCK)..].trim_ascii_end();
    let first: Vec<i32> = first.iter().take(EACH).map(|&b| b.into()).collect();
    let last: Vec<i32> = last[last.len().saturating_sub(EACH)..].iter().map(|&b| b.into()).collect();
    let padding = |count: usize| std::iter::repeat_n(PADDING, EACH - count);
    first.iter().copied().chain(padding(first.len())).chain(padding(last.len())).chain(last.iter().copied()).collect()
}

const PDF: &[u8] =
    b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n2 0 obj\n<< /Type /Pages /Kids [3 0 R] \
    /Count 1 >>\nendobj\n3 0 obj\n<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] >>\nendobj\nxref\n0 4\n\
    0000000000 65535 f \ntrailer\n<< /Root 1 0 R /Size 4 >>\nstartxref\n178\n%%EOF\n";

#[test]
fn magika_knows_files() {
    let Some(packed) = ready("magika") else { return };
    let model = packed.load(&RunOptions::default());
    let config = packed.home.cache.join("sources/magika/config.min.json");
    let config: serde_json::Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    let names: Vec<&str> =
        config["target_labels_space"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let files = [
        ("python", repository("host/nn/src/openvino/fetch.py")),
        ("rust", repository("host/nn/src/float.rs")),
        ("shell", repository("tests/fetch-data.sh")),
        ("markdown", repository("README.md")),
        ("toml", repository("models/minilm.toml")),
        ("makefile", repository("Makefile")),
        ("png", repository("tests/data/line.png")),
        ("pdf", PDF.to_vec()),
    ];
    let bytes: Vec<i32> = files.iter().flat_map(|(_, file)| features(file)).collect();
    let bytes = Tensor::from_i32(vec![files.len() as u32, 2048], bytes).unwrap();
    let answer = model.run(vec![("bytes".into(), bytes.clone())]).unwrap();
    let scores = only(&answer);
    assert_eq!((answer.outputs[0].name.as_str(), scores.dims()), ("target_label", &[8, 214][..]));
    for ((name, _), row) in files.iter().zip(scores.as_f32().unwrap().chunks(214)) {
        let found = largest(row);
        assert_eq!((names[found], row[found] > 0.9), (*name, true), "{}", row[found]);
    }

    // What the graph does not take is refused before it runs, by the names that it has.
    let wrong = Tensor::from_f32(vec![1, 2048], vec![0.0; 2048]).unwrap();
    let one = Tensor::from_i32(vec![1, 2048], vec![0; 2048]).unwrap();
    let short = Tensor::from_i32(vec![1, 2047], vec![0; 2047]).unwrap();
    for (inputs, text) in [
        (vec![("bytes".to_owned(), wrong)], "`bytes` is FP32 [1, 2048]: needs I32 [?, 2048]"),
        (vec![("bytes".to_owned(), short)], "needs I32 [?, 2048]"),
        (vec![("byte".to_owned(), one.clone())], "there is no input \"byte\": the inputs are bytes"),
        (vec![("bytes".to_owned(), one.clone()), ("bytes".to_owned(), one)], "given twice"),
        (vec![], "`bytes I32 [?, 2048]` is missing"),
    ] {
        let error = model.run(inputs).unwrap_err();
        assert!(matches!(&error, NodeError::Block { .. }) && error.to_string().contains(text), "{error}");
    }

    // The interpreter asks the same of the same graph, at the same cost.
    let pulley = packed.load(&RunOptions { compiler: Compiler::Pulley, ..RunOptions::default() });
    let again = pulley.run(vec![("bytes".into(), bytes)]).unwrap();
    assert_eq!(again.fuel, answer.fuel);
    assert_eq!(pulley.profile(), model.profile());
}

/// A line of text of ours, rendered with Pillow: 344 x 48, black on white.
fn line() -> (usize, Vec<u8>) {
    let file = repository("tests/data/line.pgm");
    let header = b"P5\n344 48\n255\n";
    let pixels = file.strip_prefix(header).unwrap();
    assert_eq!(pixels.len(), 344 * 48);
    (344, pixels.to_vec())
}

/// Grey pixels as the models of PP-OCR want them: three equal planes from -1 to 1.
fn planes(width: usize, pixels: &[u8]) -> Tensor {
    let plane: Vec<f32> = pixels.iter().map(|&grey| f32::from(grey) / 127.5 - 1.0).collect();
    Tensor::from_f32(vec![1, 3, 48, width as u32], plane.repeat(3)).unwrap()
}

#[test]
fn a_line_is_told_from_one_upside_down() {
    let Some(packed) = ready("ppocr-direction") else { return };
    let model = packed.load(&RunOptions::default());
    let (width, pixels) = line();
    let cut: Vec<u8> = pixels.chunks(width).flat_map(|row| row[..192].to_vec()).collect();
    for (upside_down, pixels) in [(0, cut.clone()), (1, cut.into_iter().rev().collect::<Vec<u8>>())] {
        let answer = model.run(vec![("x".into(), planes(192, &pixels))]).unwrap();
        let scores = only(&answer).as_f32().unwrap();
        assert_eq!((scores.len(), largest(scores), scores[upside_down] > 0.9), (2, upside_down, true), "{scores:?}");
    }
}

/// The characters of the recogniser: in the graph's metadata, one a line, after the blank and before the space.
fn characters(graph: &[u8]) -> Vec<String> {
    let key = b"\x0a\x09character\x12";
    let at = graph.windows(key.len()).position(|part| part == key).unwrap() + key.len();
    let (mut length, mut shift, mut rest) = (0usize, 0, &graph[at..]);
    loop {
        length |= usize::from(rest[0] & 0x7f) << shift;
        shift += 7;
        let last = rest[0] < 0x80;
        rest = &rest[1..];
        if last {
            break;
        }
    }
    let list = std::str::from_utf8(&rest[..length]).unwrap();
    ["\0"].into_iter().chain(list.split('\n')).chain([" "]).map(str::to_owned).collect()
}

#[test]
fn a_line_of_text_is_read() {
    let Some(packed) = ready("ppocr-recogniser") else { return };
    let model = packed.load(&RunOptions::default());
    let graph = fs::read(packed.path.join("graphs/graph.onnx")).unwrap();
    let characters = characters(&graph);
    let (width, pixels) = line();
    let answer = model.run(vec![("x".into(), planes(width, &pixels))]).unwrap();
    let steps = only(&answer);
    assert_eq!(steps.dims().last().copied(), u32::try_from(characters.len()).ok());
    let mut text = String::new();
    let mut before = 0;
    for step in steps.as_f32().unwrap().chunks(characters.len()) {
        let found = largest(step);
        if found != 0 && found != before {
            text.push_str(&characters[found]);
        }
        before = found;
    }
    assert_eq!(text, "Ostrakon votes 2026");
}
