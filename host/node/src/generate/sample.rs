//! Choosing a token from logits, so that the same choice can be made again by anybody.
//!
//! # How
//!
//! 1. Penalties and biases change single logits, each by one IEEE operation.
//! 2. Greedy: the largest logit; of equals the lowest id.
//! 3. Otherwise `weight = round(2^22 * exp_negative((logit - largest) * (1 / temperature)))`, an integer. All sums from here on
//!    are of integers: which tokens are left (`top_k`, then `top_p`), and where the lot falls.
//! 4. The lot is 64 bits of the ChaCha20 stream of the seed, at the token's place in the sequence. So a sampled answer follows from
//!    logits and seed, whatever ran beside it.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use ostrakon_exact::number::{clean, exp_negative, larger, round};
use std::collections::BTreeMap;

/// What a weight of 1 is: `round` is right up to here.
const ONE: f32 = 4_194_304.0;
/// Lowest temperature that is not greedy: below, a difference of one logit is beyond any float.
const COLDEST: f32 = 1.0 / 1024.0;

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; 1 takes tokens as often as the model says. At most 100.
    pub temperature: f32,
    /// Only the so many likeliest; 0: all.
    pub top_k: u32,
    /// Only the likeliest that together have this probability: above 0, at most 1.
    pub top_p: f32,
    /// What the lots follow from.
    pub seed: u64,
    /// Positive logits of tokens that were there are divided by it, negative ones multiplied: above 0, at most 100; 1: nothing.
    pub repetition_penalty: f32,
    /// Taken off the logit of a token that was generated, as often as it was. From -100 to 100.
    pub frequency_penalty: f32,
    /// Taken off the logit of a token that was generated, once. From -100 to 100.
    pub presence_penalty: f32,
    /// Added to logits. From -100 to 100.
    pub bias: BTreeMap<u32, f32>,
}

impl Default for Sampling {
    /// The likeliest token.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            bias: BTreeMap::new(),
        }
    }
}

/// A setting is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is {value}: {range}")]
pub struct OutOfRange {
    /// Which.
    pub name: &'static str,
    /// What it is.
    pub value: String,
    /// What it may be.
    pub range: &'static str,
}

fn within(name: &'static str, value: f32, fits: bool, range: &'static str) -> Result<(), OutOfRange> {
    // A NaN fits no range.
    if fits { Ok(()) } else { Err(OutOfRange { name, value: value.to_string(), range }) }
}

impl Sampling {
    /// Most tokens that may have a bias.
    pub const MAX_BIASES: usize = 1024;

    /// Whether everything is in its range.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let t = self.temperature;
        within("temperature", t, (0.0..=100.0).contains(&t), "0 to 100")?;
        let p = self.top_p;
        within("top_p", p, p > 0.0 && p <= 1.0, "above 0, at most 1")?;
        let r = self.repetition_penalty;
        within("repetition_penalty", r, r > 0.0 && r <= 100.0, "above 0, at most 100")?;
        let pairs = [("frequency_penalty", self.frequency_penalty), ("presence_penalty", self.presence_penalty)];
        let biases = self.bias.values().map(|&bias| ("logit_bias", bias));
        for (name, value) in pairs.into_iter().chain(biases) {
            within(name, value, (-100.0..=100.0).contains(&value), "-100 to 100")?;
        }
        if self.bias.len() > Self::MAX_BIASES {
            let value = format!("of {} tokens", self.bias.len());
            return Err(OutOfRange { name: "logit_bias", value, range: "of at most 1024 tokens" });
        }
        Ok(())
    }

    /// Whether logits are taken as they are.
    fn is_plain(&self) -> bool {
        self.repetition_penalty == 1.0
            && self.frequency_penalty == 0.0
            && self.presence_penalty == 0.0
            && self.bias.is_empty()
    }

    /// The logits after penalties and biases. `seen` are the tokens of the text so far, with how often each was generated.
    fn adjusted(&self, logits: &mut [f32], seen: &BTreeMap<u32, u32>) {
        for (&token, &generated) in seen {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            let penalised =
                if *logit > 0.0 { *logit / self.repetition_penalty } else { *logit * self.repetition_penalty };
            let penalised = penalised - generated as f32 * self.frequency_penalty;
            *logit = if generated > 0 { penalised - self.presence_penalty } else { penalised };
        }
        for (&token, &bias) in &self.bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    /// The token for place `at` of a sequence, given the logits of all tokens (at least one).
    pub fn choose(&self, logits: &[f32], seen: &BTreeMap<u32, u32>, at: u64) -> u32 {
        let mut changed = Vec::new();
        let logits = if self.is_plain() {
            logits
        } else {
            changed.extend(logits.iter().map(|&logit| clean(logit)));
            self.adjusted(&mut changed, seen);
            &changed
        };
        if self.temperature < COLDEST {
            return likeliest(logits);
        }
        self.drawn(&weights(logits, 1.0 / self.temperature), at)
    }

    fn drawn(&self, weights: &[u32], at: u64) -> u32 {
        let all = weights.iter().zip(0..).filter(|&(&weight, _)| weight > 0);
        let mut left: Vec<(u32, u32)> = all.map(|(&weight, token)| (weight, token)).collect();
        if self.top_k > 0 || self.top_p < 1.0 {
            left.sort_unstable_by_key(|&(weight, token)| (std::cmp::Reverse(weight), token));
            if self.top_k > 0 {
                left.truncate(self.top_k as usize);
            }
            let enough = share(total(&left), self.top_p);
            let mut sum = 0u64;
            let before = left.iter().take_while(|&&(weight, _)| {
                let goes_on = sum < enough;
                sum += u64::from(weight);
                goes_on
            });
            let count = before.count();
            left.truncate(count.max(1));
        }
        let lot = u128::from(lot(self.seed, at)) * u128::from(total(&left));
        let mut lot = (lot >> 64) as u64;
        for &(weight, token) in &left {
            match lot.checked_sub(weight.into()) {
                Some(rest) => lot = rest,
                None => return token,
            }
        }
        // The lot is below the total of weights: only of nothing is there nothing to draw.
        0
    }
}

