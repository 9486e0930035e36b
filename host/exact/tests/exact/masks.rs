//! Masks of secret shares are the streams of ChaCha20 that they are said to be, uniform, and each row has its own.

use crate::EXECUTORS;
use crate::random::Random;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use ostrakon_exact::field::{Field, expand, reference, subtract};

#[test]
fn chacha20_is_that_of_the_rfc() {
    // RFC 8439, 2.3.2.
    let key: [u8; 32] = std::array::from_fn(|i| i as u8);
    let nonce = [0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0];
    let want = [
        0xe4e7_f110,
        0x1559_3bd1,
        0x1fdd_0f50,
        0xc471_20a3,
        0xc7f4_d1c7,
        0x0368_c033,
        0x9aaa_2204,
        0x4e6c_d4c3,
        0x4664_82d2,
        0x09aa_9f07,
        0x05d7_c214,
        0xa202_8bd9,
        0xd19c_12b5,
        0xb94e_16de,
        0xe883_d0cb,
        0x4e3c_50a2,
    ];
    assert_eq!(reference::chacha20_block(&key, 1, &nonce), want);
    // The same nonce is stream 0x09000000, row 0x4a000000; block 1 is the 17th word and those after it.
    let mut out = vec![0; 32];
    for executor in EXECUTORS.iter() {
        for field in Field::ALL {
            expand(executor, field, &key, 0x0900_0000, 0x4a00_0000, 1, 32, &mut out).unwrap();
            assert_eq!(out[16..], want.map(|word| word & field.mask()));
        }
    }
}

#[test]
fn masks_are_streams_of_chacha20() {
    let (rows, columns, stream, first) = (5, 1001, 0xdead_beef, u64::from(u32::MAX) - 2);
    let seed = Random(6).seed();
    let mut out = vec![0; rows * columns];
    for (field, bits) in [(Field::P24, 0xff_ffff), (Field::P31, 0x7fff_ffff)] {
        expand(EXECUTORS.last().unwrap(), field, &seed, stream, first, rows, columns, &mut out).unwrap();
        for (row, out) in (first..).zip(out.chunks(columns)) {
            let nonce: Vec<u8> = stream.to_le_bytes().into_iter().chain(row.to_le_bytes()).collect();
            let mut cipher = ChaCha20::new(&seed.into(), nonce.as_slice().into());
            for (i, out) in out.chunks(16).enumerate() {
                let mut block = [0; 64];
                cipher.seek(64 * i as u64);
                cipher.apply_keystream(&mut block);
                let words = block.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word) & bits);
                assert_eq!(out, &words.collect::<Vec<u32>>()[..out.len()]);
            }
        }
    }
}

#[test]
fn a_word_that_is_no_element_is_skipped() {
    // Found by search: the row, the word of it and what its low bits are.
    let places = [
        (Field::P31, 367_431u64, 236, 0x7fff_ffff),
        (Field::P24, 33_905, 214, 0xff_fffd),
        (Field::P24, 17_872, 155, 0xff_fffe),
        (Field::P24, 102_690, 355, 0xff_ffff),
        // The largest element is one.
        (Field::P24, 2252, 96, 0xff_fffc),
    ];
    let seed = [0x5e; 32];
    for (field, row, at, value) in places {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&row.to_le_bytes());
        let block = reference::chacha20_block(&seed, at as u32 / 16, &nonce);
        let [word, next] = [0, 1].map(|i| block[at % 16 + i] & field.mask());
        assert_eq!(word, value);
        let taken = if value < field.prime() { word } else { next };
        for columns in [at, at + 1, at + 4, at + 5, 512, 1536] {
            let mut want = vec![0; 3 * columns];
            reference::expand(field, &seed, 0, row - 1, 3, columns, &mut want).unwrap();
            if columns > at {
                assert_eq!(want[columns + at], taken);
            }
            for executor in EXECUTORS.iter() {
                let mut out = vec![0; 3 * columns];
                expand(executor, field, &seed, 0, row - 1, 3, columns, &mut out).unwrap();
                assert_eq!(out, want);
            }
        }
    }
}

