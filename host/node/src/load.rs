//! Makes a package ready to run.
//!
//! # How
//!
//! 1. The package is opened, which verifies every byte of it. Meanwhile the arithmetic of this
//!    machine starts and proves itself.
//! 2. Every component is admitted and compiled (or found compiled). Meanwhile the tokenizer is parsed.
//! 3. Every block gets an instance of its own with a session in it, and a fresh one whenever it has been used:
//!    what a block costs and gives is then a matter of the block and its input, and never of what ran before.
//!
//! The steps run side by side because together they are what a person waits for at the start.

use crate::NodeError;
use crate::float::expect_tier;
use crate::native;
use crate::options::{Arithmetic, RunOptions};
use crate::plugins::{EXACT_REFERENCE, Plugins};
use crate::tokens::Tokens;
use ostrakon_engine::{CacheDir, CacheError, CallError, Forward, Instance, Limits, Plugin, Runtime, SessionId, World};
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_nn::{BackendError, Host, Observer, ProvenBackend, SequencePast, Tensor};
use ostrakon_package::{Digest, Home, Manifest, Package, Tier, TrustPolicy};
use ostrakon_protocol::{Batch, Receipt, Step};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A package ready to run.
pub struct Model {
    pub(crate) package: Arc<Package>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) profile: Digest,
    pub(crate) backend: &'static str,
    pub(crate) blocks: Vec<OpenBlock>,
    pub(crate) bench: Bench,
    pub(crate) load: LoadTimes,
}

/// A block, ready to run once.
pub(crate) struct OpenBlock {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) shard: String,
    /// The component that runs it.
    pub(crate) component: Digest,
    settings: Vec<(String, String)>,
    plugin: Plugin,
    /// Taken by the run.
    fresh: Option<(Instance, SessionId)>,
    /// What the run left of it, to be cleared away when nobody waits.
    spent: Option<Instance>,
    /// What goes on from earlier rows, call after call.
    used: Option<(Instance, SessionId)>,
}

impl OpenBlock {
    /// What a receipt says of it.
    pub(crate) fn step(&self, input: Digest, output: Digest, fuel: u64) -> Step {
        Step { block: self.name.clone(), component: self.component, input, output, fuel }
    }

    /// Run it, in an instance that runs nothing else.
    pub(crate) fn forward(&mut self, on: &Bench, input: Tensor, lengths: &Tensor) -> Result<Forward, NodeError> {
        let (mut instance, session) = match self.fresh.take() {
            Some(fresh) => fresh,
            None => self.open(on)?,
        };
        let done = instance.forward(session, input, lengths).map_err(|source| self.failed(source));
        self.spent = Some(instance);
        done
    }

    /// Run it on later rows of sequences, in the instance that ran it before, if there is one. What it costs is then not a matter
    /// of the input alone; what it gives is.
    pub(crate) fn forward_on(
        &mut self,
        on: &Bench,
        input: Tensor,
        lengths: &Tensor,
        past: Vec<SequencePast>,
    ) -> Result<(Forward, Vec<SequencePast>), NodeError> {
        let (mut instance, session) = match self.used.take().or_else(|| self.fresh.take()) {
            Some(instance) => instance,
            None => self.open(on)?,
        };
        let done = instance.forward_on(session, input, lengths, past).map_err(|source| self.failed(source))?;
        self.used = Some((instance, session));
        Ok(done)
    }

    /// Make a fresh instance, if there is none, and clear away the one before it.
    pub(crate) fn make_ready(&mut self, on: &Bench) -> Result<(), NodeError> {
        self.spent = None;
        if self.fresh.is_none() {
            self.fresh = Some(self.open(on)?);
        }
        Ok(())
    }

    fn open(&self, on: &Bench) -> Result<(Instance, SessionId), NodeError> {
        let failed = |source| self.failed(source);
        let mut instance = self.plugin.instantiate(Arc::clone(&on.host), on.limits).map_err(failed)?;
        let session = instance.open(&self.name, &self.settings).map_err(failed)?;
        Ok((instance, session))
    }

    fn failed(&self, source: CallError) -> NodeError {
        NodeError::Block { block: self.name.clone(), source }
    }
}

/// What instances of blocks are made on.
pub(crate) struct Bench {
    pub(crate) host: Arc<Host>,
    limits: Limits,
}

