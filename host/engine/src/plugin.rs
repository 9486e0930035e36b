//! A plugin: a component that was admitted, compiled and linked. Instances are made from it.

use crate::admission::{AdmissionError, World, interface};
use crate::error::{CallError, HostFault, bounded, classify_instantiation};
use crate::instance::Instance;
use crate::limits::{Limits, Ticker};
use crate::runtime::Shared;
use crate::signature;
use crate::state::State;
use ostrakon_nn::Host;
use std::sync::Arc;
use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

/// Cloning shares the compiled code.
#[derive(Clone)]
pub struct Plugin {
    shared: Arc<Shared>,
    world: World,
    digest: blake3::Hash,
    linked: InstancePre<State>,
    exports: Arc<Exports>,
}

/// Where the functions that the host calls are, looked up once.
pub(crate) struct Exports {
    pub(crate) open: ComponentExportIndex,
    pub(crate) forward: ComponentExportIndex,
    /// Only of a component that brings its own tensors.
    pub(crate) tensor: Option<TensorExports>,
}

pub(crate) struct TensorExports {
    pub(crate) constructor: ComponentExportIndex,
    pub(crate) dimensions: ComponentExportIndex,
    pub(crate) ty: ComponentExportIndex,
    pub(crate) data: ComponentExportIndex,
}

impl Plugin {
    pub(crate) fn link(
        shared: Arc<Shared>,
        world: World,
        digest: blake3::Hash,
        linker: &Linker<State>,
        component: &Component,
    ) -> Result<Self, AdmissionError> {
        signature::check_imports(component).map_err(|reason| AdmissionError::Types { world: world.name(), reason })?;
        let linked = linker
            .instantiate_pre(component)
            .map_err(|error| AdmissionError::Types { world: world.name(), reason: bounded(&format!("{error:#}")) })?;
        let find = |interface: &str, function: &str| {
            signature::find(component, interface, function)
                .map_err(|reason| AdmissionError::Types { world: world.name(), reason })
        };
        let tensor = match world {
            World::ModelBlock => None,
            World::ReferenceBlock => Some(TensorExports {
                constructor: find(interface::TENSOR, "[constructor]tensor")?,
                dimensions: find(interface::TENSOR, "[method]tensor.dimensions")?,
                ty: find(interface::TENSOR, "[method]tensor.ty")?,
                data: find(interface::TENSOR, "[method]tensor.data")?,
            }),
        };
        let exports = Exports {
            open: find(interface::BLOCK, "[static]session.open")?,
            forward: find(interface::BLOCK, "[method]session.forward")?,
            tensor,
        };
        Ok(Self { shared, world, digest, linked, exports: Arc::new(exports) })
    }

    /// The world it was admitted to.
    pub const fn world(&self) -> World {
        self.world
    }

    /// BLAKE3 of the component's bytes.
    pub const fn digest(&self) -> blake3::Hash {
        self.digest
    }

    /// A fresh instance, with nothing shared with any other but the host's prepared layers.
    ///
    /// `limits` holds for each of its calls and for this one, but never exceeds the runtime's own.
    ///
    /// # Errors
    /// The component traps or is stopped while it starts, or this machine cannot give it its memory.
    pub fn instantiate(&self, host: Arc<Host>, limits: Limits) -> Result<Instance, CallError> {
        let limits = limits.within(self.shared.limits);
        let bounds = limits.bounds();
        let engine = |error: wasmtime::Error| CallError::from(HostFault::Engine(bounded(&error.to_string())));
        let mut store = Store::new(&self.shared.engine, State::new(host, &limits));
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits.transfer_bytes);
        store.set_max_component_handles(limits.component_handles);
        store.set_fuel(limits.fuel).map_err(engine)?;
        store.set_epoch_deadline(Ticker::ticks(limits.wall_time));
        let running = self.shared.ticker.call();
        let instance = self.linked.instantiate(&mut store).map_err(|error| classify_instantiation(&error, bounds))?;
        drop(running);
        Instance::new(Arc::clone(&self.shared), store, &instance, &self.exports, limits)
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({} {})", self.world.name(), self.digest.to_hex())
    }
}
