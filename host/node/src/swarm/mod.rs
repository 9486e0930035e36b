//! The swarm: a node among nodes, and clients of them.

pub mod coordinator;
pub mod database;
pub mod node;
pub mod serve;
pub mod settings;
pub mod transfer;
