//! The checks of Freivalds: the fast ones are the plain ones at every level, right rows always pass, any
//! single changed element is seen, and errors that could cancel pass as seldom as is said.

use crate::random::Random;
use ostrakon_exact::freivalds::{
    Challenge, ELEMENT_BITS, LEAST_REACH, Sides, Vectors, check_scores, check_u8, check_u16, check_weighted, plain,
};
use ostrakon_exact::layer::MAX_WIDTH;
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_exact::{Layer, Linear, Part};
use std::sync::LazyLock;

impl Random {
    /// An integer of -limit to limit, in one of several manners for a whole slice: all at their largest,
    /// alternating, zeros, anything.
    fn integers(&mut self, n: usize, low: i64, high: i64) -> Vec<i64> {
        let manner = self.below(6);
        (0..n)
            .map(|i| match manner {
                0 => high,
                1 => low,
                2 => [low, high][i % 2],
                3 => 0i64.clamp(low, high),
                _ => low + (self.next() % (high - low + 1) as u64) as i64,
            })
            .collect()
    }

    fn challenge(&mut self, len: usize) -> Challenge {
        match self.below(8) {
            0 => Challenge::from_elements(&vec![MOST; len], &vec![MOST; len]).unwrap(),
            1 => Challenge::from_elements(&vec![0; len], &vec![1; len]).unwrap(),
            _ => Challenge::random(len, |bytes| self.fill(bytes)),
        }
    }
}

static EXECUTORS: LazyLock<Vec<Executor>> =
    LazyLock::new(|| Level::available().into_iter().map(|level| Executor::new(level, 1).unwrap()).collect());

/// The largest element of a challenge.
const MOST: u32 = (1 << ELEMENT_BITS) - 1;

fn linear(weights: &[i64], outputs: usize, inputs: usize) -> Linear {
    let part = |name: &str, dimensions: &[usize], data: Vec<u8>| Part {
        name: name.to_owned(),
        dimensions: dimensions.to_vec(),
        data: Box::new(data),
    };
    let parts = vec![
        part("weight", &[outputs, inputs], weights.iter().map(|&w| w as i8 as u8).collect()),
        part("scale", &[outputs], vec![0; 4 * outputs]),
    ];
    match Layer::from_parts("linear", "u8", parts).unwrap() {
        Layer::Linear(layer) => layer,
        _ => unreachable!(),
    }
}

/// `x . w^T`, rows of `width` each.
fn product(x: &[i64], w: &[i64], width: usize) -> Vec<i64> {
    let row =
        |x: &[i64]| -> Vec<i64> { w.chunks_exact(width).map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()).collect() };
    x.chunks_exact(width).flat_map(row).collect()
}

fn transposed(x: &[i64], width: usize) -> Vec<i64> {
    (0..width).flat_map(|c| x.iter().skip(c).step_by(width).copied()).collect()
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    U8,
    U16,
    Scores,
    Weighted,
}

/// A product with its claim.
struct Case {
    kind: Kind,
    rows: usize,
    /// Terms of a sum.
    inputs: usize,
    outputs: usize,
    x: Vec<i64>,
    /// [outputs, inputs].
    w: Vec<i64>,
    y: Vec<i64>,
    challenge: Challenge,
}

impl Case {
    fn new(random: &mut Random, kind: Kind, rows: usize, inputs: usize, outputs: usize) -> Self {
        let (x_range, w) = match kind {
            Kind::U8 => ((0, 255), 127),
            Kind::U16 => ((0, 65_535), 127),
            Kind::Scores => ((-4095, 4095), 4095),
            Kind::Weighted => ((0, 32_767), 1023),
        };
        let (inputs, outputs) = match kind {
            Kind::Scores => (inputs.min(128), rows),
            Kind::Weighted => (rows, outputs.min(128)),
            _ => (inputs, outputs),
        };
        let x = random.integers(rows * inputs, x_range.0, x_range.1);
        let w = random.integers(outputs * inputs, -w, w);
        let y = if inputs > 0 { product(&x, &w, inputs) } else { Vec::new() };
        let challenge = random.challenge(outputs);
        Self { kind, rows, inputs, outputs, x, w, y, challenge }
    }

