//! Splits texts into batches.
//!
//! A batch is ragged: sequences lie one after another without padding, so nothing is computed that
//! nobody asked for. How texts are split decides memory and speed, never a byte of an answer.

use std::ops::Range;

/// Tokens in one batch unless a single text has more: keeps the largest tensor of a block (tokens x
/// feed-forward width) in the tens of megabytes, while the integer products are already at full speed.
pub const MAX_TOKENS: usize = 2048;

/// The batches of texts with these token counts, as ranges of texts in order: at most `most` texts
/// and at most [`MAX_TOKENS`] tokens each, at least one text each.
pub fn split(tokens: &[usize], most: Option<usize>) -> Vec<Range<usize>> {
    let most = most.unwrap_or(usize::MAX).max(1);
    let mut batches = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (at, &count) in tokens.iter().enumerate() {
        let full = at - start >= most || sum + count > MAX_TOKENS;
        if full && at > start {
            batches.push(start..at);
            (start, sum) = (at, 0);
        }
        sum += count;
    }
    if start < tokens.len() {
        batches.push(start..tokens.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_in_exactly_one_batch_in_order() {
        for most in [None, Some(1), Some(2), Some(3), Some(100)] {
            for tokens in [vec![], vec![5], vec![2000, 100, 3], vec![3000, 1, 3000, 1], vec![7; 50]] {
                let batches = split(&tokens, most);
                let seen: Vec<usize> = batches.iter().cloned().flatten().collect();
                assert_eq!(seen, (0..tokens.len()).collect::<Vec<_>>());
                for batch in batches {
                    assert!(!batch.is_empty());
                    assert!(batch.len() <= most.unwrap_or(usize::MAX));
                    let sum: usize = tokens[batch.clone()].iter().sum();
                    assert!(sum <= MAX_TOKENS || batch.len() == 1);
                }
            }
        }
    }

    #[test]
    fn zero_is_read_as_one() {
        assert_eq!(split(&[1, 1], Some(0)).len(), 2);
    }
}
