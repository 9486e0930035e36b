//! The swarm: a node among nodes, and clients of them.

pub mod settings;
pub mod transfer;
