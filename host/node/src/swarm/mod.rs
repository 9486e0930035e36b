//! The swarm: a node among nodes, and clients of them.

pub mod database;
pub mod plan_audit;
pub mod schedule;
pub mod serve;
