//! What the tensors of a GGUF file are made of, and how they become floats.
//!
//! A quantised tensor is a run of blocks of 32 or 256 weights. A block has one or more scales and,
//! in some types, offsets; its weights are small codes. Every value below is computed as the
//! authors of the format define it, in f32, each operation rounded by itself.

use crate::import::floats::{brain, half};

/// Weights of a block of the K types.
const LONG: usize = 256;

/// What the weights of a tensor are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::import) enum Kind {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// All of them: the number in the file, the name, weights of a block, bytes of a block.
const KINDS: [(Kind, u32, &str, usize, usize); 11] = [
    (Kind::F32, 0, "F32", 1, 4),
    (Kind::F16, 1, "F16", 1, 2),
    (Kind::Q4_0, 2, "Q4_0", 32, 18),
    (Kind::Q4_1, 3, "Q4_1", 32, 20),
    (Kind::Q5_0, 6, "Q5_0", 32, 22),
    (Kind::Q5_1, 7, "Q5_1", 32, 24),
    (Kind::Q8_0, 8, "Q8_0", 32, 34),
    (Kind::Q4K, 12, "Q4_K", LONG, 144),
    (Kind::Q5K, 13, "Q5_K", LONG, 176),
    (Kind::Q6K, 14, "Q6_K", LONG, 210),
    (Kind::Bf16, 30, "BF16", 1, 2),
];

/// Types that exist and cannot be read here, for a message.
const OTHERS: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl Kind {
    /// The type with this number in the file, or why there is none.
    pub(super) fn of(number: u32) -> Result<Self, String> {
        if let Some((kind, ..)) = KINDS.iter().find(|entry| entry.1 == number) {
            return Ok(*kind);
        }
        let known: Vec<&str> = KINDS.iter().map(|entry| entry.2).collect();
        let name = OTHERS.iter().find(|entry| entry.0 == number).map_or("unknown", |entry| entry.1);
        Err(format!("has the type {name} ({number}), which cannot be read: {}", known.join(", ")))
    }

    fn entry(self) -> (&'static str, usize, usize) {
        KINDS
            .iter()
            .find(|entry| entry.0 == self)
            .map_or(("", 1, 1), |&(_, _, name, weights, bytes)| (name, weights, bytes))
    }

    /// Its name.
    pub(in crate::import) fn name(self) -> &'static str {
        self.entry().0
    }

    /// Weights of a block.
    pub(super) fn weights(self) -> usize {
        self.entry().1
    }

    /// Bytes of a block.
    pub(super) fn bytes(self) -> usize {
        self.entry().2
    }

    /// The floats of whole blocks, appended to `out`. Bytes after the last whole block are left out.
    pub(super) fn floats(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::F16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|&b| half(u16::from_le_bytes(b)))),
            Self::Bf16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|&b| brain(u16::from_le_bytes(b)))),
            Self::Q4_0 => bytes.as_chunks::<18>().0.iter().for_each(|b| q4_0(b, out)),
            Self::Q4_1 => bytes.as_chunks::<20>().0.iter().for_each(|b| q4_1(b, out)),
            Self::Q5_0 => bytes.as_chunks::<22>().0.iter().for_each(|b| q5_0(b, out)),
            Self::Q5_1 => bytes.as_chunks::<24>().0.iter().for_each(|b| q5_1(b, out)),
            Self::Q8_0 => bytes.as_chunks::<34>().0.iter().for_each(|b| q8_0(b, out)),
            Self::Q4K => bytes.as_chunks::<144>().0.iter().for_each(|b| q4_k(b, out)),
            Self::Q5K => bytes.as_chunks::<176>().0.iter().for_each(|b| q5_k(b, out)),
            Self::Q6K => bytes.as_chunks::<210>().0.iter().for_each(|b| q6_k(b, out)),
        }
    }
}

/// The half at the start, and the bytes behind it.
fn leading_half(bytes: &[u8]) -> (f32, &[u8]) {
    match bytes.split_first_chunk::<2>() {
        Some((&first, rest)) => (half(u16::from_le_bytes(first)), rest),
        None => (0.0, &[]),
    }
}

/// Low nibbles of all bytes, then high ones.
fn nibbles(codes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    codes.iter().map(|c| c & 15).chain(codes.iter().map(|c| c >> 4))
}

/// As [`nibbles`] of 16 bytes, each with a fifth bit from a word.
fn fives(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let (word, codes) = bytes.split_at_checked(4).unwrap_or_default();
    let word = <[u8; 4]>::try_from(word).map_or(0, u32::from_le_bytes);
    nibbles(codes).enumerate().map(move |(i, c)| c | u8::from(word >> i & 1 != 0) << 4)
}

fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let (d, codes) = leading_half(block);
    out.extend(nibbles(codes).map(|c| d * (f32::from(c) - 8.0)));
}

fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, rest) = leading_half(block);
    let (m, codes) = leading_half(rest);
    out.extend(nibbles(codes).map(|c| d * f32::from(c) + m));
}

