//! The operations: inputs checked, a result of the right size made, the scalar definition called.
//!
//! The checks, their order and their words are those of the native host (`host/nn/src/operations.rs`).

use crate::Component;
use crate::bindings::exports::ostrakon::plugin::exact::{self, Refusal as WitRefusal};
use crate::bindings::exports::wasi::nn::tensor::{self as nn, TensorBorrow};
use crate::layers::Named;
use crate::refusal::Refusal;
use crate::tensor::{Tensor, zeros};
use ostrakon_exact::layer::{MAX_HEADS, MAX_WIDTH};
use ostrakon_exact::reference::{self, MAX_CONTEXT, MAX_HEAD_WIDTH};
use ostrakon_exact::{Layer, Lengths, Rotary, ShapeError};

/// Run a layer: its inputs by name, its one output.
pub(crate) fn compute(graph: &Named, inputs: Vec<(String, Tensor)>) -> Result<Tensor, Refusal> {
    match &graph.layer {
        Layer::Linear(layer) => {
            let [x] = take(inputs, ["x"])?;
            let x = needed("x", x)?;
            let x = Matrix::of_width("x", &x, layer.inputs)?;
            result(vec![x.rows, layer.outputs as u32], |y| reference::linear(layer, x.values, x.rows as usize, y))
        }
        Layer::Embedding(layer) => {
            let [ids] = take(inputs, ["ids"])?;
            let ids = needed("ids", ids)?;
            let ids = ids.integers("ids")?;
            result(vec![ids.len() as u32, layer.width as u32], |y| reference::embedding(layer, ids, y))
        }
        Layer::LayerNorm(layer) => {
            let [x, residual] = take(inputs, ["x", "residual"])?;
            let x = needed("x", x)?;
            let width = layer.gain.len();
            let x = Matrix::of_width("x", &x, width)?;
            let residual =
                residual.as_ref().map(|residual| Matrix::of_width("residual", residual, width)).transpose()?;
            if let Some(residual) = residual.as_ref().filter(|residual| residual.rows != x.rows) {
                let text = format!("`residual` has {} rows but `x` has {}", residual.rows, x.rows);
                return Err(Refusal::invalid(text));
            }
            let residual = residual.map(|residual| residual.values);
            result(vec![x.rows, x.width], |y| reference::layer_norm(layer, x.values, residual, x.rows as usize, y))
        }
        Layer::RmsNorm(layer) => {
            let [x] = take(inputs, ["x"])?;
            let x = needed("x", x)?;
            let x = Matrix::of_width("x", &x, layer.gain.len())?;
            result(vec![x.rows, x.width], |y| reference::rms_norm(layer, x.values, x.rows as usize, y))
        }
        Layer::Rotary(layer) => {
            let [x, positions] = take(inputs, ["x", "positions"])?;
            let x = needed("x", x)?;
            let positions = needed("positions", positions)?;
            rotary(layer, &Matrix::new("x", &x)?, positions.integers("positions")?)
        }
    }
}

fn rotary(layer: &Rotary, x: &Matrix<'_>, positions: &[i32]) -> Result<Tensor, Refusal> {
    let needed = layer.turned();
    if (x.width as usize) < needed || positions.len() != x.rows as usize {
        return Err(Refusal::invalid(format!(
            "`x` has the shape [{}, {}] and there are {} `positions`: needs one for each row, and {needed} columns at least",
            x.rows,
            x.width,
            positions.len()
        )));
    }
    result(vec![x.rows, x.width], |y| reference::rotary(layer, x.values, positions, x.width as usize, y))
}

impl exact::Guest for Component {
    fn alias(x: TensorBorrow<'_>) -> nn::Tensor {
        nn::Tensor::new(x.get::<Tensor>().clone())
    }

    fn add(a: TensorBorrow<'_>, b: TensorBorrow<'_>) -> Result<nn::Tensor, WitRefusal> {
        handle(add(a.get(), b.get()))
    }

