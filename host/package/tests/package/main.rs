//! Packages: written, stored, opened, refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod component;
mod float;
mod hostile;
#[path = "../sample/mod.rs"]
mod sample;
mod storing;
mod writing;
