//! Operations without weights.

use super::{Compared, Trial, timed};
use ostrakon_exact::ragged::ShapeError;
use ostrakon_exact::{Lengths, reference};
use ostrakon_nn::{Host, MemoryLayers, Meter, NnError, Tensor};
use ostrakon_tests::random::Random;

/// Lengths of a ragged batch, heads of queries, heads of keys and values, columns of a head.
struct Heads(&'static [i32], usize, usize, usize);

const ATTENDING: [Heads; 7] = [
    Heads(&[1], 1, 1, 1),
    Heads(&[2, 1, 3], 2, 1, 3),
    Heads(&[17, 33], 3, 3, 64),
    Heads(&[128], 12, 6, 32),
    Heads(&[1, 65, 2, 31], 9, 3, 64),
    Heads(&[127], 4, 4, 128),
    Heads(&[5, 200], 2, 1, 80),
];

/// Longer than a tile of keys many times over.
const LONG: [Heads; 2] = [Heads(&[1500], 2, 1, 64), Heads(&[1100, 3, 700], 1, 1, 32)];

pub(super) fn try_all(trial: &mut Trial) {
    let shapes = [(0, 7), (1, 1), (3, 65), (130, 1536), (4, 66_000)];
    trial.operation("add", &shapes, |trial, &(rows, width), random| {
        let (a, b) = (random.rows(rows, width), random.rows(rows, width));
        let mut wanted = vec![0.0; a.len()];
        let refused = reference::add(&a, &b, &mut wanted);
        let (a, b) = (tensor(rows, width, a), tensor(rows, width, b));
        on_host(trial, rows, width, refused, wanted, |host, meter| host.add(meter, &a?, &b?))
    });
    trial.operation("gelu", &shapes, |trial, &(rows, width), random| {
        let x = random.rows(rows, width);
        let mut wanted = vec![0.0; x.len()];
        let refused = reference::gelu(&x, &mut wanted);
        let x = tensor(rows, width, x);
        on_host(trial, rows, width, refused, wanted, |host, meter| host.gelu(meter, &x?))
    });
    trial.operation("swiglu", &shapes, |trial, &(rows, width), random| {
        let x = random.rows(rows, 2 * width);
        let mut wanted = vec![0.0; rows * width];
        let refused = reference::swiglu(&x, rows, width, &mut wanted);
        let x = tensor(rows, 2 * width, x);
        on_host(trial, rows, width, refused, wanted, |host, meter| host.swiglu(meter, &x?))
    });
    trial.operation("rows of length 1", &shapes, |trial, &(rows, width), random| {
        let x = random.rows(rows, width);
        let mut wanted = vec![0.0; x.len()];
        let refused = reference::l2_normalise(&x, rows, width, &mut wanted);
        let x = tensor(rows, width, x);
        on_host(trial, rows, width, refused, wanted, |host, meter| host.l2_normalise(meter, &x?))
    });
    trial.operation("attention", &ATTENDING, |trial, heads, random| attention(trial, heads, false, random));
    trial.operation("causal attention", &ATTENDING, |trial, heads, random| attention(trial, heads, true, random));
    if !trial.quick {
        trial.operation("long attention", &LONG, |trial, heads, random| attention(trial, heads, false, random));
        trial.operation("long causal attention", &LONG, |trial, heads, random| attention(trial, heads, true, random));
    }
    trial.operation("mean pool", &ATTENDING, |trial, heads, random| pool(trial, heads, Pool::Mean, random));
    trial.operation("first pool", &ATTENDING, |trial, heads, random| pool(trial, heads, Pool::First, random));
    trial.operation("last rows", &ATTENDING, |trial, heads, random| pool(trial, heads, Pool::Last, random));
}

fn attention(
    trial: &Trial,
    &Heads(lengths, heads, kv_heads, d): &Heads,
    causal: bool,
    random: &mut Random,
) -> Compared {
    let kv_heads = if causal { kv_heads } else { heads };
    let (rows, columns, width) = (total(lengths), (heads + 2 * kv_heads) * d, heads * d);
    let qkv = random.rows(rows, columns);
    let mut wanted = vec![0.0; rows * width];
    let refused = Lengths::new(lengths, rows).and_then(|lengths| match causal {
        true => reference::causal_attention(&qkv, &lengths, heads, kv_heads, d, &mut wanted),
        false => reference::attention(&qkv, &lengths, width, heads, &mut wanted),
    });
    let (qkv, lengths) = (tensor(rows, columns, qkv), of_lengths(lengths));
    on_host(trial, rows, columns, refused, wanted, |host, meter| match causal {
        true => host.causal_attention(meter, None, &qkv?, &lengths?, heads as u32, kv_heads as u32),
        false => host.attention(meter, &qkv?, &lengths?, heads as u32),
    })
}

#[derive(Clone, Copy)]
enum Pool {
    Mean,
    First,
    Last,
}

fn pool(trial: &Trial, &Heads(lengths, heads, _, d): &Heads, pool: Pool, random: &mut Random) -> Compared {
    let (rows, width) = (total(lengths), heads * d);
    let x = random.rows(rows, width);
    let mut wanted = vec![0.0; lengths.len() * width];
    let refused = Lengths::new(lengths, rows).and_then(|ragged| match pool {
        Pool::Mean => reference::mean_pool(&x, &ragged, width, &mut wanted),
        Pool::First => reference::first_pool(&x, &ragged, width, &mut wanted),
        Pool::Last => reference::last_rows(&x, &ragged, &vec![1; lengths.len()], width, &mut wanted),
    });
    let lengths = match pool {
        Pool::Last => {
            let values: Vec<i32> = lengths.iter().flat_map(|&length| [length, 0, 1]).collect();
            Tensor::from_i32(vec![lengths.len() as u32, 3], values)
        }
        _ => of_lengths(lengths),
    };
    let x = tensor(rows, width, x);
    on_host(trial, rows, width, refused, wanted, |host, meter| match pool {
        Pool::Mean => host.mean_pool(meter, &x?, &lengths?),
        Pool::First => host.first_pool(meter, &x?, &lengths?),
        Pool::Last => host.last_rows(meter, &x?, &lengths?),
    })
}

fn on_host(
    trial: &Trial,
    rows: usize,
    width: usize,
    reference: Result<(), ShapeError>,
    wanted: Vec<f32>,
    run: impl FnOnce(&Host, &Meter) -> Result<Tensor, NnError>,
) -> Compared {
    let host = trial.host(MemoryLayers::new());
    let (got, time) = timed(|meter| {
        reference.map_err(|error| NnError::Runtime(format!("the reference refuses the case: {error}")))?;
        run(&host, meter)
    });
    Compared { what: format!("{rows} x {width}"), got, wanted, time }
}

fn tensor(rows: usize, width: usize, values: Vec<f32>) -> Result<Tensor, NnError> {
    Tensor::from_f32(vec![rows as u32, width as u32], values)
}

fn of_lengths(lengths: &[i32]) -> Result<Tensor, NnError> {
    Tensor::from_i32(vec![lengths.len() as u32], lengths.to_vec())
}

fn total(lengths: &[i32]) -> usize {
    lengths.iter().filter_map(|&length| usize::try_from(length).ok()).sum()
}