/// Chi-squared of the top 8 bits of an element and of each 8-bit limb, less its mean, in standard deviations.
fn unevenness(field: Field, elements: &[u32]) -> f64 {
    let of = |(shift, buckets): (u32, usize)| {
        let mut counts = vec![0u32; buckets];
        elements.iter().for_each(|x| counts[(x >> shift) as usize % buckets] += 1);
        let mean = elements.len() as f64 / buckets as f64;
        let chi: f64 = counts.iter().map(|&count| (f64::from(count) - mean).powi(2) / mean).sum();
        let freedom = buckets as f64 - 1.0;
        (chi - freedom).abs() / (2.0 * freedom).sqrt()
    };
    let bits: &[(u32, usize)] = match field {
        Field::P24 => &[(16, 256), (0, 256), (8, 256)],
        Field::P31 => &[(23, 256), (0, 256), (8, 256), (16, 256), (24, 128)],
    };
    bits.iter().map(|&bits| of(bits)).fold(0.0, f64::max)
}

fn expect_uniform(field: Field, number: u8) {
    const LIMIT: f64 = 5.0;
    let (rows, columns) = (2048, 384);
    let executor = EXECUTORS.last().unwrap();
    let seed = Random(number.into()).seed();
    let mut mask = vec![0; rows * columns];
    expand(executor, field, &seed, number.into(), 0, rows, columns, &mut mask).unwrap();
    let even = |elements: &[u32]| {
        let unevenness = unevenness(field, elements);
        assert!(unevenness < LIMIT, "{field:?}: {unevenness}");
    };
    even(&mask);
    // One column of all rows, and the share of codes that are all the same.
    even(&mask.iter().copied().skip(number.into()).step_by(columns).collect::<Vec<u32>>());
    let mut share = vec![0; mask.len()];
    subtract(executor, field, &vec![65_535; mask.len()], &mask, &mut share).unwrap();
    even(&share);

    // The measure sees what is wrong.
    let uneven = |what: &str, elements: &[u32]| {
        let unevenness = unevenness(field, elements);
        assert!(unevenness > LIMIT, "{what} in {field:?}: {unevenness}");
    };
    let changed = |change: &dyn Fn(u32) -> u32| mask.iter().map(|&x| change(x)).collect::<Vec<u32>>();
    uneven("a remainder", &changed(&|x| x % (field.prime() / 15 * 14)));
    uneven("a bit too few", &changed(&|x| (x & field.mask() >> 1) + (x & 0xff)));
    uneven("too few even numbers", &changed(&|x| if x % 64 == 0 { x | 1 } else { x }));
    // As of a counter that stands still; and one seed for all masks.
    uneven("one row over and over", &mask[..columns].repeat(rows));
    let again = |_| {
        let mut mask = vec![0; 4 * columns];
        expand(executor, field, &[number; 32], 0, 0, 4, columns, &mut mask).unwrap();
        mask
    };
    uneven("one mask over and over", &(0..64).flat_map(again).collect::<Vec<u32>>());
}

#[test]
fn masks_and_shares_are_uniform() {
    for field in Field::ALL {
        (0..8).for_each(|number| expect_uniform(field, number));
    }
}

#[test]
fn every_row_has_a_mask_of_its_own() {
    let executor = EXECUTORS.last().unwrap();
    for field in Field::ALL {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..4 {
            for stream in [0, 1, 1 << 31] {
                for first in [0, 16, 1 << 32] {
                    let mut mask = vec![0; 16 * 8];
                    expand(executor, field, &[seed; 32], stream, first, 16, 8, &mut mask).unwrap();
                    assert!(mask.chunks(8).all(|row| seen.insert(row.to_vec())));
                }
            }
        }
    }
}
