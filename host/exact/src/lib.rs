//! The exact operations: every machine computes them to the same bytes.
//!
//! # Why
//!
//! Floating point sums depend on their order, and order depends on the instruction set, the thread
//! count and the batch. So no float is ever summed here. Heavy work is integer products, whose sums
//! do not depend on order; floats appear only element by element, where IEEE 754 leaves no freedom.
//!
//! # How
//!
//! 1. [`layer`] holds the weights of a layer, validated once.
//! 2. [`reference`] is the definition of every operation: plain scalar Rust, no `std`. It is compiled
//!    natively for tests and into the component `plugins/exact-reference` for machines that trust no
//!    native arithmetic at all.
//! 3. `simd` (feature `simd`) is the same operations fast. Property tests hold it to the reference,
//!    byte for byte, at every SIMD level.
//! 4. `freivalds` (feature `simd`) checks a claimed product for far less than the product costs.
//! 5. `field` (feature `simd`) is arithmetic modulo a prime: products of secret shares, masks, and their check.
//!
//! Every operation is total: any bytes in, finite floats out, no panic.
#![cfg_attr(not(any(test, feature = "simd")), no_std)]

extern crate alloc;

#[cfg(feature = "simd")]
pub mod field;
#[cfg(feature = "simd")]
pub mod freivalds;
pub mod layer;
pub mod number;
pub mod ragged;
pub mod reference;
#[cfg(feature = "simd")]
pub mod simd;

pub use layer::{Activation, Embedding, Layer, LayerError, LayerNorm, Linear, Part, RmsNorm, Rotary};
pub use ragged::{Lengths, ShapeError};
