//! A plugin: a component that was admitted, compiled and linked. Instances are made from it.

use crate::admission::{AdmissionError, World, interface};
use crate::error::{CallError, HostFault, bounded};
use crate::guest::Guest;
use crate::instance::Instance;
use crate::limits::{Limiter, Limits};
use crate::runtime::Shared;
use crate::scheduling::{Exports, Scheduler};
use crate::sharing::{Sharing, SharingExports};
use crate::signature;
use crate::state::State;
use crate::verification::Verifier;
use ostrakon_nn::Host;
use std::sync::Arc;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

/// Cloning shares the compiled code.
#[derive(Clone)]
pub struct Plugin {
    shared: Arc<Shared>,
    world: World,
    digest: blake3::Hash,
    linked: Linked,
}

/// Linked by world: what it imports is there, and the functions that the host calls are found.
#[derive(Clone)]
enum Linked {
    Block { component: InstancePre<State>, exports: Arc<BlockExports> },
    Verifier { component: InstancePre<Limiter>, verify: ComponentExportIndex },
    Scheduler { component: InstancePre<Limiter>, exports: Exports },
    SecretSharing { component: InstancePre<State>, exports: SharingExports },
}

/// Where the functions of a block are, looked up once.
pub(crate) struct BlockExports {
    pub(crate) open: ComponentExportIndex,
    pub(crate) work: WorkExports,
}

/// How a block is put to work.
pub(crate) enum WorkExports {
    /// A ragged batch of the host's tensors.
    Forward(ComponentExportIndex),
    /// A ragged batch of tensors that the component brings itself.
    OwnForward(ComponentExportIndex, TensorExports),
    /// Named tensors of the host.
    Compute(ComponentExportIndex),
}

pub(crate) struct TensorExports {
    pub(crate) constructor: ComponentExportIndex,
    pub(crate) dimensions: ComponentExportIndex,
    pub(crate) ty: ComponentExportIndex,
    pub(crate) data: ComponentExportIndex,
}

/// Finds a component's functions, and says what does not fit its world.
struct Fitting<'a> {
    component: &'a Component,
    world: World,
}

impl Fitting<'_> {
    fn misfit(&self, reason: String) -> AdmissionError {
        AdmissionError::Types { world: self.world.name(), reason }
    }

    fn link<S: 'static>(&self, linker: &Linker<S>) -> Result<InstancePre<S>, AdmissionError> {
        signature::check_imports(self.component).map_err(|reason| self.misfit(reason))?;
        linker.instantiate_pre(self.component).map_err(|error| self.misfit(bounded(&format!("{error:#}"))))
    }

    fn find(&self, interface: &str, function: &str) -> Result<ComponentExportIndex, AdmissionError> {
        signature::find(self.component, interface, function).map_err(|reason| self.misfit(reason))
    }

    fn block(&self, linker: &Linker<State>, interface: &str) -> Result<Linked, AdmissionError> {
        let component = self.link(linker)?;
        let open = self.find(interface, "[static]session.open")?;
        let forward = || self.find(interface, "[method]session.forward");
        let work = match self.world {
            World::GraphBlock => WorkExports::Compute(self.find(interface, "[method]session.compute")?),
            World::ReferenceBlock => WorkExports::OwnForward(forward()?, self.tensor()?),
            _ => WorkExports::Forward(forward()?),
        };
        Ok(Linked::Block { component, exports: Arc::new(BlockExports { open, work }) })
    }

    fn tensor(&self) -> Result<TensorExports, AdmissionError> {
        Ok(TensorExports {
            constructor: self.find(interface::TENSOR, "[constructor]tensor")?,
            dimensions: self.find(interface::TENSOR, "[method]tensor.dimensions")?,
            ty: self.find(interface::TENSOR, "[method]tensor.ty")?,
            data: self.find(interface::TENSOR, "[method]tensor.data")?,
        })
    }
}

