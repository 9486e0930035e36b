//! What became of asking scheduling nodes, and whether there is any use in asking on.
//!
//! # How
//!
//! 1. Each node's latest reason is kept ([`Tries::note`]). Liars, and nodes that will not or could not do the job, are left
//!    out from then on.
//! 2. When nobody is left, that is the end. It is also the end when none of those that are left knows the job's package:
//!    a node that has just started may know it a moment later, so this must hold for some seconds.

use ostrakon_protocol::{Digest, PublicKey};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// For how long nodes may not know a package: they may be starting.
pub(super) const STARTING: Duration = Duration::from_secs(4);

/// Why one node gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another node may do better, or this one later.
    Next(String),
    /// It does not know the package, or takes no jobs.
    NotHere(String),
    /// It says that the job is wrong, or that it could not do it. It may lie, but of the same job it says the same again.
    Refused(String),
    /// What it answered must not be believed.
    Lied(String),
}

impl Failure {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Next(reason) | Self::NotHere(reason) | Self::Refused(reason) | Self::Lied(reason) => reason,
        }
    }
}

/// All that was tried for one job.
#[derive(Debug, Default)]
pub(super) struct Tries {
    failed: BTreeMap<PublicKey, Failure>,
    left_out: BTreeSet<PublicKey>,
    /// Since when nobody knows the package.
    unknown_since: Option<Instant>,
}

impl Tries {
    /// A node gave no answer.
    pub(super) fn note(&mut self, node: PublicKey, failure: Failure) {
        if matches!(failure, Failure::Refused(_) | Failure::Lied(_)) {
            self.left_out.insert(node);
        }
        self.failed.insert(node, failure);
    }

    /// Whether there is no use in asking a node again.
    pub(super) fn is_left_out(&self, node: &PublicKey) -> bool {
        self.left_out.contains(node)
    }

    /// What was wrong with the nodes that were asked before, for people.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        self.failed.iter().map(|(node, failure)| format!("{node} was left: {}", failure.reason()))
    }

    /// After each of these nodes was asked or left out: why nothing is to be hoped for, if so.
    pub(super) fn hopeless(&mut self, schedulers: &[PublicKey], package: &Digest, now: Instant) -> Option<String> {
        if schedulers.is_empty() {
            return None;
        }
        let left: Vec<_> = schedulers.iter().filter(|node| !self.is_left_out(node)).collect();
        if left.is_empty() {
            let lied = schedulers.iter().any(|node| matches!(self.failed.get(node), Some(Failure::Lied(_))));
            let what = if lied { "gave an answer that can be believed" } else { "did the job" };
            return Some(format!("no scheduling node {what}: {}", self.told()));
        }
        if !left.iter().all(|node| matches!(self.failed.get(node), Some(Failure::NotHere(_)))) {
            self.unknown_since = None;
            return None;
        }
        let since = *self.unknown_since.get_or_insert(now);
        (now.saturating_duration_since(since) >= STARTING).then(|| {
            format!(
                "no scheduling node leads jobs of the package {package}: list it in `packages` of a node that has the \
                 role scheduling, or ask another node ({})",
                self.told()
            )
        })
    }

    /// Every node's reason.
    pub(super) fn told(&self) -> String {
        let told: Vec<String> =
            self.failed.iter().map(|(node, failure)| format!("{node}: {}", failure.reason())).collect();
        if told.is_empty() { "no scheduling node is known".to_owned() } else { told.join("; ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostrakon_protocol::SigningKey;

    fn node(seed: u8) -> PublicKey {
        SigningKey::from_seed(&[seed; 32]).public()
    }

    #[test]
    fn a_package_that_nobody_knows_is_given_up_after_a_moment() {
        let (nodes, package) = ([node(1), node(2)], Digest::from_bytes([7; 32]));
        let (mut tries, start) = (Tries::default(), Instant::now());
        tries.note(nodes[0], Failure::NotHere("not here".into()));
        assert_eq!(tries.hopeless(&nodes, &package, start), None, "the other one was not heard");
        tries.note(nodes[1], Failure::NotHere("nor here".into()));
        assert_eq!(tries.hopeless(&nodes, &package, start), None, "they may be starting");
        let why = tries.hopeless(&nodes, &package, start + STARTING).unwrap();
        for word in [&package.to_string(), "`packages`", "not here", "nor here"] {
            assert!(why.contains(word), "{why}");
        }
        // One of them fails otherwise for once: the time begins again.
        tries.note(nodes[1], Failure::Next("busy".into()));
        assert_eq!(tries.hopeless(&nodes, &package, start + STARTING), None);
        tries.note(nodes[1], Failure::NotHere("nor here".into()));
        assert_eq!(tries.hopeless(&nodes, &package, start + STARTING), None);
        assert!(tries.hopeless(&nodes, &package, start + STARTING * 2).is_some());
    }

    #[test]
    fn when_nobody_is_left_that_is_the_end() {
        let (nodes, package) = ([node(1), node(2)], Digest::from_bytes([7; 32]));
        let mut tries = Tries::default();
        assert_eq!(tries.hopeless(&[], &package, Instant::now()), None, "somebody may come");
        tries.note(nodes[0], Failure::Lied("another digest".into()));
        tries.note(nodes[1], Failure::Refused("too many texts".into()));
        assert!(nodes.iter().all(|node| tries.is_left_out(node)));
        let why = tries.hopeless(&nodes, &package, Instant::now()).unwrap();
        assert!(why.contains("believed") && why.contains("another digest") && why.contains("too many texts"), "{why}");
    }
}
