//! Peers: finding them, hearing their status, asking them, streaming to them.

pub mod client;
pub mod config;
pub mod error;
pub mod event;
pub mod fleet;
pub mod frame;

pub use client::Client;
pub use config::{NetConfig, NetLimits};
pub use error::NetError;
pub use event::{Event, Events, Question};
pub use fleet::{Fleet, Offence};
pub use frame::{FrameStream, Payload};