    /// The centre of each column of 64-bit totals, and how far from it they may lie.
    fn range(&self) -> Option<(Vec<i64>, i64)> {
        let (centres, bound) = match self.kind {
            Kind::U8 | Kind::Scores => return None,
            Kind::U16 => {
                let rows = || self.w.chunks_exact(self.inputs);
                let most = rows().map(|row| row.iter().map(|w| w.abs()).sum::<i64>()).max().unwrap();
                (rows().map(|row| row.iter().sum::<i64>() * 32_768).collect(), most * 32_768)
            }
            Kind::Weighted => (vec![0; self.outputs], self.rows as i64 * 32_767 * 1023),
        };
        Some((centres, (bound + 1).max(LEAST_REACH)))
    }

    fn layer(&self) -> Linear {
        linear(&self.w, self.outputs, self.inputs)
    }

    fn vectors(&self, executor: &Executor) -> Vectors {
        let [first, second] = self.challenge.elements();
        let challenge = Challenge::from_elements(first, second).unwrap();
        Vectors::new(executor, &self.layer(), challenge).unwrap()
    }

    fn run(&self, executor: &Executor, vectors: Option<&Vectors>) -> Sides {
        let made;
        let vectors = match (vectors, self.kind) {
            (None, Kind::U8 | Kind::U16) => {
                made = self.vectors(executor);
                Some(&made)
            }
            (vectors, _) => vectors,
        };
        let words = |x: &[i64]| -> Vec<i16> { x.iter().map(|&x| x as i16).collect() };
        let narrow: Vec<i32> = self.y.iter().map(|&y| y as i32).collect();
        match self.kind {
            Kind::U8 => {
                let codes: Vec<u8> = self.x.iter().map(|&x| x as u8).collect();
                let mut sides = Sides::with_rows(self.rows);
                check_u8(executor, vectors.unwrap(), &codes, self.rows, &narrow, &mut sides).unwrap();
                sides
            }
            Kind::U16 => {
                let codes: Vec<u16> = self.x.iter().map(|&x| x as u16).collect();
                // In two parts, as an auditor does.
                let (mut sides, first) = (Sides::default(), self.rows / 3);
                let (codes, more_codes) = codes.split_at(first * self.inputs);
                let (totals, more_totals) = self.y.split_at(first * self.outputs);
                check_u16(executor, vectors.unwrap(), codes, first, totals, &mut sides).unwrap();
                check_u16(executor, vectors.unwrap(), more_codes, self.rows - first, more_totals, &mut sides).unwrap();
                sides
            }
            Kind::Scores => {
                let (queries, keys) = (words(&self.x), words(&self.w));
                check_scores(executor, &self.challenge, &queries, &keys, self.inputs, &narrow).unwrap()
            }
            Kind::Weighted => {
                let (weights, values) = (words(&self.x), words(&transposed(&self.w, self.inputs.max(1))));
                check_weighted(executor, &self.challenge, &weights, &values, self.rows, &self.y).unwrap()
            }
        }
    }

    /// The sides at every level, which must be those of the plain check.
    fn sides(&self) -> Sides {
        let range = self.range();
        let range = range.as_ref().map(|(centres, reach)| (centres.as_slice(), *reach));
        let [left, right] = plain::check(&self.challenge, &self.x, &self.w, self.inputs, &self.y, range);
        // The largest difference of two totals in range.
        let largest = range.map_or(u32::MAX.into(), |(_, reach)| 2 * reach as u64 - 1);
        let want = Sides { left, right, error_bits: 2 * (64 - largest.ilog2()).min(31) };
        for executor in EXECUTORS.iter() {
            let got = self.run(executor, None);
            assert_eq!(got.left.len(), self.rows);
            assert!(
                got == want,
                "{:?} {} x {} x {} at {}",
                self.kind,
                self.rows,
                self.inputs,
                self.outputs,
                executor.level()
            );
        }
        want
    }

    /// The largest total that its type holds.
    fn limits(&self) -> (i64, i64) {
        match self.kind {
            Kind::U8 | Kind::Scores => (i32::MIN.into(), i32::MAX.into()),
            _ => (i64::MIN, i64::MAX),
        }
    }
}

const KINDS: [Kind; 4] = [Kind::U8, Kind::U16, Kind::Scores, Kind::Weighted];

fn small(random: &mut Random, kind: Kind) -> Case {
    let (rows, inputs, outputs) = (1 + random.below(12), 1 + random.below(70), 1 + random.below(70));
    Case::new(random, kind, rows, inputs, outputs)
}

#[test]
fn right_products_always_pass() {
    let random = &mut Random(1);
    for i in 0..12_000 {
        let case = small(random, KINDS[i % 4]);
        assert_eq!(case.sides().first_difference(), None);
    }
}

