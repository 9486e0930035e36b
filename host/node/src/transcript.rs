//! Transcripts on demand: a request is run again, and the integer products of its blocks are kept.
//!
//! # How
//!
//! 1. The request is run on a backend that records ([`ostrakon_nn::Recorder`]). Every block's output is
//!    compared with the receipt: a node that cannot reproduce what it signed hears it here, not from an
//!    auditor.
//! 2. Input and products of each wanted block go to a temporary file as they are made; this node signs them.
//! 3. The document that speaks of them goes in front (see [`ostrakon_protocol::transcript`]).

use crate::error::{NodeError, file_error};
use crate::execute::{column, inputs, internal};
use crate::load::Model;
use crate::options::RunOptions;
use crate::progress::{Event, Watcher};
use crate::receipt::{element_code, tensor_digest};
use ostrakon_exact::simd::Executor;
use ostrakon_nn::{Backend, BackendError, ProvenBackend, Recorder, Tensor};
use ostrakon_package::{Home, TrustPolicy};
use ostrakon_protocol::{BlockContent, BlockTranscript, Digest, PublicKey, SignedReceipt, SigningKey, Transcript};

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tempfile::NamedTempFile;

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

/// A run that is to be made again by the node that made it.
#[derive(Clone, Copy)]
pub struct Rerun<'a> {
    /// Its receipt, with the request.
    pub signed: &'a SignedReceipt,
    /// The package's directory.
    pub directory: &'a Path,
    /// Whose packages are run.
    pub policy: &'a TrustPolicy,
    /// This user's files.
    pub home: &'a Home,
    /// How blocks are run.
    pub options: &'a RunOptions,
    /// The key that signed the legs.
    pub key: &'a SigningKey,
}

/// Run a request again and write the transcript of the wanted blocks to `out`.
///
/// # Errors
/// The receipt is without its request or its legs were not signed by this key; the package is another one; the
/// run does not give what the receipt says; the file cannot be written.
pub fn write(rerun: &Rerun<'_>, wanted: Blocks<'_>, out: &Path, watch: Watcher<'_>) -> Result<Written, NodeError> {
    let Rerun { signed, directory, policy, home, options, key } = *rerun;
    let receipt = &signed.receipt;
    let texts = match &signed.request {
        Some(request) if request.digest() == receipt.request => &request.texts,
        Some(_) => return Err(NodeError::Setting("the request in the file is not the one of the receipt".into())),
        None => return Err(NodeError::Setting("the receipt is without its request, which must be run again".into())),
    };
    let recorder = OnceLock::new();
    let backend = keeping(&recorder, |executor| Recorder::new(Arc::clone(executor), MAX_PRODUCTS));
    let mut model = Model::load_on(directory, policy, home, options, backend)?;
    if model.digest() != receipt.package {
        return Err(NodeError::Setting(format!(
            "the receipt is of the package {}, this is {}",
            receipt.package,
            model.digest()
        )));
    }
    let recorder = recorder.get().ok_or_else(|| NodeError::Arithmetic("the recorder did not start".into()))?;

    let id = receipt.digest();
    let folder = folder(out);
    let mut payload = BufWriter::new(tempfile::tempfile_in(folder).map_err(file_error("write to", folder))?);
    let mut blocks = Vec::new();
    let tokenised = model.tokens.encode(texts)?;
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
        let steps = batch.legs.iter().flat_map(|leg| leg.steps.iter().map(move |step| (leg.node, step)));
        for (index, (node, step)) in steps.enumerate() {
            let input = x.clone();
            x = model.run_block(index, x, &lengths)?.output;
            let products = recorder.take();
            same(at, &step.block, tensor_digest(&x), step.output)?;
            if wanted(index) {
                expect_own(key, node, &step.block)?;
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
                written.map_err(file_error("write", folder))?;
                blocks.push(content.sign(key, &id));
            }
            done += 1;
            watch(Event::Done { done, total });
        }
    }

    let transcript = Transcript { receipt: id, blocks };
    let bytes = finish(&transcript, payload, out).map_err(file_error("write", out))?;
    Ok(Written { blocks: transcript.blocks.len(), bytes })
}

fn same(batch: u32, block: &str, got: Digest, claimed: Digest) -> Result<(), NodeError> {
    if got == claimed {
        return Ok(());
    }
    Err(NodeError::NotReproduced(format!("block `{block}` of batch {batch} gives {got}, the receipt says {claimed}")))
}

/// Only the node that ran a block can sign what it did.
pub(crate) fn expect_own(key: &SigningKey, node: PublicKey, block: &str) -> Result<(), NodeError> {
    if node == key.public() {
        return Ok(());
    }
    Err(NodeError::Setting(format!(
        "block `{block}` was run by {node}: only that node can answer for it, this one is {}",
        key.public()
    )))
}

fn finish(transcript: &Transcript, payload: BufWriter<File>, out: &Path) -> io::Result<u64> {
    let mut payload = payload.into_inner().map_err(io::IntoInnerError::into_error)?;
    payload.rewind()?;
    // For this user's eyes only, and under its name only when it is whole.
    let mut file = NamedTempFile::new_in(folder(out))?;
    let head = transcript.head();
    file.write_all(&head)?;
    let bytes = head.len() as u64 + io::copy(&mut payload, &mut file)?;
    file.persist(out)?;
    Ok(bytes)
}

/// The directory of a file.
fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The lengths of a batch as a transcript has them.
pub(crate) fn lengths_tensor(block: &BlockTranscript) -> Result<Tensor, NodeError> {
    column(block.lengths.clone()).map_err(|error| internal(&block.block, &error))
}
