//! Other ways to choose: the best there is, and what simpler schedulers do.

use crate::world::{BLOCKS, World};
use ostrakon_tests::random::Random;

/// Node and blocks.
type Leg = (u32, u32, u32);

/// The least time there is, by the true speeds: every node on every range of its blocks. The time of a way is the sum
/// of its legs', so the best way to each border is all that has to be kept.
pub(crate) fn oracle(world: &World) -> f64 {
    shortest(world, |node, from, to| world.time(node, from, to)).0
}

/// As Petals does: the shortest way by the round trips that were measured and the throughput that nodes declare.
pub(crate) fn petals(world: &World) -> Vec<Leg> {
    let served = &world.snapshot.served;
    let said = |node: u32, from: u32, to: u32| {
        let Some(of) = served.get(node as usize) else { return f64::INFINITY };
        let block_rows = of.rows_per_second.max(1) as f64 * f64::from(of.to - of.from);
        let trip = world.snapshot.nodes.get(node as usize).and_then(|node| node.round_trip).unwrap_or(0) as f64 * 1e3;
        trip + 1e9 * world.request.rows as f64 * f64::from(to - from) / block_rows
    };
    shortest(world, said).1
}

fn shortest(world: &World, cost: impl Fn(u32, u32, u32) -> f64) -> (f64, Vec<Leg>) {
    let mut best: Vec<(f64, Vec<Leg>)> = vec![(0.0, Vec::new())];
    for to in 1..=BLOCKS {
        let mut shortest = (f64::INFINITY, None);
        for served in world.snapshot.served.iter().filter(|served| served.from < to && to <= served.to) {
            for from in served.from..to {
                let Some((before, _)) = best.get(from as usize) else { continue };
                let total = before + cost(served.node, from, to);
                if total < shortest.0 {
                    shortest = (total, Some((served.node, from)));
                }
            }
        }
        let mut legs = Vec::new();
        if let Some((node, from)) = shortest.1 {
            legs.extend(best.get(from as usize).into_iter().flat_map(|(_, legs)| legs.iter().copied()));
            legs.push((node, from, to));
        }
        best.push((shortest.0, legs));
    }
    best.pop().unwrap_or_default()
}

/// From border to border, as far as whoever is picked serves.
pub(crate) fn walk(world: &World, mut pick: impl FnMut(&[u32]) -> usize) -> Vec<Leg> {
    let (mut legs, mut from) = (Vec::new(), 0);
    while from < BLOCKS {
        let able: Vec<_> = world.snapshot.served.iter().filter(|s| s.from <= from && from < s.to).collect();
        let nodes: Vec<u32> = able.iter().map(|served| served.node).collect();
        let Some(served) = able.get(pick(&nodes) % able.len().max(1)) else { break };
        legs.push((served.node, from, served.to));
        from = served.to;
    }
    legs
}

pub(crate) fn round_robin(world: &World, turn: &mut usize) -> Vec<Leg> {
    walk(world, |_| {
        *turn += 1;
        *turn
    })
}

/// Whoever has the fewest sessions; among equals anybody.
pub(crate) fn least_loaded(world: &World, random: &mut Random) -> Vec<Leg> {
    let load = |node: &u32| world.snapshot.nodes.get(*node as usize).map_or(u32::MAX, |node| node.used);
    walk(world, |nodes| {
        let least = nodes.iter().map(load).min();
        let best: Vec<usize> = (0..).zip(nodes).filter(|(_, n)| Some(load(n)) == least).map(|(at, _)| at).collect();
        best.get(random.place(best.len())).copied().unwrap_or_default()
    })
}
