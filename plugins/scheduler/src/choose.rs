//! Who of those that could: replicas, shadows and auditors.
//!
//! # How
//!
//! For each leg all nodes that serve it whole, cheapest first. As many as needed to have enough operators, and all that
//! are hardly dearer than the last of those, are as good as each other: lots choose. What is left gives the shadows: those of
//! operators that the leg has not yet come first, then the cheaper ones, in steps; within a step lots decide. Where several vote,
//! there are no others: a shadow of an operator that votes already would give it two votes.
//!
//! With auditors wanted, there must be a verification node of an operator that runs no leg. Where the draw leaves none, an operator
//! is kept for it and the rest is planned again.

use crate::bindings::exports::ostrakon::plugin::scheduling::{self as wit, Failure, Leg, Planned, Request, Snapshot};
use crate::draw::Lots;
use crate::fleet::{Candidate, Doubt, Fleet, Task, step, unserved};
use crate::path;
use std::collections::BTreeMap;

/// Nodes that are dearer by this part of the dearest replica are as good.
const SLACK: u64 = 16;
/// Shadows of a leg beside one for each further replica.
const SHADOWS: usize = 3;
/// Auditors of a plan.
const AUDITORS: usize = 3;
/// Of so many plans, one tries everybody again, and so many try nodes that were never measured.
const DRAWS: usize = 256;
const UNMEASURED: usize = 33;
/// Operators that are tried to be kept for auditing.
const MAX_KEPT: usize = 8;

/// The plan.
pub(crate) fn plan(request: &Request, snapshot: &Snapshot, randomness: &[u8]) -> Result<Planned, Failure> {
    let mut lots = Lots::new(randomness)
        .ok_or_else(|| crate::fleet::bad(format!("{} bytes of randomness: it has 64", randomness.len())))?;
    let task = Task::new(request)?;
    let fleet = Fleet::new(request, &task, snapshot)?;
    let doubt = match lots.below(DRAWS) {
        0 => Doubt::Everybody,
        1..UNMEASURED => Doubt::Unmeasured,
        _ => Doubt::Nobody,
    };
    let candidates = fleet.candidates(&task, false, doubt);
    let gaps = unserved(&candidates, task.blocks);
    if !gaps.is_empty() {
        return Err(Failure::Unserved(gaps));
    }
    if !request.audited {
        return legs(&candidates, &task, &mut lots.clone());
    }
    audited(&fleet, &candidates, &task, &lots)
}

fn audited(fleet: &Fleet<'_>, candidates: &[Candidate], task: &Task, lots: &Lots) -> Result<Planned, Failure> {
    let mut lots = lots.clone();
    let mut plan = legs(candidates, task, &mut lots)?;
    plan.auditors = auditors(fleet, &plan, &mut lots);
    if !plan.auditors.is_empty() {
        return Ok(plan);
    }
    let verifiers = fleet.nodes.iter().enumerate().filter(|(at, node)| node.verifies && fleet.is_fit(*at));
    let mut operators: Vec<u32> = verifiers.map(|(_, node)| node.operator).collect();
    operators.sort_unstable();
    operators.dedup();
    for _ in 0..MAX_KEPT {
        let Some(kept) = lots.take(&mut operators) else { break };
        let others: Vec<Candidate> = candidates.iter().copied().filter(|c| c.operator != kept).collect();
        if !unserved(&others, task.blocks).is_empty() {
            continue;
        }
        let Ok(mut plan) = legs(&others, task, &mut lots) else { continue };
        plan.auditors = auditors(fleet, &plan, &mut lots);
        if !plan.auditors.is_empty() {
            return Ok(plan);
        }
    }
    Err(Failure::NoAuditor)
}

/// Verification nodes of operators that run nothing, each of another: no operator has two opinions.
fn auditors(fleet: &Fleet<'_>, plan: &Planned, lots: &mut Lots) -> Vec<u32> {
    let operator = |node: &u32| fleet.nodes.get(*node as usize).map(|node| node.operator);
    let mut taken: Vec<u32> = plan.legs.iter().flat_map(|leg| &leg.replicas).filter_map(operator).collect();
    taken.sort_unstable();
    taken.dedup();
    let able = fleet
        .nodes
        .iter()
        .enumerate()
        .filter(|(at, node)| node.verifies && fleet.is_fit(*at) && taken.binary_search(&node.operator).is_err());
    let mut able: Vec<(u32, u32)> =
        able.map(|(at, node)| (u32::try_from(at).unwrap_or_default(), node.operator)).collect();
    let (mut chosen, mut operators) = (Vec::new(), Vec::new());
    while chosen.len() < AUDITORS
        && let Some((node, operator)) = lots.take(&mut able)
    {
        if !operators.contains(&operator) {
            operators.push(operator);
            chosen.push(node);
        }
    }
    chosen
}

/// Legs for the better of the paths that are worth looking at.
fn legs(candidates: &[Candidate], task: &Task, lots: &mut Lots) -> Result<Planned, Failure> {
    let paths = path::paths(candidates, task, lots)?;
    let plans = paths.iter().map(|path| filled(candidates, task, path, lots));
    let plans = plans.collect::<Result<Vec<_>, _>>()?;
    plans.into_iter().min_by_key(|plan| plan.predicted).ok_or(Failure::Fragmented(0))
}

