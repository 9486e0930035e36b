//! A component at work, of whatever world: its store, and calls that end within limits.

use crate::error::{CallError, Failure, HostFault, Trap, bounded, classify, classify_instantiation};
use crate::limits::{Limiter, Limits, Ticker};
use crate::runtime::Shared;
use ostrakon_nn::NnError;
use std::sync::Arc;
use wasmtime::component::{Instance, InstancePre};
use wasmtime::{AsContextMut, Store, StoreContextMut};

/// The data of a store: whatever the world needs, and the limiter.
pub(crate) trait Limited: Send + 'static {
    fn limiter(&mut self) -> &mut Limiter;
}

/// For a world that imports nothing.
impl Limited for Limiter {
    fn limiter(&mut self) -> &mut Limiter {
        self
    }
}

/// A component at work.
pub(crate) struct Guest<S: 'static> {
    shared: Arc<Shared>,
    pub(crate) store: Store<S>,
    limits: Limits,
    spent: Option<String>,
}

/// What went wrong inside of a call.
pub(crate) enum Failed {
    Guest(Failure),
    Engine(wasmtime::Error),
    Output(Trap),
    Input(NnError),
}

impl From<wasmtime::Error> for Failed {
    fn from(error: wasmtime::Error) -> Self {
        Self::Engine(error)
    }
}

impl<S: Limited> Guest<S> {
    /// Start a fresh instance, under `limits` as for each of its calls.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        linked: &InstancePre<S>,
        data: S,
        limits: Limits,
    ) -> Result<(Self, Instance), CallError> {
        let bounds = limits.bounds();
        let mut store = Store::new(&shared.engine, data);
        store.limiter(|data| data.limiter());
        store.set_hostcall_fuel(limits.transfer_bytes);
        store.set_max_component_handles(limits.component_handles);
        store.set_fuel(limits.fuel).map_err(|error| engine(&error))?;
        store.set_epoch_deadline(Ticker::ticks(limits.wall_time));
        let running = shared.ticker.call();
        let instance = linked.instantiate(&mut store).map_err(|error| classify_instantiation(&error, bounds))?;
        drop(running);
        Ok((Self { shared: Arc::clone(shared), store, limits, spent: None }, instance))
    }

    pub(crate) const fn is_spent(&self) -> bool {
        self.spent.is_some()
    }

    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn ready(&self) -> Result<(), CallError> {
        match &self.spent {
            Some(reason) => Err(HostFault::Spent(reason.clone()).into()),
            None => Ok(()),
        }
    }

    /// One call under all limits: the result and the fuel it took.
    pub(crate) fn call<T>(
        &mut self,
        run: impl FnOnce(StoreContextMut<'_, S>) -> Result<T, Failed>,
    ) -> Result<(T, u64), CallError> {
        let budget = self.limits.fuel;
        let metered = self.store.set_fuel(budget).map_err(Failed::Engine).and_then(|()| {
            self.store.set_epoch_deadline(Ticker::ticks(self.limits.wall_time));
            let _running = self.shared.ticker.call();
            let result = run(self.store.as_context_mut())?;
            Ok((result, budget.saturating_sub(self.store.get_fuel()?)))
        });
        metered.map_err(|failed| {
            let error = match failed {
                // The component said so itself and is still sound.
                Failed::Guest(failure) => return failure.into(),
                // The component was not even called.
                Failed::Input(error) => return HostFault::Quota(error.to_string()).into(),
                Failed::Engine(error) => classify(&error, self.limits.bounds()),
                Failed::Output(trap) => trap.into(),
            };
            self.spent = Some(error.to_string());
            error
        })
    }
}

/// The engine could not do its part, outside of any call.
pub(crate) fn engine(error: &wasmtime::Error) -> CallError {
    HostFault::Engine(bounded(&error.to_string())).into()
}
