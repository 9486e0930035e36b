//! What a node does, as functions: pack a model, run it, inspect it, examine the machine.
//!
//! # Why
//!
//! The command line, and every other way in, asks for the same few things. They are here, without a
//! word to a terminal, so that each way in only asks and shows.
//!
//! # How
//!
//! 1. [`recipe`], [`fetch`] and [`pack`] make a package of a published model.
//! 2. [`load`] opens a package, starts the arithmetic, the engine and the tokenizer.
//! 3. [`execute`] sends texts through the blocks and hashes what comes out: the execute phase.
//! 4. [`receipt`] says what a run leaves behind, [`transcript`] what it left out, [`audit`] whether it is right.
//!    [`trace`] and [`dispute`] settle which of two receipts is wrong, and where.
//!    [`float`] runs packages of the float tier: tensors in, tensors out ([`npy`], [`values`], [`pack_float`]);
//!    [`float_receipt`] compares such runs.
//! 5. [`swarm`] has others run it; [`private`] runs it here, with the products of linear layers on servers that learn nothing.
//! 6. [`inspect`], [`inspect_receipt`], [`doctor`], [`trust`] and [`store`] say what is there.
//!
//! Everything here is synchronous and computes on its caller's thread and on the executor's; call it
//! from a thread meant for computing.

pub mod audit;
pub mod batch;
pub mod component;
pub mod dispute;
pub mod doctor;
pub mod error;
pub mod execute;
pub mod fetch;
pub mod float;
pub mod float_receipt;
pub mod generate;
pub mod inspect;
pub mod inspect_receipt;
pub mod load;
mod native;
pub mod npy;
pub mod options;
pub mod pack;
pub mod pack_float;
pub mod plugins;
pub mod private;
mod private_file;
pub mod progress;
pub mod receipt;
pub mod recipe;
mod replay;
pub mod store;
pub mod swarm;
pub mod tokenizer_admission;
pub mod tokens;
pub mod trace;
pub mod transcript;
pub mod trust;
pub mod values;

pub use error::{ErrorKind, NodeError};
pub use execute::{Answer, BlockCost, Output};
pub use load::{LoadTimes, Model};
pub use options::{Arithmetic, Native, RunOptions, simd_level};
pub use ostrakon_engine::Compiler;
pub use ostrakon_engine::verification::Verdict;
pub use ostrakon_nn::Tensor;
pub use ostrakon_package::{Home, Manifest, Tier, Tolerance, TrustPolicy};
pub use ostrakon_protocol::{Digest, Request, SignedFloatReceipt, SignedReceipt};
pub use replay::Rerun;

/// This machine's key; made now if there is none.
///
/// # Errors
/// The file cannot be read or made, or others can read it.
pub fn load_or_create_key(home: &Home) -> Result<ostrakon_protocol::SigningKey, NodeError> {
    Ok(ostrakon_package::load_or_create_key(home)?)
}
