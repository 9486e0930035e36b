//! The operations of a [`Host`]: shapes and types checked, results charged, bytes exact.
//!
//! Each follows the same steps: check every input against the operation, charge the caller's meter for
//! the result and only then allocate it, let the executor compute, or the backend's device if it has one, hand the
//! tensor over with its charge.
//! The doc comments of `ostrakon_exact::reference` and of the WIT define what is computed.

use crate::device::{Attending, Device, Made};
use crate::graph::Operation;
use crate::past::{rows_of, stretches};
use crate::tensor::Output;
use crate::{Graph, Host, Meter, NnError, OperationKind, Tensor, TensorType};
use ostrakon_exact::layer::MAX_WIDTH;
use ostrakon_exact::reference::MAX_HEAD_WIDTH;
use ostrakon_exact::simd::{LinearError, Product};
use ostrakon_exact::{Embedding, LayerNorm, Lengths, Linear, RmsNorm, Rotary};

/// The name of every graph's output.
pub const OUTPUT: &str = "y";

impl Host {
    /// Run a layer: the `compute` of wasi-nn.
    ///
    /// | kind | inputs | output |
    /// |---|---|---|
    /// | linear | `x` FP32 [R, K] | `y` FP32 [R, N] |
    /// | embedding | `ids` I32 `[R]` | `y` FP32 [R, H] |
    /// | layer-norm | `x` and optionally `residual`, FP32 [R, H] | `y` FP32 [R, H] |
    /// | rms-norm | `x` FP32 [R, H] | `y` FP32 [R, H] |
    /// | rotary | `x` FP32 [R, W], `positions` I32 `[R]` | `y` FP32 [R, W] |
    /// | a graph in floating point | as [`Graph::inputs`] | as [`Graph::outputs`] |
    ///
    /// An observer is not told of graphs in floating point: nobody could check them.
    ///
    /// # Errors
    /// [`NnError::InvalidArgument`] for inputs that are missing, unknown, repeated or of the wrong shape
    /// or type, and for ids and positions outside the table; [`NnError::TooLarge`] when the caller's quota does not
    /// leave room for the result; [`NnError::Runtime`] when the backend fails.
    pub fn compute(
        &self,
        meter: &Meter,
        graph: &Graph,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Tensor)>, NnError> {
        if let Operation::Float(float) = graph.operation() {
            return float.compute(meter, inputs).map_err(|error| error.before(&format!("graph `{}`: ", graph.name())));
        }
        // Handles, not bytes; and none where nobody looks.
        let seen = if self.is_observed() { inputs.clone() } else { Vec::new() };
        let y = match graph.operation() {
            Operation::Linear { layer, product } => {
                let [x] = take(graph, inputs, ["x"])?;
                self.linear(meter, graph, layer, product.as_ref(), &needed(graph, "x", x)?)?
            }
            Operation::Embedding(layer) => {
                let [ids] = take(graph, inputs, ["ids"])?;
                self.embedding(meter, graph, layer, &needed(graph, "ids", ids)?)?
            }
            Operation::LayerNorm(layer) => {
                let [x, residual] = take(graph, inputs, ["x", "residual"])?;
                self.layer_norm(meter, graph, layer, &needed(graph, "x", x)?, residual.as_ref())?
            }
            Operation::RmsNorm(layer) => {
                let [x] = take(graph, inputs, ["x"])?;
                self.rms_norm(meter, graph, layer, &needed(graph, "x", x)?)?
            }
            Operation::Rotary(layer) => {
                let [x, positions] = take(graph, inputs, ["x", "positions"])?;
                let x = needed(graph, "x", x)?;
                self.rotary(meter, graph, layer, &x, &needed(graph, "positions", positions)?)?
            }
            // Done above.
            Operation::Float(_) => return Err(NnError::Unknown("the graph is no layer".to_owned())),
        };
        let seen: Vec<(&str, &Tensor)> = seen.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let y = self.done(|| OperationKind::Layer(graph.name().to_owned()), &seen, y)?;
        Ok(vec![(OUTPUT.to_owned(), y)])
    }

