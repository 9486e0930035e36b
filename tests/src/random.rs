//! Numbers that look random and are the same everywhere: for benchmarks, and awkward ones for trials of operations.

/// Splitmix64, from a seed.
pub struct Random(pub u64);

/// What operations on floats must bear.
const AWKWARD: [f32; 14] = [
    0.0,
    -0.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    1e-30,
    1e38,
    4_194_304.0,
    -0.5,
];

impl Random {
    /// Any number.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `bound`; 0 where there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A place among `count`.
    pub fn place(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap_or(0)
    }

    /// Between two numbers, evenly in the logarithm.
    pub fn between(&mut self, least: f64, most: f64) -> f64 {
        let part = self.below(1 << 20) as f64 / f64::from(1 << 20);
        least * (most / least).powf(part)
    }

    /// The randomness of a plan.
    pub fn lots(&mut self) -> [u8; 64] {
        std::array::from_fn(|_| self.next() as u8)
    }

    /// From -2 to 2.
    pub fn usual(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }

    /// Any float, often an awkward one.
    pub fn unusual(&mut self) -> f32 {
        match self.below(3) {
            0 => AWKWARD.get(self.place(AWKWARD.len())).copied().unwrap_or_default(),
            1 => f32::from_bits(self.next() as u32),
            _ => self.usual(),
        }
    }

    /// Rows, each in one of several manners: any floats, equal ones, zeros, huge, tiny, one loud value, usual ones.
    pub fn rows(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let mut all = Vec::with_capacity(rows * width);
        for _ in 0..rows {
            let (manner, equal, loud) = (self.below(10), self.unusual(), self.place(width));
            all.extend((0..width).map(|at| match manner {
                0 => self.unusual(),
                1 => equal,
                2 => 0.0,
                3 => self.usual() * 1e37,
                4 => self.usual() * 1e-18,
                5 if at == loud => 1e30,
                6 => self.usual() * 30.0,
                _ => self.usual(),
            }));
        }
        all
    }

    /// So many usual ones.
    pub fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.usual()).collect()
    }

    /// Codes of weights: any, or all at one end, or at either.
    pub fn codes(&mut self, count: usize) -> Vec<i8> {
        let manner = self.below(4);
        let any = |random: &mut Self| i8::try_from(random.place(255) as i64 - 127).unwrap_or(0);
        (0..count)
            .map(|at| match manner {
                0 => 127,
                1 => -127,
                2 if at % 2 == 0 => 127,
                2 => -127,
                _ => any(self),
            })
            .collect()
    }
}
