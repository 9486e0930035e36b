//! What whole-system tests and the benchmark share: the packed model, and its blocks written a second
//! time as direct calls.

pub mod native;
pub mod packed;
