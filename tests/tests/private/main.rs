//! Private runs: the same bytes, nothing shown, no lie believed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic"
)]

mod digests;
mod elements;
mod liars;
mod memory;
mod runs;
mod secrecy;
mod soundness;
mod stalled;
