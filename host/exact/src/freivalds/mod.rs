//! Freivalds' check: whether a matrix product is right, for far less than the product costs.
//!
//! # Why
//!
//! An auditor who holds X, W and a claimed `Y = X W^T` need not multiply again. With a secret vector r he
//! compares `Y r` with `X (W^T r)`: two products of a matrix and a vector, O(N + K) a row instead of
//! O(N K). `v = W^T r` depends on the weights alone and is computed once.
//!
//! # How
//!
//! 1. A [`Challenge`] is two vectors r of numbers of [`ELEMENT_BITS`] random bits. A projection is
//!    `v = W^T r` for both, as exact integers.
//! 2. A check computes for every row both sides, for both vectors, modulo 2^64: [`Sides`]. That is what the
//!    machine's arithmetic does by itself: nothing is reduced. Rows are checked one by one, so a wrong row is
//!    found by its number.
//! 3. Totals of 64 bits must also lie in the range of their operation: within `reach` of the centre of their
//!    column. A row that leaves it is wrong, and is reported with `left = right - 1`.
//! 4. Equal integers are equal modulo 2^64, so a right row always passes.
//!
//! # Error bound
//!
//! Let D be the difference of a claimed row and the right one, not all zero, with `D[n] = 2^k * odd`. For one
//! vector, fix all of r but r\[n\]. `D . r = 0` modulo 2^64 then fixes r\[n\] modulo 2^(64 - k), which at most
//! `max(1, 2^(k - 33))` of the 2^31 values of r\[n\] satisfy. So a wrong row passes one vector with a
//! probability of at most `max(2^-31, 2^(k - 64))`, and both with the square of it.
//!
//! - *Totals of 32 bits*: the claimed and the right one fit i32, so `|D[n]| < 2^32`, `k < 32`: at most 2^-62
//!   for both vectors, whatever was claimed.
//! - *Totals of 64 bits*: an addend of 2^63 would pass with a probability of 1/2; that is what the range is
//!   for. `|D[n]| < 2 reach`, so it is 2^-62 up to a reach of 2^33: layers of 16-bit codes up to 2064 wide
//!   (wider ones where the weights of a row add up to less than 2^18 in magnitude), weighted values of up to
//!   256 tokens. The largest that is let in, a layer 66,000 wide and a sequence of 65,536 tokens, have 2^-52
//!   and 2^-46. [`Sides::error_bits`] says it of each check.
//!
//! # Secrecy
//!
//! Who knows r can make a wrong row that passes: any D with `D . r = 0`. A challenge (and v, which with the
//! public weights tells much about r) stays with the auditor, and what he has seen of one audit may
//! not be published with the vectors. A row's left side is a linear equation in r, so sides are as
//! secret as the challenge for as long as the challenge is in use.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod check;
mod kernel;
mod limbs;
pub mod plain;
mod vectors;

pub use check::{MAX_SEQUENCE, Sides, check_scores, check_u8, check_u16, check_weighted};
pub use vectors::{Challenge, Vectors};

/// Random bits of an element of a challenge.
pub const ELEMENT_BITS: u32 = 31;

/// How far 64-bit totals may always lie from the centre of their column: so far the kernels multiply once.
pub const LEAST_REACH: i64 = 1 << 31;
