//! The cheapest way from the first block to the last: where the legs begin and end.
//!
//! # How
//!
//! 1. [`reach`] goes from border to border as far as enough operators serve: the fewest legs that are possible, or what is
//!    missing.
//! 2. [`borders`] are those, and where most nodes' blocks begin or end, up to [`MAX_BORDERS`].
//! 3. [`Costs`] has for each pair of borders what the replicas of that leg cost: as much as the dearest of the cheapest
//!    nodes of so many operators. Should there be too many pairs and nodes, only the best nodes of each stretch count.
//! 4. A shortest path over the borders. For several batches it is looked for under several bounds on the slowest leg.
//! 5. Among the paths with as many legs and nearly that cost, lots decide.

use crate::bindings::exports::ostrakon::plugin::scheduling::{Failure, Shortage};
use crate::draw::Lots;
use crate::fleet::{Candidate, MOST_COST, Task};

/// Most borders between legs, so most legs.
const MAX_BORDERS: usize = 96;
/// Entries into the table of costs up to which nobody is left out.
const MANY: usize = 1 << 21;
/// Bounds on the slowest leg that are tried.
const BOUNDS: usize = 16;
/// Paths that are dearer by this part of the best are as good.
const SLACK: u64 = 32;

/// Not possible.
const NEVER: u64 = u64::MAX;

/// From one border to another.
pub(crate) type Leg = (u32, u32);

