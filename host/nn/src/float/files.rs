//! Graphs in a directory of the operator's, by name: for hosts that serve graphs without a package.

use super::{Encoding, RawGraph};
use crate::layers::check_name;
use crate::{LayerSource, LayerSourceError, NnError, RawLayer};
use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file of a graph.
const MOST: u64 = 4 << 30;

/// Directories with a graph each: `model.onnx`, or `model.xml` with `model.bin`. A graph has the name of its
/// directory. Files are read when a graph is first asked for.
#[derive(Debug, Clone, Default)]
pub struct GraphFiles(HashMap<String, PathBuf>);

impl GraphFiles {
    /// No graphs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All directories in `root` that hold a graph.
    ///
    /// # Errors
    /// `root` cannot be read; a directory's name is not the name of a graph.
    pub fn below(root: &Path) -> Result<Self, NnError> {
        let failed = |error: std::io::Error| NnError::Runtime(format!("{}: {error}", root.display()));
        let mut files = Self::new();
        for entry in fs::read_dir(root).map_err(failed)? {
            let directory = entry.map_err(failed)?.path();
            if encoding_in(&directory).is_some() {
                files.insert(&directory)?;
            }
        }
        Ok(files)
    }

    /// Add the graph in `directory`, under that directory's name.
    ///
    /// # Errors
    /// There is none in it, or its name is not the name of a graph.
    pub fn insert(&mut self, directory: &Path) -> Result<(), NnError> {
        if encoding_in(directory).is_none() {
            let shown = directory.display();
            return Err(NnError::NotFound(format!("{shown} has neither model.onnx nor model.xml and model.bin")));
        }
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        check_name(name)?;
        self.0.insert(name.to_owned(), directory.to_owned());
        Ok(())
    }
}

fn encoding_in(directory: &Path) -> Option<Encoding> {
    let has = |file: &str| directory.join(file).is_file();
    if has("model.onnx") {
        Some(Encoding::Onnx)
    } else {
        (has("model.xml") && has("model.bin")).then_some(Encoding::OpenVino)
    }
}

impl LayerSource for GraphFiles {
    fn raw(&self, name: &str) -> Result<RawLayer, LayerSourceError> {
        Err(LayerSourceError::NotFound { name: name.to_owned() })
    }

    fn graph(&self, name: &str) -> Result<Option<RawGraph>, LayerSourceError> {
        let Some(directory) = self.0.get(name) else { return Ok(None) };
        let unreadable = |reason: String| LayerSourceError::Unreadable { name: name.to_owned(), reason };
        let read = |file: &str| {
            let path = directory.join(file);
            let mut bytes = Vec::new();
            let open = fs::File::open(&path).map_err(|error| unreadable(error.to_string()))?;
            open.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
            if bytes.len() as u64 > MOST {
                return Err(unreadable(format!("{} has more than {MOST} bytes", path.display())));
            }
            Ok(Box::new(bytes) as super::Bytes)
        };
        let encoding = encoding_in(directory).ok_or_else(|| unreadable("its files are gone".to_owned()))?;
        Ok(Some(match encoding {
            Encoding::Onnx => RawGraph { encoding, model: read("model.onnx")?, weights: None },
            Encoding::OpenVino => RawGraph { encoding, model: read("model.xml")?, weights: Some(read("model.bin")?) },
        }))
    }
}