    fn gelu(x: TensorBorrow<'_>) -> Result<nn::Tensor, WitRefusal> {
        handle(gelu(x.get()))
    }

    fn attention(qkv: TensorBorrow<'_>, lengths: TensorBorrow<'_>, heads: u32) -> Result<nn::Tensor, WitRefusal> {
        handle(attention(qkv.get(), lengths.get(), heads))
    }

    fn swiglu(x: TensorBorrow<'_>) -> Result<nn::Tensor, WitRefusal> {
        handle(swiglu(x.get()))
    }

    fn causal_attention(
        qkv: TensorBorrow<'_>,
        lengths: TensorBorrow<'_>,
        heads: u32,
        kv_heads: u32,
    ) -> Result<nn::Tensor, WitRefusal> {
        handle(causal_attention(qkv.get(), lengths.get(), heads, kv_heads))
    }

    fn mean_pool(x: TensorBorrow<'_>, lengths: TensorBorrow<'_>) -> Result<nn::Tensor, WitRefusal> {
        handle(pool(x.get(), lengths.get(), reference::mean_pool))
    }

    fn first_pool(x: TensorBorrow<'_>, lengths: TensorBorrow<'_>) -> Result<nn::Tensor, WitRefusal> {
        handle(pool(x.get(), lengths.get(), reference::first_pool))
    }

    fn last_rows(x: TensorBorrow<'_>, lengths: TensorBorrow<'_>) -> Result<nn::Tensor, WitRefusal> {
        handle(last_rows(x.get(), lengths.get()))
    }

    fn l2_normalise(x: TensorBorrow<'_>) -> Result<nn::Tensor, WitRefusal> {
        handle(l2_normalise(x.get()))
    }
}

fn handle(result: Result<Tensor, Refusal>) -> Result<nn::Tensor, WitRefusal> {
    Ok(nn::Tensor::new(result?))
}

fn add(a: &Tensor, b: &Tensor) -> Result<Tensor, Refusal> {
    let (left, right) = (a.floats("a")?, b.floats("b")?);
    if a.dims() != b.dims() {
        return Err(Refusal::invalid(format!(
            "`a` has the shape {:?} and `b` {:?}: both must have the same",
            a.dims(),
            b.dims()
        )));
    }
    result(a.dims().to_vec(), |y| reference::add(left, right, y))
}

fn gelu(x: &Tensor) -> Result<Tensor, Refusal> {
    let values = x.floats("x")?;
    result(x.dims().to_vec(), |y| reference::gelu(values, y))
}

fn attention(qkv: &Tensor, lengths: &Tensor, heads: u32) -> Result<Tensor, Refusal> {
    let qkv = Matrix::new("qkv", qkv)?;
    if qkv.width % 3 != 0 {
        return Err(Refusal::invalid(format!(
            "`qkv` has {} columns: queries, keys and values side by side make a multiple of 3",
            qkv.width
        )));
    }
    let width = qkv.width / 3;
    let d = width.checked_div(heads).filter(|d| d * heads == width);
    if !d.is_some_and(|d| (1..=MAX_HEAD_WIDTH).contains(&(d as usize))) {
        return Err(Refusal::invalid(format!(
            "{heads} heads cannot share {width} columns: equal heads of 1 to {MAX_HEAD_WIDTH} columns"
        )));
    }
    let lengths = ragged(lengths, &qkv)?;
    result(vec![qkv.rows, width], |y| reference::attention(qkv.values, &lengths, width as usize, heads as usize, y))
}

fn swiglu(x: &Tensor) -> Result<Tensor, Refusal> {
    let x = Matrix::new("x", x)?;
    if !x.width.is_multiple_of(2) {
        return Err(Refusal::invalid(format!(
            "`x` has {} columns: gates and as many values to let through make an even number",
            x.width
        )));
    }
    let width = x.width / 2;
    result(vec![x.rows, width], |y| reference::swiglu(x.values, x.rows as usize, width as usize, y))
}

