//! The operations, fast.
