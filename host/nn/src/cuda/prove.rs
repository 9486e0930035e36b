//! What a GPU is put to before it is used: every operation against the scalar reference.
//!
//! The product meets the same self-test as every backend's. What else runs on the GPU is tried on small shapes with
//! everything that arithmetic trips over: NaN, infinities, zeros of both signs, numbers that only a processor without
//! flushing to zero holds, the largest codes. Small, because every start of a node waits for it.

use super::CudaBackend;
use crate::device::{Attending, Device, Made};
use crate::{Backend, BackendError, NnError, Tensor};
use ostrakon_exact::simd::self_test;
use ostrakon_exact::{Layer, Lengths, Part, ShapeError, reference};
use std::sync::Arc;

/// Rows and columns: less and more than the threads of a block, few and many rows, odd and even.
const SHAPES: [(usize, usize); 4] = [(1, 1), (3, 65), (17, 130), (130, 300)];

pub(super) fn prove(backend: &CudaBackend) -> Result<(), BackendError> {
    self_test(&crate::backend::product_of(backend)).map_err(|error| BackendError::of_self_test(super::NAME, &error))?;
    for (rows, width) in SHAPES {
        elements(backend, rows, width)?;
        layers(backend, rows, width)?;
    }
    for (lengths, heads, kv_heads, width) in
        [(&[1][..], 1, 1, 1), (&[2, 9, 1], 2, 1, 3), (&[5, 131], 3, 3, 32), (&[67], 4, 2, 128)]
    {
        attention(backend, lengths, heads, kv_heads, width)?;
    }
    Ok(())
}

/// Numbers all over the range of f32, a special one now and then; each `salt` gives others.
fn values(rows: usize, width: usize, salt: usize) -> Vec<f32> {
    let value = |i: usize| {
        let bits = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(salt as u32 * 40_503).rotate_left(13);
        match bits % 97 {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => f32::NEG_INFINITY,
            3 => -0.0,
            4 => f32::from_bits(bits >> 12),
            5 => f32::MAX,
            // Any exponent now and then; otherwise a few units, as activations are.
            6..12 => f32::from_bits(bits.wrapping_mul(0x9e37_79b9)),
            _ => (bits >> 8) as f32 / 4e6 - 2.0,
        }
    };
    // Only every third row holds wild numbers, which leave nothing else to see in a row.
    let tame = |value: f32| if value.is_nan() { 0.5 } else { value.clamp(-3.0, 3.0) };
    let wild = |i: usize| (i / width.max(1)) % 3 == 1;
    (0..rows * width).map(|i| if wild(i) { value(i) } else { tame(value(i)) }).collect()
}

fn tensor(rows: usize, width: usize, values: &[f32]) -> Result<Tensor, NnError> {
    Tensor::from_f32(vec![rows as u32, width as u32], values.to_vec())
}

/// What the GPU made must be what the reference wants.
fn expect(what: &str, made: Made, wanted: &[f32], refused: Result<(), ShapeError>) -> Result<(), BackendError> {
    let unavailable =
        |error: NnError| BackendError::Unavailable { backend: super::NAME, reason: error.text().to_owned() };
    let not_exact = |reason| BackendError::NotExact { backend: super::NAME, reason };
    refused.map_err(|error| not_exact(format!("{what}: the reference refuses the test: {error}")))?;
    let got = made.and_then(|made| made.read()).map_err(unavailable)?;
    if got.len() != wanted.len() {
        return Err(not_exact(format!("{what}: {} elements, not {}", got.len(), wanted.len())));
    }
    match got.iter().zip(wanted).position(|(got, wanted)| got.to_bits() != wanted.to_bits()) {
        None => Ok(()),
        Some(at) => Err(not_exact(format!("{what}: element {at} differs from the reference"))),
    }
}

fn fault(error: impl ToString) -> BackendError {
    BackendError::Unavailable { backend: super::NAME, reason: error.to_string() }
}

fn elements(backend: &CudaBackend, rows: usize, width: usize) -> Result<(), BackendError> {
    let device = &backend.device;
    let (a, b) = (values(rows, width, 1), values(rows, width, 2));
    let both = [a.as_slice(), &b].concat();
    let (x, y) = (tensor(rows, width, &a).map_err(fault)?, tensor(rows, width, &b).map_err(fault)?);
    let pairs = tensor(rows, 2 * width, &both).map_err(fault)?;
    let mut wanted = vec![0.0; a.len()];

    let refused = reference::add(&a, &b, &mut wanted);
    expect("add", device.add(&x, &y), &wanted, refused)?;
    let refused = reference::gelu(&a, &mut wanted);
    expect("gelu", device.gelu(&x), &wanted, refused)?;
    let refused = reference::swiglu(&both, rows, width, &mut wanted);
    expect("swiglu", device.swiglu(&pairs, width), &wanted, refused)?;
    let refused = reference::l2_normalise(&a, rows, width, &mut wanted);
    expect("l2-normalise", device.l2_normalise(&x, width), &wanted, refused)?;

    let lengths = if rows > 2 { vec![1, rows as i32 - 2, 1] } else { vec![rows as i32] };
    let lengths = Lengths::new(&lengths, rows).map_err(fault)?;
    let mut wanted = vec![0.0; lengths.sequences() * width];
    let refused = reference::mean_pool(&a, &lengths, width, &mut wanted);
    expect("mean-pool", device.mean_pool(&x, &lengths, width), &wanted, refused)?;
    let last: Vec<usize> = lengths
        .iter()
        .scan(0, |end, length| {
            *end += length;
            Some(*end - 1)
        })
        .collect();
    let refused = reference::last_rows(&a, &lengths, &vec![1; last.len()], width, &mut wanted);
    expect("last-rows", device.gather(&x, &last, width), &wanted, refused)
}