    /// A result of this shape, computed where tensors are: on the backend's device or here. Where there are no elements
    /// nothing is computed.
    pub(crate) fn result(
        &self,
        meter: &Meter,
        dims: Vec<u32>,
        on_device: impl FnOnce(&dyn Device) -> Made,
        here: impl FnOnce(&mut [f32]) -> Result<(), NnError>,
    ) -> Result<Tensor, NnError> {
        match self.backend().device().filter(|_| !dims.contains(&0)) {
            Some(device) => Tensor::computed_on_device(meter, dims, || on_device(device)),
            None => {
                let mut y = Output::new(meter, dims)?;
                here(y.values())?;
                Ok(y.finish())
            }
        }
    }

    fn linear(
        &self,
        meter: &Meter,
        graph: &Graph,
        layer: &Linear,
        product: &dyn Product,
        x: &Tensor,
    ) -> Result<Tensor, NnError> {
        let x = Matrix::of_width("x", x, layer.inputs).map_err(|error| within(graph, error))?;
        let here = |y: &mut [f32]| {
            if x.rows == 0 {
                return Ok(());
            }
            self.executor.linear(layer, product, x.values()?, x.rows as usize, y).map_err(|error| match error {
                LinearError::Shape(shape) => shape.into(),
                LinearError::Product(error) => NnError::Runtime(error.to_string()),
            })
        };
        self.result(meter, vec![x.rows, columns(layer.outputs)?], |device| device.linear(product, x.tensor), here)
            .map_err(|error| within(graph, error))
    }

    fn embedding(&self, meter: &Meter, graph: &Graph, layer: &Embedding, ids: &Tensor) -> Result<Tensor, NnError> {
        let numbers = vector_of_i32("ids", ids).map_err(|error| within(graph, error))?;
        let shape = vec![columns(numbers.len())?, columns(layer.width)?];
        let on_device = |_: &dyn Device| {
            layer.expect(numbers)?;
            graph.on_device()?.run(ids, None)
        };
        self.result(meter, shape, on_device, |y| Ok(self.executor.embedding(layer, numbers, y)?))
            .map_err(|error| within(graph, error))
    }