/// How far enough operators serve from each border on, until the last block.
fn reach(candidates: &[Candidate], task: &Task) -> Result<Vec<u32>, Failure> {
    let mut ways: Vec<(u32, u32, u32)> = candidates.iter().map(|c| (c.to, c.operator, c.from)).collect();
    ways.sort_unstable_by(|a, b| b.cmp(a));
    let mut borders = vec![0];
    let mut at = 0;
    while at < task.blocks {
        let mut operators: Vec<u32> = Vec::new();
        let mut next = None;
        for (to, operator, from) in &ways {
            if *to <= at {
                break;
            }
            if *from <= at && !operators.contains(operator) {
                operators.push(*operator);
                if operators.len() == task.replicas {
                    next = Some(*to);
                    break;
                }
            }
        }
        let Some(to) = next else {
            // The blocks that are just as short of operators from here on: up to where somebody begins or ends.
            let ends = ways.iter().flat_map(|(to, _, from)| [*to, *from]).filter(|border| *border > at);
            return Err(Failure::FewOperators(Shortage {
                from: at,
                to: ends.min().unwrap_or(task.blocks),
                found: number(operators.len()),
                needed: number(task.replicas),
            }));
        };
        at = to;
        borders.push(at);
        if borders.len() > MAX_BORDERS + 1 {
            return Err(Failure::Fragmented(number(borders.len() - 1)));
        }
    }
    Ok(borders)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Borders that legs may have, in order, the first and the last among them.
fn borders(candidates: &[Candidate], task: &Task) -> Result<Vec<u32>, Failure> {
    let mut borders = reach(candidates, task)?;
    let mut counts = vec![0_u32; task.blocks as usize + 1];
    for border in candidates.iter().flat_map(|c| [c.from, c.to]) {
        if let Some(count) = counts.get_mut(border as usize) {
            *count += 1;
        }
    }
    let mut popular: Vec<(u32, u32)> = (0..).zip(counts).filter(|(_, count)| *count > 0).collect();
    popular.sort_unstable_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
    let room = MAX_BORDERS.saturating_sub(borders.len());
    let more: Vec<u32> =
        popular.into_iter().map(|(border, _)| border).filter(|b| !borders.contains(b)).take(room).collect();
    borders.extend(more);
    borders.sort_unstable();
    borders.dedup();
    Ok(borders)
}

/// What each leg costs, by the places of its borders.
struct Costs {
    count: usize,
    costs: Vec<u64>,
}

impl Costs {
    fn new(candidates: &[Candidate], task: &Task, borders: &[u32]) -> Self {
        let count = borders.len();
        let replicas = task.replicas;
        let mut spans: Vec<(usize, usize, Candidate)> = candidates
            .iter()
            .map(|c| {
                let first = borders.partition_point(|border| *border < c.from);
                let end = borders.partition_point(|border| *border <= c.to).saturating_sub(1);
                (first, end, *c)
            })
            .filter(|(first, end, _)| first < end)
            .collect();
        let entries: usize = spans.iter().map(|(first, end, _)| (end - first) * (end - first + 1) / 2).sum();
        if entries > MANY {
            spans = best(spans, task, borders);
        }
        // For each pair the cheapest of different operators, in order.
        let mut best = vec![(NEVER, 0_u32); count * count * replicas];
        for (first, end, candidate) in spans {
            for from in first..end {
                for to in from + 1..=end {
                    let (Some(a), Some(b)) = (borders.get(from), borders.get(to)) else { continue };
                    let cost = candidate.cost(task.work(*a, *b));
                    let at = (from * count + to) * replicas;
                    if let Some(best) = best.get_mut(at..at + replicas) {
                        keep(best, cost, candidate.operator);
                    }
                }
            }
        }
        let mut costs = vec![NEVER; count * count];
        for (pair, (cost, best)) in costs.iter_mut().zip(best.chunks_exact(replicas)).enumerate() {
            let (Some(from), Some(to)) = (borders.get(pair / count), borders.get(pair % count)) else { continue };
            if let Some((dearest, _)) = best.last()
                && *dearest != NEVER
            {
                *cost = dearest.saturating_add(task.transport(*from, *to));
            }
        }
        Self { count, costs }
    }

    fn of(&self, from: usize, to: usize) -> u64 {
        self.costs.get(from * self.count + to).copied().unwrap_or(NEVER)
    }
}

/// Keep a cost among the cheapest, one for an operator.
fn keep(best: &mut [(u64, u32)], cost: u64, operator: u32) {
    if best.last().is_none_or(|(dearest, _)| cost >= *dearest) {
        return;
    }
    // The entry that makes room: the operator's own, or the dearest.
    let own = best.iter().position(|(kept, whose)| *whose == operator && *kept != NEVER);
    let at = own.unwrap_or(best.len() - 1);
    if let Some(entry) = best.get_mut(at)
        && cost < entry.0
    {
        *entry = (cost, operator);
        if let Some(changed) = best.get_mut(..=at) {
            changed.sort_unstable();
        }
    }
}

/// For each stretch between borders the best nodes of different operators, by what a unit of work costs on their blocks.
fn best(mut spans: Vec<(usize, usize, Candidate)>, task: &Task, borders: &[u32]) -> Vec<(usize, usize, Candidate)> {
    let enough = (4 * task.replicas).max(16);
    let worth = |(first, end, candidate): &(usize, usize, Candidate)| {
        let (Some(from), Some(to)) = (borders.get(*first), borders.get(*end)) else { return (u128::MAX, 0) };
        let work = task.work(*from, *to);
        ((u128::from(candidate.cost(work)) << 64) / work, candidate.node)
    };
    spans.sort_by_cached_key(worth);
    let mut kept: Vec<Vec<u32>> = vec![Vec::new(); borders.len()];
    spans.retain(|(first, end, candidate)| {
        let mut wanted = false;
        for stretch in kept.get_mut(*first..*end).unwrap_or_default() {
            if stretch.len() < enough && !stretch.contains(&candidate.operator) {
                stretch.push(candidate.operator);
                wanted = true;
            }
        }
        wanted
    });
    spans
}

/// The cheapest path with no leg above `bound`: its cost and the places of its borders.
fn shortest(costs: &Costs, bound: u64) -> Option<(u64, Vec<usize>)> {
    // Cost, legs, border before.
    let mut paths = vec![(NEVER, 0_usize, 0_usize); costs.count];
    *paths.first_mut()? = (0, 0, 0);
    for to in 1..costs.count {
        let before = paths.iter().take(to).enumerate().filter_map(|(from, (cost, legs, _))| {
            let leg = costs.of(from, to);
            (*cost != NEVER && leg <= bound && leg != NEVER).then(|| (cost.saturating_add(leg), legs + 1, from))
        });
        if let (Some(best), Some(path)) = (before.min(), paths.get_mut(to)) {
            *path = best;
        }
    }
    let (total, legs, _) = *paths.last()?;
    if total == NEVER {
        return None;
    }
    let mut borders = vec![costs.count - 1];
    for _ in 0..legs {
        let (_, _, before) = paths.get(*borders.last()?)?;
        borders.push(*before);
    }
    borders.reverse();
    Some((total, borders))
}

/// Paths that are worth pricing: the one of the least time for a batch, and, where batches follow one another, the one whose
/// slowest leg weighs least.
pub(crate) fn paths(candidates: &[Candidate], task: &Task, lots: &mut Lots) -> Result<Vec<Vec<Leg>>, Failure> {
    let borders = borders(candidates, task)?;
    let costs = Costs::new(candidates, task, &borders);
    let Some((latency, fastest)) = shortest(&costs, MOST_COST.saturating_mul(4)) else {
        return Err(Failure::Fragmented(number(borders.len())));
    };
    let slowest = |path: &[usize]| path.windows(2).map(|leg| leg_cost(&costs, leg)).max().unwrap_or_default();
    let bound = slowest(&fastest);
    let mut chosen = vec![(latency, fastest.len(), u64::MAX / 2)];
    if task.batches > 1 {
        let mut bounds: Vec<u64> = costs.costs.iter().copied().filter(|cost| *cost < bound).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let whole = |total: u64, slowest: u64| total.saturating_add(slowest.saturating_mul(task.batches - 1));
        let mut best = (whole(latency, bound), None);
        for part in 0..BOUNDS {
            let Some(bound) = bounds.get(bounds.len() * part / BOUNDS) else { continue };
            let Some((total, path)) = shortest(&costs, *bound) else { continue };
            let total_time = whole(total, slowest(&path));
            if total_time < best.0 {
                best = (total_time, Some((total, path.len(), *bound)));
            }
        }
        chosen.extend(best.1);
    }
    let drawn = chosen.into_iter().map(|(total, borders, bound)| drawn(&costs, borders - 1, total, bound, lots));
    let leg = |leg: &[usize]| match leg {
        [from, to] => Some((*borders.get(*from)?, *borders.get(*to)?)),
        _ => None,
    };
    Ok(drawn.map(|path| path.windows(2).filter_map(leg).collect()).collect())
}

fn leg_cost(costs: &Costs, leg: &[usize]) -> u64 {
    match leg {
        [from, to] => costs.of(*from, *to),
        _ => 0,
    }
}

/// One of the paths with this many legs, none above `bound`, that are hardly dearer than the best.
fn drawn(costs: &Costs, legs: usize, total: u64, bound: u64, lots: &mut Lots) -> Vec<usize> {
    // The cheapest way to each border with each number of legs.
    let mut ways = vec![vec![NEVER; costs.count]; legs + 1];
    if let Some(start) = ways.first_mut().and_then(|way| way.first_mut()) {
        *start = 0;
    }
    let step = |before: &[u64], from: usize, to: usize| {
        let (way, leg) = (before.get(from).copied().unwrap_or(NEVER), costs.of(from, to));
        (way != NEVER && leg != NEVER && leg <= bound).then(|| way.saturating_add(leg))
    };
    for count in 1..=legs {
        let (before, rest) = ways.split_at_mut(count);
        let (Some(before), Some(way)) = (before.last(), rest.first_mut()) else { continue };
        for (to, cost) in way.iter_mut().enumerate() {
            *cost = (0..to).filter_map(|from| step(before, from, to)).min().unwrap_or(NEVER);
        }
    }
    let mut allowed = total.saturating_add(total / SLACK);
    let mut path = vec![costs.count - 1];
    let mut at = costs.count - 1;
    for count in (0..legs).rev() {
        let Some(before) = ways.get(count) else { break };
        let near: Vec<usize> =
            (0..at).filter(|from| step(before, *from, at).is_some_and(|cost| cost <= allowed)).collect();
        let Some(from) = near.get(lots.below(near.len())) else { break };
        allowed = allowed.saturating_sub(costs.of(*from, at));
        at = *from;
        path.push(at);
    }
    path.reverse();
    path
}
