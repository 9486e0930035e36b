//! Generated text: the same however it is run, and receipts that anyone can check.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic"
)]

mod answers;
mod batches;
mod going_on;
