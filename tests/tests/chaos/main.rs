//! Machines die again and again, and no request is lost.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic"
)]

mod jobs;
mod private;
#[path = "../private/runs.rs"]
mod runs;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test after the other: each needs the whole machine.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
