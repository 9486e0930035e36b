//! Receipts of the float tier, and their audit: are the numbers near enough?
//!
//! # Why
//!
//! Two honest machines give different bytes for a graph in floating point. Its package says by how much: the author's
//! promise. Whoever runs it again can hold a node to that, and to no more.
//!
//! # How
//!
//! 1. The auditor needs the package and the same tensors: the receipt has their digests.
//! 2. The package is run here. Names and types must be those of the receipt, and sizes that the graph fixes.
//! 3. Numbers are compared one by one, as multiples of the tolerance: up to 1 is fine, above [`REJECT_AT`] is wrong,
//!    and between them nobody can say. A number that is none, or infinite, on one side only is wrong.
//! 4. Integers have no tolerance. Where they differ that may follow from floats that do not (the place of the largest
//!    of two equal numbers), so it accuses nobody.

use crate::error::NodeError;
use crate::float::{FloatAnswer, FloatModel};
use crate::receipt::{element_code, element_type, tensor_digest};
use crate::values::values;
use ostrakon_nn::{Tensor, TensorType};
use ostrakon_package::{Digest, SigningKey, Tolerance};
use ostrakon_protocol::{FloatReceipt, NamedTensor, SignedFloatReceipt};

/// How many times the tolerance is beyond doubt.
pub const REJECT_AT: f64 = 16.0;

/// What an audit of the float tier found.
#[derive(Debug, Clone)]
pub struct FloatReport {
    /// The receipt.
    pub receipt: Digest,
    /// Who signed it.
    pub issuer: String,
    /// What follows.
    pub verdict: FloatVerdict,
    /// The largest difference found, as a multiple of the tolerance.
    pub largest: f64,
    /// The package's promise.
    pub tolerance: Tolerance,
    /// Numbers that were compared.
    pub compared: u64,
}

/// What follows from a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FloatVerdict {
    /// All within the tolerance.
    Accept,
    /// The issuer is wrong, and why.
    Reject(String),
    /// It cannot be told, and why.
    Indeterminate(Vec<String>),
}

/// A tensor by its name, as a receipt has it.
fn named(name: &str, tensor: &Tensor) -> NamedTensor {
    NamedTensor {
        name: name.to_owned(),
        element: element_code(tensor.ty()),
        dimensions: tensor.dims().to_vec(),
        digest: tensor_digest(tensor),
    }
}

/// The inputs of a run, in the order of their names.
fn inputs_of(inputs: &[(String, Tensor)]) -> Vec<NamedTensor> {
    let mut inputs: Vec<NamedTensor> = inputs.iter().map(|(name, tensor)| named(name, tensor)).collect();
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    inputs
}

impl FloatModel {
    /// As [`FloatModel::run`], with a receipt signed by `key`.
    ///
    /// # Errors
    /// As [`FloatModel::run`].
    pub fn run_with_receipt(
        &self,
        inputs: Vec<(String, Tensor)>,
        key: &SigningKey,
    ) -> Result<(FloatAnswer, SignedFloatReceipt), NodeError> {
        let given = inputs_of(&inputs);
        let answer = self.run(inputs)?;
        let receipt = FloatReceipt {
            package: self.digest(),
            profile: self.profile(),
            backend: "openvino".to_owned(),
            inputs: given,
            outputs: answer.outputs.iter().map(|output| named(&output.name, &output.tensor)).collect(),
            fuel: answer.fuel,
        };
        let values = answer.outputs.iter().map(|output| output.tensor.to_bytes()).collect();
        Ok((answer, SignedFloatReceipt::sign(key, receipt, values)))
    }

    /// Run the inputs of a receipt again and compare.
    ///
    /// # Errors
    /// What keeps the audit from beginning: another package, other tensors than those of the receipt.
    pub fn audit(&self, signed: &SignedFloatReceipt, inputs: Vec<(String, Tensor)>) -> Result<FloatReport, NodeError> {
        let receipt = &signed.receipt;
        if self.digest() != receipt.package {
            return Err(NodeError::Setting(format!(
                "the receipt is of the package {}, this one is {}",
                receipt.package,
                self.digest()
            )));
        }
        if inputs_of(&inputs) != receipt.inputs {
            // Somebody else's words, and as many as he likes.
            let short = |name: &str| name.chars().take(64).collect::<String>();
            let wanted = receipt.inputs.iter().take(16).map(|input| format!("{:?}", short(&input.name)));
            let wanted: Vec<String> = wanted.collect();
            return Err(NodeError::Setting(format!(
                "the tensors are not those of the receipt, which has {}: give each with --tensor NAME=FILE.npy",
                wanted.join(", ")
            )));
        }
        let tolerance = self.manifest().tolerance.unwrap_or_default();
        let mut comparison = Comparison { tolerance, largest: 0.0, compared: 0, reasons: Vec::new() };
        let verdict = self.verdict(signed, inputs, &mut comparison);
        Ok(FloatReport {
            receipt: receipt.digest(),
            issuer: signed.issuer.to_string(),
            verdict,
            largest: comparison.largest,
            tolerance,
            compared: comparison.compared,
        })
    }

