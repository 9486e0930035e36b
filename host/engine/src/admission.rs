//! Admission: whether a component may be compiled at all.
//!
//! # Why
//!
//! A component is foreign bytes. Compiling it costs time and memory in proportion to what it contains,
//! and linking it hands it whatever it imports. So before either, a flat list of checks, each with its
//! own refusal that names what was found and what is allowed.
//!
//! # How
//!
//! 1. [`Survey`] reads the structure once, without validating function bodies: linear in the number of
//!    bytes, and it keeps nothing but counts and the outermost names.
//! 2. The `check_*` functions judge the survey, cheapest first.
//! 3. Only then are all function bodies validated, with exactly the features of the profile.
//!
//! Types of imports and exports are compared when the component is linked, right after compilation.

use crate::profile::FEATURES;
use crate::survey::Survey;
use interface::{
    BLOCK, ERRORS, EXACT, FIELD, GRAPH, INFERENCE, SCHEDULING, SHARING, TENSOR, TENSORS, VERIFICATION, WEIGHTS,
};
use wasmparser::{Validator, WasmFeatures};

/// Largest component, in bytes.
pub const MAX_BYTES: usize = 16 << 20;
/// Most functions with a body, all modules together.
pub const MAX_FUNCTIONS: u64 = 20_000;
/// Largest body of a function, in bytes: compile time grows faster than the body.
pub const MAX_FUNCTION_BYTES: u64 = 512 << 10;
/// Most core modules.
pub const MAX_MODULES: u64 = 64;
/// Most nested components.
pub const MAX_COMPONENTS: u64 = 64;
/// How deep components may nest.
pub const MAX_DEPTH: u64 = 8;
/// Most instances of components that instantiation could make; the engine unfolds them all.
pub const MAX_UNFOLDED: u64 = 4096;
/// Most core instances that one component may make.
pub const MAX_CORE_INSTANCES: u64 = 64;
/// Most types, declarations inside of types included.
pub const MAX_TYPES: u64 = 20_000;
/// Most imports, exports, aliases and canonical functions, inner ones included.
pub const MAX_LINKS: u64 = 20_000;
/// Most linear memories.
pub const MAX_MEMORIES: u64 = 16;
/// Largest memory at the start, in pages of 64 KiB: 256 MiB.
pub const MAX_INITIAL_PAGES: u64 = 4096;
/// Most tables.
pub const MAX_TABLES: u64 = 64;
/// Largest table at the start.
pub const MAX_INITIAL_ELEMENTS: u64 = 32_768;
/// Most globals.
pub const MAX_GLOBALS: u64 = 10_000;
/// Most data and element segments.
pub const MAX_SEGMENTS: u64 = 20_000;

/// Names of interfaces, for worlds, linking and calling.
pub(crate) mod interface {
    pub(crate) const TENSOR: &str = "wasi:nn/tensor@0.2.0-rc-2024-10-28";
    pub(crate) const ERRORS: &str = "wasi:nn/errors@0.2.0-rc-2024-10-28";
    pub(crate) const INFERENCE: &str = "wasi:nn/inference@0.2.0-rc-2024-10-28";
    pub(crate) const GRAPH: &str = "wasi:nn/graph@0.2.0-rc-2024-10-28";
    pub(crate) const EXACT: &str = "ostrakon:plugin/exact@0.1.0";
    pub(crate) const WEIGHTS: &str = "ostrakon:plugin/weights@0.1.0";
    pub(crate) const BLOCK: &str = "ostrakon:plugin/block@0.1.0";
    pub(crate) const TENSORS: &str = "ostrakon:plugin/tensors@0.1.0";
    pub(crate) const VERIFICATION: &str = "ostrakon:plugin/verification@0.1.0";
    pub(crate) const FIELD: &str = "ostrakon:plugin/field@0.1.0";
    pub(crate) const SHARING: &str = "ostrakon:plugin/sharing@0.1.0";
    pub(crate) const SCHEDULING: &str = "ostrakon:plugin/scheduling@0.1.0";
}

/// What a component may import and must export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum World {
    /// A block that leaves its arithmetic to the host.
    ModelBlock,
    /// A block composed with `exact-reference`: it reads weights and does all arithmetic itself.
    ReferenceBlock,
    /// A block of a float model: named tensors through the host's graphs.
    GraphBlock,
    /// Says what follows from the evidence of an audit. It reaches nothing.
    Verifier,
    /// Chooses who runs what. It reaches nothing.
    Scheduler,
    /// Splits activations among servers. It reaches the field operations.
    SecretSharing,
}