    fn layer_norm(
        &self,
        meter: &Meter,
        graph: &Graph,
        layer: &LayerNorm,
        x: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor, NnError> {
        let width = layer.gain.len();
        let x = Matrix::of_width("x", x, width).map_err(|error| within(graph, error))?;
        let residual = residual
            .map(|residual| Matrix::of_width("residual", residual, width))
            .transpose()
            .map_err(|error| within(graph, error))?;
        if let Some(residual) = residual.as_ref().filter(|residual| residual.rows != x.rows) {
            let text = format!("`residual` has {} rows but `x` has {}", residual.rows, x.rows);
            return Err(within(graph, NnError::InvalidArgument(text)));
        }
        let on_device = |_: &dyn Device| graph.on_device()?.run(x.tensor, residual.as_ref().map(|r| r.tensor));
        let here = |y: &mut [f32]| {
            let residual = residual.as_ref().map(Matrix::values).transpose()?;
            Ok(self.executor.layer_norm(layer, x.values()?, residual, x.rows as usize, y)?)
        };
        self.result(meter, vec![x.rows, x.width], on_device, here).map_err(|error| within(graph, error))
    }

    fn rms_norm(&self, meter: &Meter, graph: &Graph, layer: &RmsNorm, x: &Tensor) -> Result<Tensor, NnError> {
        let x = Matrix::of_width("x", x, layer.gain.len()).map_err(|error| within(graph, error))?;
        let on_device = |_: &dyn Device| graph.on_device()?.run(x.tensor, None);
        let here = |y: &mut [f32]| Ok(self.executor.rms_norm(layer, x.values()?, x.rows as usize, y)?);
        self.result(meter, vec![x.rows, x.width], on_device, here).map_err(|error| within(graph, error))
    }

    fn rotary(
        &self,
        meter: &Meter,
        graph: &Graph,
        layer: &Rotary,
        x: &Tensor,
        positions: &Tensor,
    ) -> Result<Tensor, NnError> {
        let x = Matrix::new("x", x).map_err(|error| within(graph, error))?;
        let numbers = vector_of_i32("positions", positions).map_err(|error| within(graph, error))?;
        let needed = layer.heads.saturating_mul(layer.width);
        if (x.width as usize) < needed || numbers.len() != x.rows as usize {
            let text = format!(
                "`x` has the shape [{}, {}] and there are {} `positions`: needs one for each row, and {needed} columns \
                 at least",
                x.rows,
                x.width,
                numbers.len()
            );
            return Err(within(graph, NnError::InvalidArgument(text)));
        }
        let on_device = |_: &dyn Device| {
            layer.expect(numbers)?;
            graph.on_device()?.run(x.tensor, Some(positions))
        };
        let here = |y: &mut [f32]| Ok(self.executor.rotary(layer, x.values()?, numbers, x.width as usize, y)?);
        self.result(meter, vec![x.rows, x.width], on_device, here).map_err(|error| within(graph, error))
    }

    /// `a + b`, element by element.
    ///
    /// # Errors
    /// Tensors that are not FP32 or whose shapes differ; the caller's quota.
    pub fn add(&self, meter: &Meter, a: &Tensor, b: &Tensor) -> Result<Tensor, NnError> {
        expect_floats("a", a)?;
        expect_floats("b", b)?;
        if a.dims() != b.dims() {
            return Err(NnError::InvalidArgument(format!(
                "`a` has the shape {:?} and `b` {:?}: both must have the same",
                a.dims(),
                b.dims()
            )));
        }
        let here = |y: &mut [f32]| Ok(self.executor.add(a.as_f32()?, b.as_f32()?, y)?);
        let y = self.result(meter, a.dims().to_vec(), |device| device.add(a, b), here)?;
        self.done(|| OperationKind::Add, &[("a", a), ("b", b)], y)
    }

    /// GELU of each element.
    ///
    /// # Errors
    /// A tensor that is not FP32; the caller's quota.
    pub fn gelu(&self, meter: &Meter, x: &Tensor) -> Result<Tensor, NnError> {
        expect_floats("x", x)?;
        let here = |y: &mut [f32]| Ok(self.executor.gelu(x.as_f32()?, y)?);
        let y = self.result(meter, x.dims().to_vec(), |device| device.gelu(x), here)?;
        self.done(|| OperationKind::Gelu, &[("x", x)], y)
    }

    /// `silu(gate) * up`, where `x` has the columns of `gate`, then those of `up`.
    ///
    /// # Errors
    /// `x` that is not FP32 [R, 2 * width]; the caller's quota.
    pub fn swiglu(&self, meter: &Meter, x: &Tensor) -> Result<Tensor, NnError> {
        let matrix = Matrix::new("x", x)?;
        if !matrix.width.is_multiple_of(2) {
            return Err(NnError::InvalidArgument(format!(
                "`x` has {} columns: gates and as many values to let through make an even number",
                matrix.width
            )));
        }
        let width = matrix.width as usize / 2;
        let here = |y: &mut [f32]| Ok(self.executor.swiglu(matrix.values()?, matrix.rows as usize, width, y)?);
        let shape = vec![matrix.rows, matrix.width / 2];
        let y = self.result(meter, shape, |device| device.swiglu(x, width), here)?;
        self.done(|| OperationKind::Swiglu, &[("x", x)], y)
    }

    /// Multi-head attention inside each sequence.
    ///
    /// # Errors
    /// `qkv` that is not FP32 [T, 3 * width], `lengths` that are not I32 `[B]`, each at least 1, with the
    /// sum T, heads that do not share the width equally or are over 128 wide; the caller's quota;
    /// [`NnError::Runtime`] when a backend that does the products fails.
    pub fn attention(&self, meter: &Meter, qkv: &Tensor, lengths: &Tensor, heads: u32) -> Result<Tensor, NnError> {
        let matrix = Matrix::new("qkv", qkv)?;
        if matrix.width % 3 != 0 {
            return Err(NnError::InvalidArgument(format!(
                "`qkv` has {} columns: queries, keys and values side by side make a multiple of 3",
                matrix.width
            )));
        }
        let width = matrix.width / 3;
        let d = width.checked_div(heads).filter(|d| d * heads == width);
        if !d.is_some_and(|d| (1..=MAX_HEAD_WIDTH).contains(&(d as usize))) {
            return Err(NnError::InvalidArgument(format!(
                "{heads} heads cannot share {width} columns: equal heads of 1 to {MAX_HEAD_WIDTH} columns"
            )));
        }
        let sequences = ragged(lengths, &matrix)?;
        let shape = vec![matrix.rows, width];
        let (width, count) = (width as usize, heads as usize);
        let here = |y: &mut [f32]| match self.backend().attention() {
            None => Ok(self.executor.attention(matrix.values()?, &sequences, width, count, y)?),
            Some(products) => {
                let done = self.executor.attention_with(matrix.values()?, &sequences, width, count, products, y);
                done.map_err(|error| match error {
                    LinearError::Shape(shape) => NnError::from(shape),
                    LinearError::Product(error) => NnError::Runtime(format!("attention: {error}")),
                })
            }
        };
        let how = Attending { lengths: &sequences, heads: count, kv_heads: count, width: width / count, causal: false };
        let y = self.result(meter, shape, |device| device.attention(qkv, how, &mut []), here)?;
        self.done(|| OperationKind::Attention(heads), &[("qkv", qkv), ("lengths", lengths)], y)
    }

    /// The mean of each sequence's rows.
    ///
    /// # Errors
    /// `x` that is not FP32 [T, width], `lengths` that are not I32 `[B]`, each at least 1, with the sum T;
    /// the caller's quota.
    pub fn mean_pool(&self, meter: &Meter, x: &Tensor, lengths: &Tensor) -> Result<Tensor, NnError> {
        let matrix = Matrix::new("x", x)?;
        let sequences = ragged(lengths, &matrix)?;
        let (shape, width) = (vec![columns(sequences.sequences())?, matrix.width], matrix.width as usize);
        let here = |y: &mut [f32]| Ok(self.executor.mean_pool(matrix.values()?, &sequences, width, y)?);
        let y = self.result(meter, shape, |device| device.mean_pool(x, &sequences, width), here)?;
        self.done(|| OperationKind::MeanPool, &[("x", x), ("lengths", lengths)], y)
    }

    /// The first row of each sequence.
    ///
    /// # Errors
    /// As [`Host::mean_pool`].
    pub fn first_pool(&self, meter: &Meter, x: &Tensor, lengths: &Tensor) -> Result<Tensor, NnError> {
        let matrix = Matrix::new("x", x)?;
        let sequences = ragged(lengths, &matrix)?;
        let (shape, width) = (vec![columns(sequences.sequences())?, matrix.width], matrix.width as usize);
        let on_device = |device: &dyn Device| {
            let first: Vec<usize> = ends(&sequences).zip(sequences.iter()).map(|(end, rows)| end - rows).collect();
            device.gather(x, &first, width)
        };
        let here = |y: &mut [f32]| Ok(self.executor.first_pool(matrix.values()?, &sequences, width, y)?);
        let y = self.result(meter, shape, on_device, here)?;
        self.done(|| OperationKind::FirstPool, &[("x", x), ("lengths", lengths)], y)
    }

    /// The last rows of each sequence, as many as its `lengths` want.
    ///
    /// # Errors
    /// `x` that is not FP32 [T, width], `lengths` that are not I32 [B], [B, 2] or [B, 3], each at least 1, with the sum
    /// T, more rows wanted than there are; the caller's quota.
    pub fn last_rows(&self, meter: &Meter, x: &Tensor, lengths: &Tensor) -> Result<Tensor, NnError> {
        let matrix = Matrix::new("x", x)?;
        let stretches = stretches(lengths)?;
        let sequences = rows_of(&stretches, &matrix)?;
        let wanted: Vec<usize> = stretches.iter().map(|stretch| stretch.wanted).collect();
        let (shape, width) = (vec![columns(wanted.iter().sum())?, matrix.width], matrix.width as usize);
        let on_device = |device: &dyn Device| {
            let last: Vec<usize> =
                ends(&sequences).zip(&wanted).flat_map(|(end, wanted)| end.saturating_sub(*wanted)..end).collect();
            device.gather(x, &last, width)
        };
        let here = |y: &mut [f32]| Ok(self.executor.last_rows(matrix.values()?, &sequences, &wanted, width, y)?);
        let y = self.result(meter, shape, on_device, here)?;
        self.done(|| OperationKind::LastRows, &[("x", x), ("lengths", lengths)], y)
    }

    /// Each row divided by its Euclidean length.
    ///
    /// # Errors
    /// `x` that is not FP32 [R, width] or is over 66,000 wide, beyond which its integer sums could
    /// overflow; the caller's quota.
    pub fn l2_normalise(&self, meter: &Meter, x: &Tensor) -> Result<Tensor, NnError> {
        let matrix = Matrix::new("x", x)?;
        if matrix.width as usize > MAX_WIDTH {
            return Err(NnError::InvalidArgument(format!("`x` has {} columns: at most {MAX_WIDTH}", matrix.width)));
        }
        let width = matrix.width as usize;
        let here = |y: &mut [f32]| Ok(self.executor.l2_normalise(matrix.values()?, matrix.rows as usize, width, y)?);
        let shape = vec![matrix.rows, matrix.width];
        let y = self.result(meter, shape, |device| device.l2_normalise(x, width), here)?;
        self.done(|| OperationKind::L2Normalise, &[("x", x)], y)
    }
}

/// An FP32 tensor of two dimensions.
pub(crate) struct Matrix<'a> {
    pub(crate) tensor: &'a Tensor,
    pub(crate) rows: u32,
    pub(crate) width: u32,
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(what: &str, tensor: &'a Tensor) -> Result<Self, NnError> {
        expect_floats(what, tensor)?;
        match tensor.dims() {
            &[rows, width] => Ok(Self { tensor, rows, width }),
            other => Err(NnError::InvalidArgument(format!(
                "`{what}` has the shape {other:?}: two dimensions, [rows, columns], are needed"
            ))),
        }
    }

