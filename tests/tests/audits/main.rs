//! Audits and disputes: honest runs pass, whoever cheats is found.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic"
)]

mod altered_packages;
mod cheaters;
mod disputes;
mod flips;
mod honest;
mod minilm;
