//! Operations on tensors that stay on a GPU.

use super::gpu::{Gpu, NULL, blocks, int, launch};
use super::past::{CudaPast, attend};
use super::product::CudaProduct;
use crate::device::{Attending, Device, DeviceLayer, DevicePast, Made, Resident};
use crate::{NnError, Tensor};
use cudarc::driver::CudaSlice;
use ostrakon_exact::simd::Product;
use ostrakon_exact::{Layer, Lengths};
use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;

/// Threads of the kernels on rows and elements.
const THREADS: usize = 256;

/// One GPU as a device.
pub(super) struct CudaDevice {
    gpu: Arc<Gpu>,
}

/// What an operation made, on the GPU.
struct Values {
    gpu: Arc<Gpu>,
    memory: CudaSlice<f32>,
}

impl Resident for Values {
    fn elements(&self) -> usize {
        self.memory.len()
    }

    fn read(&self) -> Result<Vec<f32>, NnError> {
        let mut values = Vec::new();
        let elements = self.memory.len();
        values.try_reserve_exact(elements).map_err(|_| {
            NnError::Runtime(format!("the host has no memory for {elements} elements of a GPU's tensor"))
        })?;
        values.resize(elements, 0.0);
        self.gpu.fetch(&self.memory, &mut values)?;
        Ok(values)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A tensor's elements on the GPU: there already, or brought.
enum Elements<'a> {
    Kept(&'a CudaSlice<f32>),
    Brought(CudaSlice<f32>),
}

impl Deref for Elements<'_> {
    type Target = CudaSlice<f32>;

    fn deref(&self) -> &CudaSlice<f32> {
        match self {
            Self::Kept(memory) => memory,
            Self::Brought(memory) => memory,
        }
    }
}

impl Gpu {
    /// The elements of an FP32 tensor.
    fn elements<'a>(self: &Arc<Self>, tensor: &'a Tensor) -> Result<Elements<'a>, NnError> {
        let kept = tensor.resident().and_then(|resident| resident.as_any().downcast_ref::<Values>());
        match kept.filter(|kept| Arc::ptr_eq(&kept.gpu, self)) {
            Some(kept) => Ok(Elements::Kept(&kept.memory)),
            None => Ok(Elements::Brought(self.bring(tensor.as_f32()?)?)),
        }
    }

    fn made(self: &Arc<Self>, memory: CudaSlice<f32>) -> Made {
        Ok(Box::new(Values { gpu: Arc::clone(self), memory }))
    }
}

impl CudaDevice {
    pub(super) const fn new(gpu: Arc<Gpu>) -> Self {
        Self { gpu }
    }

    pub(super) const fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

/// Blocks of threads for each of so many elements, and the number as kernels take it.
fn each(elements: usize) -> Result<(cudarc::driver::LaunchConfig, i64), NnError> {
    let count = i64::try_from(elements).map_err(|_| NnError::Runtime(format!("{elements} elements are too many")))?;
    Ok((blocks(elements.div_ceil(THREADS), THREADS as u32)?, count))
}

fn rows_of(x: &CudaSlice<f32>, width: usize) -> Result<cudarc::driver::LaunchConfig, NnError> {
    blocks(x.len().checked_div(width).unwrap_or(0), THREADS as u32)
}

impl Device for CudaDevice {
    fn place(&self, layer: &Layer) -> Result<Box<dyn DeviceLayer>, NnError> {
        let gpu = &self.gpu;
        let weights = match layer {
            Layer::Linear(_) => {
                return Err(NnError::Runtime("a linear layer is placed as a product".to_owned()));
            }
            Layer::Embedding(layer) => Weights::Embedding {
                table: gpu.bring(layer.table.as_slice())?,
                scale: gpu.bring(&layer.scale)?,
                width: layer.width,
            },
            Layer::LayerNorm(layer) => Weights::LayerNorm {
                gain: gpu.bring(&layer.gain)?,
                bias: gpu.bring(&layer.bias)?,
                epsilon: layer.epsilon,
            },
            Layer::RmsNorm(layer) => Weights::RmsNorm { gain: gpu.bring(&layer.gain)?, epsilon: layer.epsilon },
            Layer::Rotary(layer) => {
                Weights::Rotary { table: gpu.bring(&layer.table)?, width: layer.width, turned: layer.turned() }
            }
        };
        Ok(Box::new(CudaLayer { gpu: Arc::clone(gpu), weights }))
    }

