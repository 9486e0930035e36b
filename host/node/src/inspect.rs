//! What a package or a component is, for people who decide whether to trust it. Nothing of it runs.

use crate::error::NodeError;
use crate::plugins::read_component;
use ostrakon_engine::{Limits, Survey, World, admission};
use ostrakon_nn::LayerSource;
use ostrakon_package::graphs::PortEntry;
use ostrakon_package::{GraphEntry, Package, SignatureState, Tier, Tolerance, TrustPolicy};
use serde::Serialize;
use std::path::Path;

/// A package.
#[derive(Debug, Serialize)]
pub struct PackageReport {
    /// Always `package`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// Its digest.
    pub digest: String,
    /// What its signature says.
    pub signature: SignatureReport,
    /// The model family.
    pub family: String,
    /// Of the weights.
    pub licence: String,
    /// Where the weights came from.
    pub source: String,
    /// `exact` or `float`.
    pub tier: &'static str,
    /// Longest text, of a package that takes texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// How it writes text, of a package of a model that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationReport>,
    /// How far machines may differ, of a package of the float tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Tolerance>,
    /// All files together.
    pub bytes: u64,
    /// What an instance of its components may use here.
    pub limits: LimitsReport,
    /// What runs its blocks.
    pub components: Vec<ComponentReport>,
    /// Which blocks are placed together.
    pub shards: Vec<ShardReport>,
    /// Its graphs, if it is of the float tier.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub graphs: Vec<GraphReport>,
    /// The blocks with their tensors.
    pub blocks: Vec<BlockReport>,
}

/// How a model writes text.
#[derive(Debug, Serialize)]
pub struct GenerationReport {
    /// How many tokens it knows.
    pub vocabulary: u32,
    /// Tokens that end an answer.
    pub stop: Vec<u32>,
    /// Tokens put before every text.
    pub begin: Vec<u32>,
    /// The chat template, if it has one.
    pub template: Option<String>,
}

/// A graph in floating point, as the manifest describes it. Nothing of it is parsed here.
#[derive(Debug, Serialize)]
pub struct GraphReport {
    /// Its name.
    pub name: String,
    /// `onnx` or `openvino`.
    pub encoding: &'static str,
    /// All its files.
    pub bytes: u64,
    /// What goes in.
    pub inputs: Vec<PortReport>,
    /// What comes out.
    pub outputs: Vec<PortReport>,
}

/// An input or an output.
#[derive(Debug, Serialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub element: &'static str,
    /// Its dimensions, none where one is open; none at all where their number is open.
    pub shape: Option<Vec<Option<u32>>>,
    /// All of it in words.
    #[serde(skip)]
    pub text: String,
}

impl PortReport {
    fn of(entry: &PortEntry) -> Self {
        let port = entry.port();
        Self { text: port.to_string(), name: port.name, element: port.element.name(), shape: port.shape }
    }
}

impl GraphReport {
    fn of(entry: &GraphEntry) -> Self {
        let weights = entry.weights.as_ref().map_or(0, |weights| weights.bytes);
        Self {
            name: entry.name.clone(),
            encoding: entry.encoding().name(),
            bytes: entry.bytes.saturating_add(weights),
            inputs: entry.inputs.iter().map(PortReport::of).collect(),
            outputs: entry.outputs.iter().map(PortReport::of).collect(),
        }
    }
}

