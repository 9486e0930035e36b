//! Masks of secret shares are the streams of ChaCha20 that they are said to be, uniform, and each row has its own.

use crate::EXECUTORS;
use crate::random::Random;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use ostrakon_exact::field::{P, expand, reference, subtract};

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
        expand(executor, &key, 0x0900_0000, 0x4a00_0000, 1, 32, &mut out).unwrap();
        assert_eq!(out[16..], want.map(|word| word & P));
    }
}

#[test]
fn masks_are_streams_of_chacha20() {
    let (rows, columns, stream, first) = (5, 1001, 0xdead_beef, u64::from(u32::MAX) - 2);
    let seed = Random(6).seed();
    let mut out = vec![0; rows * columns];
    expand(EXECUTORS.last().unwrap(), &seed, stream, first, rows, columns, &mut out).unwrap();
    for (row, out) in (first..).zip(out.chunks(columns)) {
        let nonce: Vec<u8> = stream.to_le_bytes().into_iter().chain(row.to_le_bytes()).collect();
        let mut cipher = ChaCha20::new(&seed.into(), nonce.as_slice().into());
        for (i, out) in out.chunks(16).enumerate() {
            let mut block = [0; 64];
            cipher.seek(64 * i as u64);
            cipher.apply_keystream(&mut block);
            let words = block.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word) & 0x7fff_ffff);
            assert_eq!(out, &words.collect::<Vec<u32>>()[..out.len()]);
        }
    }
}

#[test]
fn a_word_that_is_p_is_skipped() {
    // Found by search: word 236 of this row is p, or p with the top bit set.
    const ROW: u64 = 367_431;
    const AT: usize = 236;
    let seed = [0x5e; 32];
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&ROW.to_le_bytes());
    let block = reference::chacha20_block(&seed, AT as u32 / 16, &nonce);
    assert_eq!(block[AT % 16] & P, P);
    for columns in [AT, AT + 1, AT + 4, AT + 5, 512, 1536] {
        let mut want = vec![0; 3 * columns];
        reference::expand(&seed, 0, ROW - 1, 3, columns, &mut want).unwrap();
        if columns > AT {
            assert_eq!(want[columns + AT], block[AT % 16 + 1] & P);
        }
        for executor in EXECUTORS.iter() {
            let mut out = vec![0; 3 * columns];
            expand(executor, &seed, 0, ROW - 1, 3, columns, &mut out).unwrap();
            assert_eq!(out, want);
        }
    }
}

/// Chi-squared of the top 8 bits of 31 and of each 8-bit limb, less its mean, in standard deviations.
fn unevenness(elements: &[u32]) -> f64 {
    let of = |shift: u32, buckets: usize| {
        let mut counts = vec![0u32; buckets];
        elements.iter().for_each(|x| counts[(x >> shift) as usize % buckets] += 1);
        let mean = elements.len() as f64 / buckets as f64;
        let chi: f64 = counts.iter().map(|&count| (f64::from(count) - mean).powi(2) / mean).sum();
        let freedom = buckets as f64 - 1.0;
        (chi - freedom).abs() / (2.0 * freedom).sqrt()
    };
    [(23, 256), (0, 256), (8, 256), (16, 256), (24, 128)].map(|(shift, n)| of(shift, n)).into_iter().fold(0.0, f64::max)
}

#[test]
fn masks_and_shares_are_uniform() {
    const LIMIT: f64 = 5.0;
    let (rows, columns) = (2048, 384);
    let executor = EXECUTORS.last().unwrap();
    for number in 0..8 {
        let seed = Random(number).seed();
        let mut mask = vec![0; rows * columns];
        expand(executor, &seed, number as u32, 0, rows, columns, &mut mask).unwrap();
        assert!(unevenness(&mask) < LIMIT, "{}", unevenness(&mask));
        // One column of all rows, and the share of codes that are all the same.
        let column: Vec<u32> = mask.iter().copied().skip(number as usize).step_by(columns).collect();
        assert!(unevenness(&column) < LIMIT, "{}", unevenness(&column));
        let mut share = vec![0; mask.len()];
        subtract(executor, &vec![65_535; mask.len()], &mask, &mut share).unwrap();
        assert!(unevenness(&share) < LIMIT, "{}", unevenness(&share));

        // The measure sees what is wrong.
        let modulo: Vec<u32> = mask.iter().map(|x| x % 2_000_000_000).collect();
        assert!(unevenness(&modulo) > LIMIT, "{}", unevenness(&modulo));
        let folded: Vec<u32> = mask.iter().map(|x| (x & 0x3fff_ffff) + (x & 0xff)).collect();
        assert!(unevenness(&folded) > LIMIT, "{}", unevenness(&folded));
        let even: Vec<u32> = mask.iter().map(|x| if x % 64 == 0 { x | 1 } else { *x }).collect();
        assert!(unevenness(&even) > LIMIT, "{}", unevenness(&even));
        // One row over and over, as of a counter that stands still; one seed for all masks.
        let reused = mask[..columns].repeat(rows);
        assert!(unevenness(&reused) > LIMIT, "{}", unevenness(&reused));
        let constant: Vec<u32> = (0..64)
            .flat_map(|_| {
                let mut mask = vec![0; 4 * columns];
                expand(executor, &[number as u8; 32], 0, 0, 4, columns, &mut mask).unwrap();
                mask
            })
            .collect();
        assert!(unevenness(&constant) > LIMIT, "{}", unevenness(&constant));
    }
}

#[test]
fn every_row_has_a_mask_of_its_own() {
    let executor = EXECUTORS.last().unwrap();
    let mut seen = std::collections::HashSet::new();
    for seed in 0..4 {
        for stream in [0, 1, 1 << 31] {
            for first in [0, 16, 1 << 32] {
                let mut mask = vec![0; 16 * 8];
                expand(executor, &[seed; 32], stream, first, 16, 8, &mut mask).unwrap();
                assert!(mask.chunks(8).all(|row| seen.insert(row.to_vec())));
            }
        }
    }
}
