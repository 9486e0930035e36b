//! The two sides of a dispute, and what they are asked.

use super::shown;
use crate::receipt::{element_type, tensor_digest};
use memmap2::Mmap;
use ostrakon_nn::Tensor;
use ostrakon_protocol::dispute::Difference;
use ostrakon_protocol::{Digest, Operation, PublicKey, SignedReceipt, Step, TraceFile};
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// Gives a tensor with this digest, if somebody has it.
pub type Tensors<'a> = &'a dyn Fn(&Digest) -> Option<Tensor>;

/// A node that defends its block. Nothing that it says is believed: its digests must fit each other, and a tensor
/// the digest that was asked for.
pub trait Side {
    /// How many operations it says the block is made of.
    fn count(&self) -> u32;

    /// The digest of the first `count` operations.
    ///
    /// # Errors
    /// Why there is no answer.
    fn prefix(&self, count: u32) -> Result<Digest, String>;

    /// The operation at this place, counted from 0.
    ///
    /// # Errors
    /// Why there is no answer.
    fn operation(&self, at: u32) -> Result<Operation, String>;
}

/// A side that left a trace file behind.
pub(super) struct TraceSide {
    map: Mmap,
    file: TraceFile,
    places: HashMap<Digest, (usize, Range<usize>)>,
    prefixes: Vec<Digest>,
}

impl TraceSide {
    #[allow(unsafe_code)]
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the map is only read. Should somebody change the file under it, tensors are checked on copies
        // and the document was decoded before; a file that is cut while it is mapped can end this process, as it
        // can any that maps files.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let (file, ranges) = TraceFile::read(&map).map_err(|error| format!("{}: {error}", path.display()))?;
        let places = file.tensors.iter().zip(ranges).enumerate();
        let places = places.map(|(at, (tensor, range))| (tensor.digest, (at, range))).collect();
        let prefixes = file.signed.trace.prefixes();
        Ok(Self { map, file, places, prefixes })
    }

    /// Whether it is this node's trace of this block, and says what the receipt says.
    pub(super) fn fits(
        &self,
        receipt: &SignedReceipt,
        difference: &Difference,
        node: &PublicKey,
        step: &Step,
    ) -> Result<(), String> {
        let signed = &self.file.signed;
        let trace = &signed.trace;
        let id = receipt.receipt.digest();
        if trace.receipt != id {
            return Err(format!("it is for the receipt {} and not for {id}", trace.receipt));
        }
        if (trace.batch, &trace.block) != (difference.batch, &difference.block) {
            return Err(format!(
                "it is of block `{}` on batch {}: make one of `{}` on batch {}",
                shown(&trace.block),
                trace.batch,
                shown(&difference.block),
                difference.batch
            ));
        }
        if signed.node != *node {
            return Err(format!("it is from {}, but {node} ran the block", signed.node));
        }
        if !signed.is_signed() {
            return Err(format!("{node} did not sign it: it is damaged or forged"));
        }
        match trace.operations.last() {
            Some(last) if last.output == step.output => Ok(()),
            Some(last) => Err(format!("it ends in {}, the receipt says {}", last.output, step.output)),
            None => Err("it has no operations".into()),
        }
    }

    /// The tensor with this digest, if it is there.
    pub(super) fn tensor(&self, digest: &Digest) -> Option<Tensor> {
        let (at, range) = self.places.get(digest)?;
        let stored = self.file.tensors.get(*at)?;
        let bytes = self.map.get(range.clone())?.to_vec();
        let tensor = Tensor::new(stored.dimensions.clone(), element_type(stored.element)?, bytes).ok()?;
        (tensor_digest(&tensor) == *digest).then_some(tensor)
    }
}

impl Side for TraceSide {
    fn count(&self) -> u32 {
        u32::try_from(self.file.signed.trace.operations.len()).unwrap_or(u32::MAX)
    }

    fn prefix(&self, count: u32) -> Result<Digest, String> {
        let prefix = usize::try_from(count).ok().and_then(|count| self.prefixes.get(count)).copied();
        prefix.ok_or_else(|| format!("it has no {count} operations"))
    }

    fn operation(&self, at: u32) -> Result<Operation, String> {
        let operation = usize::try_from(at).ok().and_then(|at| self.file.signed.trace.operations.get(at));
        operation.cloned().ok_or_else(|| format!("it has no operation {at}"))
    }
}