#[test]
fn bounds_and_corners_pass() {
    let random = &mut Random(2);
    for (kind, rows, inputs, outputs) in [
        (Kind::U8, 0, 5, 5),
        (Kind::U16, 0, 5, 5),
        (Kind::Scores, 0, 5, 0),
        (Kind::Weighted, 0, 0, 5),
        (Kind::U8, 1, 1, 1),
        (Kind::U16, 1, 1, 1),
        (Kind::Scores, 1, 1, 1),
        (Kind::Weighted, 1, 1, 1),
        (Kind::U8, 2, 33_155, 9),
        (Kind::U8, 2, 33_156, 9),
        (Kind::U8, 2, MAX_WIDTH, 17),
        (Kind::U16, 2, MAX_WIDTH, 17),
        (Kind::U16, 2, 32_768, 17),
        (Kind::U8, 1, 3, 5000),
        (Kind::U16, 1, 3, 5000),
        (Kind::U16, 1, 3, 2048),
        (Kind::U16, 1, 3, 4096),
        (Kind::Scores, 300, 64, 0),
        (Kind::Scores, 300, 65, 0),
        (Kind::Scores, 301, 128, 0),
        (Kind::Weighted, 300, 0, 128),
        (Kind::Weighted, 301, 0, 33),
    ] {
        for _ in 0..6 {
            let case = Case::new(random, kind, rows, inputs, outputs);
            assert_eq!(case.sides().first_difference(), None, "{kind:?} {rows} {inputs} {outputs}");
        }
    }
}

/// Challenges that no auditor draws (all zero, all equal) are left out here.
fn drawn(random: &mut Random, kind: Kind) -> Case {
    let mut case = small(random, kind);
    case.challenge = Challenge::random(case.outputs, |bytes| random.fill(bytes));
    case
}

#[test]
fn any_single_wrong_total_is_seen_in_its_row() {
    let random = &mut Random(3);
    for i in 0..8_000 {
        let mut case = drawn(random, KINDS[i % 4]);
        let at = random.below(case.y.len());
        let (low, high) = case.limits();
        let right = case.y[at];
        let errors = [1 << 30, 1 << 31, (1 << 31) - 1, 7 * ((1 << 31) - 1), 1 << 32, 1 << 33, 1 << 62, i64::MIN, 1];
        let error = errors[random.below(errors.len())];
        case.y[at] = match random.below(7) {
            0 => right.wrapping_add(error),
            1 => right.wrapping_sub(error),
            2 => low,
            3 => high,
            4 => (low + (random.next() >> 1) as i64).clamp(low, high),
            5 => case.range().map_or(0, |(centres, reach)| centres[at % case.outputs] + reach),
            _ => right ^ (1 << random.below(if high == i64::MAX { 64 } else { 31 })),
        };
        if !(low..=high).contains(&case.y[at]) {
            case.y[at] = right ^ 1;
        }
        if case.y[at] == right {
            continue;
        }
        assert_eq!(case.sides().first_difference(), Some(at / case.outputs), "{:?}", case.kind);
    }
}

/// Two errors of opposite sign pass exactly where both vectors have equal elements modulo 2^(64 - k).
#[test]
fn errors_that_cancel_pass_only_with_equal_elements() {
    let random = &mut Random(4);
    for i in 0..4_000 {
        let kind = KINDS[i % 4];
        let mut case = small(random, kind);
        if case.outputs < 2 {
            continue;
        }
        // Of few values, so that it happens.
        let mut few = || -> Vec<u32> { (0..case.outputs).map(|_| MOST - random.below(2) as u32).collect() };
        case.challenge = Challenge::from_elements(&few(), &few()).unwrap();
        let (row, a) = (random.below(case.rows), random.below(case.outputs));
        let b = (a + 1 + random.below(case.outputs - 1)) % case.outputs;
        let (at, other) = (row * case.outputs + a, row * case.outputs + b);
        let error = 1i64 << random.below(24);
        (case.y[at], case.y[other]) = (case.y[at] + error, case.y[other] - error);
        let passes = case.challenge.elements().iter().all(|r| r[a] == r[b]);
        assert_eq!(case.sides().first_difference(), (!passes).then_some(row), "{kind:?}");
    }
}

