//! A snapshot as the component takes it: numbers instead of keys and names.
//!
//! # How
//!
//! Nodes keep the snapshot's order, which is that of their keys. Those that neither serve the package nor audit are left out.
//! Operators and names are numbered as they come. So the same snapshot always gives the same numbers.

use super::{BadSnapshot, check_form};
use ostrakon_engine::scheduling::{self as engine, Planned, Served};
use ostrakon_protocol::{Observation, Plan, PlanRequest, PlannedLeg, PublicKey, Snapshot, Status};
use std::collections::BTreeMap;

/// Ranges of one package that a node can have.
const MAX_RANGES: usize = 8;

/// The fleet in numbers.
pub(super) struct Numbered {
    pub(super) snapshot: engine::Snapshot,
    /// The nodes, by number.
    keys: Vec<PublicKey>,
    names: BTreeMap<String, u32>,
}

impl Numbered {
    pub(super) fn new(request: &PlanRequest, snapshot: &Snapshot) -> Result<Self, BadSnapshot> {
        check_form(snapshot)?;
        let blocks = u32::try_from(request.blocks.len()).unwrap_or(u32::MAX);
        let empty = engine::Snapshot {
            nodes: Vec::new(),
            served: Vec::new(),
            names: Vec::new(),
            learned: snapshot.learned.to_vec(),
        };
        let mut numbered = Self { snapshot: empty, keys: Vec::new(), names: BTreeMap::new() };
        let mut operators: BTreeMap<&str, u32> = BTreeMap::new();
        let mut observations = snapshot.observations.iter().peekable();
        for status in snapshot.statuses.iter().map(|signed| &signed.status) {
            while observations.next_if(|observation| observation.node < status.node).is_some() {}
            let observation = observations.next_if(|observation| observation.node == status.node);
            let serving =
                status.served.iter().filter(|served| served.package == request.package && served.to <= blocks);
            let serving: Vec<_> = serving.filter(|served| served.from < served.to).take(MAX_RANGES).collect();
            let executes = status.roles.execution && !serving.is_empty();
            if !executes && !status.roles.verification {
                continue;
            }
            let node = number(numbered.keys.len());
            numbered.snapshot.served.extend(serving.into_iter().map(|served| Served {
                node,
                from: served.from,
                to: served.to,
                rows_per_second: served.rows_per_second,
            }));
            let next = number(operators.len());
            let operator = *operators.entry(&status.operator).or_insert(next);
            let node = numbered.node(status, observation, operator, executes);
            numbered.snapshot.nodes.push(node);
            numbered.keys.push(status.node);
        }
        Ok(numbered)
    }

    fn node(
        &mut self,
        status: &Status,
        observation: Option<&Observation>,
        operator: u32,
        executes: bool,
    ) -> engine::Node {
        engine::Node {
            operator,
            executes,
            verifies: status.roles.verification,
            draining: status.draining,
            threads: status.hardware.threads,
            simd: self.name(&status.hardware.simd),
            backend: self.name(&status.hardware.backend),
            free_memory: status.load.free_memory,
            slots: status.load.slots,
            used: status.load.used,
            round_trip: observation.and_then(|seen| seen.round_trip),
            done: observation.map_or(0, |seen| seen.done),
            failed: observation.map_or(0, |seen| seen.failed),
            wrong: observation.map_or(0, |seen| seen.wrong),
            learned: observation.map(|seen| seen.learned.to_vec()).unwrap_or_default(),
        }
    }

    /// The number of a name; a new one where it has none.
    pub(super) fn name(&mut self, name: &str) -> u32 {
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        let at = number(self.names.len());
        self.names.insert(name.to_owned(), at);
        self.snapshot.names.push(name.to_owned());
        at
    }

    /// The number of a node, if it was not left out.
    pub(super) fn number(&self, node: &PublicKey) -> Option<u32> {
        self.keys.binary_search(node).ok().map(number)
    }

    /// Keys instead of numbers. The plan was checked: every number is that of a node.
    pub(super) fn plan(&self, planned: &Planned) -> Plan {
        let keys = |nodes: &[u32]| nodes.iter().filter_map(|node| self.keys.get(*node as usize).copied()).collect();
        let leg = |leg: &engine::Leg| PlannedLeg {
            from: leg.from,
            to: leg.to,
            replicas: keys(&leg.replicas),
            shadows: keys(&leg.shadows),
        };
        Plan {
            legs: planned.legs.iter().map(leg).collect(),
            auditors: keys(&planned.auditors),
            predicted: planned.predicted,
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
