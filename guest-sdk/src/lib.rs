//! What the author of an Ostrakon plugin writes against.
//!
//! # Why
//!
//! A model block is a WebAssembly component that reaches the arithmetic of its node through `wasi:nn`
//! (operations with weights) and `exact` (operations without), and through nothing else. The raw
//! interfaces speak of handles, execution contexts and named tensors; a block speaks of layers.
//!
//! # How
//!
//! 1. Implement [`Block`]: `open` finds the block's layers, `forward` calls them.
//! 2. Layers are [`Linear`], [`Embedding`], [`LayerNorm`], [`RmsNorm`] and [`Rotary`]; the operations without weights
//!    are in [`exact`]. Every one takes tensors by reference, or by value where the caller is done with them
//!    (see [`Operand`]): the SDK makes the second handles that this needs.
//! 3. [`export_block!`] makes the type the component's block.
//!
//! What every block must refuse is refused here, once: a batch whose lengths do not fit its rows, a
//! setting that is missing, repeated, unknown or not what it should be.
//!
//! ```
//! use ostrakon_guest::{Block, Failure, Lengths, Linear, Opening, Tensor, exact, export_block};
//!
//! struct FeedForward {
//!     up: Linear,
//!     down: Linear,
//! }
//!
//! impl Block for FeedForward {
//!     fn open(block: &Opening) -> Result<Self, Failure> {
//!         block.settings.only(&[])?;
//!         Ok(Self { up: block.linear("up")?, down: block.linear("down")? })
//!     }
//!
//!     fn forward(&mut self, x: Tensor, _: &Lengths<'_>) -> Result<Tensor, Failure> {
//!         self.down.forward(exact::gelu(self.up.forward(x)?)?)
//!     }
//! }
//!
//! export_block!(FeedForward);
//! # fn main() {}
//! ```

pub mod block;
pub mod exact;
mod failure;
mod layer;
mod lengths;
mod settings;
mod tensor;

pub use block::{Block, Opening};
pub use failure::Failure;
pub use layer::{Embedding, LayerNorm, Linear, RmsNorm, Rotary};
pub use lengths::Lengths;
pub use settings::Settings;
pub use tensor::{Element, Operand, Tensor};

/// The world `model-block`, as generated. Not for block authors.
#[doc(hidden)]
#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, clippy::restriction)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "model-block",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "ostrakon_guest::bindings",
    });
}