/// An error of 2^k in one total passes with the elements that are multiples of 2^(64 - k): with 0 alone as far
/// as `k <= 33`, and never with more of them than is said.
#[test]
fn errors_of_powers_of_two_pass_as_seldom_as_is_said() {
    let random = &mut Random(8);
    for inputs in [3, 1000, 2100, 5000, MAX_WIDTH] {
        let mut case = Case::new(random, Kind::U16, 1, inputs, 2);
        // Zero is the least total: as far as possible from the largest.
        case.w.fill(127);
        case.x.fill(0);
        let highest = (2 * case.range().unwrap().1 - 1).ilog2();
        for k in [0, 1, 20, 30, 33, highest - 1, highest, highest + 1, 62] {
            let step = 1u64 << (64 - k).min(63);
            let multiple = u64::from(MOST) / step * step;
            for r in [multiple, (multiple + 1).min(MOST.into()), 0, 1] {
                case.challenge = Challenge::from_elements(&[r as u32, 5], &[r as u32, 7]).unwrap();
                case.y = vec![1 << k, 0];
                let sides = case.sides();
                let passes = k <= highest && r % step == 0;
                assert_eq!(sides.first_difference().is_none(), passes, "{inputs} {k} {r}");
                let passing = u64::from(MOST) / step + 1;
                assert!(k > highest || 2 * passing.ilog2() <= 62 - sides.error_bits, "{inputs} {k}");
            }
        }
    }
    let bits = |case: Case| case.sides().error_bits;
    for (kind, rows, inputs, outputs, want) in [
        (Kind::U8, 1, MAX_WIDTH, 2, 62),
        (Kind::U16, 1, 2064, 2, 62),
        (Kind::U16, 1, MAX_WIDTH, 2, 52),
        (Kind::Scores, 256, 128, 0, 62),
        (Kind::Weighted, 256, 0, 2, 62),
        (Kind::Weighted, 512, 0, 2, 60),
    ] {
        let mut case = Case::new(random, kind, rows, inputs, outputs);
        case.w.fill(if matches!(kind, Kind::U8 | Kind::U16) { 127 } else { 1023 });
        case.y = product(&case.x, &case.w, case.inputs);
        assert_eq!(bits(case), want, "{kind:?} {rows} {inputs}");
    }
}

/// Totals at the ends of their range, and one beyond.
#[test]
fn totals_out_of_range_never_pass() {
    let random = &mut Random(9);
    for (kind, rows, inputs, outputs) in
        [(Kind::U16, 2, 3, 3), (Kind::U16, 5, 3000, 3), (Kind::Weighted, 5, 0, 3), (Kind::Weighted, 300, 0, 3)]
    {
        for _ in 0..20 {
            let mut case = Case::new(random, kind, rows, inputs, outputs);
            // With these any totals would pass.
            case.challenge = Challenge::from_elements(&[0; 3], &[0; 3]).unwrap();
            let (centres, reach) = case.range().unwrap();
            let at = random.below(case.y.len());
            let centre = centres[at % 3];
            for (offset, passes) in [(-reach, true), (reach - 1, true), (-reach - 1, false), (reach, false)] {
                case.y[at] = centre + offset;
                assert_eq!(case.sides().first_difference(), (!passes).then_some(at / 3), "{kind:?} {offset}");
            }
            for total in [i64::MIN, i64::MAX] {
                case.y[at] = total;
                assert_eq!(case.sides().first_difference(), Some(at / 3));
            }
        }
    }
}

#[test]
fn any_single_change_in_codes_or_weights_is_seen() {
    let random = &mut Random(5);
    for i in 0..8_000 {
        let mut case = drawn(random, KINDS[i % 4]);
        let in_x = random.below(2) == 0;
        let changed = if in_x { &mut case.x } else { &mut case.w };
        let at = random.below(changed.len());
        let bits = match (case.kind, in_x) {
            (Kind::U8, true) => 8,
            (Kind::U16, true) => 16,
            (Kind::Scores, _) => 12,
            (Kind::Weighted, true) => 15,
            (Kind::Weighted, false) => 10,
            (_, false) => 7,
        };
        changed[at] = if changed[at] < 0 {
            -(-changed[at] ^ (1 << random.below(bits)))
        } else {
            changed[at] ^ (1 << random.below(bits))
        };
        // The claim is that of the data before the change; it is wrong where the other factor is not 0.
        let truth = product(&case.x, &case.w, case.inputs);
        let wrong = truth.iter().zip(&case.y).position(|(a, b)| a != b).map(|at| at / case.outputs);
        assert_eq!(case.sides().first_difference(), wrong, "{:?}", case.kind);
    }
}

