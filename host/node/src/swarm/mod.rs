//! The swarm: a node among nodes, and clients of them.

pub mod database;
pub mod serve;
