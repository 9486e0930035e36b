//! Chooses which nodes run which blocks.
//!
//! # Why
//!
//! Whoever plans decides who earns and who sees what. So planning is a component: it reaches nothing but its arguments, has no
//! float and no state, and anybody who has the arguments makes the same plan.
//!
//! # How
//!
//! The rules are those of `ostrakon:plugin/scheduling`:
//!
//! 1. [`fleet`]: who can run what, and what it costs, by the [`model`] that learns from measured legs.
//! 2. [`path`]: where legs begin and end.
//! 3. [`choose`]: replicas, shadows, auditors; lots among equals come from [`draw`].
//! 4. [`place`]: what a joining node should serve.
//!
//! [`fixed`] has logarithms and powers in integers. Time is bounded whatever the arguments are.

mod choose;
mod draw;
mod fixed;
mod fleet;
mod model;
mod path;
mod place;

use bindings::exports::ostrakon::plugin::scheduling::{
    Failure, Guest, Learned, Newcomer, Placement, Planned, Request, Sample, Snapshot,
};

#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, clippy::restriction)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "scheduler",
    });
}

/// The component.
struct Component;

impl Guest for Component {
    fn plan(request: Request, snapshot: Snapshot, randomness: Vec<u8>) -> Result<Planned, Failure> {
        choose::plan(&request, &snapshot, &randomness)
    }

    fn learn(shared: Vec<u8>, node: Vec<u8>, sample: Sample) -> Learned {
        let rows = sample.rows.max(1);
        let task = model::Task {
            threads: sample.threads,
            simd: &sample.simd,
            backend: &sample.backend,
            slots: sample.slots,
            used: sample.used,
            work: (u128::from(sample.work.max(1)) * u128::from(rows)).min(1 << 62),
            rows,
        };
        let (shared, node) = model::learn(&shared, &node, &task, sample.nanoseconds);
        Learned { shared, node }
    }

    fn place(
        request: Request,
        snapshot: Snapshot,
        newcomer: Newcomer,
        randomness: Vec<u8>,
    ) -> Result<Placement, Failure> {
        place::place(&request, &snapshot, &newcomer, &randomness)
    }
}

#[allow(unsafe_code)]
mod export {
    use super::Component;

    super::bindings::export!(Component with_types_in super::bindings);
}
