//! What the host keeps for one instance: its tensors, graphs and counters.
//!
//! A plugin's store holds nothing else. A program that embeds `wasi:nn` for components of its own, which may have WASI
//! too, has a store of its own kind and says by [`NnView`] where the state is in it.

use crate::error::{HostFault, Stop, Trap};
use crate::guest::Limited;
use crate::limits::{Limiter, Limits};
use ostrakon_nn::{BoundPast, Charge, Graph, Host, Meter, NnError, Resource as Counted, Tensor};
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::{Resource, ResourceTable};

/// What `wasi:nn` and `exact` keep for one instance.
pub struct State {
    pub(crate) host: Arc<Host>,
    pub(crate) meter: Meter,
    /// What the call that runs goes on from.
    pub(crate) past: Option<BoundPast>,
    limiter: Limiter,
    table: ResourceTable,
}

impl Limited for State {
    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }
}

/// A tensor that a component holds a handle of.
pub(crate) struct TensorEntry {
    pub(crate) tensor: Tensor,
    _handle: Charge,
}

/// A graph that a component holds a handle of.
pub(crate) struct GraphEntry {
    pub(crate) graph: Graph,
    _handle: Charge,
}

/// A graph ready to be computed.
pub(crate) struct ContextEntry {
    pub(crate) graph: Graph,
    _handle: Charge,
}

/// A wasi-nn error that a component holds a handle of. Counted like a tensor.
pub(crate) struct ErrorEntry {
    pub(crate) error: NnError,
    _handle: Charge,
}

/// Entries of all types together: what the quotas allow, and a few that the host itself needs.
const SPARE_ENTRIES: usize = 16;

/// The data of a store in which there is a [`State`], perhaps beside what others keep there.
pub trait NnView: Send + 'static {
    /// The state.
    fn nn(&self) -> &State;
    /// Likewise, to change it.
    fn nn_mut(&mut self) -> &mut State;
}

impl NnView for State {
    fn nn(&self) -> &State {
        self
    }

    fn nn_mut(&mut self) -> &mut State {
        self
    }
}

impl State {
    /// For an instance that `host` serves within `limits`.
    pub fn new(host: Arc<Host>, limits: &Limits) -> Self {
        let quotas = limits.quotas;
        let entries = [quotas.handles, quotas.graphs, quotas.contexts]
            .into_iter()
            .fold(SPARE_ENTRIES, |sum, n| sum.saturating_add(n as usize));
        let mut table = ResourceTable::new();
        table.set_max_capacity(entries);
        let meter = host.meter(quotas);
        Self { host, meter, past: None, limiter: Limiter::new(limits), table }
    }

    /// Keep a tensor and give out its handle.
    pub(crate) fn keep(&mut self, tensor: Tensor) -> Result<Resource<TensorEntry>, NnError> {
        let _handle = self.meter.charge(Counted::Handles, 1)?;
        self.table.push(TensorEntry { tensor, _handle }).map_err(|e| NnError::TooLarge(e.to_string()))
    }

    pub(crate) fn keep_graph(&mut self, graph: Graph) -> Result<Resource<GraphEntry>, NnError> {
        let _handle = self.meter.charge(Counted::Graphs, 1)?;
        self.table.push(GraphEntry { graph, _handle }).map_err(|e| NnError::TooLarge(e.to_string()))
    }

    pub(crate) fn keep_context(&mut self, graph: Graph) -> Result<Resource<ContextEntry>, NnError> {
        let _handle = self.meter.charge(Counted::Contexts, 1)?;
        self.table.push(ContextEntry { graph, _handle }).map_err(|e| NnError::TooLarge(e.to_string()))
    }

    /// Keep an error, or end the call when there is not even room for that.
    pub(crate) fn keep_error(&mut self, error: NnError) -> wasmtime::Result<Resource<ErrorEntry>> {
        let _handle = self.meter.charge(Counted::Handles, 1).map_err(|quota| stop(&quota))?;
        Ok(self.table.push(ErrorEntry { error, _handle })?)
    }

    /// The entry of a handle that wasmtime has already checked to be the component's own.
    pub(crate) fn get<T: Send + 'static>(&self, handle: &Resource<T>) -> wasmtime::Result<&T> {
        Ok(self.table.get(handle)?)
    }

    /// A tensor, to compute with while the table stays free.
    pub(crate) fn tensor(&self, handle: &Resource<TensorEntry>) -> wasmtime::Result<Tensor> {
        Ok(self.get(handle)?.tensor.clone())
    }

    /// Give up a handle and get what it stood for.
    pub(crate) fn take<T: Send + 'static>(&mut self, handle: Resource<T>) -> wasmtime::Result<T> {
        Ok(self.table.delete(handle)?)
    }
}

/// Charge a call by the cost table, before its work is done.
pub(crate) fn charge<T: 'static>(store: &mut StoreContextMut<'_, T>, fuel: u64) -> wasmtime::Result<()> {
    match store.get_fuel()?.checked_sub(fuel) {
        Some(rest) => store.set_fuel(rest),
        None => {
            store.set_fuel(0)?;
            Err(wasmtime::Trap::OutOfFuel.into())
        }
    }
}

/// End the call: the error has no other way out.
pub(crate) fn stop(error: &NnError) -> wasmtime::Error {
    let stop: Stop = match error {
        NnError::TooLarge(text) => HostFault::Quota(text.clone()).into(),
        fault if fault.is_host_fault() => HostFault::Operation(fault.to_string()).into(),
        other => Trap::Refused(other.to_string()).into(),
    };
    stop.into()
}

/// Let a component see the error, unless the host is to blame: then another host would have answered
/// otherwise, and the call must end.
pub(crate) fn visible(error: NnError) -> wasmtime::Result<NnError> {
    if error.is_host_fault() { Err(stop(&error)) } else { Ok(error) }
}
