//! What whole-system tests and the benchmark share: the packed model, its blocks written a second time as
//! direct calls, tiny models, small ONNX graphs, private runs, numbers from a seed, statistics, and the tools of those who cheat.

pub mod forge;
pub mod memory;
pub mod native;
pub mod onnx;
pub mod packed;
pub mod private;
pub mod random;
pub mod serving;
pub mod statistics;
pub mod swarm;
pub mod tiny;
pub mod tiny_writer;
pub mod trial;