impl Plugin {
    pub(crate) fn link(
        shared: Arc<Shared>,
        world: World,
        digest: blake3::Hash,
        component: &Component,
    ) -> Result<Self, AdmissionError> {
        let fitting = Fitting { component, world };
        let linkers = &shared.linkers;
        let linked = match world {
            World::ModelBlock => fitting.block(&linkers.model_block, interface::BLOCK)?,
            World::ReferenceBlock => fitting.block(&linkers.reference_block, interface::BLOCK)?,
            World::GraphBlock => fitting.block(&linkers.graph_block, interface::TENSORS)?,
            World::Verifier => Linked::Verifier {
                component: fitting.link(&linkers.nothing)?,
                verify: fitting.find(interface::VERIFICATION, "verify")?,
            },
            World::Scheduler => Linked::Scheduler {
                component: fitting.link(&linkers.nothing)?,
                exports: Exports {
                    plan: fitting.find(interface::SCHEDULING, "plan")?,
                    learn: fitting.find(interface::SCHEDULING, "learn")?,
                    place: fitting.find(interface::SCHEDULING, "place")?,
                },
            },
            World::SecretSharing => Linked::SecretSharing {
                component: fitting.link(&linkers.secret_sharing)?,
                exports: SharingExports {
                    mask: fitting.find(interface::SHARING, "mask")?,
                    split: fitting.find(interface::SHARING, "split")?,
                    check: fitting.find(interface::SHARING, "check")?,
                    combine: fitting.find(interface::SHARING, "combine")?,
                },
            },
        };
        Ok(Self { shared, world, digest, linked })
    }

    /// The world it was admitted to.
    pub const fn world(&self) -> World {
        self.world
    }

    /// BLAKE3 of the component's bytes.
    pub const fn digest(&self) -> blake3::Hash {
        self.digest
    }

    /// A fresh instance of a block, with nothing shared with any other but the host's prepared layers.
    ///
    /// `limits` holds for each of its calls and for this one, but never exceeds the runtime's own.
    ///
    /// # Errors
    /// The component is not a block; it traps or is stopped while it starts, or this machine cannot give
    /// it its memory.
    pub fn instantiate(&self, host: Arc<Host>, limits: Limits) -> Result<Instance, CallError> {
        let Linked::Block { component, exports } = &self.linked else {
            return Err(self.no("a block"));
        };
        let limits = limits.within(self.shared.limits);
        let (guest, instance) = Guest::start(&self.shared, component, State::new(host, &limits), limits)?;
        Instance::new(guest, &instance, exports, self.world)
    }

    /// A fresh instance of a verifier. It needs no host: it can reach nothing.
    ///
    /// `limits` as for [`Plugin::instantiate`].
    ///
    /// # Errors
    /// The component is not a verifier; otherwise as [`Plugin::instantiate`].
    pub fn verifier(&self, limits: Limits) -> Result<Verifier, CallError> {
        let Linked::Verifier { component, verify } = &self.linked else {
            return Err(self.no("a verifier"));
        };
        let limits = limits.within(self.shared.limits);
        let (guest, instance) = Guest::start(&self.shared, component, Limiter::new(&limits), limits)?;
        Verifier::new(guest, &instance, *verify)
    }

    /// A fresh instance of a scheduler. It needs no host: it can reach nothing.
    ///
    /// `limits` as for [`Plugin::instantiate`].
    ///
    /// # Errors
    /// The component is not a scheduler; otherwise as [`Plugin::instantiate`].
    pub fn scheduler(&self, limits: Limits) -> Result<Scheduler, CallError> {
        let Linked::Scheduler { component, exports } = &self.linked else {
            return Err(self.no("a scheduler"));
        };
        let limits = limits.within(self.shared.limits);
        let (guest, instance) = Guest::start(&self.shared, component, Limiter::new(&limits), limits)?;
        Scheduler::new(guest, &instance, *exports)
    }

    /// A fresh instance of a component that splits activations. `host` does its arithmetic.
    ///
    /// `limits` as for [`Plugin::instantiate`].
    ///
    /// # Errors
    /// The component is of another world; otherwise as [`Plugin::instantiate`].
    pub fn sharing(&self, host: Arc<Host>, limits: Limits) -> Result<Sharing, CallError> {
        let Linked::SecretSharing { component, exports } = &self.linked else {
            return Err(self.no("a component that splits activations"));
        };
        let limits = limits.within(self.shared.limits);
        let (guest, instance) = Guest::start(&self.shared, component, State::new(host, &limits), limits)?;
        Sharing::new(guest, &instance, *exports)
    }

    fn no(&self, wanted: &'static str) -> CallError {
        HostFault::WrongWorld { wanted, world: self.world.name() }.into()
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({} {})", self.world.name(), self.digest.to_hex())
    }
}
