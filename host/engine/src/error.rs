//! What can go wrong in a call, in three types that are never mixed.
//!
//! - [`Failure`]: the component's own word. It ran to its end and said no.
//! - [`Trap`]: the component did what no component may do, or used up its fuel. The same bytes on the
//!   same input trap again, on every machine and compiler: a trap can be evidence.
//! - [`HostFault`]: this machine, or its operator's limits, ended the call. Another machine might have
//!   finished it, so it never says anything about the component or the node that ran it.
//!
//! After a trap or a host fault the instance is spent: memory may be half-written. Make another one.

use std::time::Duration;

/// The longest text taken over from a component.
const MAX_TEXT: usize = 4096;

/// A call to a component did not give a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The component refused.
    #[error(transparent)]
    Guest(#[from] Failure),
    /// The component misbehaved.
    #[error(transparent)]
    Trap(#[from] Trap),
    /// The host stopped it.
    #[error(transparent)]
    Host(#[from] HostFault),
}

/// The component's own refusal, as `block.failure` says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The settings in the manifest do not describe a block that it can run.
    #[error("the component refuses its settings: {0}")]
    BadSettings(String),
    /// The input or the lengths do not fit the block.
    #[error("the component refuses its input: {0}")]
    BadInput(String),
    /// An operation of the host refused; the text is the host's.
    #[error("an operation that the component asked for was refused: {0}")]
    Operation(String),
}

/// The component broke a rule that is the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trap {
    /// The budget of the call is used up.
    #[error("the component used up its fuel of {budget}: raise the fuel limit or use smaller batches")]
    OutOfFuel {
        /// What the call was given.
        budget: u64,
    },
    /// A trap of WebAssembly: unreachable code, an access out of bounds, a division by zero.
    #[error("the component trapped: {0}")]
    Wasm(String),
    /// It called a host function that has no way to return an error, with arguments that are wrong.
    #[error("the component called the host with arguments that it must refuse: {0}")]
    Refused(String),
    /// It broke a rule of the component model: a handle it does not hold, a string that is not UTF-8.
    #[error("the component broke the component model's rules: {0}")]
    Rules(String),
}

/// This machine could not, or was not willing to, finish the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// The wall clock ran out.
    #[error("the call was stopped after {limit:?} of wall time: raise the time limit or use a faster machine")]
    TimedOut {
        /// The operator's limit.
        limit: Duration,
    },
    /// The stack is used up. How deep that is differs between compilers.
    #[error("the call used up its stack: the component recurses deeply or without end")]
    StackOverflow,
    /// Linear memory beyond the limit.
    #[error("the component asked for {wanted} bytes of memory, the limit is {limit}")]
    Memory {
        /// All memories of the instance together.
        wanted: u64,
        /// The operator's limit.
        limit: u64,
    },
    /// Table elements beyond the limit.
    #[error("the component asked for {wanted} table elements, the limit is {limit}")]
    Table {
        /// All tables of the instance together.
        wanted: u64,
        /// The operator's limit.
        limit: u64,
    },
    /// More core instances, memories or tables than the limit.
    #[error("the component has too many {what}: {reason}")]
    Count {
        /// What there are too many of.
        what: &'static str,
        /// The engine's words.
        reason: String,
    },
    /// A quota on tensors or handles, in a call that has no way to say so to the component.
    #[error("a quota of the component is used up: {0}")]
    Quota(String),
    /// One call moved more bytes from the component to the host than the limit.
    #[error("the component handed more than {limit} bytes to the host in one call")]
    Transfer {
        /// The operator's limit.
        limit: u64,
    },
    /// Native code, a device or a peer failed.
    #[error("an operation failed on this machine: {0}")]
    Operation(String),
    /// The instance ended with a trap or a host fault before.
    #[error("this instance is spent, an earlier call ended with: {0}. Make a new instance")]
    Spent(String),
    /// The caller took a component for what it is not.
    #[error("the component is of the world `{world}` and cannot be called as {wanted}")]
    WrongWorld {
        /// What the caller wanted.
        wanted: &'static str,
        /// The world it was admitted to.
        world: &'static str,
    },
    /// What the caller gave to go on from is not what the call is about.
    #[error("the call cannot go on from what was given: {0}")]
    Past(String),
    /// The caller used a session that was never opened or is closed.
    #[error("session {0} is not open in this instance")]
    NoSession(u32),
    /// The caller opened more sessions than an instance may have.
    #[error("an instance has at most {limit} sessions: close one, or make another instance")]
    TooManySessions {
        /// The limit.
        limit: usize,
    },
    /// wasmtime could not do its part.
    #[error("the engine failed: {0}")]
    Engine(String),
}

/// Why a host function, or a limit, ended a call. It travels through wasmtime and comes out again in
/// [`classify`].
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Stop {
    #[error(transparent)]
    Trap(#[from] Trap),
    #[error(transparent)]
    Host(#[from] HostFault),
}

/// What the limits of a call were: said in its errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) fuel: u64,
    pub(crate) wall: Duration,
    pub(crate) transfer: u64,
}

/// Sort an error of wasmtime, met while the component was running.
///
/// wasmtime types its traps, but not the errors of its canonical ABI. Two of those come from the
/// operator's limits and are told by their words; a test with each holds the words to this version of
/// the engine. All others are rules that the component broke.
pub(crate) fn classify(error: &wasmtime::Error, bounds: Bounds) -> CallError {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return match stop.clone() {
            Stop::Trap(trap) => trap.into(),
            Stop::Host(fault) => fault.into(),
        };
    }
    if let Some(trap) = error.downcast_ref::<wasmtime::Trap>() {
        return match trap {
            wasmtime::Trap::OutOfFuel => Trap::OutOfFuel { budget: bounds.fuel }.into(),
            wasmtime::Trap::Interrupt => HostFault::TimedOut { limit: bounds.wall }.into(),
            wasmtime::Trap::StackOverflow => HostFault::StackOverflow.into(),
            wasmtime::Trap::AllocationTooLarge => HostFault::Engine(trap.to_string()).into(),
            other => Trap::Wasm(other.to_string()).into(),
        };
    }
    if error.is::<wasmtime::OutOfMemory>() {
        return HostFault::Engine(bounded(&error.to_string())).into();
    }
    let text = bounded(&format!("{error:#}"));
    if text.contains("store handle limit exceeded") {
        return HostFault::Quota(text).into();
    }
    if text.contains("fuel allocated for hostcalls") {
        return HostFault::Transfer { limit: bounds.transfer }.into();
    }
    Trap::Rules(text).into()
}

/// Sort an error of wasmtime, met while a component was made into an instance: what is neither a trap
/// nor a limit is the engine's trouble (no address space), not the component's.
pub(crate) fn classify_instantiation(error: &wasmtime::Error, bounds: Bounds) -> CallError {
    match classify(error, bounds) {
        CallError::Trap(Trap::Rules(text)) => match ["instance", "memory", "table"]
            .into_iter()
            .find(|what| text.contains(&format!("resource limit exceeded: {what}")))
        {
            Some(what) => HostFault::Count { what, reason: text }.into(),
            None => HostFault::Engine(text).into(),
        },
        other => other,
    }
}

/// Text of unknown origin, cut to a length that can be logged and sent.
pub(crate) fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let mut cut: String = text
        .chars()
        .take_while({
            let mut bytes = 0;
            move |c| {
                bytes += c.len_utf8();
                bytes <= MAX_TEXT
            }
        })
        .collect();
    cut.push_str(" ...");
    cut
}