    fn verdict(
        &self,
        signed: &SignedFloatReceipt,
        inputs: Vec<(String, Tensor)>,
        comparison: &mut Comparison,
    ) -> FloatVerdict {
        let unknown = |reason: String| FloatVerdict::Indeterminate(vec![reason]);
        if !signed.is_signed() {
            return unknown("the issuer's signature does not hold: nobody can be held to the receipt".to_owned());
        }
        let answer = match self.run(inputs) {
            Ok(answer) => answer,
            Err(error) => return unknown(format!("the package could not be run here: {error}")),
        };
        let claimed = &signed.receipt.outputs;
        if !claimed.iter().map(|output| &output.name).eq(answer.outputs.iter().map(|output| &output.name)) {
            return FloatVerdict::Reject("the outputs have other names than the package gives".to_owned());
        }
        for (at, (claimed, output)) in claimed.iter().zip(&answer.outputs).enumerate() {
            let name = &output.name;
            let (ty, dims) = (output.tensor.ty(), output.tensor.dims());
            if claimed.element != element_code(ty) || claimed.dimensions.len() != dims.len() {
                return FloatVerdict::Reject(format!("the output {name:?} is not {ty} of {} dimensions", dims.len()));
            }
            if claimed.dimensions != dims {
                let sizes = format!("the output {name:?} is {:?} and here {dims:?}", claimed.dimensions);
                if self.is_fixed(name, &claimed.dimensions, dims) {
                    return FloatVerdict::Reject(sizes);
                }
                comparison
                    .reasons
                    .push(format!("{sizes}: the graph leaves these sizes open, they may follow from its numbers"));
                continue;
            }
            let compared = match signed.value(at) {
                Some(bytes) => comparison.compare(name, claimed, bytes, &output.tensor),
                None if claimed.digest == output.digest => Ok(()),
                None => {
                    let reason = "are not in the receipt, or not those that were signed";
                    comparison.reasons.push(format!("the values of the output {name:?} {reason}"));
                    Ok(())
                }
            };
            if let Err(reason) = compared {
                return FloatVerdict::Reject(reason);
            }
        }
        match std::mem::take(&mut comparison.reasons) {
            reasons if reasons.is_empty() => FloatVerdict::Accept,
            reasons => FloatVerdict::Indeterminate(reasons),
        }
    }

    /// Whether one of the sizes that differ is fixed by the graph that gives the output.
    fn is_fixed(&self, output: &str, claimed: &[u32], here: &[u32]) -> bool {
        let last = self.manifest().blocks.last().and_then(|block| self.manifest().graph_of(block));
        let port = last.and_then(|graph| graph.outputs.iter().find(|port| port.name == output));
        let shape = port.and_then(|port| port.port().shape).unwrap_or_default();
        shape.iter().zip(claimed.iter().zip(here)).any(|(fixed, (claimed, here))| fixed.is_some() && claimed != here)
    }
}

/// Numbers against numbers.
struct Comparison {
    tolerance: Tolerance,
    largest: f64,
    compared: u64,
    reasons: Vec<String>,
}

impl Comparison {
    /// Compare an output, or say why the claim is wrong.
    fn compare(&mut self, name: &str, claimed: &NamedTensor, bytes: &[u8], here: &Tensor) -> Result<(), String> {
        let ty = element_type(claimed.element).unwrap_or(here.ty());
        let Ok(claimed) = Tensor::new(claimed.dimensions.clone(), ty, bytes.to_vec()) else {
            return Err(format!("the output {name:?} has values that do not fill its shape"));
        };
        self.compared = self.compared.saturating_add(here.dims().iter().map(|&size| u64::from(size)).product());
        if matches!(ty, TensorType::U8 | TensorType::I32 | TensorType::I64) {
            if claimed.bytes() != here.bytes() {
                let why = "integers have no tolerance, and may follow from floats that differ by less than it";
                self.reasons.push(format!("the output {name:?} differs here: {why}"));
            }
            return Ok(());
        }
        let mut worst = (0usize, 0.0f64);
        for (at, (claimed, here)) in values(&claimed).zip(values(here)).enumerate() {
            let excess = self.excess(claimed, here);
            if excess > worst.1 {
                worst = (at, excess);
            }
        }
        let (at, excess) = worst;
        self.largest = self.largest.max(excess);
        let difference = format!("the output {name:?} differs by {excess:.1} times the tolerance at element {at}");
        if excess > REJECT_AT {
            return Err(difference);
        }
        if excess > 1.0 {
            self.reasons.push(format!("{difference}: more than promised, less than {REJECT_AT} times that"));
        }
        Ok(())
    }

    /// How many tolerances two numbers are apart.
    fn excess(&self, claimed: f64, here: f64) -> f64 {
        if claimed == here || (claimed.is_nan() && here.is_nan()) {
            return 0.0;
        }
        let excess = (claimed - here).abs() / (self.tolerance.absolute + self.tolerance.relative * here.abs());
        // One of them is no number or infinite, or there is no tolerance.
        if excess.is_nan() || here.is_infinite() { f64::INFINITY } else { excess }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excess(claimed: f64, here: f64, absolute: f64, relative: f64) -> f64 {
        let tolerance = Tolerance { absolute, relative };
        Comparison { tolerance, largest: 0.0, compared: 0, reasons: Vec::new() }.excess(claimed, here)
    }

    #[test]
    fn differences_are_counted_in_tolerances() {
        assert_eq!(excess(1.0, 1.0, 0.0, 0.0), 0.0);
        assert_eq!(excess(1.5, 1.0, 0.5, 0.0), 1.0);
        assert_eq!(excess(2.0, 4.0, 0.0, 0.5), 1.0);
        assert_eq!(excess(5.0, 4.0, 0.25, 0.0625), 2.0);
        assert_eq!(excess(f64::NAN, f64::NAN, 0.1, 0.1), 0.0);
        assert_eq!(excess(f64::INFINITY, f64::INFINITY, 0.1, 0.1), 0.0);
        for (claimed, here) in [
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (f64::INFINITY, 1.0),
            (1.0, f64::INFINITY),
            (f64::NEG_INFINITY, f64::INFINITY),
        ] {
            assert_eq!(excess(claimed, here, 1.0, 1.0), f64::INFINITY, "{claimed} {here}");
        }
        assert_eq!(excess(1.0, 2.0, 0.0, 0.0), f64::INFINITY);
    }
}
