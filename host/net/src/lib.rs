//! Peers: finding them, hearing their status, asking them, streaming to them.
//!
//! # Why
//!
//! Machines that do not trust each other have to find each other and to talk. Everything in here assumes that the other side may
//! be hostile: what it sends is bounded before it is read, what it may take is bounded by peer and by place, and what it does
//! wrong is counted.
//!
//! # How
//!
//! 1. A node's signing key is its libp2p identity. [`Client::start`] listens and starts the one task that touches libp2p.
//! 2. [`Client`] is what this node wants of others: [`Client::ask`] for control messages, [`Client::session`],
//!    [`Client::share`], [`Client::decoding`] and [`Client::files`] for streams of frames ([`FrameStream`]), [`Client::publish`] for its status.
//! 3. [`Events`] is what others want of this node: questions, streams, and news of who is there.
//! 4. [`Fleet`] is what this node knows of all others: newest statuses, round trips, reputation.

pub mod client;
pub mod config;
pub mod error;
pub mod event;
pub mod fleet;
pub mod frame;

mod address;
mod behaviour;
mod control;
mod event_loop;
mod gate;
mod identity;
mod pace;
mod rate;
mod reputation;
mod security;
mod streams;
mod transport;

pub use client::Client;
pub use config::{NetConfig, NetLimits};
pub use error::NetError;
pub use event::{Event, Events, Question};
pub use fleet::{Fleet, Offence};
pub use frame::{FrameStream, Payload};
