//! What a receipt says, for people and programs that want to see it before they audit it.

use crate::error::NodeError;
use crate::receipt;
use ostrakon_protocol::{DecodeError, Document, NamedTensor, SignedFloatReceipt, SignedReceipt};
use serde::Serialize;
use std::path::Path;

/// A receipt.
#[derive(Debug, Serialize)]
pub struct ReceiptReport {
    /// Always `receipt`.
    pub kind: &'static str,
    /// Its digest.
    pub digest: String,
    /// Who signed it.
    pub issuer: String,
    /// Whether the issuer's signature holds.
    pub signed: bool,
    /// Of the request.
    pub request: String,
    /// The texts, if they travel with it.
    pub texts: Option<Vec<String>>,
    /// The answer that was generated, if the receipt is of one and it travels with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated: Option<GeneratedReport>,
    /// The package.
    pub package: String,
    /// The determinism profile.
    pub profile: String,
    /// Of all outputs together.
    pub answer: String,
    /// Of the output for each text.
    pub outputs: Vec<String>,
    /// What was run.
    pub steps: Vec<StepReport>,
}

/// An answer that was generated.
#[derive(Debug, Serialize)]
pub struct GeneratedReport {
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Its tokens.
    pub answer: usize,
    /// Most that were asked for.
    pub max_tokens: u32,
    /// 0: the likeliest token each time.
    pub temperature: f32,
    /// What the lots follow from.
    pub seed: u64,
}

/// A block on a batch.
#[derive(Debug, Serialize)]
pub struct StepReport {
    /// Which batch, counted from 0.
    pub batch: u32,
    /// The block's name.
    pub block: String,
    /// Who ran it.
    pub node: String,
    /// Whether that node's signature holds.
    pub signed: bool,
    /// What did the integer products.
    pub backend: String,
    /// The component.
    pub component: String,
    /// Of its input.
    pub input: String,
    /// Of its output.
    pub output: String,
    /// What it cost.
    pub fuel: u64,
}

/// A receipt of the float tier.
#[derive(Debug, Serialize)]
pub struct FloatReceiptReport {
    /// Always `float receipt`.
    pub kind: &'static str,
    /// Its digest.
    pub digest: String,
    /// Who ran it and signed.
    pub issuer: String,
    /// Whether that signature holds.
    pub signed: bool,
    /// The package.
    pub package: String,
    /// The determinism profile of the components.
    pub profile: String,
    /// What went in.
    pub inputs: Vec<NamedTensorReport>,
    /// What came out.
    pub outputs: Vec<NamedTensorReport>,
    /// What it cost.
    pub fuel: u64,
}

/// A tensor on a receipt of the float tier.
#[derive(Debug, Serialize)]
pub struct NamedTensorReport {
    /// Its name.
    pub name: String,
    /// The type of its elements, if it is one of wasi-nn's.
    pub element: Option<&'static str>,
    /// Its shape.
    pub shape: Vec<u32>,
    /// Of all of it.
    pub digest: String,
}

/// The receipt of the float tier in a file, or nothing if the file is of another kind or damaged.
pub fn float_receipt(path: &Path) -> Option<FloatReceiptReport> {
    let signed: SignedFloatReceipt = receipt::read(path).ok()?;
    let receipt = &signed.receipt;
    let named = |tensor: &NamedTensor| NamedTensorReport {
        name: tensor.name.clone(),
        element: receipt::element_type(tensor.element).map(|ty| ty.name()),
        shape: tensor.dimensions.clone(),
        digest: tensor.digest.to_string(),
    };
    Some(FloatReceiptReport {
        kind: "float receipt",
        digest: receipt.digest().to_string(),
        issuer: signed.issuer.to_string(),
        signed: signed.is_signed(),
        package: receipt.package.to_string(),
        profile: receipt.profile.to_string(),
        inputs: receipt.inputs.iter().map(named).collect(),
        outputs: receipt.outputs.iter().map(named).collect(),
        fuel: receipt.fuel,
    })
}

/// The receipt in a file, or nothing if the file is of another kind.
///
/// # Errors
/// A file that cannot be read; a receipt that is damaged or of an unknown version.
pub fn receipt(path: &Path) -> Result<Option<ReceiptReport>, NodeError> {
    let signed: SignedReceipt = match receipt::read(path) {
        Ok(signed) => signed,
        Err(NodeError::Document {
            source: DecodeError::Kind { found: None, .. } | DecodeError::TooLarge { .. },
            ..
        }) => {
            return Ok(None);
        }
        // Of the other kind, and damaged: that kind's error says how.
        Err(NodeError::Document { source: DecodeError::Kind { found: Some(kind), .. }, .. })
            if kind == SignedFloatReceipt::KIND =>
        {
            receipt::read::<SignedFloatReceipt>(path)?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let receipt = &signed.receipt;
    let (mut is_signed, mut steps) = (false, Vec::new());
    for seal in signed.seals() {
        let Some((batch, leg)) = seal.leg else {
            is_signed = seal.valid;
            continue;
        };
        steps.extend(leg.steps.iter().map(|step| StepReport {
            batch,
            block: step.block.clone(),
            node: leg.node.to_string(),
            signed: seal.valid,
            backend: leg.backend.clone(),
            component: step.component.to_string(),
            input: step.input.to_string(),
            output: step.output.to_string(),
            fuel: step.fuel,
        }));
    }
    Ok(Some(ReceiptReport {
        kind: "receipt",
        digest: receipt.digest().to_string(),
        issuer: signed.issuer.to_string(),
        signed: is_signed,
        request: receipt.request.to_string(),
        texts: signed.request.as_ref().map(|request| request.texts.clone()),
        generated: signed.request.as_ref().and_then(|request| request.generation.as_ref()).map(|of| GeneratedReport {
            prompt: of.prompt.len(),
            answer: of.answer.len(),
            max_tokens: of.max_tokens,
            temperature: f32::from_bits(of.choice.temperature),
            seed: of.choice.seed,
        }),
        package: receipt.package.to_string(),
        profile: receipt.profile.to_string(),
        answer: receipt.answer.to_string(),
        outputs: receipt.outputs.iter().map(ToString::to_string).collect(),
        steps,
    }))
}
