//! What decoders add: causal attention with a past, RMS norms, rotary positions and gated units give the bytes of the
//! reference, at every level of this machine, on one thread and on two, in one piece and in many.

use crate::EXECUTORS;
use crate::agree::agree;
use crate::random::Random;
use ostrakon_exact::reference;
use ostrakon_exact::simd::{Executor, Past};
use ostrakon_exact::{Lengths, RmsNorm, Rotary};
use proptest::prelude::*;

/// Heads, heads of keys, columns of a head.
#[derive(Debug, Clone, Copy)]
struct Heads(usize, usize, usize);

impl Heads {
    fn columns(self) -> usize {
        (self.0 + 2 * self.1) * self.2
    }

    fn outputs(self) -> usize {
        self.0 * self.2
    }

    fn past(self) -> Past {
        Past::new(self.1, self.2).unwrap()
    }

    fn run(self, executor: &Executor, qkv: &[f32], lengths: &[i32], pasts: &mut [&mut Past]) -> Vec<f32> {
        let rows = qkv.len() / self.columns();
        let lengths = Lengths::new(lengths, rows).unwrap();
        let mut out = vec![f32::NAN; rows * self.outputs()];
        executor.causal_attention(qkv, &lengths, self.0, self.1, self.2, pasts, &mut out).unwrap();
        out
    }
}

fn heads() -> impl Strategy<Value = Heads> {
    (1usize..4, 1usize..5, 1usize..40).prop_map(|(kv_heads, group, width)| Heads(kv_heads * group, kv_heads, width))
}

