//! Matrix products of secret shares: numbers modulo a prime p.
//!
//! # Why
//!
//! Servers that must not see a client's codes X can still do its product `X W^T`. The client adds to X random
//! numbers modulo p, so that what a server gets is uniform whatever X is. The product is linear: what the
//! servers answer adds up to the product of X, modulo p. A total whose range is at most p wide is then known
//! exactly, as the integer that it is.
//!
//! # How
//!
//! 1. *Fields*: [`Field`] is modulo 2^24 - 3 or modulo 2^31 - 1. An element of the smaller one is three bytes instead of
//!    four, so there is a quarter less to send and to multiply. A layer uses it if it has one part in it, as layers of
//!    u8 codes mostly do, and the larger one otherwise.
//! 2. *Parts*: [`Parts`] cuts the columns K of a layer W [N, K], greedily from the first on, into the fewest
//!    ranges such that `c * sum over k in the part of |w[n, k]| <= p - 1` for every output n (c is the largest
//!    code, 255 or 65535). A part's total lies in `least ..= least + p - 1` with
//!    `least[part, n] = c * (sum of the negative w[n, k] of the part)`. A single column always fits, since
//!    `65535 * 127 < p`. Everybody computes the same cut from the layer. Most layers have one part.
//! 3. *Masks*: [`expand`] makes M [R, K] from a seed. Row r of stream s is a ChaCha20 stream of its own (RFC 8439):
//!    the key is the seed, the nonce s as u32 and then r as u64, little-endian, the counter begins at 0. Of
//!    each little-endian u32 the low 24 or 31 bits are taken ([`Field::mask`]); what is p or more then is skipped.
//! 4. *Shares*: with k servers, server 0 gets `X - sum of M_j` modulo p ([`subtract`]); each other server j gets the
//!    seed of M_j alone.
//! 5. *Products*: [`ShareProduct`] is a server's work. An element is `lo + 2^16 hi`, both below 2^16: two rows of u16
//!    codes, whose products every backend gives exactly; or its bytes are rows of u8 codes. A row's answer is the parts' products modulo p, one part
//!    after another: [R, parts * N].
//! 6. *Check*: [`Vectors`] holds two secret vectors r of `parts * N` uniform elements and
//!    `v[k] = sum over n of r[part of k, n] * w[n, k]`. A row y, claimed for a row x, passes if `y . r = x . v` modulo p
//!    for both ([`dot`]).
//! 7. *Lift*: [`add`] adds up the answers of all servers; [`lift`] takes from each class modulo p the one integer of
//!    its part's range, and adds up the parts: totals [R, N], those of `X W^T`.
//!
//! [`pack`] and [`unpack`] make of elements what is sent, and back. [`mod@reference`] is each of these written down
//! plainly; the fast ones give the same bytes at every level.
//! Functions take *elements*: numbers below p. [`expect_elements`] says whether numbers of others are that.
//!
//! # Bounds
//!
//! - *Sums* of two elements are below `2p < 2^32`. With `s = a + b`, `min(s, s - p)` of wrapped 32-bit numbers is
//!   `s mod p`: where `s < p`, `s - p` wraps to more than s. Differences likewise.
//! - *Inner products*: `4 (p - 1)^2 < 2^64`, so four products are added up as they come. The sum is cut into halves of 32
//!   bits that are added up apart: fewer than 2^32 of them fit 64 bits, and a block has far fewer.
//!   `2^32 mod p`, 2 or 768, puts the halves together: below `2^52 + 768 * 2^40` for a block of 2^20 elements.
//! - *Share products*: a total of u16 codes is below `65535 * 127 * 66,000 < 2^39` in magnitude, so `lo + 2^16 hi` is below
//!   `2^39 * (2^16 + 1) < 2^56`. With `2^25 p`, which is 0 modulo p and more than that, added, it is below 2^57 and not
//!   negative; `x = (x mod 2^31) + floor(x / 2^31)` modulo 2^31 - 1 is below `2^31 + 2^26 < 2p`, and one subtraction
//!   is left.
//!   In the smaller field `hi` is below 2^8, the total below `2^47 + 2^39`, and with `2^24 p` added below 2^49;
//!   `x = (x mod 2^24) + 3 floor(x / 2^24)` modulo 2^24 - 3 is below 2^27, and done once more below `2^24 + 24 < 2p`.
//!   Bytes in place of halves: `2^24 * 127 * 66,000 < 2^24 p` and `2^32 * 127 * 66,000 < 2^25 p`.
//! - *Projections*: `2^31 * 127 * 2^24 < 2^62`, so `v` is added up in 64 bits and reduced once.
//! - *Lift*: `least` lies in `-(p - 1) ..= 0`, so `element - least` is below 2p. At most 258 parts of less than 2^31 add up to
//!   less than 2^40.
//!
//! # Soundness
//!
//! Let `d = y - x W^T` of a row be not all 0 modulo p, and say `d[n]` is not. For one vector, fix all of r but `r[n]`:
//! `d . r = 0` then holds for exactly one of its p values, since p is prime. `y . r = x . v` says just that. So a wrong
//! row passes one vector with a probability of 1/p, and both with p^-2, less than 2^-47 or 2^-61, whatever the server
//! does, as long as it knows nothing about r. An answer that differs by a multiple of p is not made of elements, and
//! [`dot`] refuses it. Whoever sees r, v or a side of a check knows something about r: they stay with the client.
//!
//! # Secrecy
//!
//! The low bits of a word of ChaCha20 are one of 2^24 or 2^31 numbers, all as likely; given that they are below p, they
//! are one of the p elements, all as likely. A remainder of a division would not be. For fixed X, `X - M` is then
//! as uniform as M, and so is what any k - 1 of the servers have: nothing but seeds, or seeds and a share which
//! one unknown M covers.
//!
//! **A row of a mask covers one row of codes, once.** Two rows under one mask have a difference that is the difference of
//! the codes, in the clear. So a (seed, stream, row) is never used again: not for another layer, nor in the other field,
//! nor for another call, nor when a call is repeated with other codes. Seeds are drawn at random for a session, streams number what happens in it.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod dot;
mod elements;
mod lift;
mod mask;
mod packed;
mod parts;
mod product;
pub mod reference;
mod vectors;

pub use dot::dot;
pub use elements::{add, expect_elements, subtract};
pub use lift::{lift, lift_u8};
pub use mask::{MAX_COLUMNS, expand};
pub use packed::{pack, unpack};
pub use parts::Parts;
pub use product::ShareProduct;
pub(crate) use product::fold_one;
pub use vectors::Vectors;

/// A prime field. See the [module](self) for which layer is multiplied in which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// Modulo 2^24 - 3: an element is three bytes.
    P24,
    /// Modulo 2^31 - 1: an element is four bytes.
    P31,
}

impl Field {
    /// Both, the smaller one first.
    pub const ALL: [Self; 2] = [Self::P24, Self::P31];

    /// p.
    pub const fn prime(self) -> u32 {
        match self {
            Self::P24 => (1 << 24) - 3,
            Self::P31 => (1 << 31) - 1,
        }
    }

    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::P24 => 3,
            Self::P31 => 4,
        }
    }

    /// The bits of a random word that make an element, unless they are p or more.
    pub const fn mask(self) -> u32 {
        match self {
            Self::P24 => (1 << 24) - 1,
            Self::P31 => (1 << 31) - 1,
        }
    }
}