fn q5_0(block: &[u8], out: &mut Vec<f32>) {
    let (d, rest) = leading_half(block);
    out.extend(fives(rest).map(|c| d * (f32::from(c) - 16.0)));
}

fn q5_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, rest) = leading_half(block);
    let (m, rest) = leading_half(rest);
    out.extend(fives(rest).map(|c| d * f32::from(c) + m));
}

fn q8_0(block: &[u8], out: &mut Vec<f32>) {
    let (d, codes) = leading_half(block);
    out.extend(codes.iter().map(|&c| d * f32::from(c.cast_signed())));
}

/// The eight scales and eight offsets, six bits each, packed into twelve bytes.
fn sixes(packed: &[u8]) -> [(f32, f32); 8] {
    let at = |i: usize| packed.get(i).copied().unwrap_or_default();
    std::array::from_fn(|i| {
        let (scale, offset) = if i < 4 {
            (at(i) & 63, at(i + 4) & 63)
        } else {
            (at(i + 4) & 15 | (at(i - 4) >> 6) << 4, at(i + 4) >> 4 | (at(i) >> 6) << 4)
        };
        (f32::from(scale), f32::from(offset))
    })
}

fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, rest) = leading_half(block);
    let (m, rest) = leading_half(rest);
    let (packed, codes) = rest.split_at_checked(12).unwrap_or_default();
    // 32 bytes hold two runs of 32 weights: the low nibbles, then the high ones.
    let runs = codes.chunks_exact(32).flat_map(|run| [(run, 0), (run, 4)]);
    for ((run, shift), (scale, offset)) in runs.zip(sixes(packed)) {
        let (scale, offset) = (d * scale, m * offset);
        out.extend(run.iter().map(|&c| scale * f32::from(c >> shift & 15) - offset));
    }
}

fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, rest) = leading_half(block);
    let (m, rest) = leading_half(rest);
    let (packed, rest) = rest.split_at_checked(12).unwrap_or_default();
    let (fifths, codes) = rest.split_at_checked(32).unwrap_or_default();
    let runs = codes.chunks_exact(32).flat_map(|run| [(run, 0), (run, 4)]);
    for (bit, ((run, shift), (scale, offset))) in runs.zip(sixes(packed)).enumerate() {
        let (scale, offset) = (d * scale, m * offset);
        let weight = |(&c, &fifth): (&u8, &u8)| f32::from(c >> shift & 15 | (fifth >> bit & 1) << 4);
        out.extend(run.iter().zip(fifths).map(|pair| scale * weight(pair) - offset));
    }
}

fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, rest) = block.split_at_checked(128).unwrap_or_default();
    let (high, rest) = rest.split_at_checked(64).unwrap_or_default();
    let (scales, rest) = rest.split_at_checked(16).unwrap_or_default();
    let (d, _) = leading_half(rest);
    // Each half of the block: 64 bytes of low nibbles, 32 bytes of two upper bits, 8 scales.
    for ((low, high), scales) in low.chunks_exact(64).zip(high.chunks_exact(32)).zip(scales.chunks_exact(8)) {
        let (first, second) = low.split_at_checked(32).unwrap_or_default();
        for (run, (codes, shift)) in [(first, 0), (second, 0), (first, 4), (second, 4)].into_iter().enumerate() {
            for (at, (&c, &h)) in codes.iter().zip(high).enumerate() {
                let scale = scales.get(2 * run + at / 16).map_or(0.0, |&s| f32::from(s.cast_signed()));
                let code = f32::from(c >> shift & 15 | (h >> (2 * run) & 3) << 4) - 32.0;
                out.push(d * scale * code);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    /// Random blocks and what the Python package `gguf` makes of them.
    #[test]
    fn every_type_gives_the_golden_floats() {
        let mut seen = 1; // F32 needs no blocks
        for line in include_str!("golden.txt").lines() {
            let mut words = line.split(' ');
            let (name, blocks, want) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let kind = KINDS.iter().find(|entry| entry.2 == name).unwrap().0;
            let mut got = Vec::new();
            kind.floats(&bytes(blocks), &mut got);
            let want: Vec<f32> = bytes(want).as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            assert_eq!(got.len(), want.len(), "{name}");
            assert_eq!(got.len() * kind.bytes(), bytes(blocks).len() * kind.weights(), "{name}");
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                assert_eq!(g.to_bits(), w.to_bits(), "{name} weight {i}: {g} {w}");
            }
            seen += 1;
        }
        assert_eq!(seen, KINDS.len());
    }

    #[test]
    fn other_types_are_named() {
        let why = Kind::of(16).unwrap_err();
        assert!(why.contains("IQ2_XXS (16)") && why.contains("Q4_1"), "{why}");
        assert!(Kind::of(u32::MAX).unwrap_err().contains("unknown (4294967295)"));
        for (kind, number, ..) in KINDS {
            assert_eq!(Kind::of(number), Ok(kind));
        }
    }
}
