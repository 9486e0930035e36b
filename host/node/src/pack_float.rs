//! From model files to a signed package of the float tier.
//!
//! The files travel as they are. OpenVINO reads each once, here, to say what goes in and what comes out; so packing
//! parses the model in this process, and should be done with models that one would run.

use crate::error::{NodeError, file_error};
use crate::pack::{PackOptions, Packed, describe, place};
use crate::plugins::{GRAPH_BLOCK, Plugins};
use crate::progress::{Event, Watcher};
use ostrakon_nn::{Encoding, RawGraph, float};
use ostrakon_package::{
    Home, ImportedFloatModel, ImportedGraph, NamedComponent, Tolerance, load_or_create_key, manifest,
    write_float_package,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A float model in files.
#[derive(Debug, Clone)]
pub struct FloatSource {
    /// The package's name.
    pub name: String,
    /// The licence of the weights.
    pub licence: String,
    /// Where they came from.
    pub source: String,
    /// How far machines may differ.
    pub tolerance: Tolerance,
    /// The pieces, in the order in which they run.
    pub pieces: Vec<Piece>,
}

/// One graph in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// `.onnx`, or `.xml` with a `.bin` of the same name beside it.
    pub file: PathBuf,
    /// What its block is opened with beside the graph's name.
    pub settings: Vec<(String, String)>,
}

/// Pack a float model.
///
/// # Errors
/// When a file cannot be read or is no graph, there is no OpenVINO, or the package cannot be made or written.
pub fn pack(source: &FloatSource, options: &PackOptions, home: &Home, watch: Watcher<'_>) -> Result<Packed, NodeError> {
    let start = Instant::now();
    if options.shards != 1 {
        let text = "every graph of a float package is a shard: cut the model into files and give them in order";
        return Err(NodeError::Setting(text.to_owned()));
    }
    let block = Plugins::find(options.plugins.as_deref())?.read(GRAPH_BLOCK)?;
    let signer = load_or_create_key(home)?;
    let mut graphs = Vec::new();
    for (at, piece) in source.pieces.iter().enumerate() {
        watch(Event::Step(format!("reading {}", piece.file.display())));
        let name = if source.pieces.len() == 1 { "graph".to_owned() } else { format!("graph-{at}") };
        graphs.push(graph(name, piece, home)?);
    }
    watch(Event::Step("writing and checking the package".into()));
    let FloatSource { name, licence, source, tolerance, .. } = source.clone();
    let model = ImportedFloatModel { name, licence, source, tolerance, graphs };
    let component = NamedComponent { name: GRAPH_BLOCK.into(), wasm: block };
    let write = |out: &Path| write_float_package(&model, &component, out, &signer);
    let path = place(&model.name, options, home, &signer, &write)?;
    describe(&path, &signer, start)
}

fn graph(name: String, piece: &Piece, home: &Home) -> Result<ImportedGraph, NodeError> {
    let file = &piece.file;
    let encoding = match file.extension().and_then(|ending| ending.to_str()) {
        Some("onnx") => Encoding::Onnx,
        Some("xml") => Encoding::OpenVino,
        _ => {
            let shown = file.display();
            return Err(NodeError::Setting(format!(
                "{shown} is neither a .onnx nor a .xml file: a model is one of them"
            )));
        }
    };
    let model = read(file)?;
    let beside = file.with_extension("bin");
    let weights = (encoding == Encoding::OpenVino && beside.is_file()).then(|| read(&beside)).transpose()?;
    let weights = weights.filter(|bytes| !bytes.is_empty());
    let raw = RawGraph {
        encoding,
        model: Box::new(model.clone()),
        weights: weights.clone().map(|bytes| Box::new(bytes) as float::Bytes),
    };
    let failed =
        |error: ostrakon_nn::NnError| NodeError::Graph { name: file.display().to_string(), reason: error.to_string() };
    let (inputs, outputs) = float::ports(&raw, Some(home.openvino())).map_err(failed)?;
    Ok(ImportedGraph { name, encoding, model, weights, inputs, outputs, settings: piece.settings.clone() })
}

fn read(file: &Path) -> Result<Vec<u8>, NodeError> {
    let length = fs::metadata(file).map_err(file_error("read", file))?.len();
    if length > manifest::MAX_WEIGHTS {
        return Err(NodeError::Setting(format!("{} has {length} bytes: too many for a package", file.display())));
    }
    fs::read(file).map_err(file_error("read", file))
}
