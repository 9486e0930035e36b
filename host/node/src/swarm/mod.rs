//! The swarm: a node among nodes, and clients of them.
//!
//! A [`node`] is what its [`settings`] say. A job goes through five phases on the scheduling node that takes it:
//! [`submit`], [`choose`], [`execute`], [`verify`], [`answer`]. The [`coordinator`] leads them and keeps what must survive
//! a restart in [`jobs`]. The nodes of a plan run blocks and audit receipts ([`serve`]), and have packages from each other
//! ([`transfer`]). On the other side [`client`] asks, and [`check`] believes nothing that it cannot see.

pub mod answer;
pub mod check;
pub mod choose;
pub mod client;
pub(crate) mod clock;
pub mod coordinator;
pub mod database;
pub mod execute;
pub mod jobs;
pub mod known;
pub mod node;
pub mod plan_audit;
pub mod schedule;
pub mod serve;
pub mod settings;
pub mod submit;
pub mod transfer;
pub mod verify;