fn total(left: &[(u32, u32)]) -> u64 {
    left.iter().map(|&(weight, _)| u64::from(weight)).sum()
}

/// The least integer that is at least this part of a total, the part taken in steps of 2^-32.
fn share(total: u64, part: f32) -> u64 {
    let part = (f64::from(part) * 4_294_967_296.0) as u128;
    u64::try_from((u128::from(total) * part).div_ceil(1 << 32)).unwrap_or(u64::MAX)
}

/// 64 bits for this place.
fn lot(seed: u64, at: u64) -> u64 {
    let mut key = [0; 32];
    key.iter_mut().zip(seed.to_le_bytes()).for_each(|(key, byte)| *key = byte);
    let mut stream = ChaCha20::new(&key.into(), &[0; 12].into());
    let mut bits = [0; 8];
    // A stream has 2^38 bytes; no sequence has so many tokens.
    if stream.try_seek(at.saturating_mul(8)).is_ok() && stream.try_apply_keystream(&mut bits).is_ok() {
        return u64::from_le_bytes(bits);
    }
    0
}

/// The largest logit's token; of equals the lowest.
pub(super) fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (&logit, token) in logits.iter().zip(0u32..) {
        let logit = clean(logit);
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0
}

fn largest(logits: &[f32]) -> f32 {
    logits.iter().fold(f32::NEG_INFINITY, |most, &logit| larger(most, clean(logit)))
}

/// The weight of each token; the likeliest one's is 2^22.
fn weights(logits: &[f32], inverse: f32) -> Vec<u32> {
    let largest = largest(logits);
    let weight = |&logit: &f32| round(exp_negative((clean(logit) - largest) * inverse) * ONE) as u32;
    logits.iter().map(weight).collect()
}

/// How likely tokens are.
#[derive(Debug, Clone, PartialEq)]
pub struct Likelihood {
    /// Natural logarithm of the chosen token's probability.
    pub chosen: f32,
    /// The likeliest tokens, likeliest first, with theirs.
    pub top: Vec<(u32, f32)>,
}

