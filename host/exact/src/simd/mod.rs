//! The operations, fast.
//!
//! # Why
//!
//! [`reference`](crate::reference) defines every operation one scalar step at a time. This module
//! computes the same bytes with vector instructions and threads.
//!
//! # How
//!
//! 1. [`Level`] says which instructions may be used; the machine is asked once.
//! 2. [`Executor`] owns the threads and has one method for every operation.
//! 3. Operations on rows and elements are written once, as plain loops over the scalars of
//!    [`number`](crate::number), and compiled once for each level (`instantiate`). Floats are never
//!    contracted or reordered by the compiler, so every instance gives the same bytes.
//! 4. A linear layer quantises rows, calls a [`Product`] and dequantises. A backend elsewhere (a GPU,
//!    a server, a transcript) implements `Product` alone. [`CpuProduct`] is the one whose tiles the
//!    executor fuses with coding and scaling while they are in cache.
//! 5. Attention is fused too, or calls its two products where they are done elsewhere
//!    ([`AttentionProducts`]).

mod attention;
mod attention_products;
mod causal;
mod causal_long;
mod coding;
mod cpu;
pub(crate) mod crew;
mod executor;
mod heads;
pub(crate) mod instantiate;
pub(crate) mod level;
mod limbs;
mod past;
mod place;
mod product;
mod rows;
pub(crate) mod scratch;
mod self_test;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tile_x86;

pub use attention_products::{AttentionProducts, HeadOf, PlainAttention};
pub use cpu::CpuProduct;
pub use executor::{Executor, ExecutorError, LinearError};
pub use level::Level;
pub use past::Past;
pub use product::{Product, ProductError};
pub use self_test::{SelfTestError, Sizes, self_test, self_test_of};