/// Of whole sequences alone: nobody holds keys and values of earlier rows here.
fn causal_attention(qkv: &Tensor, lengths: &Tensor, heads: u32, kv_heads: u32) -> Result<Tensor, Refusal> {
    let qkv = Matrix::new("qkv", qkv)?;
    let columns = qkv.width;
    let all = kv_heads.checked_mul(2).and_then(|kv| kv.checked_add(heads));
    let d = all.and_then(|all| columns.checked_div(all).filter(|d| d * all == columns));
    let shared = kv_heads > 0 && heads.is_multiple_of(kv_heads) && (1..=MAX_HEADS).contains(&(heads as usize));
    let Some(d) = d.filter(|&d| shared && (1..=MAX_HEAD_WIDTH).contains(&(d as usize))) else {
        return Err(Refusal::invalid(format!(
            "{heads} heads of queries and {kv_heads} of keys and of values cannot share {columns} columns: equal heads \
             of 1 to {MAX_HEAD_WIDTH} columns, at most {MAX_HEADS} of queries, a multiple of those of keys"
        )));
    };
    let lengths = whole(&stretches(lengths)?, &qkv)?;
    let [heads, kv_heads, width] = [heads, kv_heads, d].map(|n| n as usize);
    result(vec![qkv.rows, (heads * width) as u32], |y| {
        reference::causal_attention(qkv.values, &lengths, heads, kv_heads, width, y)
    })
}

/// The rows of a sequence in one call, before it, and the last ones that are wanted.
struct Stretch {
    rows: i32,
    before: i32,
    wanted: usize,
}

/// The sequences of a call, from its lengths.
fn stretches(lengths: &Tensor) -> Result<Vec<Stretch>, Refusal> {
    let (values, dims) = lengths.all_integers("lengths")?;
    let each = match dims {
        [_] => 1,
        [_, 2] => 2,
        [_, 3] => 3,
        other => {
            return Err(Refusal::invalid(format!(
                "`lengths` has the shape {other:?}: [sequences], or [sequences, 2 or 3], is needed"
            )));
        }
    };
    let mut stretches = Vec::with_capacity(values.len() / each);
    for (i, sequence) in values.chunks_exact(each).enumerate() {
        let [length, before] = [sequence.first(), sequence.get(1)].map(|value| value.copied().unwrap_or(0));
        if length < 1 {
            return Err(Refusal::invalid(format!("length {i} is {length}: every sequence has at least one row")));
        }
        if before < 0 || (before as usize).saturating_add(length as usize) > MAX_CONTEXT {
            return Err(Refusal::invalid(format!(
                "sequence {i} has {length} rows and {before} before them: not below 0 and at most {MAX_CONTEXT} in all"
            )));
        }
        let wanted = sequence.get(2).copied().unwrap_or(length);
        if !(0..=length).contains(&wanted) {
            let text = format!("the last {wanted} of {length} rows of sequence {i} are wanted: none to all can be");
            return Err(Refusal::invalid(text));
        }
        stretches.push(Stretch { rows: length, before, wanted: wanted as usize });
    }
    Ok(stretches)
}

fn rows_of(stretches: &[Stretch], x: &Matrix<'_>) -> Result<Lengths, Refusal> {
    let rows: Vec<i32> = stretches.iter().map(|stretch| stretch.rows).collect();
    Ok(Lengths::new(&rows, x.rows as usize)?)
}

/// The lengths of sequences that have nothing before them.
fn whole(stretches: &[Stretch], x: &Matrix<'_>) -> Result<Lengths, Refusal> {
    let checked = rows_of(stretches, x)?;
    match stretches.iter().enumerate().find(|(_, stretch)| stretch.before > 0) {
        None => Ok(checked),
        Some((i, Stretch { before, .. })) => Err(Refusal::invalid(format!(
            "`lengths` say that {before} rows were before those of sequence {i}, but the host holds 0 of this block"
        ))),
    }
}

