//! Every exact operation against its reference.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod agree;
mod causal;
mod field;
mod freivalds;
mod layers;
mod masks;
mod random;
mod shares;

use ostrakon_exact::simd::{Executor, Level};
use std::sync::{Arc, LazyLock};

/// At every level of this machine, on one thread and on two.
static EXECUTORS: LazyLock<Vec<Arc<Executor>>> = LazyLock::new(|| {
    let levels = Level::available().into_iter();
    levels.flat_map(|level| [1, 2].map(|threads| Arc::new(Executor::new(level, threads).unwrap()))).collect()
});
