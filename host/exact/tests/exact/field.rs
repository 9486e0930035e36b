//! Elements of both fields: the fast functions give the numbers of the plain ones at every level, and refuse what is no
//! element.

use crate::EXECUTORS;
use crate::random::Random;
use ostrakon_exact::field::{
    Field, MAX_COLUMNS, add, dot, expand, expect_elements, lift, lift_u8, pack, reference, subtract, unpack,
};
use ostrakon_exact::simd::Executor;
use proptest::prelude::*;

impl Random {
    /// Elements, in one of several manners for the whole slice.
    pub(crate) fn elements(&mut self, field: Field, n: usize) -> Vec<u32> {
        let (manner, p) = (self.below(6), field.prime());
        // 2^24 - 1 and 0x7fff0000 are elements of the larger field alone.
        let edges = [0, 1, 0xff, 0x100, 0xffff, 0x1_0000, p & !0xffff, p / 2, p - 2, p - 1, 0xff_ffff, 0x7fff_0000];
        let edges: Vec<u32> = edges.into_iter().filter(|&x| x < p).collect();
        (0..n)
            .map(|i| match manner {
                0 => p - 1,
                1 => 0,
                2 => [0, p - 1][i % 2],
                3 => edges[self.below(edges.len())],
                _ => (self.next() % u64::from(p)) as u32,
            })
            .collect()
    }

    /// A number of as many bytes as an element that is none.
    fn beyond(&mut self, field: Field) -> u32 {
        let p = field.prime();
        match field {
            Field::P24 => p + self.below(3) as u32,
            Field::P31 => [p, p + 1, p + 2, u32::MAX][self.below(4)],
        }
    }
}

fn any_field() -> impl Strategy<Value = Field> {
    prop::sample::select(Field::ALL.as_slice())
}

pub(crate) fn dotted(
    executor: &Executor,
    field: Field,
    rows: &[u32],
    vectors: [&[u32]; 2],
    count: usize,
) -> Vec<[u32; 2]> {
    let mut out = vec![[7; 2]; count];
    dot(executor, field, rows, vectors, &mut out).unwrap();
    out
}

