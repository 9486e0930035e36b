//! A runtime: one engine, its linkers, its clock and its cache, shared by all plugins of a process.

use crate::admission::{self, AdmissionError, World};
use crate::cache::{CacheDir, EntryName};
use crate::error::bounded;
use crate::imports;
use crate::limits::{Limiter, Limits, Ticker};
use crate::plugin::Plugin;
use crate::profile::{Compiler, DeterminismProfile};
use crate::state::State;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// wasmtime refuses the profile on this machine.
    #[error("the WebAssembly engine cannot be set up on this machine: {0}")]
    Engine(String),
    /// The thread that keeps time cannot be started.
    #[error("the thread that keeps time limits cannot be started: {0}")]
    Ticker(std::io::Error),
}

/// Admits components. Cloning shares everything.
#[derive(Clone)]
pub struct Runtime(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) ticker: Ticker,
    pub(crate) limits: Limits,
    profile: DeterminismProfile,
    pub(crate) linkers: Linkers,
    cache: Option<CacheDir>,
}

/// What components may import, by world.
pub(crate) struct Linkers {
    pub(crate) model_block: Linker<State>,
    pub(crate) reference_block: Linker<State>,
    pub(crate) graph_block: Linker<State>,
    pub(crate) secret_sharing: Linker<State>,
    /// For worlds that import nothing.
    pub(crate) nothing: Linker<Limiter>,
}

impl Runtime {
    /// A runtime. `limits` is the operator's ceiling: no instance gets more, whatever it is made with.
    ///
    /// # Errors
    /// This machine cannot run the profile.
    pub fn new(compiler: Compiler, cache: Option<CacheDir>, limits: Limits) -> Result<Self, RuntimeError> {
        let failed = |error: wasmtime::Error| RuntimeError::Engine(format!("{error:#}"));
        let profile = DeterminismProfile::new(compiler);
        let engine = match profile.pooled().and_then(|config| Engine::new(&config)) {
            Ok(engine) => engine,
            // Too little address space, as with 39 bits on small boards: slower and otherwise the same.
            Err(_) => Engine::new(&profile.config().map_err(failed)?).map_err(failed)?,
        };
        let ticker = Ticker::start(&engine).map_err(RuntimeError::Ticker)?;
        let linkers = Linkers {
            model_block: imports::of_a_model_block(&engine).map_err(failed)?,
            reference_block: imports::of_a_reference_block(&engine).map_err(failed)?,
            graph_block: imports::of_a_graph_block(&engine).map_err(failed)?,
            secret_sharing: imports::of_secret_sharing(&engine).map_err(failed)?,
            nothing: imports::none(&engine),
        };
        Ok(Self(Arc::new(Shared { engine, ticker, limits, profile, linkers, cache })))
    }

    /// Its profile.
    pub fn profile(&self) -> DeterminismProfile {
        self.0.profile
    }

    /// Check, compile (or take from the cache) and link a component.
    ///
    /// # Errors
    /// A check that the component does not pass, or a type that does not fit its world.
    pub fn admit(&self, bytes: &[u8], world: World) -> Result<Plugin, AdmissionError> {
        admission::check(bytes, world)?;
        let component = self.compiled(bytes)?;
        Plugin::link(Arc::clone(&self.0), world, blake3::hash(bytes), &component)
    }

    fn compiled(&self, bytes: &[u8]) -> Result<Component, AdmissionError> {
        let entry = self.0.cache.as_ref().map(|cache| (cache, EntryName::new(&self.0.engine, self.0.profile, bytes)));
        if let Some((cache, name)) = entry
            && let Some(component) = cache.load(&self.0.engine, name)
        {
            return Ok(component);
        }
        let component = compile(&self.0.engine, bytes)?;
        if let Some((cache, name)) = entry {
            cache.store(name, &component);
        }
        Ok(component)
    }
}

/// Compile. A compiler is a large program at work on foreign bytes: should it panic, the node goes on. The
/// engine keeps nothing of a compilation that did not end.
fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, AdmissionError> {
    let compiled = std::panic::catch_unwind(AssertUnwindSafe(|| Component::from_binary(engine, bytes)));
    match compiled {
        Ok(Ok(component)) => Ok(component),
        Ok(Err(error)) => Err(AdmissionError::Compile(bounded(&format!("{error:#}")))),
        Err(_) => Err(AdmissionError::Compile("the compiler panicked: please report this component".to_owned())),
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runtime({})", self.0.profile.compiler().name())
    }
}
