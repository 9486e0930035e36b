//! The checks of Freivalds: the fast ones are the plain ones at every level, right rows always pass, and
//! any single changed element is seen.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use ostrakon_exact::freivalds::{
    Challenge, FIELD, Projection, Sides, Vectors, check_scores, check_u8, check_u16, check_weighted, plain,
};
use ostrakon_exact::layer::MAX_WIDTH;
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_exact::{Layer, Linear, Part};
use std::sync::LazyLock;

static EXECUTORS: LazyLock<Vec<Executor>> =
    LazyLock::new(|| Level::available().into_iter().map(|level| Executor::new(level, 1).unwrap()).collect());

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

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

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }

    fn challenge(&mut self, len: usize) -> Challenge {
        match self.below(8) {
            0 => Challenge::from_elements(&vec![FIELD - 1; len], &vec![FIELD - 1; len]).unwrap(),
            1 => Challenge::from_elements(&vec![0; len], &vec![1; len]).unwrap(),
            _ => Challenge::random(len, |bytes| self.fill(bytes)),
        }
    }
}

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

    /// Where no difference of totals reaches p.
    fn bound(&self) -> Option<i64> {
        let term = match self.kind {
            Kind::U8 => 255 * 127,
            Kind::Scores => 4095 * 4095,
            Kind::U16 | Kind::Weighted => return None,
        };
        Some(self.inputs as i64 * term).filter(|bound| 2 * bound < i64::from(FIELD))
    }

    fn vectors(&self, executor: &Executor) -> Vectors {
        let [first, second] = self.challenge.elements();
        let challenge = Challenge::from_elements(first, second).unwrap();
        let layer = linear(&self.w, self.outputs, self.inputs);
        let projection = Projection::of_layer(executor, &layer, &challenge).unwrap();
        Vectors { challenge, projection }
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
                check_u8(executor, vectors.unwrap(), &codes, self.rows, &narrow).unwrap()
            }
            Kind::U16 => {
                let codes: Vec<u16> = self.x.iter().map(|&x| x as u16).collect();
                check_u16(executor, vectors.unwrap(), &codes, self.rows, &self.y).unwrap()
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
        let want = plain::check(&self.challenge, &self.x, &self.w, self.inputs, &self.y, self.bound());
        for executor in EXECUTORS.iter() {
            let got = self.run(executor, None);
            assert_eq!(got.left.len(), 2 * self.rows);
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
        case.y[at] = match random.below(7) {
            // Multiples of p, which no check in the field could see.
            0 => right + i64::from(FIELD),
            1 => right - i64::from(FIELD),
            2 => right + 7 * i64::from(FIELD),
            3 => low,
            4 => high,
            5 => (low + (random.next() >> 1) as i64).clamp(low, high),
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

#[test]
fn totals_off_by_p_are_seen_where_they_fit() {
    let random = &mut Random(4);
    for (kind, rows, inputs, outputs) in
        [(Kind::U8, 1, MAX_WIDTH, 3), (Kind::U16, 2, 300, 9), (Kind::Scores, 9, 128, 0), (Kind::Weighted, 50, 0, 32)]
    {
        for _ in 0..20 {
            let mut case = Case::new(random, kind, rows, inputs, outputs);
            case.challenge = Challenge::random(case.outputs, |bytes| random.fill(bytes));
            let at = random.below(case.y.len());
            case.y[at] -= i64::from(FIELD) * case.y[at].signum();
            if case.y[at] == 0 {
                continue;
            }
            assert_eq!(case.sides().first_difference().is_some(), product(&case.x, &case.w, case.inputs) != case.y);
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
        let kept = Vectors::from_bytes(case.outputs, case.inputs, &bytes).unwrap();
        assert_eq!(kept.to_bytes(), bytes);
        let wide = case.run(executor, Some(&kept));
        assert_eq!(wide, case.sides());
        assert_eq!(wide.first_difference(), None);
        case.kind = Kind::U8;
        case.x.iter_mut().for_each(|x| *x &= 255);
        case.y = product(&case.x, &case.w, case.inputs);
        assert_eq!(case.run(executor, Some(&kept)), case.sides());

        assert!(Vectors::from_bytes(case.outputs, case.inputs, &bytes[1..]).is_err());
        assert!(Vectors::from_bytes(usize::MAX, usize::MAX, &bytes).is_err());
        let mut bad = bytes.clone();
        bad[..4].copy_from_slice(&FIELD.to_le_bytes());
        assert!(Vectors::from_bytes(case.outputs, case.inputs, &bad).is_err());
        // Rubbish for v is not a panic.
        let from = 8 * case.outputs;
        bad = bytes.clone();
        bad[from..].fill(0x80);
        for executor in EXECUTORS.iter() {
            case.run(executor, Some(&Vectors::from_bytes(case.outputs, case.inputs, &bad).unwrap()));
        }
    }
}

#[test]
fn challenges_are_uniform_in_the_field_and_not_printed() {
    // A source whose words are p, p with the top bit, p - 1, 0, and so on.
    let words = [FIELD, u32::MAX, FIELD - 1, 0, 0x8000_0005, 7];
    let mut next = 0;
    let challenge = Challenge::random(600, |bytes| {
        for word in bytes.chunks_exact_mut(4) {
            word.copy_from_slice(&words[next % words.len()].to_le_bytes());
            next += 1;
        }
    });
    for elements in challenge.elements() {
        assert_eq!(elements.len(), 600);
        assert!(elements.iter().all(|&r| r < FIELD));
        assert_eq!(elements[..8], [FIELD - 1, 0, 5, 7, FIELD - 1, 0, 5, 7]);
    }
    assert_eq!(format!("{challenge:?}"), "Challenge(600 secret elements)");
    assert!(Challenge::from_elements(&[FIELD], &[0]).is_err());
    assert!(Challenge::from_elements(&[1, 2], &[0]).is_err());
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let random = &mut Random(7);
    let executor = &EXECUTORS[0];
    let case = drawn(random, Kind::U8);
    let vectors = case.vectors(executor);
    let (x, y) = (vec![0u8; 2 * case.inputs], vec![0i32; 2 * case.outputs]);
    assert!(check_u8(executor, &vectors, &x, 3, &y).is_err());
    assert!(check_u8(executor, &vectors, &x, 2, &y[1..]).is_err());
    assert!(check_u8(executor, &vectors, &x, 2, &y).is_ok());
    assert!(check_u16(executor, &vectors, &[], 1, &[]).is_err());
    let challenge = Challenge::random(4, |bytes| random.fill(bytes));
    assert!(check_scores(executor, &challenge, &[0; 8], &[0; 8], 2, &[0; 15]).is_err());
    assert!(check_scores(executor, &challenge, &[0; 8], &[0; 7], 2, &[0; 16]).is_err());
    assert!(check_scores(executor, &challenge, &[], &[], 0, &[0; 16]).is_err());
    assert!(check_scores(executor, &challenge, &[0; 4 * 129], &[0; 4 * 129], 129, &[0; 16]).is_err());
    assert!(check_weighted(executor, &challenge, &[0; 9], &[0; 12], 3, &[0; 11]).is_err());
    assert!(check_weighted(executor, &challenge, &[0; 9], &[0; 12], 3, &[0; 12]).is_ok());
    let layer = linear(&[1, 2, 3, 4], 2, 2);
    assert!(Projection::of_layer(executor, &layer, &challenge).is_err());
}
