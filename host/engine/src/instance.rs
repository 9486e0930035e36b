//! An instance: a block's component at work, with the sessions it has open.
//!
//! The caller deals in `ostrakon_nn::Tensor` whichever world the component is of. A model block gets a
//! handle of the host's tensor; a reference block has tensors of its own, so its constructor is called
//! with the bytes, and the result read back. A block of a float model gets and gives handles with names.

use crate::admission::World;
use crate::error::{CallError, Failure, HostFault, Trap, bounded};
use crate::guest::{self, Failed, Guest};
use crate::imports::wasi_nn::ElementType;
use crate::limits::Limits;
use crate::plugin::{BlockExports, WorkExports};
use crate::state::{State, TensorEntry, stop};
use ostrakon_nn::{BoundPast, NnError, SequencePast, Tensor};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use wasmtime::component::{self, ComponentType, Lift, Lower, Resource, ResourceAny, TypedFunc};
use wasmtime::{AsContextMut, StoreContextMut};

/// Sessions that an instance may have open at a time.
const MAX_SESSIONS: usize = 1024;

/// A session of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u32);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a block computed.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Its output.
    pub output: Tensor,
    /// What the call cost, by guest instructions and the cost table. The same on every machine.
    pub fuel: u64,
}

/// What a block of a float model computed.
#[derive(Debug, Clone)]
pub struct Computed {
    /// Its outputs, by name.
    pub outputs: Vec<(String, Tensor)>,
    /// What the call cost, by guest instructions and the cost table.
    pub fuel: u64,
}

/// `block.failure`, and `tensors.failure`.
#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
enum BlockFailure {
    #[component(name = "bad-settings")]
    BadSettings(String),
    #[component(name = "bad-input")]
    BadInput(String),
    #[component(name = "operation")]
    Operation(String),
}

impl From<BlockFailure> for Failure {
    fn from(failure: BlockFailure) -> Self {
        match failure {
            BlockFailure::BadSettings(text) => Self::BadSettings(bounded(&text)),
            BlockFailure::BadInput(text) => Self::BadInput(bounded(&text)),
            BlockFailure::Operation(text) => Self::Operation(bounded(&text)),
        }
    }
}

type OrFailure<T> = Result<T, BlockFailure>;
type Handle = Resource<TensorEntry>;

type Open = TypedFunc<(String, Vec<(String, String)>), (OrFailure<ResourceAny>,)>;
type ForwardHost = TypedFunc<(ResourceAny, Handle, Handle), (OrFailure<Handle>,)>;
type ForwardGuest = TypedFunc<(ResourceAny, ResourceAny, ResourceAny), (OrFailure<ResourceAny>,)>;

type Named = Vec<(String, Handle)>;
type Compute = TypedFunc<(ResourceAny, Named), (OrFailure<Named>,)>;

/// How the block is put to work, and who owns the tensors.
enum Work {
    Host { forward: ForwardHost },
    Guest { forward: ForwardGuest, functions: GuestTensors },
    Named { compute: Compute },
}

/// The functions of a component's own tensors.
struct GuestTensors {
    constructor: TypedFunc<(Vec<u32>, ElementType, Vec<u8>), (ResourceAny,)>,
    dimensions: TypedFunc<(ResourceAny,), (Vec<u32>,)>,
    ty: TypedFunc<(ResourceAny,), (ElementType,)>,
    data: TypedFunc<(ResourceAny,), (Vec<u8>,)>,
}

/// A block's component at work.
pub struct Instance {
    guest: Guest<State>,
    open: Open,
    work: Arc<Work>,
    world: World,
    sessions: BTreeMap<SessionId, ResourceAny>,
    next: u32,
}

impl From<BlockFailure> for Failed {
    fn from(failure: BlockFailure) -> Self {
        Self::Guest(failure.into())
    }
}

impl Instance {
    pub(crate) fn new(
        mut guest: Guest<State>,
        instance: &component::Instance,
        exports: &BlockExports,
        world: World,
    ) -> Result<Self, CallError> {
        // Admission has compared the types; what is left is which resource a handle is of.
        let store = &mut guest.store;
        let wrong = |error: wasmtime::Error| guest::engine(&error);
        let open = instance.get_typed_func(&mut *store, exports.open).map_err(wrong)?;
        let work = match &exports.work {
            WorkExports::Forward(forward) => {
                Work::Host { forward: instance.get_typed_func(&mut *store, *forward).map_err(wrong)? }
            }
            WorkExports::OwnForward(forward, tensor) => Work::Guest {
                forward: instance.get_typed_func(&mut *store, *forward).map_err(wrong)?,
                functions: GuestTensors {
                    constructor: instance.get_typed_func(&mut *store, tensor.constructor).map_err(wrong)?,
                    dimensions: instance.get_typed_func(&mut *store, tensor.dimensions).map_err(wrong)?,
                    ty: instance.get_typed_func(&mut *store, tensor.ty).map_err(wrong)?,
                    data: instance.get_typed_func(&mut *store, tensor.data).map_err(wrong)?,
                },
            },
            WorkExports::Compute(compute) => {
                Work::Named { compute: instance.get_typed_func(&mut *store, *compute).map_err(wrong)? }
            }
        };
        Ok(Self { guest, open, work: Arc::new(work), world, sessions: BTreeMap::new(), next: 0 })
    }

