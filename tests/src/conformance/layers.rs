//! Operations with weights.

use super::{Compared, Trial, timed};
use ostrakon_exact::{Layer, field, reference};
use ostrakon_nn::{Host, MemoryLayers, NnError, Tensor};
use ostrakon_tests::random::Random;

/// Rows, K and N of a product.
struct Product(usize, usize, usize);

/// Around the sizes of tiles and chunks, and of real models.
const PRODUCTS: [Product; 16] = [
    Product(0, 8, 3),
    Product(1, 1, 1),
    Product(1, 2, 17),
    Product(2, 3, 16),
    Product(3, 63, 15),
    Product(5, 64, 33),
    Product(7, 65, 31),
    Product(17, 127, 48),
    Product(49, 129, 64),
    Product(97, 384, 100),
    Product(128, 384, 1152),
    Product(130, 1536, 384),
    Product(1, 576, 1536),
    Product(1, 1536, 576),
    Product(33, 576, 960),
    Product(4, 1000, 1001),
];

/// As wide as large models are, and K at its bound.
const WIDE: [Product; 4] =
    [Product(9, 4096, 4096), Product(5, 4096, 11_008), Product(5, 11_008, 4096), Product(3, 66_000, 19)];

pub(super) fn try_all(trial: &mut Trial) {
    for (operation, activation) in [("linear, 8-bit codes", "u8"), ("linear, 16-bit codes", "u16")] {
        trial.operation(operation, &PRODUCTS, |trial, shape, random| linear(trial, shape, activation, random));
    }
    if !trial.quick {
        for (operation, activation) in [("wide linear, 8 bits", "u8"), ("wide linear, 16 bits", "u16")] {
            trial.operation(operation, &WIDE, |trial, shape, random| linear(trial, shape, activation, random));
        }
    }
    // Products of bytes are mostly in the smaller field, the others mostly in the larger one.
    for (operation, activation) in [("products of shares, u8", "u8"), ("products of shares, u16", "u16")] {
        trial.operation(operation, &PRODUCTS, |trial, shape, random| share_product(trial, shape, activation, random));
    }
    trial.operation("embedding", &[(1, 1), (7, 384), (300, 576)], |trial, &(ids, width), random| {
        embedding(trial, ids, width, random)
    });
    let shapes = [(1, 1), (3, 2), (5, 63), (130, 384), (9, 4096), (2, 66_000)];
    trial.operation("layer norm", &shapes, |trial, &(rows, width), random| norm(trial, rows, width, false, random));
    trial.operation("layer norm of a sum", &shapes, |trial, &(rows, width), random| {
        norm(trial, rows, width, true, random)
    });
    trial.operation("RMS norm", &shapes, |trial, &(rows, width), random| rms_norm(trial, rows, width, random));
    trial.operation(
        "rotary",
        &[(1, 2, 1), (5, 64, 3), (70, 64, 9), (3, 128, 32)],
        |trial, &(rows, d, heads), random| rotary(trial, rows, d, heads, random),
    );
}

fn linear(trial: &Trial, &Product(rows, inputs, outputs): &Product, activation: &str, random: &mut Random) -> Compared {
    let weight = random.codes(inputs * outputs);
    let scale: Vec<f32> = random.many(outputs).iter().map(|v| v.abs() / 100.0 + 1e-4).collect();
    let bias = if random.below(2) == 0 { random.many(outputs) } else { Vec::new() };
    let prescale: Vec<f32> = match random.below(2) {
        0 => random.many(inputs).iter().map(|v| v.abs() + 0.1).collect(),
        _ => Vec::new(),
    };
    let x = random.rows(rows, inputs);
    let mut layers = MemoryLayers::new();
    layers.insert_linear(NAME, activation, &weight, &scale, &bias, &prescale);
    compare(trial, layers, [rows, inputs], x, None, |layer, x, _, out| match layer {
        Layer::Linear(layer) => reference::linear(layer, x, rows, out).ok(),
        _ => None,
    })
}

/// Elements are compared as bits, so they travel as floats of the same bits.
fn share_product(
    trial: &Trial,
    &Product(rows, inputs, outputs): &Product,
    activation: &str,
    random: &mut Random,
) -> Compared {
    let mut layers = MemoryLayers::new();
    layers.insert_linear(NAME, activation, &random.codes(inputs * outputs), &vec![1.0; outputs], &[], &[]);
    let host = trial.host(layers);
    let (mut share, mut wanted) = (Vec::new(), Vec::new());
    let refused = match layer(&host) {
        Ok(Layer::Linear(layer)) => {
            let parts = field::Parts::of(&layer);
            let p = u64::from(parts.field().prime());
            let element = |_| if random.below(4) == 0 { p - 1 } else { random.next() % p };
            share = (0..rows * inputs).map(element).map(|x| x as u32).collect();
            wanted = vec![0; rows * parts.columns()];
            done(field::reference::multiply(&layer, &parts, &share, rows, &mut wanted))
        }
        other => Err(not_the_layer(other)),
    };
    let (got, time) = timed(|_| {
        refused?;
        let mut got = vec![0; wanted.len()];
        let product = host.share_product(NAME)?;
        product.multiply(&share, rows, &mut got).map_err(|error| NnError::Runtime(error.to_string()))?;
        Tensor::from_f32(vec![got.len() as u32], got.into_iter().map(f32::from_bits).collect())
    });
    let wanted = wanted.into_iter().map(f32::from_bits).collect();
    Compared { what: format!("{rows} x {inputs} to {outputs}"), got, wanted, time }
}