/// A signature.
#[derive(Debug, Serialize)]
pub struct SignatureReport {
    /// `not signed`, `failed`, `verified` or `unknown signer`.
    pub state: &'static str,
    /// Who signed, as the trust file calls them.
    pub by: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// A component.
#[derive(Debug, Serialize)]
pub struct ComponentReport {
    /// Always `component`.
    pub kind: &'static str,
    /// What it is called in its package, or its file.
    pub name: String,
    /// BLAKE3 of its bytes.
    pub digest: String,
    /// Its size.
    pub bytes: usize,
    /// What it imports.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
    /// The world it fits, if any.
    pub world: Option<&'static str>,
    /// What it declares, next to what is allowed.
    pub declares: Vec<Declared>,
    /// What an instance may use here.
    pub limits: LimitsReport,
    /// Whether it would be let in.
    pub admitted: bool,
    /// Why not.
    pub refusal: Option<String>,
}

/// A quantity that a component declares.
#[derive(Debug, Serialize)]
pub struct Declared {
    /// Of what.
    pub what: &'static str,
    /// How much.
    pub found: u64,
    /// How much is allowed.
    pub limit: u64,
}

/// What an instance may use.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LimitsReport {
    /// In one call.
    pub fuel: u64,
    /// All linear memories together.
    pub memory_bytes: u64,
    /// All tables together.
    pub table_elements: u64,
    /// Tensors in the host.
    pub tensor_bytes: u64,
    /// Handles of tensors.
    pub tensor_handles: u32,
}

/// A shard.
#[derive(Debug, Serialize)]
pub struct ShardReport {
    /// Its name.
    pub name: String,
    /// Its blocks.
    pub blocks: Vec<String>,
}

/// A block.
#[derive(Debug, Serialize)]
pub struct BlockReport {
    /// Its name.
    pub name: String,
    /// What runs it.
    pub component: String,
    /// What it is opened with.
    pub settings: Vec<(String, String)>,
    /// Its tensors.
    pub tensors: Vec<TensorReport>,
}

/// A tensor.
#[derive(Debug, Serialize)]
pub struct TensorReport {
    /// Layer and part.
    pub name: String,
    /// `linear`, `embedding` or `layer-norm`.
    pub layer: String,
    /// How activations are coded, for `linear`.
    pub activation: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its size.
    pub bytes: usize,
}

/// The package in `directory`, as far as it can be told, whoever signed it.
///
/// # Errors
/// When it is no package or its files are not what it says.
pub fn package(directory: &Path, policy: &TrustPolicy) -> Result<PackageReport, NodeError> {
    // Looking is not running: what the signature says is part of the report.
    let lenient = TrustPolicy { allow_unsigned: true, allow_unknown: true, ..policy.clone() };
    let package = Package::open(directory, &lenient)?;
    let manifest = package.manifest();
    let mut components = Vec::new();
    for entry in &manifest.components {
        components.push(component(&entry.name, package.component(&entry.name).unwrap_or_default()));
    }
    let mut blocks = Vec::new();
    for block in &manifest.blocks {
        let mut tensors = Vec::new();
        for layer in &block.layers {
            let full = format!("{}.{}", block.name, layer.name);
            let raw = package.raw(&full).map_err(|e| NodeError::Setting(e.to_string()))?;
            tensors.extend(raw.parts.iter().map(|part| TensorReport {
                name: format!("{}.{}", layer.name, part.name),
                layer: layer.kind.clone(),
                activation: layer.activation.clone(),
                shape: part.dimensions.clone(),
                bytes: (*part.data).as_ref().len(),
            }));
        }
        blocks.push(BlockReport {
            name: block.name.clone(),
            component: block.component.clone(),
            settings: block.settings.clone(),
            tensors,
        });
    }
    Ok(PackageReport {
        kind: "package",
        name: manifest.name.clone(),
        path: directory.display().to_string(),
        digest: package.digest().to_string(),
        signature: signature(package.signature_state()),
        family: manifest.family.clone(),
        licence: manifest.licence.clone(),
        source: manifest.source.clone(),
        tier: manifest.tier().name(),
        max_tokens: manifest.max_tokens,
        generation: manifest.generation.as_ref().map(|generation| GenerationReport {
            vocabulary: generation.vocabulary,
            stop: generation.stop.clone(),
            begin: generation.begin.clone(),
            template: package.template().map(ToOwned::to_owned),
        }),
        tolerance: (manifest.tier() == Tier::Float).then(|| manifest.tolerance.unwrap_or_default()),
        graphs: manifest.graphs.iter().map(GraphReport::of).collect(),
        bytes: manifest.files().map(|(_, _, bytes)| bytes).sum(),
        limits: limits(),
        components,
        shards: manifest
            .shards
            .iter()
            .map(|s| ShardReport { name: s.name.clone(), blocks: s.blocks.clone() })
            .collect(),
        blocks,
    })
}

