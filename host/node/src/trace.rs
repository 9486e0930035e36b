//! Traces on demand: a block is run again, and every operation that it asks of its host is noted.
//!
//! # How
//!
//! 1. The request is run up to the block. Every block's output is compared with the receipt: a node that
//!    cannot reproduce what it signed hears it here, not from a referee.
//! 2. The block is run with an observer on its host ([`ostrakon_nn::Observer`]).
//! 3. The digests of its operations are signed by this node, which must be the one that ran the block. Beside
//!    them go the block's input and the operands, each once (see [`ostrakon_protocol::trace_file`]).

use crate::error::NodeError;
use crate::native;
use crate::private_file::PrivateFile;
use crate::progress::{Event, Watcher};
use crate::receipt::{element_code, tensor_digest};
use crate::replay::{self, Reached, Rerun, Start};
use ostrakon_nn::{Observer, OperationKind, Tensor};
use ostrakon_protocol::{Batch, Digest, Operation, PublicKey, SignedTrace, Step, StoredTensor, Trace, TraceFile};
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most operations of one block, and most bytes of their results: a component's quotas do not bind what is kept
/// of it here.
const MAX_OPERATIONS: usize = 1 << 16;
const MAX_BYTES: usize = 4 << 30;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The block's name.
    pub block: String,
    /// How many operations it is made of.
    pub operations: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Run a request again, up to `block` (its name, or its place counted from 0) on `batch`, and write the trace of that
/// block to `out`.
///
/// # Errors
/// The receipt is without its request, has no such block or names another node than this one for it; the package
/// is another one; the run does not give what the receipt says; the file cannot be written.
pub fn write(rerun: &Rerun, batch: u32, block: &str, out: &Path, watch: Watcher<'_>) -> Result<Written, NodeError> {
    let receipt = &rerun.signed.receipt;
    let request = replay::request(&rerun.signed)?;
    let out = PrivateFile::at(out)?;
    let claimed = replay::claimed(receipt, batch)?;
    let (index, node, step) = place(claimed, block).ok_or_else(|| {
        NodeError::Setting(format!(
            "the receipt has no block {block:?} on batch {batch}: give a name such as blocks.0, or its place counted from 0"
        ))
    })?;
    rerun.expect_own(node, &step.block)?;
    watch(Event::Step("opening the package".into()));
    let recorder = Arc::new(Recorder::default());
    let observer = Arc::clone(&recorder) as Arc<dyn Observer>;
    let backend = |executor: &_| native::start(rerun.options.arithmetic, executor, &rerun.home);
    let mut model = rerun.load(backend, Some(observer))?;
    watch(Event::Step(format!("running up to {}", step.block)));
    let start = Start::of(&model, receipt, request, batch)?;
    let input = match replay::run(&mut model, claimed, &start, index)? {
        Reached::There(input) => input,
        Reached::Differs { index, got } => {
            let before = claimed.steps().nth(index).map_or(step, |(_, step)| step);
            return Err(replay::not_reproduced(batch, before, got));
        }
    };
    recorder.begin();
    let output = model.run_block(index, input.clone(), &start.lengths)?.output;
    let seen = recorder.end()?;
    let got = tensor_digest(&output);
    if got != step.output {
        return Err(replay::not_reproduced(batch, step, got));
    }
    let mut tensors = Tensors::default();
    tensors.keep(&input);
    tensors.keep(&start.lengths);
    let operations: Vec<Operation> = seen.iter().map(|seen| seen.digests(&mut tensors)).collect();
    let trace = Trace { receipt: receipt.digest(), batch, block: step.block.clone(), operations };
    let operations = trace.operations.len();
    let file = TraceFile { signed: SignedTrace::sign(&rerun.key, trace), tensors: tensors.list() };
    let bytes = out.write(|to| {
        to.write_all(&file.head())?;
        tensors.tensors.iter().try_for_each(|(_, tensor)| to.write_all(&tensor.bytes()))
    })?;
    Ok(Written { block: step.block.clone(), operations, bytes })
}

/// The block of this name, or at this place, with the node that ran it.
fn place<'a>(batch: &'a Batch, block: &str) -> Option<(usize, PublicKey, &'a Step)> {
    let named = batch.steps().position(|(_, step)| step.block == block);
    let index = named.or_else(|| block.parse().ok())?;
    batch.steps().nth(index).map(|(node, step)| (index, node, step))
}

/// Notes operations between [`begin`](Recorder::begin) and [`end`](Recorder::end).
#[derive(Default)]
struct Recorder(Mutex<Record>);

#[derive(Default)]
struct Record {
    on: bool,
    seen: Vec<Seen>,
    bytes: usize,
    overflown: bool,
}

/// An operation with its tensors.
struct Seen {
    name: String,
    inputs: Vec<(String, Tensor)>,
    output: Tensor,
}

impl Recorder {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        *self.record() = Record { on: true, ..Record::default() };
    }

    fn end(&self) -> Result<Vec<Seen>, NodeError> {
        let record = std::mem::take(&mut *self.record());
        if record.overflown {
            return Err(NodeError::Arithmetic(format!(
                "the block asks for more than {MAX_OPERATIONS} operations or {MAX_BYTES} bytes of results: it is too large to trace"
            )));
        }
        Ok(record.seen)
    }
}

impl Observer for Recorder {
    fn operation(&self, kind: &OperationKind, inputs: &[(&str, &Tensor)], output: &Tensor) {
        let mut record = self.record();
        if !record.on {
            return;
        }
        // Inputs count too: those that the component made are its own.
        let bytes = inputs.iter().fold(output.byte_len(), |sum, (_, input)| sum.saturating_add(input.byte_len()));
        record.bytes = record.bytes.saturating_add(bytes);
        if record.seen.len() >= MAX_OPERATIONS || record.bytes > MAX_BYTES {
            record.overflown = true;
            record.seen.clear();
            record.on = false;
            return;
        }
        // The component must not run out of its quota because somebody looks.
        let inputs = inputs.iter().map(|&(name, tensor)| (name.to_owned(), tensor.clone().uncharged())).collect();
        record.seen.push(Seen { name: kind.to_string(), inputs, output: output.clone().uncharged() });
    }
}

impl Seen {
    fn digests(&self, tensors: &mut Tensors) -> Operation {
        let inputs = self.inputs.iter().map(|(name, tensor)| (name.clone(), tensors.keep(tensor))).collect();
        Operation { name: self.name.clone(), inputs, output: tensors.keep(&self.output) }
    }
}

/// Tensors, each once, in the order in which they came.
#[derive(Default)]
struct Tensors {
    known: HashSet<Digest>,
    tensors: Vec<(Digest, Tensor)>,
}

impl Tensors {
    fn keep(&mut self, tensor: &Tensor) -> Digest {
        let digest = tensor_digest(tensor);
        if self.known.insert(digest) {
            self.tensors.push((digest, tensor.clone()));
        }
        digest
    }

    fn list(&self) -> Vec<StoredTensor> {
        let stored = |(digest, tensor): &(Digest, Tensor)| StoredTensor {
            digest: *digest,
            element: element_code(tensor.ty()),
            dimensions: tensor.dims().to_vec(),
            bytes: tensor.byte_len() as u64,
        };
        self.tensors.iter().map(stored).collect()
    }
}