fn embedding(trial: &Trial, count: usize, width: usize, random: &mut Random) -> Compared {
    const TABLE: usize = 97;
    let mut layers = MemoryLayers::new();
    layers.insert_embedding(NAME, &random.codes(TABLE * width), &random.many(TABLE));
    let ids: Vec<i32> = (0..count).map(|_| random.place(TABLE) as i32).collect();
    let mut wanted = vec![0.0; count * width];
    let host = trial.host(layers);
    let refused = match layer(&host) {
        Ok(Layer::Embedding(layer)) => done(reference::embedding(&layer, &ids, &mut wanted)),
        other => Err(not_the_layer(other)),
    };
    let ids = Tensor::from_i32(vec![count as u32], ids);
    let (got, time) = timed(|meter| {
        refused?;
        one(host.compute(meter, &host.graph(NAME)?, vec![("ids".to_owned(), ids?)])?)
    });
    Compared { what: format!("{count} ids, {width} wide"), got, wanted, time }
}

fn norm(trial: &Trial, rows: usize, width: usize, sum: bool, random: &mut Random) -> Compared {
    let mut layers = MemoryLayers::new();
    layers.insert_layer_norm(NAME, &random.many(width), &random.many(width), 1e-5);
    let x = random.rows(rows, width);
    let residual = sum.then(|| ("residual", random.rows(rows, width)));
    compare(trial, layers, [rows, width], x, residual, |layer, x, residual, out| match layer {
        Layer::LayerNorm(layer) => reference::layer_norm(layer, x, residual, rows, out).ok(),
        _ => None,
    })
}

fn rms_norm(trial: &Trial, rows: usize, width: usize, random: &mut Random) -> Compared {
    let mut layers = MemoryLayers::new();
    layers.insert_rms_norm(NAME, &random.many(width), 1e-5);
    let x = random.rows(rows, width);
    compare(trial, layers, [rows, width], x, None, |layer, x, _, out| match layer {
        Layer::RmsNorm(layer) => reference::rms_norm(layer, x, rows, out).ok(),
        _ => None,
    })
}

fn rotary(trial: &Trial, rows: usize, d: usize, heads: usize, random: &mut Random) -> Compared {
    const POSITIONS: usize = 90;
    let mut layers = MemoryLayers::new();
    layers.insert_rotary(NAME, &random.many(POSITIONS * d), d, heads);
    // Two heads more, which stay as they are: values beside queries and keys.
    let columns = (heads + 2) * d;
    let x = random.rows(rows, columns);
    let positions: Vec<i32> = (0..rows).map(|_| random.place(POSITIONS) as i32).collect();
    let mut wanted = vec![0.0; x.len()];
    let host = trial.host(layers);
    let refused = match layer(&host) {
        Ok(Layer::Rotary(layer)) => done(reference::rotary(&layer, &x, &positions, columns, &mut wanted)),
        other => Err(not_the_layer(other)),
    };
    let inputs = Tensor::from_f32(vec![rows as u32, columns as u32], x).and_then(|x| {
        Ok(vec![("x".to_owned(), x), ("positions".to_owned(), Tensor::from_i32(vec![rows as u32], positions)?)])
    });
    let (got, time) = timed(|meter| {
        refused?;
        one(host.compute(meter, &host.graph(NAME)?, inputs?)?)
    });
    Compared { what: format!("{rows} rows, {heads} heads of {d}"), got, wanted, time }
}

/// The layer that is tried.
const NAME: &str = "conformance.layer";

/// A layer of rows beside what the reference gives for them. `residual` is a second input, with its name.
fn compare(
    trial: &Trial,
    layers: MemoryLayers,
    [rows, width]: [usize; 2],
    x: Vec<f32>,
    residual: Option<(&str, Vec<f32>)>,
    reference: impl FnOnce(&Layer, &[f32], Option<&[f32]>, &mut [f32]) -> Option<()>,
) -> Compared {
    let host = trial.host(layers);
    let mut what = format!("{rows} x {width}");
    let layer = layer(&host);
    let outputs = match &layer {
        Ok(Layer::Linear(layer)) => layer.outputs,
        _ => width,
    };
    what.push_str(&format!(" to {outputs}"));
    let mut wanted = vec![0.0; rows * outputs];
    let done = layer
        .as_ref()
        .ok()
        .and_then(|layer| reference(layer, &x, residual.as_ref().map(|(_, values)| values.as_slice()), &mut wanted));
    let tensor = |values| Tensor::from_f32(vec![rows as u32, width as u32], values);
    let inputs = tensor(x).and_then(|x| {
        let mut inputs = vec![("x".to_owned(), x)];
        if let Some((name, values)) = residual {
            inputs.push((name.to_owned(), tensor(values)?));
        }
        Ok(inputs)
    });
    let (got, time) = timed(|meter| {
        done.ok_or_else(|| NnError::Runtime("the reference refuses the case".to_owned()))?;
        one(host.compute(meter, &host.graph(NAME)?, inputs?)?)
    });
    Compared { what, got, wanted, time }
}

fn layer(host: &Host) -> Result<Layer, NnError> {
    let raw = host.raw(NAME)?;
    Layer::from_parts(&raw.kind, &raw.activation, raw.parts).map_err(|error| NnError::Runtime(error.to_string()))
}

/// What the reference refuses is not a backend's answer.
fn done<E: std::fmt::Display>(reference: Result<(), E>) -> Result<(), NnError> {
    reference.map_err(|error| NnError::Runtime(format!("the reference refuses the case: {error}")))
}

fn not_the_layer(layer: Result<Layer, NnError>) -> NnError {
    layer.err().unwrap_or_else(|| NnError::Runtime("a layer of another kind".to_owned()))
}

fn one(outputs: Vec<(String, Tensor)>) -> Result<Tensor, NnError> {
    let found = outputs.into_iter().find(|(name, _)| name == "y").map(|(_, y)| y);
    found.ok_or_else(|| NnError::Runtime("no output `y`".to_owned()))
}
