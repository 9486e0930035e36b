//! Nodes that talk over real sockets on loopback.

mod discovering;
mod flooding;
mod lying;
mod nodes;
mod raw;
mod spreading;
mod talking;