impl World {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ModelBlock,
        Self::ReferenceBlock,
        Self::GraphBlock,
        Self::Verifier,
        Self::Scheduler,
        Self::SecretSharing,
    ];

    /// Its name in `wit/plugin.wit`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ModelBlock => "model-block",
            Self::ReferenceBlock => "reference-block",
            Self::GraphBlock => "graph-block",
            Self::Verifier => "verifier",
            Self::Scheduler => "scheduler",
            Self::SecretSharing => "secret-sharing",
        }
    }

    /// The interfaces that it may import.
    pub const fn imports(self) -> &'static [&'static str] {
        match self {
            Self::ModelBlock => &[TENSOR, ERRORS, INFERENCE, GRAPH, EXACT],
            Self::ReferenceBlock => &[WEIGHTS],
            Self::GraphBlock => &[TENSOR, ERRORS, INFERENCE, GRAPH],
            Self::Verifier | Self::Scheduler => &[],
            Self::SecretSharing => &[TENSOR, FIELD],
        }
    }

    /// The interfaces that it exports: all of them, and nothing else.
    pub const fn exports(self) -> &'static [&'static str] {
        match self {
            Self::ModelBlock => &[BLOCK],
            Self::ReferenceBlock => &[TENSOR, BLOCK],
            Self::GraphBlock => &[TENSORS],
            Self::Verifier => &[VERIFICATION],
            Self::Scheduler => &[SCHEDULING],
            Self::SecretSharing => &[SHARING],
        }
    }

    /// The world that a component with these imports and exports belongs to.
    pub fn of(survey: &Survey) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|&world| check_imports(survey, world).is_ok() && check_exports(survey, world).is_ok())
    }
}

/// Why a component is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// More bytes than a component may have.
    #[error("the component has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// Not a component.
    #[error("this is not a WebAssembly component: {0}. Core modules become components with `wasm-tools component new`")]
    NotAComponent(String),
    /// More of something than allowed.
    #[error("the component has {found} {what}, at most {limit} are allowed")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many.
        found: u64,
        /// How many may be.
        limit: u64,
    },
    /// It wants something that its world does not offer.
    #[error("the component imports `{name}`, which the world `{world}` does not offer: it offers {}", offered(.world))]
    Import {
        /// The import.
        name: String,
        /// The world it was to be admitted to.
        world: &'static str,
    },
    /// It lacks what its world demands.
    #[error("the component does not export `{name}`, which the world `{world}` demands")]
    MissingExport {
        /// The interface.
        name: &'static str,
        /// The world it was to be admitted to.
        world: &'static str,
    },
    /// It offers something that its world does not know.
    #[error("the component exports `{name}`, which the world `{world}` does not know")]
    Export {
        /// The export.
        name: String,
        /// The world it was to be admitted to.
        world: &'static str,
    },
    /// A nested component takes modules or components as arguments.
    #[error("an inner component imports {0} `{1}`: only instances, functions and types can be passed on")]
    InnerImport(&'static str, String),
    /// A component with a start function of its own: it would run outside of any call's limits.
    #[error("the component has a component-level start function, which is not supported")]
    ComponentStart,
    /// It is not valid, or uses a proposal that the profile switches off.
    #[error("the component is not valid under this profile: {0}")]
    Invalid(String),
    /// An import or export has the right name and the wrong type.
    #[error("the component does not fit the world `{world}`: {reason}")]
    Types {
        /// The world it was to be admitted to.
        world: &'static str,
        /// Which import or export, and how it differs.
        reason: String,
    },
    /// The compiler gave up.
    #[error("the component cannot be compiled: {0}")]
    Compile(String),
}

fn offered(world: &str) -> String {
    match World::ALL.into_iter().find(|w| w.name() == world).map_or(&[][..], World::imports) {
        [] => "nothing".to_owned(),
        imports => imports.join(", "),
    }
}

/// Judge a component. Its survey is for those who want to show what is inside.
///
/// # Errors
/// The first check that it does not pass.
pub fn check(bytes: &[u8], world: World) -> Result<Survey, AdmissionError> {
    check_size(bytes)?;
    let survey = Survey::read(bytes)?;
    check_imports(&survey, world)?;
    check_exports(&survey, world)?;
    check_inner_imports(&survey)?;
    check_component_start(&survey)?;
    check_modules(&survey)?;
    check_components(&survey)?;
    check_instances(&survey)?;
    check_types(&survey)?;
    check_links(&survey)?;
    check_functions(&survey)?;
    check_memories(&survey)?;
    check_tables(&survey)?;
    check_globals(&survey)?;
    check_segments(&survey)?;
    check_valid(bytes)?;
    Ok(survey)
}

fn at_most(what: &'static str, found: u64, limit: u64) -> Result<(), AdmissionError> {
    if found > limit { Err(AdmissionError::TooMany { what, found, limit }) } else { Ok(()) }
}

