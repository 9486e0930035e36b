//! Nodes that talk over real sockets on loopback.

mod nodes;
mod talking;
