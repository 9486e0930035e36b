//! What the calls of a stream left of its sequences, as many as there is room for.
//!
//! # How
//!
//! 1. [`Pasts::look`] compares a call with what is kept and with what the stream may keep, before anything is computed for it.
//! 2. [`Pasts::take`] gives what the call goes on from. A sequence that goes on from itself is taken out, because whatever is
//!    shared is copied when it grows; others share the memory of the one they go on from.
//! 3. [`Pasts::put`] keeps what the call left. After an error the stream ends, and all of it with it.

use super::refusal::Refused;
use super::session::End;
use ostrakon_nn::SequencePast;
use ostrakon_protocol::decoding::Part;
use ostrakon_protocol::wire::Refusal;
use std::collections::{BTreeMap, BTreeSet};

/// What a stream may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Rows of a call.
    pub(super) rows: u32,
    /// Of these, rows that the package's last block is wanted of.
    pub(super) wanted: u32,
    /// Sequences.
    pub(super) sequences: u32,
    /// Rows of all of them.
    pub(super) kept: u32,
    /// Rows of one of them.
    pub(super) max_tokens: u32,
}

/// How much a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) rows: u32,
    pub(super) wanted: u32,
}

/// A sequence.
#[derive(Default)]
struct Kept {
    rows: u32,
    /// For each block of the leg.
    blocks: Vec<SequencePast>,
}

/// All sequences of a stream.
pub(super) struct Pasts {
    bounds: Bounds,
    /// Whether the blocks keep anything at all.
    keeps: bool,
    sequences: BTreeMap<u32, Kept>,
}

impl Pasts {
    pub(super) const fn new(bounds: Bounds, keeps: bool) -> Self {
        Self { bounds, keeps, sequences: BTreeMap::new() }
    }

    /// Forget these, if they are there.
    pub(super) fn forget(&mut self, sequences: &[u32]) {
        for sequence in sequences {
            self.sequences.remove(sequence);
        }
    }

    /// Whether there may be such a call.
    pub(super) fn look(&self, parts: &[Part]) -> Result<Extent, End> {
        let Bounds { rows, wanted, max_tokens, .. } = self.bounds;
        let mut extent = Extent { rows: 0, wanted: 0 };
        let mut numbers = BTreeSet::new();
        for part in parts {
            let end = part.before.checked_add(part.rows).filter(|_| part.rows > 0 && part.wanted <= part.rows);
            if end.is_none_or(|end| end > max_tokens) {
                return Err(End::wrong(format!(
                    "{} rows of a sequence, {} before them and {} wanted: a sequence has 1 to {max_tokens}",
                    part.rows, part.before, part.wanted
                )));
            }
            if !numbers.insert(part.sequence) {
                return Err(End::wrong(format!("the sequence {} is in the call twice", part.sequence)));
            }
            self.expect(part)?;
            extent.rows = extent.rows.saturating_add(part.rows);
            extent.wanted = extent.wanted.saturating_add(part.wanted);
        }
        if !(1..=rows).contains(&extent.rows) || extent.wanted > wanted {
            return Err(End::wrong(format!(
                "{} rows in a call, {} of them wanted: the stream is for 1 to {rows}, {wanted} of them wanted",
                extent.rows, extent.wanted
            )));
        }
        self.expect_room(parts, &numbers)?;
        Ok(extent)
    }

    /// Whether there is what a part goes on from.
    fn expect(&self, part: &Part) -> Result<(), Refused> {
        if part.before == 0 || !self.keeps {
            return Ok(());
        }
        let held = self.sequences.get(&part.of).map_or(0, |kept| kept.rows);
        if held >= part.before {
            return Ok(());
        }
        let reason = format!("{held} rows of the sequence {} are kept here, not {}", part.of, part.before);
        Err(Refused::new(Refusal::NotHere, reason))
    }

    fn expect_room(&self, parts: &[Part], numbers: &BTreeSet<u32>) -> Result<(), Refused> {
        if !self.keeps {
            return Ok(());
        }
        let Bounds { sequences, kept, .. } = self.bounds;
        let others = self.sequences.iter().filter(|(number, _)| !numbers.contains(number));
        let (mut count, mut rows) = (parts.len() as u64, 0u64);
        for (_, other) in others {
            count += 1;
            rows += u64::from(other.rows);
        }
        rows += parts.iter().map(|part| u64::from(part.before) + u64::from(part.rows)).sum::<u64>();
        if count <= u64::from(sequences) && rows <= u64::from(kept) {
            return Ok(());
        }
        let reason = format!(
            "{count} sequences with {rows} rows would have to be kept: the stream was opened for {sequences} with {kept}"
        );
        Err(Refused::new(Refusal::Busy, reason))
    }