    fn linear(&self, product: &dyn Product, x: &Tensor) -> Made {
        let product = product.as_any().and_then(|product| product.downcast_ref::<CudaProduct>());
        let product = product.ok_or_else(|| NnError::Runtime("the layer was not prepared by the GPU".to_owned()))?;
        let rows = x.dims().first().map_or(0, |&rows| rows as usize);
        self.gpu.made(product.linear(&*self.gpu.elements(x)?, rows)?)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Made {
        let (a, b) = (self.gpu.elements(a)?, self.gpu.elements(b)?);
        let mut y = self.gpu.room::<f32>(a.len())?;
        let (config, count) = each(a.len())?;
        launch!(&self.gpu, "add", config, &*a, &*b, &count, &mut y);
        self.gpu.made(y)
    }

    fn gelu(&self, x: &Tensor) -> Made {
        let x = self.gpu.elements(x)?;
        let mut y = self.gpu.room::<f32>(x.len())?;
        let (config, count) = each(x.len())?;
        launch!(&self.gpu, "gelu", config, &*x, &count, &mut y);
        self.gpu.made(y)
    }

    fn swiglu(&self, x: &Tensor, width: usize) -> Made {
        let x = self.gpu.elements(x)?;
        let mut y = self.gpu.room::<f32>(x.len() / 2)?;
        let (config, count) = each(x.len() / 2)?;
        launch!(&self.gpu, "swiglu", config, &*x, &count, &int(width)?, &mut y);
        self.gpu.made(y)
    }

    fn l2_normalise(&self, x: &Tensor, width: usize) -> Made {
        let x = self.gpu.elements(x)?;
        let mut y = self.gpu.room::<f32>(x.len())?;
        launch!(&self.gpu, "l2_normalise", rows_of(&x, width)?, &*x, &int(width)?, &mut y);
        self.gpu.made(y)
    }

    fn mean_pool(&self, x: &Tensor, lengths: &Lengths, width: usize) -> Made {
        let x = self.gpu.elements(x)?;
        let mut starts = vec![0i64];
        let mut row = 0;
        starts.extend(lengths.iter().map(|length| {
            row += length as i64;
            row
        }));
        let starts = self.gpu.bring(&starts)?;
        let mut y = self.gpu.room::<f32>(lengths.sequences().saturating_mul(width))?;
        let config = blocks(lengths.sequences(), THREADS as u32)?;
        launch!(&self.gpu, "mean_pool", config, &*x, &starts, &int(width)?, &mut y);
        self.gpu.made(y)
    }

    fn gather(&self, x: &Tensor, rows: &[usize], width: usize) -> Made {
        let x = self.gpu.elements(x)?;
        let from: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let from = self.gpu.bring(&from)?;
        let elements = rows.len().saturating_mul(width);
        let mut y = self.gpu.room::<f32>(elements)?;
        let (config, count) = each(elements)?;
        launch!(&self.gpu, "gather", config, &*x, &from, &count, &int(width)?, &mut y);
        self.gpu.made(y)
    }

    fn attention(&self, qkv: &Tensor, how: Attending<'_>, pasts: &mut [&mut dyn DevicePast]) -> Made {
        let qkv = self.gpu.elements(qkv)?;
        self.gpu.made(attend(&self.gpu, &qkv, how, pasts)?)
    }

    fn past(&self, kv_heads: usize, width: usize) -> Box<dyn DevicePast> {
        Box::new(CudaPast::new(&self.gpu, kv_heads, width))
    }
}

/// A layer that is not linear.
struct CudaLayer {
    gpu: Arc<Gpu>,
    weights: Weights,
}

enum Weights {
    Embedding { table: CudaSlice<i8>, scale: CudaSlice<f32>, width: usize },
    LayerNorm { gain: CudaSlice<f32>, bias: CudaSlice<f32>, epsilon: f32 },
    RmsNorm { gain: CudaSlice<f32>, epsilon: f32 },
    Rotary { table: CudaSlice<f32>, width: usize, turned: usize },
}

impl DeviceLayer for CudaLayer {
    fn run(&self, x: &Tensor, second: Option<&Tensor>) -> Made {
        let gpu = &self.gpu;
        if let Weights::Embedding { table, scale, width } = &self.weights {
            let ids = x.as_i32()?;
            let (config, count) = each(ids.len().saturating_mul(*width))?;
            let ids = gpu.bring(ids)?;
            let mut y = gpu.room::<f32>(ids.len().saturating_mul(*width))?;
            launch!(gpu, "embedding", config, table, scale, &ids, &count, &int(*width)?, &mut y);
            return gpu.made(y);
        }
        let columns = x.dims().get(1).map_or(0, |&columns| columns as usize);
        let x = gpu.elements(x)?;
        let mut y = gpu.room::<f32>(x.len())?;
        match &self.weights {
            // Done above.
            Weights::Embedding { .. } => {}
            Weights::LayerNorm { gain, bias, epsilon } => {
                let residual = second.map(|residual| gpu.elements(residual)).transpose()?;
                let (config, columns) = (rows_of(&x, columns)?, int(columns)?);
                let residual = residual.as_deref().map_or(NULL, |residual| gpu.address(residual));
                launch!(gpu, "layer_norm", config, &*x, &residual, gain, bias, epsilon, &columns, &mut y);
            }
            Weights::RmsNorm { gain, epsilon } => {
                launch!(gpu, "rms_norm", rows_of(&x, columns)?, &*x, gain, epsilon, &int(columns)?, &mut y);
            }
            Weights::Rotary { table, width, turned } => {
                let positions = gpu.bring(second.map_or(Ok(&[][..]), Tensor::as_i32)?)?;
                let (config, count) = each(x.len())?;
                let (columns, turned, width) = (int(columns)?, int(*turned)?, int(*width)?);
                launch!(gpu, "rotary", config, table, &positions, &*x, &count, &columns, &turned, &width, &mut y);
            }
        }
        gpu.made(y)
    }
}
