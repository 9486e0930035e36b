//! Components: from a core module to a component, and from a block to one without native arithmetic.
//!
//! # Why
//!
//! A package names the component of each block by digest, so the same sources must give the same bytes
//! on every machine. And a block has to run where no native arithmetic is trusted at all: composed with
//! the component `exact-reference` it needs nothing of its host but the bytes of its layers.
//!
//! # How
//!
//! 1. [`componentize`] turns what the Rust compiler made (a core module that carries its world in a
//!    custom section) into a component, and leaves out every custom section: they say which tools were
//!    used and what things were called, which is all that differs between two builds.
//! 2. [`compose`] plugs the exports of `exact-reference` into the imports of a block. What comes out
//!    imports `weights`, and exports the block and the reference's own tensors.
//! 3. [`interface`] is what a component imports and exports. Both of the above check it on their result.

use std::cell::Cell;
use std::fmt;

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, NodeId, PackageId};
use wasmparser::{Encoding, Parser, Payload, Validator};
use wit_component::ComponentEncoder;

/// What a composed block imports.
pub const WEIGHTS: &str = "ostrakon:plugin/weights@0.1.0";
/// What every component of a block exports.
pub const BLOCK: &str = "ostrakon:plugin/block@0.1.0";
/// Exported by a composed block too: the tensors that its block takes and gives.
pub const TENSOR: &str = "wasi:nn/tensor@0.2.0-rc-2024-10-28";

/// Most bytes of a component or core module that is read here.
pub const MAX_BYTES: usize = 64 << 20;
/// How deep components may lie inside each other.
const MAX_DEPTH: u32 = 8;

/// Why a component could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The bytes are not what the function takes.
    #[error("not a WebAssembly {wanted}: {reason}")]
    NotWasm {
        /// `component` or `core module`.
        wanted: &'static str,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// More bytes than anybody needs.
    #[error("{bytes} bytes of WebAssembly: at most {MAX_BYTES}")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// The core module has no world, or does not do what its world says.
    #[error(
        "the core module does not become a component: {0}. Build it with `ostrakon-guest` for wasm32-unknown-unknown"
    )]
    Encode(String),
    /// The two components do not fit together.
    #[error("the block does not fit the reference: {0}. Build both from the same `wit/`")]
    Compose(String),
    /// The result has other imports or exports than it must have.
    #[error("the composed component has {found}, it must have {wanted}")]
    Interface {
        /// What it has.
        found: Interface,
        /// What it must have.
        wanted: Interface,
    },
}

/// The names a component imports and exports, in its own order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Imports.
    pub imports: Vec<String>,
    /// Exports.
    pub exports: Vec<String>,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| if names.is_empty() { String::from("nothing") } else { names.join(", ") };
        write!(f, "the imports {} and the exports {}", list(&self.imports), list(&self.exports))
    }
}

/// Make a component of a core module that was built for `wasm32-unknown-unknown` with bindings.
///
/// # Errors
/// Bytes that are no core module, a module without a world or with imports that its world lacks.
pub fn componentize(core_wasm: &[u8]) -> Result<Vec<u8>, ComponentError> {
    let has_world = Cell::new(false);
    let keep = |name: &str| {
        let is_world = name.starts_with("component-type");
        has_world.set(has_world.get() || is_world);
        is_world
    };
    let module = strip(core_wasm, "core module", Parser::is_core_wasm, &keep)?;
    if !has_world.get() {
        return Err(ComponentError::Encode(String::from("it does not say which world it is for")));
    }
    let component = ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|error| ComponentError::Encode(format!("{error:#}")))?;
    finish(&component)
}

/// Plug `reference` (a build of `plugins/exact-reference`) into `block` (a component of the world
/// `model-block`): a component that imports [`WEIGHTS`] and exports [`TENSOR`] and [`BLOCK`], and
/// nothing else.
///
/// # Errors
/// Bytes that are no components, an import of the block that the reference does not export with the
/// same type, any import or export of the result that should not be there.
pub fn compose(block: &[u8], reference: &[u8]) -> Result<Vec<u8>, ComponentError> {
    let mut graph = CompositionGraph::new();
    let needed = interface(block)?.imports;
    let reference = register(&mut graph, "ostrakon:reference", reference)?;
    let block = register(&mut graph, "ostrakon:block", block)?;
    let reference = graph.instantiate(reference);
    let block = graph.instantiate(block);
    for name in &needed {
        let export = take(&mut graph, reference, name)?;
        graph.set_instantiation_argument(block, name, export).map_err(misfit)?;
    }
    // The tensors first: the block's types speak of them.
    for (instance, name) in [(reference, TENSOR), (block, BLOCK)] {
        let export = take(&mut graph, instance, name)?;
        graph.export(export, name).map_err(misfit)?;
    }
    let composed = graph.encode(EncodeOptions { processor: None, ..EncodeOptions::default() }).map_err(misfit)?;
    let composed = finish(&composed)?;

    let wanted = Interface { imports: vec![WEIGHTS.into()], exports: vec![TENSOR.into(), BLOCK.into()] };
    match interface(&composed)? {
        found if found == wanted => Ok(composed),
        found => Err(ComponentError::Interface { found, wanted }),
    }
}

