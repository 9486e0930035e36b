//! `ostrakon serve` as a process, asked over sockets.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod bounds;
mod chromium;
mod embeddings;
mod page;
mod receipts;
mod refusals;
mod server;
