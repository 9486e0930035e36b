//! What waits for peers while the rest of the program computes.

use crate::problem::Problem;
use tokio::runtime::{Builder, Runtime};

/// A runtime of few threads, one for four processors: computing is done on others, and what is handed from one thread to the
/// next is slower there than what stays.
pub(crate) fn runtime() -> Result<Runtime, Problem> {
    let threads = std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 4).clamp(1, 8));
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("ostrakon-net")
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("cannot start the threads for the network: {error}")))
}