fn last_rows(x: &Tensor, lengths: &Tensor) -> Result<Tensor, Refusal> {
    let x = Matrix::new("x", x)?;
    let stretches = stretches(lengths)?;
    let lengths = rows_of(&stretches, &x)?;
    let wanted: Vec<usize> = stretches.iter().map(|stretch| stretch.wanted).collect();
    let rows = wanted.iter().sum::<usize>() as u32;
    result(vec![rows, x.width], |y| reference::last_rows(x.values, &lengths, &wanted, x.width as usize, y))
}

type Pool = fn(&[f32], &Lengths, usize, &mut [f32]) -> Result<(), ShapeError>;

fn pool(x: &Tensor, lengths: &Tensor, pool: Pool) -> Result<Tensor, Refusal> {
    let x = Matrix::new("x", x)?;
    let lengths = ragged(lengths, &x)?;
    result(vec![lengths.sequences() as u32, x.width], |y| pool(x.values, &lengths, x.width as usize, y))
}

fn l2_normalise(x: &Tensor) -> Result<Tensor, Refusal> {
    let x = Matrix::new("x", x)?;
    if x.width as usize > MAX_WIDTH {
        return Err(Refusal::invalid(format!("`x` has {} columns: at most {MAX_WIDTH}", x.width)));
    }
    result(vec![x.rows, x.width], |y| reference::l2_normalise(x.values, x.rows as usize, x.width as usize, y))
}

/// A result of this shape, filled by an operation. One without elements is not computed.
fn result(dims: Vec<u32>, fill: impl FnOnce(&mut [f32]) -> Result<(), ShapeError>) -> Result<Tensor, Refusal> {
    let mut values = zeros(&dims)?;
    if !values.is_empty() {
        fill(&mut values)?;
    }
    Ok(Tensor::of_floats(dims, values))
}

/// An FP32 tensor of two dimensions.
struct Matrix<'a> {
    values: &'a [f32],
    rows: u32,
    width: u32,
}

impl<'a> Matrix<'a> {
    fn new(what: &str, tensor: &'a Tensor) -> Result<Self, Refusal> {
        let values = tensor.floats(what)?;
        match tensor.dims() {
            &[rows, width] => Ok(Self { values, rows, width }),
            other => Err(Refusal::invalid(format!(
                "`{what}` has the shape {other:?}: two dimensions, [rows, columns], are needed"
            ))),
        }
    }

    fn of_width(what: &str, tensor: &'a Tensor, width: usize) -> Result<Self, Refusal> {
        let matrix = Self::new(what, tensor)?;
        if matrix.width as usize == width {
            Ok(matrix)
        } else {
            Err(Refusal::invalid(format!(
                "`{what}` has {} columns but the layer takes {width}: its shape is {:?}",
                matrix.width,
                tensor.dims()
            )))
        }
    }
}

/// The lengths of the sequences in the rows of `x`.
fn ragged(lengths: &Tensor, x: &Matrix<'_>) -> Result<Lengths, Refusal> {
    Ok(Lengths::new(lengths.integers("lengths")?, x.rows as usize)?)
}

/// The inputs called `names`, in that order.
fn take<const N: usize>(inputs: Vec<(String, Tensor)>, names: [&str; N]) -> Result<[Option<Tensor>; N], Refusal> {
    let mut taken = [const { None }; N];
    for (name, tensor) in inputs {
        let slot = names.iter().zip(&mut taken).find(|(known, _)| **known == name).map(|(_, slot)| slot);
        let problem = match slot {
            Some(slot) if slot.is_none() => {
                *slot = Some(tensor);
                continue;
            }
            Some(_) => "is given twice".to_owned(),
            None => format!("is unknown: it takes {}", names.map(|name| format!("`{name}`")).join(" and ")),
        };
        let name: String = name.chars().take(64).collect();
        return Err(Refusal::invalid(format!("the input {name:?} {problem}")));
    }
    Ok(taken)
}

fn needed(name: &str, input: Option<Tensor>) -> Result<Tensor, Refusal> {
    input.ok_or_else(|| Refusal::invalid(format!("the input `{name}` is missing")))
}
