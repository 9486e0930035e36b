//! The graph of a layer: OpenVINO's IR, as XML beside a block of weights.
//!
//! ```text
//! input p: u8 [rows, part p of K] -> f32 (-> FakeQuantize 0..255) -> MatMul -> output p: f32 [rows, N]
//!                 weights: i8 [N, part p of K] -> f32 (-> times 1) --^
//! ```
//!
//! What is in brackets is there for the 8-bit way: OpenVINO reads it as "these floats are codes" and
//! multiplies bytes. Both are the identity on numbers from 0 to 255.

use ostrakon_exact::Linear;
use std::fmt::Write;
use std::ops::Range;

/// Integers of at most this size are exact in f32, and so are sums that never pass it.
const EXACT_F32: u32 = (1 << 24) - 1;

/// The largest code.
const LARGEST_CODE: u32 = 255;

/// Largest sum of |weight| over a part, for any output: times the largest code it stays below 2^24. Of
/// weights that are all 127 that is a part of 518.
pub(super) const EXACT_PART: u32 = EXACT_F32 / LARGEST_CODE;

/// Parts begin at multiples of this, which suits every kernel.
const STEP: usize = 64;

/// Cut K into the fewest parts in which no output's sum of |weight| passes `limit`.
pub(super) fn parts(layer: &Linear, limit: u32) -> Vec<Range<usize>> {
    let mut sums = vec![0u32; layer.outputs];
    let mut parts = Vec::new();
    let mut start = 0;
    for from in (0..layer.inputs).step_by(STEP) {
        let to = (from + STEP).min(layer.inputs);
        let more = |row: &[i8]| row.get(from..to).map_or(0, magnitude);
        let rows = || layer.weight.as_slice().chunks_exact(layer.inputs);
        if rows().zip(&sums).any(|(row, sum)| sum + more(row) > limit) && start < from {
            parts.push(start..from);
            start = from;
            sums.fill(0);
        }
        for (row, sum) in rows().zip(&mut sums) {
            *sum += more(row);
        }
    }
    parts.push(start..layer.inputs);
    parts
}

fn magnitude(weights: &[i8]) -> u32 {
    weights.iter().map(|weight| u32::from(weight.unsigned_abs())).sum()
}

/// A graph, written down.
pub(super) struct Ir {
    pub(super) xml: String,
    pub(super) weights: Vec<u8>,
}

impl Ir {
    /// The graph of `layer` cut into `parts`; `bytes` marks the factors as 8-bit numbers.
    pub(super) fn of(layer: &Linear, parts: &[Range<usize>], bytes: bool) -> Self {
        let mut ir = Writer::default();
        let [low, high, one] = [0.0, 255.0, 1.0f32].map(|value| ir.constant("f32", "1, 1", &value.to_le_bytes()));
        for part in parts {
            let width = part.len();
            let codes = ir.operation("Parameter", &format!(r#"shape="?,{width}" element_type="u8""#), &[], "U8");
            let mut codes = ir.operation("Convert", r#"destination_type="f32""#, &[codes], "FP32");
            let rows = layer.weight.as_slice().chunks_exact(layer.inputs);
            let weights: Vec<u8> =
                rows.flat_map(|row| row.get(part.clone()).unwrap_or_default()).map(|&weight| weight as u8).collect();
            let weights = ir.constant("i8", &format!("{}, {width}", layer.outputs), &weights);
            let mut weights = ir.operation("Convert", r#"destination_type="f32""#, &[weights], "FP32");
            if bytes {
                let data = r#"levels="256" auto_broadcast="numpy""#;
                codes = ir.operation("FakeQuantize", data, &[codes, low, high, low, high], "FP32");
                weights = ir.operation("Multiply", r#"auto_broadcast="numpy""#, &[weights, one], "FP32");
            }
            let data = r#"transpose_a="false" transpose_b="true""#;
            let totals = ir.operation("MatMul", data, &[codes, weights], "FP32");
            ir.operation("Result", "", &[totals], "");
        }
        let xml = format!(
            r#"<?xml version="1.0"?><net name="linear" version="11"><layers>{}</layers><edges>{}</edges></net>"#,
            ir.layers, ir.edges
        );
        Self { xml, weights: ir.weights }
    }
}

/// What an operation gives: its number and the port.
#[derive(Clone, Copy)]
struct Given {
    layer: usize,
    port: usize,
}

#[derive(Default)]
struct Writer {
    layers: String,
    edges: String,
    weights: Vec<u8>,
    count: usize,
}

impl Writer {
    fn constant(&mut self, element: &str, shape: &str, bytes: &[u8]) -> Given {
        let precision = if element == "i8" { "I8" } else { "FP32" };
        let offset = self.weights.len();
        let size = bytes.len();
        let data = format!(r#"element_type="{element}" shape="{shape}" offset="{offset}" size="{size}""#);
        self.weights.extend_from_slice(bytes);
        self.operation("Const", &data, &[], precision)
    }

    /// Ports are counted inputs first. Writing to a string cannot fail.
    fn operation(&mut self, kind: &str, data: &str, inputs: &[Given], precision: &str) -> Given {
        let layer = self.count;
        self.count += 1;
        let _ = write!(
            self.layers,
            r#"<layer id="{layer}" name="{kind}{layer}" type="{kind}" version="opset1"><data {data}/>"#
        );
        for (port, from) in inputs.iter().enumerate() {
            let opening = if port == 0 { "<input>" } else { "" };
            let _ = write!(self.layers, r#"{opening}<port id="{port}"/>"#);
            let _ = write!(
                self.edges,
                r#"<edge from-layer="{}" from-port="{}" to-layer="{layer}" to-port="{port}"/>"#,
                from.layer, from.port
            );
        }
        if !inputs.is_empty() {
            self.layers.push_str("</input>");
        }
        let port = inputs.len();
        if !precision.is_empty() {
            let _ = write!(self.layers, r#"<output><port id="{port}" precision="{precision}"/></output>"#);
        }
        self.layers.push_str("</layer>");
        Given { layer, port }
    }
}