    /// What the parts of a call go on from, in their order. [`Pasts::look`] has looked at them.
    pub(super) fn take(&mut self, parts: &[Part]) -> Vec<Vec<SequencePast>> {
        let mut taken: Vec<Vec<SequencePast>> = Vec::with_capacity(parts.len());
        for part in parts {
            let shares = self.keeps && part.before > 0 && part.of != part.sequence;
            let of = if shares { self.sequences.get(&part.of) } else { None };
            taken.push(of.map(|kept| kept.blocks.clone()).unwrap_or_default());
        }
        for (part, past) in parts.iter().zip(&mut taken) {
            let kept = self.sequences.remove(&part.sequence).unwrap_or_default();
            if self.keeps && part.before > 0 && part.of == part.sequence {
                *past = kept.blocks;
            }
            past.iter_mut().for_each(|block| block.truncate(part.before as usize));
        }
        taken
    }

    /// What the parts left.
    pub(super) fn put(&mut self, parts: &[Part], left: Vec<Vec<SequencePast>>) {
        if !self.keeps {
            return;
        }
        for (part, blocks) in parts.iter().zip(left) {
            let rows = part.before.saturating_add(part.rows);
            self.sequences.insert(part.sequence, Kept { rows, blocks });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { rows: 8, wanted: 2, sequences: 2, kept: 12, max_tokens: 10 };

    fn part(sequence: u32, of: u32, before: u32, rows: u32) -> Part {
        Part { sequence, of, before, rows, wanted: 0 }
    }

    fn run(pasts: &mut Pasts, parts: &[Part]) -> Result<Extent, String> {
        let extent = pasts.look(parts).map_err(|end| match end {
            End::Refused(Refused { why, reason }, offence) => format!("{why:?} {} {reason}", offence.is_some()),
            _ => "another end".to_owned(),
        })?;
        let taken = pasts.take(parts);
        pasts.put(parts, taken);
        Ok(extent)
    }

    #[test]
    fn sequences_go_on_from_themselves_and_from_others() {
        let mut pasts = Pasts::new(BOUNDS, true);
        assert_eq!(run(&mut pasts, &[part(1, 1, 0, 5)]), Ok(Extent { rows: 5, wanted: 0 }));
        assert_eq!(run(&mut pasts, &[part(1, 1, 5, 1), part(2, 1, 3, 1)]), Ok(Extent { rows: 2, wanted: 0 }));
        // Fewer rows before than there are: the later ones are forgotten.
        assert!(run(&mut pasts, &[part(1, 1, 2, 1)]).is_ok());
        assert!(run(&mut pasts, &[part(1, 1, 4, 1)]).unwrap_err().starts_with("NotHere false 3 rows"));
        assert!(run(&mut pasts, &[part(2, 2, 4, 5)]).is_ok());
    }

    #[test]
    fn what_passes_a_bound_is_refused() {
        let mut pasts = Pasts::new(BOUNDS, true);
        run(&mut pasts, &[part(1, 1, 0, 4), part(2, 2, 0, 4)]).unwrap();
        assert!(run(&mut pasts, &[part(3, 3, 0, 1)]).unwrap_err().starts_with("Busy false 3 sequences"));
        assert!(run(&mut pasts, &[part(1, 1, 4, 5)]).unwrap_err().starts_with("Busy false 2 sequences with 13 rows"));
        pasts.forget(&[2, 77]);
        assert!(run(&mut pasts, &[part(3, 1, 4, 1)]).is_ok());
        for bad in [
            &[][..],
            &[part(1, 1, 0, 0)],
            &[part(1, 1, 0, 9)],
            &[part(1, 1, u32::MAX, 1)],
            &[part(1, 1, 4, 7)],
            &[part(1, 1, 0, 1), part(1, 1, 0, 1)],
            &[Part { wanted: 2, ..part(1, 1, 0, 1) }],
            &[Part { wanted: 3, ..part(1, 1, 0, 3) }],
        ] {
            assert!(run(&mut pasts, bad).unwrap_err().starts_with("Bad true"), "{bad:?}");
        }
        assert!(run(&mut pasts, &[part(1, 9, 1, 1)]).unwrap_err().starts_with("NotHere false 0 rows"));
    }

    #[test]
    fn blocks_that_keep_nothing_are_asked_for_nothing() {
        let mut pasts = Pasts::new(BOUNDS, false);
        for sequence in 0..9 {
            assert!(run(&mut pasts, &[part(sequence, 5, 9, 1)]).is_ok());
        }
        assert!(pasts.sequences.is_empty());
    }
}