pub(crate) fn check_size(bytes: &[u8]) -> Result<(), AdmissionError> {
    if bytes.len() > MAX_BYTES {
        return Err(AdmissionError::TooLarge { bytes: bytes.len(), limit: MAX_BYTES });
    }
    Ok(())
}

fn check_imports(survey: &Survey, world: World) -> Result<(), AdmissionError> {
    match survey.imports.iter().find(|name| !world.imports().contains(&name.as_str())) {
        Some(name) => Err(AdmissionError::Import { name: name.clone(), world: world.name() }),
        None => Ok(()),
    }
}

fn check_exports(survey: &Survey, world: World) -> Result<(), AdmissionError> {
    let missing = world.exports().iter().find(|name| !survey.exports.iter().any(|export| export == *name));
    if let Some(name) = missing {
        return Err(AdmissionError::MissingExport { name, world: world.name() });
    }
    match survey.exports.iter().find(|name| !world.exports().contains(&name.as_str())) {
        Some(name) => Err(AdmissionError::Export { name: name.clone(), world: world.name() }),
        None => Ok(()),
    }
}

/// Components that take components as arguments could unfold without a bound that can be read off.
fn check_inner_imports(survey: &Survey) -> Result<(), AdmissionError> {
    match &survey.inner_import {
        Some((kind, name)) => Err(AdmissionError::InnerImport(kind, name.clone())),
        None => Ok(()),
    }
}

fn check_component_start(survey: &Survey) -> Result<(), AdmissionError> {
    if survey.component_starts > 0 { Err(AdmissionError::ComponentStart) } else { Ok(()) }
}

fn check_modules(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("core modules", survey.modules, MAX_MODULES)
}

fn check_components(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("inner components", survey.components, MAX_COMPONENTS)?;
    at_most("levels of inner components", survey.depth, MAX_DEPTH)
}

fn check_instances(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("core instances in one component", survey.most_core_instances, MAX_CORE_INSTANCES)?;
    at_most("instances of inner components once unfolded", survey.unfolded, MAX_UNFOLDED)
}

fn check_types(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("types", survey.types, MAX_TYPES)
}

fn check_links(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("imports, exports and aliases", survey.links, MAX_LINKS)
}

fn check_functions(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("functions", survey.functions, MAX_FUNCTIONS)?;
    at_most("bytes in one function", survey.largest_function, MAX_FUNCTION_BYTES)
}

fn check_memories(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("memories", survey.memories, MAX_MEMORIES)?;
    at_most("pages of initial memory", survey.initial_pages, MAX_INITIAL_PAGES)
}

fn check_tables(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("tables", survey.tables, MAX_TABLES)?;
    at_most("initial table elements", survey.initial_elements, MAX_INITIAL_ELEMENTS)
}

fn check_globals(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("globals", survey.globals, MAX_GLOBALS)
}

fn check_segments(survey: &Survey) -> Result<(), AdmissionError> {
    at_most("data and element segments", survey.segments, MAX_SEGMENTS)
}

fn check_valid(bytes: &[u8]) -> Result<(), AdmissionError> {
    Validator::new_with_features(features())
        .validate_all(bytes)
        .map_err(|error| AdmissionError::Invalid(crate::error::bounded(&error.to_string())))?;
    Ok(())
}

/// The profile's features, for the validator, which is of another version than the engine's own.
///
/// Without `multi-memory`: that is on for the engine's adapters only.
fn features() -> WasmFeatures {
    let on = |name: &str| FEATURES.iter().any(|f| f.name == name && f.on);
    let mut features = WasmFeatures::empty();
    for (name, flag) in [
        ("mutable-global", WasmFeatures::MUTABLE_GLOBAL),
        ("saturating-float-to-int", WasmFeatures::SATURATING_FLOAT_TO_INT),
        ("sign-extension", WasmFeatures::SIGN_EXTENSION),
        ("multi-value", WasmFeatures::MULTI_VALUE),
        ("bulk-memory", WasmFeatures::BULK_MEMORY),
        ("reference-types", WasmFeatures::REFERENCE_TYPES),
        ("simd", WasmFeatures::SIMD),
        ("floats", WasmFeatures::FLOATS),
        ("extended-const", WasmFeatures::EXTENDED_CONST),
        ("component-model", WasmFeatures::COMPONENT_MODEL),
    ] {
        features.set(flag, on(name));
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_validator_knows_every_feature_that_is_on() {
        let on = FEATURES.iter().filter(|f| f.on).count();
        // `reference-types` and `bulk-memory` stand for two bits each; `multi-memory` is left out.
        assert_eq!(features().bits().count_ones() as usize, on + 2 - 1);
        assert!(!features().contains(WasmFeatures::MULTI_MEMORY));
    }
}