#[test]
fn fields_are_what_they_are_said_to_be() {
    assert_eq!(Field::ALL.map(Field::prime), [(1 << 24) - 3, (1 << 31) - 1]);
    assert_eq!(Field::ALL.map(Field::mask), [(1 << 24) - 1, (1 << 31) - 1]);
    assert_eq!(Field::ALL.map(Field::bytes), [3, 4]);
    for p in Field::ALL.map(Field::prime) {
        assert!((2..).take_while(|n| n * n <= p).all(|n| p % n != 0), "{p} is no prime");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sums_and_differences_agree(field in any_field(), len in 0usize..3000, many in 0usize..12, seed: u64) {
        let mut random = Random(seed);
        // Some so long that threads share them.
        let len = if many == 0 { len + 100_000 } else { len };
        let (a, b) = (random.elements(field, len), random.elements(field, len));
        let (mut sum, mut difference) = (vec![0; len], vec![0; len]);
        reference::add(field, &a, &b, &mut sum).unwrap();
        reference::subtract(field, &a, &b, &mut difference).unwrap();
        for executor in EXECUTORS.iter() {
            let mut out = vec![7; len];
            add(executor, field, &a, &b, &mut out).unwrap();
            prop_assert_eq!(&out, &sum);
            subtract(executor, field, &a, &b, &mut out).unwrap();
            prop_assert_eq!(&out, &difference);
        }
        prop_assert!(reference::are_elements(field, &sum) && expect_elements(field, &sum).is_ok());
        prop_assert!(reference::are_elements(field, &difference) && expect_elements(field, &difference).is_ok());
        if len > 0 {
            let p = field.prime();
            let (at, bad) = (random.below(len), [p, p + 1, u32::MAX, 1 << 31][random.below(4)]);
            let mut all = a;
            all[at] = bad;
            prop_assert!(!reference::are_elements(field, &all));
            let error = expect_elements(field, &all).unwrap_err().0;
            prop_assert!(error.starts_with(&format!("number {at} is {bad}:")), "{}", error);
            for executor in EXECUTORS.iter() {
                let mut out = vec![7; len];
                for [a, b] in [[&all, &b], [&b, &all]] {
                    prop_assert_eq!(&add(executor, field, a, b, &mut out).unwrap_err().0, &error);
                    prop_assert_eq!(&subtract(executor, field, a, b, &mut out).unwrap_err().0, &error);
                }
            }
        }
    }

    #[test]
    fn masks_agree(
        field in any_field(), rows in 0usize..40, columns in 0usize..900, stream: u32, first: u64, seed: u64,
    ) {
        let seed = Random(seed).seed();
        let first = first.min(u64::MAX - rows as u64);
        let mut want = vec![7; rows * columns];
        reference::expand(field, &seed, stream, first, rows, columns, &mut want).unwrap();
        for executor in EXECUTORS.iter() {
            let mut out = vec![9; rows * columns];
            expand(executor, field, &seed, stream, first, rows, columns, &mut out).unwrap();
            prop_assert_eq!(&out, &want);
        }
    }

    #[test]
    fn inner_products_agree(field in any_field(), rows in 0usize..70, width in 0usize..700, seed: u64) {
        let mut random = Random(seed);
        let all = random.elements(field, rows * width);
        let (r, s) = (random.elements(field, width), random.elements(field, width));
        let mut want = vec![[7; 2]; rows];
        reference::dot(field, &all, [&r, &s], &mut want).unwrap();
        for executor in EXECUTORS.iter() {
            prop_assert_eq!(&dotted(executor, field, &all, [&r, &s], rows), &want);
        }
        if !all.is_empty() {
            let mut wrong = all;
            let at = random.below(wrong.len());
            wrong[at] = random.beyond(field);
            for executor in EXECUTORS.iter() {
                prop_assert!(dot(executor, field, &wrong, [&r, &s], &mut want).is_err());
            }
        }
    }

    #[test]
    fn lifted_totals_agree(
        field in any_field(), rows in 0usize..50, outputs in 1usize..500, parts in 1usize..6, seed: u64,
    ) {
        let mut random = Random(seed);
        let elements = random.elements(field, rows * parts * outputs);
        let least: Vec<i64> = random.elements(field, parts * outputs).into_iter().map(|x| -i64::from(x)).collect();
        let mut want = vec![7; rows * outputs];
        reference::lift(field, &elements, &least, outputs, &mut want).unwrap();
        for executor in EXECUTORS.iter() {
            let mut totals = vec![9; rows * outputs];
            lift(executor, field, &elements, &least, outputs, &mut totals).unwrap();
            prop_assert_eq!(&totals, &want);
            let mut narrow = vec![9; rows * outputs];
            lift_u8(executor, field, &elements, &least, outputs, &mut narrow).unwrap();
            prop_assert!(narrow.iter().zip(&want).all(|(&narrow, &total)| narrow == total as i32));
        }
    }

    #[test]
    fn packed_elements_agree(
        field in any_field(), rows in 0usize..40, width in 0usize..300, many in 0usize..12, seed: u64,
    ) {
        let mut random = Random(seed);
        // Some so many, or so wide, that threads share them.
        let (rows, width) = match many {
            0 => (rows + 300, width + 200),
            1 => (rows % 4, width + 40_000),
            _ => (rows, width),
        };
        let len = rows * width;
        let elements = random.elements(field, len);
        let mut want = vec![7; len * field.bytes()];
        reference::pack(field, &elements, width, &mut want).unwrap();
        let mut back = vec![7; len];
        reference::unpack(field, &want, width, &mut back).unwrap();
        prop_assert_eq!(&back, &elements);
        for executor in EXECUTORS.iter() {
            let mut packed = vec![9; want.len()];
            pack(executor, field, &elements, width, &mut packed).unwrap();
            prop_assert!(packed == want);
            let mut back = vec![9; len];
            unpack(executor, field, &packed, width, &mut back).unwrap();
            prop_assert!(back == elements);
        }
        if len > 0 {
            // The first that is no element is named, whatever is after it.
            let (mut wrong, at) = (elements, random.below(len));
            for at in [at, at + random.below(len - at)].into_iter().take(1 + random.below(2)) {
                wrong[at] = random.beyond(field);
            }
            let bad = wrong[at];
            let mut packed = want;
            reference::pack(field, &wrong, width, &mut packed).unwrap();
            reference::unpack(field, &packed, width, &mut back).unwrap();
            prop_assert!(back == wrong);
            for executor in EXECUTORS.iter() {
                let error = unpack(executor, field, &packed, width, &mut back).unwrap_err().0;
                prop_assert!(error.starts_with(&format!("number {at} is {bad}:")), "{}", error);
            }
        }
    }
}

#[test]
fn elements_are_sent_byte_by_byte_of_a_row() {
    let cases: [(Field, &[u32], usize, &[u8]); 4] = [
        (Field::P24, &[0x03_0201, 0x06_0504, 0x09_0807, 0x0c_0b0a], 2, &[1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12]),
        (Field::P24, &[0xff_fffc, 0xfe], 1, &[0xfc, 0xff, 0xff, 0xfe, 0, 0]),
        (Field::P31, &[0x0403_0201, 0x0807_0605], 2, &[1, 5, 2, 6, 3, 7, 4, 8]),
        (Field::P31, &[0x7fff_fffe, 0xfe], 1, &[0xfe, 0xff, 0xff, 0x7f, 0xfe, 0, 0, 0]),
    ];
    for (field, elements, width, wanted) in cases {
        for executor in EXECUTORS.iter() {
            let (mut packed, mut back) = (vec![9; wanted.len()], vec![9; elements.len()]);
            pack(executor, field, elements, width, &mut packed).unwrap();
            assert_eq!(packed, wanted);
            unpack(executor, field, &packed, width, &mut back).unwrap();
            assert_eq!(back, elements);
        }
    }
}

#[test]
fn bad_arguments_are_refused() {
    let executor = EXECUTORS.last().unwrap();
    let mut out = vec![0; 6];
    for field in Field::ALL {
        let p = field.prime();
        assert!(add(executor, field, &[1; 6], &[1; 5], &mut out).is_err());
        assert!(subtract(executor, field, &[1; 5], &[1; 5], &mut out).is_err());
        assert!(expand(executor, field, &[0; 32], 0, 0, 2, 4, &mut out).is_err());
        assert!(expand(executor, field, &[0; 32], 0, u64::MAX - 1, 2, 3, &mut out).is_err());
        assert!(expand(executor, field, &[0; 32], 0, 0, 0, MAX_COLUMNS + 1, &mut []).is_err());
        assert!(expand(executor, field, &[0; 32], 0, 0, usize::MAX, 2, &mut out).is_err());
        assert!(dot(executor, field, &[1; 6], [&[1; 3], &[1; 2]], &mut [[0; 2]; 2]).is_err());
        assert!(dot(executor, field, &[1; 6], [&[1; 3], &[1; 3]], &mut [[0; 2]; 3]).is_err());
        assert!(dot(executor, field, &[p - 1; 6], [&[p - 1; 3], &[p - 1; 3]], &mut [[0; 2]; 2]).is_ok());
        assert!(dot(executor, field, &[1; 6], [&[p; 3], &[1; 3]], &mut [[0; 2]; 2]).is_err());
        assert!(dot(executor, field, &[1; 6], [&[1; 3], &[p; 3]], &mut [[0; 2]; 2]).is_err());
        assert!(dot(executor, field, &[p; 6], [&[1; 3], &[1; 3]], &mut [[0; 2]; 2]).is_err());
        let lifts = |least: &[i64], outputs: usize, totals: usize| {
            let wide = lift(executor, field, &[1; 6], least, outputs, &mut vec![0; totals]).is_ok();
            let narrow = lift_u8(executor, field, &[1; 6], least, outputs, &mut vec![0; totals]).is_ok();
            assert_eq!(wide, narrow);
            wide
        };
        let least = -i64::from(p);
        assert!(lifts(&[least + 1; 2], 2, 6));
        assert!(!lifts(&[least; 2], 2, 6));
        assert!(!lifts(&[0; 3], 2, 4));
        assert!(!lifts(&[0; 2], 2, 4));
        assert!(!lifts(&[1; 2], 2, 6));
        assert!(!lifts(&[i64::MIN; 2], 2, 6));
        assert!(!lifts(&[], 2, 6));
        assert!(!lifts(&[0; 2], 0, 6));
    }
}

#[test]
fn packed_elements_of_another_size_are_refused() {
    for field in Field::ALL {
        let bytes = field.bytes();
        let cases = [
            // Elements, their width, packed bytes.
            (6, 3, 6 * bytes - 1),
            (6, 3, 6 * bytes + 1),
            (6, 3, 5 * bytes),
            (6, 3, 7 * bytes),
            (6, 3, 6 * (7 - bytes)),
            (6, 4, 6 * bytes),
            (6, 7, 6 * bytes),
            (6, 0, 6 * bytes),
            (6, usize::MAX, 6 * bytes),
            (0, 3, bytes),
            (0, 0, bytes),
            (6, 3, 0),
        ];
        for (elements, width, packed) in cases {
            let (mut numbers, mut sent) = (vec![0; elements], vec![0; packed]);
            assert!(reference::pack(field, &numbers, width, &mut sent).is_err());
            assert!(reference::unpack(field, &sent, width, &mut numbers).is_err());
            for executor in EXECUTORS.iter() {
                assert!(pack(executor, field, &numbers, width, &mut sent).is_err(), "{elements} {width} {packed}");
                assert!(unpack(executor, field, &sent, width, &mut numbers).is_err(), "{elements} {width} {packed}");
            }
        }
        for width in [0, 3] {
            assert!(reference::pack(field, &[], width, &mut []).is_ok());
            assert!(reference::unpack(field, &[], width, &mut []).is_ok());
            for executor in EXECUTORS.iter() {
                assert!(pack(executor, field, &[], width, &mut []).is_ok());
                assert!(unpack(executor, field, &[], width, &mut []).is_ok());
            }
        }
    }
}
