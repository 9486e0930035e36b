//! Finds built plugins: components that `make plugins` leaves in `build/plugins`.
//!
//! A package carries its components, so only packing a model and running the reference arithmetic
//! look here.

use ostrakon_package::files::read_regular;
use std::path::{Path, PathBuf};

/// The component that runs BERT-family blocks.
pub const BLOCK_BERT: &str = "block-bert";
/// The component that runs Llama-family blocks.
pub const BLOCK_LLAMA: &str = "block-llama";
/// The component that runs a graph in floating point.
pub const GRAPH_BLOCK: &str = "graph-block";
/// The arithmetic in plain WebAssembly, to be composed with a block.
pub const EXACT_REFERENCE: &str = "exact-reference";
/// The component that judges receipts.
pub const VERIFIER: &str = "verifier";
/// The component that chooses who runs what.
pub const SCHEDULER: &str = "scheduler";
/// The component that splits activations among servers.
pub const SECRET_SHARING: &str = "secret-sharing";

/// Largest component that is read.
const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// A directory with built plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins(PathBuf);

/// A plugin could not be found or read.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No directory has it.
    #[error("the plugins are not built: {looked}")]
    NoDirectory {
        /// Where they were looked for.
        looked: String,
    },
    /// The directory lacks one.
    #[error("the plugin `{name}` cannot be read from {path}: {reason}")]
    Missing {
        /// Which.
        name: String,
        /// Where it should be.
        path: String,
        /// The system's word.
        reason: String,
    },
}

impl Plugins {
    /// `given` if there is one; else `build/plugins` of the working directory, of the executable's
    /// directory or of a directory above one of them; else `share/ostrakon/plugins` next to the
    /// executable's directory.
    ///
    /// # Errors
    /// When none of these is a directory.
    pub fn find(given: Option<&Path>) -> Result<Self, PluginError> {
        if let Some(given) = given {
            return if given.is_dir() {
                Ok(Self(given.to_owned()))
            } else {
                Err(PluginError::NoDirectory { looked: format!("{} is not a directory", given.display()) })
            };
        }
        let working = std::env::current_dir().ok();
        let executable = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let above = working.iter().chain(&executable).flat_map(|from| from.ancestors());
        let built = above.map(|directory| directory.join("build/plugins"));
        let shared = executable.iter().filter_map(|e| e.parent()).map(|prefix| prefix.join("share/ostrakon/plugins"));
        built.chain(shared).find(|directory| directory.is_dir()).map(Self).ok_or_else(|| PluginError::NoDirectory {
            looked: "there is no build/plugins here, where the program is, or above".into(),
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Where the plugin called `name` lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.wasm"))
    }

    /// Where all plugins lie, in order. A directory that cannot be read has none.
    pub fn all(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(&self.0) else { return Vec::new() };
        let component =
            |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wasm") && path.is_file();
        let mut all: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(component).collect();
        all.sort();
        all
    }

    /// The plugin called `name`.
    ///
    /// # Errors
    /// When it is not there or larger than any component may be.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, PluginError> {
        let path = self.path(name);
        read_component(&path).map_err(|reason| PluginError::Missing {
            name: name.into(),
            path: path.display().to_string(),
            reason,
        })
    }
}

/// A component file, bounded.
pub(crate) fn read_component(path: &Path) -> Result<Vec<u8>, String> {
    read_regular(path, MAX_COMPONENT_BYTES).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_directory_wins_and_must_exist() {
        let directory = tempfile::tempdir().unwrap();
        let plugins = Plugins::find(Some(directory.path())).unwrap();
        std::fs::write(plugins.path("x"), "wasm").unwrap();
        assert_eq!(plugins.read("x").unwrap(), b"wasm");
        let error = plugins.read("y").unwrap_err().to_string();
        assert!(error.contains("y.wasm"), "{error}");
        assert!(Plugins::find(Some(Path::new("/no/such/directory"))).is_err());
    }
}