/// What can be told of a package that was refused: the digest it claims and what its signature says.
#[derive(Debug, Serialize)]
pub struct RefusedReport {
    /// Where it lies.
    pub path: String,
    /// Of its manifest; nothing else was verified.
    pub digest: String,
    /// What its signature says about that manifest.
    pub signature: SignatureReport,
}

/// What can be told of the package in `directory`, which [`package`] refused; nothing, if it is none.
pub fn refused(directory: &Path, policy: &TrustPolicy) -> Option<RefusedReport> {
    Some(RefusedReport {
        path: directory.display().to_string(),
        digest: ostrakon_package::package::claimed_digest(directory).ok()?.to_string(),
        signature: signature(&ostrakon_package::signature_state(directory, policy).ok()?),
    })
}

/// The component in a file.
///
/// # Errors
/// When the file cannot be read.
pub fn component_file(path: &Path) -> Result<ComponentReport, NodeError> {
    let bytes =
        read_component(path).map_err(|reason| NodeError::Component { what: path.display().to_string(), reason })?;
    Ok(component(&path.display().to_string(), &bytes))
}

fn component(name: &str, bytes: &[u8]) -> ComponentReport {
    let survey = Survey::read(bytes);
    let world = survey.as_ref().ok().and_then(World::of);
    // Without a world of its own it is judged as what most components are.
    let verdict = admission::check(bytes, world.unwrap_or(World::ModelBlock));
    let survey = survey.unwrap_or_default();
    ComponentReport {
        kind: "component",
        name: name.to_owned(),
        digest: blake3::hash(bytes).to_hex().to_string(),
        bytes: bytes.len(),
        world: world.map(World::name),
        declares: declared(&survey),
        imports: survey.imports,
        exports: survey.exports,
        limits: limits(),
        admitted: verdict.is_ok(),
        refusal: verdict.err().map(|e| e.to_string()),
    }
}

fn declared(survey: &Survey) -> Vec<Declared> {
    [
        ("functions", survey.functions, admission::MAX_FUNCTIONS),
        ("bytes in one function", survey.largest_function, admission::MAX_FUNCTION_BYTES),
        ("core modules", survey.modules, admission::MAX_MODULES),
        ("memories", survey.memories, admission::MAX_MEMORIES),
        ("pages of initial memory", survey.initial_pages, admission::MAX_INITIAL_PAGES),
        ("initial table elements", survey.initial_elements, admission::MAX_INITIAL_ELEMENTS),
    ]
    .map(|(what, found, limit)| Declared { what, found, limit })
    .into()
}

fn limits() -> LimitsReport {
    let limits = Limits::default();
    LimitsReport {
        fuel: limits.fuel,
        memory_bytes: limits.memory_bytes,
        table_elements: limits.table_elements,
        tensor_bytes: limits.quotas.bytes,
        tensor_handles: limits.quotas.handles,
    }
}

/// A signature's state, as the report names it.
pub(crate) fn signature(state: &SignatureState) -> SignatureReport {
    let (state, by, key, reason) = match state {
        SignatureState::NotSigned => ("not signed", None, None, None),
        SignatureState::Failed(why) => ("failed", None, None, Some(why.clone())),
        SignatureState::VerifiedBy { key, name } => ("verified", Some(name.clone()), Some(key), None),
        SignatureState::UnknownSigner { key } => ("unknown signer", None, Some(key), None),
    };
    SignatureReport { state, by, key: key.map(ToString::to_string), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_refused_and_still_described() {
        let report = component("x", b"\0asm\x01\0\0\0");
        assert!(!report.admitted);
        assert!(report.refusal.unwrap().contains("core module"));
        assert_eq!(report.bytes, 8);
        assert!(report.world.is_none());
    }
}