    /// Open the block called `name` with the settings of the manifest.
    ///
    /// # Errors
    /// The component refuses, traps or is stopped; too many sessions are open.
    pub fn open(&mut self, name: &str, settings: &[(String, String)]) -> Result<SessionId, CallError> {
        self.guest.ready()?;
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(HostFault::TooManySessions { limit: MAX_SESSIONS }.into());
        }
        let arguments = (name.to_owned(), settings.to_vec());
        let open = self.open;
        let (session, _) = self.guest.call(|mut store| Ok(open.call(&mut store, arguments)?.0?))?;
        let id = SessionId(self.next);
        self.next = self.next.wrapping_add(1);
        self.sessions.insert(id, session);
        Ok(id)
    }

    /// Run the block on a ragged batch.
    ///
    /// # Errors
    /// The component refuses, traps or is stopped; the session is not open; the input does not fit into
    /// the instance's quotas.
    pub fn forward(&mut self, session: SessionId, input: Tensor, lengths: &Tensor) -> Result<Forward, CallError> {
        self.guest.ready()?;
        let session = *self.sessions.get(&session).ok_or(HostFault::NoSession(session.0))?;
        let work = Arc::clone(&self.work);
        let (output, fuel) = match &*work {
            Work::Host { forward } => self.guest.call(|store| forward_host(store, forward, session, input, lengths))?,
            Work::Guest { forward, functions } => {
                self.guest.call(|store| functions.forward(store, forward, session, &input, lengths))?
            }
            Work::Named { .. } => return Err(self.no("a block that takes a ragged batch")),
        };
        Ok(Forward { output, fuel })
    }

    /// As [`Instance::forward`], going on from what earlier calls of the block left of each sequence of the batch, in
    /// order: a [`SequencePast`] of its own for each, empty where nothing was before. They come back with the rows of
    /// this call. After an error they are gone, as they might be half done.
    ///
    /// # Errors
    /// As [`Instance::forward`]; pasts that are not those of the lengths; a component that brings its own arithmetic,
    /// for which the host holds nothing.
    pub fn forward_on(
        &mut self,
        session: SessionId,
        input: Tensor,
        lengths: &Tensor,
        past: Vec<SequencePast>,
    ) -> Result<(Forward, Vec<SequencePast>), CallError> {
        self.guest.ready()?;
        let session = *self.sessions.get(&session).ok_or(HostFault::NoSession(session.0))?;
        let work = Arc::clone(&self.work);
        let Work::Host { forward } = &*work else {
            return Err(self.no("a block whose keys and values the host holds"));
        };
        let state = self.guest.store.data_mut();
        state.past = Some(BoundPast::bind(&state.meter, past, lengths).map_err(|error| match error {
            NnError::TooLarge(text) => HostFault::Quota(text),
            other => HostFault::Past(other.text().to_owned()),
        })?);
        let done = self.guest.call(|mut store| {
            let output = forward_host(store.as_context_mut(), forward, session, input, lengths)?;
            let bound = store.data_mut().past.take();
            let pasts = bound.map_or_else(|| Ok(Vec::new()), BoundPast::finish);
            Ok((output, pasts.map_err(|error| Failed::Output(Trap::Refused(error.text().to_owned())))?))
        });
        self.guest.store.data_mut().past = None;
        let ((output, pasts), fuel) = done?;
        Ok((Forward { output, fuel }, pasts))
    }

    /// Run a block of a float model on named tensors.
    ///
    /// # Errors
    /// As [`Instance::forward`].
    pub fn compute(&mut self, session: SessionId, inputs: Vec<(String, Tensor)>) -> Result<Computed, CallError> {
        self.guest.ready()?;
        let session = *self.sessions.get(&session).ok_or(HostFault::NoSession(session.0))?;
        let work = Arc::clone(&self.work);
        let Work::Named { compute } = &*work else { return Err(self.no("a block that takes named tensors")) };
        let (outputs, fuel) = self.guest.call(|store| compute_named(store, compute, session, inputs))?;
        Ok(Computed { outputs, fuel })
    }

    fn no(&self, wanted: &'static str) -> CallError {
        HostFault::WrongWorld { wanted, world: self.world.name() }.into()
    }

    /// Close a session and let the component clean up.
    ///
    /// # Errors
    /// The session is not open; the component traps or is stopped while it cleans up.
    pub fn close(&mut self, session: SessionId) -> Result<(), CallError> {
        self.guest.ready()?;
        let resource = self.sessions.remove(&session).ok_or(HostFault::NoSession(session.0))?;
        self.guest.call(|mut store| Ok(resource.resource_drop(&mut store)?)).map(|_| ())
    }

    /// Whether a trap or a fault has ended it.
    pub fn is_spent(&self) -> bool {
        self.guest.is_spent()
    }

    /// What it may use.
    pub const fn limits(&self) -> &Limits {
        self.guest.limits()
    }
}

