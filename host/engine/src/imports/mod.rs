//! What components may call, one module an interface family.
//!
//! Linked by hand rather than generated, because each host function needs the store: to charge fuel
//! before it works, and to end the call where the interface has no way to return an error.
//!
//! Handles are checked twice: wasmtime makes sure that a handle belongs to the calling component and is of
//! the right type, and the state's table finds what it stands for.

pub(crate) mod exact;
pub(crate) mod field;
pub(crate) mod wasi_nn;
pub(crate) mod weights;

use crate::state::{NnView, State};
use wasmtime::Engine;
use wasmtime::component::Linker;

pub(crate) fn of_a_model_block(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasi_nn::link(&mut linker)?;
    exact::link(&mut linker)?;
    Ok(linker)
}

pub(crate) fn of_a_graph_block(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasi_nn::link(&mut linker)?;
    Ok(linker)
}

pub(crate) fn of_a_reference_block(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    weights::link(&mut linker)?;
    Ok(linker)
}

pub(crate) fn of_secret_sharing(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasi_nn::link(&mut linker)?;
    field::link(&mut linker)?;
    Ok(linker)
}

/// Let components of a linker that is not ours import `wasi:nn` as plugins do: the same handles, quotas, errors and fuel.
/// Fuel must be on in its engine, since every call is charged.
///
/// # Errors
/// The interfaces are there already.
pub fn add_wasi_nn<T: NnView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasi_nn::link(linker)
}

/// For a world whose components reach nothing.
pub(crate) fn none<S: 'static>(engine: &Engine) -> Linker<S> {
    Linker::new(engine)
}
