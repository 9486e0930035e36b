//! Tests of whether numbers are uniform, or come from the same distribution, with bounds on how often they are wrong.
//!
//! # How
//!
//! Each test gives a bound on the probability that numbers which are as they should be look at least as bad. The bounds are
//! larger than the exact values, never smaller, so whoever rejects below some value errs at most as often as it says.
//!
//! - *Chi-squared*: Laurent and Massart, `P(chi2_k >= k + 2 sqrt(k x) + 2 x) <= e^-x`. That counts are as good as normal is the one
//!   thing that is not proved; [`MIN_EXPECTED`] per cell and the slack of the bound, a factor of e^5 where it is used, see to it.
//! - *Kolmogorov-Smirnov*, one sample: Dvoretzky, Kiefer and Wolfowitz with Massart's constant, `2 e^(-2 n D^2)`, for every n.
//!   Two samples of n each: `2 e^(-n D^2)`, which Wei and Dudley proved for n >= 458 ([`MIN_KS`]).
//! - *Correlation* of uniform elements with numbers that they must not depend on: Hoeffding, for every n.

use ostrakon_exact::field::Field;

/// Least expected number in a cell.
pub const MIN_EXPECTED: f64 = 200.0;
/// Least number of elements for Kolmogorov-Smirnov with two samples.
pub const MIN_KS: usize = 458;

/// How many elements have which limb. The few values that no element has are not worth a thought: they are three in 2^24, one in
/// 2^31.
#[derive(Debug, Clone)]
pub struct Limbs {
    field: Field,
    /// By limb and value. The last limb of the larger field has 7 bits, all others 8.
    counts: Vec<Vec<u64>>,
}

impl Limbs {
    /// Count elements of one field.
    pub fn of(field: Field, elements: impl IntoIterator<Item = u32>) -> Self {
        let values = |limb: usize| (field.mask() >> (8 * limb)).min(0xff) as usize + 1;
        let mut counts: Vec<_> = (0..field.bytes()).map(|limb| vec![0; values(limb)]).collect();
        for element in elements {
            assert!(element < field.prime(), "{element} is no element of {field:?}");
            for (counts, limb) in counts.iter_mut().zip(element.to_le_bytes()) {
                if let Some(count) = counts.get_mut(usize::from(limb)) {
                    *count += 1;
                }
            }
        }
        Self { field, counts }
    }

    /// For each limb: whether it is uniform.
    pub fn uniform(&self) -> Vec<f64> {
        let uniform = |counts: &Vec<u64>| {
            let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
            assert!(expected >= MIN_EXPECTED, "too few elements: {expected} in a cell");
            let statistic = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
            chi_squared(statistic, counts.len() - 1)
        };
        self.counts.iter().map(uniform).collect()
    }

    /// For each limb: whether both are of one distribution.
    pub fn alike(&self, other: &Self) -> Vec<f64> {
        assert_eq!(self.field, other.field);
        let alike = |(a, b): (&Vec<u64>, &Vec<u64>)| {
            let (n, m) = (a.iter().sum::<u64>() as f64, b.iter().sum::<u64>() as f64);
            assert!(n.min(m) / a.len() as f64 >= MIN_EXPECTED, "too few elements: {n} and {m}");
            let (up, down) = ((m / n).sqrt(), (n / m).sqrt());
            let cells = a.iter().zip(b).filter(|&(&a, &b)| a + b > 0);
            let statistic =
                cells.clone().map(|(&a, &b)| (up * a as f64 - down * b as f64).powi(2) / (a + b) as f64).sum();
            chi_squared(statistic, cells.count().saturating_sub(1))
        };
        self.counts.iter().zip(&other.counts).map(alike).collect()
    }
}

/// A bound on the probability of a chi-squared of so many degrees of freedom being this large.
pub fn chi_squared(statistic: f64, degrees: usize) -> f64 {
    let k = degrees as f64;
    if statistic <= k {
        return 1.0;
    }
    let root = ((k + 2.0 * (statistic - k)).sqrt() - k.sqrt()) / 2.0;
    (-root * root).exp()
}

/// Whether sorted elements are uniform on the field.
pub fn ks_uniform(field: Field, sorted: &[u32]) -> f64 {
    let (n, p) = (sorted.len() as f64, f64::from(field.prime()));
    let distance = sorted.iter().enumerate().fold(0.0f64, |distance, (i, &element)| {
        let (below, upto) = (f64::from(element) / p, (f64::from(element) + 1.0) / p);
        distance.max(below - i as f64 / n).max((i as f64 + 1.0) / n - upto)
    });
    (2.0 * (-2.0 * n * distance * distance).exp()).min(1.0)
}

