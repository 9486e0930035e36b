//! Quorum: `k` of `n` nodes name the same output, and none can vote by copying.
//!
//! # How
//!
//! 1. *Commit.* Each node sends the digest of its vote: the job, its own key, the output's digest and a
//!    nonce. The digest hides the output, and as it binds the key, another node's commitment is worth nothing
//!    to a copier.
//! 2. *Reveal.* When all have committed, or at the deadline, nodes that committed send output and nonce. A
//!    commitment that comes later counts for nothing.
//! 3. *Decide.* When all have revealed, or at the second deadline: an output named by `k` nodes is accepted.
//!    Who did not commit, did not reveal, or revealed something else than it committed to is named.
//!
//! The state machine has no clock and no sockets: whoever drives it says when a deadline has passed and
//! delivers messages in any order, any number of times. Every message is signed, and only nodes of the quorum
//! are heard, so its memory is bounded by their number.

use crate::digest::{Context, Digest};
use crate::encoding::content;
use crate::key::{PublicKey, Purpose, Signature, SigningKey};
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;

/// Most nodes in a quorum.
pub const MAX_NODES: usize = 1024;

/// What a node says in the first phase.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Commit {
    /// What is voted on.
    #[n(0)]
    pub job: Digest,
    /// Who votes.
    #[n(1)]
    pub node: PublicKey,
    /// Of the vote.
    #[n(2)]
    pub commitment: Digest,
    /// The node's.
    #[n(3)]
    pub signature: Signature,
}

/// What a node says in the second phase.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Reveal {
    /// What is voted on.
    #[n(0)]
    pub job: Digest,
    /// Who votes.
    #[n(1)]
    pub node: PublicKey,
    /// The vote.
    #[n(2)]
    pub output: Digest,
    /// What hid it: 32 random bytes, never used twice.
    #[n(3)]
    pub nonce: Digest,
    /// The node's.
    #[n(4)]
    pub signature: Signature,
}

fn commitment(job: &Digest, node: &PublicKey, output: &Digest, nonce: &Digest) -> Digest {
    Digest::of(Context::COMMITMENT, &content(&(job, node, output, nonce)))
}

/// A vote that has not been revealed yet.
#[derive(Debug, Clone)]
pub struct Vote {
    job: Digest,
    output: Digest,
    nonce: Digest,
}

impl Vote {
    /// A vote for an output, hidden by fresh randomness.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn new(job: Digest, output: Digest) -> Result<Self, getrandom::Error> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)?;
        Ok(Self { job, output, nonce: Digest::from_bytes(nonce) })
    }

    /// The message of the first phase.
    pub fn commit(&self, key: &SigningKey) -> Commit {
        let node = key.public();
        let commitment = commitment(&self.job, &node, &self.output, &self.nonce);
        let signature = key.sign(Purpose::BALLOT, &commit_digest(&self.job, &node, &commitment));
        Commit { job: self.job, node, commitment, signature }
    }

    /// The message of the second phase.
    pub fn reveal(&self, key: &SigningKey) -> Reveal {
        let node = key.public();
        let signature = key.sign(Purpose::BALLOT, &reveal_digest(&self.job, &node, &self.output, &self.nonce));
        Reveal { job: self.job, node, output: self.output, nonce: self.nonce, signature }
    }
}

fn commit_digest(job: &Digest, node: &PublicKey, commitment: &Digest) -> Digest {
    Digest::of(Context::BALLOT, &content(&("commit", job, node, commitment)))
}

fn reveal_digest(job: &Digest, node: &PublicKey, output: &Digest, nonce: &Digest) -> Digest {
    Digest::of(Context::BALLOT, &content(&("reveal", job, node, output, nonce)))
}

/// Where a quorum stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Commitments are taken.
    Commit,
    /// Votes are revealed.
    Reveal,
    /// It is over.
    Decided,
}

/// A message that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Not for this job.
    #[error("the message is for another job")]
    Job,
    /// Not a node of this quorum.
    #[error("the node does not belong to this quorum")]
    Stranger,
    /// Not signed by the node it names.
    #[error("the message is not signed by the node it names")]
    Signature,
    /// Too early or too late.
    #[error("the message does not belong to this phase")]
    Phase,
    /// The node has already said something else.
    #[error("the node has already sent another message")]
    Repeated,
    /// The node did not commit.
    #[error("the node reveals without having committed")]
    NotCommitted,
    /// The vote is not the one that was committed to. The node is noted.
    #[error("the vote is not the one that the node committed to")]
    Mismatch,
}

/// How a quorum ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The output that enough nodes named.
    pub accepted: Option<Digest>,
    /// Who named it.
    pub agreed: Vec<PublicKey>,
    /// Who named another one: these can be taken into a dispute.
    pub differed: Vec<(PublicKey, Digest)>,
    /// Who did not commit in time.
    pub not_committed: Vec<PublicKey>,
    /// Who committed and did not reveal in time.
    pub not_revealed: Vec<PublicKey>,
    /// Who revealed something else than it committed to.
    pub mismatched: Vec<PublicKey>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seat {
    commitment: Option<Digest>,
    revealed: Option<Digest>,
    mismatched: bool,
}

