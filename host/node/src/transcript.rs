//! Transcripts on demand: a request is run again, and the integer products of its blocks are kept.
//!
//! # How
//!
//! 1. The request is run on a backend that records ([`ostrakon_nn::Recorder`]). Every block's output is
//!    compared with the receipt: a node that cannot reproduce what it signed hears it here, not from an
//!    auditor.
//! 2. Input and products of each wanted block go to a temporary file as they are made; this node signs them.
//! 3. The document that speaks of them goes in front (see [`ostrakon_protocol::transcript`]).

use crate::error::NodeError;
use crate::execute::{column, inputs, internal};
use crate::private_file::PrivateFile;
use crate::progress::{Event, Watcher};
use crate::receipt::{element_code, tensor_digest};
use crate::replay::{self, Rerun};
use ostrakon_exact::simd::Executor;
use ostrakon_nn::{Backend, BackendError, ProvenBackend, Recorder, Tensor};
use ostrakon_protocol::{BlockContent, BlockTranscript, Transcript};
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Most bytes of products of one block on one batch.
const MAX_PRODUCTS: usize = 4 << 30;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Blocks, counted once for each batch.
    pub blocks: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Blocks of a run, by their place in the package, counted from 0.
pub type Blocks<'a> = &'a dyn Fn(usize) -> bool;

/// A backend that was made for this purpose, and a handle of it.
pub(crate) fn keeping<'a, B: Backend + Clone + 'static>(
    slot: &'a OnceLock<B>,
    make: impl FnOnce(&Arc<Executor>) -> B + Send + 'a,
) -> impl FnOnce(&Arc<Executor>) -> Result<ProvenBackend, BackendError> + Send + 'a {
    move |executor| ProvenBackend::new(slot.get_or_init(|| make(executor)).clone())
}

/// Run a request again and write the transcript of the wanted blocks to `out`.
///
/// # Errors
/// The receipt is without its request or its legs were not signed by this key; the package is another one; the
/// run does not give what the receipt says; the file cannot be written.
pub fn write(rerun: &Rerun, wanted: Blocks<'_>, out: &Path, watch: Watcher<'_>) -> Result<Written, NodeError> {
    let receipt = &rerun.signed.receipt;
    let request = replay::request(&rerun.signed)?;
    let out = PrivateFile::at(out)?;
    let recorder = OnceLock::new();
    let backend = keeping(&recorder, |executor| Recorder::new(Arc::clone(executor), MAX_PRODUCTS));
    let mut model = rerun.load(backend, None)?;
    let recorder = recorder.get().ok_or_else(|| NodeError::Arithmetic("the recorder did not start".into()))?;

    let id = receipt.digest();
    let mut payload = BufWriter::new(out.scratch()?);
    let mut blocks = Vec::new();
    let tokenised = model.asked(request)?;
    let mut rest = tokenised.as_slice();
    let total = receipt.steps().count() as u64;
    let mut done = 0;
    for (at, batch) in (0..).zip(&receipt.batches) {
        let (part, after) = rest.split_at_checked(batch.texts as usize).ok_or_else(|| {
            NodeError::NotReproduced(format!("batch {at} has {} texts, which the request has not", batch.texts))
        })?;
        rest = after;
        let (ids, lengths) = inputs(part)?;
        let mut x = ids;
        for (index, (node, step)) in batch.steps().enumerate() {
            let input = x.clone();
            x = model.run_block(index, x, &lengths)?.output;
            let products = recorder.take();
            let got = tensor_digest(&x);
            if got != step.output {
                return Err(replay::not_reproduced(at, step, got));
            }
            if wanted(index) {
                rerun.expect_own(node, &step.block)?;
                let content = BlockContent {
                    batch: at,
                    block: &step.block,
                    element: element_code(input.ty()),
                    dimensions: input.dims(),
                    lengths: lengths.as_i32().unwrap_or_default(),
                    input: &input.bytes(),
                    products: &products,
                };
                let written = payload.write_all(content.input).and_then(|()| payload.write_all(content.products));
                written.map_err(out.failed())?;
                blocks.push(content.sign(&rerun.key, &id));
            }
            done += 1;
            watch(Event::Done { done, total });
        }
    }

    let transcript = Transcript { receipt: id, blocks };
    let mut payload = payload.into_inner().map_err(|error| out.failed()(error.into_error()))?;
    let bytes = out.write(|to| {
        to.write_all(&transcript.head())?;
        payload.rewind()?;
        io::copy(&mut payload, to).map(drop)
    })?;
    Ok(Written { blocks: transcript.blocks.len(), bytes })
}

/// The lengths of a batch of `texts` texts as a transcript has them: one for each, or three.
pub(crate) fn lengths_tensor(block: &BlockTranscript, texts: u32) -> Result<Tensor, NodeError> {
    let lengths = block.lengths.clone();
    let triples = lengths.len() as u64 == 3 * u64::from(texts);
    let tensor = if triples { Tensor::from_i32(vec![texts, 3], lengths) } else { column(lengths) };
    tensor.map_err(|error| internal(&block.block, &error))
}
