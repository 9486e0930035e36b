//! Components as files: made from core modules, and composed with the reference arithmetic.

use crate::error::{NodeError, file_error};
use crate::plugins::read_component;
use ostrakon_package::component as make;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// A component that was written.
#[derive(Debug, Clone, Serialize)]
pub struct Built {
    /// Where.
    pub path: String,
    /// Its size.
    pub bytes: usize,
    /// BLAKE3 of its bytes.
    pub digest: String,
    /// What it imports.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
}

/// Turn the core module at `core` into a component at `out`.
///
/// # Errors
/// When a file cannot be read or written, or the module is no plugin.
pub fn build_file(core: &Path, out: &Path) -> Result<Built, NodeError> {
    let module = read(core)?;
    write(out, &make::componentize(&module).map_err(|e| refused(core, &e))?)
}

/// Compose the block at `block` with the arithmetic at `reference` into a component at `out`.
///
/// # Errors
/// When a file cannot be read or written, or the two do not fit.
pub fn compose_files(block: &Path, reference: &Path, out: &Path) -> Result<Built, NodeError> {
    let composed = make::compose(&read(block)?, &read(reference)?).map_err(|e| refused(block, &e))?;
    write(out, &composed)
}

/// `block` with its arithmetic replaced by `reference`.
pub(crate) fn compose(name: &str, block: &[u8], reference: &[u8]) -> Result<Vec<u8>, NodeError> {
    make::compose(block, reference).map_err(|e| refused(Path::new(name), &e))
}

fn refused(path: &Path, error: &dyn std::fmt::Display) -> NodeError {
    NodeError::Component { what: path.display().to_string(), reason: error.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, NodeError> {
    read_component(path).map_err(|reason| NodeError::Component { what: path.display().to_string(), reason })
}

/// Written beside its place and renamed, so that nobody ever reads half of it.
fn write(out: &Path, component: &[u8]) -> Result<Built, NodeError> {
    let interface = make::interface(component).map_err(|e| refused(out, &e))?;
    let directory = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(file_error("make the directory", directory))?;
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(file_error("write", out))?;
    file.write_all(component).map_err(file_error("write", out))?;
    file.persist(out).map_err(|e| file_error("write", out)(e.error))?;
    Ok(Built {
        path: out.display().to_string(),
        bytes: component.len(),
        digest: blake3::hash(component).to_hex().to_string(),
        imports: interface.imports,
        exports: interface.exports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let core = directory.path().join("core.wasm");
        std::fs::write(&core, "not wasm").unwrap();
        let out = directory.path().join("out.wasm");
        let error = build_file(&core, &out).unwrap_err().to_string();
        assert!(error.contains("core.wasm"), "{error}");
        assert!(!out.exists());
        let error = build_file(&directory.path().join("none"), &out).unwrap_err().to_string();
        assert!(error.contains("none"), "{error}");
    }
}
