//! Numbers from a seed, and awkward ones among them.

/// Numbers from a seed: a test case is its shape and a seed, which proptest shrinks and reports.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }

    pub(crate) fn seed(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| self.next() as u8)
    }

    pub(crate) fn usual(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }

    /// Any float at all, often an awkward one.
    pub(crate) fn unusual(&mut self) -> f32 {
        const AWKWARD: [f32; 20] = [
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN,
            1e38,
            -1e38,
            f32::MIN_POSITIVE,
            1e-45,
            -1e-45,
            1e-30,
            (1u64 << 60) as f32,
            -((1u64 << 60) as f32),
            1.0 / (1u64 << 60) as f32,
            0.5,
            -0.5,
            4_194_304.0,
            1.0,
        ];
        match self.below(4) {
            0 => AWKWARD[self.below(AWKWARD.len())],
            1 => f32::from_bits(self.next() as u32),
            _ => self.usual(),
        }
    }

    /// Rows in one of several manners: any values, equal values, zeros, huge ones, tiny ones, one large value, usual ones.
    pub(crate) fn rows(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let mut all = Vec::with_capacity(rows * width);
        for _ in 0..rows {
            let manner = self.below(10);
            let equal = self.unusual();
            let row = all.len();
            all.extend((0..width).map(|_| match manner {
                0 => self.unusual(),
                1 => equal,
                2 => [0.0, -0.0][self.below(2)],
                3 => self.usual() * 1e37,
                4 => self.usual() * 1e-18,
                5 => self.usual() * 30.0,
                _ => self.usual(),
            }));
            if manner == 6 && width > 0 {
                let at = row + self.below(width);
                all[at] = 1e30;
            }
        }
        all
    }
}
