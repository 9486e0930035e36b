//! What a joining node should serve.
//!
//! # How
//!
//! 1. The throughput of a block is the sum of what its nodes do, each through all of its blocks. A node that asks again is
//!    taken out first.
//! 2. Every range is tried whose weights fit: with it, how many blocks nobody serves, how fast the worst is, how many rows a second
//!    the range had before. Both ends are walked, so that each range costs a comparison or two.
//! 3. Blocks that the node alone serves now are in every range that is tried.

use crate::bindings::exports::ostrakon::plugin::scheduling::{Failure, Newcomer, Node, Placement, Request, Snapshot};
use crate::draw::Lots;
use crate::fleet::{Fleet, Task, bad, rate, throughput};
use crate::model::Known;
use std::cmp::Reverse;

/// How good a range is: fewer unserved, a faster worst block, less throughput before. Smaller is better.
type Worth = (u32, Reverse<u64>, u128);

/// The placement.
pub(crate) fn place(
    request: &Request,
    snapshot: &Snapshot,
    newcomer: &Newcomer,
    randomness: &[u8],
) -> Result<Placement, Failure> {
    let mut lots =
        Lots::new(randomness).ok_or_else(|| bad(format!("{} bytes of randomness: it has 64", randomness.len())))?;
    let task = Task::new(request)?;
    let fleet = Fleet::new(request, &task, snapshot)?;
    let known = known(&fleet, newcomer)?;
    let (served, own) = speeds(&fleet, &task, newcomer);
    let least = must_keep(&served, &own);
    // With the node still in its place, as it is now.
    let before = served.iter().zip(&own).map(|(served, own)| served.saturating_add(*own)).min().unwrap_or_default();
    let windows = Windows::new(&served);
    // For all ranges alike: the cost of a multiply-add hardly depends on how many there are.
    let rate = rate(predicted(&fleet, &task, newcomer, &known));
    let mut best: Option<(Worth, u32, u32, u64)> = None;
    let mut equals = 0_usize;
    for from in 0..task.blocks {
        if least.is_some_and(|(first, _)| from > first) {
            break;
        }
        let (mut weight, mut slowest, mut gaps, mut sum) = (0_u64, u64::MAX, 0, 0_u128);
        for to in from + 1..=task.blocks {
            let at = to as usize - 1;
            let (Some(needs), Some(speed)) = (request.blocks.get(at), served.get(at)) else { break };
            weight = weight.saturating_add(needs.weight_bytes);
            if weight > newcomer.memory {
                break;
            }
            slowest = slowest.min(*speed);
            gaps += u32::from(*speed == 0);
            sum += u128::from(*speed);
            if least.is_some_and(|(_, end)| to < end) {
                continue;
            }
            let more = throughput(rate, task.work(from, to), task.rows);
            let inside = slowest.saturating_add(more);
            let worst = inside.min(windows.outside(from, to));
            // A mean, so that long ranges and short ones compare; longer ones then serve more.
            let worth = (windows.gaps - gaps, Reverse(worst), (sum << 16) / u128::from(to - from));
            let better = best.as_ref().is_none_or(|(other, ..)| worth < *other);
            let equal = best.as_ref().is_some_and(|(other, ..)| worth == *other);
            equals = if better { 1 } else { equals + usize::from(equal) };
            // The n-th of equals takes the place with a chance of 1 in n: all are as likely in the end.
            if better || (equal && lots.below(equals) == 0) {
                best = Some((worth, from, to, worst));
            }
        }
    }
    let Some((_, from, to, after)) = best else {
        return Err(match least {
            Some((from, to)) => {
                bad(format!("blocks {from} to {to}, which nobody else serves, do not fit into the memory"))
            }
            None => bad(format!("no block fits into {} bytes of memory", newcomer.memory)),
        });
    };
    Ok(Placement { from, to, before, after })
}

fn known(fleet: &Fleet<'_>, newcomer: &Newcomer) -> Result<Known, Failure> {
    let names = fleet.names.len();
    if newcomer.simd as usize >= names || newcomer.backend as usize >= names {
        return Err(bad(format!("the node that asks has a name beyond the {names} that there are")));
    }
    match newcomer.node {
        None => Ok(Known::default()),
        Some(at) => fleet
            .nodes
            .get(at as usize)
            .map(|node| Known::read(&node.learned))
            .ok_or_else(|| bad(format!("the node that asks is said to be node {at} of {}", fleet.nodes.len()))),
    }
}

/// Thousandths of rows a second through each block: by others, and by the node that asks.
fn speeds(fleet: &Fleet<'_>, task: &Task, newcomer: &Newcomer) -> (Vec<u64>, Vec<u64>) {
    let blocks = task.blocks as usize;
    let (mut others, mut own) = (vec![0_u64; blocks], vec![0_u64; blocks]);
    for candidate in fleet.candidates(task, true) {
        let speed = throughput(candidate.rate, task.work(candidate.from, candidate.to), task.rows).max(1);
        let speeds = if newcomer.node == Some(candidate.node) { &mut own } else { &mut others };
        for total in speeds.get_mut(candidate.from as usize..candidate.to as usize).unwrap_or_default() {
            *total = total.saturating_add(speed).min(1 << 60);
        }
    }
    (others, own)
}

/// From the first to the last block that only the node itself serves.
fn must_keep(others: &[u64], own: &[u64]) -> Option<(u32, u32)> {
    let mut alone = (0..).zip(others.iter().zip(own)).filter(|(_, (others, own))| **others == 0 && **own > 0);
    let (first, _) = alone.next()?;
    let last = alone.last().map_or(first, |(last, _)| last);
    Some((first, last + 1))
}

fn predicted(fleet: &Fleet<'_>, task: &Task, newcomer: &Newcomer, known: &Known) -> i64 {
    let Newcomer { threads, simd, backend, .. } = *newcomer;
    let node = Node {
        operator: 0,
        executes: true,
        verifies: false,
        draining: false,
        threads,
        simd,
        backend,
        free_memory: 0,
        slots: 1,
        used: 0,
        round_trip: None,
        done: 0,
        failed: 0,
        wrong: 0,
        learned: Vec::new(),
    };
    known.predict(&fleet.weights, &fleet.features(&node, task.work(0, task.blocks), task.rows))
}

/// The slowest block before and after each border.
struct Windows {
    before: Vec<u64>,
    after: Vec<u64>,
    /// Blocks that nobody serves.
    gaps: u32,
}

impl Windows {
    fn new(speeds: &[u64]) -> Self {
        let running = |slowest: &mut u64, speed: &u64| {
            *slowest = (*slowest).min(*speed);
            Some(*slowest)
        };
        let before = std::iter::once(u64::MAX).chain(speeds.iter().scan(u64::MAX, running)).collect();
        let mut after: Vec<u64> =
            std::iter::once(u64::MAX).chain(speeds.iter().rev().scan(u64::MAX, running)).collect();
        after.reverse();
        let gaps = speeds.iter().filter(|speed| **speed == 0).count();
        Self { before, after, gaps: u32::try_from(gaps).unwrap_or(u32::MAX) }
    }

    /// The slowest block that is not in the range.
    fn outside(&self, from: u32, to: u32) -> u64 {
        let at = |list: &[u64], border: u32| list.get(border as usize).copied().unwrap_or(u64::MAX);
        at(&self.before, from).min(at(&self.after, to))
    }
}
