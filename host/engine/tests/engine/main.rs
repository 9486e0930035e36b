//! Components in the sandbox: compiled, called, limited, refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod agreement;
mod cache;
mod hostile;
mod hostile_fleets;
mod loading;
mod pasts;
mod scheduler;
mod support;
mod verdicts;
mod verifier;