/// A node that could run a leg.
#[derive(Clone, Copy)]
struct Able {
    cost: u64,
    node: u32,
    operator: u32,
}

fn filled(candidates: &[Candidate], task: &Task, path: &[path::Leg], lots: &mut Lots) -> Result<Planned, Failure> {
    let mut plan = Planned { legs: Vec::new(), auditors: Vec::new(), predicted: 0 };
    // Nanoseconds that each node is at work for a batch.
    let mut busy: BTreeMap<u32, u64> = BTreeMap::new();
    let mut latency = 0_u64;
    for &(from, to) in path {
        let pool = pool(candidates, task, from, to);
        let replicas = replicas(&pool, task, &busy, lots);
        if replicas.len() < task.replicas {
            let found = u32::try_from(replicas.len()).unwrap_or_default();
            let needed = u32::try_from(task.replicas).unwrap_or_default();
            return Err(Failure::FewOperators(wit::Shortage { from, to, found, needed }));
        }
        let shadows = shadows(&pool, &replicas, lots);
        for replica in &replicas {
            let busy = busy.entry(replica.node).or_default();
            *busy = busy.saturating_add(replica.cost);
        }
        let slowest = replicas.iter().map(|replica| replica.cost).max().unwrap_or_default();
        latency = latency.saturating_add(slowest).saturating_add(task.transport(from, to));
        plan.legs.push(Leg { from, to, replicas: replicas.iter().map(|able| able.node).collect(), shadows });
    }
    let slowest = busy.values().max().copied().unwrap_or_default();
    plan.predicted = latency.saturating_add(slowest.saturating_mul(task.batches - 1)) / 1000;
    Ok(plan)
}

/// Nodes that serve the whole leg, cheapest first, each once.
fn pool(candidates: &[Candidate], task: &Task, from: u32, to: u32) -> Vec<Able> {
    let work = task.work(from, to);
    let mut pool: Vec<Able> = candidates
        .iter()
        .filter(|candidate| candidate.covers(from, to))
        .map(|c| Able { cost: c.cost(work), node: c.node, operator: c.operator })
        .collect();
    pool.sort_unstable_by_key(|able| (able.node, able.cost));
    pool.dedup_by_key(|able| able.node);
    pool.sort_unstable_by_key(|able| (able.cost, able.node));
    pool
}

/// As good as each other: the cheapest of so many operators, and whoever is hardly dearer.
fn near(pool: &[Able], replicas: usize) -> Vec<Able> {
    let mut operators: Vec<u32> = Vec::new();
    let dearest = pool.iter().find(|able| {
        if !operators.contains(&able.operator) {
            operators.push(able.operator);
        }
        operators.len() == replicas
    });
    let Some(Able { cost, .. }) = dearest else { return pool.to_vec() };
    let most = cost.saturating_add(cost / SLACK);
    pool.iter().copied().take_while(|able| able.cost <= most).collect()
}

fn replicas(pool: &[Able], task: &Task, busy: &BTreeMap<u32, u64>, lots: &mut Lots) -> Vec<Able> {
    let near = near(pool, task.replicas);
    // While a node works on one batch, another should have the next.
    let idle: Vec<Able> = near.iter().copied().filter(|able| !busy.contains_key(&able.node)).collect();
    if task.batches > 1 {
        let chosen = drawn(idle, task.replicas, lots);
        if chosen.len() == task.replicas {
            return chosen;
        }
    }
    drawn(near, task.replicas, lots)
}

/// So many of different operators.
fn drawn(mut from: Vec<Able>, count: usize, lots: &mut Lots) -> Vec<Able> {
    let mut chosen: Vec<Able> = Vec::with_capacity(count);
    while chosen.len() < count
        && let Some(able) = lots.take(&mut from)
    {
        if chosen.iter().all(|other| other.operator != able.operator) {
            chosen.push(able);
        }
    }
    chosen
}

fn shadows(pool: &[Able], replicas: &[Able], lots: &mut Lots) -> Vec<u32> {
    let count = SHADOWS + replicas.len() - 1;
    let best = pool.first().map_or(1, |able| able.cost);
    let mut rest: Vec<(i64, u64, Able)> = pool
        .iter()
        .filter(|able| replicas.iter().all(|replica| replica.node != able.node))
        .map(|able| (step(able.cost, best), lots.next(), *able))
        .collect();
    rest.sort_unstable_by_key(|(step, lot, able)| (*step, *lot, able.node));
    let mut operators: Vec<u32> = replicas.iter().map(|replica| replica.operator).collect();
    let mut first = Vec::with_capacity(count);
    let mut then = Vec::new();
    for (_, _, able) in rest {
        if first.len() == count {
            break;
        }
        if operators.contains(&able.operator) {
            // In a quorum a shadow votes beside the replicas that stay: no operator may have two votes.
            if replicas.len() == 1 && then.len() < count {
                then.push(able.node);
            }
        } else {
            operators.push(able.operator);
            first.push(able.node);
        }
    }
    first.extend(then);
    first.truncate(count);
    first
}