/// A quorum could not be formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a quorum of {needed} among {nodes} nodes: more than half must be needed, of at most {MAX_NODES}")]
pub struct NoQuorum {
    needed: usize,
    nodes: usize,
}

/// The state of a quorum.
#[derive(Debug, Clone)]
pub struct Quorum {
    job: Digest,
    needed: usize,
    phase: Phase,
    seats: BTreeMap<PublicKey, Seat>,
}

impl Quorum {
    /// A quorum of `needed` equal votes among `nodes`, each counted once.
    ///
    /// # Errors
    /// Half of the nodes or fewer would be enough, so that two outputs could win; or too many nodes.
    pub fn new(job: Digest, nodes: &[PublicKey], needed: usize) -> Result<Self, NoQuorum> {
        let seats: BTreeMap<_, _> = nodes.iter().map(|&node| (node, Seat::default())).collect();
        if needed > seats.len() || needed * 2 <= seats.len() || seats.len() > MAX_NODES {
            return Err(NoQuorum { needed, nodes: seats.len() });
        }
        Ok(Self { job, needed, phase: Phase::Commit, seats })
    }

    /// Where it stands.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Take a commitment.
    ///
    /// # Errors
    /// Why it changed nothing.
    pub fn commit(&mut self, message: &Commit) -> Result<(), Ignored> {
        let Commit { job, node, commitment, signature } = message;
        let seat = seat(&mut self.seats, &self.job, job, node)?;
        if !node.signed(Purpose::BALLOT, &commit_digest(job, node, commitment), signature) {
            return Err(Ignored::Signature);
        }
        match seat.commitment {
            Some(known) if known == *commitment => return Ok(()),
            Some(_) => return Err(Ignored::Repeated),
            None if self.phase != Phase::Commit => return Err(Ignored::Phase),
            None => seat.commitment = Some(*commitment),
        }
        if self.seats.values().all(|seat| seat.commitment.is_some()) {
            self.phase = Phase::Reveal;
        }
        Ok(())
    }

    /// Take a vote.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn reveal(&mut self, message: &Reveal) -> Result<(), Ignored> {
        let Reveal { job, node, output, nonce, signature } = message;
        let phase = self.phase;
        let seat = seat(&mut self.seats, &self.job, job, node)?;
        if !node.signed(Purpose::BALLOT, &reveal_digest(job, node, output, nonce), signature) {
            return Err(Ignored::Signature);
        }
        if seat.revealed == Some(*output) {
            return Ok(());
        }
        if phase != Phase::Reveal {
            return Err(Ignored::Phase);
        }
        let committed = seat.commitment.ok_or(Ignored::NotCommitted)?;
        if committed != commitment(job, node, output, nonce) {
            seat.mismatched = true;
            return Err(Ignored::Mismatch);
        }
        seat.revealed = Some(*output);
        if self.seats.values().filter(|seat| seat.commitment.is_some()).all(|seat| seat.revealed.is_some()) {
            self.phase = Phase::Decided;
        }
        Ok(())
    }

    /// The time of the present phase is over.
    pub fn deadline(&mut self) {
        self.phase = match self.phase {
            Phase::Commit if self.seats.values().any(|seat| seat.commitment.is_some()) => Phase::Reveal,
            _ => Phase::Decided,
        };
    }

    /// How it ended. `None` while it goes on.
    pub fn outcome(&self) -> Option<Outcome> {
        if self.phase != Phase::Decided {
            return None;
        }
        let mut votes: BTreeMap<Digest, usize> = BTreeMap::new();
        for output in self.seats.values().filter_map(|seat| seat.revealed) {
            *votes.entry(output).or_default() += 1;
        }
        let accepted = votes.into_iter().find(|&(_, count)| count >= self.needed).map(|(output, _)| output);
        let who = |is: &dyn Fn(&Seat) -> bool| -> Vec<PublicKey> {
            self.seats.iter().filter(|(_, seat)| is(seat)).map(|(&node, _)| node).collect()
        };
        Some(Outcome {
            accepted,
            agreed: who(&|seat| accepted.is_some() && seat.revealed == accepted),
            differed: (self.seats.iter())
                .filter_map(|(&node, seat)| Some((node, seat.revealed.filter(|&output| Some(output) != accepted)?)))
                .collect(),
            not_committed: who(&|seat| seat.commitment.is_none()),
            not_revealed: who(&|seat| seat.commitment.is_some() && seat.revealed.is_none() && !seat.mismatched),
            mismatched: who(&|seat| seat.mismatched && seat.revealed.is_none()),
        })
    }
}

fn seat<'a>(
    seats: &'a mut BTreeMap<PublicKey, Seat>,
    ours: &Digest,
    job: &Digest,
    node: &PublicKey,
) -> Result<&'a mut Seat, Ignored> {
    if ours != job {
        return Err(Ignored::Job);
    }
    seats.get_mut(node).ok_or(Ignored::Stranger)
}

#[cfg(test)]
mod tests;
