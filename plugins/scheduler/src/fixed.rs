//! Logarithms and powers of two in fixed point: integers in, integers out, the same everywhere.
//!
//! A value `v` of 16 fractional bits stands for `v / 65536`.

/// Fractional bits.
pub(crate) const BITS: u32 = 16;
/// One.
pub(crate) const ONE: i64 = 1 << BITS;

/// `log2(x)`, cut after 16 fractional bits. Of 0: as of 1.
pub(crate) fn log2(x: u128) -> i64 {
    let x = x.max(1);
    let whole = x.ilog2();
    // The mantissa with 31 fractional bits: in [1, 2).
    let mut mantissa = if whole >= 31 { x >> (whole - 31) } else { x << (31 - whole) };
    let mut log = i64::from(whole) << BITS;
    for bit in (0..BITS).rev() {
        mantissa = (mantissa * mantissa) >> 31;
        if mantissa >= 1 << 32 {
            mantissa >>= 1;
            log |= 1 << bit;
        }
    }
    log
}

/// `2^(1/2)`, `2^(1/4)` and so on, of 30 fractional bits.
const ROOTS: [u64; BITS as usize] = roots();

#[allow(clippy::indexing_slicing, reason = "evaluated when this is compiled")]
const fn roots() -> [u64; BITS as usize] {
    let mut roots = [0; BITS as usize];
    let mut root: u64 = 2 << 30;
    let mut at = 0;
    while at < roots.len() {
        root = (root << 30).isqrt();
        roots[at] = root;
        at += 1;
    }
    roots
}

/// `2^x` for `x` of 16 fractional bits, as an integer; at most `2^62`, and 0 below `2^0`.
pub(crate) fn exp2(x: i64) -> u64 {
    if x < 0 {
        return 0;
    }
    let whole = x >> BITS;
    if whole >= 62 {
        return 1 << 62;
    }
    let mut value: u128 = 1 << 30;
    for (at, root) in ROOTS.into_iter().enumerate() {
        if (x >> (BITS as usize - 1 - at)) & 1 == 1 {
            value = (value * u128::from(root)) >> 30;
        }
    }
    u64::try_from((value << whole) >> 30).unwrap_or(1 << 62)
}

/// The product of two values, cut towards minus infinity.
pub(crate) fn mul(a: i64, b: i64) -> i64 {
    narrow((i128::from(a) * i128::from(b)) >> BITS)
}

/// Into 64 bits, the nearest there is.
pub(crate) fn narrow(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}
