//! Layers: the weights of an operation, validated once, before any arithmetic sees them.
//!
//! A layer arrives as named parts (little-endian arrays with a shape), from a package or, inside the
//! reference component, from the host's `weights` interface. Both build it here, so both refuse the
//! same things.

use crate::ragged::ShapeError;
use alloc::{borrow::ToOwned, boxed::Box, format, string::String, vec::Vec};
use core::fmt;

/// Most columns a layer may have: `255 * 127 * 66_000 < 2^31`, so 32-bit sums never overflow.
pub const MAX_WIDTH: usize = 66_000;
/// Most rows of a weight matrix or an embedding table.
pub const MAX_ROWS: usize = 1 << 24;
/// Largest magnitude of a scale, gain or prescale.
pub const MAX_SCALE: f32 = (1u64 << 30) as f32;
/// Smallest epsilon of a norm: keeps the reciprocal square root below 2^30.
pub const MIN_EPSILON: f32 = 1e-18;
/// Most positions of a rotary table.
pub const MAX_POSITIONS: usize = 1 << 20;
/// Most heads that a rotary layer turns.
pub const MAX_HEADS: usize = 1024;
/// Most columns of a head.
pub const MAX_HEAD_WIDTH: usize = 128;

/// Bytes that a layer keeps without copying: a map of a file, an owned buffer.
pub type SharedBytes = Box<dyn AsRef<[u8]> + Send + Sync>;

/// One array of a layer.
pub struct Part {
    /// Its name inside the layer: `weight`, `scale`, `bias`, `prescale`, `gain`, `epsilon`, `table`, `heads`.
    pub name: String,
    /// Its shape.
    pub dimensions: Vec<usize>,
    /// Little-endian, row-major.
    pub data: SharedBytes,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = (*self.data).as_ref().len();
        write!(f, "part `{}` {:?} of {bytes} bytes", self.name, self.dimensions)
    }
}

/// A layer could not be built from its parts; the text says which part and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerError(pub String);

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for LayerError {}

/// How a linear layer codes its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// 8 bits, asymmetric, one scale and zero point a row.
    U8,
    /// 16 bits likewise; a product is two products of 8-bit limbs.
    U16,
}

impl Activation {
    /// The largest code: 255 or 65535.
    pub const fn max_code(self) -> i32 {
        match self {
            Self::U8 => 255,
            Self::U16 => 65_535,
        }
    }

    /// Its name in a manifest: `u8` or `u16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
        }
    }

    /// The activation with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::U8, Self::U16].into_iter().find(|a| a.name() == name)
    }
}

/// Signed 8-bit codes, one scale a row.
pub struct Codes(SharedBytes);

impl Codes {
    /// Row-major codes.
    #[allow(unsafe_code)]
    pub fn as_slice(&self) -> &[i8] {
        let bytes = (*self.0).as_ref();
        // SAFETY: i8 and u8 have the same size, alignment and validity.
        unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
    }
}

/// `y = dequantise(quantise(x * prescale) . weight^T) + bias`.
pub struct Linear {
    /// Output columns N.
    pub outputs: usize,
    /// Input columns K.
    pub inputs: usize,
    /// [N, K], each in [-127, 127].
    pub weight: Codes,
    /// [N]: what one step of a row's codes is worth.
    pub scale: Vec<f32>,
    /// [N].
    pub bias: Vec<f32>,
    /// [K]: outlier smoothing, undone in the weights when the package was made.
    pub prescale: Option<Vec<f32>>,
    /// [N]: the sum of each row of `weight`.
    pub row_sum: Vec<i32>,
    /// How activations are coded.
    pub activation: Activation,
}

impl Linear {
    /// The layer that has these input columns alone. It fits the weights: columns that are not there are left out.
    #[cfg(feature = "simd")]
    pub(crate) fn columns(&self, columns: core::ops::Range<usize>) -> Self {
        let columns = columns.start.min(self.inputs)..columns.end.min(self.inputs);
        let rows = self.weight.as_slice().chunks_exact(self.inputs.max(1));
        let rows = rows.map(|row| row.get(columns.clone()).unwrap_or(&[]));
        let row_sum = rows.clone().map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
        let weight: Vec<u8> = rows.flatten().map(|&w| w as u8).collect();
        Self {
            outputs: self.outputs,
            inputs: columns.len(),
            weight: Codes(Box::new(weight)),
            scale: self.scale.clone(),
            bias: self.bias.clone(),
            prescale: self.prescale.as_ref().map(|all| all.get(columns).unwrap_or(&[]).to_vec()),
            row_sum,
            activation: self.activation,
        }
    }
}

/// Rows of a table, by id.
pub struct Embedding {
    /// Rows V.
    pub rows: usize,
    /// Columns H.
    pub width: usize,
    /// [V, H].
    pub table: Codes,
    /// [V].
    pub scale: Vec<f32>,
}

impl Embedding {
    /// Whether all ids have a row.
    ///
    /// # Errors
    /// The first one that has none.
    pub fn expect(&self, ids: &[i32]) -> Result<(), ShapeError> {
        match ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= self.rows)) {
            None => Ok(()),
            Some(id) => Err(ShapeError(format!("id {id} is outside the table of {} rows", self.rows))),
        }
    }
}

