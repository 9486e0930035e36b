//! What an instance may use, and how each limit stops it.
//!
//! | limit | how | ends as |
//! |---|---|---|
//! | fuel | wasmtime counts instructions, host calls are charged by the cost table | `Trap::OutOfFuel` |
//! | wall time | an epoch deadline, ticked by one thread a runtime | `HostFault::TimedOut` |
//! | memory, tables | [`Limiter`], asked before every growth | `HostFault::Memory`, `HostFault::Table` |
//! | tensors, handles | quotas of `ostrakon_nn` | an error the component sees, or `HostFault::Quota` |
//!
//! A component must not be able to tell how generous its host is, or its answer would depend on the
//! machine. So `memory.grow` returns -1 only when the *component's own* declared maximum says no; when
//! the host says no, the call ends.

use crate::error::{Bounds, HostFault, Stop};
use ostrakon_nn::Quotas;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use wasmtime::{Engine, ResourceLimiter};

/// What one instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Fuel of one call (`open` or `forward`).
    pub fuel: u64,
    /// Wall time of one call, to within two hundredths of a second. A host function that is running is
    /// not interrupted: its work is bounded by fuel and quotas.
    pub wall_time: Duration,
    /// Bytes of all linear memories together.
    pub memory_bytes: u64,
    /// Elements of all tables together.
    pub table_elements: u64,
    /// Bytes that one call from the component to the host may carry.
    pub transfer_bytes: usize,
    /// Handles of the component model that may live at a time, of every type.
    pub component_handles: usize,
    /// Tensors and graphs that live in the host.
    pub quotas: Quotas,
}

impl Default for Limits {
    /// Enough for a block of a large model with a full batch, or for a small model's reference component
    /// with all of its weights in linear memory.
    fn default() -> Self {
        Self {
            fuel: 1 << 44,
            wall_time: Duration::from_secs(600),
            memory_bytes: 1 << 30,
            table_elements: 1 << 16,
            transfer_bytes: 128 << 20,
            component_handles: 16_384,
            quotas: Quotas::default(),
        }
    }
}

impl Limits {
    /// The tighter of two in every respect.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self {
            fuel: self.fuel.min(other.fuel),
            wall_time: self.wall_time.min(other.wall_time),
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            table_elements: self.table_elements.min(other.table_elements),
            transfer_bytes: self.transfer_bytes.min(other.transfer_bytes),
            component_handles: self.component_handles.min(other.component_handles),
            quotas: Quotas {
                bytes: self.quotas.bytes.min(other.quotas.bytes),
                handles: self.quotas.handles.min(other.quotas.handles),
                graphs: self.quotas.graphs.min(other.quotas.graphs),
                contexts: self.quotas.contexts.min(other.quotas.contexts),
            },
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { fuel: self.fuel, wall: self.wall_time, transfer: self.transfer_bytes as u64 }
    }
}

/// Core instances, memories and tables that one component instance may make. Admission bounds what a
/// component declares well below; this holds whatever admission overlooked.
const MAX_ITEMS: usize = 256;

/// Counts memory and tables of one instance.
pub(crate) struct Limiter {
    memory: Quantity,
    tables: Quantity,
}

/// One kind of thing that grows.
struct Quantity {
    held: u64,
    limit: u64,
    /// The growth that was allowed last, in case the engine cannot do it.
    last: u64,
    /// Whether that growth is past the declared maximum, so that the engine will refuse it.
    past_maximum: bool,
}

impl Quantity {
    const fn new(limit: u64) -> Self {
        Self { held: 0, limit, last: 0, past_maximum: false }
    }

    /// Allow the growth, or the total that would exceed the limit.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<(), u64> {
        // The engine refuses this by the component's own words; nothing is allocated.
        self.past_maximum = maximum.is_some_and(|maximum| desired > maximum);
        self.last = 0;
        if self.past_maximum {
            return Ok(());
        }
        let growth = desired.saturating_sub(current) as u64;
        let wanted = self.held.saturating_add(growth);
        if wanted > self.limit {
            return Err(wanted);
        }
        self.held = wanted;
        self.last = growth;
        Ok(())
    }

    /// The engine did not do the growth. Whether the component may see that.
    fn undo(&mut self) -> bool {
        self.held = self.held.saturating_sub(self.last);
        self.last = 0;
        self.past_maximum
    }
}

