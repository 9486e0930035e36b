//! Nodes that run jobs together.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic"
)]

mod decoding;
mod hostile_shares;
mod nodes;
mod pipeline;
mod plans;
mod roles;
mod sentences;
mod serve;
mod shares;
mod transfer;
mod upgrade;