/// Whether sorted elements, as many here as there, are of one distribution.
pub fn ks_alike(a: &[u32], b: &[u32]) -> f64 {
    assert!(a.len() == b.len() && a.len() >= MIN_KS, "{} and {} elements", a.len(), b.len());
    let n = a.len() as f64;
    let (mut i, mut j, mut distance) = (0, 0, 0usize);
    while let (Some(&x), Some(&y)) = (a.get(i), b.get(j)) {
        let least = x.min(y);
        while a.get(i) == Some(&least) {
            i += 1;
        }
        while b.get(j) == Some(&least) {
            j += 1;
        }
        distance = distance.max(i.abs_diff(j));
    }
    let distance = distance as f64 / n;
    (2.0 * (-n * distance * distance).exp()).min(1.0)
}

/// Whether elements that should be uniform on the field depend on numbers, one for each. Also the coefficient of correlation.
pub fn correlation(field: Field, elements: &[u32], numbers: &[u32]) -> (f64, f64) {
    assert_eq!(elements.len(), numbers.len());
    let (n, largest) = (elements.len() as f64, f64::from(field.prime() - 1));
    let mean = numbers.iter().map(|&number| f64::from(number)).sum::<f64>() / n;
    let (mut sum, mut squares) = (0.0, 0.0);
    for (&element, &number) in elements.iter().zip(numbers) {
        let number = f64::from(number) - mean;
        sum += (f64::from(element) / largest - 0.5) * number;
        squares += number * number;
    }
    if squares == 0.0 {
        return (1.0, 0.0);
    }
    // Each summand lies in a range of |number|. A uniform element has a variance of 1 / 12.
    let p = (2.0 * (-2.0 * sum * sum / squares).exp()).min(1.0);
    (p, sum / (squares * n / 12.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny::Random;

    fn uniform(field: Field, random: &mut Random, n: usize) -> Vec<u32> {
        (0..n).map(|_| (random.next() % u64::from(field.prime())) as u32).collect()
    }

    fn sorted(mut elements: Vec<u32>) -> Vec<u32> {
        elements.sort_unstable();
        elements
    }

    #[test]
    fn bounds_hold_for_what_is_uniform() {
        for field in Field::ALL {
            let random = &mut Random(1);
            let (mut least, mut tests, mut below) = (1.0f64, 0, 0);
            for _ in 0..60 {
                let [a, b] = [0, 1].map(|_| uniform(field, random, 60_000));
                let (x, y) = (Limbs::of(field, a.iter().copied()), Limbs::of(field, b.iter().copied()));
                let mut all = [x.uniform(), y.uniform(), x.alike(&y)].concat();
                assert_eq!(all.len(), 3 * field.bytes());
                all.push(correlation(field, &a, &b).0);
                let [a, b] = [a, b].map(sorted);
                all.extend([ks_uniform(field, &a), ks_alike(&a, &b)]);
                tests += all.len();
                below += all.iter().filter(|&&p| p < 0.05).count();
                least = all.into_iter().fold(least, f64::min);
            }
            assert!(least > 1e-5, "{field:?}: {least}");
            assert!(below <= tests / 20, "{field:?}: {below}");
        }
    }

    #[test]
    fn what_is_not_uniform_is_rejected() {
        for field in Field::ALL {
            let random = &mut Random(2);
            let good = uniform(field, random, 200_000);
            // Two in a hundred are one.
            let bad: Vec<u32> = good.iter().map(|&x| if random.below(50) == 0 { 1 } else { x }).collect();
            let (x, y) = (Limbs::of(field, good.iter().copied()), Limbs::of(field, bad.iter().copied()));
            assert!(y.uniform().iter().all(|&p| p < 1e-9) && x.alike(&y).iter().all(|&p| p < 1e-9));
            let part: Vec<u32> = good.iter().map(|&x| x >> 9).collect();
            assert!(correlation(field, &good, &part).0 < 1e-9);
            let [good, bad] = [good, bad].map(sorted);
            assert!(ks_uniform(field, &bad) < 1e-9 && ks_alike(&good, &bad) < 1e-9);
        }
    }

    #[test]
    fn fields_are_told_apart() {
        let [small, large] = Field::ALL.map(|field| sorted(uniform(field, &mut Random(3), 200_000)));
        // Elements of the smaller field are elements of the larger one too, and far from uniform there.
        assert!(ks_uniform(Field::P31, &small) < 1e-9 && ks_alike(&small, &large) < 1e-9);
        let limbs = Limbs::of(Field::P31, small).uniform();
        assert!(limbs[..3].iter().all(|&p| p > 1e-6) && limbs[3] < 1e-9, "{limbs:?}");
    }

    #[test]
    fn bounds_are_above_exact_values() {
        // Quantiles from tables: P(chi2_1 > 10.83) = P(chi2_10 > 29.59) = P(chi2_100 > 149.4) = 0.001.
        for (statistic, degrees) in [(10.83, 1), (29.59, 10), (149.4, 100)] {
            assert!(chi_squared(statistic, degrees) > 0.001);
        }
    }
}