impl Limiter {
    pub(crate) const fn new(limits: &Limits) -> Self {
        Self { memory: Quantity::new(limits.memory_bytes), tables: Quantity::new(limits.table_elements) }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        match self.memory.grow(current, desired, maximum) {
            Ok(()) => Ok(true),
            Err(wanted) => Err(Stop::from(HostFault::Memory { wanted, limit: self.memory.limit }).into()),
        }
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        if self.memory.undo() {
            return Ok(());
        }
        Err(Stop::from(HostFault::Engine(format!("memory cannot grow: {error}"))).into())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        match self.tables.grow(current, desired, maximum) {
            Ok(()) => Ok(true),
            Err(wanted) => Err(Stop::from(HostFault::Table { wanted, limit: self.tables.limit }).into()),
        }
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        if self.tables.undo() {
            return Ok(());
        }
        Err(Stop::from(HostFault::Engine(format!("a table cannot grow: {error}"))).into())
    }

    fn instances(&self) -> usize {
        MAX_ITEMS
    }

    fn tables(&self) -> usize {
        MAX_ITEMS
    }

    fn memories(&self) -> usize {
        MAX_ITEMS
    }
}

/// How often the epoch advances while something runs.
const TICK: Duration = Duration::from_millis(10);

/// One thread that advances the engine's epoch while calls are running, sleeps while none are, and ends
/// when the ticker is dropped.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<TickerState>,
    changed: Condvar,
}

#[derive(Default)]
struct TickerState {
    running_calls: usize,
    /// Whether a call has begun since the last tick.
    begun: bool,
    /// Whether the thread sleeps until a call wakes it.
    asleep: bool,
    stop: bool,
}

impl Shared {
    /// Nothing that holds this lock can panic, so a poisoned lock is still whole.
    fn lock(&self) -> MutexGuard<'_, TickerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls are short and follow each other closely, and a thread that each of them woke would take a
    /// core from the arithmetic. So the thread falls asleep only after a tick in which there was no call.
    fn run(&self, engine: &Engine) {
        let mut state = self.lock();
        while !state.stop {
            let begun = std::mem::take(&mut state.begun);
            state = if state.running_calls == 0 && !begun {
                state.asleep = true;
                let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.asleep = false;
                state
            } else {
                let (state, waited) = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner);
                if waited.timed_out() {
                    engine.increment_epoch();
                }
                state
            };
        }
    }
}

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("ostrakon-epoch".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            let engine = engine.clone();
            move || shared.run(&engine)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Ticks that `wall_time` lasts, and one more: a call may begin anywhere between two ticks.
    pub(crate) fn ticks(wall_time: Duration) -> u64 {
        u64::try_from(wall_time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX >> 1).min(u64::MAX >> 1) + 1
    }

    /// Keep the clock running for as long as the guard lives.
    pub(crate) fn call(&self) -> RunningCall {
        let mut state = self.shared.lock();
        state.running_calls += 1;
        state.begun = true;
        let asleep = state.asleep;
        drop(state);
        if asleep {
            self.shared.changed.notify_one();
        }
        RunningCall(Arc::clone(&self.shared))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It cannot panic; and there would be nothing to do about it.
            let _ = thread.join();
        }
    }
}

/// A call in progress.
pub(crate) struct RunningCall(Arc<Shared>);

impl Drop for RunningCall {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running_calls = state.running_calls.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_until(ticker: &Ticker, condition: impl Fn(&TickerState) -> bool) {
        while !condition(&ticker.shared.lock()) {
            std::thread::sleep(TICK);
        }
    }

    #[test]
    fn the_clock_sleeps_while_nothing_runs_and_wakes_for_a_call() {
        let ticker = Ticker::start(&Engine::default()).unwrap();
        for _ in 0..2 {
            wait_until(&ticker, |state| state.asleep);
            let running = ticker.call();
            // Awake and past its first tick: what this call began has been seen, and it still runs.
            wait_until(&ticker, |state| !state.asleep && !state.begun);
            drop(running);
            for _ in 0..100 {
                drop(ticker.call());
            }
        }
        wait_until(&ticker, |state| state.asleep);
    }
}
