//! Runs components on wasmtime: admit, limit, meter and call them.
//!
//! # Why
//!
//! A plugin is foreign code that shall compute the same bytes on every machine and harm none. This crate
//! is the only one that knows wasmtime; what a component asks for is computed by `ostrakon_nn`.
//!
//! # How
//!
//! 1. [`profile`]: every setting that could change a result, listed and hashed.
//! 2. [`admission`]: checks on the bytes, before anything is compiled.
//! 3. [`cache`]: compiled code kept between processes, so that nobody can slip in code of their own.
//! 4. [`runtime`] and [`plugin`]: compile and link once; an instance is then made in microseconds.
//! 5. [`instance`], [`verification`] and [`scheduling`]: typed calls of `ostrakon:plugin/block` (or `tensors`) and of the
//!    interfaces of these names, with fuel counted for each.
//! 6. [`imports`]: what a component may call, linked by hand so that each call is charged by [`cost`]. [`add_wasi_nn`]
//!    offers the same to programs with components of their own.
//! 7. [`limits`] stop what goes on too long or grows too large; [`error`] keeps apart whose doing it was.
//!
//! # Threads
//!
//! Everything is synchronous: a call runs on the caller's thread until it ends or is stopped. A
//! [`Runtime`] and its [`Plugin`]s are shared; an [`Instance`], a [`Verifier`], a [`Scheduler`] or a [`Sharing`] belongs to one thread at a time. Threads that
//! call need 2 MiB of stack, Rust's default.

pub mod admission;
pub mod cache;
mod cost;
pub mod error;
mod guest;
mod imports;
pub mod instance;
pub mod limits;
pub mod plugin;
pub mod profile;
pub mod runtime;
pub mod scheduling;
pub mod sharing;
mod signature;
mod state;
pub mod survey;
pub mod verification;

pub use admission::{AdmissionError, World};
pub use cache::{CacheDir, CacheError};
pub use error::{CallError, Failure, HostFault, Trap};
pub use imports::add_wasi_nn;
pub use instance::{Computed, Forward, Instance, SessionId};
pub use limits::Limits;
pub use plugin::Plugin;
pub use profile::{Compiler, DeterminismProfile};
pub use runtime::{Runtime, RuntimeError};
pub use scheduling::Scheduler;
pub use sharing::Sharing;
pub use state::{NnView, State};
pub use survey::Survey;
pub use verification::Verifier;
