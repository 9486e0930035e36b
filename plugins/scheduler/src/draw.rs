//! Drawing lots from the randomness that the host hands over.
//!
//! The 64 bytes are unpredictable to everybody, so what is made of them need only be even: xoshiro256** from a state
//! that folds all of them, and numbers below a bound by rejection.

/// Where lots come from.
#[derive(Clone)]
pub(crate) struct Lots([u64; 4]);

impl Lots {
    /// From 64 bytes; nothing for any other number.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 64] = bytes.try_into().ok()?;
        let mut state = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 1];
        let (words, _) = bytes.as_chunks::<8>();
        let (low, high) = words.split_at_checked(4)?;
        for ((to, low), high) in state.iter_mut().zip(low).zip(high) {
            *to ^= u64::from_le_bytes(*low) ^ u64::from_le_bytes(*high).rotate_left(17);
        }
        if state == [0; 4] {
            state = [1; 4];
        }
        let mut lots = Self(state);
        for _ in 0..16 {
            lots.next();
        }
        Some(lots)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        let Self([a, b, c, d]) = self;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `bound`, each as likely as the others. 0 where there is none below it.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let Some(bound) = std::num::NonZeroU64::new(bound as u64) else { return 0 };
        let unfair = u64::MAX - u64::MAX % bound;
        loop {
            let number = self.next();
            if number < unfair {
                return usize::try_from(number % bound).unwrap_or(0);
            }
        }
    }

    /// Take one out of a list, each as likely as the others.
    pub(crate) fn take<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        let at = self.below(from.len());
        Some(from.swap_remove(at))
    }
}
