//! Nodes that talk over real sockets on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod discovering;
mod flooding;
mod lying;
mod nodes;
mod raw;
mod speed;
mod spreading;
mod talking;
