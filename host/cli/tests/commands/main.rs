//! The `ostrakon` command from outside.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod audit;
mod backends;
mod dispute;
mod float;
mod node;
mod run;