/// Layer normalisation with gain and bias.
pub struct LayerNorm {
    /// [H].
    pub gain: Vec<f32>,
    /// [H].
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Normalisation by the root of the mean square, with gain.
pub struct RmsNorm {
    /// [H].
    pub gain: Vec<f32>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Pairs of columns turned by an angle that depends on the row's position.
pub struct Rotary {
    /// [P, d]: for each position the cosine and sine of each pair of a head's columns, side by side.
    pub table: Vec<f32>,
    /// Positions P.
    pub positions: usize,
    /// Columns d of a head: even.
    pub width: usize,
    /// How many heads are turned; columns after them are not.
    pub heads: usize,
}

impl Rotary {
    /// The columns that are turned.
    pub const fn turned(&self) -> usize {
        self.heads * self.width
    }

    /// Whether all positions are in the table.
    ///
    /// # Errors
    /// The first one that is not.
    pub fn expect(&self, positions: &[i32]) -> Result<(), ShapeError> {
        positions.iter().try_for_each(|&position| self.angles(position).map(|_| ()))
    }

    /// Cosines and sines of a position, or why there are none.
    pub(crate) fn angles(&self, position: i32) -> Result<&[[f32; 2]], ShapeError> {
        let row = usize::try_from(position)
            .ok()
            .filter(|&p| p < self.positions)
            .and_then(|p| self.table.get(p * self.width..(p + 1) * self.width));
        row.map(|row| row.as_chunks::<2>().0).ok_or_else(|| {
            ShapeError(format!("position {position} is outside the table of {} positions", self.positions))
        })
    }
}

/// A layer of a package: what a wasi-nn graph is made of here.
pub enum Layer {
    /// A matrix product.
    Linear(Linear),
    /// A table look-up.
    Embedding(Embedding),
    /// A norm with weights.
    LayerNorm(LayerNorm),
    /// A norm with weights and without a mean.
    RmsNorm(RmsNorm),
    /// Positions, turned into angles.
    Rotary(Rotary),
}

impl Layer {
    /// Its kind's name in a manifest.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::Embedding(_) => "embedding",
            Self::LayerNorm(_) => "layer-norm",
            Self::RmsNorm(_) => "rms-norm",
            Self::Rotary(_) => "rotary",
        }
    }

    /// Build and validate a layer.
    ///
    /// `kind` is `linear` (parts `weight` I8 [N, K], `scale` F32 [N], optional `bias` F32 [N],
    /// optional `prescale` F32 [K]; `activation` is `u8` or `u16`), `embedding` (`weight` I8 [V, H],
    /// `scale` F32 [V]), `layer-norm` (`gain` F32 [H], `bias` F32 [H], `epsilon` F32 [1]), `rms-norm`
    /// (`gain` F32 [H], `epsilon` F32 [1]) or `rotary` (`table` F32 [P, d], `heads` F32 [1]: an integer).
    ///
    /// # Errors
    /// An unknown kind or activation, a missing, unknown or repeated part, a shape that does not fit
    /// or is out of bounds, a code of -128, a float that is not finite or out of bounds.
    pub fn from_parts(kind: &str, activation: &str, parts: Vec<Part>) -> Result<Self, LayerError> {
        let mut parts = Parts(parts);
        let layer = match kind {
            "linear" => {
                let activation = Activation::from_name(activation)
                    .ok_or_else(|| LayerError(format!("unknown activation `{activation}`: u8 or u16")))?;
                Self::Linear(parts.linear(activation)?)
            }
            "embedding" => Self::Embedding(parts.embedding()?),
            "layer-norm" => Self::LayerNorm(parts.layer_norm()?),
            "rms-norm" => Self::RmsNorm(parts.rms_norm()?),
            "rotary" => Self::Rotary(parts.rotary()?),
            other => {
                let kinds = "linear, embedding, layer-norm, rms-norm or rotary";
                return Err(LayerError(format!("unknown layer kind `{other}`: {kinds}")));
            }
        };
        match parts.0.first() {
            Some(extra) => Err(LayerError(format!("part `{}` is repeated or unknown in a {kind} layer", extra.name))),
            None => Ok(layer),
        }
    }
}

struct Parts(Vec<Part>);

impl Parts {
    fn linear(&mut self, activation: Activation) -> Result<Linear, LayerError> {
        let (weight, outputs, inputs) = self.codes()?;
        let scale = self.floats("scale", &[outputs], MAX_SCALE)?;
        let bias = self.optional_floats("bias", &[outputs], crate::number::LIMIT)?;
        let prescale = self.optional_floats("prescale", &[inputs], MAX_SCALE)?;
        let row_sum =
            weight.as_slice().chunks_exact(inputs).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
        let bias = bias.unwrap_or_else(|| alloc::vec![0.0; outputs]);
        Ok(Linear { outputs, inputs, weight, scale, bias, prescale, row_sum, activation })
    }