    /// Its elements, on the host.
    pub(crate) fn values(&self) -> Result<&'a [f32], NnError> {
        self.tensor.as_f32()
    }

    fn of_width(what: &str, tensor: &'a Tensor, width: usize) -> Result<Self, NnError> {
        let matrix = Self::new(what, tensor)?;
        if matrix.width as usize == width {
            Ok(matrix)
        } else {
            Err(NnError::InvalidArgument(format!(
                "`{what}` has {} columns but the layer takes {width}: its shape is {:?}",
                matrix.width,
                tensor.dims()
            )))
        }
    }
}

fn expect_floats(what: &str, tensor: &Tensor) -> Result<(), NnError> {
    if tensor.ty() == TensorType::Fp32 { Ok(()) } else { Err(wrong_type(what, tensor, TensorType::Fp32)) }
}

/// The row after the last one of each sequence.
fn ends(sequences: &Lengths) -> impl Iterator<Item = usize> + '_ {
    sequences.iter().scan(0usize, |end, rows| {
        *end = end.saturating_add(rows);
        Some(*end)
    })
}

fn vector_of_i32<'a>(what: &str, tensor: &'a Tensor) -> Result<&'a [i32], NnError> {
    let values = tensor.as_i32().map_err(|_| wrong_type(what, tensor, TensorType::I32))?;
    match tensor.dims() {
        [_] => Ok(values),
        other => Err(NnError::InvalidArgument(format!("`{what}` has the shape {other:?}: one dimension is needed"))),
    }
}

