//! Writing a package of graphs in floating point.

use std::{fs, path::Path};

use ostrakon_nn::{Encoding, Port};
use ostrakon_protocol::{Digest, SigningKey};

use crate::{
    error::PackageError,
    graphs::{GraphEntry, PortEntry, SETTING, Tolerance},
    manifest::{self, Block, ComponentEntry, FileEntry, Manifest, Shard},
    model::NamedComponent,
    write::{make_directories, write_directory, write_file, write_manifest},
};

/// Where graphs are.
pub(crate) const GRAPHS: &str = "graphs";

/// A float model, ready to be written as a package: graphs that run one after another.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedFloatModel {
    /// The package's name.
    pub name: String,
    /// The licence of the weights, as an SPDX expression.
    pub licence: String,
    /// Where the weights came from, for people.
    pub source: String,
    /// How far machines may differ.
    pub tolerance: Tolerance,
    /// The graphs in the order in which they run, one a block.
    pub graphs: Vec<ImportedGraph>,
}

/// One graph.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedGraph {
    /// Its name, and its block's.
    pub name: String,
    /// How it is written down.
    pub encoding: Encoding,
    /// The graph.
    pub model: Vec<u8>,
    /// Its weights, for OpenVINO's IR.
    pub weights: Option<Vec<u8>>,
    /// What goes in.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
    /// What the block is opened with beside the graph's name.
    pub settings: Vec<(String, String)>,
}

/// Write `model` as a package signed by `signer` to the directory `out`; `component` runs its blocks. Every block is
/// a shard.
///
/// # Errors
/// The model contradicts itself, or `out` is something else's.
pub fn write_float_package(
    model: &ImportedFloatModel,
    component: &NamedComponent,
    out: &Path,
    signer: &SigningKey,
) -> Result<Digest, PackageError> {
    write_directory(out, signer, |staging| write_files(model, component, staging, signer))
}

fn write_files(
    model: &ImportedFloatModel,
    component: &NamedComponent,
    directory: &Path,
    signer: &SigningKey,
) -> Result<Digest, PackageError> {
    // Names become file names below, so they are checked before the manifest is.
    for name in model.graphs.iter().map(|graph| &graph.name).chain([&component.name]) {
        crate::names::check_name("component or graph", name).map_err(PackageError::Model)?;
    }
    make_directories(directory)?;
    let graphs = directory.join(GRAPHS);
    fs::create_dir(&graphs).map_err(PackageError::io(&graphs, "make the directory"))?;
    let runs = write_file(directory, &format!("components/{}.wasm", component.name), &component.wasm)?;
    let FileEntry { file, blake3, bytes } = runs;
    let components = vec![ComponentEntry { name: component.name.clone(), file, blake3, bytes }];
    let mut entries = Vec::new();
    for graph in &model.graphs {
        let ending = if graph.encoding == Encoding::Onnx { "onnx" } else { "xml" };
        let name = |ending: &str| format!("{GRAPHS}/{}.{ending}", graph.name);
        let FileEntry { file, blake3, bytes } = write_file(directory, &name(ending), &graph.model)?;
        let weights = graph.weights.as_ref().map(|weights| write_file(directory, &name("bin"), weights)).transpose()?;
        entries.push(GraphEntry {
            name: graph.name.clone(),
            encoding: graph.encoding.name().to_owned(),
            file,
            blake3,
            bytes,
            weights,
            inputs: graph.inputs.iter().map(PortEntry::from).collect(),
            outputs: graph.outputs.iter().map(PortEntry::from).collect(),
        });
    }
    let block = |graph: &ImportedGraph| Block {
        name: graph.name.clone(),
        component: component.name.clone(),
        settings: [(SETTING.to_owned(), graph.name.clone())].into_iter().chain(graph.settings.clone()).collect(),
        weights: None,
        layers: Vec::new(),
    };
    let shard =
        |(at, graph): (usize, &ImportedGraph)| Shard { name: format!("shard-{at}"), blocks: vec![graph.name.clone()] };
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: model.name.clone(),
        family: "graph".to_owned(),
        licence: model.licence.clone(),
        source: model.source.clone(),
        max_tokens: None,
        tokenizer: None,
        generation: None,
        tolerance: Some(model.tolerance),
        components,
        graphs: entries,
        blocks: model.graphs.iter().map(block).collect(),
        shards: model.graphs.iter().enumerate().map(shard).collect(),
    };
    write_manifest(&manifest, directory, signer)
}