/// Where the time of loading went. Steps overlap, so their sum may exceed `total`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadTimes {
    /// Opening and verifying the package.
    pub verify: Duration,
    /// Starting the arithmetic and its self-test.
    pub arithmetic: Duration,
    /// Parsing the tokenizer.
    pub tokenizer: Duration,
    /// Admitting and compiling the components.
    pub components: Duration,
    /// Making instances and preparing layers.
    pub open: Duration,
    /// From the first step to the last.
    pub total: Duration,
}

impl Model {
    /// Open the package in `directory` under `policy` and make it ready.
    ///
    /// # Errors
    /// When the package is refused, or anything it needs does not start.
    pub fn load(directory: &Path, policy: &TrustPolicy, home: &Home, options: &RunOptions) -> Result<Self, NodeError> {
        Self::load_on(directory, policy, home, options, |executor| native::start(options.arithmetic, executor, home))
    }

    /// Likewise, with the integer products done by what `backend` makes.
    pub(crate) fn load_on(
        directory: &Path,
        policy: &TrustPolicy,
        home: &Home,
        options: &RunOptions,
        backend: impl FnOnce(&Arc<Executor>) -> Result<ProvenBackend, BackendError> + Send,
    ) -> Result<Self, NodeError> {
        Self::load_observed(directory, policy, home, options, backend, None)
    }

    /// Likewise, with somebody who is told of every operation.
    pub(crate) fn load_observed(
        directory: &Path,
        policy: &TrustPolicy,
        home: &Home,
        options: &RunOptions,
        backend: impl FnOnce(&Arc<Executor>) -> Result<ProvenBackend, BackendError> + Send,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, NodeError> {
        let start = Instant::now();
        thread::scope(|scope| {
            let arithmetic = scope.spawn(|| timed(|| start_arithmetic(options, backend)));
            let (package, verify) = timed(|| Package::open(directory, policy));
            let package = Arc::new(package?);
            expect_tier(package.manifest(), Tier::Exact)?;
            let tokens = scope.spawn({
                let package = Arc::clone(&package);
                move || timed(|| tokenizer(&package))
            });
            let (plugins, components) = timed(|| admit(&package, home, options, World::ModelBlock));
            let (profile, plugins) = plugins?;
            let (host, arithmetic) = joined(arithmetic);
            let (executor, backend) = host?;
            let backend_name = match options.arithmetic {
                Arithmetic::Native(_) => backend.name(),
                Arithmetic::Reference => "reference",
            };
            let host = Host::new(executor, backend, Arc::clone(&package) as _);
            let host = Arc::new(match observer {
                Some(observer) => host.observed_by(observer),
                None => host,
            });
            let bench = Bench { host, limits: options.limits };
            let (blocks, open) = timed(|| open_blocks(&package, &plugins, &bench));
            let blocks = blocks?;
            let (tokens, tokenizer) = joined(tokens);
            let load = LoadTimes { verify, arithmetic, tokenizer, components, open, total: start.elapsed() };
            Ok(Self { package, tokens: Arc::new(tokens?), profile, backend: backend_name, blocks, bench, load })
        })
    }

    /// Make a fresh instance of each block that has been used. The next run would; this is for a moment when nobody
    /// waits.
    ///
    /// # Errors
    /// A component does not start.
    pub fn make_ready(&mut self) -> Result<(), NodeError> {
        self.blocks.iter_mut().try_for_each(|block| block.make_ready(&self.bench))
    }

    /// Let the backend prepare all layers once more, for the next run.
    pub(crate) fn forget_layers(&mut self) {
        let (executor, backend) = (Arc::clone(self.bench.host.executor()), self.bench.host.backend().clone());
        self.bench.host = Arc::new(Host::new(executor, backend, Arc::clone(&self.package) as _));
        for block in &mut self.blocks {
            (block.fresh, block.used, block.spent) = (None, None, None);
        }
    }

    /// The package's name.
    pub fn name(&self) -> &str {
        &self.package.manifest().name
    }

    /// The package's digest.
    pub fn digest(&self) -> Digest {
        self.package.digest()
    }

    /// Whether it is what the receipt is of.
    ///
    /// # Errors
    /// It is another package.
    pub(crate) fn expect_package(&self, receipt: &Receipt) -> Result<(), NodeError> {
        if self.digest() == receipt.package {
            return Ok(());
        }
        Err(NodeError::Setting(format!(
            "the receipt is of the package {}, this one is {}",
            receipt.package,
            self.digest()
        )))
    }

    /// Whether the steps of a batch are exactly the package's blocks, in order.
    pub(crate) fn is_of_all_blocks(&self, batch: &Batch) -> bool {
        batch.steps().map(|(_, step)| &step.block).eq(self.blocks.iter().map(|block| &block.name))
    }

    /// The digest of the determinism profile: equal profiles give equal fuel.
    pub const fn profile(&self) -> Digest {
        self.profile
    }

    /// The package's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.package.manifest()
    }

