//! Nodes for disputes: honest ones, and ones that change a number and compute on from there.

use ostrakon_exact::simd::Level;
use ostrakon_nn::{Meter, OperationKind, Tensor, TensorType};
use ostrakon_node::dispute::{Decision, Finding, decide};
use ostrakon_node::{Model, NodeError, Rerun, RunOptions, TrustPolicy, trace, transcript};
use ostrakon_protocol::{
    Digest, Leg, Operation, SignedReceipt, SignedTrace, SigningKey, StoredTensor, Trace, TraceFile,
};
use ostrakon_tests::packed::{home, load, minilm};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

pub(crate) const TEXTS: [&str; 3] = ["A man is eating food.", "One honest node suffices.", "x"];
pub(crate) const HONEST: u8 = 1;
pub(crate) const CHEATER: u8 = 2;
pub(crate) const OTHER: u8 = 3;

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

pub(crate) fn texts() -> Vec<String> {
    TEXTS.iter().map(|&text| text.to_owned()).collect()
}

/// What all tests share: the referee's model, the honest receipt, the honest traces.
pub(crate) struct Court {
    pub(crate) model: Model,
    pub(crate) honest: SignedReceipt,
    pub(crate) files: tempfile::TempDir,
    traces: HashMap<String, Vec<u8>>,
    count: usize,
}

pub(crate) fn court() -> MutexGuard<'static, Court> {
    static COURT: OnceLock<Mutex<Court>> = OnceLock::new();
    let court = COURT.get_or_init(|| {
        let mut model = load(&minilm(1), &RunOptions::default());
        // Two batches, so that places are not all 0.
        let (_, honest) = model.run_with_receipt(&texts(), Some(2), &|_| {}, &key(HONEST)).unwrap();
        let files = tempfile::tempdir().unwrap();
        Mutex::new(Court { model, honest, files, traces: HashMap::new(), count: 0 })
    });
    court.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The batch that is in dispute.
pub(crate) const BATCH: u32 = 1;

impl Court {
    /// Write a file and say where.
    pub(crate) fn file(&mut self, bytes: &[u8]) -> PathBuf {
        self.count += 1;
        let path = self.files.path().join(self.count.to_string());
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The trace that an honest node makes of a block on the batch in dispute.
    pub(crate) fn honest_trace(&mut self, block: &str) -> Vec<u8> {
        if let Some(known) = self.traces.get(block) {
            return known.clone();
        }
        let out = self.files.path().join(format!("{block}.trace"));
        let written = self.trace(&self.honest, BATCH, block, &out);
        assert_eq!(written.unwrap().block, block);
        let bytes = std::fs::read(&out).unwrap();
        self.traces.insert(block.to_owned(), bytes.clone());
        bytes
    }

    /// The honest node's run, to be made again.
    fn rerun(signed: &SignedReceipt) -> Rerun {
        Rerun {
            signed: signed.clone(),
            directory: minilm(1),
            policy: TrustPolicy { allow_unknown: true, ..TrustPolicy::default() },
            home: home(),
            // Another SIMD level and number of threads than the referee's: it must not matter.
            options: RunOptions { simd: Some(Level::available()[0]), threads: Some(1), ..RunOptions::default() },
            key: key(HONEST),
        }
    }

    /// Write the trace of a block of a run of the honest node.
    pub(crate) fn trace(
        &self,
        signed: &SignedReceipt,
        batch: u32,
        block: &str,
        out: &Path,
    ) -> Result<trace::Written, NodeError> {
        trace::write(&Self::rerun(signed), batch, block, out, &|_| {})
    }

    /// Write the transcript of a run of the honest node.
    pub(crate) fn transcript(&self, signed: &SignedReceipt, out: &Path) -> Result<transcript::Written, NodeError> {
        transcript::write(&Self::rerun(signed), &|_| true, out, &|_| {})
    }

    /// A node that forges operation `at` of a block and computes on from there: its receipt and its trace.
    pub(crate) fn cheat(&mut self, seed: u8, block: &str, at: usize, forge: Forge) -> (SignedReceipt, Vec<u8>) {
        let (mut operations, mut tensors) = parts(&self.honest_trace(block));
        let mut changed: HashMap<Digest, Digest> = HashMap::new();
        for (index, operation) in operations.iter_mut().enumerate().skip(at) {
            if index == at && forge == Forge::Input {
                // The component's own doing: it hands over something that no operation gave.
                let (_, input) = operation.inputs.last_mut().unwrap();
                let forged = forged(&tensors[input], 1.0);
                *input = digest(&forged);
                tensors.insert(*input, forged);
            }
            for (_, input) in &mut operation.inputs {
                *input = changed.get(input).copied().unwrap_or(*input);
            }
            let output = match forge {
                Forge::Output(by) if index == at => forged(&tensors[&operation.output], by),
                Forge::LastBit if index == at => {
                    let output = &tensors[&operation.output];
                    let mut bytes = output.to_bytes();
                    let at = bytes.len() / 8 * 4;
                    bytes[at] ^= 1;
                    Tensor::new(output.dims().to_vec(), output.ty(), bytes).unwrap()
                }
                _ => {
                    let kind: OperationKind = operation.name.parse().unwrap();
                    let inputs = operation.inputs.iter().map(|(n, d)| (n.clone(), tensors[d].clone())).collect();
                    self.model.host().perform(&Meter::unlimited(), &kind, inputs).unwrap()
                }
            };
            let made = digest(&output);
            changed.insert(operation.output, made);
            operation.output = made;
            tensors.insert(made, output);
        }
        let output = operations.last().unwrap().output;
        let receipt = self.receipt_with(seed, block, |step| step.output = output);
        let trace = trace_file(&key(seed), &receipt, block, operations, &tensors);
        (receipt, trace)
    }

    /// The honest receipt, signed by another node after a change to one step. Later steps go on from its output.
    pub(crate) fn receipt_with(
        &self,
        seed: u8,
        block: &str,
        change: impl Fn(&mut ostrakon_protocol::Step),
    ) -> SignedReceipt {
        let mut receipt = self.honest.receipt.clone();
        let steps = &mut receipt.batches[BATCH as usize].legs[0].steps;
        let at = steps.iter().position(|step| step.block == block).unwrap();
        let before = steps[at].output;
        change(&mut steps[at]);
        let mut last = steps[at].output;
        if last != before {
            for (index, step) in steps.iter_mut().enumerate().skip(at + 1) {
                step.input = last;
                last = Digest::of_content(&[seed, index as u8]);
                step.output = last;
            }
        }
        sign(seed, receipt, self.honest.request.clone())
    }

    /// The decision, and that it is the same with the sides exchanged.
    pub(crate) fn decide(
        &mut self,
        a: (&SignedReceipt, Option<&[u8]>),
        b: (&SignedReceipt, Option<&[u8]>),
    ) -> Decision {
        let [trace_a, trace_b] = [a.1, b.1].map(|bytes| bytes.map(|bytes| self.file(bytes)));
        let [path_a, path_b] = [trace_a.as_deref(), trace_b.as_deref()];
        let one = decide(&mut self.model, [a.0, b.0], [path_a, path_b], &|_| {}).unwrap();
        let other = decide(&mut self.model, [b.0, a.0], [path_b, path_a], &|_| {}).unwrap();
        assert_eq!(one.wrong, other.wrong);
        assert_eq!(one.dispute.operation, other.dispute.operation);
        assert_eq!(one.dispute.exact, other.dispute.exact);
        // Whatever happens, never this one.
        assert!(!one.wrong.contains(&key(HONEST).public()), "an honest node was accused: {one:#?}");
        one
    }
}

/// What a cheater does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Forge {
    /// Adds this to one number of an operation's output.
    Output(f32),
    /// Flips the last bit of one number of an operation's output.
    LastBit,
    /// Gives an operation another last input.
    Input,
}

