//! What auditors say of one receipt, and what follows from it.
//!
//! One that accepts is enough as long as nobody has accused. From then on it is word against word, and two words of one
//! kind decide: any auditor may lie, and whoever is asked second must not be able to overrule the first alone.

use super::Verdict;
use crate::swarm::execute::Trouble;
use ostrakon_protocol::{Attestation, Finding, PublicKey};
use std::collections::BTreeSet;

/// Of auditors of different operators.
#[derive(Debug)]
pub(super) struct Opinions {
    /// Who ran something, and can be accused.
    nodes: BTreeSet<PublicKey>,
    accepting: Vec<Attestation>,
    rejecting: Vec<(PublicKey, Attestation)>,
    /// What nodes are found to have done.
    pub(super) blamed: Vec<(PublicKey, Trouble)>,
}

impl Opinions {
    pub(super) fn of(nodes: BTreeSet<PublicKey>) -> Self {
        Self { nodes, accepting: Vec::new(), rejecting: Vec::new(), blamed: Vec::new() }
    }

    /// Whether somebody was accused, so that the next one must look at everything: another sample might miss it.
    pub(super) fn are_doubtful(&self) -> bool {
        !self.rejecting.is_empty()
    }

    /// Hear one more. A verdict, if that decides it.
    pub(super) fn hear(&mut self, attestation: Attestation) -> Option<Verdict> {
        let auditor = attestation.auditor;
        match &attestation.finding {
            Finding::Accept => {
                self.accepting.push(attestation);
                if self.are_doubtful() && self.accepting.len() < 2 {
                    return None;
                }
                for (_, rejected) in self.rejecting.drain(..) {
                    let trouble = Trouble::Wrong("it rejected what two other auditors accept".into());
                    self.blamed.push((rejected.auditor, trouble));
                }
                self.accepting.pop().map(Verdict::Accepted)
            }
            Finding::Reject { node, .. } if !self.nodes.contains(node) => {
                let trouble = Trouble::Malformed("it accuses a node that is not on the receipt".into());
                self.blamed.push((auditor, trouble));
                None
            }
            Finding::Reject { node, reason } => {
                tracing::warn!(%auditor, %node, reason = plain(reason), "an auditor rejects the receipt");
                self.rejecting.push((*node, attestation));
                if self.rejecting.len() < 2 { None } else { self.rejected() }
            }
            Finding::Indeterminate { reason } => {
                let reason = format!("it cannot say whether the receipt is right: {}", plain(reason));
                self.blamed.push((auditor, Trouble::Refused(reason)));
                None
            }
        }
    }

    /// Two auditors reject it. If they accuse the same node, it is that node.
    fn rejected(&mut self) -> Option<Verdict> {
        let (accused, rejected) = self.rejecting.pop()?;
        let mut nodes: Vec<PublicKey> = self.rejecting.drain(..).map(|(node, _)| node).collect();
        if nodes.iter().all(|node| *node == accused) {
            let reason = match &rejected.finding {
                Finding::Reject { reason, .. } => plain(reason),
                _ => String::new(),
            };
            self.blamed.push((accused, Trouble::Wrong(format!("two auditors reject it: {reason}"))));
        } else {
            self.blamed.extend(nodes.iter().chain([&accused]).map(|&node| (node, Trouble::Divided)));
        }
        nodes.push(accused);
        nodes.dedup();
        for accepted in self.accepting.drain(..) {
            let trouble = Trouble::Wrong("it accepted what two other auditors reject".into());
            self.blamed.push((accepted.auditor, trouble));
        }
        Some(Verdict::Rejected(nodes, rejected))
    }

    /// There is nobody left to ask. Without two of one mind nobody's word counts more than another's: all of them are
    /// left out, and the accused too.
    pub(super) fn end(&mut self) -> Verdict {
        let Some((accused, rejected)) = self.rejecting.pop() else { return Verdict::Nobody };
        self.blamed.push((accused, Trouble::Divided));
        let auditors = self.accepting.drain(..).map(|accepted| accepted.auditor).chain([rejected.auditor]);
        self.blamed.extend(auditors.map(|auditor| (auditor, Trouble::Divided)));
        Verdict::Rejected(vec![accused], rejected)
    }
}

