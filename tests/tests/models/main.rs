//! Real models: their quality, and one digest however they are run.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic"
)]

mod conformance;
mod cuda;
mod float_graphs;
mod float_models;
mod quality;
mod reference_component;
mod same_bytes;