/// Whole sequences, with fresh pasts and with none.
fn agree_whole(qkv: &[f32], lengths: &[i32], heads: Heads) -> Result<(), TestCaseError> {
    let rows = qkv.len() / heads.columns();
    let checked = Lengths::new(lengths, rows).unwrap();
    agree(
        rows * heads.outputs(),
        |out| reference::causal_attention(qkv, &checked, heads.0, heads.1, heads.2, out).unwrap(),
        |executor, out| {
            let mut pasts: Vec<Past> = lengths.iter().map(|_| heads.past()).collect();
            out.copy_from_slice(&heads.run(executor, qkv, lengths, &mut pasts.iter_mut().collect::<Vec<_>>()));
            let alone = heads.run(executor, qkv, lengths, &mut []);
            assert!(out.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", executor.level());
            assert!(pasts.iter().zip(lengths).all(|(past, &length)| past.rows() == length as usize));
        },
    )
}

/// Sequences in random pieces, batched at random, some rows forgotten and given again, some pasts cloned.
fn agree_in_pieces(random: &mut Random, qkv: &[f32], lengths: &[i32], heads: Heads) -> Result<(), TestCaseError> {
    let (columns, outputs) = (heads.columns(), heads.outputs());
    let rows = qkv.len() / columns;
    let checked = Lengths::new(lengths, rows).unwrap();
    let seed = random.next();
    agree(
        rows * outputs,
        |out| reference::causal_attention(qkv, &checked, heads.0, heads.1, heads.2, out).unwrap(),
        |executor, out| {
            let random = &mut Random(seed);
            let mut firsts = vec![0];
            for &length in lengths {
                firsts.push(firsts[firsts.len() - 1] + length as usize);
            }
            let mut pasts: Vec<Past> = lengths.iter().map(|_| heads.past()).collect();
            loop {
                // Some of the sequences that have rows left, with some of those.
                let (mut chosen, mut input, mut counts) = (Vec::new(), Vec::new(), Vec::new());
                for (i, past) in pasts.iter_mut().enumerate() {
                    if past.rows() > 0 && random.below(8) == 0 {
                        let kept = past.clone();
                        past.truncate(past.rows() - random.below(past.rows().min(70)));
                        if random.below(2) == 0 {
                            *past = kept;
                        }
                    }
                    let left = lengths[i] as usize - past.rows();
                    if left == 0 || random.below(3) == 0 {
                        continue;
                    }
                    let most = if random.below(3) == 0 { left } else { left.min(3) };
                    let count = 1 + random.below(most);
                    let first = firsts[i] + past.rows();
                    input.extend_from_slice(&qkv[first * columns..(first + count) * columns]);
                    counts.push(count as i32);
                    chosen.push((first, past));
                }
                let starts: Vec<usize> = chosen.iter().map(|(first, _)| *first).collect();
                let mut bound: Vec<&mut Past> = chosen.into_iter().map(|(_, past)| past).collect();
                if !bound.is_empty() {
                    let y = heads.run(executor, &input, &counts, &mut bound);
                    let mut y = y.as_slice();
                    for (start, &count) in starts.iter().zip(&counts) {
                        let (now, rest) = y.split_at(count as usize * outputs);
                        out[start * outputs..][..now.len()].copy_from_slice(now);
                        y = rest;
                    }
                }
                if pasts.iter().zip(lengths).all(|(past, &length)| past.rows() == length as usize) {
                    break;
                }
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn causal_attention_agrees(lengths in prop::collection::vec(1..90i32, 0..5), heads in heads(), seed: u64) {
        let random = &mut Random(seed);
        let rows = lengths.iter().sum::<i32>() as usize;
        let qkv = random.rows(rows, heads.columns());
        agree_whole(&qkv, &lengths, heads)?;
        agree_in_pieces(random, &qkv, &lengths, heads)?;
    }

    #[test]
    fn rms_norm_agrees(rows in 0usize..20, width in 1usize..120, seed: u64) {
        let random = &mut Random(seed);
        let gain = (0..width).map(|_| if random.below(8) == 0 { (1u64 << 30) as f32 } else { random.usual() }).collect();
        let layer = RmsNorm { gain, epsilon: [1e-5, 1e-18, 1.0][random.below(3)] };
        let x = random.rows(rows, width);
        agree(
            x.len(),
            |out| reference::rms_norm(&layer, &x, rows, out).unwrap(),
            |e, out| e.rms_norm(&layer, &x, rows, out).unwrap(),
        )?;
    }

    #[test]
    fn rotary_agrees(rows in 0usize..30, heads in 1usize..6, pairs in 1usize..20, rest in 0usize..50, positions in 1usize..40, seed: u64) {
        let random = &mut Random(seed);
        let width = 2 * pairs;
        let table = (0..positions * width).map(|_| random.usual()).collect();
        let layer = Rotary { table, positions, width, heads };
        let columns = heads * width + rest;
        let x = random.rows(rows, columns);
        let at: Vec<i32> = (0..rows).map(|_| random.below(positions) as i32).collect();
        agree(
            x.len(),
            |out| reference::rotary(&layer, &x, &at, columns, out).unwrap(),
            |e, out| e.rotary(&layer, &x, &at, columns, out).unwrap(),
        )?;
    }

    #[test]
    fn swiglu_agrees(rows in 0usize..20, width in 0usize..150, seed: u64) {
        let x = Random(seed).rows(rows, 2 * width);
        agree(
            rows * width,
            |out| reference::swiglu(&x, rows, width, out).unwrap(),
            |e, out| e.swiglu(&x, rows, width, out).unwrap(),
        )?;
    }
}

#[test]
fn long_contexts_agree() {
    let random = &mut Random(9);
    // Equal keys and values: every weight and every sum is the largest; then anything.
    for (length, heads) in [(700, Heads(9, 3, 64)), (1500, Heads(4, 1, 33)), (300, Heads(2, 2, 128))] {
        for qkv in [vec![1.0; length * heads.columns()], random.rows(length, heads.columns())] {
            agree_whole(&qkv, &[length as i32], heads).unwrap();
            agree_in_pieces(random, &qkv, &[length as i32], heads).unwrap();
        }
    }
}

#[test]
fn one_row_after_a_long_past_agrees() {
    // Long enough to be shared between threads; a short sequence beside a long one is not.
    let random = &mut Random(21);
    for (length, heads) in [(1100, Heads(9, 3, 64)), (1500, Heads(4, 1, 33)), (1300, Heads(2, 2, 16))] {
        let qkv = random.rows(length + 3, heads.columns());
        let split = (length - 1) * heads.columns();
        let (long, short) = qkv.split_at(length * heads.columns());
        let checked = Lengths::new(&[length as i32, 3], length + 3).unwrap();
        let mut want = vec![0.0; (length + 3) * heads.outputs()];
        reference::causal_attention(&qkv, &checked, heads.0, heads.1, heads.2, &mut want).unwrap();
        for executor in EXECUTORS.iter() {
            let (mut a, mut b) = (heads.past(), heads.past());
            heads.run(executor, &long[..split], &[length as i32 - 1], &mut [&mut a]);
            heads.run(executor, &short[..2 * heads.columns()], &[2], &mut [&mut b]);
            let last = [&long[split..], &short[2 * heads.columns()..]].concat();
            let got = heads.run(executor, &last, &[1, 1], &mut [&mut a, &mut b]);
            let outputs = heads.outputs();
            assert_eq!(got[..outputs], want[(length - 1) * outputs..length * outputs], "{}", executor.level());
            assert_eq!(got[outputs..], want[(length + 2) * outputs..], "{}", executor.level());
        }
    }
}

#[test]
fn a_later_value_of_any_size_changes_nothing_before_it() {
    // All values that row i sees are zero or tiny, and the next is huge: a kernel that reads past the row's end
    // would scale its weights by it.
    let heads = Heads(3, 1, 16);
    for length in [2usize, 15, 16, 17, 63, 64, 65, 130] {
        let mut qkv = Random(4).rows(length, heads.columns());
        for (i, row) in qkv.chunks_exact_mut(heads.columns()).enumerate() {
            row[4 * 16..].fill(if i + 1 == length { 1e18 } else { [0.0, 1e-17][i % 2] });
        }
        agree_whole(&qkv, &[length as i32], heads).unwrap();
        // And where a forgotten row was huge.
        for executor in EXECUTORS.iter() {
            let mut past = heads.past();
            let short = &qkv[..(length - 1) * heads.columns()];
            let want = heads.run(executor, short, &[length as i32 - 1], &mut []);
            heads.run(executor, &qkv, &[length as i32], &mut [&mut past]);
            past.truncate(length - 2);
            let last = &short[(length - 2) * heads.columns()..];
            let got = heads.run(executor, last, &[1], &mut [&mut past]);
            assert_eq!(got, want[(length - 2) * heads.outputs()..]);
        }
    }
}

#[test]
fn clones_of_a_past_go_their_own_ways() {
    let heads = Heads(4, 2, 24);
    let random = &mut Random(12);
    let executor = EXECUTORS.last().unwrap();
    let rows = random.rows(70, heads.columns());
    let mut first = heads.past();
    heads.run(executor, &rows, &[70], &mut [&mut first]);
    let bytes = first.bytes();
    assert_eq!(bytes, heads.past().bytes_of(70));
    let mut second = first.clone();
    let (a, b) = (random.rows(1, heads.columns()), random.rows(1, heads.columns()));
    let after_a = heads.run(executor, &a, &[1], &mut [&mut first]);
    let after_b = heads.run(executor, &b, &[1], &mut [&mut second]);
    for (last, got) in [(&a, after_a), (&b, after_b)] {
        let whole = [rows.as_slice(), last].concat();
        let want = heads.run(executor, &whole, &[71], &mut []);
        assert_eq!(got, want[70 * heads.outputs()..]);
    }
    first.truncate(64);
    assert!(first.rows() == 64 && first.bytes() == bytes / 2);
    first.truncate(0);
    assert!(first.rows() == 0 && first.bytes() == 0 && second.rows() == 71);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    assert!(Past::new(0, 4).is_err() && Past::new(4, 0).is_err() && Past::new(1025, 4).is_err());
    assert!(Past::new(1, 129).is_err());
    let two = Lengths::new(&[1, 1], 2).unwrap();
    let qkv = [1.0; 2 * 16];
    let layer = Rotary { table: vec![1.0; 8], positions: 2, width: 4, heads: 2 };
    let norm = RmsNorm { gain: vec![1.0; 3], epsilon: 1e-5 };
    let mut out = [0.0; 16];
    for executor in EXECUTORS.iter() {
        let mut past = Past::new(1, 4).unwrap();
        let mut other = Past::new(2, 4).unwrap();
        let mut run = |heads, kv_heads, width, pasts: &mut [&mut Past], len| {
            executor.causal_attention(&qkv, &two, heads, kv_heads, width, pasts, &mut out[..len])
        };
        assert!(run(2, 1, 4, &mut [], 16).is_ok());
        for (heads, kv_heads, width) in [(0, 1, 4), (2, 0, 4), (3, 2, 4), (2, 1, 0), (2, 1, 129), (usize::MAX, 1, 4)] {
            assert!(run(heads, kv_heads, width, &mut [], 16).is_err(), "{heads} {kv_heads} {width}");
            let mut out = [0.0; 16];
            assert!(reference::causal_attention(&qkv, &two, heads, kv_heads, width, &mut out).is_err());
        }
        assert!(run(2, 1, 4, &mut [], 15).is_err());
        assert!(run(2, 1, 4, &mut [&mut past], 16).is_err());
        let why = run(2, 1, 4, &mut [&mut past, &mut other], 16).unwrap_err();
        assert!(why.to_string().contains("a past of 2 heads"), "{why}");
        assert_eq!((past.rows(), other.rows()), (0, 0));

        assert!(executor.rotary(&layer, &[0.0; 8], &[1], 8, &mut out[..8]).is_ok());
        assert!(executor.rotary(&layer, &[0.0; 8], &[2], 8, &mut out[..8]).is_err());
        assert!(executor.rotary(&layer, &[0.0; 8], &[-1], 8, &mut out[..8]).is_err());
        assert!(executor.rotary(&layer, &[0.0; 7], &[1], 7, &mut out[..7]).is_err());
        assert!(executor.rotary(&layer, &[0.0; 8], &[1, 1], 8, &mut out[..8]).is_err());
        assert!(reference::rotary(&layer, &[0.0; 8], &[2], 8, &mut out[..8]).is_err());
        assert!(reference::rotary(&layer, &[0.0; 7], &[1], 7, &mut out[..7]).is_err());
        assert!(executor.rms_norm(&norm, &[0.0; 3], 2, &mut out[..6]).is_err());
        assert!(executor.swiglu(&[0.0; 6], 1, 2, &mut out[..2]).is_err());
        assert!(executor.swiglu(&[0.0; 6], 0, usize::MAX, &mut out[..2]).is_err());
    }
}