/// A part of a layer.
fn part(name: &str, dimensions: Vec<usize>, data: Vec<u8>) -> Part {
    Part { name: name.to_owned(), dimensions, data: Box::new(data) }
}

fn floats(name: &str, dimensions: Vec<usize>, value: impl Fn(usize) -> f32) -> Part {
    let count = dimensions.iter().product();
    part(name, dimensions, (0..count).flat_map(|i| value(i).to_le_bytes()).collect())
}

fn codes(rows: usize, width: usize) -> Part {
    let code = |i: usize| (((i * 89 + i / 7) % 255) as i16 - 127) as u8;
    part("weight", vec![rows, width], (0..rows * width).map(code).collect())
}

fn layers(backend: &CudaBackend, rows: usize, width: usize) -> Result<(), BackendError> {
    let device = &backend.device;
    let small = |i: usize| (i % 17) as f32 / 8.0 - 0.9;
    let (a, b) = (values(rows, width, 3), values(rows, width, 4));
    let (x, residual) = (tensor(rows, width, &a).map_err(fault)?, tensor(rows, width, &b).map_err(fault)?);
    let made = |kind: &str, activation: &str, parts| Layer::from_parts(kind, activation, parts).map_err(fault);
    let mut wanted = vec![0.0; a.len()];

    for activation in ["u8", "u16"] {
        const OUTPUTS: usize = 67;
        let parts = vec![
            codes(OUTPUTS, width),
            floats("scale", vec![OUTPUTS], |n| 1.0 / (n + 3) as f32),
            floats("bias", vec![OUTPUTS], small),
            floats("prescale", vec![width], |k| 0.5 + (k % 5) as f32),
        ];
        let Layer::Linear(layer) = made("linear", activation, parts)? else { return Err(fault("no linear layer")) };
        let layer = Arc::new(layer);
        let product = backend.prepare(crate::backend::SELF_TEST, &layer).map_err(fault)?;
        let mut wanted = vec![0.0; rows * OUTPUTS];
        let refused = reference::linear(&layer, &a, rows, &mut wanted);
        expect("a linear layer", device.linear(product.as_ref(), &x), &wanted, refused)?;
    }

    let gain = || floats("gain", vec![width], small);
    let epsilon = || floats("epsilon", vec![1], |_| 1e-5);
    let layer = made("layer-norm", "", vec![gain(), floats("bias", vec![width], small), epsilon()])?;
    let placed = device.place(&layer).map_err(fault)?;
    if let Layer::LayerNorm(layer) = &layer {
        let refused = reference::layer_norm(layer, &a, None, rows, &mut wanted);
        expect("layer-norm", placed.run(&x, None), &wanted, refused)?;
        let refused = reference::layer_norm(layer, &a, Some(&b), rows, &mut wanted);
        expect("layer-norm of a sum", placed.run(&x, Some(&residual)), &wanted, refused)?;
    }
    let layer = made("rms-norm", "", vec![gain(), epsilon()])?;
    let placed = device.place(&layer).map_err(fault)?;
    if let Layer::RmsNorm(layer) = &layer {
        let refused = reference::rms_norm(layer, &a, rows, &mut wanted);
        expect("rms-norm", placed.run(&x, None), &wanted, refused)?;
    }

    const TABLE: usize = 9;
    let ids: Vec<i32> = (0..rows).map(|row| (row * 5 % TABLE) as i32).collect();
    let numbers = Tensor::from_i32(vec![rows as u32], ids.clone()).map_err(fault)?;
    let layer = made("embedding", "", vec![codes(TABLE, width), floats("scale", vec![TABLE], small)])?;
    let placed = device.place(&layer).map_err(fault)?;
    if let Layer::Embedding(layer) = &layer {
        let refused = reference::embedding(layer, &ids, &mut wanted);
        expect("embedding", placed.run(&numbers, None), &wanted, refused)?;
    }
    // The widest head of an even number of columns.
    let head = (width - width % 2).min(128);
    if let Some(heads) = width.checked_div(head) {
        let parts = vec![floats("table", vec![TABLE, head], small), floats("heads", vec![1], |_| heads as f32)];
        let layer = made("rotary", "", parts)?;
        let placed = device.place(&layer).map_err(fault)?;
        if let Layer::Rotary(layer) = &layer {
            let refused = reference::rotary(layer, &a, &ids, width, &mut wanted);
            expect("rotary", placed.run(&x, Some(&numbers)), &wanted, refused)?;
        }
    }
    Ok(())
}

fn attention(
    backend: &CudaBackend,
    lengths: &[i32],
    heads: usize,
    kv_heads: usize,
    width: usize,
) -> Result<(), BackendError> {
    let rows = lengths.iter().sum::<i32>() as usize;
    let ragged = Lengths::new(lengths, rows).map_err(fault)?;
    let device = &backend.device;
    let attend = |values: &[f32], kv_heads: usize, causal: bool| {
        let qkv = tensor(rows, (heads + 2 * kv_heads) * width, values)?;
        device.attention(&qkv, Attending { lengths: &ragged, heads, kv_heads, width, causal }, &mut [])
    };
    let mut wanted = vec![0.0; rows * heads * width];
    let x = values(rows, 3 * heads * width, 5);
    let refused = reference::attention(&x, &ragged, heads * width, heads, &mut wanted);
    expect("attention", attend(&x, heads, false), &wanted, refused)?;
    let x = values(rows, (heads + 2 * kv_heads) * width, 6);
    let refused = reference::causal_attention(&x, &ragged, heads, kv_heads, width, &mut wanted);
    expect("causal attention", attend(&x, kv_heads, true), &wanted, refused)
}