/// Text of somebody else, for a log or an answer.
pub(super) fn plain(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use ostrakon_protocol::{Digest, SigningKey};

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&[n; 32])
    }

    fn says(auditor: u8, finding: Finding) -> Attestation {
        Attestation::sign(&key(auditor), Digest::of_content(b"r"), Digest::of_content(b"v"), 9, finding)
    }

    fn rejects(auditor: u8, node: u8) -> Attestation {
        says(auditor, Finding::Reject { node: key(node).public(), reason: "step 3".into() })
    }

    fn accepts(auditor: u8) -> Attestation {
        says(auditor, Finding::Accept)
    }

    /// The verdict after these opinions, and who is blamed for something wrong, or else only left out.
    fn after(said: &[Attestation]) -> (Verdict, Vec<u8>, Vec<u8>) {
        let mut opinions = Opinions::of([1, 2].map(|n| key(n).public()).into());
        let mut verdict = None;
        for one in said {
            assert!(verdict.is_none(), "it was decided already");
            verdict = opinions.hear(one.clone());
        }
        let verdict = verdict.unwrap_or_else(|| opinions.end());
        let number = |of: &PublicKey| (0..30).find(|&n| key(n).public() == *of).unwrap();
        let (wrong, rest): (Vec<_>, Vec<_>) =
            opinions.blamed.iter().partition(|(_, trouble)| trouble.offence().is_some());
        let numbers = |of: Vec<&(PublicKey, Trouble)>| {
            let mut all: Vec<u8> = of.iter().map(|(node, _)| number(node)).collect();
            all.sort_unstable();
            all
        };
        (verdict, numbers(wrong), numbers(rest))
    }

    #[test]
    fn one_that_accepts_is_enough_where_nobody_accuses() {
        assert!(
            matches!(after(&[accepts(11)]), (Verdict::Accepted(_), wrong, out) if wrong.is_empty() && out.is_empty())
        );
        let silent = says(12, Finding::Indeterminate { reason: "no package".into() });
        let (verdict, wrong, out) = after(&[silent.clone(), accepts(11)]);
        assert!(matches!(verdict, Verdict::Accepted(_)) && wrong.is_empty() && out == [12]);
        assert!(matches!(after(&[silent]).0, Verdict::Nobody));
        assert!(matches!(after(&[]).0, Verdict::Nobody));
    }

    #[test]
    fn a_false_accuser_is_named_by_two_others() {
        let (verdict, wrong, out) = after(&[rejects(11, 1), accepts(12), accepts(13)]);
        assert!(matches!(verdict, Verdict::Accepted(_)) && wrong == [11] && out.is_empty());
    }

    #[test]
    fn a_node_that_two_accuse_is_named_and_who_covers_it_too() {
        let (verdict, wrong, _) = after(&[rejects(11, 1), rejects(12, 1)]);
        assert!(matches!(verdict, Verdict::Rejected(nodes, _) if nodes == [key(1).public()]) && wrong == [1]);
        let (verdict, wrong, _) = after(&[rejects(11, 1), accepts(12), rejects(13, 1)]);
        assert!(matches!(verdict, Verdict::Rejected(nodes, _) if nodes == [key(1).public()]) && wrong == [1, 12]);
    }

    #[test]
    fn one_word_against_another_decides_nothing() {
        let (verdict, wrong, out) = after(&[rejects(11, 1), accepts(12)]);
        assert!(matches!(verdict, Verdict::Rejected(nodes, _) if nodes == [key(1).public()]));
        assert!(wrong.is_empty() && out == [1, 11, 12]);
        let (verdict, wrong, out) = after(&[rejects(11, 1)]);
        assert!(matches!(verdict, Verdict::Rejected(..)) && wrong.is_empty() && out == [1, 11]);
        let (verdict, wrong, out) = after(&[rejects(11, 1), rejects(12, 2)]);
        assert!(
            matches!(verdict, Verdict::Rejected(nodes, _) if nodes.len() == 2) && wrong.is_empty() && out == [1, 2]
        );
    }

    #[test]
    fn accusing_somebody_who_ran_nothing_is_no_opinion() {
        let (verdict, wrong, _) = after(&[rejects(11, 20), accepts(12)]);
        assert!(matches!(verdict, Verdict::Accepted(_)) && wrong == [11]);
    }
}