/// What a component imports and exports.
///
/// # Errors
/// Bytes that are no component.
pub fn interface(component: &[u8]) -> Result<Interface, ComponentError> {
    let wanted = "component";
    bound(component)?;
    let not_wasm = |error: wasmparser::BinaryReaderError| ComponentError::NotWasm { wanted, reason: error.to_string() };
    let mut found = Interface { imports: Vec::new(), exports: Vec::new() };
    // How deep inside other components and modules the parser is; only the outermost counts.
    let mut depth = 0u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(not_wasm)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(ComponentError::NotWasm { wanted, reason: String::from("it is a core module") });
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    found.imports.push(import.map_err(not_wasm)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports {
                    found.exports.push(export.map_err(not_wasm)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn register(graph: &mut CompositionGraph, name: &str, component: &[u8]) -> Result<PackageId, ComponentError> {
    bound(component)?;
    let package = Package::from_bytes(name, None, component, graph.types_mut())
        .map_err(|error| ComponentError::NotWasm { wanted: "component", reason: format!("{error:#}") })?;
    graph.register_package(package).map_err(misfit)
}

fn take(graph: &mut CompositionGraph, instance: NodeId, name: &str) -> Result<NodeId, ComponentError> {
    graph.alias_instance_export(instance, name).map_err(misfit)
}

fn misfit(error: impl std::error::Error) -> ComponentError {
    // The cause says which function of which interface does not fit.
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    ComponentError::Compose(text)
}

/// A component without custom sections, validated as it will be used.
fn finish(component: &[u8]) -> Result<Vec<u8>, ComponentError> {
    let component = strip(component, "component", Parser::is_component, &|_| false)?;
    Validator::new().validate_all(&component).map_err(|error| ComponentError::Encode(error.to_string()))?;
    Ok(component)
}

fn bound(wasm: &[u8]) -> Result<(), ComponentError> {
    if wasm.len() > MAX_BYTES { Err(ComponentError::TooLarge { bytes: wasm.len() }) } else { Ok(()) }
}

/// A copy without the custom sections that are not to be kept, at any depth.
fn strip(
    wasm: &[u8],
    wanted: &'static str,
    is_wanted: fn(&[u8]) -> bool,
    keep: &dyn Fn(&str) -> bool,
) -> Result<Vec<u8>, ComponentError> {
    bound(wasm)?;
    if !is_wanted(wasm) {
        return Err(ComponentError::NotWasm { wanted, reason: String::from("other first bytes") });
    }
    strip_nested(wasm, keep, 0).map_err(|reason| ComponentError::NotWasm { wanted, reason })
}

fn strip_nested(wasm: &[u8], keep: &dyn Fn(&str) -> bool, depth: u32) -> Result<Vec<u8>, String> {
    const CUSTOM: u8 = 0;
    // In a component only; in a core module these numbers are other sections.
    const NESTED_MODULE: u8 = 1;
    const NESTED_COMPONENT: u8 = 4;
    if depth > MAX_DEPTH {
        return Err(format!("components inside each other more than {MAX_DEPTH} deep"));
    }
    let is_component = Parser::is_component(wasm);
    let truncated = || String::from("it ends in the middle of a section");
    let (header, mut rest) = wasm.split_at_checked(8).ok_or_else(truncated)?;
    let mut kept = header.to_vec();
    while let Some((&id, after)) = rest.split_first() {
        let (size, after) = leb128(after).ok_or_else(truncated)?;
        let (body, after) = after.split_at_checked(size).ok_or_else(truncated)?;
        rest = after;
        let nested;
        let body = match id {
            CUSTOM if !keep(custom_name(body).ok_or_else(truncated)?) => continue,
            NESTED_MODULE | NESTED_COMPONENT if is_component => {
                nested = strip_nested(body, keep, depth + 1)?;
                &nested
            }
            _ => body,
        };
        kept.push(id);
        push_leb128(&mut kept, body.len());
        kept.extend_from_slice(body);
    }
    Ok(kept)
}

fn custom_name(body: &[u8]) -> Option<&str> {
    let (size, rest) = leb128(body)?;
    std::str::from_utf8(rest.get(..size)?).ok()
}

/// A number of at most 32 bits, and what follows it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, bytes.get(i + 1..)?));
        }
    }
    None
}

fn push_leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