impl Likelihood {
    /// Of `token`, with the `count` likeliest beside it, by the model's own word: before temperature and penalties.
    pub fn of(logits: &[f32], token: u32, count: usize) -> Self {
        let largest = largest(logits);
        // An integer sum, so that it is the same everywhere; 2^-22 of the likeliest token is below what is shown.
        let total: u64 = weights(logits, 1.0).iter().map(|&weight| u64::from(weight)).sum();
        let offset = libm::log(total as f64 / f64::from(ONE));
        let of = |logit: f32| (f64::from(clean(logit)) - f64::from(largest) - offset) as f32;
        let mut order: Vec<(f32, u32)> = logits.iter().copied().zip(0u32..).collect();
        let by = |&(a, i): &(f32, u32), &(b, j): &(f32, u32)| clean(b).total_cmp(&clean(a)).then(i.cmp(&j));
        let count = count.min(order.len());
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, by);
        }
        order.truncate(count);
        order.sort_unstable_by(by);
        Self {
            chosen: logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| of(logit)),
            top: order.into_iter().map(|(logit, token)| (token, of(logit))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> BTreeMap<u32, u32> {
        BTreeMap::new()
    }

    fn warm(seed: u64) -> Sampling {
        Sampling { temperature: 1.0, seed, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        assert_eq!(Sampling::default().choose(&[1.0, 3.0, 3.0, f32::NAN], &none(), 0), 1);
        assert_eq!(Sampling::default().choose(&[f32::NAN, f32::NEG_INFINITY], &none(), 0), 0);
    }

    #[test]
    fn samples_follow_the_probabilities() {
        // e^0 : e^-1 : e^-2
        let logits = [2.0, 1.0, 0.0];
        let mut counts = [0u32; 3];
        for at in 0..30_000 {
            counts[warm(7).choose(&logits, &none(), at) as usize] += 1;
        }
        for (count, want) in counts.into_iter().zip([0.6652, 0.2447, 0.0900]) {
            assert!((f64::from(count) / 30_000.0 - want).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn a_sample_depends_on_seed_and_place_alone() {
        let logits: Vec<f32> = (0..1000).map(|i| (i * 37 % 101) as f32 / 50.0).collect();
        let chosen = |seed, at| warm(seed).choose(&logits, &none(), at);
        assert_eq!(chosen(1, 5), chosen(1, 5));
        assert!((0..20).any(|at| chosen(1, at) != chosen(1, at + 1)));
        assert!((0..20).any(|at| chosen(1, at) != chosen(2, at)));
    }

    #[test]
    fn top_k_and_top_p_leave_the_likeliest() {
        let logits = [0.0, 5.0, 5.0, 4.0, -3.0];
        for at in 0..2000 {
            let two = Sampling { top_k: 2, ..warm(3) }.choose(&logits, &none(), at);
            assert!([1, 2].contains(&two));
            // 5, 5 and 4 have 0.42, 0.42 and 0.155.
            let part = Sampling { top_p: 0.8, ..warm(3) }.choose(&logits, &none(), at);
            assert!([1, 2].contains(&part));
            let least = Sampling { top_p: f32::MIN_POSITIVE, ..warm(3) }.choose(&logits, &none(), at);
            assert_eq!(least, 1);
        }
        assert!((0..2000).any(|at| Sampling { top_p: 0.9, ..warm(3) }.choose(&logits, &none(), at) == 3));
    }

    #[test]
    fn penalties_and_biases_change_the_choice() {
        let logits = [2.0, 1.9, -1.0];
        let seen = BTreeMap::from([(0, 1)]);
        let choose = |sampling: Sampling| sampling.choose(&logits, &seen, 0);
        assert_eq!(choose(Sampling::default()), 0);
        assert_eq!(choose(Sampling { repetition_penalty: 1.1, ..Sampling::default() }), 1);
        assert_eq!(choose(Sampling { frequency_penalty: 0.2, ..Sampling::default() }), 1);
        assert_eq!(choose(Sampling { presence_penalty: 0.2, ..Sampling::default() }), 1);
        assert_eq!(choose(Sampling { bias: BTreeMap::from([(2, 10.0)]), ..Sampling::default() }), 2);
        // What was only in the prompt was not generated.
        let prompt = BTreeMap::from([(0, 0)]);
        let presence = Sampling { presence_penalty: 2.0, ..Sampling::default() };
        assert_eq!(presence.choose(&logits, &prompt, 0), 0);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for bad in [
            Sampling { temperature: f32::NAN, ..Sampling::default() },
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { repetition_penalty: 0.0, ..Sampling::default() },
            Sampling { bias: BTreeMap::from([(1, 1e9)]), ..Sampling::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert_eq!(Sampling::default().check(), Ok(()));
    }

    #[test]
    fn likelihoods_add_up_to_one() {
        let logits = [2.0f32, 1.0, 0.0, -1.0];
        let all = Likelihood::of(&logits, 2, 10);
        assert_eq!(all.top.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let sum: f64 = all.top.iter().map(|&(_, log)| f64::from(log).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert_eq!(all.chosen, all.top[2].1);
        assert!(Likelihood::of(&logits, 0, 0).top.is_empty());
    }
}