fn forward_host(
    mut store: StoreContextMut<'_, State>,
    forward: &ForwardHost,
    session: ResourceAny,
    input: Tensor,
    lengths: &Tensor,
) -> Result<Tensor, Failed> {
    let state = store.data_mut();
    let input = input.charged_to(&state.meter).and_then(|input| state.keep(input)).map_err(Failed::Input)?;
    let lengths = match lengths.clone().charged_to(&state.meter).and_then(|lengths| state.keep(lengths)) {
        Ok(lengths) => lengths,
        Err(error) => {
            state.take(input)?;
            return Err(Failed::Input(error));
        }
    };
    let lent = Resource::new_borrow(lengths.rep());
    let (result,) = forward.call(&mut store, (session, input, lent))?;
    store.data_mut().take(lengths)?;
    let output = store.data_mut().take(result?)?;
    output.tensor.bring().map_err(|error| stop(&error))?;
    Ok(output.tensor.uncharged())
}

fn compute_named(
    mut store: StoreContextMut<'_, State>,
    compute: &Compute,
    session: ResourceAny,
    inputs: Vec<(String, Tensor)>,
) -> Result<Vec<(String, Tensor)>, Failed> {
    let state = store.data_mut();
    let mut given: Named = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        match tensor.charged_to(&state.meter).and_then(|tensor| state.keep(tensor)) {
            Ok(handle) => given.push((name, handle)),
            Err(error) => {
                // The component was not called: what was kept for it goes again.
                for (_, handle) in given {
                    state.take(handle)?;
                }
                return Err(Failed::Input(error));
            }
        }
    }
    let (result,) = compute.call(&mut store, (session, given))?;
    let mut outputs = Vec::new();
    for (name, handle) in result? {
        let tensor = store.data_mut().take(handle)?.tensor;
        tensor.bring().map_err(|error| stop(&error))?;
        outputs.push((name, tensor.uncharged()));
    }
    Ok(outputs)
}

impl GuestTensors {
    fn forward(
        &self,
        mut store: StoreContextMut<'_, State>,
        forward: &ForwardGuest,
        session: ResourceAny,
        input: &Tensor,
        lengths: &Tensor,
    ) -> Result<Tensor, Failed> {
        let input = self.make(&mut store, input)?;
        let lengths = self.make(&mut store, lengths)?;
        let (result,) = forward.call(&mut store, (session, input, lengths))?;
        lengths.resource_drop(&mut store)?;
        let output = result?;
        let tensor = self.read(&mut store, output)?;
        output.resource_drop(&mut store)?;
        // What the component calls a tensor is its own affair until it is validated here.
        tensor.map_err(|error| {
            Failed::Output(Trap::Refused(format!("the output is not a tensor: {}", bounded(error.text()))))
        })
    }

    fn make(&self, store: &mut StoreContextMut<'_, State>, tensor: &Tensor) -> wasmtime::Result<ResourceAny> {
        let arguments = (tensor.dims().to_vec(), tensor.ty().into(), tensor.to_bytes());
        Ok(self.constructor.call(store, arguments)?.0)
    }

    fn read(
        &self,
        store: &mut StoreContextMut<'_, State>,
        tensor: ResourceAny,
    ) -> wasmtime::Result<Result<Tensor, NnError>> {
        let (dimensions,) = self.dimensions.call(&mut *store, (tensor,))?;
        let (ty,) = self.ty.call(&mut *store, (tensor,))?;
        let (data,) = self.data.call(&mut *store, (tensor,))?;
        Ok(Tensor::new(dimensions, ty.into(), data))
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({} sessions{})", self.sessions.len(), if self.is_spent() { ", spent" } else { "" })
    }
}