    fn embedding(&mut self) -> Result<Embedding, LayerError> {
        let (table, rows, width) = self.codes()?;
        let scale = self.floats("scale", &[rows], MAX_SCALE)?;
        Ok(Embedding { rows, width, table, scale })
    }

    fn layer_norm(&mut self) -> Result<LayerNorm, LayerError> {
        let gain = self.gain()?;
        let bias = self.floats("bias", &[gain.len()], crate::number::LIMIT)?;
        Ok(LayerNorm { gain, bias, epsilon: self.epsilon()? })
    }

    fn rms_norm(&mut self) -> Result<RmsNorm, LayerError> {
        Ok(RmsNorm { gain: self.gain()?, epsilon: self.epsilon()? })
    }

    fn rotary(&mut self) -> Result<Rotary, LayerError> {
        let (positions, width) = match self.peek("table")?.dimensions.as_slice() {
            &[p, d] if (1..=MAX_POSITIONS).contains(&p) && (2..=MAX_HEAD_WIDTH).contains(&d) && d.is_multiple_of(2) => {
                (p, d)
            }
            other => return Err(shape("table", other, "[1..=1048576, an even number of 2..=128]")),
        };
        let table = self.floats("table", &[positions, width], MAX_SCALE)?;
        let given = self.floats("heads", &[1], MAX_HEADS as f32)?.first().copied().unwrap_or(0.0);
        match given as usize {
            heads @ 1..=MAX_HEADS if heads as f32 == given => Ok(Rotary { table, positions, width, heads }),
            _ => Err(LayerError(format!("part `heads` is {given}: an integer of 1 to {MAX_HEADS}"))),
        }
    }

    fn gain(&mut self) -> Result<Vec<f32>, LayerError> {
        match self.peek("gain")?.dimensions.as_slice() {
            &[width] if (1..=MAX_WIDTH).contains(&width) => self.floats("gain", &[width], MAX_SCALE),
            other => Err(shape("gain", other, "[1..=66000]")),
        }
    }

    fn epsilon(&mut self) -> Result<f32, LayerError> {
        let epsilon = self.floats("epsilon", &[1], 1.0)?.first().copied().unwrap_or(0.0);
        if epsilon < MIN_EPSILON {
            return Err(LayerError(format!("part `epsilon` is {epsilon}: at least {MIN_EPSILON}")));
        }
        Ok(epsilon)
    }

    fn peek(&self, name: &str) -> Result<&Part, LayerError> {
        self.0.iter().find(|p| p.name == name).ok_or_else(|| LayerError(format!("part `{name}` is missing")))
    }

    fn take(&mut self, name: &str) -> Option<Part> {
        let at = self.0.iter().position(|p| p.name == name)?;
        Some(self.0.swap_remove(at))
    }

    fn codes(&mut self) -> Result<(Codes, usize, usize), LayerError> {
        let (rows, columns) = match self.peek("weight")?.dimensions.as_slice() {
            &[r, c] if (1..=MAX_ROWS).contains(&r) && (1..=MAX_WIDTH).contains(&c) => (r, c),
            other => return Err(shape("weight", other, "[1..=16777216, 1..=66000]")),
        };
        let part = self.take("weight").ok_or_else(|| LayerError("part `weight` is missing".to_owned()))?;
        let codes = Codes(part.data);
        if rows.checked_mul(columns) != Some(codes.as_slice().len()) {
            return Err(LayerError(format!(
                "part `weight` has {} bytes, its shape [{rows}, {columns}] needs another number",
                codes.as_slice().len()
            )));
        }
        if codes.as_slice().contains(&i8::MIN) {
            return Err(LayerError("part `weight` holds -128: codes lie in [-127, 127]".to_owned()));
        }
        Ok((codes, rows, columns))
    }

    fn floats(&mut self, name: &str, dimensions: &[usize], limit: f32) -> Result<Vec<f32>, LayerError> {
        self.optional_floats(name, dimensions, limit)?.ok_or_else(|| LayerError(format!("part `{name}` is missing")))
    }

    fn optional_floats(
        &mut self,
        name: &str,
        dimensions: &[usize],
        limit: f32,
    ) -> Result<Option<Vec<f32>>, LayerError> {
        let Some(part) = self.take(name) else { return Ok(None) };
        let bytes = (*part.data).as_ref();
        let len = dimensions.iter().try_fold(4usize, |bytes, &n| bytes.checked_mul(n));
        if part.dimensions != dimensions || len != Some(bytes.len()) {
            return Err(shape(
                name,
                &part.dimensions,
                &format!("{dimensions:?} floats of 4 bytes, here {} bytes", bytes.len()),
            ));
        }
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        match values.iter().find(|v| !v.is_finite() || crate::number::magnitude(**v) > limit) {
            Some(bad) => Err(LayerError(format!("part `{name}` holds {bad}: finite and at most {limit} in magnitude"))),
            None => Ok(Some(values)),
        }
    }
}

fn shape(name: &str, got: &[usize], want: &str) -> LayerError {
    LayerError(format!("part `{name}` has shape {got:?}: needs {want}"))
}