    /// What answers the components: the package's layers, the backend, the operations.
    pub fn host(&self) -> Arc<Host> {
        Arc::clone(&self.bench.host)
    }

    /// What computes: the name of the backend, or `reference`.
    pub const fn backend(&self) -> &'static str {
        self.backend
    }

    /// Where the time of loading went.
    pub const fn load_times(&self) -> LoadTimes {
        self.load
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// A panic in a helper thread goes on in this one.
fn joined<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(crate) fn start_arithmetic(
    options: &RunOptions,
    backend: impl FnOnce(&Arc<Executor>) -> Result<ProvenBackend, BackendError>,
) -> Result<(Arc<Executor>, ProvenBackend), NodeError> {
    let failed = |e: &dyn std::fmt::Display| NodeError::Arithmetic(e.to_string());
    let level = options.simd.unwrap_or_else(Level::detect);
    let executor = Arc::new(Executor::new(level, options.thread_count()).map_err(|e| failed(&e))?);
    let backend = backend(&executor).map_err(|e| failed(&e))?;
    Ok((executor, backend))
}

fn tokenizer(package: &Package) -> Result<Tokens, NodeError> {
    // A package of the exact tier has both.
    let limit = usize::try_from(package.manifest().max_tokens.unwrap_or_default()).unwrap_or(usize::MAX);
    Ok(Tokens::load(package.tokenizer().unwrap_or_default(), limit)?)
}

/// The runtime of these options, with its cache of compiled components.
pub(crate) fn runtime(home: &Home, options: &RunOptions) -> Result<Runtime, NodeError> {
    // Without a cache everything is compiled anew and works; `doctor` says why there is none.
    let cache = compiled_code(home).ok();
    Runtime::new(options.compiler, cache, options.limits).map_err(|e| NodeError::Engine(e.to_string()))
}

/// The cache of compiled components.
pub(crate) fn compiled_code(home: &Home) -> Result<CacheDir, CacheError> {
    CacheDir::open(home.cache.join("compiled"))
}

/// Components by name.
pub(crate) type Plugged = BTreeMap<String, Plugin>;

/// Admit the components of a package to `world`, or composed with the reference arithmetic.
pub(crate) fn admit(
    package: &Package,
    home: &Home,
    options: &RunOptions,
    world: World,
) -> Result<(Digest, Plugged), NodeError> {
    let runtime = runtime(home, options)?;
    let mut profile = Digest::from_bytes(*runtime.profile().digest().as_bytes());
    let reference = match options.arithmetic {
        Arithmetic::Native(_) => None,
        Arithmetic::Reference => Some(Plugins::find(options.plugins.as_deref())?.read(EXACT_REFERENCE)?),
    };
    if let Some(reference) = &reference {
        profile = crate::swarm::known::reference_profile(&profile, reference);
    }
    let mut plugins = BTreeMap::new();
    for entry in &package.manifest().components {
        let Some(bytes) = package.component(&entry.name) else { continue };
        let admitted = match &reference {
            None => runtime.admit(bytes, world),
            Some(reference) => {
                let composed = crate::component::compose(&entry.name, bytes, reference)?;
                runtime.admit(&composed, World::ReferenceBlock)
            }
        };
        let plugin = admitted.map_err(|source| NodeError::Admission { name: entry.name.clone(), source })?;
        plugins.insert(entry.name.clone(), plugin);
    }
    Ok((profile, plugins))
}

fn open_blocks(package: &Package, plugins: &Plugged, bench: &Bench) -> Result<Vec<OpenBlock>, NodeError> {
    let manifest = package.manifest();
    let mut blocks = Vec::new();
    for shard in &manifest.shards {
        for name in &shard.blocks {
            // The manifest was validated: every block and every component it names is there.
            let Some(block) = manifest.block(name) else { continue };
            let Some(plugin) = plugins.get(&block.component) else { continue };
            let Some(component) = manifest.component(&block.component) else { continue };
            let mut open = OpenBlock {
                name: name.clone(),
                kind: block.setting("kind").unwrap_or("block").to_owned(),
                shard: shard.name.clone(),
                component: component.blake3,
                settings: block.settings.clone(),
                plugin: plugin.clone(),
                fresh: None,
                spent: None,
                used: None,
            };
            open.fresh = Some(open.open(bench)?);
            blocks.push(open);
        }
    }
    Ok(blocks)
}