#[test]
fn vectors_survive_being_kept() {
    let random = &mut Random(6);
    let executor = &EXECUTORS[0];
    for _ in 0..50 {
        let mut case = drawn(random, Kind::U16);
        let vectors = case.vectors(executor);
        let bytes = vectors.to_bytes();
        let layer = case.layer();
        let kept = Vectors::from_bytes(executor, &layer, &bytes).unwrap();
        assert_eq!(kept.to_bytes(), bytes);
        let wide = case.run(executor, Some(&kept));
        assert_eq!(wide, case.sides());
        assert_eq!(wide.first_difference(), None);
        case.kind = Kind::U8;
        case.x.iter_mut().for_each(|x| *x &= 255);
        case.y = product(&case.x, &case.w, case.inputs);
        assert_eq!(case.run(executor, Some(&kept)), case.sides());

        assert!(Vectors::from_bytes(executor, &layer, &bytes[1..]).is_err());
        assert!(Vectors::from_bytes(executor, &layer, &[]).is_err());
        let mut bad = bytes.clone();
        bad[..4].copy_from_slice(&(MOST + 1).to_le_bytes());
        assert!(Vectors::from_bytes(executor, &layer, &bad).is_err());
        // Rubbish for v is not a panic.
        let from = 8 * case.outputs;
        bad = bytes.clone();
        bad[from..].fill(0x80);
        for executor in EXECUTORS.iter() {
            case.run(executor, Some(&Vectors::from_bytes(executor, &layer, &bad).unwrap()));
        }
    }
}

#[test]
fn challenges_are_uniform_and_not_printed() {
    let words = [u32::MAX, u32::MAX - 1, u32::MAX - 2, 0, 1, 2, 0x8000_0005];
    let mut next = 0;
    let challenge = Challenge::random(600, |bytes| {
        for word in bytes.chunks_exact_mut(4) {
            word.copy_from_slice(&words[next % words.len()].to_le_bytes());
            next += 1;
        }
    });
    for (vector, elements) in challenge.elements().into_iter().enumerate() {
        let want = |at: usize| words[(at + vector * 600) % words.len()] >> 1;
        assert_eq!(elements, (0..600).map(want).collect::<Vec<u32>>());
    }
    assert_eq!(next, 1200);
    assert_eq!(format!("{challenge:?}"), "Challenge(600 secret elements)");
    assert!(Challenge::from_elements(&[MOST + 1], &[0]).is_err());
    assert!(Challenge::from_elements(&[1, 2], &[0]).is_err());
    let layer = linear(&[1, 2, 3], 1, 3);
    let vectors = Vectors::random(&EXECUTORS[0], &layer, |bytes| bytes.fill(77)).unwrap();
    assert_eq!(format!("{vectors:?}"), "Vectors(1 and 3 secret elements)");
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let random = &mut Random(7);
    let executor = &EXECUTORS[0];
    let case = drawn(random, Kind::U8);
    let vectors = case.vectors(executor);
    let (x, y) = (vec![0u8; 2 * case.inputs], vec![0i32; 2 * case.outputs]);
    let mut sides = Sides::default();
    assert!(check_u8(executor, &vectors, &x, 3, &y, &mut sides).is_err());
    assert!(check_u8(executor, &vectors, &x, 2, &y[1..], &mut sides).is_err());
    assert!(check_u16(executor, &vectors, &[], 1, &[], &mut sides).is_err());
    assert_eq!(sides, Sides::default());
    assert!(check_u8(executor, &vectors, &x, 2, &y, &mut sides).is_ok());
    assert_eq!(sides.left.len(), 2);
    let challenge = Challenge::random(4, |bytes| random.fill(bytes));
    assert!(check_scores(executor, &challenge, &[0; 8], &[0; 8], 2, &[0; 15]).is_err());
    assert!(check_scores(executor, &challenge, &[0; 8], &[0; 7], 2, &[0; 16]).is_err());
    assert!(check_scores(executor, &challenge, &[], &[], 0, &[0; 16]).is_err());
    assert!(check_scores(executor, &challenge, &[0; 4 * 129], &[0; 4 * 129], 129, &[0; 16]).is_err());
    assert!(check_weighted(executor, &challenge, &[0; 9], &[0; 12], 3, &[0; 11]).is_err());
    assert!(check_weighted(executor, &challenge, &[0; 9], &[0; 12], 3, &[0; 12]).is_ok());
    let layer = linear(&[1, 2, 3, 4], 2, 2);
    assert!(Vectors::new(executor, &layer, challenge).is_err());
}
