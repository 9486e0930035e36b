//! Every exact operation in plain WebAssembly: what a model block imports, exported by a component.
//!
//! # Why
//!
//! A node's fast arithmetic is native code. Composed with this component a block needs none of it: all
//! that is left to the host is to hand over the bytes of layers. The same operations, compiled from the
//! same scalar definitions, run on any machine and any WebAssembly engine, which is how a result is
//! checked by someone who trusts nobody's kernels.
//!
//! # How
//!
//! 1. [`tensor`]: values in the component's own memory, shared between handles.
//! 2. [`layers`]: a layer's bytes are read through `weights` when it is first loaded and kept as long as
//!    a graph or an execution context needs it.
//! 3. [`operations`]: check shapes and types as the native host does, with the same codes and words,
//!    then call `ostrakon_exact::reference`.
//! 4. [`refusal`]: the errors of all of these.
//!
//! What the native host refuses for want of quota fails here where the component's memory ends.

mod layers;
mod operations;
mod refusal;
mod tensor;

#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, clippy::restriction)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "exact-reference",
        generate_all,
    });
}

/// The component.
struct Component;

#[allow(unsafe_code)]
mod export {
    use super::Component;

    super::bindings::export!(Component with_types_in super::bindings);
}