pub(crate) fn wrong_type(what: &str, tensor: &Tensor, wanted: TensorType) -> NnError {
    NnError::InvalidArgument(format!("`{what}` is of {}: {wanted} is needed", tensor.ty()))
}

/// The lengths of the sequences in the rows of `x`.
fn ragged(lengths: &Tensor, x: &Matrix<'_>) -> Result<Lengths, NnError> {
    let lengths = vector_of_i32("lengths", lengths)?;
    Ok(Lengths::new(lengths, x.rows as usize)?)
}

/// A dimension from a count that came from a tensor or a validated layer.
fn columns(count: usize) -> Result<u32, NnError> {
    u32::try_from(count).map_err(|_| NnError::InvalidArgument(format!("{count} is larger than any dimension")))
}

/// The inputs called `names`, in that order.
fn take<const N: usize>(
    graph: &Graph,
    inputs: Vec<(String, Tensor)>,
    names: [&str; N],
) -> Result<[Option<Tensor>; N], NnError> {
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
        return Err(within(graph, NnError::InvalidArgument(format!("the input {name:?} {problem}"))));
    }
    Ok(taken)
}

fn needed(graph: &Graph, name: &str, input: Option<Tensor>) -> Result<Tensor, NnError> {
    input.ok_or_else(|| within(graph, NnError::InvalidArgument(format!("the input `{name}` is missing"))))
}

/// Say which layer the error is about.
fn within(graph: &Graph, error: NnError) -> NnError {
    let named = format!("layer `{}`: {}", graph.name(), error.text());
    match error {
        NnError::InvalidArgument(_) => NnError::InvalidArgument(named),
        NnError::Runtime(_) => NnError::Runtime(named),
        other => other,
    }
}