pub(crate) fn sign(
    seed: u8,
    mut receipt: ostrakon_protocol::Receipt,
    request: Option<ostrakon_protocol::Request>,
) -> SignedReceipt {
    for at in 0..receipt.batches.len() {
        let place = receipt.place(at as u32).unwrap();
        let leg = &mut receipt.batches[at].legs[0];
        *leg = Leg::sign(&key(seed), &place, &leg.backend, leg.steps.clone());
    }
    SignedReceipt::sign(&key(seed), receipt, request)
}

/// The operations and tensors of a trace file.
pub(crate) fn parts(file: &[u8]) -> (Vec<Operation>, HashMap<Digest, Tensor>) {
    let (trace, ranges) = TraceFile::read(file).unwrap();
    assert!(trace.signed.is_signed());
    let tensors = trace.tensors.iter().zip(ranges).map(|(stored, range)| {
        let ty = if stored.element == 1 { TensorType::Fp32 } else { TensorType::I32 };
        let tensor = Tensor::new(stored.dimensions.clone(), ty, file[range].to_vec()).unwrap();
        assert_eq!(digest(&tensor), stored.digest);
        (stored.digest, tensor)
    });
    (trace.signed.trace.operations.clone(), tensors.collect())
}

pub(crate) fn trace_file(
    key: &SigningKey,
    receipt: &SignedReceipt,
    block: &str,
    operations: Vec<Operation>,
    tensors: &HashMap<Digest, Tensor>,
) -> Vec<u8> {
    let trace = Trace { receipt: receipt.receipt.digest(), batch: BATCH, block: block.to_owned(), operations };
    let stored = |(&digest, tensor): (&Digest, &Tensor)| StoredTensor {
        digest,
        element: element(tensor),
        dimensions: tensor.dims().to_vec(),
        bytes: tensor.byte_len() as u64,
    };
    let file = TraceFile { signed: SignedTrace::sign(key, trace), tensors: tensors.iter().map(stored).collect() };
    let mut bytes = file.head();
    for tensor in tensors.values() {
        bytes.extend(tensor.to_bytes());
    }
    bytes
}

fn element(tensor: &Tensor) -> u8 {
    if tensor.ty() == TensorType::Fp32 { 1 } else { 5 }
}

pub(crate) fn digest(tensor: &Tensor) -> Digest {
    Digest::of_tensor(element(tensor), tensor.dims(), &tensor.bytes())
}

fn forged(tensor: &Tensor, by: f32) -> Tensor {
    match tensor.ty() {
        TensorType::Fp32 => {
            let mut values = tensor.as_f32().unwrap().to_vec();
            let at = values.len() / 2;
            values[at] += by;
            Tensor::from_f32(tensor.dims().to_vec(), values).unwrap()
        }
        _ => {
            let mut values = tensor.as_i32().unwrap().to_vec();
            let at = values.len() / 2;
            values[at] += 1;
            Tensor::from_i32(tensor.dims().to_vec(), values).unwrap()
        }
    }
}

/// One is right, the other wrong.
pub(crate) fn is_right(decision: &Decision, right: u8, wrong: u8) -> bool {
    let (right, accused) = (key(right).public(), key(wrong).public());
    decision.wrong == [accused]
        && matches!(&decision.dispute.finding, Finding::Right { node, wrong, .. } if (*node, *wrong) == (right, accused))
}
