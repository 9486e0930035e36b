//! Packages of the float tier: named tensors in, named tensors out.
//!
//! # How
//!
//! 1. The package is opened, which verifies every byte of it; its components are admitted as `graph-block`.
//! 2. Every graph is compiled once, and its inputs and outputs must be those that the manifest shows.
//! 3. A run sends the tensors through the blocks in order, each in an instance that runs nothing else. The outputs
//!    of a block are the inputs of the next one.
//!
//! Nothing here is the same to the bit on another machine: OpenVINO adds floats in an order of its own.

use crate::error::NodeError;
use crate::load::{Plugged, admit, start_arithmetic};
use crate::native;
use crate::options::{Arithmetic, RunOptions};
use crate::receipt::tensor_digest;
use ostrakon_engine::{Limits, World};
use ostrakon_nn::{Host, Port, Tensor};
use ostrakon_package::{Digest, Home, Manifest, Package, Tier, TrustPolicy};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A package of the float tier, ready to run.
pub struct FloatModel {
    package: Arc<Package>,
    profile: Digest,
    plugins: Plugged,
    host: Arc<Host>,
    limits: Limits,
    load: Duration,
}

/// What a run gives.
#[derive(Debug, Clone)]
pub struct FloatAnswer {
    /// By name.
    pub outputs: Vec<NamedOutput>,
    /// Of all blocks together.
    pub fuel: u64,
    /// What each block cost, in the order in which they ran.
    pub blocks: Vec<FloatCost>,
    /// All blocks.
    pub compute: Duration,
}

/// One output.
#[derive(Debug, Clone)]
pub struct NamedOutput {
    /// Its name.
    pub name: String,
    /// The tensor.
    pub tensor: Tensor,
    /// Of the tensor.
    pub digest: Digest,
}

/// What one block cost.
#[derive(Debug, Clone)]
pub struct FloatCost {
    /// Its name.
    pub name: String,
    /// Guest instructions and charges of host calls.
    pub fuel: u64,
    /// On the wall clock.
    pub time: Duration,
}

/// The tier of the package in `directory`, as its manifest has it; nothing is verified.
///
/// # Errors
/// There is no package, or its manifest is none.
pub fn tier(directory: &Path) -> Result<Tier, NodeError> {
    Ok(ostrakon_package::package::claimed_tier(directory)?)
}

/// Refuse a package of another tier than is wanted, with the reason.
pub(crate) fn expect_tier(manifest: &Manifest, wanted: Tier) -> Result<(), NodeError> {
    let name = &manifest.name;
    match (manifest.tier(), wanted) {
        (Tier::Exact, Tier::Float) => {
            Err(NodeError::Setting(format!("the package `{name}` takes texts, not tensors: give --text or --input")))
        }
        (Tier::Float, Tier::Exact) => Err(NodeError::Setting(format!(
            "the package `{name}` is of the float tier: it takes tensors (`ostrakon run {name} --tensor NAME=FILE.npy`), \
             no texts, and nothing that needs exact bytes (transcripts, traces, disputes, Freivalds) works with it"
        ))),
        _ => Ok(()),
    }
}

impl FloatModel {
    /// Open the package in `directory` under `policy` and make it ready.
    ///
    /// # Errors
    /// When the package is refused or not of the float tier, or anything it needs does not start.
    pub fn load(directory: &Path, policy: &TrustPolicy, home: &Home, options: &RunOptions) -> Result<Self, NodeError> {
        let start = Instant::now();
        let package = Arc::new(Package::open(directory, policy)?);
        expect_tier(package.manifest(), Tier::Float)?;
        if options.arithmetic == Arithmetic::Reference {
            let text = "graphs in floating point are run by OpenVINO: there is no reference arithmetic for them";
            return Err(NodeError::Setting(text.to_owned()));
        }
        let (profile, plugins) = admit(&package, home, options, World::GraphBlock)?;
        let (executor, backend) = start_arithmetic(options, |executor| native::named("cpu", executor, home))?;
        let host = Host::new(executor, backend, Arc::clone(&package) as _).with_openvino(home.openvino());
        for entry in &package.manifest().graphs {
            let failed = |reason: String| NodeError::Graph { name: entry.name.clone(), reason };
            let graph = host.graph(&entry.name).map_err(|error| failed(error.to_string()))?;
            let shown: Vec<Port> = entry.inputs.iter().chain(&entry.outputs).map(|port| port.port()).collect();
            if !shown.iter().eq(graph.inputs().iter().chain(graph.outputs())) {
                return Err(failed("it has other inputs or outputs than its package says".to_owned()));
            }
        }
        let (host, limits) = (Arc::new(host), options.limits);
        Ok(Self { package, profile, plugins, host, limits, load: start.elapsed() })
    }

    /// Run the blocks on these tensors.
    ///
    /// # Errors
    /// A block fails or refuses its inputs.
    pub fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<FloatAnswer, NodeError> {
        let start = Instant::now();
        let manifest = self.package.manifest();
        let mut tensors = inputs;
        let mut blocks = Vec::new();
        for block in &manifest.blocks {
            let start = Instant::now();
            let failed = |source| NodeError::Block { block: block.name.clone(), source };
            // The manifest was validated: its component is there.
            let Some(plugin) = self.plugins.get(&block.component) else { continue };
            let mut instance = plugin.instantiate(Arc::clone(&self.host), self.limits).map_err(failed)?;
            let session = instance.open(&block.name, &block.settings).map_err(failed)?;
            let done = instance.compute(session, tensors).map_err(failed)?;
            tensors = done.outputs;
            blocks.push(FloatCost { name: block.name.clone(), fuel: done.fuel, time: start.elapsed() });
        }
        let named = |(name, tensor): (String, Tensor)| NamedOutput { digest: tensor_digest(&tensor), name, tensor };
        Ok(FloatAnswer {
            outputs: tensors.into_iter().map(named).collect(),
            fuel: blocks.iter().fold(0, |sum, block| sum.saturating_add(block.fuel)),
            blocks,
            compute: start.elapsed(),
        })
    }

    /// The package's name.
    pub fn name(&self) -> &str {
        &self.package.manifest().name
    }

    /// The package's digest.
    pub fn digest(&self) -> Digest {
        self.package.digest()
    }

    /// The package's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.package.manifest()
    }

    /// The digest of the determinism profile: equal profiles give equal fuel.
    pub const fn profile(&self) -> Digest {
        self.profile
    }

    /// How long it took to make it ready.
    pub const fn load_time(&self) -> Duration {
        self.load
    }
}
