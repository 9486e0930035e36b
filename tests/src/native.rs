//! The blocks of a BERT-family package as direct calls of the host's operations, without WebAssembly.
//!
//! It shows what the component costs (`make bench`) and that it computes nothing else (the same bytes).

use ostrakon_nn::{Graph, Host, Meter, NnError, Tensor};
use ostrakon_package::{Manifest, manifest::Block};
use std::sync::Arc;

/// A package's blocks, their layers looked up once.
pub struct NativeBert {
    host: Arc<Host>,
    meter: Meter,
    blocks: Vec<NativeBlock>,
}

enum NativeBlock {
    Embeddings { words: Graph, positions: Graph, norm: Graph },
    Encoder { heads: u32, qkv: Graph, output: Graph, attention_norm: Graph, up: Graph, down: Graph, norm: Graph },
    Pooling,
}

impl NativeBert {
    /// Look up the layers of every block.
    ///
    /// # Errors
    /// A block of another kind, a layer that cannot be had.
    pub fn open(host: Arc<Host>, manifest: &Manifest) -> Result<Self, NnError> {
        let blocks = manifest.blocks.iter().map(|block| open(&host, block)).collect::<Result<_, _>>()?;
        Ok(Self { host, meter: Meter::unlimited(), blocks })
    }

    /// Token ids [T] and lengths [B] to embeddings [B, width].
    ///
    /// # Errors
    /// Whatever an operation refuses.
    pub fn forward(&self, ids: Tensor, lengths: &Tensor) -> Result<Tensor, NnError> {
        self.blocks.iter().try_fold(ids, |x, block| self.block(block, x, lengths))
    }

    fn block(&self, block: &NativeBlock, x: Tensor, lengths: &Tensor) -> Result<Tensor, NnError> {
        let (host, meter) = (&self.host, &self.meter);
        match block {
            NativeBlock::Embeddings { words, positions, norm } => {
                let places = lengths.as_i32()?.iter().flat_map(|&length| 0..length).collect();
                let places = Tensor::from_i32(x.dims().to_vec(), places)?;
                let words = self.layer(words, vec![("ids", x)])?;
                let positions = self.layer(positions, vec![("ids", places)])?;
                self.layer(norm, vec![("x", words), ("residual", positions)])
            }
            NativeBlock::Encoder { heads, qkv, output, attention_norm, up, down, norm } => {
                let projected = self.layer(qkv, vec![("x", x.clone())])?;
                let attended = host.attention(meter, &projected, lengths, *heads)?;
                let mixed = self.layer(output, vec![("x", attended)])?;
                let x = self.layer(attention_norm, vec![("x", mixed), ("residual", x)])?;
                let hidden = host.gelu(meter, &self.layer(up, vec![("x", x.clone())])?)?;
                let narrow = self.layer(down, vec![("x", hidden)])?;
                self.layer(norm, vec![("x", narrow), ("residual", x)])
            }
            NativeBlock::Pooling => host.l2_normalise(meter, &host.mean_pool(meter, &x, lengths)?),
        }
    }

    fn layer(&self, graph: &Graph, inputs: Vec<(&str, Tensor)>) -> Result<Tensor, NnError> {
        let inputs = inputs.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        let mut outputs = self.host.compute(&self.meter, graph, inputs)?;
        outputs.pop().map(|(_, y)| y).ok_or_else(|| NnError::Runtime("a layer without an output".to_owned()))
    }
}

fn open(host: &Host, block: &Block) -> Result<NativeBlock, NnError> {
    let layer = |name: &str| host.graph(&format!("{}.{name}", block.name));
    let setting = |key: &str| block.settings.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    match setting("kind") {
        Some("embeddings") => {
            Ok(NativeBlock::Embeddings { words: layer("words")?, positions: layer("positions")?, norm: layer("norm")? })
        }
        Some("encoder") => Ok(NativeBlock::Encoder {
            heads: setting("heads").and_then(|heads| heads.parse().ok()).unwrap_or(0),
            qkv: layer("attention.qkv")?,
            output: layer("attention.output")?,
            attention_norm: layer("attention.norm")?,
            up: layer("feed-forward.up")?,
            down: layer("feed-forward.down")?,
            norm: layer("feed-forward.norm")?,
        }),
        Some("pooling") if setting("pool") == Some("mean") && setting("normalise") == Some("true") => {
            Ok(NativeBlock::Pooling)
        }
        other => Err(NnError::Unsupported(format!("block `{}` of kind {other:?}", block.name))),
    }
}
